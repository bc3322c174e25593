"""The attention explorer: rows lose nothing by rounding, figures are those of the rows, faults are named."""

import base64
import io
import json
import math
import re
import zlib

import numpy as np
import pytest
import torch
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmtutor.data import load_emoji
from mmtutor.widgets import AttentionExplorer, Frames, Patches
from mmtutor.widgets.attention_explorer import _apportion, _percent, _rounded

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"
KB = 1000
PICTURE = load_emoji().pictures("fluent")[0]
FRAMES = load_emoji().videos[0]


def attention(*shape, sharp=2.0, seed=0):
    """Random weights: the softmax of normal scores, `sharp` times as far apart."""
    scores = sharp * np.random.default_rng(seed).normal(size=shape)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def words(n):
    return [f"w{i}" for i in range(n)]


def explorer(weights, **options):
    shape = np.shape(weights)
    return AttentionExplorer(weights, words(shape[-2]), words(shape[-1]), **options)


def state_of(widget):
    state = re.search(r'<script type="application/json">(.*?)</script>', widget.to_html(), re.S).group(1)
    return json.loads(state)


# --- rounding -------------------------------------------------------------------------------------------

ROWS = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=1, max_size=200).filter(any)


@given(ROWS, st.sampled_from([1, 2, 5]))
@settings(max_examples=60, deadline=None)
def test_rounded_rows_sum_to_all_parts_and_are_off_by_less_than_one_part(row, power):
    p = np.array(row) ** power / (np.array(row) ** power).sum()
    q = _apportion(p).astype(float)
    N = math.floor(255 / p.max() + 1e-9)
    assert q.sum() == N >= 255  # no part is lost, and none overflowed its byte
    assert np.abs(q / N - p).max() < 1 / N + 1e-9
    assert (q[p == 0] == 0).all()  # a padded key stays without weight


@pytest.mark.parametrize("n", [1, 2, 3, 7, 32, 196, 1000])
def test_equal_weights_and_a_single_one_come_back_exactly(n):
    assert set(_apportion(np.full(n, 1 / n)).tolist()) == {255}
    one = np.eye(n)[n // 2]
    assert _apportion(one).tolist() == (255 * one).tolist()


def test_many_small_weights_are_not_lost_beside_a_large_one():
    p = np.array([0.5] + [0.5 / 195] * 195)
    found = explorer(p[None]).values()["attention"]["weights"]
    assert found[0] == pytest.approx(0.5) and sum(found) == pytest.approx(1)
    by_itself = np.rint(p / p.max() * 255)
    assert by_itself[0] / by_itself.sum() > 0.55  # what rounding each by itself would show


def test_each_row_has_its_own_scale():
    p = np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]])
    for query in range(3):
        found = explorer(p, query=query).values()["attention"]["weights"]
        assert found == pytest.approx(p[query].tolist(), abs=max(p[query]) / 254)


# --- the figures ----------------------------------------------------------------------------------------


def slow_figures(weights, layer, head, query):
    """Entropy and weights by loops over the weights as given, not rounded."""
    _, heads, _, keys = weights.shape
    chosen = range(heads) if head is None else [head]
    p = [sum(weights[layer, h, query, j] for h in chosen) / len(chosen) for j in range(keys)]
    return p, -sum(x * math.log(x) for x in p if x > 0)


@pytest.mark.parametrize("head", [0, 2, None])
def test_values_are_those_of_the_weights_but_for_rounding(head):
    weights = attention(2, 3, 5, 7)
    widget = explorer(weights, head=head)
    for widget.layer, widget.query in [(0, 0), (1, 4), (1, 2)]:
        found = widget.values()["attention"]
        p, entropy = slow_figures(weights, widget.layer, head, widget.query)
        assert found["weights"] == pytest.approx(p, abs=1 / 255)
        assert found["entropy"] == pytest.approx(entropy, abs=0.02)
        assert found["effective"] == pytest.approx(math.exp(found["entropy"]))
        assert found["top"] == sorted(range(7), key=lambda j: -found["weights"][j])[:5]  # noqa: B023


