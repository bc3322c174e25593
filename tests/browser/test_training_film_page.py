"""The training film in a real browser: the slider and Play move it, it says what Python says."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.test_training_film import STEPS, a_film


@pytest.fixture(scope="module")
def widgets():
    return {"opening": a_film(), "later": a_film(look=2)}


def said(look):
    film = a_film(look=look)
    values = ", ".join(f"{name} {value:.2f}" for name, value in film.values().items())
    return f"Step {STEPS[look]}. The discriminator's mean D: {values}."


def shots(page):
    return page.locator(".mmt-shot").evaluate_all("all => all.map(c => c.toDataURL())")


def test_keys_move_through_the_looks_and_all_pictures_change(show):
    page = show("opening")
    time, seen = page.get_by_role("slider", name="training"), []
    time.focus()
    for look in range(len(STEPS)):
        expect(page.locator(".mmt-status")).to_have_text(said(look))
        assert time.get_attribute("aria-valuetext") == f"step {STEPS[look]}"
        seen.append(shots(page))
        page.keyboard.press("ArrowRight")
    for a, b in zip(seen, seen[1:], strict=False):
        assert all(x != y for x, y in zip(a, b, strict=True))


def test_page_computes_python_s_numbers(show, address):
    films = [a_film(look=look) for look in range(len(STEPS))]
    given = [{"steps": film.steps, "curves": film.curves, "look": film.look} for film in films]
    found = show("opening").evaluate(
        f"""async given => {{ const {{ values }} = await import("{address}/TrainingFilm.js");
        return given.map(values); }}""",
        given,
    )
    assert found == [pytest.approx(film.values(), abs=1e-9) for film in films]


def test_play_runs_to_the_end_and_stops(show):
    page = show("later")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_role("button", name="Play")).to_be_visible(timeout=5000)
    expect(page.locator(".mmt-status")).to_have_text(said(len(STEPS) - 1))
    page.get_by_role("button", name="Play").click()  # from the end it begins again
    page.get_by_role("slider", name="training").focus()
    page.keyboard.press("ArrowRight")  # a hand on the slider stops it
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    expect(page.locator(".mmt-status")).to_have_text(said(1))


def test_every_control_is_reached_by_tab(show):
    page = show("opening")
    for name in ("BUTTON", "INPUT"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") == name
        assert page.locator(":focus").evaluate("node => getComputedStyle(node).outlineStyle") == "solid"


@pytest.mark.parametrize("width", [360, 800])
def test_stays_on_a_narrow_page(show, boxes_apart, width):
    page = show("opening", viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert boxes_apart(page.locator("svg.mmt-line-chart text").all())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_is_accessible_in_light_and_dark(show, scheme):
    found = Axe().run(show("opening", color_scheme=scheme)).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []


def test_two_on_one_page_run_apart(open_page, address):
    page = open_page(f"{address}/all twice.html").page
    page.wait_for_function("document.querySelectorAll('.mmt-film .mmt-try').length === 4")
    times = page.get_by_role("slider", name="training")
    times.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(times.nth(0)).to_have_attribute("aria-valuetext", f"step {STEPS[1]}")
    expect(times.nth(2)).to_have_attribute("aria-valuetext", f"step {STEPS[0]}")
