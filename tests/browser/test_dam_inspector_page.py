"""The inspector of dual-modality attention in a browser: it says and paints what Python does, and answers."""

import base64
import itertools

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.dam import PARTS
from mmtutor.data import load_emoji
from mmtutor.widgets import DAMInspector, Inspected
from mmtutor.widgets.dam_inspector import MODALITIES, VIEWS

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
CLASSES = ["in place", "sideways", "up and down", "turning"]
TRAITS = ("names", "answers", "classes", "parts", "views", "kinds", "frame_count", "layout_of_weights")
BYTES = ("weights", "probabilities")


def shares(rng, *shape, sharp=2.0):
    p = np.exp(sharp * rng.normal(size=shape))
    return p / p.sum(-1, keepdims=True)


def thing(seed, *, T=8, parts=PARTS, padded=0, kinds=("additive", "dot", "location"), name=None):
    """A thing with random weights; the last `padded` frames are padding."""
    rng, emoji = np.random.default_rng(seed), load_emoji()
    both, short = shares(rng, 16 + T), np.tril(shares(rng, T, T), -1)
    real = (np.arange(T) < T - padded).astype(float)
    look, seen = shares(rng, T, 16) * real[:, None], shares(rng, T) * real
    write, read = (shares(rng, T, 6) * real[:, None] for _ in range(2))
    short = short * real[:, None] * real
    weights = {
        "exchange": {"picture": rng.random(16) * 0.8, "animation": rng.random(T) * real},
        "inter": {"frames to patches": look, "patches to frames": seen / seen.sum()},
        "composition": {"picture": shares(rng, 16), "animation": shares(rng, T)},
        "mix": {m: dict(zip(kinds, shares(rng, len(kinds)), strict=True)) for m in MODALITIES},
        "hierarchical": {"picture": both[:16], "animation": both[16:]},
        "short": short / np.maximum(short.sum(1, keepdims=True), 1e-9),
        "long": {"write": write * rng.random((T, 1)), "read": read},
    }
    needed = {*parts, "exchange", *(["mix"] if "composition" in parts else [])}
    frames = np.resize(emoji.videos[seed], (T, 32, 32, 3))
    return Inspected(
        name or emoji.names[emoji.video_item[seed]],
        emoji.pictures("fluent")[emoji.video_item[seed]],
        frames,
        seed % 4,
        {view: of for view, of in weights.items() if view in needed},
        shares(rng, 2 ** len(parts), 4, sharp=1.5),
    )


@pytest.fixture(scope="module")
def widgets():
    return {
        "all": DAMInspector([thing(0), thing(9, padded=2), thing(18)], CLASSES, PARTS, frame=3),
        "few": DAMInspector([thing(2, T=3, parts=["long"])], CLASSES, ["long"]),
        "many": DAMInspector([thing(3, T=20)], CLASSES, PARTS, frame=12, view="long"),
    }


def said(page):
    return page.locator(".mmt-dam .mmt-status:not(.mmt-seen)"), page.locator(".mmt-dam .mmt-seen")


def check_words(page, widget):
    answer, seen = said(page)
    expect(answer).to_have_text(widget._answer_in_words())
    expect(seen).to_have_text(widget._view_in_words())


def fresh(widgets, **choice):
    """Python's widget with another choice than the page opened with."""
    widget = widgets["all"]
    made = DAMInspector([thing(0), thing(9, padded=2), thing(18)], CLASSES, PARTS, **{"frame": 3, **choice})
    assert made.weights == widget.weights
    return made


@pytest.mark.parametrize("name", ["all", "few"])
def test_page_computes_and_says_what_python_does(show, address, widgets, name):
    page, widget = show(name), widgets[name]
    packed = {x: base64.b64encode(getattr(widget, x)).decode() for x in BYTES}
    before = {x: getattr(widget, x) for x in ("thing", "frame", "view", "off")}
    asked, expected = [], []
    frames, things = range(widget.frame_count), range(len(widget.names))
    offs = [[], ["long"], list(widget.parts)] + ([["inter", "short"]] if name == "all" else [])
    chosen = itertools.product(things, frames, widget.views, offs[:1])
    for choice in [*chosen, *itertools.product(things, [0], widget.views[:1], offs)]:
        widget.thing, widget.frame, widget.view, widget.off = choice
        asked.append(dict(zip(before, choice, strict=True)))
        found = widget.values()
        arrays = [found[x] for x in ("patches", "frames", "write", "read")]
        expected.append([widget._answer_in_words(), widget._view_in_words(), arrays])
    for trait, value in before.items():
        setattr(widget, trait, value)
    told = page.evaluate(
        f"""async ([traits, packed, asked]) => {{
        const {{ unpack, values, answerInWords, viewInWords }} = await import("{address}/DAMInspector.js");
        const view = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
        const data = unpack({{ get: (name) => (name in packed ? view(packed[name]) : traits[name]) }});
        return asked.map((choice) => {{
          const {{ patches, frames, write, read }} = values(data, choice);
          return [answerInWords(data, choice), viewInWords(data, choice), [patches, frames, write, read]];
        }}); }}""",
        [{x: getattr(widget, x) for x in TRAITS}, packed, asked],
    )
    assert told == expected


@pytest.mark.parametrize("name", ["all", "few", "many"])
def test_opens_with_python_s_words(show, widgets, name):
    page = show(name)
    check_words(page, widgets[name])
    assert page.locator(".mmt-views [role=radio]").all_inner_texts() == widgets[name].views
    assert page.get_by_role("checkbox").count() == len(widgets[name].parts)


