"""The divergence playground in a real browser: it computes, says and draws Python's numbers, and answers."""

import math
import random
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.widgets import DivergencePlayground
from mmtutor.widgets.divergence_playground import _moved, _percent

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
ABC = ["cat", "dog", "fox"]
LONG = ["grizzly bear", "hippopotamus", "chimpanzee", "cat", "elephant", "dog", "hare", "fox"]
PRESETS = {
    "Equal": None,
    "q rules out what p holds possible": "KL(p‖q) is infinite: q gives dog nothing, p 22%. KL(q‖p) is 0.2",
    "p rules out what q holds possible": "KL(q‖p) is infinite: p gives dog nothing, q 22%.",
    "Nothing in common": "p and q have no answer in common",
}
STATES = {
    "three": (ABC, [0.5, 0.3, 0.2], [0.25, 0.25, 0.5]),
    "infinite": (ABC, [0.5, 0.3, 0.2], [1, 0, 0]),
    "both infinite": (ABC, [0.8, 0.2, 0], [0, 0.4, 0.6]),
    "disjoint": (ABC, [0.5, 0.5, 0], [0, 0, 1]),
    "equal": (ABC, [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
    "tiny": (ABC, [0.5, 0.5, 0], [0.3, 1e-12, 0.7 - 1e-12]),
    "two": (["yes", "no"], None, None),
    "eight": (LONG, None, None),
}


@pytest.fixture(scope="module")
def widgets():
    states = {name: DivergencePlayground(*state) for name, state in STATES.items()}
    return {"opening": DivergencePlayground(), **states}


def bar(page, which, answer):
    return page.get_by_role("slider", name=f"{which} of {answer}", exact=True)


def shares(page, which):
    """The present distribution, read off the heights of its bars."""
    heights = page.locator(f".mmt-bar.mmt-{which}").evaluate_all("all => all.map(bar => bar.style.height)")
    return [float(height.rstrip("%")) / 100 for height in heights]


def number(text):
    text = text.replace("−", "-")
    return {"∞": math.inf, "-∞": -math.inf}.get(text) if "∞" in text else float(text)


def shown(page, kind=".mmt-number"):
    rows = page.locator(".mmt-measure")
    names = rows.evaluate_all("all => all.map(row => row.dataset.measure)")
    return {name: number(rows.nth(i).locator(kind).inner_text()) for i, name in enumerate(names)}


def on_page(page, widget):
    """A widget with the bars that the page shows."""
    return DivergencePlayground(widget.answers, shares(page, "p"), shares(page, "q"))


def points(path):
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get_attribute("d")), float)


# --- the numbers ----------------------------------------------------------------------------------------


def many_pairs():
    """Random distributions over 2 to 8 answers, with zeros and tiny numbers, some equal, some disjoint."""
    generator = random.Random(0)

    def draw(n, allowed):
        kinds = (0, 1e-300, 1e-12, 1e-4, generator.random(), generator.random())
        weights = [generator.choice(kinds) if i in allowed else 0 for i in range(n)]
        weights[generator.choice(allowed)] = 1.0
        return [weight / sum(weights) for weight in weights]

    for k in range(300):
        n = generator.randint(2, 8)
        cut = generator.randint(1, n - 1)
        p = draw(n, range(cut) if k % 5 == 0 else range(n))
        yield p, p if k % 7 == 0 else draw(n, range(cut, n) if k % 5 == 0 else range(n))
    yield [1.0, 0.0], [5e-324, 1.0]


def test_page_computes_the_library_s_numbers(show, address):
    pairs = list(many_pairs())
    told = show("opening").evaluate(
        f"""async pairs => {{ const {{ measures, terms }} = await import("{address}/DivergencePlayground.js");
        const text = table => Object.fromEntries(Object.entries(table).map(([k, v]) => [k, String(v)]));
        return pairs.map(([p, q]) => [text(measures(p, q)), text(terms(p, q))]); }}""",
        pairs,
    )
    infinite = 0
    for (p, q), (numbers, terms) in zip(pairs, told, strict=True):
        values = DivergencePlayground([str(i) for i in range(len(p))], p, q).values()
        for name, value in values.items():
            found = float(numbers[name].replace("Infinity", "inf"))
            assert found == pytest.approx(value, abs=1e-6), (name, p, q)
            added = [float(x.replace("Infinity", "inf")) for x in terms[name].split(",")]
            assert sum(added) == pytest.approx(value, abs=1e-6)
            infinite += value == math.inf
    assert infinite > 100


