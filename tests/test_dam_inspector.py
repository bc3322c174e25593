"""The inspector of dual-modality attention: recorded numbers come back, words fit them, faults are named."""

import base64
import dataclasses
import io
import json
import re
import zlib

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from mmtutor.dam import PARTS
from mmtutor.data import load_emoji
from mmtutor.dtl import DTLNetwork, Extractor, residual_body
from mmtutor.widgets import DAMInspector, Inspected, inspected
from mmtutor.widgets.dam_inspector import MODALITIES, VIEWS

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"
KB = 1000
CLASSES = ["in place", "sideways", "up and down", "turning"]
EMOJI = load_emoji()


def shares(rng, *shape, sharp=2.0):
    """Random rows that sum to one: the softmax of normal scores, `sharp` times as far apart."""
    p = np.exp(sharp * rng.normal(size=shape))
    return p / p.sum(-1, keepdims=True)


def weights(T=8, N=8, seed=0):
    rng = np.random.default_rng(seed)
    both, earlier = shares(rng, 16 + T), np.tril(shares(rng, T, T), -1)
    kinds = ("additive", "dot", "location")
    return {
        "exchange": {"picture": rng.random(16), "animation": rng.random(T)},
        "inter": {"frames to patches": shares(rng, T, 16), "patches to frames": shares(rng, T)},
        "composition": {"picture": shares(rng, 16), "animation": shares(rng, T)},
        "mix": {m: dict(zip(kinds, shares(rng, 3).tolist(), strict=True)) for m in MODALITIES},
        "hierarchical": {"picture": both[:16], "animation": both[16:]},
        "short": earlier / np.maximum(earlier.sum(1, keepdims=True), 1e-9),
        "long": {"write": shares(rng, T, N) * rng.random((T, 1)), "read": shares(rng, T, N)},
    }


def thing(seed=0, *, T=8, N=8, C=4, k=5, **changes):
    rng, clip = np.random.default_rng(seed), seed % len(EMOJI.videos)
    picture, frames = EMOJI.pictures("fluent")[EMOJI.video_item[clip]], EMOJI.videos[clip]
    frames = np.resize(frames, (T, *frames.shape[1:]))
    p = shares(rng, 2**k, C)
    given = dict(name=f"thing {seed}", picture=picture, frames=frames, answer=seed % C, probabilities=p)
    return Inspected(**{"weights": weights(T, N, seed), **given, **changes})


def inspector(*things, **options):
    return DAMInspector(things or [thing()], CLASSES, PARTS, **options)


def with_weights(**changes):
    """A thing whose weights of some views are others; None: there are none."""
    return thing(weights={x: w for x, w in {**weights(), **changes}.items() if w is not None})


def state_of(widget):
    state = re.search(r'<script type="application/json">(.*?)</script>', widget.to_html(), re.S).group(1)
    return json.loads(state)


# --- rounding -------------------------------------------------------------------------------------------


def test_what_is_shown_is_what_was_recorded_but_for_rounding():
    given = [thing(0), thing(1)]
    widget = inspector(*given)
    for widget.thing, one in enumerate(given):
        w = one.weights
        for widget.frame in range(8):
            t = widget.frame
            expected = {
                "exchange": (w["exchange"]["picture"], w["exchange"]["animation"]),
                "inter": (w["inter"]["frames to patches"][t], w["inter"]["patches to frames"]),
                "composition": (w["composition"]["picture"], w["composition"]["animation"]),
                "hierarchical": (w["hierarchical"]["picture"], w["hierarchical"]["animation"]),
                "short": (None, w["short"][t]),
                "long": (None, None),
            }
            assert list(expected) == list(VIEWS)
            for widget.view, (patches, frames) in expected.items():
                found = widget.values()
                error = 1 / 510 if widget.view == "exchange" else 1 / 255
                for shown, exact in ((found["patches"], patches), (found["frames"], frames)):
                    assert (shown is None) == (exact is None)
                    if exact is not None:
                        assert np.abs(np.array(shown) - exact).max() <= error + 1e-9
                assert (found["mix"] is None) == (widget.view != "composition")
                if found["mix"]:
                    for m in MODALITIES:
                        assert found["mix"][m] == pytest.approx(w["mix"][m], abs=1 / 255)
                assert (found["write"] is None) == (found["read"] is None) == (widget.view != "long")
                if found["write"]:
                    assert np.abs(np.array(found["write"]) - w["long"]["write"]).max() <= 1 / 510 + 1e-9
                    assert np.abs(np.array(found["read"]) - w["long"]["read"]).max() <= 1 / 255


