"""The gradient compass in a real browser: it computes, says and draws Python's figures, and answers."""

import json
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.ledger import Ledger
from mmtutor.widgets import GradientCompass
from mmtutor.widgets.gradient_compass import CONDITIONS, DIRECTIONS, Condition, plane_gradients

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
STEPS = tuple(range(0, 800, 40))
CORNERS = {  # condition "difficulty", seed 0: lengths and cosine at the first looks
    "conflict": (1, 1, -0.8),
    "agreement": (1, 1, 0.9),
    "no group": (1, 0, 0),
    "opposed": (3, 1, -1),
    "nothing": (0, 0, 0),
    "unequal": (1, 30, -0.7),
    "surgery": (1, 2, -0.5),
}


def toy_ledger(rows=CONDITIONS, tasks=("style", "group")):
    """Three runs that never were of each condition, among them the corners."""
    ledger, generator = Ledger("balancing", "cpu"), np.random.default_rng(0)
    for name, condition in rows.items():
        for seed in range(3):
            figures = {}
            for k, step in enumerate(STEPS):
                a, b = generator.random(2) + 0.5
                look = (a, 30 * b if name == "scale" else b, generator.normal(0, 0.05))
                if name == "difficulty" and seed == 0 and k < len(CORNERS):
                    look = list(CORNERS.values())[k]
                figures |= {f"norm, {tasks[0]} @ {step}": look[0], f"norm, {tasks[1]} @ {step}": look[1]}
                figures["cosine, {} and {} @ {}".format(*tasks, step)] = look[2]
            ledger.record(condition.row, seed, figures)
    return ledger


LEDGER = toy_ledger()


@pytest.fixture(scope="module")
def widgets():
    one = Ledger("balancing", "cpu")
    one.record("balanced, equal", 4, LEDGER.seeds("balanced, equal")["1"])
    return {
        "compass": GradientCompass(LEDGER),
        "one": GradientCompass(one, {"balanced": CONDITIONS["balanced"]}, look=3),
    }


def choose(page, condition, look, seed=0):
    page.get_by_role("radio", name=condition).check()
    page.get_by_role("combobox").select_option(index=seed)
    page.get_by_role("slider").fill(str(look))


def corner(page, name):
    choose(page, "difficulty", list(CORNERS).index(name))


def number(text):
    return float(text.rstrip("°%").replace("−", "-"))


def cells(page):
    return [row.locator("td").all_inner_texts() for row in page.locator(".mmt-effects tr").all()[1:]]


def points_of(path):
    """The points of a path of straight lines, ``(N, 2)``."""
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get_attribute("d")), float)


def ends(path):
    return points_of(path)[[0, -1]]


# --- the figures ----------------------------------------------------------------------------------------


def test_page_computes_what_python_computes(show, address, widgets):
    page, compass = show("compass"), widgets["compass"]
    shown = [(c["name"], s, k) for c in compass.conditions for s in compass.seeds for k in range(len(STEPS))]
    runs = {c["name"]: c["runs"] for c in compass.conditions}
    asked = [(runs[c][compass.seeds.index(s)], k) for c, s, k in shown]
    asked = [[run["lengths"][k], run["cosines"][k]] for run, k in asked]
    found = page.evaluate(
        f"""async asked => {{ const {{ compass }} = await import("{address}/GradientCompass.js");
        return asked.map(([lengths, cosine]) => compass(lengths, cosine)); }}""",
        asked,
    )
    for (compass.condition, compass.seed, compass.look), told in zip(shown, found, strict=True):
        values = compass.values()
        assert told["angle"] == pytest.approx(values["angle"], abs=1e-9)
        for i, name in enumerate(DIRECTIONS):
            effects = [values[f"{name}, style"], values[f"{name}, group"]]
            assert told["effects"][i] == pytest.approx(effects, abs=1e-9)
            assert told["turns"][i] == pytest.approx(values.get(f"turn, {name}", 0), abs=1e-6)
    assert json.dumps(found).count("null") == 0  # JSON's word for what is not finite


