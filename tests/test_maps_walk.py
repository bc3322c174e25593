"""The walk through the maps: what the page is given, and that Python computes the same as its equations."""

import base64
import io
import json
import re
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mmtutor.data import load_emoji
from mmtutor.widgets import MapsWalk

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"
KB = 1024
ALL = ("image", "video", "text")
TASKS = {"group": 8, "hand": 5, "words": 20}


def given(things=6, dim=16, seed=0, still=(1, 4), **changed):
    """Arguments of a walk with random maps; things whose numbers are in `still` have no animation."""
    emoji, generator = load_emoji(), torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    found = {
        "points": {m: draw(things, dim) for m in ALL},
        "heads": {task: (draw(count, dim), draw(count)) for task, count in TASKS.items()},
        "answers": {task: [f"{task} {i}" for i in range(count)] for task, count in TASKS.items()},
        "truth": {
            "group": [i % 8 for i in range(things)],
            "hand": [-1] * things,
            "words": [[i, i + 1] for i in range(things)],
        },
        "measured": {
            ALL: {"group": 0.75, "hand": 0.5},
            ("text", "image"): {"group": 0.5},
            (): {"group": 0.125},
        },
        "names": list(emoji.names[:things]),
        "pictures": emoji.images[0, :things],
        "frames": [None if i in still else emoji.videos[i] for i in range(things)],
    }
    return {**found, **changed}


def state_of(walk):
    state = re.search(r'<script type="application/json">(.*?)</script>', walk.to_html(), re.S).group(1)
    return json.loads(state)


def scores_by_loop(found, thing, cut, scale):
    """The equation, number by number: the mean of the unit vectors that arrive, then each head."""
    arriving = [m for m in ALL if m not in cut and (m != "video" or found["frames"][thing] is not None)]
    dim = found["points"]["image"].shape[1]
    z = [0.0] * dim
    for m in arriving:
        point = found["points"][m][thing].tolist()
        length = sum(x * x for x in point) ** 0.5
        for d in range(dim):
            z[d] += point[d] / length / len(arriving)
    return {
        task: [
            b + sum(scale * w * x for w, x in zip(row, z, strict=True)) for row, b in zip(*both, strict=True)
        ]
        for task, head in found["heads"].items()
        if (both := (head[0].tolist(), head[1].tolist()))
    }


@pytest.mark.parametrize("cut", [(), ("image",), ("image", "text"), ALL])
def test_scores_equal_the_equation_up_to_rounding(cut):
    found = given()
    walk = MapsWalk(**found, scale=3.0)
    for thing in range(6):
        expected = scores_by_loop(found, thing, cut, 3.0)
        for task, scores in walk.scores(thing, cut).items():
            assert np.abs(scores - expected[task]).max() < 0.15, (thing, task)  # of scores up to about 10


def test_with_every_arrow_cut_a_head_says_its_bias():
    found = given()
    walk = MapsWalk(**found)
    for task, scores in walk.scores(0, ALL).items():
        assert np.array_equal(scores, found["heads"][task][1].numpy())


def test_a_thing_without_animation_sends_nothing_whatever_its_point_says():
    found = given()
    walk = MapsWalk(**found)
    found["points"]["video"][1] = torch.full((16,), 1e6)
    again = MapsWalk(**found)
    assert again.points == walk.points
    for task in TASKS:
        assert np.array_equal(walk.scores(1)[task], walk.scores(1, ["video"])[task])
        assert not np.array_equal(walk.scores(0)[task], walk.scores(0, ["video"])[task])


def test_the_page_holds_each_array_once_and_bit_for_bit():
    walk = MapsWalk(**given())
    state = state_of(walk)
    assert set(state["bytes"]) == {"points", "weights", "biases", "activations", "sprite"}
    for name, packed in state["bytes"].items():
        assert zlib.decompress(base64.b64decode(packed)) == getattr(walk, name)
    assert len(walk.points) == 6 * 3 * 16
    assert len(walk.weights) == sum(TASKS.values()) * 16
    assert state["values"]["valid"] == [[True, i not in (1, 4), True] for i in range(6)]


