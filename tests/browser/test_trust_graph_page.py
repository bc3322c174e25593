"""The trust graph in a real browser: it computes, says and draws Python's numbers, and answers."""

import itertools
import math
import random

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.widgets import TrustGraph
from mmtutor.widgets.trust_graph import _percent

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
LONG = ["hippopotamus skin", "spectrogram", "fourier", "text", "point cloud of views", "image"]
ESTIMATES = ("marginals", "alone", "mean_field")
SHOWN = ("unary", "similarity", "coupling", "present")  # what solve() on the page reads


def matrix(m, s):
    return [[1.0 if a == b else s for b in range(m)] for a in range(m)]


STATES = {
    "two": (["image", "text"], [0.5, 0.5], matrix(2, -0.8), 2),
    "three": (["a", "b", "c"], [1, -0.25, 2], None, 1.5),
    "six": (LONG, [0.5, 0, -1, 2, 0.3, 1], None, 1),
    "uncoupled": (["a", "b", "c"], [0, 1, -1], None, 0),
    "two modes": (["a", "b", "c", "d"], [-3.9] * 4, matrix(4, 0.8), 10 / 3),
    "one absent": (["a", "b", "c"], [1, -math.inf, 0.5], None, 2),
    "one there": (["a", "b"], [1, -math.inf], None, 2),
    "none there": (["a", "b"], [-math.inf] * 2, None, 2),
}
PRESETS = {
    "Three against one": "Most trusted: fourier, profile and pixels, 96% (alone 62%); least: zernike, 34%",
    "Two who disagree": "Trusted alike: both, 45% (alone 62%). Most probable: only fourier or only profile",
    "All agree": "Trusted alike: all four, 99% (alone 62%). Most probable: all four",
    "One is absent": "Most trusted: profile and pixels, 81% (alone 62%); least: zernike, 46%",
    "Everybody or nobody": "Most probable: all four or nobody (46% each). Mean field is up to 48 points off",
}


@pytest.fixture(scope="module")
def widgets():
    return {"opening": TrustGraph(), **{name: TrustGraph(*state) for name, state in STATES.items()}}


def estimates(page, kind):
    return page.locator(f"[data-estimate={kind}] > span:last-child").all_inner_texts()


def shares(page, half):
    """A list of states on the page: 0 is that of the joint table, 1 that of the weights."""
    items = page.locator(".mmt-shares").nth(half).locator("li")
    return {
        item.get_attribute("data-state"): item.locator(".mmt-percent").inner_text() for item in items.all()
    }


def most_trusted(graph):
    """The sets of the one, two, … most trusted."""
    marginals = graph.values()["marginals"]
    order = sorted(range(len(marginals)), key=lambda m: -marginals[m])
    sets = [order[:k] for k in range(1, len(marginals) + 1)]
    return ["".join(str(int(m in chosen)) for m in range(len(marginals))) for chosen in sets]


# --- the numbers ----------------------------------------------------------------------------------------


def many_graphs():
    """Random fields of 2 to 6 modalities, some absent, with no, weak and strong coupling."""
    generator = random.Random(0)
    for k in range(200):
        m = 2 + k % 5
        absent = [-math.inf] if k % 3 == 0 else []
        unary = [generator.choice([*absent, *(generator.uniform(-5, 5) for _ in range(3))]) for _ in range(m)]
        s = matrix(m, 0.0)
        for a, b in itertools.combinations(range(m), 2):
            s[a][b] = s[b][a] = generator.choice((-1, 0, 1, generator.uniform(-1, 1)))
        yield TrustGraph([str(i) for i in range(m)], unary, s, generator.choice((0, 0.5, 2, 10, 100)))
    yield TrustGraph(LONG, [-math.inf] * 6)
    yield TrustGraph(LONG, [-4] * 6, matrix(6, 0.8), 2)


def test_page_computes_the_library_s_numbers(show, address):
    graphs = list(many_graphs())
    told = show("opening").evaluate(
        f"""async fields => {{ const {{ solve }} = await import("{address}/TrustGraph.js");
        return fields.map(field => {{ const found = solve(field);
          const states = found.states.map(({{ u, p }}) => [u.join(""), p]);
          return {{ ...found, states: Object.fromEntries(states) }}; }}); }}""",
        [{name: getattr(graph, name) for name in SHOWN} for graph in graphs],
    )
    two_modes = 0
    for graph, found in zip(graphs, told, strict=True):
        values = graph.values()
        assert set(found) == set(values)
        for name, value in values.items():
            assert found[name] == pytest.approx(value, abs=1e-6), (name, graph.summary())
        gaps = [abs(q - p) for q, p in zip(values["mean_field"], values["marginals"], strict=True)]
        two_modes += max(gaps) > 0.4
    assert two_modes > 5


