"""The fusion switches: figures are the model's own, Shapley values those of all orders, faults are named."""

import base64
import io
import itertools
import json
import random
import re
import zlib

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image
from torch import nn

from mmtutor.data import load_digits
from mmtutor.data.digits import VIEWS
from mmtutor.experiments import fusion as recipe
from mmtutor.experiments.fusion_tasks import examples
from mmtutor.fusion import AttentionFusion, GatedFusion, MeanFusion, TransformerFusion
from mmtutor.widgets import FusionSwitches
from mmtutor.widgets.fusion_switches import NOISE, STATES

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"
FUSERS = {"attention": AttentionFusion, "gated": GatedFusion}


def toy_model(fuser, seed=0, views=VIEWS):
    """A model that was never trained, but whose answers and weights differ from digit to digit."""
    torch.manual_seed(seed)
    widths = {m: examples("digits", "test").x[m].shape[1] for m in views}
    model = recipe.Fused(
        {m: recipe.Numbers(width) for m, width in widths.items()},
        fuser(dict.fromkeys(views, recipe.DIM), recipe.DIM),
        nn.Linear(recipe.DIM, 10),
    ).eval()
    with torch.no_grad():
        model.head.weight *= 5
        if fuser is AttentionFusion:
            model.fuser.query.normal_().mul_(5)
    return model


MODELS = {name: toy_model(fuser, seed) for seed, (name, fuser) in enumerate(FUSERS.items())}


@pytest.fixture(scope="module")
def shared():
    return FusionSwitches(MODELS)


@pytest.fixture
def switches(shared):
    shared.model, shared.item, shared.states = "attention", 0, {}
    return shared


def forward(switches, shown=None):
    """Log-probabilities and weights by the model itself, of the same inputs, not rounded."""
    states = switches.states
    x = {
        m: switches._inputs[m][switches.item, max(0, STATES.index(state) - 1)][None]
        for m, state in states.items()
    }
    present = [state != "absent" and (shown is None or m in shown) for m, state in states.items()]
    with torch.no_grad():
        logits, weights = MODELS[switches.model](x, torch.tensor([present]))
    return logits[0].double().log_softmax(0), weights[0]


def some_states(count):
    chosen = random.Random(0)
    return [{m: chosen.choice(STATES) for m in VIEWS} for _ in range(count)]


def state_of(switches):
    state = re.search(r'<script type="application/json">(.*?)</script>', switches.to_html(), re.S).group(1)
    return json.loads(state)


# --- the figures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_values_are_those_of_the_model_but_for_rounding(switches, model):
    switches.model = model
    for k, states in enumerate([{}, *some_states(24)]):
        switches.item, switches.states = k % 8, states
        values, (log_p, weights) = switches.values(), forward(switches)
        assert [values[f"probability, {c}"] for c in range(10)] == pytest.approx(
            log_p.exp().tolist(), abs=1e-3
        )
        assert [values[f"weight, {m}"] for m in VIEWS] == pytest.approx(weights.tolist(), abs=1e-3)
        assert values["all present"] == pytest.approx(log_p[switches.digits[switches.item]].item(), abs=5e-3)


@pytest.mark.parametrize("model", MODELS)
def test_shapley_values_are_the_mean_gains_over_all_orders_of_the_present_views(switches, model):
    switches.model, switches.item = model, 4
    switches.states = {"fourier": "absent", "pixels": "noise 4", "zernike": "absent", "karhunen": "noise 1"}
    present, y, v = ("profile", "karhunen", "pixels", "morphological"), switches.digits[4], {}
    for size in range(5):
        v |= {frozenset(s): forward(switches, s)[0][y].item() for s in itertools.combinations(present, size)}
    gains = {m: [] for m in present}
    for order in itertools.permutations(present):
        for k, m in enumerate(order):
            gains[m].append(v[frozenset(order[: k + 1])] - v[frozenset(order[:k])])
    values = switches.values()
    for m in present:
        assert values[f"shapley, {m}"] == pytest.approx(np.mean(gains[m]), abs=5e-3)
    assert values["shapley, fourier"] == values["shapley, zernike"] == 0
    total = sum(values[f"shapley, {m}"] for m in VIEWS)
    assert total == pytest.approx(values["all present"] - values["none"])
    assert max(abs(values[f"shapley, {m}"]) for m in present) > 0.05  # or nothing would be tested


@pytest.mark.parametrize("model", MODELS)
def test_without_any_view_the_answer_is_the_head_s_bias(switches, model):
    switches.model, switches.states = model, dict.fromkeys(VIEWS, "absent")
    values, bias = switches.values(), MODELS[model].head.bias.detach().double()
    assert [values[f"probability, {c}"] for c in range(10)] == pytest.approx(
        bias.softmax(0).tolist(), abs=1e-6
    )
    assert all(values[f"{what}, {m}"] == 0 for what in ("weight", "shapley") for m in VIEWS)
    assert values["all present"] == values["none"] and "nan" not in switches.summary()


