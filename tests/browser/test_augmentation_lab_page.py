"""The augmentation lab in a real browser: its arithmetic, and how it answers."""

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.data import load_emoji
from mmtutor.widgets import AugmentationLab
from mmtutor.widgets.picture_changes import CHANGES, HIDING_ORDER, centred

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
KNOWN = [
    "left arrow", "right arrow", "left-right arrow", "thumbs up", "thumbs down", "red apple", "green apple",
    "cat", "black cat", "keycap: 6", "keycap: 9", "pizza",
]  # fmt: skip
NEEDS = {"left arrow": ["left and right", "tilt"], "thumbs up": ["up and down"], "red apple": ["colour"]}


def pictures_of(names):
    emoji = load_emoji()
    return emoji.pictures("fluent")[[emoji.names.index(name) for name in names]]


@pytest.fixture(scope="module")
def widgets():
    rows = {"first": KNOWN[:6], "second": KNOWN[6:]}
    return {"lab": AugmentationLab(pictures=pictures_of(KNOWN), names=KNOWN, choices=rows, needs=NEEDS)}


def in_page(page, address, body, *inputs):
    """Run the body of a function of ``module`` and ``inputs`` in the page."""
    code = f'async (inputs) => {{ const module = await import("{address}/AugmentationLab.js"); {body} }}'
    return page.evaluate(code, list(inputs))


@pytest.mark.parametrize("key", CHANGES)
def test_each_change_equals_python_s(show, address, key):
    page, change = show("lab"), CHANGES[key]
    noise = np.random.default_rng(0).random((1, 32, 32, 3))
    pictures = np.concatenate([noise, pictures_of(["left arrow", "red apple"]) / 255])
    found = in_page(
        page, address,
        """const [pictures, key, strengths, order] = inputs;
        const change = (x, s) => [...module.changePicture(Float64Array.from(x), key, s, order)];
        return strengths.map(s => pictures.map(x => change(x, s)));""",
        pictures.reshape(3, -1).tolist(), key, list(change.strengths), HIDING_ORDER.tolist(),
    )  # fmt: skip
    for strength, rows in zip(change.strengths, found, strict=True):
        expected = change.apply(pictures, strength).reshape(3, -1)
        assert np.abs(np.array(rows) - expected).max() < 1e-6, strength


def test_similarities_equal_python_s_and_rank_alike(show, address):
    page = show("lab")
    generator = np.random.default_rng(0)
    known = np.concatenate([pictures_of(KNOWN) / 255, generator.random((8, 32, 32, 3))])
    asked = np.concatenate([known[:4, ::-1], generator.random((2, 32, 32, 3)), np.full((1, 32, 32, 3), 0.3)])
    found = in_page(
        page, address,
        """const [known, asked] = inputs.map(list => list.map(x => Float64Array.from(x)));
        return asked.map(x => module.rank(known.map(module.centred), x));""",
        known.reshape(len(known), -1).tolist(), asked.reshape(len(asked), -1).tolist(),
    )  # fmt: skip
    similarity = (centred(asked) @ centred(known).T).round(9)
    for rows, expected in zip(found, similarity, strict=True):
        assert [row["index"] for row in rows] == np.argsort(-expected, kind="stable").tolist()
        assert np.allclose([row["similarity"] for row in rows], np.sort(expected)[::-1], atol=1e-6)


def choose(page, change, strength=None):
    page.locator(".mmt-lab select").select_option(CHANGES[change].name)
    if strength is not None:
        page.locator(".mmt-lab input[type=range]").fill(str(CHANGES[change].strengths.index(strength)))


def names_of(page):
    cells = page.locator(".mmt-results .mmt-name")
    return cells.evaluate_all("cells => cells.map(cell => cell.firstChild.textContent)")


def test_page_lists_what_python_ranks(show, widgets):
    page, lab = show("lab"), widgets["lab"]
    for thing, change, strength in [
        ("left arrow", "mirror", 1.0),
        ("thumbs up", "turn", 180.0),
        ("red apple", "grey", 1.0),
        ("pizza", "mask", 0.5),
        ("cat", "crop", 0.5),
    ]:
        page.get_by_role("radio", name=thing, exact=True).check()
        choose(page, change, strength)
        lab.thing, lab.change, lab.strength = KNOWN.index(thing), change, strength
        expected = lab.rank(5)
        assert names_of(page)[:5] == [name for name, _ in expected]
        shown = page.locator(".mmt-results .mmt-number").all_inner_texts()[:5]
        assert [float(x) for x in shown] == pytest.approx([s for _, s in expected], abs=0.006)
        assert page.locator(".mmt-share b").inner_text() == f"{int(100 * lab.share() + 0.5)}%"


def test_its_own_drawing_is_marked_and_added_where_it_is_not_near(show):
    page = show("lab")
    own = page.locator(".mmt-own")
    choose(page, "mirror", 0.0)
    assert own.inner_text() == "its own" and page.locator(".mmt-results li").count() == 5
    page.get_by_role("radio", name="thumbs up").check()
    choose(page, "turn", 90.0)
    assert page.locator(".mmt-results li").count() == (6 if "number" in own.inner_text() else 5)


