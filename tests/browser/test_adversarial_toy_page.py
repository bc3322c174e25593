"""The adversarial toy in a real browser: it computes and says Python's numbers, learns, and answers keys."""

import math

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.widgets import AdversarialToy
from mmtutor.widgets.adversarial_toy import LOSSES
from tests.test_adversarial_toy import states

NAMES = ["js", "kl", "reading", "slope_mean", "slope_log_sd"]


@pytest.fixture(scope="module")
def widgets():
    near = AdversarialToy(real=[(1, 0, 1)], mean=1, sd=0.5, weights=(3, 1), loss="matching")
    return {"opening": AdversarialToy(), "one hill": near}


def shown(page):
    cells = page.locator(".mmt-numbers td:nth-child(2)").all_inner_texts()
    return dict(zip(NAMES, [float(cell.replace("−", "-")) for cell in cells], strict=True))


def bell(page):
    return [float(page.get_by_label(name).input_value()) for name in ("place m", "width s")]


def choose(page, loss):
    page.get_by_role("radio", name=loss).check()


def test_page_computes_python_s_numbers(show, address):
    given = [*states(30)]
    found = show("opening").evaluate(
        f"""async given => {{ const {{ values }} = await import("{address}/AdversarialToy.js");
        return given.map(values); }}""",
        given,
    )
    for state, numbers in zip(given, found, strict=True):
        assert numbers == pytest.approx(AdversarialToy(**state).values(), abs=1e-6)


def test_one_step_of_learning_goes_down_python_s_slopes(show, address):
    given = [*states(10)]
    found = show("opening").evaluate(
        f"""async given => {{ const {{ learn }} = await import("{address}/AdversarialToy.js");
        return given.map(learn); }}""",
        given,
    )
    for state, new in zip(given, found, strict=True):
        slopes = AdversarialToy(**state).values()
        mean = min(5, max(-5, state["mean"] - 0.05 * slopes["slope_mean"]))
        sd = min(2, max(0.2, state["sd"] * math.exp(-0.05 * slopes["slope_log_sd"])))
        assert [new["mean"], new["sd"]] == pytest.approx([mean, sd], abs=1e-6)


@pytest.mark.parametrize("name", ["opening", "one hill"])
def test_what_is_shown_is_what_python_says(show, widgets, name):
    page, toy = show(name), widgets[name]
    values = toy.values()
    assert shown(page) == pytest.approx(values, abs=6e-4)
    status = page.locator(".mmt-status")
    expect(status).to_contain_text(f"JS is {values['js']:.2f}, KL(p_g‖p_r) is {values['kl']:.2f}.")
    expect(page.get_by_role("radio", name=toy.loss)).to_be_checked()
    assert bell(page) == pytest.approx([toy.mean, toy.sd], abs=0.03)


def test_a_slider_moves_the_bell_by_keys(show):
    page = show("opening")
    page.get_by_label("place m").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    mean, sd = bell(page)
    assert mean == pytest.approx(-4.0) and sd == pytest.approx(0.5)
    assert shown(page) == pytest.approx(AdversarialToy(mean=mean, sd=sd).values(), abs=6e-4)
    page.get_by_role("button", name="Start again").click()
    assert bell(page)[0] == pytest.approx(-4.5)


def test_weights_change_the_reading_and_not_the_divergence(show):
    page = show("opening")
    before = shown(page)
    page.get_by_label("w_r : w_g").select_option("3 : 1")
    after = shown(page)
    assert after["kl"] == pytest.approx(before["kl"], abs=2e-3)
    assert after["reading"] == pytest.approx(before["reading"] - math.log(3), abs=2e-3)


def test_learning_ends_on_one_hill_or_across_both_by_the_loss(show):
    page = show("opening", reduced_motion="reduce")  # no animation: where it ends is there at once
    ends = {}
    for loss in LOSSES:
        choose(page, loss)
        page.get_by_role("button", name="Let it learn").click()
        ends[loss] = (bell(page), shown(page))
        page.get_by_role("button", name="Start again").click()
    assert ends["minimax"][0][1] > 1.5 and abs(ends["minimax"][0][0]) < 0.5
    for loss in ("matching", "non-saturating"):
        assert ends[loss][0] == pytest.approx([-1.5, 0.62], abs=0.06)
        assert ends["minimax"][1]["js"] < ends[loss][1]["js"]
        assert ends["minimax"][1]["kl"] > ends[loss][1]["kl"]


def test_learning_can_be_watched_and_stopped(show):
    page = show("opening")
    choose(page, "matching")
    page.get_by_role("button", name="Let it learn").click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.wait_for_function("document.querySelector('input[type=range]').value > -4")
    expect(page.get_by_role("button", name="Let it learn")).to_be_visible(timeout=20000)
    page.get_by_role("button", name="Let it learn").focus()
    page.get_by_label("place m").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="Let it learn")).to_be_visible()


def test_every_control_is_reached_by_tab(show):
    page = show("opening")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.tagName + (document.activeElement.type || '')"))
        style = page.locator(":focus").evaluate("node => getComputedStyle(node).outlineStyle")
        assert style != "none"
    assert seen == ["INPUTradio", "BUTTONbutton", "BUTTONbutton", "SELECTselect-one"] + 2 * ["INPUTrange"]


@pytest.mark.parametrize("width", [400, 800])
def test_texts_never_leave_a_narrow_page(show, boxes_apart, width):
    page = show("opening", viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert boxes_apart(page.locator("svg.mmt-line-chart text").all())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_is_accessible_in_light_and_dark(show, scheme):
    page = show("opening", color_scheme=scheme)
    found = Axe().run(page)
    assert [v["id"] for v in found.response["violations"] if v["impact"] in ("serious", "critical")] == []


def test_two_on_one_page_do_not_disturb_each_other(open_page, address):
    page = open_page(f"{address}/all twice.html").page
    page.wait_for_function("document.querySelectorAll('.mmt-adversary .mmt-try').length === 4")
    first, third = (page.locator(".mmt-adversary").nth(i) for i in (0, 2))
    first.get_by_role("radio", name="matching").check()
    expect(third.get_by_role("radio", name="minimax")).to_be_checked()