@pytest.mark.parametrize("n", [1, 2, 16])
def test_effective_keys_count_those_that_share_equally(n):
    weights = np.zeros((1, 20))
    weights[0, :n] = 1 / n
    found = explorer(weights, top=50).values()["attention"]
    assert found["effective"] == pytest.approx(n) and found["entropy"] == pytest.approx(math.log(n))
    assert found["top"] == list(range(n))  # equal ones in order, none without weight
    assert math.copysign(1, found["entropy"]) == 1  # not minus zero


def test_a_padded_query_has_no_weights_and_no_entropy():
    weights = attention(2, 3, 4, 5)
    weights[:, :, 2] = 0
    for head in (0, None):
        widget = explorer(weights, query=2, head=head)
        found = widget.values()["attention"]
        assert found == {"weights": [0.0] * 5, "top": [], "entropy": None, "effective": None}
        assert "padding, it has no weights" in widget.summary() and "nan" not in widget.summary()
        assert Image.open(io.BytesIO(widget.picture())).size == (250, 230)


def test_all_padding_is_shown_as_such():
    widget = explorer(np.zeros((2, 3)))
    assert widget.values()["attention"]["top"] == []
    widget.to_html()


def test_mean_of_heads_is_over_those_that_have_weights():
    weights = np.zeros((1, 3, 1, 2))
    weights[0, 0, 0] = [1, 0]
    weights[0, 2, 0] = [0.5, 0.5]
    assert explorer(weights, head=None).values()["attention"]["weights"] == [0.75, 0.25]


@pytest.mark.parametrize("drop", [1, 2])
def test_missing_axes_are_those_of_one_layer_and_one_head(drop):
    weights = attention(1, 1, 3, 4)
    full, short = explorer(weights), explorer(weights[(0,) * drop])
    assert short.to_html() == full.to_html()


def test_tensors_of_any_precision_are_taken():
    weights = torch.softmax(torch.randn(1, 2, 3, 64, generator=torch.Generator().manual_seed(0)), -1)
    exact = explorer(weights).values()["attention"]["weights"]
    half = explorer(weights.half().requires_grad_()).values()["attention"]["weights"]
    assert half == pytest.approx(exact, abs=1e-3) and sum(half) == pytest.approx(1)


def test_two_models_of_several_are_shown_and_one_with_fewer_heads_shows_its_last():
    models = {"a": attention(1, 1, 3, 4), "b": attention(2, 4, 3, 4, seed=1), "c": attention(1, 2, 3, 4)}
    widget = AttentionExplorer(models, words(3), words(4), layer=1, head=3)
    assert widget.shown() == list(widget.values()) == ["a", "b"]
    alone = explorer(models["a"]).values()["attention"]
    assert widget.values()["a"] == alone
    assert " a: " in widget.summary()
    assert "b, layer 2 of 2, head 4 of 4: " in widget.summary()
    widget.model, widget.beside = "c", "a"
    assert widget.shown() == ["c", "a"]
    for nothing in ("", "c"):
        widget.beside = nothing
        assert widget.shown() == ["c"]
    assert AttentionExplorer(models, words(3), words(4), model="b").shown() == ["b", "a"]


def test_choosing_anew_gives_the_figures_of_that_choice():
    weights = attention(2, 3, 4, 5)
    widget = explorer(weights)
    widget.layer, widget.head, widget.query, widget.top = 1, None, 3, 2
    fresh = explorer(weights, layer=1, head=None, query=3, top=2)
    assert widget.values() == fresh.values() and widget.summary() == fresh.summary()


# --- tokens ---------------------------------------------------------------------------------------------


def test_tokens_are_named_and_repeated_names_told_apart():
    widget = AttentionExplorer(attention(9, 9), "red apple")
    named = ["r", "e (2)", "d", "␣", "a", "p (6)", "p (7)", "l", "e (9)"]
    assert widget.query_names == widget.key_names == named and widget.same
    assert widget.query_parts == [{"kind": "words", "words": list("red␣apple")}]