def test_page_moves_a_bar_as_python_does(show, address):
    asked = [(p, i, to) for p, _ in many_pairs() for i, to in ((0, 0.3), (1, 0.0), (1, 1.0))]
    asked.append(([1.0, 0.0, 0.0], 0, 0.4))
    told = show("opening").evaluate(
        f"""async asked => {{ const {{ moveBar }} = await import("{address}/DivergencePlayground.js");
        return asked.map(given => moveBar(...given)); }}""",
        asked,
    )
    for given, found in zip(asked, told, strict=True):
        assert found == pytest.approx(_moved(*given), abs=1e-12) and sum(found) == pytest.approx(1)


@pytest.mark.parametrize("name", ["opening", *STATES])
def test_what_is_shown_and_said_is_what_python_says(show, widgets, name):
    page, playground = show(name), widgets[name]
    values = playground.values()
    assert shown(page) == pytest.approx(values, abs=6e-4)
    degrees = {
        "cosine": values["cosine"],
        "kl_pq": -values["kl_pq"],
        "kl_qp": -values["kl_qp"],
        "js": 1 - values["js"] / math.log(2),
    }
    assert shown(page, ".mmt-degree") == pytest.approx(degrees, abs=6e-4)
    expect(page.locator(".mmt-status")).to_have_text(playground._in_words())
    for which in "pq":
        assert shares(page, which) == pytest.approx(getattr(playground, which), abs=1e-5)
    said = page.locator(".mmt-share").all_inner_texts()
    expected = [
        f"{which} {_percent(x)}"
        for pair in zip(playground.p, playground.q, strict=True)
        for which, x in zip("pq", pair, strict=True)
    ]
    assert said == expected


@pytest.mark.parametrize("name", ["opening", "infinite", "both infinite"])
def test_what_the_answers_add_sums_to_the_number_and_infinite_ones_stand_out(show, widgets, name):
    page, playground = show(name), widgets[name]
    for row in page.locator(".mmt-measure").all():
        key = row.get_attribute("data-measure")
        added = [number(text) for text in row.locator(".mmt-cell > span:first-child").all_inner_texts()]
        assert sum(added) == pytest.approx(playground.values()[key], abs=0.03)
        marked = row.locator(".mmt-cell").evaluate_all(
            "all => all.map(c => c.classList.contains('mmt-infinite'))"
        )
        assert marked == [x == math.inf for x in added]
        below = row.locator(".mmt-term").evaluate_all(
            "all => all.map(t => t.classList.contains('mmt-below'))"
        )
        assert [x for x, is_below in zip(added, below, strict=True) if is_below and x > 0] == []
        assert [x for x, is_below in zip(added, below, strict=True) if not is_below and x < 0] == []
        label = row.get_by_role("img").get_attribute("aria-label")
        assert all(answer in label for answer in playground.answers) and ("∞" in label) == any(marked)


# --- the curve ------------------------------------------------------------------------------------------


def test_curve_is_python_s_along_the_bar_that_moved(show, widgets):
    page, playground = show("opening"), widgets["opening"]
    axis = points(page.locator(".mmt-axis"))
    (left, top), (_, bottom), (right, _) = axis
    for name in ("cosine", "kl_pq", "kl_qp", "js"):
        drawn = points(page.locator(f".mmt-line.mmt-{name}"))
        for t in (0.05, 0.25, 0.6, 0.9):
            moved = DivergencePlayground(q=_moved(playground.q, 1, t)).values()[name]
            x = left + t * (right - left)
            y = np.interp(x, drawn[:, 0], drawn[:, 1])
            assert 2 * (bottom - y) / (bottom - top) == pytest.approx(min(2, moved), abs=0.01), (name, t)
    kl_pq, js = (points(page.locator(f".mmt-line.mmt-{name}"))[:, 1] for name in ("kl_pq", "js"))
    assert kl_pq[0] == kl_pq[-1] == top  # infinite at both ends
    assert js.min() > points(page.locator(".mmt-bound"))[0, 1]  # under log 2
    labels = page.locator(".mmt-course g text").all_text_contents()
    assert {"KL(p‖q) ∞", "KL(q‖p)", "JS", "cosine"} <= set(labels)


def test_curve_marks_where_the_bar_stands_and_follows_the_bar_that_moves(show, widgets):
    page = show("opening")
    bar(page, "p", "fox").focus()
    page.keyboard.press("PageUp")
    share = shares(page, "p")[2]
    assert share == pytest.approx(widgets["opening"].p[2] + 0.1, abs=1e-6)
    expect(page.locator(".mmt-heading")).to_have_text("What if p gave fox more, or less?")
    expect(page.locator(".mmt-axis-name")).to_contain_text("p of fox")
    (left, top), (_, bottom), (right, _) = points(page.locator(".mmt-axis"))
    values = on_page(page, widgets["opening"]).values()
    for name, value in values.items():
        mark = page.locator(f".mmt-mark.mmt-{name}")
        assert float(mark.get_attribute("cx")) == pytest.approx(left + share * (right - left), abs=0.1)
        height = 2 * (bottom - float(mark.get_attribute("cy"))) / (bottom - top)
        assert height == pytest.approx(value, abs=0.01)


