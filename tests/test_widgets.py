import base64
import io
import json
import math
import re
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from mmtutor.data import load_emoji
from mmtutor.encoders import TextEncoder
from mmtutor.widgets import ContrastivePlayground, EmbeddingExplorer, SearchBox
from mmtutor.widgets.pack import quantise, sheet

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"
KB = 1024


def random_checkpoints(count, things, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(things, dim, generator=generator)  # noqa: E731
    return [{"image": draw(), "text": draw()} for _ in range(count)]


def make_explorer(things=6, names=None, checkpoints=None, **options):
    pictures = load_emoji().images[0, :things]
    names = names or [f"thing {i}" for i in range(things)]
    checkpoints = checkpoints or random_checkpoints(3, things, 8)
    groups = [i % 2 for i in range(things)]
    return EmbeddingExplorer.from_embeddings(checkpoints, pictures, names, groups, ["even", "odd"], **options)


def make_search(things=40, dim=192, names=None, examples=("red apple",)):
    torch.manual_seed(0)
    encoder = TextEncoder(dim=dim).eval()
    emoji = load_emoji()
    names = names or list(emoji.names[:things])
    return encoder, SearchBox(encoder, encoder(names).detach(), emoji.images[0, :things], names, examples)


WIDGETS = {
    "explorer": make_explorer,
    "info_nce": ContrastivePlayground,
    "margin": lambda: ContrastivePlayground("margin"),
    "search": lambda: make_search()[1],
}


def stored_state(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S).group(1))


@pytest.mark.parametrize("make", WIDGETS.values(), ids=WIDGETS)
def test_output_holds_the_live_view_and_a_page_that_needs_no_kernel(make):
    widget = make()
    data, _ = widget._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert data["text/plain"] == repr(widget) and "0x" not in repr(widget)
    html = data["text/html"]
    assert "To use the widget" in html and widget.summary()[:30] in html
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)


@pytest.mark.parametrize("make", WIDGETS.values(), ids=WIDGETS)
def test_the_same_widget_gives_the_same_page_every_time(make):
    assert make().to_html() == make().to_html()


def test_stored_state_gives_back_every_array_bit_for_bit():
    widget = make_explorer()
    state = stored_state(widget.to_html())
    assert set(state["bytes"]) == {"positions", "neighbours", "sprite"}
    for name, packed in state["bytes"].items():
        assert zlib.decompress(base64.b64decode(packed)) == getattr(widget, name)
    assert state["values"]["names"] == widget.names


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_explorer(names=[HOSTILE] * 6),
        lambda: ContrastivePlayground(names=[HOSTILE, "b"], thumbnails=np.zeros((2, 32, 32, 3), np.uint8)),
        lambda: make_search(names=[HOSTILE] * 40, examples=(HOSTILE,))[1],
    ],
)
def test_a_hostile_label_cannot_leave_its_script_element(make):
    html = make().to_html()
    assert html.count("</script>") == 2  # the state's and the code's own
    assert "<img src=x" not in html and "<!--" not in html
    assert HOSTILE in json.dumps(stored_state(html), ensure_ascii=False).replace('\\"', '"')


def test_realistic_pages_stay_under_300_kb():
    emoji = load_emoji()
    rows = np.linspace(0, 1561, 250).astype(int)
    explorer = EmbeddingExplorer.from_embeddings(
        random_checkpoints(8, 250, 32),
        emoji.images[0, rows],
        [emoji.names[i] for i in rows],
        emoji.group[rows],
        emoji.group_names,
    )
    rows = np.linspace(0, 1561, 400).astype(int)
    search = SearchBox(
        TextEncoder(), torch.randn(400, 192), emoji.images[0, rows], [emoji.names[i] for i in rows]
    )
    for widget in (explorer, search, ContrastivePlayground()):
        assert len(widget.to_html().encode()) <= 300 * KB, widget


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6)), st.sampled_from([1, 7, 31, 127])
)
def test_quantisation_error_is_at_most_half_a_step(array, levels):
    integers, scale = quantise(array, levels)
    assert np.abs(integers).max() <= levels
    assert np.abs(array - integers * scale).max() <= scale / 2 * (1 + 1e-9)


def test_quantise_names_what_is_wrong():
    with pytest.raises(ValueError, match="finite"):
        quantise(np.array([np.nan]))