def test_the_sheet_holds_the_pictures_and_the_frames_of_what_moves():
    walk = MapsWalk(**given())
    tiles = 6 + 4 * walk.frames
    size = Image.open(io.BytesIO(walk.sprite)).size
    assert size[0] == walk.sprite_columns * 32
    assert size[1] == -(-tiles // walk.sprite_columns) * 32
    assert walk.length == 8


def test_measured_shares_are_found_whatever_the_order_of_the_modalities():
    walk = MapsWalk(**given())
    assert walk.measured == {
        "image,video,text": {"group": 0.75, "hand": 0.5},
        "image,text": {"group": 0.5},
        "": {"group": 0.125},
    }


def test_right_answers_may_be_one_several_or_none():
    tasks = {task["name"]: task["truth"] for task in MapsWalk(**given()).tasks}
    assert tasks == {
        "group": [[i] for i in range(6)],
        "hand": [[]] * 6,
        "words": [[i, i + 1] for i in range(6)],
    }


def test_stops_are_the_mean_over_channels_stretched_and_keep_their_shapes():
    maps, numbers = torch.zeros(6, 4, 8, 8), torch.zeros(6, 10)
    maps[:, :, 2, 3] = 1
    maps[:, 0, 5, 5] = 2  # a mean of one half
    numbers[:, 1], numbers[:, 2] = 2, -1
    walk = MapsWalk(**given(stops={"image": [maps, torch.ones(6, 3, 32, 32)], "text": [numbers]}))
    assert walk.stops == {
        "image": [{"shape": [4, 8, 8], "size": [8, 8]}, {"shape": [3, 32, 32], "size": [16, 16]}],
        "text": [{"shape": [10], "size": [10]}],
    }
    bytes_ = np.frombuffer(walk.activations, np.uint8)
    first, flat, bars = np.split(bytes_, [6 * 64, 6 * 64 + 6 * 256])
    first = first.reshape(6, 8, 8)
    assert (first[:, 2, 3] == 255).all() and (first[:, 5, 5] == 128).all() and first.sum() == 6 * (255 + 128)
    assert not flat.any()
    assert (bars.reshape(6, 10)[:, :4] == [127, 254, 64, 127]).all()  # about 127, where zero is


def test_opens_on_a_thing_that_loses_an_answer_with_its_picture():
    eye = torch.eye(2, 4)
    pictures = np.zeros((3, 32, 32, 3), np.uint8)
    # The first thing is right without its picture too, the second is wrong in any case, the third needs it
    walk = MapsWalk(
        {"image": eye[[0, 1, 0]] * 2, "text": eye[[0, 1, 1]]},
        {"a": (eye * torch.tensor([[2.0], [1.0]]), torch.zeros(2)), "b": (eye, torch.tensor([1.0, 0.0]))},
        {"a": ["x", "y"], "b": ["x", "y"]},
        {"a": [0, 0, 0], "b": [0, 0, 0]},
        {},
        names=["first", "second", "third"],
        pictures=pictures,
    )
    assert walk.thing == 2
    assert MapsWalk(**given(), thing=4).thing == 4


def test_output_holds_the_live_view_a_picture_and_a_page_that_needs_no_kernel():
    walk = MapsWalk(**given(), thing=2)
    data, _ = walk._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert data["text/plain"] == repr(walk) == "MapsWalk(6 things)"
    html = data["text/html"]
    assert "To use the widget" in html and walk.names[2] in walk.summary() and "data:image/webp" in html
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert MapsWalk(**given(), thing=2).to_html() == html  # the same every time


def test_summary_says_the_answers_that_the_cuts_leave():
    walk = MapsWalk(**given(), thing=2)
    walk.cut = ["image", "text"]
    group = walk.tasks[0]["answers"][int(walk.scores(2, walk.cut)["group"].argmax())]
    assert f"without image and text the answers are: group: {group};" in walk.summary()


def test_a_hostile_label_cannot_leave_its_script_element():
    answers = {task: [HOSTILE] * count for task, count in TASKS.items()}
    html = MapsWalk(**given(names=[HOSTILE] * 6, answers=answers)).to_html()
    assert html.count("</script>") == 2  # the state's and the code's own
    assert "<img src=x" not in html and "<!--" not in html


def test_a_realistic_page_stays_under_300_kb():
    stops = {
        m: [torch.randn(40, c, s, s) for c, s in ((32, 16), (64, 8), (128, 4), (128, 2))] for m in ALL[:2]
    }
    found = given(
        40, 128, still=range(0, 40, 4), stops={**stops, "text": [torch.randn(40, 48), torch.randn(40, 256)]}
    )
    found["heads"]["words"] = (torch.randn(130, 128), torch.randn(130))
    found["answers"]["words"] = [f"word {i}" for i in range(130)]
    assert len(MapsWalk(**found).to_html().encode()) <= 300 * KB


KNOWN = "expected modalities among image, video, text, found 'sound'"
MISTAKES = [
    ({"points": {"sound": torch.ones(6, 16)}}, f"points: {KNOWN}"),
    ({"points": {m: torch.ones(6, 16 + i) for i, m in enumerate(ALL)}}, r"points\['video'\]: expected shape"),
    ({"points": {"text": torch.ones(5, 16)}}, r"points\['text'\]: expected 6, one per name, found 5"),
    ({"pictures": np.zeros((5, 32, 32, 3), np.uint8)}, "pictures: expected 6, one per name, found 5"),
    ({"frames": None}, "frames: expected animations"),
    ({"truth": {task: [0] for task in TASKS}}, r"truth\['group'\]: expected 6, one per name, found 1"),
    ({"answers": {"group": ["x"] * 8}}, "answers: expected the tasks of heads, found none for 'hand'"),
    ({"measured": {"image": {}}}, "measured: expected a tuple of modalities, found the string 'image'"),
    ({"measured": {("sound",): {}}}, f"measured: {KNOWN}"),
    ({"stops": {"image": [torch.ones(6, 8, 8)]}}, r"stops\['image'\]: expected shape \(N, C, H, W\) or"),
    ({"heads": {"group": (torch.ones(8, 15), torch.ones(8))}}, r"heads\['group'\]: expected weight \(8, 16"),
    ({"heads": {}}, "heads: expected at least one task"),
    ({"thing": 6}, "thing: expected 0 to 5, found 6"),
]


@pytest.mark.parametrize(("changed", "message"), MISTAKES)
def test_names_what_is_wrong(changed, message):
    with pytest.raises(ValueError, match=message):
        MapsWalk(**given(**changed))