@pytest.mark.parametrize("name", ["opening", *STATES])
def test_what_is_shown_and_said_is_what_python_says(show, widgets, name):
    page, graph = show(name), widgets[name]
    values = graph.values()
    for kind in ESTIMATES:
        assert estimates(page, kind) == [_percent(x) for x in values[kind]]
    expect(page.locator(".mmt-status")).to_have_text(graph._in_words())
    possible = [
        state
        for state in values["states"]
        if all(there or u == "0" for u, there in zip(state, graph.present, strict=True))
    ]
    assert shares(page, 0) == {state: _percent(values["states"][state]) for state in possible[:8]}
    weights = [_percent(x) for x in values["weights"] if x > 1e-9]
    assert list(shares(page, 1).values()) == weights
    rest = page.get_by_text("other states together")
    assert rest.count() == (len(possible) > 8)
    if len(possible) > 8:
        others = sum(values["states"][state] for state in possible[8:])
        expect(rest).to_have_text(f"{len(possible) - 8} other states together: {_percent(others)}")


def test_weights_are_of_the_sets_of_the_most_trusted(show, widgets):
    page = show("three")
    assert list(shares(page, 1)) == most_trusted(widgets["three"])
    expect(page.locator(".mmt-shares").nth(1).locator("li").last).to_contain_text("all three")
    expect(page.locator(".mmt-shares").nth(1).locator("li").first).to_contain_text("only")


# --- the drawing ----------------------------------------------------------------------------------------


def test_area_of_a_disc_is_the_marginal(show, widgets):
    page = show("opening")
    ring = float(page.locator(".mmt-ring").first.get_attribute("r"))
    radii = page.locator(".mmt-disc").evaluate_all("all => all.map(disc => Number(disc.getAttribute('r')))")
    assert [(r / ring) ** 2 for r in radii] == pytest.approx(widgets["opening"].values()["marginals"])


def test_marks_stand_on_the_track_at_their_shares(show, widgets):
    page, values = show("two modes"), widgets["two modes"].values()
    track = page.locator(".mmt-track").first
    ground = track.bounding_box()
    exact, alone, field = (track.locator(f".mmt-{key}").bounding_box() for key in ESTIMATES)
    assert exact["width"] / ground["width"] == pytest.approx(values["marginals"][0], abs=0.01)
    for mark, key in ((alone, "alone"), (field, "mean_field")):
        middle = mark["x"] + mark["width"] / 2 - ground["x"]
        assert middle / ground["width"] == pytest.approx(values[key][0], abs=0.01)
    bars = page.locator(".mmt-bar").evaluate_all("all => all.map(bar => parseFloat(bar.style.width) / 100)")
    assert bars[:8] == pytest.approx(list(values["states"].values())[:8], abs=1e-4)


def test_lines_show_agreement_by_width_and_dash_not_by_colour_alone(show):
    page = show("opening")
    edges = page.locator(".mmt-edge")
    assert edges.count() == 6
    looks = edges.evaluate_all(
        "all => all.map(e => [getComputedStyle(e).strokeDasharray, Number(e.getAttribute('stroke-width'))])"
    )
    solid = [width for dash, width in looks if dash == "none"]
    dashed = [width for dash, width in looks if dash != "none"]
    assert len(solid) == len(dashed) == 3 and min(solid) > max(dashed)
    page.get_by_role("button", name="No coupling").click()
    assert page.locator(".mmt-idle").count() == 6


def test_graph_is_told_in_words(show):
    label = show("opening").get_by_role("img").get_attribute("aria-label")
    assert "fourier 96%" in label and "pixels and zernike −0.2" in label


@pytest.mark.parametrize("width", [400, 800])
@pytest.mark.parametrize("name", ["opening", "two", "six"])
def test_texts_never_overlap_nor_leave_the_page(show, boxes_apart, name, width):
    page = show(name, viewport={"width": width, "height": 700})
    buttons = page.locator(".mmt-controls button").all_inner_texts()
    for preset in buttons:
        page.get_by_role("button", name=preset).click()
        assert boxes_apart(page.locator(".mmt-graph text").all()), preset
        assert boxes_apart(page.locator(".mmt-who b, .mmt-who label, .mmt-member .mmt-slider").all()), preset
        assert boxes_apart(page.locator(".mmt-estimates > span").all()), preset
        assert boxes_apart(page.locator(".mmt-words, .mmt-percent").all()), preset
        assert boxes_apart(page.locator(".mmt-side > *").all()), preset
        assert page.evaluate("document.documentElement.scrollWidth") <= width


# --- use ------------------------------------------------------------------------------------------------


def press(page, label, *keys):
    page.get_by_role("slider", name=label, exact=True).focus()
    for key in keys:
        page.keyboard.press(key)


def test_keys_move_what_speaks_for_a_modality(show, widgets):
    page = show("opening")
    press(page, "ϑ of zernike", *["ArrowRight"] * 3)
    expected = TrustGraph(unary=[0.5, 0.5, 0.5, 0.8])
    expect(page.locator(".mmt-status")).to_have_text(expected._in_words())
    assert estimates(page, "alone")[3] == _percent(expected.values()["alone"][3])
    slider = page.get_by_role("slider", name="ϑ of zernike", exact=True)
    assert slider.get_attribute("aria-valuetext") == "0.8"


