"""The slider of soft sharing in a real browser: it says and draws Python's figures, and answers."""

import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.ledger import Ledger
from mmtutor.widgets import SharingSlider
from mmtutor.widgets.sharing_slider import PAIRS, STRENGTHS, TiedPair

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
STEPS = (0, 50, 100, 150)
LACKING = "style + group, soft, λ = 3"


def toy_ledger(pairs=PAIRS):
    """Three runs that never were of every row that pairs need, of the lacking one a single run."""
    ledger, generator = Ledger("sharing", "cpu"), np.random.default_rng(0)
    for name, pair in pairs.items():
        for strength, distance in zip(STRENGTHS, (13.2, 8.81, 4.4, 0.99, 0.0799, 0.00238, 0), strict=True):
            row = f"{name}, soft, λ = {strength}"
            for seed in range(1 if row == LACKING else 3):
                looked = {**{task: generator.random() for task in pair.tasks}, "distance": distance}
                cosine = "cosine, {} and {}".format(*pair.tasks)
                figures = {**looked, cosine: generator.normal() / 20}
                for step in STEPS:
                    figures |= {f"{what} @ {step}": x * step / STEPS[-1] for what, x in looked.items()}
                    figures[f"{cosine} @ {step}"] = generator.normal() / 20
                ledger.record(row, seed, figures)
        for row in {pair.hard, *pair.alone.values()} - {None}:
            ledger.record(row, 0, {task: generator.random() for task in pair.tasks})
    return ledger


LEDGER = toy_ledger()


@pytest.fixture(scope="module")
def widgets():
    one = {"style + group": PAIRS["style + group"]}
    return {"slider": SharingSlider(LEDGER), "one": SharingSlider(LEDGER, one, strength="∞")}


def choose(page, strength, pair=None):
    if pair is not None:
        page.get_by_role("radio", name=pair).check()
    page.get_by_role("slider").fill(str(STRENGTHS.index(strength)))


def in_page(page, address, expression):
    return page.evaluate(f'async () => (await import("{address}/SharingSlider.js")).{expression}')


def coordinates(path):
    """The points of a path of straight lines, ``(N, 2)``."""
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get_attribute("d")), float)


def assert_drawn_to_scale(heights, values, slack=0.002):
    """Heights on the page (downwards) are values, but for a shift and a scale."""
    slope, shift = np.polyfit(values, heights, 1)
    assert slope < 0
    assert np.abs(slope * np.array(values) + shift - heights).max() < slack * abs(slope) + 0.1


@pytest.mark.parametrize("pair", PAIRS)
def test_every_stop_says_python_s_figures(show, widgets, pair):
    page, slider = show("slider"), widgets["slider"]
    status, tasks = page.locator(".mmt-status"), list(PAIRS[pair].tasks)
    slider.pair = pair
    for strength in STRENGTHS:
        choose(page, strength, pair)
        slider.strength, row = strength, f"{pair}, soft, λ = {strength}"
        cosine = LEDGER.text(row, "cosine, {} and {}".format(*tasks))
        expect(status).to_contain_text(f"λ = {strength}: {tasks[0]} {LEDGER.text(row, tasks[0])}")
        expect(status).to_contain_text(f"{tasks[1]} {LEDGER.text(row, tasks[1])}")
        expect(status).to_contain_text(f"mean cosine of the gradients {cosine}.")
        said = re.search(
            r": \S+ (\S+).*; \S+ (\S+).* Weights (\S+) apart; .* gradients (\S+)", status.inner_text()
        )
        said = [float(number.rstrip(".,;").replace("−", "-")) for number in said.groups()]
        assert said == pytest.approx(list(slider.values().values()), rel=0.05, abs=0.0006)
        assert page.get_by_role("slider").get_attribute("aria-valuetext") == strength