def test_patches_go_row_by_row_and_mix_with_words_and_frames():
    tokens = ["[CLS]", Patches(PICTURE, 2, 3), "x", "y", Frames(FRAMES)]
    widget = AttentionExplorer(attention(2, 17), ["a", "b"], tokens)
    assert [part["kind"] for part in widget.key_parts] == ["words", "patches", "words", "frames"]
    assert widget.key_names[:3] == ["[CLS]", "row 1, column 1", "row 1, column 2"]
    assert widget.key_names[4] == "row 2, column 1" and widget.key_names[-1] == "frame 8"
    assert not widget.same and widget.key_parts[2]["words"] == ["x", "y"]


@pytest.mark.parametrize(
    ("shape", "size"), [((32, 32), (288, 288)), ((1000, 500), (144, 288)), ((10, 30), (270, 90))]
)
def test_pictures_come_to_the_page_in_a_fitting_size(shape, size):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    widget = AttentionExplorer(attention(1, 4), ["a"], Patches(picture, 2, 2))
    [[start, length]] = widget.images
    assert Image.open(io.BytesIO(widget.pictures[start : start + length])).size == size
    assert widget.key_parts[0]["ratio"] == shape[1] / shape[0]


def test_a_picture_that_asks_and_is_looked_at_is_stored_once():
    tokens = [Patches(PICTURE, 2, 2), Patches(PICTURE, 1, 1)]
    widget = AttentionExplorer(attention(5, 5), tokens, tokens)
    assert len(widget.images) == 1
    still = np.stack([FRAMES[0]] * 3)
    assert len(AttentionExplorer(attention(3, 3), Frames(still)).images) == 1
    moving = AttentionExplorer(attention(8, 8), Frames(FRAMES))
    files = [moving.pictures[start : start + length] for start, length in moving.images]
    assert b"".join(files) == moving.pictures and len(files) == 8
    assert {Image.open(io.BytesIO(file)).size for file in files} == {(96, 96)}


# --- the page -------------------------------------------------------------------------------------------


def test_payload_of_12_layers_of_12_heads_of_32_tokens_stays_under_200_kb():
    hardest = np.random.default_rng(0).random((12, 12, 32, 32))  # nothing to deflate
    hardest /= hardest.sum(-1, keepdims=True)
    widget = explorer(hardest)
    assert len(widget.weights) == 12 * 12 * 32 * 32
    assert len(state_of(widget)["bytes"]["weights"]) <= 200 * KB
    usual = explorer(attention(12, 12, 32, 32))
    assert len(usual.to_html().encode()) <= 200 * KB  # with the page's code


def test_page_gets_the_bytes_that_python_computes_with():
    models = {"a": attention(1, 2, 3, 4), "b": attention(2, 1, 3, 4)}
    widget = AttentionExplorer(models, words(3), words(4))
    state = state_of(widget)
    stored = np.frombuffer(zlib.decompress(base64.b64decode(state["bytes"]["weights"])), np.uint8)
    assert stored.tobytes() == widget.weights
    about = {"name": "b", "layers": 2, "heads": 1, "start": 24}
    assert state["values"]["models"][1] == about
    rows = stored[24:].reshape(2, 1, 3, 4).astype(float)
    widget.model, widget.layer, widget.query = "b", 1, 2
    assert widget.values()["b"]["weights"] == (rows[1, 0, 2] / rows[1, 0, 2].sum()).tolist()