def test_squares_have_the_weights_as_areas(show, widgets):
    page, widget = show("all"), widgets["all"]
    found = widget.values()
    looks = widget._rows("inter, frames to patches")
    sides = page.locator(".mmt-patch .mmt-square").evaluate_all(
        "all => all.map(s => parseFloat(s.style.getPropertyValue('--mmt-side')) / 100)"
    )
    most = max(max(row) for row in looks)
    assert [side**2 for side in sides] == pytest.approx([x / most for x in found["patches"]], abs=1e-4)
    expect(page.locator(".mmt-frames [aria-checked=true]")).to_have_attribute("aria-label", "frame 4")


def test_mouse_chooses_thing_parts_view_and_frame(show, widgets):
    page = show("all")
    page.get_by_role("radio", name=widgets["all"].names[1]).click()
    page.get_by_role("checkbox", name="short").uncheck()
    page.get_by_role("checkbox", name="inter").uncheck()
    page.get_by_role("radio", name="frame 7").click()
    for view in VIEWS:
        page.get_by_role("radio", name=view, exact=True).click()
        check_words(page, fresh(widgets, thing=1, off=["inter", "short"], frame=6, view=view))
        assert page.locator(".mmt-maps").is_visible() == (view == "long")
        assert page.locator(".mmt-mixes").is_visible() == (view == "composition")
    page.locator(".mmt-write td").nth(3).click()  # frame 3 of the first row
    page.get_by_role("button", name="all on").click()
    check_words(page, fresh(widgets, thing=1, frame=2, view="long"))


def test_more_than_half_replaced_has_a_sign(show, widgets):
    page = show("all")
    page.get_by_role("radio", name="exchange", exact=True).click()
    found = fresh(widgets, view="exchange").values()
    signs = page.locator(".mmt-sign").all_inner_texts()
    assert [sign == "⇄" for sign in signs] == [x > 0.5 for x in found["patches"]]
    shown = page.locator(".mmt-share").all_inner_texts()
    assert ["⇄" in text for text in shown] == [x > 0.5 for x in found["frames"]]


def test_every_control_is_reached_and_used_by_keyboard(show, widgets):
    page, seen = show("all"), []
    for _ in range(11):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        seen.append(focused.evaluate("x => x.getAttribute('aria-label') ?? x.parentNode.innerText"))
        assert focused.evaluate("x => getComputedStyle(x).outlineStyle") == "solid"
        assert focused.get_attribute("data-lm-suppress-shortcuts") == "true"
        if seen[-1] == "short":
            page.keyboard.press("Space")
        if seen[-1] == "inter" and focused.get_attribute("role") == "radio":
            page.keyboard.press("End")
        if seen[-1] == "frame 4":
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowRight")
    assert seen[1:6] == list(PARTS) and "frame 4" in seen
    check_words(page, fresh(widgets, off=["short"], view="long", frame=5))


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_plays_when_asked_pauses_and_steps(show, widgets, stop_the_clock, motion):
    page = show("all", reduced_motion=motion)
    stop_the_clock(page)
    frame = lambda: page.locator(".mmt-frames [aria-checked=true]").get_attribute("aria-label")  # noqa: E731
    page.clock.run_for(3000)
    assert frame() == "frame 4"  # it does not begin by itself
    page.get_by_role("button", name="Play").click()
    assert page.locator(".mmt-seen").get_attribute("aria-live") == "off"
    page.clock.run_for(5 * 700 + 50)
    assert frame() == "frame 1"
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(3000)
    assert frame() == "frame 1" and page.locator(".mmt-seen").get_attribute("aria-live") == "polite"
    page.get_by_role("button", name="Previous").click()
    assert frame() == "frame 8"
    page.get_by_role("button", name="Next").click()
    assert frame() == "frame 1"


def test_playing_stops_when_less_motion_is_wanted(show, stop_the_clock):
    page = show("all")
    stop_the_clock(page)
    page.get_by_role("button", name="Play").click()
    page.emulate_media(reduced_motion="reduce")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["exchange", "composition", "long"])
def test_accessible_in_both_themes_and_no_wider_than_a_phone(show, scheme, view):
    page = show("all", color_scheme=scheme, viewport={"width": 390, "height": 800})
    page.get_by_role("radio", name=view, exact=True).click()
    page.wait_for_timeout(300)
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".mmt-fallback").count() == 0


def test_many_frames_fit_a_phone_and_two_widgets_do_not_share_their_choice(show):
    page = show("many", viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page = show("all twice")
    page.wait_for_function("document.querySelectorAll('.mmt-dam .mmt-try').length === 6")
    first, second = page.locator(".mmt-dam").nth(0), page.locator(".mmt-dam").nth(3)
    first.get_by_role("radio", name="frame 1", exact=True).click()
    chosen = ".mmt-frames [aria-checked=true]"
    assert first.locator(chosen).get_attribute("aria-label") == "frame 1"
    assert second.locator(chosen).get_attribute("aria-label") == "frame 4"


def test_labels_are_text_never_markup(open_page, publish):
    hostile = thing(0, kinds=(HOSTILE, "x" * 150), name=HOSTILE)
    classes = [HOSTILE, "y" * 150, "a", "b"]
    things = [hostile, thing(1, kinds=(HOSTILE, "x" * 150))]
    widget = DAMInspector(things, classes, PARTS, view="composition", question=f"{HOSTILE}?")
    visit = open_page(publish({"hostile": widget}) + "/hostile.html", viewport={"width": 390, "height": 800})
    visit.page.wait_for_selector(".mmt-try")
    visit.page.wait_for_timeout(300)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    for place in (".mmt-status", ".mmt-seen", ".mmt-things span", ".mmt-classes th", ".mmt-mix th"):
        assert HOSTILE in visit.page.locator(place).first.inner_text()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert visit.errors == [] and visit.outside == []