def test_what_stands_in_an_absent_view_changes_nothing():
    one, other = (FusionSwitches(MODELS, model="gated", states={"pixels": "absent"}) for _ in range(2))
    packed = other._packed["gated"]
    packed.tokens[:, 3], packed.votes[:, 3] = 1e3, -1e3
    assert one.values() == other.values()
    other.states = {}
    assert one.values() != other.values()


def test_noise_is_one_draw_in_four_sizes_the_same_for_every_widget(switches):
    again = FusionSwitches({"other": toy_model(AttentionFusion, 9)})
    for m, x in switches._inputs.items():
        assert torch.equal(x, again._inputs[m])
        draw = x[:, 1] - x[:, 0]
        for k, size in enumerate(NOISE.values()):
            torch.testing.assert_close(x[:, k] - x[:, 0], size * draw, atol=1e-5, rtol=1e-4)
        assert 0.8 < draw.std() < 1.2
        torch.testing.assert_close(x[:, 0], examples("digits", "test").x[m][_first_of_each()])


def _first_of_each():
    y = examples("digits", "test").y.tolist()
    return [y.index(digit) for digit in range(2, 10)]


def test_shows_the_first_test_digit_of_each_class_from_2_to_9(switches):
    assert switches.digits == [*range(2, 10)]
    rows = examples("digits", "test").item[_first_of_each()]
    pictures = np.frombuffer(switches.pictures, np.uint8).reshape(8, 240)
    assert (pictures == load_digits().views["pixels"][rows]).all() and 0 < pictures.max() <= 6


def test_other_digits_can_be_shown():
    switches = FusionSwitches(MODELS, [300, 0], item=1)
    assert switches.digits == [examples("digits", "test").y[k].item() for k in (300, 0)]
    assert len(switches.values()) == 10 + 6 + 6 + 2


def test_a_model_in_training_gives_the_same_page_and_goes_on_training(switches):
    model = toy_model(AttentionFusion, 0).train()
    page = FusionSwitches({"attention": model}).to_html()  # with dropout it would differ
    assert page == FusionSwitches({"attention": toy_model(AttentionFusion, 0)}).to_html()
    assert model.training and model.encoders["pixels"].training


def test_choosing_anew_gives_the_figures_of_that_choice(switches):
    states = {"pixels": "noise 2", "fourier": "absent"}
    fresh = FusionSwitches(MODELS, model="gated", item=5, states=states)
    switches.model, switches.item, switches.states = "gated", 5, states
    assert switches.values() == fresh.values()
    assert switches.states == dict.fromkeys(VIEWS, "clean") | states  # those not named are clean
    assert list(switches.states) == list(VIEWS)


# --- the page -------------------------------------------------------------------------------------------


def test_page_gets_tokens_and_votes_rounded_by_half_a_step_at_most(switches):
    state = state_of(switches)
    stored = {name: zlib.decompress(base64.b64decode(packed)) for name, packed in state["bytes"].items()}
    integers, start = np.frombuffer(stored["integers"], "<i2"), 0
    for about, model in zip(state["values"]["models"], MODELS.values(), strict=True):
        with torch.no_grad():
            z = {m: model.encoders[m](x) for m, x in switches._inputs.items()}
            h = torch.stack([model.fuser.projections[m](z_m) for m, z_m in z.items()], 1).double().numpy()
        scale = about["scales"][0]
        found = integers[start : start + h.size].reshape(h.shape) * scale
        assert np.abs(found - h).max() <= scale / 2 * (1 + 1e-6) and scale < 1e-3 * np.abs(h).max()
        start += h.size * (7 if about["kind"] == "gated" else 1)  # six views vote on the gates of six
    assert start == len(integers)


def test_output_holds_the_live_view_a_picture_and_a_page_that_needs_no_kernel(switches):
    data, _ = switches._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert data["text/plain"] == repr(switches)
    assert repr(switches).startswith("FusionSwitches('attention', item=0, fourier: clean, profile: clean")
    html = data["text/html"]
    assert "To use the widget" in html and "data:image/webp" in html
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert FusionSwitches(MODELS).to_html() == html  # the same every time
    assert Image.open(io.BytesIO(switches.picture())).size == (480, 150)


def test_page_of_the_chapter_s_four_models_stays_under_400_kb():
    models = {
        f"{name} {k}": toy_model(fuser, k)
        for k, (name, fuser) in enumerate([*FUSERS.items(), *FUSERS.items()])
    }
    switches = FusionSwitches(models)
    assert len(switches.models) == 4
    assert len(switches.to_html().encode()) <= 400 * 1024


