"""The fusion switches in a real browser: they compute, say and draw Python's figures, and answer."""

import base64
import json
import random
import re

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from torch import nn

from mmtutor.data.digits import VIEWS
from mmtutor.experiments import fusion as recipe
from mmtutor.experiments.fusion_tasks import examples
from mmtutor.fusion import AttentionFusion, GatedFusion
from mmtutor.widgets import FusionSwitches
from mmtutor.widgets.fusion_switches import STATES

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
EMPTY = dict.fromkeys(VIEWS, "absent")


def toy_model(fuser, seed, views=VIEWS):
    """A model that was never trained, but whose answers and weights differ from digit to digit."""
    torch.manual_seed(seed)
    encoders = {m: recipe.Numbers(examples("digits", "test").x[m].shape[1]) for m in views}
    head = nn.Linear(recipe.DIM, 10)
    model = recipe.Fused(encoders, fuser(dict.fromkeys(views, recipe.DIM), recipe.DIM), head).eval()
    with torch.no_grad():
        head.weight *= 5
        if fuser is AttentionFusion:
            model.fuser.query.normal_().mul_(5)
    return model


MODELS = {"by attention": toy_model(AttentionFusion, 0), "by gates": toy_model(GatedFusion, 1)}


@pytest.fixture(scope="module")
def widgets():
    one = FusionSwitches(
        {"only": MODELS["by attention"]},
        [250, 3, 9],
        item=2,
        states={"karhunen": "noise 2", "zernike": "absent"},
    )
    return {"switches": FusionSwitches(MODELS), "one": one, "empty": FusionSwitches(MODELS, states=EMPTY)}


def choose(page, model, item, states):
    page.get_by_role("radio", name=model).check()
    page.locator(".mmt-items button").nth(item).click()
    for view, state in states.items():
        page.get_by_role("combobox", name=view).select_option(state)


def number(text):
    return float(text.rstrip("%").replace("−", "-"))


def percents(page):
    return [number(text) for text in page.locator(".mmt-classes .mmt-number").all_inner_texts()]


def view_rows(page):
    """The weight and the Shapley value of each view, as text."""
    return [row.locator(".mmt-number").all_inner_texts() for row in page.locator(".mmt-views tr").all()[1:]]


def extents(page, bars):
    """Where the filled parts of bars begin and end, in shares of their tracks."""
    return page.locator(bars).evaluate_all(
        """bars => bars.map(bar => {
            const parts = [bar, bar.querySelector(".mmt-filled")];
            const [track, filled] = parts.map(x => x.getBoundingClientRect());
            return [filled.left, filled.right].map(x => (x - track.left) / track.width);
        })"""
    )


# --- the figures ----------------------------------------------------------------------------------------


def test_page_computes_what_python_computes(show, address, widgets):
    page, switches, chosen = show("switches"), widgets["switches"], random.Random(0)
    asked = [{}, EMPTY] + [{m: chosen.choice(STATES) for m in VIEWS} for _ in range(10)]
    asked = [(model, k % 8, states) for model in MODELS for k, states in enumerate(asked)]
    trait = {name: getattr(switches, name) for name in ("models", "views", "digits", "state_names")}
    trait["bytes"] = {
        name: base64.b64encode(getattr(switches, name)).decode() for name in ("integers", "parameters")
    }
    expected, numbered = [], []
    for switches.model, switches.item, switches.states in asked:
        expected.append(switches.values())
        states = [STATES.index(state) for state in switches.states.values()]
        numbered.append([[*MODELS].index(switches.model), switches.item, states])
    found = page.evaluate(
        f"""async ([traits, asked]) => {{
        const {{ unpack, evaluate }} = await import("{address}/FusionSwitches.js");
        const view = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
        const models = unpack({{ get: (name) => traits[name] ?? view(traits.bytes[name]) }});
        const right = (item) => traits.digits[item];
        return asked.map(([m, item, states]) => evaluate(models[m], item, states, right(item))); }}""",
        [trait, numbered],
    )
    for told, values in zip(found, expected, strict=True):
        assert told["p"] == pytest.approx([values[f"probability, {c}"] for c in range(10)], abs=1e-9)
        assert told["weights"] == pytest.approx([values[f"weight, {m}"] for m in VIEWS], abs=1e-9)
        assert told["shapley"] == pytest.approx([values[f"shapley, {m}"] for m in VIEWS], abs=1e-9)
        assert [told["all"], told["none"]] == pytest.approx([values["all present"], values["none"]], abs=1e-9)
    assert json.dumps(found).count("null") == 0  # JSON's word for what is not finite