def test_sheet_keeps_each_picture_in_its_place():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    file, columns = sheet([np.full((32, 32, 3), colour, np.uint8) for colour in colours], 16, quality=90)
    image = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), dtype=int)
    for i, colour in enumerate(colours):
        centre = image[i // columns * 16 + 8, i % columns * 16 + 8]
        assert np.abs(centre - colour).max() < 30
    with pytest.raises(ValueError, match="picture 0: expected"):
        sheet([np.zeros((32, 32, 3))], 16, quality=90)


# --- embedding explorer ---------------------------------------------------------------------------------


def test_neighbours_are_the_nearest_points_of_the_other_modality():
    checkpoints = random_checkpoints(2, 6, 8)
    widget = make_explorer(checkpoints=checkpoints, neighbours=3)
    found = np.frombuffer(widget.neighbours, np.uint16).reshape(2, 12, 3)
    for t, checkpoint in enumerate(checkpoints):
        z = [*checkpoint["image"], *checkpoint["text"]]
        for i in range(12):
            others = [j for j in range(12) if widget.modality[j] != widget.modality[i]]
            others.sort(key=lambda j: -torch.cosine_similarity(z[i], z[j], dim=0).item())  # noqa: B023
            assert found[t, i].tolist() == others[:3]


def test_a_point_moves_only_if_its_embedding_does():
    first, second = random_checkpoints(2, 6, 8)
    second["image"] = first["image"].clone()
    widget = make_explorer(checkpoints=[first, second])
    xy = np.frombuffer(widget.positions, np.uint16).reshape(2, 12, 2)
    assert (xy[0, :6] == xy[1, :6]).all()
    assert (xy[0, 6:] != xy[1, 6:]).any()


def test_pairs_figures_and_opening_come_from_the_embeddings():
    eye = torch.eye(6)
    swapped = eye[[1, 0, 2, 3, 4, 5]]
    widget = make_explorer(checkpoints=[{"image": eye, "text": eye}, {"image": eye, "text": swapped}])
    assert widget.pair == [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]
    assert widget.figures["recall@1"] == pytest.approx([1, 4 / 6])
    assert widget.figures["mean cosine of true pairs"] == pytest.approx([1, 4 / 6])
    assert widget.selected == 0  # the first thing whose nearest is not its own
    assert widget.step == 1


def test_each_picture_is_sent_once_though_two_modalities_share_it():
    checkpoints = [{name: torch.randn(4, 3) for name in ("image", "text", "video")}]
    widget = make_explorer(things=4, checkpoints=checkpoints)
    assert widget.picture_index == [0, 1, 2, 3, -1, -1, -1, -1, 0, 1, 2, 3]


def test_tsne_also_gives_one_place_per_point():
    widget = make_explorer(things=8, checkpoints=random_checkpoints(2, 8, 4), method="tsne")
    assert len(widget.positions) == 2 * 16 * 2 * 2
    assert widget.axes == ["t-SNE (no unit)"] * 2


def test_explorer_names_what_is_wrong():
    place = np.zeros((1, 2, 2))
    good = {"names": ["a", "b"], "modality": ["image", "text"], "pair": [1, 0], "group": [0, 0]}
    with pytest.raises(ValueError, match=r"positions: expected shape \(T, P, 2\)"):
        EmbeddingExplorer(np.zeros((2, 2)), None, **good)
    with pytest.raises(ValueError, match="names: expected length 2, found 1"):
        EmbeddingExplorer(place, None, **{**good, "names": ["a"]})
    with pytest.raises(ValueError, match="pair: expected -1 to 1, found 0 to 2"):
        EmbeddingExplorer(place, None, **{**good, "pair": [2, 0]})
    with pytest.raises(ValueError, match="steps: expected length 1, found 2"):
        EmbeddingExplorer(place, None, **good, steps=[0, 1])
    with pytest.raises(ValueError, match="selected: expected -1 to 1, found 2"):
        EmbeddingExplorer(place, None, **good, selected=2)
    with pytest.raises(ValueError, match="method: expected one of pca, tsne, found 'umap'"):
        make_explorer(method="umap")
    with pytest.raises(ValueError, match=r"text: expected shape \(6, 8\)"):
        make_explorer(checkpoints=[{"image": torch.randn(6, 8), "text": torch.randn(5, 8)}])


# --- contrastive playground -----------------------------------------------------------------------------


def test_playground_opens_with_two_pairs_swapped_and_the_others_at_home():
    playground = ContrastivePlayground()
    pictures, words = np.split(np.array(playground.angles), 2)
    nearest = np.cos(pictures[:, None] - words).argmax(1)
    assert nearest.tolist() == [1, 0, 2, 3]
    assert playground.value() > math.log(4)  # worse than knowing nothing


def test_playground_names_what_is_wrong():
    with pytest.raises(ValueError, match="loss: expected one of info_nce, margin, found 'triplet'"):
        ContrastivePlayground("triplet")
    with pytest.raises(ValueError, match="thumbnails: expected 2, one per name, found 1"):
        ContrastivePlayground(names=["a", "b"], thumbnails=np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="expected pictures for names other than"):
        ContrastivePlayground(names=["walrus", "cat"])


# --- search box -----------------------------------------------------------------------------------------

QUERIES = [
    "red apple",
    "cat",
    "smiling face",
    "kittens",
    "heart 2",
    "苹果",
    "红色的心",
    "a",
    "笑 face",
    "zzz",
]


@pytest.mark.parametrize(("dim", "error"), [(64, 0.03), (192, 0.08)])  # 192 also loses 96 directions
def test_quantised_search_agrees_with_the_float_encoder(dim, error):
    encoder, box = make_search(things=200, dim=dim)
    pictures = torch.nn.functional.normalize(encoder(list(box.names)), dim=1)
    exact = torch.nn.functional.normalize(encoder(QUERIES), dim=1) @ pictures.T
    for query, row in zip(QUERIES, exact.detach(), strict=True):
        best = dict(zip(box.names, row.tolist(), strict=True))
        for name, similarity in box.search(query, k=10):
            assert similarity == pytest.approx(best[name], abs=error)


def test_a_name_finds_its_own_picture_first():
    _, box = make_search()
    assert all(box.search(name, k=1)[0][0] == name for name in box.names)


def test_a_text_without_features_finds_nothing():
    _, box = make_search()
    assert box.search("?! …") == [] and box.search("") == []
    box.query = "?!"
    assert "nothing to go on" in box.summary()


def test_search_box_names_what_is_wrong():
    encoder = TextEncoder(dim=8)
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="expected equally many, found 3, 2, 2"):
        SearchBox(encoder, torch.ones(3, 8), pictures, ["a", "b"])
    with pytest.raises(ValueError, match="expected width 8, the text encoder's, found 9"):
        SearchBox(encoder, torch.ones(2, 9), pictures, ["a", "b"])