@pytest.mark.parametrize("name", ["kl_pq", "kl_qp"])
def test_a_number_that_is_infinite_all_along_runs_on_the_upper_edge(show, name):
    page = show("both infinite")  # moved: q of dog. KL(q‖p) is finite at 100% only: no line leads there
    line = points(page.locator(f".mmt-line.mmt-{name}"))
    assert set(line[:, 1]) == {points(page.locator(".mmt-axis"))[0, 1]}
    assert {"KL(p‖q) ∞", "KL(q‖p) ∞"} <= set(page.locator(".mmt-course g text").all_text_contents())


def test_lines_are_told_apart_without_colour_or_by_it(show):
    page = show("opening")
    looks = page.locator(".mmt-line").evaluate_all(
        "all => all.map(line => getComputedStyle(line)).map(s => s.strokeDasharray + s.stroke)"
    )
    dashes = page.locator(".mmt-line").evaluate_all(
        "all => all.map(line => getComputedStyle(line).strokeDasharray)"
    )
    assert len(set(looks)) == 4 and len(set(dashes)) == 3


@pytest.mark.parametrize("width", [400, 800])
@pytest.mark.parametrize("name", ["opening", "eight"])
def test_texts_never_overlap_nor_leave_the_page(show, boxes_apart, name, width):
    page = show(name, viewport={"width": width, "height": 700})
    for preset in ["Start again", *PRESETS]:
        page.get_by_role("button", name=preset).click()
        assert boxes_apart(page.locator(".mmt-course text:not(:empty)").all()), preset
        assert boxes_apart(page.locator(".mmt-share span").all()), preset
        assert boxes_apart(page.locator(".mmt-cell > span:first-child").all()), preset
        assert boxes_apart(page.locator(".mmt-head, .mmt-measure .mmt-columns, .mmt-adds").all()), preset
        assert page.evaluate("document.documentElement.scrollWidth") <= width


# --- use ------------------------------------------------------------------------------------------------


def test_keys_move_a_bar_and_the_others_make_room(show, widgets):
    page, (p, q) = show("opening"), (widgets["opening"].p, widgets["opening"].q)
    dog = bar(page, "q", "dog")
    dog.focus()
    page.keyboard.press("ArrowUp")
    assert shares(page, "q") == pytest.approx(_moved(q, 1, 0.03), abs=1e-5)
    assert dog.get_attribute("aria-valuetext") == "3%"
    page.keyboard.press("PageUp")
    assert shares(page, "q")[1] == pytest.approx(0.13)
    page.keyboard.press("PageDown")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    assert shares(page, "q")[1] == 0  # three times 1% of 3%: exactly nothing
    assert shown(page)["kl_pq"] == math.inf
    page.keyboard.press("End")
    assert shares(page, "q") == [0, 1, 0, 0, 0] and dog.get_attribute("aria-valuenow") == "100"
    page.keyboard.press("PageDown")
    assert shares(page, "q") == pytest.approx([0.025, 0.9, 0.025, 0.025, 0.025])
    page.keyboard.press("Home")
    assert shares(page, "q")[1] == 0 and dog.get_attribute("aria-valuetext") == "0%"
    assert shares(page, "p") == pytest.approx(p, abs=1e-5)
    page.keyboard.press("ArrowRight")
    expect(page.locator(".mmt-status")).to_have_text(on_page(page, widgets["opening"])._in_words())


def test_every_control_is_reached_by_tab_and_shows_its_focus(show):
    page = show("opening")
    seen = []
    for _ in range(16):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        seen.append(focused.get_attribute("aria-label") or focused.inner_text())
        assert focused.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    assert seen[:6] == [*PRESETS, "Swap p and q", "Start again"]
    answers = ("cat", "dog", "fox", "bear", "hare")
    assert seen[6:] == [f"{which} of {answer}" for answer in answers for which in "pq"]


def test_a_drag_puts_the_bar_under_the_pointer_and_keeps_the_others_proportions(show, widgets):
    page, q = show("opening"), widgets["opening"].q
    box = bar(page, "q", "dog").bounding_box()
    x, height = box["x"] + box["width"] / 2, lambda share: box["y"] + box["height"] * (1 - share)
    page.mouse.move(x, height(0.02))
    page.mouse.down()
    page.mouse.move(x, height(0.5), steps=3)
    assert shares(page, "q") == pytest.approx(_moved(q, 1, 0.5), abs=0.005)
    page.mouse.move(x + 200, height(1.2))
    assert shares(page, "q") == [0, 1, 0, 0, 0]
    page.mouse.move(x, height(0.3))
    assert shares(page, "q") == pytest.approx(_moved(q, 1, 0.3), abs=0.005)  # not even: nothing forgotten
    page.mouse.move(x, height(-0.1))
    page.mouse.up()
    assert shares(page, "q")[1] == 0 and shown(page)["kl_pq"] == math.inf
    page.mouse.move(x, height(0.5))
    assert shares(page, "q")[1] == 0  # let go