@pytest.mark.parametrize("condition", CONDITIONS)
def test_text_and_table_say_python_s_figures(show, widgets, condition):
    page, compass = show("compass"), widgets["compass"]
    for seed, look in [(1, 0), (2, 7), (1, 19)]:
        choose(page, condition, look, seed)
        compass.condition, compass.seed, compass.look = condition, seed, look
        values, status = compass.values(), page.locator(".mmt-status")
        expect(status).to_contain_text(f"{condition}, step {STEPS[look]}: ")
        expect(status).to_contain_text(f"{values['angle']:.1f}° apart")
        conflict = "in conflict" if values["angle"] > 90 else "not in conflict"
        expect(status).to_contain_text(f"), {conflict}; that of")
        lengths = [values["length, style"], values["length, group"]]
        times = float(re.search(r"that of \w+ is ([\d.]+) times", status.inner_text()).group(1))
        assert times == pytest.approx(max(lengths) / min(lengths), rel=0.05)
        for name, (turn, *effects) in zip(DIRECTIONS, cells(page), strict=True):
            wanted = [100 * values[f"{name}, {task}"] for task in ("style", "group")]
            assert [number(text) for text in effects] == pytest.approx(wanted, abs=0.51)
            if name == "sum":
                assert turn == "–"
            else:
                assert number(turn) == pytest.approx(values[f"turn, {name}"], abs=0.051)
        in_text = ["sum", "PCGrad", "equal lengths"] if values["angle"] > 90 else ["sum", "equal lengths"]
        wanted = [100 * abs(values[f"{name}, {task}"]) for name in in_text for task in ("style", "group")]
        said = [int(share) for share in re.findall(r" at (\d+)%", status.inner_text())]
        assert said == pytest.approx(wanted, abs=0.51)
        if values["angle"] > 90:
            expect(status).to_contain_text(f"Surgery turns the sum by {values['turn, PCGrad']:.1f}°")
        else:
            expect(status).to_contain_text("Surgery changes nothing.")
        assert page.get_by_role("slider").get_attribute("aria-valuetext") == f"step {STEPS[look]}"


def test_a_direction_that_raises_a_loss_says_so(show):
    page = show("compass")
    corner(page, "unequal")
    expect(page.locator(".mmt-status")).to_contain_text("down along the sum raises style at")
    assert cells(page)[0][1].startswith("−") and cells(page)[1][1][0].isdigit()


def test_opens_as_python_said_without_kernel_error_or_network(show):
    page = show("compass")
    assert page.locator(".mmt-fallback").count() == 0
    assert page.locator(".mmt-try em").inner_text().count("?") == 1
    assert page.get_by_role("radio", name="balanced").is_checked()
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "step 0"
    one = show("one")
    assert one.get_by_role("radio").count() == one.get_by_role("combobox").count() == 0  # nothing to choose
    assert one.get_by_role("slider").get_attribute("aria-valuetext") == "step 120"
    assert "all" not in one.locator(".mmt-heading").inner_text()


# --- the drawing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conflict", "agreement", "surgery"])
def test_arrows_have_the_true_angle_and_lengths_to_scale(show, name):
    page = show("compass")
    corner(page, name)
    a, b, cosine = CORNERS[name]
    expected = plane_gradients(np.array([a, b]) / max(a, b), cosine) * [118, -118]
    for head, onward, g in zip(
        page.locator(".mmt-head").all(), page.locator(".mmt-onward").all(), expected, strict=True
    ):
        centre, rim = ends(onward)
        tip = ends(head)[0]
        assert tip - centre == pytest.approx(g, abs=0.11)
        _, one, other = points_of(head)
        assert abs((one - other) @ g) < 0.2 * np.linalg.norm(g) and np.linalg.norm(
            one - other
        ) == pytest.approx(14, abs=0.2)
        assert rim - centre == pytest.approx(150 * g / np.linalg.norm(g), abs=0.11)


def test_directions_end_at_the_rim_and_lie_where_python_has_them(show, widgets):
    page, compass = show("compass"), widgets["compass"]
    corner(page, "surgery")
    compass.condition, compass.seed, compass.look = "difficulty", 0, list(CORNERS).index("surgery")
    _, directions = compass._plane()
    dashes = set()
    for line, way in zip(page.locator(".mmt-plane .mmt-way").all(), directions, strict=True):
        centre, rim = ends(line)
        assert rim - centre == pytest.approx(way * [150, -150], abs=0.11)
        dashes.add(line.evaluate("node => getComputedStyle(node).strokeDasharray"))
    assert len(dashes) == 3  # told apart without colour


def test_a_gradient_too_short_to_be_seen_is_drawn_hollow_and_no_shorter(show):
    page = show("compass")
    corner(page, "unequal")
    fills = [head.get_attribute("fill") for head in page.locator(".mmt-head").all()]
    assert fills[0] == "none" != fills[1]
    centre, _ = ends(page.locator(".mmt-onward").first)
    assert np.linalg.norm(ends(page.locator(".mmt-head").first)[0] - centre) == pytest.approx(24, abs=0.11)
    assert "hollow: too short to be seen" in page.locator(".mmt-key").inner_text()
    corner(page, "surgery")
    assert "none" not in [head.get_attribute("fill") for head in page.locator(".mmt-head").all()]


def test_without_a_gradient_it_says_so_and_draws_the_rest(show):
    page = show("compass")
    corner(page, "no group")
    expect(page.locator(".mmt-status")).to_have_text("difficulty, step 80: no gradient of group.")
    assert page.locator(".mmt-head").count() == 1 and page.locator(".mmt-plane .mmt-way").count() == 3
    assert [row[2] for row in cells(page)] == ["–", "–", "–"] and cells(page)[0][1] == "100%"
    corner(page, "nothing")
    expect(page.locator(".mmt-status")).to_contain_text("no gradient of style and group")
    assert page.locator(".mmt-head, .mmt-plane .mmt-way").count() == 0
    assert "no gradient" in page.locator(".mmt-plane").text_content()
    assert "NaN" not in page.content()