def test_rows_still_sum_to_one_and_zeros_stay_zeros():
    widget = inspector(frame=5, view="short")
    found = widget.values()["frames"]
    assert sum(found) == pytest.approx(1) and found[5:] == [0, 0, 0]
    widget.view = "hierarchical"
    found = widget.values()
    assert sum(found["patches"]) + sum(found["frames"]) == pytest.approx(1)
    widget.view = "inter"
    assert sum(widget.values()["patches"]) == pytest.approx(1)


def test_half_replaced_is_not_more_than_half():
    levels = {"picture": [0.5] * 15 + [0.51], "animation": [0.5] * 8}
    widget = inspector(with_weights(exchange=levels), view="exchange")
    found = widget.values()
    assert sum(x > 0.5 for x in found["patches"]) == 1 and max(found["frames"]) <= 0.5
    assert "1 of 16 patches is replaced by more than half; most of all row 4, column 4 (51%)" in (
        widget.summary()
    )
    assert "0 of 8 frames are replaced by more than half" in widget.summary()


def test_probabilities_are_those_of_the_parts_that_are_on():
    one = thing(3)
    widget = inspector(one)
    for row in range(32):
        widget.off = [part for bit, part in enumerate(PARTS) if not row >> bit & 1]
        found = list(widget.values()["probabilities"].values())
        assert found == pytest.approx(one.probabilities[row].tolist(), abs=1 / 2**15)
        assert sum(found) == pytest.approx(1)


# --- in words -------------------------------------------------------------------------------------------


def even(n):
    return np.full(n, 1 / n)


def test_says_the_answer_and_whether_it_changed_its_mind():
    p = np.full((32, 4), 0.1)
    p[:, 2] = 0.7
    p[31] = [0.96, 0.02, 0.01, 0.01]
    p[0] = [0.3, 0.3, 0.2, 0.2]
    p[31 - 2] = [0.55, 0.15, 0.15, 0.15]
    widget = inspector(thing(probabilities=p, name="star"))
    assert widget._answer_in_words() == "“star”. With all parts on it says “in place”, 96%, very sure: right."
    widget.off = ["short", "inter"]
    assert widget.off == ["inter", "short"]  # in the order of the parts
    assert widget._answer_in_words() == (
        "“star”. Without inter and short it says “up and down”, 70%, fairly sure: wrong, it is “in place”. "
        "It changed its mind: with all parts on it says “in place”, 96%."
    )
    widget.off = ["composition"]
    assert widget._answer_in_words() == (
        "“star”. Without composition it says “in place”, 55%, in doubt: right. "
        "With all parts on it says the same, 96%."
    )
    widget.off = PARTS
    assert "Without any part it says “in place”, 30%, guessing: right." in widget._answer_in_words()