def test_output_holds_the_live_view_a_picture_and_a_page_that_needs_no_kernel():
    models = {"a": attention(2, 3, 3, 16), "b": attention(2, 3, 3, 16)}
    make = lambda: AttentionExplorer(models, ["a", "b", "c"], Patches(PICTURE, 4, 4))  # noqa: E731
    widget = make()
    data, _ = widget._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert data["text/plain"] == repr(widget) == "AttentionExplorer(2 models, 3 queries x 16 keys)"
    html = data["text/html"]
    assert "To use the widget" in html and "data:image/webp" in html
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert make().to_html() == html  # the same every time
    assert Image.open(io.BytesIO(widget.picture())).size == (500, 230)


def test_static_picture_has_the_largest_weight_darkest_and_frames_the_row():
    p = np.zeros((4, 4))
    p[range(4), [2, 0, 1, 3]] = 1
    image = np.array(Image.open(io.BytesIO(explorer(p, query=1).picture())).convert("L")).astype(int)
    cell = lambda i, j: image[22 + 50 * i + 25, 25 + 50 * j + 25]  # noqa: E731
    for i in range(4):
        assert int(np.argmin([cell(i, j) for j in range(4)])) == [2, 0, 1, 3][i]
    assert image[22 + 50, 140] < 60 and image[22 + 150, 60] > 200


def test_frames_may_have_names_of_their_own():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames_named = Frames(frames, ["card 1", "card 2", "card 3"])
    widget = AttentionExplorer(attention(1, 1, 2, 3), ["a", "b"], frames_named)
    assert widget.key_names == ["card 1", "card 2", "card 3"]
    with pytest.raises(ValueError, match="names: expected 3, one for each frame; found 2"):
        Frames(frames, ["a", "b"])


def test_the_invitation_speaks_of_heads_only_where_there_is_a_choice():
    assert "head" not in explorer(attention(2, 1, 2, 2)).tip
    assert "change the head" in explorer(attention(1, 2, 2, 2)).tip


def test_summary_says_query_keys_percentages_and_spread():
    widget = explorer([[0.5, 0.25, 0.25, 0.0], [0, 0, 0, 1]])
    assert widget.summary() == (
        "Attention weights of 2 queries over 4 keys. Query 1, “w0”. attention: "
        "50% on “w0”, 25% on “w1”, 25% on “w2”. Entropy 1.04 nats, as wide as 2.8 equal keys."
    )
    widget.query = 1
    assert "100% on “w3”. Entropy 0.00 nats, as wide as 1.0 equal keys." in widget.summary()
    assert "1 query over 1 key." in explorer([[1.0]]).summary()
    assert "mean of 2 heads" in explorer(attention(1, 2, 2, 2), head=None).summary()


@pytest.mark.parametrize(
    ("x", "digits", "said"),
    [(0, 0, "0%"), (0.004, 0, "<1%"), (0.125, 0, "13%"), (0.996, 0, ">99%"), (1, 0, "100%")]
    + [(0.0004, 1, "<0.1%"), (0.0625, 1, "6.3%"), (0.05, 1, "5.0%")],
)
def test_percentages_say_zero_and_hundred_only_where_it_is_so(x, digits, said):
    assert _percent(x, digits) == said


def test_small_weights_have_a_decimal_since_their_error_is_small_too():
    assert "2.5% on" in explorer(np.full((1, 40), 1 / 40)).summary()
    assert _rounded(0.125, 2) == "0.13"


def test_hostile_labels_cannot_leave_their_script_element():
    widget = AttentionExplorer({HOSTILE: [[1.0]]}, [HOSTILE], question=HOSTILE)
    html = widget.to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html and "<!--" not in html
    assert state_of(widget)["values"]["query_names"] == [HOSTILE]


# --- mistakes -------------------------------------------------------------------------------------------