@pytest.mark.parametrize("model", MODELS)
def test_tables_bars_and_text_say_python_s_figures(show, widgets, model):
    page, switches = show("switches"), widgets["switches"]
    states = {"pixels": "noise 4", "fourier": "absent"}
    choose(page, model, 3, states)
    switches.model, switches.item, switches.states = model, 3, states
    values, right = switches.values(), 5
    p = [values[f"probability, {c}"] for c in range(10)]
    assert percents(page) == pytest.approx(np.multiply(p, 100), abs=0.51)
    assert extents(page, ".mmt-classes .mmt-bar") == pytest.approx(np.array([[0, x] for x in p]), abs=0.01)
    for view, (weight, share) in zip(VIEWS, view_rows(page), strict=True):
        if view == "fourier":
            assert weight == share == "–"
            continue
        assert number(weight) == pytest.approx(100 * values[f"weight, {view}"], abs=0.51)
        assert number(share) == pytest.approx(values[f"shapley, {view}"], abs=0.0051)
    limit = number(re.search(r"to ([\d.]+) nats", page.locator(".mmt-views tr").first.inner_text()).group(1))
    for view, (start, end) in zip(VIEWS, extents(page, ".mmt-views .mmt-signed"), strict=True):
        place = 0.5 + values[f"shapley, {view}"] / (2 * limit)
        assert [start, end] == pytest.approx(sorted([0.5, place]), abs=0.01)
    said, status = int(np.argmax(p)), page.locator(".mmt-status")
    expect(status).to_contain_text(f"{model}: it says {said}, ")
    expect(status).to_contain_text("sure: right." if said == right else f"sure: wrong, it is a {right}.")
    for what, name in (
        ("shapley", "Shapley value"),
        ("weight", "mean gate" if "gates" in model else "weight"),
    ):
        most = max((m for m in VIEWS if m != "fourier"), key=lambda m: values[f"{what}, {m}"])  # noqa: B023
        expect(status).to_contain_text(f"Largest {name}: {most}, ")
    expect(status).to_contain_text("With noise 4, pixels has ")
    gained = number(re.search(r"add up to ([+−\d.]+):", page.locator(".mmt-total").inner_text()).group(1))
    assert gained == pytest.approx(values["all present"] - values["none"], abs=0.0051)


def test_answer_and_right_class_are_marked_in_words(show, widgets):
    page, switches = show("switches"), widgets["switches"]
    for item, digit in enumerate(switches.digits):
        choose(page, "by attention", item, {})
        switches.model, switches.item, switches.states = "by attention", item, {}
        values = switches.values()
        said = max(range(10), key=lambda c: values[f"probability, {c}"])  # noqa: B023
        notes = page.locator(".mmt-classes .mmt-note").all_inner_texts()
        assert "answer" in notes[said] and "right" in notes[digit] and sum(map(bool, notes)) <= 2
    filled = page.locator(".mmt-classes .mmt-filled")
    colours = filled.evaluate_all("all => all.map(x => getComputedStyle(x).backgroundColor)")
    assert len(set(colours)) == 2 and colours.count(colours[9]) == 1  # the last digit is a 9


def test_marks_say_what_it_was_with_all_views_clean(show):
    page = show("switches")
    page.get_by_role("button", name="all clean").click()
    assert page.locator(".mmt-views .mmt-tick:visible").count() == 0  # they would say nothing new
    clean = [end for _, end in extents(page, ".mmt-views .mmt-bar:not(.mmt-signed)")]
    page.get_by_role("button", name="pixels: noise 4").click()
    ticks = page.locator(".mmt-views .mmt-bar:not(.mmt-signed) .mmt-tick")
    places = ticks.evaluate_all("all => all.map(x => parseFloat(x.style.left) / 100)")
    assert places == pytest.approx(clean, abs=0.01) and ticks.first.is_visible()
    assert [end for _, end in extents(page, ".mmt-views .mmt-bar:not(.mmt-signed)")] != pytest.approx(clean)


def test_opens_as_python_said_without_kernel_error_or_network(show):
    page = show("switches")
    assert page.locator(".mmt-fallback").count() == 0
    assert page.locator(".mmt-try em").inner_text().count("?") == 1
    assert page.get_by_role("radio", name="by attention").is_checked()
    one = show("one")
    assert one.get_by_role("radio").count() == 0  # nothing to choose
    assert one.locator(".mmt-items button").count() == 3
    assert one.locator("[aria-pressed=true]").get_attribute("aria-label").startswith("digit 3 of 3: a ")
    states = [box.evaluate("x => x.selectedOptions[0].text") for box in one.get_by_role("combobox").all()]
    assert states == ["clean", "clean", "noise 2", "clean", "absent", "clean"]
    expect(one.locator(".mmt-status")).to_contain_text("With noise 2, karhunen has weight")