def test_summary_says_the_answer_and_each_view(switches):
    switches.states = {"pixels": "noise 4", "zernike": "absent"}
    values, said = switches.values(), switches.summary()
    p = [values[f"probability, {c}"] for c in range(10)]
    assert f"It says {np.argmax(p)}, {100 * max(p):.0f}% sure: " in said
    assert ("right" in said.split("sure: ")[1][:5]) == (np.argmax(p) == 2)
    assert f"pixels noise 4, weight {values['weight, pixels']:.2f}, Shapley value" in said
    assert "zernike absent; " in said


def test_offers_only_presets_that_its_views_and_digits_allow(switches):
    assert [preset["states"] for preset in switches.presets] == [
        {},
        {"pixels": "noise 4"},
        {m: "absent" for m in ("profile", "karhunen", "pixels", "morphological")},
    ]
    assert switches.digits[switches.presets[2]["item"]] == 6
    two = {"a": toy_model(AttentionFusion, views=("zernike", "fourier"))}
    assert [preset["name"] for preset in FusionSwitches(two).presets] == ["all clean"]
    assert len(FusionSwitches(MODELS, [0]).presets) == 2  # no 6


def test_hostile_names_cannot_leave_their_script_element():
    switches = FusionSwitches({HOSTILE: MODELS["attention"]})
    html = switches.to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html and "<!--" not in html
    assert state_of(switches)["values"]["models"][0]["name"] == HOSTILE


@pytest.mark.parametrize("way", FUSERS)
def test_the_recipe_trains_such_models_as_usual_and_with_noise(way):
    for row in (f"six views, {way}", f"six views, {way}, dropout, noise"):
        untrained = recipe.build(recipe.settings(row), 16)
        assert list(untrained.fuser.dims) == list(VIEWS)
        FusionSwitches({row: untrained}, [0]).values()


# --- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuser", [MeanFusion, TransformerFusion])
def test_names_a_fuser_that_it_cannot_show(fuser):
    message = rf"models\['x'\]: expected AttentionFusion or GatedFusion, found {fuser.__name__}"
    with pytest.raises(ValueError, match=message):
        FusionSwitches({"x": toy_model(fuser)})


def test_names_what_is_wrong_with_the_models():
    with pytest.raises(ValueError, match="models: expected at least one, found none"):
        FusionSwitches({})
    fewer = toy_model(GatedFusion, views=VIEWS[:2])
    with pytest.raises(
        ValueError, match=r"models: expected the same views .*found .*'b': \['fourier', 'profile'\]"
    ):
        FusionSwitches({"a": MODELS["gated"], "b": fewer})
    unknown = recipe.Fused({"sound": nn.Linear(3, 4)}, AttentionFusion({"sound": 4}, 4), nn.Linear(4, 10))
    with pytest.raises(ValueError, match="models: expected views of a digit, fourier, .*; found sound"):
        FusionSwitches({"a": unknown})
    headless = recipe.Fused(MODELS["gated"].encoders, MODELS["gated"].fuser, nn.Identity())
    with pytest.raises(ValueError, match=r"models\['a'\]: expected a linear head to 10 classes, found Ident"):
        FusionSwitches({"a": headless})
    broken = toy_model(AttentionFusion)
    nn.init.constant_(broken.fuser.projections["pixels"].bias, torch.nan)
    with pytest.raises(ValueError, match="models: expected finite tokens, found NaN"):
        FusionSwitches({"a": broken})


@pytest.mark.parametrize("items", [[], [301], [-1, 0]])
def test_names_digits_that_are_not_there(items):
    with pytest.raises(
        ValueError, match=rf"items: expected positions from 0 to 300, found {re.escape(str(items))}"
    ):
        FusionSwitches(MODELS, items)


def test_names_an_unknown_choice(switches):
    with pytest.raises(traitlets.TraitError, match="model: expected one of attention, gated; found 'x'"):
        switches.model = "x"
    with pytest.raises(traitlets.TraitError, match="item: expected one of 0, .*, 7; found 8"):
        switches.item = 8
    with pytest.raises(traitlets.TraitError, match="states: expected views among fourier, .*; found 'sound'"):
        switches.states = {"sound": "clean"}
    message = r"states\['pixels'\]: expected one of absent, clean, noise 1, .*; found 'noise 3'"
    with pytest.raises(traitlets.TraitError, match=message):
        FusionSwitches(MODELS, states={"pixels": "noise 3"})
    assert switches.states == dict.fromkeys(VIEWS, "clean")  # a refused choice changes nothing