@pytest.mark.parametrize("pair", PAIRS)
def test_table_holds_all_figures_of_the_ledger(show, pair):
    page, tasks = show("slider"), list(PAIRS[pair].tasks)
    choose(page, "10", pair)
    page.get_by_text("All figures").click()
    rows = [row.locator("th, td").all_inner_texts() for row in page.locator(".mmt-figures tr").all()]
    assert [row[0] for row in rows] == ["λ", *STRENGTHS, "alone", "hard"]
    for strength, found in zip(STRENGTHS, rows[1:], strict=False):
        row = f"{pair}, soft, λ = {strength}"
        assert found[1:3] == [LEDGER.text(row, task) for task in tasks]
        assert found[4] == LEDGER.text(row, "cosine, {} and {}".format(*tasks))
    alone = PAIRS[pair].alone
    assert rows[-2][1:3] == [LEDGER.text(alone[t], t) if t in alone else "–" for t in tasks]
    assert rows[-1][1:3] == [LEDGER.text(PAIRS[pair].hard, t) for t in tasks]
    assert page.locator("[aria-current=true] th").inner_text() == "10"


def test_opens_between_apart_and_tied_without_kernel_error_or_network(show, widgets):
    page = show("slider")
    assert page.locator(".mmt-fallback").count() == 0
    assert page.locator(".mmt-try em").inner_text().count("?") == 1
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "1"
    assert page.locator(".mmt-chart").count() == 5
    assert show("one").get_by_role("radio").count() == 0  # nothing to choose from


def test_charts_draw_the_means_to_scale_and_mark_the_present_one(show, widgets):
    page, slider = show("slider"), widgets["slider"]
    choose(page, "0.3", "style + group")
    shown = slider.pairs[1]
    for t in range(2):
        chart = page.locator(".mmt-scores .mmt-chart").nth(t)
        means = [score["mean"] for score in shown["tasks"][t]["scores"]]
        assert_drawn_to_scale(coordinates(chart.locator(".mmt-line"))[:, 1], means)
        boxes = [mark.bounding_box() for mark in chart.locator(".mmt-mean").all()]
        widest = max(range(7), key=lambda k: boxes[k]["width"])  # noqa: B023
        assert widest == STRENGTHS.index("0.3") and chart.locator(".mmt-seed").count() == 3
        here = chart.locator(".mmt-here").get_attribute("x1")
        assert float(here) == pytest.approx(coordinates(chart.locator(".mmt-line"))[2, 0], abs=0.06)
    scores, apart, turned = page.locator(".mmt-courses .mmt-chart").all()
    for t in range(2):
        heights = coordinates(scores.locator(".mmt-line").nth(t))[:, 1]
        assert_drawn_to_scale(heights, shown["tasks"][t]["course"][2]["mean"])
    drawn = coordinates(apart.locator(".mmt-line:not(.mmt-faint)"))[:, 1]  # at step 0 the trunks are one
    assert_drawn_to_scale(drawn, np.log10(shown["distance"]["course"][2]["mean"][1:]))
    assert apart.locator(".mmt-faint").count() == turned.locator(".mmt-faint").count() == 6
    line = coordinates(turned.locator(".mmt-line:not(.mmt-faint)"))
    zero = float(turned.locator(".mmt-zero").get_attribute("y1"))
    unit = (float(turned.locator(".mmt-grid").nth(0).get_attribute("y1")) - zero) / 1
    cosines = shown["cosine"]["course"][2]["mean"]
    assert len(line) == 3 and line[:, 1] == pytest.approx(zero - unit * np.array(cosines), abs=0.06)


def test_a_stiffer_spring_is_shorter_and_ends_in_one_node(show):
    page = show("slider", reduced_motion="reduce")
    spring, moving = page.locator(".mmt-spring"), page.locator(".mmt-moving")
    places, widths = [], []
    for strength in STRENGTHS:
        choose(page, strength)
        places.append(moving.bounding_box()["x"] + moving.bounding_box()["width"])
        widths.append(float(spring.get_attribute("stroke-width")))
        assert (spring.get_attribute("class") == "mmt-spring mmt-none") == (strength == "0")
    assert places == sorted(places, reverse=True) and widths == sorted(widths)
    trunks = page.locator(".mmt-trunks")
    assert trunks.get_attribute("aria-label") == "One trunk for digit and morphological"
    node, half = trunks.locator("circle").bounding_box(), moving.locator("path").bounding_box()
    assert half["width"] == pytest.approx(node["width"] / 2, abs=0.5)
    assert half["x"] == pytest.approx(node["x"] + node["width"] / 2, abs=0.5)
    choose(page, "3")
    assert trunks.get_attribute("aria-label").endswith("on a spring, .080 apart")