def changed(place, value):
    weights = attention(2, 2, 3, 4)
    weights[place] = value
    return weights


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"expected \(layers, heads, Lq, Lk\), .*, found \(1,\)"),
        (np.zeros((1, 1, 1, 2, 2)), r"expected \(layers, heads, .*, found \(1, 1, 1, 2, 2\)"),
        (np.zeros((2, 0, 3)), r"expected .*none of them 0, found \(2, 0, 3\)"),
        (changed((1, 0, 2, 3), np.nan), r"expected finite numbers from 0, found nan at .* = \[1, 0, 2, 3\]"),
        (changed((0, 1, 1, 0), np.inf), r"expected finite numbers from 0, found inf at .* = \[0, 1, 1, 0\]"),
        (changed((0, 0, 0, 1), -0.5), r"expected finite numbers from 0, found -0.5 at .* = \[0, 0, 0, 1\]"),
        (
            changed((1, 1, 2), 0.2),
            r"expected rows that sum to one, or all zero, found a sum of 0.8 at .* = \[1, 1, 2\]",
        ),
    ],
)
def test_names_what_is_no_attention(weights, message):
    with pytest.raises(ValueError, match=f"^weights of 'mine': {message}"):
        AttentionExplorer({"mine": weights}, words(3), words(4))


def test_names_what_is_wrong_with_the_models():
    with pytest.raises(ValueError, match="^weights: expected at least one model, found none"):
        AttentionExplorer({}, ["a"])
    with pytest.raises(ValueError, match="^weights: expected a name for each model, found ''"):
        AttentionExplorer({"": [[1.0]]}, ["a"])
    message = r"^weights: expected the same numbers of queries and keys, found {'a': \(3, 4\), 'b': \(3, 5\)}"
    with pytest.raises(ValueError, match=message):
        AttentionExplorer({"a": attention(3, 4), "b": attention(3, 5)}, words(3), words(4))


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        (words(2), words(4), "queries: expected 3 tokens, as the weights have, found 2"),
        ([], words(4), "queries: expected 3 tokens, as the weights have, found 0"),
        (words(3), Patches(PICTURE, 2, 3), "keys: expected 4 tokens, as the weights have, found 6"),
        (words(3), None, "keys: expected 4 tokens, as the weights have, found 3"),
        (words(3), ["a", "b", "c", 4], "keys: expected words, Patches and Frames, found int"),
        (words(3), PICTURE, "keys: expected words, Patches and Frames, found ndarray"),
    ],
)
def test_names_tokens_that_do_not_fit(queries, keys, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        AttentionExplorer(attention(3, 4), queries, keys)


def test_names_pictures_and_grids_that_cannot_be_shown():
    with pytest.raises(ValueError, match=r"^picture: expected \(H, W, 3\) uint8, found \(32, 32, 3\) float"):
        Patches(PICTURE / 255, 4, 4)
    with pytest.raises(
        ValueError, match=r"^picture: expected \(H, W, 3\) uint8, found \(8, 32, 32, 3\) uint8"
    ):
        Patches(FRAMES, 4, 4)
    with pytest.raises(
        ValueError, match=r"^frames: expected \(T, H, W, 3\) uint8, found \(0, 4, 4, 3\) uint8"
    ):
        Frames(np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="^frames: .* found None list"):
        Frames([FRAMES[0]])
    for grid in ((0, 1), (1, 33)):
        message = f"^grid: expected 1 to 32 rows and 1 to 32 columns, found {grid[0]} and {grid[1]}"
        with pytest.raises(ValueError, match=message):
            Patches(PICTURE, *grid)


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("layer", 2, "layer: expected 0 to 1, found 2"),
        ("head", -1, "head: expected 0 to 2, found -1"),
        ("query", 4, "query: expected 0 to 3, found 4"),
        ("model", "x", "model: expected one of attention; found 'x'"),
        ("beside", "x", "beside: expected one of attention; found 'x'"),
        ("top", 0, "top"),
    ],
)
def test_names_a_choice_that_is_not_there_at_once_and_later(trait, value, message):
    weights = attention(2, 3, 4, 5)
    with pytest.raises(traitlets.TraitError, match=message):
        explorer(weights, **{trait: value})
    widget = explorer(weights)
    before = getattr(widget, trait)
    with pytest.raises(traitlets.TraitError, match=message):
        setattr(widget, trait, value)
    assert getattr(widget, trait) == before