def test_says_what_each_part_does_at_the_chosen_frame():
    look = np.zeros((8, 16))
    look[:, 6], look[:, 0] = 0.75, 0.25
    back = np.tril(np.ones((8, 8)), -1)
    back[1:] /= back[1:].sum(1, keepdims=True)
    write, read = np.zeros((8, 4)), np.zeros((8, 4))
    write[4, 2], read[:, 0], read[:, 3] = 0.62, 0.6, 0.4
    one = with_weights(
        inter={"frames to patches": look, "patches to frames": [0.1, 0.4, 0.1, 0, 0.2, 0.2, 0, 0]},
        composition={"picture": np.eye(16)[5], "animation": even(8)},
        mix={"picture": {"dot": 1.0}, "animation": {"dot": 1.0}},
        hierarchical={"picture": np.eye(16)[3] / 4, "animation": 0.75 * np.eye(8)[6]},
        short=back,
        long={"write": write, "read": read},
    )
    widget = inspector(one, frame=4)
    said = {
        "inter": "Inter. Frame 5 looks most at row 2, column 3 (75%), then row 1, column 1 (25%). "
        "The patches look most at frame 2 (40%), frame 5 has 20%.",
        "composition": "Composition. Picture: most on row 2, column 2 (100%); the look is 100% dot. "
        "Animation: most on frame 1 (13%), frame 5 has 13%; the look is 100% dot.",
        "hierarchical": "Hierarchical. Of all weight 25% is on the picture, most on row 1, column 4 (25%). "
        "On the animation it is 75%, most on frame 7 (75%), frame 5 has 0%.",
        "short": "Short. Frame 5 looks back most at frame 1 (25%), then frame 2 (25%).",
        "long": "Long. Frame 5 writes 62% of slot 3; what it reads is empty, "
        "since nothing was written before.",
    }
    for widget.view, words in said.items():
        assert widget._view_in_words() == words and widget.summary().endswith(words)
    widget.frame = 5
    assert widget._view_in_words() == "Long. Frame 6 writes 0% of slot 1 and reads mostly slot 1 (60%)."
    widget.view, widget.frame = "short", 0
    assert widget._view_in_words() == "Short. Frame 1 is the first: there is no earlier one to look at."
    widget.view, widget.frame = "inter", 1
    assert widget._view_in_words().endswith("The patches look most at frame 2 (40%).")


def test_padding_is_said_and_nothing_is_nan():
    T, none = 8, {"picture": np.zeros(16), "animation": np.zeros(8)}
    one = with_weights(
        exchange=none,
        inter={"frames to patches": np.zeros((T, 16)), "patches to frames": np.zeros(T)},
        composition=none,
        hierarchical=none,
        short=np.zeros((T, T)),
        long={"write": np.zeros((T, 4)), "read": np.zeros((T, 4))},
    )
    widget = inspector(one, frame=2)
    words = {}
    for widget.view in VIEWS:
        words[widget.view] = widget._view_in_words()
        assert "nan" not in widget.summary() and widget.picture() and widget.to_html()
    assert words["exchange"] == "Exchange. No patch is replaced. No frame is replaced. Of frame 3, 0%."
    assert "looks at no patch: it or the picture is padding. No patch looks at a frame." in words["inter"]
    assert words["composition"].count("no weights, it is padding") == 2
    assert "all is padding" in words["hierarchical"]
    assert "looks at no earlier one: it is padding" in words["short"]
    assert "neither writes nor reads: it is padding" in words["long"]


def test_summary_counts_things_and_names_parts():
    assert (
        inspector(thing(0), thing(1))
        .summary()
        .startswith(
            "A DTL network with the parts inter, composition, hierarchical, short and long has read "
            "2 things: a picture of 16 patches and 8 frames of each. “thing 0”. With all parts on it says "
        )
    )


# --- networks with fewer parts --------------------------------------------------------------------------


def test_a_network_may_lack_parts_the_exchange_or_all():
    one = thing(k=1, weights={"short": weights()["short"]})
    widget = DAMInspector([one], CLASSES, ["short"])
    assert widget.views == ["short"] and widget.view == "short" and widget.kinds == []
    assert "Without short it" in DAMInspector([one], CLASSES, ["short"], off=["short"]).summary()
    bare = DAMInspector([thing(k=0, weights={})], CLASSES, [])
    assert bare.view == "" and "with no parts" in bare.summary() and "“thing 0”. It says" in bare.summary()
    assert bare.values()["patches"] is None
    bare.to_html()
    alone = DAMInspector([thing(k=0, weights={"exchange": weights()["exchange"]})], CLASSES, [])
    assert alone.view == "exchange"


