"""The latent walk in a real browser: keys and pointer move it, both views follow, it says where it stands."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.test_latent_walk import COLUMNS, ROWS, a_walk


@pytest.fixture(scope="module")
def widgets():
    return {"opening": a_walk(), "middle": a_walk(row=1, column=2)}


def place(page):
    return page.get_by_role("slider", name="place on the map")


def centre(page, selector):
    """The middle pixel of each large picture."""
    look = (
        """all => all.map(c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 3, 1, 1).data])"""
    )
    return page.locator(selector).evaluate_all(look)


def said(walk, row, column):
    walk.row, walk.column = row, column
    name, apart = walk.here()
    place = f"Row {row + 1} of {ROWS}, column {column + 1} of {COLUMNS}."
    return f"{place} The nearest thing learnt is {name}, {apart:.2f} away."


def test_arrow_keys_walk_and_stop_at_the_edges(show, widgets):
    page, walk = show("opening"), a_walk()
    place(page).focus()
    at = [0, 0]
    for key, move in (
        [("ArrowRight", (0, 1))] * 4
        + [("ArrowDown", (1, 0))] * 3
        + [("ArrowLeft", (0, -1))] * 2
        + [("ArrowUp", (-1, 0))]
    ):
        page.keyboard.press(key)
        at = [min(ROWS - 1, max(0, at[0] + move[0])), min(COLUMNS - 1, max(0, at[1] + move[1]))]
        expect(place(page)).to_have_attribute("aria-valuenow", str(at[0] * COLUMNS + at[1] + 1))
        assert place(page).get_attribute("aria-valuetext") == said(walk, *at)
    expect(page.locator(".mmt-status")).to_have_text(said(walk, *at))
    page.keyboard.press("Home")
    expect(place(page)).to_have_attribute("aria-valuetext", said(walk, at[0], 0))
    page.keyboard.press("PageDown")
    expect(place(page)).to_have_attribute("aria-valuetext", said(walk, ROWS - 1, 0))


def test_both_views_change_with_the_place(show):
    page = show("opening", reduced_motion="reduce")
    place(page).focus()
    seen = []
    for _ in range(COLUMNS):
        shots = page.locator(".mmt-large").evaluate_all("all => all.map(c => c.toDataURL())")
        assert shots[0] != shots[1]
        seen.append(shots)
        page.keyboard.press("ArrowRight")
    assert len({first for first, _ in seen}) == len({second for _, second in seen}) == COLUMNS


def test_pictures_end_at_the_place_itself_after_the_fade(show):
    moving, still = show("opening"), show("opening", reduced_motion="reduce")
    for page in (moving, still):
        place(page).focus()
        page.keyboard.press("ArrowDown")
    moving.wait_for_timeout(400)
    shot = "all => all.map(c => c.toDataURL())"
    assert moving.locator(".mmt-large").evaluate_all(shot) == still.locator(".mmt-large").evaluate_all(shot)


def test_a_pointer_walks_where_it_is_pressed_and_dragged(show):
    page = show("opening")
    box = page.locator(".mmt-map").bounding_box()
    x = lambda c: box["x"] + box["width"] * (c + 0.5) / COLUMNS  # noqa: E731
    y = lambda r: box["y"] + box["height"] * (r + 0.5) / ROWS  # noqa: E731
    page.mouse.move(x(2), y(1))
    assert place(page).get_attribute("aria-valuenow") == "1"  # not pressed
    page.mouse.down()
    expect(place(page)).to_have_attribute("aria-valuenow", str(1 * COLUMNS + 3))
    page.mouse.move(x(3), y(2), steps=4)
    expect(place(page)).to_have_attribute("aria-valuenow", str(2 * COLUMNS + 4))
    page.mouse.move(x(9), y(9), steps=2)
    expect(place(page)).to_have_attribute("aria-valuenow", str(ROWS * COLUMNS))
    page.mouse.up()
    page.mouse.move(x(0), y(0))
    expect(place(page)).to_have_attribute("aria-valuenow", str(ROWS * COLUMNS))


def test_opens_where_it_is_told(show):
    page = show("middle")
    expect(place(page)).to_have_attribute("aria-valuetext", said(a_walk(), 1, 2))
    page.keyboard.press("Tab")
    assert place(page).evaluate("node => node === document.activeElement")
    assert place(page).evaluate("node => getComputedStyle(node).outlineStyle") == "solid"


@pytest.mark.parametrize("width", [360, 800])
def test_stays_on_a_narrow_page(show, width):
    page = show("opening", viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_is_accessible_in_light_and_dark(show, scheme):
    found = Axe().run(show("opening", color_scheme=scheme)).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []


def test_two_on_one_page_walk_apart(open_page, address):
    page = open_page(f"{address}/all twice.html").page
    page.wait_for_function("document.querySelectorAll('.mmt-walk .mmt-try').length === 4")
    places = page.get_by_role("slider", name="place on the map")
    places.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(places.nth(0)).to_have_attribute("aria-valuenow", "2")
    expect(places.nth(2)).to_have_attribute("aria-valuenow", "1")