def test_verdict_compares_what_is_declared_with_what_is_found(show):
    page = show("lab")
    verdict, broken = page.locator(".mmt-verdict"), page.locator(".mmt-broken")
    assert "A false pair." in verdict.inner_text()  # the left arrow, mirrored
    assert "speaks of left and right" in verdict.inner_text() and "“right arrow”" in verdict.inner_text()
    assert broken.locator("th").all_inner_texts() == ["left and right"]
    page.get_by_role("radio", name="left-right arrow").check()
    assert "Safe, and recognised." in verdict.inner_text() and broken.count() == 0
    page.get_by_role("radio", name="cat", exact=True).check()
    choose(page, "grey", 1.0)
    assert "Safe, but not recognised." in verdict.inner_text() and "“black cat”" in verdict.inner_text()
    page.get_by_role("radio", name="left arrow", exact=True).check()
    choose(page, "turn", 30.0)
    assert broken.locator("th").all_inner_texts() == ["tilt"]
    choose(page, "turn", 180.0)
    page.get_by_role("radio", name="thumbs up").check()
    assert "A false pair." in verdict.inner_text() and "“thumbs down”" in verdict.inner_text()
    choose(page, "turn", 45.0)
    assert "Not safe, though the pixels do not show it." in verdict.inner_text()
    choose(page, "turn", 0.0)
    assert "Nothing is changed yet." in verdict.inner_text()


def test_an_even_colour_has_no_nearest_drawing(open_page, publish):
    names = ["red circle", "blue circle"]
    lab = AugmentationLab("red circle", "crop", 0.3, pictures=pictures_of(names), names=names)
    page = open_page(publish({"disc": lab}) + "/disc.html").page
    page.wait_for_selector(".mmt-lab .mmt-verdict b")
    assert "Nothing is left to compare." in page.locator(".mmt-verdict").inner_text()
    assert page.locator(".mmt-results li").count() == 0 and lab.rank() == []


def painted(page):
    return page.locator(".mmt-pair canvas").last.evaluate("canvas => canvas.toDataURL()")


def test_everything_answers_the_keyboard(show):
    page = show("lab")
    page.get_by_role("radio", name="left arrow", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="right arrow", exact=True).is_checked()
    assert names_of(page)[0] == "left arrow"  # mirrored
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator(".mmt-caption").all_inner_texts() == ["right arrow", "turned by 180°"]
    page.keyboard.press("Tab")
    before = painted(page)
    page.keyboard.press("ArrowRight")
    slider = page.get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == "195°" and painted(page) != before
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0°"
    expect(page.locator(".mmt-status")).to_contain_text("Nearest: right arrow, similarity 1.00.")


def test_focus_is_seen_on_the_thing(show):
    page = show("lab")
    page.keyboard.press("Tab")
    style = (
        "label => { const s = getComputedStyle(label); return [s.outlineStyle, parseFloat(s.outlineWidth)]; }"
    )
    outline = page.locator(".mmt-things label").first.evaluate(style)
    assert outline[0] == "solid" and outline[1] >= 2


def test_everything_answers_the_mouse(show):
    page = show("lab")
    page.locator(".mmt-things label").nth(3).click()
    assert page.locator(".mmt-caption").first.inner_text() == "thumbs up"
    choose(page, "turn")
    box = page.get_by_role("slider").bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "0°"
    expect(page.locator(".mmt-status")).to_contain_text("thumbs up, as it is.")


def test_curve_marks_the_present_strength(show, widgets):
    page = show("lab")
    mark = page.locator(".mmt-curve circle")
    choose(page, "turn", 0.0)
    start = float(mark.get_attribute("cx")), float(mark.get_attribute("cy"))
    choose(page, "turn", 360.0)
    end = float(mark.get_attribute("cx")), float(mark.get_attribute("cy"))
    assert end[0] > start[0] and end[1] == start[1]  # all the way round, every drawing is its own again
    choose(page, "turn", 45.0)
    assert float(mark.get_attribute("cy")) > start[1]
    label = page.locator(".mmt-curve").get_attribute("aria-label")
    assert "against angle: 0° 100%" in label


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_both_themes(show, scheme):
    found = Axe().run(show("lab", color_scheme=scheme)).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []


def test_fits_a_narrow_touch_screen(show):
    page = show("lab", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for change in CHANGES:
        choose(page, change)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for control in page.locator(".mmt-things label, .mmt-lab select, .mmt-lab input[type=range]").all():
        box = control.bounding_box()
        assert box["height"] >= 24 and box["x"] >= 0 and box["x"] + box["width"] <= 360
    page.locator(".mmt-things label").nth(3).tap()
    assert page.locator(".mmt-caption").first.inner_text() == "thumbs up"


def test_two_labs_on_a_page_do_not_share_their_choice(show):
    page = show("all twice")
    page.wait_for_function("document.querySelectorAll('.mmt-lab .mmt-try').length === 2")
    first, second = page.locator(".mmt-lab").nth(0), page.locator(".mmt-lab").nth(1)
    first.get_by_role("radio", name="pizza").check()
    assert second.get_by_role("radio", name="left arrow", exact=True).is_checked()
    assert second.locator(".mmt-caption").first.inner_text() == "left arrow"


def test_labels_are_text_never_markup(open_page, publish):
    names = [HOSTILE, HOSTILE + "2"]
    lab = AugmentationLab(pictures=pictures_of(KNOWN[:2]), names=names, choices={HOSTILE: names})
    visit = open_page(publish({"hostile": lab}) + "/hostile.html")
    visit.page.wait_for_selector(".mmt-lab .mmt-results li")
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    assert HOSTILE in visit.page.locator(".mmt").inner_text()
    assert visit.errors == [] and visit.outside == []