def test_a_part_may_be_switched_though_nothing_of_it_is_shown():
    widget = DAMInspector([thing(k=2, weights={})], CLASSES, ["short", "long"], off=["long"])
    assert widget.views == [] and "Without long it" in widget.summary()


# --- a real network -------------------------------------------------------------------------------------


def network(parts=PARTS, **options):
    torch.manual_seed(0)
    extractors = {m: Extractor(8, residual_body(4)) for m in MODALITIES}
    model = DTLNetwork(extractors, dict.fromkeys(MODALITIES, 8), dim=8, classes=4, parts=parts, **options)
    with torch.no_grad():
        for parameter in model.dam.parameters():  # so that parts differ
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def some_inputs(N=2, T=3):
    g = torch.Generator().manual_seed(1)
    inputs = {"picture": torch.rand(N, 3, 32, 32, generator=g)}
    inputs["animation"] = torch.rand(N, T, 6, 32, 32, generator=g)
    return {m: 2 * x - 1 for m, x in inputs.items()}


@pytest.mark.parametrize("parts", [PARTS, ("composition", "long"), ("hierarchical",), ()])
def test_inspect_records_the_answer_with_each_choice_of_parts(parts):
    model, inputs = network(parts), some_inputs()
    model.train()
    found = inspected(model, inputs, ["a", "b"], torch.tensor([1, 3]))
    assert model.training  # a copy ran
    model.eval()
    with torch.no_grad():
        whole = model(inputs).logits.double().softmax(1)
        for row in range(2 ** len(parts)):
            off = [part for bit, part in enumerate(model.dam.parts) if not row >> bit & 1]
            p = model(inputs, off=off).logits.double().softmax(1)
            for n, one in enumerate(found):
                assert one.probabilities[row] == pytest.approx(p[n].numpy(), abs=1e-9)
    for n, one in enumerate(found):
        assert one.probabilities[-1] == pytest.approx(whole[n].numpy(), abs=1e-9)
        assert one.answer == [1, 3][n] and one.name == "ab"[n]
    widget = DAMInspector(found, CLASSES, list(model.dam.parts))
    assert widget.views == ["exchange", *parts]
    for widget.view in ("exchange", *parts):
        assert "padding" not in widget.summary()


def test_inspect_takes_the_network_s_own_weights():
    model, inputs = network().eval(), some_inputs()
    with torch.no_grad():
        out = model(inputs).weights
    for n, one in enumerate(inspected(model, inputs, ["a", "b"], [0, 1])):
        inter = out["inter"]["animation", "picture"][n]
        assert one.weights["inter"]["frames to patches"] == pytest.approx(inter.mean(0).numpy(), abs=1e-6)
        back = out["inter"]["picture", "animation"][n].mean((0, 1)).numpy()
        assert one.weights["inter"]["patches to frames"] == pytest.approx(back, abs=1e-6)
        for view in ("exchange", "composition", "hierarchical"):
            for m in MODALITIES:
                assert one.weights[view][m] == pytest.approx(out[view][m][n].numpy(), abs=1e-6)
        assert list(one.weights["mix"]["picture"]) == ["additive", "dot", "location"]
        assert [*one.weights["mix"]["animation"].values()] == pytest.approx(
            out["mix"]["animation"][n].tolist()
        )
        assert one.weights["short"] == pytest.approx(out["short"]["animation"][n].numpy(), abs=1e-6)
        for way in ("write", "read"):
            exact = out["long"]["animation"][way][n].numpy()
            assert one.weights["long"][way] == pytest.approx(exact, abs=1e-6)