def test_without_any_view_it_says_that_only_the_bias_is_left(show, widgets):
    page = show("empty")
    expect(page.locator(".mmt-status")).to_contain_text(
        "by attention: no view is present. What is left, the bias"
    )
    values = widgets["empty"].values()
    assert percents(page) == pytest.approx([100 * values[f"probability, {c}"] for c in range(10)], abs=0.51)
    assert view_rows(page) == [["–", "–"]] * 6
    assert "NaN" not in page.content()


# --- use ------------------------------------------------------------------------------------------------


def test_presets_set_the_states_and_one_also_the_digit(show):
    page = show("switches")
    states = lambda: [box.input_value() for box in page.get_by_role("combobox").all()]  # noqa: E731
    page.get_by_role("button", name="pixels: noise 4").click()
    assert states() == ["1", "1", "1", "4", "1", "1"]
    page.get_by_role("button", name="a 6 by Fourier").click()
    assert states() == ["1", "0", "0", "0", "1", "0"]
    assert page.locator("[aria-pressed=true]").get_attribute("aria-label") == "digit 5 of 8: a 6"
    page.get_by_role("button", name="all clean").click()
    assert states() == ["1"] * 6
    assert page.locator("[aria-pressed=true]").get_attribute("aria-label") == "digit 5 of 8: a 6"  # it stays


def test_everything_answers_the_keyboard(show):
    page = show("switches")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="by gates").is_checked()
    expect(page.locator(".mmt-views")).to_contain_text("mean gate")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("[aria-pressed=true]").get_attribute("aria-label") == "digit 2 of 8: a 3"
    page.get_by_role("button", name="a 6 by Fourier").focus()
    page.keyboard.press("Tab")
    box = page.get_by_role("combobox", name="fourier")
    expect(box).to_be_focused()
    before = view_rows(page)
    page.keyboard.press("ArrowDown")
    assert box.input_value() == "2" and view_rows(page) != before
    expect(box).to_be_focused()  # the table is not made anew under the reader's hands
    expect(page.locator(".mmt-status")).to_contain_text("With noise 1, fourier has mean gate")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_both_themes(show, scheme):
    page = show("switches", color_scheme=scheme)
    choose(page, "by gates", 1, {"fourier": "absent", "pixels": "noise 2"})
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []


@pytest.mark.parametrize("width", [400, 800])
def test_fits_the_screen_and_nothing_overlaps_or_is_cut(show, boxes_apart, width):
    page = show("switches", viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    choose(page, "by gates", 7, {"morphological": "noise 4", "profile": "absent"})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    parts = ".mmt-views select, .mmt-views label > span, .mmt .mmt-bar, .mmt .mmt-number, .mmt-items button"
    found = page.evaluate(
        """parts => [".mmt label, .mmt button, .mmt select, .mmt table", parts].map((kind) =>
            [...document.querySelectorAll(kind)].map((node) => node.getBoundingClientRect().toJSON()))""",
        parts,
    )
    for box in found[0]:
        assert box["height"] >= 24 and box["x"] >= 0 and box["x"] + box["width"] <= width
    assert boxes_apart(found[1], slack=0.5)
    cut = page.locator(".mmt td, .mmt th, .mmt .mmt-number").evaluate_all(
        "all => all.filter(x => x.scrollWidth > x.clientWidth + 1 && x.clientWidth).map(x => x.textContent)"
    )
    assert cut == []
    page.get_by_text("by attention", exact=True).tap()
    assert page.get_by_role("radio", name="by attention").is_checked()


def test_two_widgets_on_a_page_do_not_share_their_choice(show):
    page = show("all twice")
    page.wait_for_function("document.querySelectorAll('.mmt-fusion .mmt-try').length === 6")
    first, second = page.locator(".mmt-fusion").nth(0), page.locator(".mmt-fusion").nth(3)
    first.get_by_role("radio", name="by gates").check()
    first.get_by_role("button", name="pixels: noise 4").click()
    assert second.get_by_role("radio", name="by attention").is_checked()
    assert second.get_by_role("combobox", name="pixels").input_value() == "1"


def test_labels_are_text_never_markup(open_page, publish):
    switches = FusionSwitches({HOSTILE: MODELS["by attention"], "plain": MODELS["by gates"]})
    visit = open_page(publish({"hostile": switches}) + "/hostile.html")
    visit.page.wait_for_selector(".mmt-try")
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    expect(visit.page.locator(".mmt-status")).to_contain_text(HOSTILE)
    assert visit.errors == [] and visit.outside == []
