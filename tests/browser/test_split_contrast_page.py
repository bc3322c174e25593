"""The split contrast in a real browser: it computes Python's numbers, goes down, and answers keys."""

import math

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.widgets import SplitContrast
from mmtutor.widgets.split_contrast import PAIRS, RATE
from tests.test_split_contrast import states

DETACHED = "all, other parts' without a gradient"


@pytest.fixture(scope="module")
def widgets():
    return {"opening": SplitContrast(), "own": SplitContrast("own", 8, 0.6, (0.5, -0.3))}


def whole_state(split):
    return {name: getattr(split, name) for name in ("way", "parts", "correlation", "weights", "x", "rest")}


def ball(page):
    said = page.get_by_role("slider", name="both weights").get_attribute("aria-valuetext")
    return [float(part.split()[1].replace("−", "-")) for part in said.split(", ")]


def go_down(page):
    page.get_by_role("button", name="Go down").click()


def test_page_computes_python_s_numbers_and_steps(show, address):
    splits = [SplitContrast(**state) for state in states(18)]
    found = show("opening").evaluate(
        f"""async given => {{ const {{ values, step }} = await import("{address}/SplitContrast.js");
        return given.map(state => [values(state), step(state)]); }}""",
        [whole_state(split) for split in splits],
    )
    for split, (numbers, weights) in zip(splits, found, strict=True):
        expected = split.values()
        assert numbers == pytest.approx(expected, abs=1e-6)
        stepped = [w - RATE * expected[f"slope_{k}"] for w, k in zip(split.weights, "ab", strict=True)]
        assert weights == pytest.approx([max(-1.3, min(1.3, w)) for w in stepped], abs=1e-6)


@pytest.mark.parametrize("name", ["opening", "own"])
def test_what_is_shown_is_what_python_says(show, widgets, name):
    page, split = show(name), widgets[name]
    loss = f"The loss of the whole batch is {split.values()['loss']:.3f}; one point for all has 4.159."
    expect(page.locator(".mmt-status")).to_contain_text(loss)
    assert ball(page) == pytest.approx(split.weights, abs=0.006)
    expect(page.get_by_role("radio", checked=True)).to_have_value(split.way)
    assert page.get_by_label("machines").evaluate("node => node.selectedOptions[0].text") == str(split.parts)


def test_without_gradients_unlike_pairs_fall_into_one_point_and_the_loss_rises(show):
    page = show("opening", reduced_motion="reduce")  # no animation: where it ends is there at once
    go_down(page)
    assert ball(page) == [0, 0]
    expect(page.locator(".mmt-status")).to_contain_text(f"{math.log(PAIRS):.3f}, up from 4.131")
    expect(page.locator(".mmt-status")).to_contain_text("as good as one point")
    page.get_by_role("button", name="Start again").click()
    page.get_by_role("radio", name="all candidates").check()
    go_down(page)
    assert min(ball(page)) > 0.2
    expect(page.locator(".mmt-status")).to_contain_text("down from 4.131")


@pytest.mark.parametrize(
    ("correlation", "machines", "collapses"), [(0.3, "2", False), (0.4, "8", True), (0.5, "8", False)]
)
def test_where_it_flips_depends_on_the_number_of_machines(show, correlation, machines, collapses):
    page = show("opening", reduced_motion="reduce")
    page.get_by_label("machines").select_option(machines)
    page.get_by_label("correlation of a pair").fill(str(correlation))
    go_down(page)
    assert (max(map(abs, ball(page))) < 0.02) == collapses


def test_going_down_can_be_watched_and_stopped(show):
    page = show("opening")
    go_down(page)
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Go down")).to_be_visible()
    go_down(page)
    expect(page.get_by_role("button", name="Go down")).to_be_visible(timeout=20000)
    assert ball(page) == [0, 0]


def test_the_ball_moves_by_keys_and_by_hand(show):
    page = show("opening")
    page.get_by_role("slider", name="both weights").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert ball(page) == pytest.approx([0.5, 0.25])
    box = page.locator(".mmt-plane").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.up()
    assert ball(page) == [-1.3, 1.3]  # the far corner, and no farther


def test_every_control_is_reached_by_tab(show):
    page = show("opening")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.tagName + (document.activeElement.type || '')"))
    assert seen == ["INPUTradio", "SELECTselect-one", "INPUTrange"] + 2 * ["BUTTONbutton"] + ["circle"]


@pytest.mark.parametrize("width", [400, 800])
def test_texts_never_leave_a_narrow_page(show, boxes_apart, width):
    page = show("opening", viewport={"width": width, "height": 900}, reduced_motion="reduce")
    go_down(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert boxes_apart(page.locator("svg.mmt-course text").all())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_is_accessible_in_light_and_dark(show, scheme):
    page = show("opening", color_scheme=scheme)
    found = Axe().run(page)
    assert [v["id"] for v in found.response["violations"] if v["impact"] in ("serious", "critical")] == []


def test_two_on_one_page_do_not_disturb_each_other(open_page, address):
    page = open_page(f"{address}/all twice.html").page
    page.wait_for_function("document.querySelectorAll('.mmt-split .mmt-try').length === 4")
    first, third = (page.locator(".mmt-split").nth(i) for i in (0, 2))
    first.get_by_role("radio", name="all candidates").check()
    expect(third.get_by_role("radio", name=DETACHED)).to_be_checked()