def test_everything_answers_the_keyboard(show):
    page = show("slider")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="style + group").is_checked()
    assert page.locator(".mmt-scores .mmt-task").all_inner_texts() == ["style", "group"]
    page.keyboard.press("Tab")
    slider = page.get_by_role("slider")
    expect(slider).to_be_focused()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "3"
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "∞"
    expect(page.locator(".mmt-status")).to_contain_text("λ = ∞: style")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".mmt-figures table").is_visible()


def test_a_stop_where_seeds_lack_is_drawn_hollow_and_says_so(show):
    page = show("slider")
    choose(page, "3", "style + group")
    expect(page.locator(".mmt-status")).to_contain_text("Recorded here: 1 of 3 runs.")
    marks = page.locator(".mmt-scores .mmt-chart").first.locator(".mmt-mean")
    fills = marks.evaluate_all("marks => marks.map(mark => mark.getAttribute('fill') === 'none')")
    assert fills == [strength == "3" for strength in STRENGTHS]
    choose(page, "10")
    expect(page.locator(".mmt-status")).not_to_contain_text("Recorded here")


def test_highest_mean_is_said_at_its_stop_only(show):
    page = show("slider")
    task = "digit"
    best = max(STRENGTHS, key=lambda s: LEDGER.mean(f"digits + morphological, soft, λ = {s}", task))
    for strength in STRENGTHS:
        choose(page, strength)
        expect(page.locator(".mmt-status")).to_contain_text(f"λ = {strength}: ")
        told = page.locator(".mmt-status").inner_text().split("; ")[0]
        assert told.endswith("its highest mean") == (strength == best)


def test_ticks_are_round_and_inside(show, address):
    page = show("slider")
    for low, high in [(0.83, 0.87), (0.1, 0.93), (-0.3, 1.0), (0.5, 0.5004), (0, 7)]:
        found = in_page(page, address, f"niceTicks({low}, {high})")
        ticks = found["ticks"]
        assert 2 <= len(ticks) <= 6 and min(ticks) >= low - 1e-9 and max(ticks) <= high + 1e-9
        said = [f"{tick:.{found['places']}f}" for tick in ticks]
        assert len(set(said)) == len(said)
        assert [float(text) for text in said] == pytest.approx(ticks, abs=1e-9)
    assert in_page(page, address, "decades([0, 0.0024, 13])") == [-3, 2]
    assert in_page(page, address, "decades([0, 1])") == [0, 1]
    assert in_page(page, address, "decades([0])") == [0, 1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_both_themes(show, scheme):
    page = show("slider", color_scheme=scheme)
    page.get_by_text("All figures").click()
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []


def test_fits_a_narrow_touch_screen(show):
    page = show("slider", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.get_by_text("All figures").click()
    for pair in PAIRS:
        for strength in STRENGTHS:
            choose(page, strength, pair)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for control in page.locator(".mmt label, .mmt input[type=range], .mmt summary, .mmt table").all():
        box = control.bounding_box()
        assert box["height"] >= 24 and box["x"] >= 0 and box["x"] + box["width"] <= 360
    page.get_by_text("style + group").tap()
    assert page.get_by_role("radio", name="style + group").is_checked()


def test_two_sliders_on_a_page_do_not_share_their_choice(show):
    page = show("all twice")
    page.wait_for_function("document.querySelectorAll('.mmt-sharing .mmt-try').length === 4")
    first, second = page.locator(".mmt-sharing").nth(0), page.locator(".mmt-sharing").nth(2)
    first.get_by_role("radio", name="style + group").check()
    first.get_by_role("slider").fill("0")
    assert second.get_by_role("radio", name="digits + morphological").is_checked()
    assert second.get_by_role("slider").get_attribute("aria-valuetext") == "1"


def test_labels_are_text_never_markup(open_page, publish):
    pairs = {HOSTILE: TiedPair({HOSTILE: HOSTILE, "b": HOSTILE}, about=HOSTILE)}
    pairs["plain"] = TiedPair({"c": "R²", "d": "R²"})
    visit = open_page(publish({"hostile": SharingSlider(toy_ledger(pairs), pairs)}) + "/hostile.html")
    visit.page.wait_for_selector(".mmt-try")
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    assert HOSTILE in visit.page.locator(".mmt-status").inner_text()
    assert visit.errors == [] and visit.outside == []