def test_a_finger_drags_too(show):
    page = show("opening", viewport={"width": 400, "height": 900}, has_touch=True, is_mobile=True)
    box = bar(page, "p", "cat").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.25)
    assert shares(page, "p")[0] == pytest.approx(0.75, abs=0.01)
    style = "node => getComputedStyle(node).touchAction"
    assert bar(page, "p", "cat").evaluate(style) == "pan-x"  # so that the page does not scroll away


@pytest.mark.parametrize("preset", [name for name, said in PRESETS.items() if said])
def test_presets_do_what_their_names_say(show, widgets, preset):
    page = show("opening")
    page.get_by_role("button", name=preset).click()
    expect(page.locator(".mmt-status")).to_contain_text(PRESETS[preset])
    values = shown(page)
    assert (values["kl_pq"] == math.inf) == (preset[0] != "p")
    assert (values["kl_qp"] == math.inf) == (preset[0] != "q")
    if preset == "Nothing in common":
        assert values["js"] == pytest.approx(math.log(2), abs=5e-4) and values["cosine"] == 0
    page.get_by_role("button", name="Start again").click()
    assert shown(page) == pytest.approx(widgets["opening"].values(), abs=6e-4)


@pytest.mark.parametrize("name", ["two", "infinite", "disjoint", "eight"])
def test_presets_hold_whatever_the_opening(show, name):
    page = show(name)
    for preset in PRESETS:
        page.get_by_role("button", name=preset).click()
        p, q = shares(page, "p"), shares(page, "q")
        assert sum(p) == pytest.approx(1) and sum(q) == pytest.approx(1)
        lacks = [any(x > 0 == y for x, y in zip(a, b, strict=True)) for a, b in ((p, q), (q, p))]
        assert lacks == [preset[0] in "qN", preset[0] in "pN"], preset
    assert "NaN" not in page.content()


def test_equal_distributions_have_no_distance(show):
    page = show("opening")
    page.get_by_role("button", name="Equal").click()
    assert shown(page) == {"cosine": 1, "kl_pq": 0, "kl_qp": 0, "js": 0}
    expect(page.locator(".mmt-status")).to_contain_text("p and q are equal")


def test_swapping_keeps_cosine_and_js_and_exchanges_the_divergences(show):
    page = show("opening")
    before = shown(page)
    page.get_by_role("button", name="Swap p and q").click()
    after = shown(page)
    assert (after["kl_pq"], after["kl_qp"]) == (before["kl_qp"], before["kl_pq"])
    assert (after["cosine"], after["js"]) == (before["cosine"], before["js"])
    expect(page.locator(".mmt-heading")).to_have_text("What if p gave dog more, or less?")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_both_themes(show, scheme):
    page = show("opening", color_scheme=scheme)
    for preset in ("Start again", "Nothing in common"):
        page.get_by_role("button", name=preset).click()
        found = Axe().run(page).response["violations"]
        assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []
    assert page.locator(".mmt-fallback").count() == 0
    assert page.locator(".mmt-try em").inner_text().count("?") == 1


def test_two_playgrounds_on_a_page_are_moved_apart(show):
    page = show("all twice")
    total = 2 * (1 + len(STATES))
    page.wait_for_function(f"document.querySelectorAll('.mmt-divergence .mmt-try').length === {total}")
    first, second = (page.locator(".mmt-divergence").nth(i) for i in (0, 1 + len(STATES)))
    before = second.locator(".mmt-number").all_inner_texts()
    assert first.locator(".mmt-number").all_inner_texts() == before
    first.get_by_role("button", name="Nothing").click()
    assert first.locator(".mmt-number").all_inner_texts() != before
    assert second.locator(".mmt-number").all_inner_texts() == before


def test_answers_are_text_never_markup(open_page, publish):
    visit = open_page(
        publish({"hostile": DivergencePlayground([HOSTILE, "b"], [1, 0], [0.5, 0.5])}) + "/hostile.html"
    )
    visit.page.wait_for_selector(".mmt-try")
    visit.page.get_by_role("button", name="q rules out").click()
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    for place in (".mmt-status", ".mmt-heading", ".mmt-axis-name"):
        assert HOSTILE in visit.page.locator(place).inner_text()
    assert visit.errors == [] and visit.outside == []