def test_inspect_gives_the_pictures_back_and_takes_padding():
    picture, frames = EMOJI.pictures("fluent")[:1], EMOJI.videos[:1, :3]
    floats = lambda x: torch.tensor(np.moveaxis(x, -1, -3)).float() / 127.5 - 1  # noqa: E731
    change = torch.zeros(1, 3, 3, 32, 32)
    inputs = {"picture": floats(picture), "animation": torch.cat([floats(frames), change], 2)}
    valid = {"animation": torch.tensor([[True, True, False]])}
    [one] = inspected(network(), inputs, ["a"], [2], valid)
    assert (one.picture == picture[0]).all() and (one.frames == frames[0]).all()
    widget = DAMInspector([one], CLASSES, PARTS, frame=2)
    assert "Frame 3 looks at no patch" in widget._view_in_words()
    for widget.view in ("short", "long"):
        assert "it is padding" in widget._view_in_words()
    nothing = {"animation": torch.zeros(1, 3, dtype=torch.bool)}
    inspector(*inspected(network(), inputs, ["a"], [2], nothing), view="composition").to_html()


def test_inspect_leaves_out_memories_of_the_picture_alone_and_an_absent_exchange():
    model = network(("inter", "short", "long"), timed=["picture"], exchange=None)
    found = inspected(model, some_inputs(), ["a", "b"], [0, 1])
    assert list(found[0].weights) == ["inter"] and found[0].probabilities.shape == (8, 4)
    assert DAMInspector(found, CLASSES, list(model.dam.parts), off=["long"]).views == ["inter"]


def test_inspect_names_what_is_wrong_with_its_inputs():
    model, inputs = network(("inter",)), some_inputs()
    with pytest.raises(
        ValueError, match=r"^inputs: expected \['picture', 'animation'\], found \['picture'\]"
    ):
        inspected(model, {"picture": inputs["picture"]}, ["a", "b"], [0, 1])
    with pytest.raises(ValueError, match=r"^animation: expected \(N, T, 6, 32, 32\), found \(2, 3, 32, 32\)"):
        inspected(model, {**inputs, "animation": inputs["picture"]}, ["a", "b"], [0, 1])
    with pytest.raises(ValueError, match="^picture: expected numbers from -1 to 1, found .* to 255"):
        inspected(model, {**inputs, "picture": torch.full((2, 3, 32, 32), 255.0)}, ["a", "b"], [0, 1])
    with pytest.raises(ValueError, match="^inputs: expected as many pictures as animations, found 1 and 2"):
        inspected(model, {**inputs, "picture": inputs["picture"][:1]}, ["a"], [0])
    with pytest.raises(ValueError, match="^names: expected 2, one for each thing; found 1"):
        inspected(model, inputs, ["a"], [0, 1])
    with pytest.raises(ValueError, match="^answers: expected 2, one for each thing; found 3"):
        inspected(model, inputs, ["a", "b"], [0, 1, 2])
    with pytest.raises(ValueError, match="^answer of 'b': expected 0 to 3, found 4"):
        inspected(model, inputs, ["a", "b"], [0, 4])


# --- the page -------------------------------------------------------------------------------------------


def test_payload_of_6_things_8_frames_8_slots_8_classes_and_32_variants_stays_under_150_kb():
    classes = [f"class {c}" for c in range(8)]
    usual = DAMInspector([thing(seed, C=8) for seed in range(6)], classes, PARTS)
    size = len(usual.to_html().encode())  # with the page's code
    assert size <= 150 * KB, size
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (6, 9, 32, 32, 3), np.uint8)  # nothing to compress
    hard = [thing(i, C=8, picture=x[0], frames=x[1:]) for i, x in enumerate(noise)]
    size = len(DAMInspector(hard, classes, PARTS).to_html().encode())
    assert size <= 200 * KB, size


def test_page_gets_the_bytes_that_python_computes_with():
    widget = inspector(thing(0), thing(1))
    state = state_of(widget)
    unpacked = {x: zlib.decompress(base64.b64decode(data)) for x, data in state["bytes"].items()}
    assert unpacked["weights"] == widget.weights and unpacked["probabilities"] == widget.probabilities
    layout = state["values"]["layout_of_weights"]
    assert sum(rows * columns for _, rows, columns, _ in layout) * 2 == len(widget.weights)
    assert [name for name, *_, level in layout if level] == [
        "exchange, picture",
        "exchange, animation",
        "long, write",
    ]
    assert len(widget.probabilities) == 2 * 32 * 4 * 2
    assert Image.open(io.BytesIO(unpacked["sprite"])).size == (5 * 32, 4 * 32)  # 18 pictures