def test_opposed_gradients_leave_surgery_without_direction(show):
    page = show("compass")
    corner(page, "opposed")
    expect(page.locator(".mmt-status")).to_contain_text("Surgery goes nowhere.")
    assert page.locator(".mmt-plane .mmt-way").count() == 1
    assert cells(page)[1] == cells(page)[2] == ["–", "–", "–"]
    assert "PCGrad" not in page.locator(".mmt-plane").text_content()


@pytest.mark.parametrize("width", [400, 800])
def test_labels_of_the_compass_never_overlap(show, boxes_apart, width):
    page = show("compass", viewport={"width": width, "height": 700})
    for condition, looks in {
        "difficulty": range(len(CORNERS)),
        "scale": range(6),
        "balanced": range(6),
    }.items():
        for look in looks:
            choose(page, condition, look)
            labels = page.locator(".mmt-plane g text").all()
            assert boxes_apart(labels), (condition, look)


def test_chart_draws_every_run_to_scale_and_marks_the_look(show, widgets):
    page = show("compass")
    choose(page, "scale", 5, 2)
    run = widgets["compass"].conditions[1]["runs"][2]
    assert page.locator(".mmt-run").count() == 3 and page.locator(".mmt-own").count() == 1
    places = page.locator(".mmt-look").evaluate_all(
        "all => all.map(c => [c.cx, c.cy, c.r].map(x => x.baseVal.value))"
    )
    places = np.array(places)
    zero = ends(page.locator(".mmt-zero"))[0][1]
    unit = (zero - 8) / 1  # the axis goes to 1: the corners need it
    assert places[:, 1] == pytest.approx(zero - unit * np.array(run["cosines"]), abs=0.01)
    assert places[:, 2].argmax() == 5
    assert ends(page.locator(".mmt-here"))[0][0] == pytest.approx(places[5, 0], abs=0.06)
    shaded = page.locator(".mmt-course .mmt-conflict")
    assert float(shaded.get_attribute("y")) == pytest.approx(zero)
    below = sum(cosine < 0 for cosine in run["cosines"])
    runs = widgets["compass"].conditions[1]["runs"]
    in_all = sum(cosine < 0 for each in runs for cosine in each["cosines"])
    expect(page.locator(".mmt-heading")).to_contain_text(
        f"below zero at {below} of 20 looks in this run, at {in_all} of 60 in all 3 runs"
    )


# --- use ------------------------------------------------------------------------------------------------


def test_everything_answers_the_keyboard(show):
    page = show("compass")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="scale").is_checked()
    expect(page.locator(".mmt-status")).to_contain_text("scale, step 0: ")
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox")).to_be_focused()
    before = page.locator(".mmt-own").get_attribute("d")
    page.keyboard.press("ArrowDown")
    assert page.locator(".mmt-own").get_attribute("d") != before
    page.keyboard.press("Tab")
    slider = page.get_by_role("slider")
    expect(slider).to_be_focused()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "step 40"
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "step 760"
    expect(page.locator(".mmt-status")).to_contain_text("scale, step 760: ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_both_themes(show, scheme):
    page = show("compass", color_scheme=scheme)
    corner(page, "unequal")
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []
    assert "134.4° apart" in page.locator(".mmt-plane").get_attribute("aria-label")


def test_fits_a_narrow_touch_screen(show):
    page = show("compass", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for name in CORNERS:
        corner(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for control in page.locator(".mmt label, .mmt input[type=range], .mmt select, .mmt table").all():
        box = control.bounding_box()
        assert box["height"] >= 24 and box["x"] >= 0 and box["x"] + box["width"] <= 360
    page.get_by_text("scale", exact=True).tap()
    assert page.get_by_role("radio", name="scale").is_checked()


def test_two_compasses_on_a_page_do_not_share_their_choice(show):
    page = show("all twice")
    page.wait_for_function("document.querySelectorAll('.mmt-compass .mmt-try').length === 4")
    first, second = page.locator(".mmt-compass").nth(0), page.locator(".mmt-compass").nth(2)
    first.get_by_role("radio", name="data").check()
    first.get_by_role("slider").fill("4")
    assert second.get_by_role("radio", name="balanced").is_checked()
    assert second.get_by_role("slider").get_attribute("aria-valuetext") == "step 0"


def test_labels_are_text_never_markup(open_page, publish):
    rows, tasks = {HOSTILE: Condition("a row", HOSTILE), "plain": Condition("another row")}, (HOSTILE, "b")
    compass = GradientCompass(toy_ledger(rows, tasks), rows, tasks=tasks)
    visit = open_page(publish({"hostile": compass}) + "/hostile.html")
    visit.page.wait_for_selector(".mmt-try")
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    assert HOSTILE in visit.page.locator(".mmt-status").inner_text()
    assert HOSTILE in visit.page.locator(".mmt-plane").inner_html().replace("&lt;", "<").replace("&gt;", ">")
    assert visit.errors == [] and visit.outside == []