def test_the_chosen_line_s_cosine_moves_that_pair_only(show):
    page = show("opening")
    page.get_by_label("pair").select_option("profile – pixels")
    press(page, "cosine s of profile and pixels", "Home")
    s = [list(row) for row in TrustGraph().similarity]
    s[1][2] = s[2][1] = -1
    expected = TrustGraph(similarity=s)
    expect(page.locator(".mmt-status")).to_have_text(expected._in_words())
    assert estimates(page, "marginals") == [_percent(p) for p in expected.values()["marginals"]]


def test_a_click_on_a_line_chooses_it(show):
    page = show("opening")
    line = page.locator(".mmt-hit").nth(0).bounding_box()  # fourier – profile, level
    page.mouse.click(line["x"] + line["width"] / 2, line["y"] + line["height"] / 2)
    assert page.get_by_role("slider", name="cosine s of fourier and profile").count() == 1
    assert page.get_by_label("pair").evaluate("node => node.selectedOptions[0].text") == "fourier – profile"
    assert page.locator(".mmt-selected").count() == 1


def test_coupling_at_zero_leaves_each_alone(show):
    page = show("opening")
    press(page, "coupling w", "Home")
    assert estimates(page, "marginals") == estimates(page, "alone") == ["62%"] * 4


def test_an_absent_modality_has_nothing_and_returns_as_it_was(show):
    page = show("opening")
    absent = page.get_by_role("checkbox", name="pixels absent")
    before = estimates(page, "marginals")
    absent.check()
    assert estimates(page, "marginals")[2] == "0%" and len(shares(page, 0)) == 8
    slider = page.get_by_role("slider", name="ϑ of pixels", exact=True)
    assert slider.is_disabled() and slider.get_attribute("aria-valuetext") == "−∞"
    expect(page.locator(".mmt-graph text", has_text="absent")).to_have_count(1)
    absent.uncheck()
    assert estimates(page, "marginals") == before and slider.get_attribute("aria-valuetext") == "0.5"


def test_every_control_is_reached_by_tab_and_shows_its_focus(show):
    page = show("opening")
    seen = []
    for _ in range(18):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        seen.append(
            focused.get_attribute("aria-label") or focused.evaluate("node => node.innerText || node.type")
        )
        assert focused.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    names = ["fourier", "profile", "pixels", "zernike"]
    assert seen[:3] == ["Three against one", "Two who disagree", "All agree"] and seen[6] == "Start again"
    assert seen[7] == "coupling w" and seen[9] == "cosine s of fourier and zernike"
    assert seen[10:] == [label for name in names for label in (f"{name} absent", f"ϑ of {name}")]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_do_what_their_names_say(show, widgets, preset):
    page = show("opening")
    page.get_by_role("button", name=preset).click()
    expect(page.locator(".mmt-status")).to_contain_text(PRESETS[preset])
    page.get_by_role("button", name="Start again").click()
    expect(page.locator(".mmt-status")).to_have_text(widgets["opening"]._in_words())


@pytest.mark.parametrize("name", ["two", "six", "none there"])
def test_presets_hold_whatever_the_opening(show, name):
    page = show(name)
    for preset in page.locator(".mmt-controls button").all_inner_texts():
        page.get_by_role("button", name=preset).click()
        assert "NaN" not in page.content() and "undefined" not in page.locator(".mmt-trust").inner_text()
        if preset == "Everybody or nobody":
            assert set(estimates(page, "marginals")) == {"50%"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_both_themes(show, scheme):
    page = show("opening", color_scheme=scheme)
    for preset in ("Start again", "One is absent"):
        page.get_by_role("button", name=preset).click()
        found = Axe().run(page).response["violations"]
        assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []
    assert page.locator(".mmt-fallback").count() == 0
    assert page.locator(".mmt-try em").inner_text().count("?") == 1


def test_two_graphs_on_a_page_are_moved_apart(show):
    page = show("all twice")
    total = 2 * (1 + len(STATES))
    page.wait_for_function(f"document.querySelectorAll('.mmt-trust .mmt-try').length === {total}")
    first, second = (page.locator(".mmt-trust").nth(i) for i in (0, 1 + len(STATES)))
    before = second.locator(".mmt-estimates").all_inner_texts()
    assert first.locator(".mmt-estimates").all_inner_texts() == before
    first.get_by_role("button", name="All agree").click()
    assert first.locator(".mmt-estimates").all_inner_texts() != before
    assert second.locator(".mmt-estimates").all_inner_texts() == before


def test_names_are_text_never_markup(open_page, publish):
    visit = open_page(publish({"hostile": TrustGraph([HOSTILE, "b"], [1, 0])}) + "/hostile.html")
    visit.page.wait_for_selector(".mmt-try")
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    for place in (".mmt-status", ".mmt-who b", ".mmt-side select"):
        assert HOSTILE in visit.page.locator(place).first.inner_text()
    assert visit.errors == [] and visit.outside == []