def test_output_holds_the_live_view_a_picture_and_a_page_that_needs_no_kernel():
    widget = inspector(frame=3)
    data, _ = widget._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    words = "DAMInspector(1 thing, 8 frames, parts: inter, composition, hierarchical, short, long)"
    assert data["text/plain"] == repr(widget) == words
    html = data["text/html"]
    assert "To use the widget" in html and "data:image/webp" in html
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert inspector(frame=3).to_html() == html  # the same every time
    assert Image.open(io.BytesIO(widget.picture())).size == (480, 168)


@pytest.mark.parametrize("T", [1, 2, 20])
def test_any_number_of_frames_can_be_drawn(T):
    widget = inspector(thing(T=T, N=1), frame=T - 1)
    for widget.view in VIEWS:
        assert widget.picture() and "nan" not in widget.summary()


def test_large_pictures_are_made_smaller():
    large = np.zeros((500, 500, 3), np.uint8)
    assert inspector(thing(picture=large)).sprite_size == 96


def test_hostile_labels_cannot_leave_their_script_element():
    hostile = with_weights(mix={m: {HOSTILE: 1.0} for m in MODALITIES})
    hostile = dataclasses.replace(hostile, name=HOSTILE)
    widget = DAMInspector([hostile], [HOSTILE, "b", "c", "d"], PARTS, question=HOSTILE, view="composition")
    html = widget.to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html and "<!--" not in html
    assert state_of(widget)["values"]["names"] == [HOSTILE]


# --- mistakes -------------------------------------------------------------------------------------------


def changed(view, key, place, value):
    given = weights()
    array = given[view] if key is None else given[view][key]
    array[place] = value
    return given


def only(view, **arrays):
    return {view: arrays}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attention": {}}, r"expected some of exchange, .*, long; found \['attention'\]"),
        ({"composition": weights()["composition"]}, r"expected composition and mix together, found \['comp"),
        (only("exchange", picture=even(16)), r"exchange: expected \['picture', 'animation'\], found \['pict"),
        ({"inter": even(16)}, r"inter: expected \['frames to patches', 'patches to frames'\], found ndarray"),
        (
            only("exchange", picture=even(15), animation=even(8)),
            r"exchange, picture: expected \(16,\), found \(15,\)",
        ),
        (
            only("inter", **{"frames to patches": even(16), "patches to frames": even(8)}),
            r"inter, frames to patches: expected \(8, 16\), found \(16,\)",
        ),
        ({"short": np.zeros((8, 7))}, r"short: expected \(8, 8\), found \(8, 7\)"),
        (
            only("long", write=np.zeros((8, 4)), read=np.zeros((8, 5))),
            r"long, read: expected \(8, 4\), found \(8, 5\)",
        ),
        (
            only("long", write=np.zeros((8, 0)), read=np.zeros((8, 0))),
            r"long, write: expected \(8, 0\), found \(8, 0\)",
        ),
        (changed("exchange", "picture", 3, 1.5), "exchange, picture: expected 0 to 1, found 1.5"),
        (
            changed("short", None, (2, 4), 0.5),
            "expected rows that sum to one, or all zero, found a sum of 1.5",
        ),
        (
            changed("inter", "patches to frames", 0, np.nan),
            r"expected finite numbers from 0, found nan at \[0\]",
        ),
        (changed("long", "read", (1, 2), -0.5), r"expected finite numbers from 0, found -0.5 at \[1, 2\]"),
        (changed("hierarchical", "picture", 0, 3), "expected picture and animation together to sum to one"),
        ({"short": np.eye(8)}, "short: expected weights on earlier frames, found 1 at frame 1 on frame 1"),
        (
            {**weights(), "mix": {"picture": {"a": 1.0}, "animation": {"b": 1.0}}},
            r"mix: expected the same kinds, found {'picture': \['a'\], 'animation': \['b'\]}",
        ),
    ],
)
def test_names_what_is_wrong_with_weights(given, message):
    with pytest.raises(ValueError, match=message):
        thing(weights=given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture": np.zeros((32, 32, 3))}, r"^picture of 'thing 0': expected \(H, H, 3\) uint8, found"),
        ({"picture": np.zeros((32, 16, 3), np.uint8)}, "^picture of 'thing 0': expected squares, found"),
        ({"frames": np.zeros((32, 32, 3), np.uint8)}, r"^frames of 'thing 0': expected \(T, H, H, 3\) uint8"),
        ({"answer": 4}, "^answer of 'thing 0': expected 0 to 3, found 4"),
        ({"answer": -1}, "^answer of 'thing 0': expected 0 to 3, found -1"),
        ({"probabilities": even(4)}, r"^probabilities of 'thing 0': expected \(2\*\*k, C\), found \(4,\)"),
        (
            {"probabilities": np.full((32, 4), 0.2)},
            "^probabilities of 'thing 0': expected rows that sum to one, found a sum of 0.8 in row 0",
        ),
        ({"probabilities": np.zeros((32, 4))}, "expected rows that sum to one, found a sum of 0 in row 0"),
        ({"probabilities": np.full((32, 4), np.nan)}, "expected finite numbers from 0, found nan"),
    ],
)
def test_names_what_is_wrong_with_a_thing(changes, message):
    with pytest.raises(ValueError, match=message):
        thing(**changes)


@pytest.mark.parametrize(
    ("things", "classes", "parts", "message"),
    [
        ([], CLASSES, PARTS, "^things: expected at least one, found none"),
        ([thing()], CLASSES, ["inter", "magic"], r"^parts: expected some of inter, .*; found \['magic'\]"),
        ([thing()], CLASSES, ["inter", "inter"], r"^parts: expected each once, found \['inter', 'inter'\]"),
        ([thing()], CLASSES[:3], PARTS, r"^probabilities of 'thing 0': expected \(32, 3\), found \(32, 4\)"),
        ([thing(k=4)], CLASSES, PARTS, r"^probabilities of 'thing 0': expected \(32, 4\), found \(16, 4\)"),
        ([thing()], ["a"] * 4, PARTS, "^classes: expected different names"),
        (
            [thing(), thing(1, T=5)],
            CLASSES,
            PARTS,
            "^frames of 'thing 1': expected 8, as of 'thing 0'; found 5",
        ),
        ([thing(), thing(1, N=4)], CLASSES, PARTS, "^weights of 'thing 1': expected those of 'thing 0'"),
        (
            [thing(), thing(1, weights={})],
            CLASSES,
            PARTS,
            "^weights of 'thing 1': expected those of 'thing 0'",
        ),
        (
            [thing(k=1)],
            CLASSES,
            ["inter"],
            r"^weights of 'thing 0': expected those of \['inter'\], found \['c",
        ),
    ],
)
def test_names_what_cannot_be_shown_together(things, classes, parts, message):
    with pytest.raises(ValueError, match=message):
        DAMInspector(things, classes, parts)


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("thing", 1, "thing: expected 0 to 0, found 1"),
        ("frame", 8, "frame: expected 0 to 7, found 8"),
        ("frame", -1, "frame: expected 0 to 7, found -1"),
        ("view", "mix", "view: expected one of exchange, inter, .*; found 'mix'"),
        ("off", ["exchange"], r"off: expected some of inter, .*; found \['exchange'\]"),
    ],
)
def test_names_a_choice_that_is_not_there_at_once_and_later(trait, value, message):
    with pytest.raises(traitlets.TraitError, match=message):
        inspector(**{trait: value})
    widget = inspector()
    before = getattr(widget, trait)
    with pytest.raises(traitlets.TraitError, match=message):
        setattr(widget, trait, value)
    assert getattr(widget, trait) == before
