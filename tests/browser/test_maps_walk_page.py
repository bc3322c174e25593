"""The walk through the maps in a real browser: its scores and places, and how it answers."""

import itertools

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.data import load_emoji
from mmtutor.widgets import MapsWalk

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
ALL = ("image", "video", "text")
TITLES = {"image": "picture", "video": "animation", "text": "name"}
SUBSETS = [cut for k in range(4) for cut in itertools.combinations(ALL, k)]
THINGS, DIM, STILL = 10, 24, (3, 8)  # of ten things two do not move
TASKS = {"group": 8, "hand": 5}


def make_walk(thing=None, **changed):
    emoji, generator = load_emoji(), torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    shared = draw(THINGS, DIM)  # what the modalities of a thing have in common
    given = {
        "points": {m: shared + draw(THINGS, DIM) for m in ALL},
        "heads": {task: (draw(count, DIM), draw(count)) for task, count in TASKS.items()},
        "answers": {"group": emoji.group_names, "hand": emoji.styles},
        "truth": {"group": emoji.group[:THINGS], "hand": [0] * (THINGS - 1) + [-1]},
        "measured": {cut: {"group": 0.1 * len(cut), "hand": 0.2} for cut in SUBSETS[1:]},
        "names": emoji.names[:THINGS],
        "pictures": emoji.images[0, :THINGS],
        "frames": [None if i in STILL else emoji.videos[i] for i in range(THINGS)],
        "stops": {"image": [draw(THINGS, 8, 16, 16), draw(THINGS, 16, 8, 8)], "text": [draw(THINGS, 40)]},
    }
    return MapsWalk(**{**given, **changed}, thing=thing)


@pytest.fixture(scope="module")
def widgets():
    return {
        "walk": make_walk(thing=0),
        "two": make_walk(0, points=dict.fromkeys(("image", "text"), torch.eye(THINGS, DIM)), measured={}),
    }


def in_page(page, address, walk, body):
    """Run the module's functions on the widget's state; ``body`` sees ``module``, ``maps``, ``cuts``."""
    values, packed = {}, {}
    for name in ("dim", "modalities", "valid", "tasks", "points_scale"):
        values[name] = getattr(walk, name)
    for name in ("points", "weights", "biases"):
        packed[name] = list(getattr(walk, name))
    return page.evaluate(
        f"""async ([values, packed, cuts]) => {{
          const module = await import("{address}/MapsWalk.js");
          const bytes = name => new DataView(Uint8Array.from(packed[name]).buffer);
          const get = name => name in values ? values[name] : bytes(name);
          const maps = module.readMaps({{get}});
          {body} }}""",
        [values, packed, [list(cut) for cut in SUBSETS]],
    )


def arrow(page, modality):
    return page.get_by_role("checkbox", name=f"arrow of the {TITLES[modality]}")


def answers(page):
    return page.locator(".mmt-answer b").all_inner_texts()


def expected_answers(walk, thing, cut=()):
    scores = walk.scores(thing, cut)
    return [task["answers"][int(scores[task["name"]].argmax())] for task in walk.tasks]


def test_scores_in_the_page_equal_python_s(show, address, widgets):
    walk = widgets["walk"]
    found = in_page(
        show("walk"), address, walk,
        """return cuts.map(cut => values.valid.map((_, thing) => {
             const z = module.fuse(maps, thing, cut);
             return maps.heads.map(head => module.scores(maps, head, z)); }));""",
    )  # fmt: skip
    for cut, things in zip(SUBSETS, found, strict=True):
        for thing, heads in enumerate(things):
            for head, scores in zip(heads, walk.scores(thing, cut).values(), strict=True):
                assert np.abs(np.array(head) - scores).max() < 1e-6


def test_places_of_partners_equal_a_count_in_python(show, address, widgets):
    walk = widgets["walk"]
    found = in_page(
        show("walk"), address, walk,
        """return maps.modalities.map(from => maps.modalities.map(to => values.valid.map((_, thing) => {
             const meet = from !== to && maps.has(thing, from) && maps.has(thing, to);
             return meet ? module.partner(maps, thing, from, to) : null; })));""",
    )  # fmt: skip
    z = np.frombuffer(walk.points, np.int8).reshape(THINGS, 3, DIM).astype(float)
    z /= np.linalg.norm(z, axis=2, keepdims=True).clip(1e-12)
    for (i, a), (j, b) in itertools.permutations(enumerate(ALL), 2):
        there = [k for k in range(THINGS) if b != "video" or k not in STILL]
        for thing in range(THINGS):
            partner = found[i][j][thing]
            if thing in STILL and "video" in (a, b):
                assert partner is None
                continue
            cosines = z[there, j] @ z[thing, i]
            own = z[thing, j] @ z[thing, i]
            assert partner["cosine"] == pytest.approx(own, abs=1e-9)
            assert (partner["place"], partner["of"]) == (1 + (cosines > own + 1e-12).sum(), len(there))


def test_draws_without_kernel_error_or_network(show, ink):
    page = show("walk")
    assert page.locator(".mmt-fallback").count() == 0
    assert page.locator(".mmt-try em").inner_text().count("?") == 1
    for canvas in page.locator("canvas:visible").all():
        assert ink(canvas) > 50
    assert page.locator(".mmt-stop .mmt-shape").all_inner_texts() == ["8×16×16", "16×8×8", "40"]
    assert page.locator(".mmt-heat").evaluate_all("maps => maps.map(m => m.childElementCount)") == [256, 64]


@pytest.mark.parametrize("cut", SUBSETS[1:], ids=" ".join)
def test_cut_arrows_change_answers_and_shares_to_python_s(show, widgets, cut):
    page, walk = show("walk"), widgets["walk"]
    assert answers(page) == expected_answers(walk, 0)
    for modality in cut:
        arrow(page, modality).uncheck()
    assert answers(page) == expected_answers(walk, 0, cut)
    whole = [m for m in ALL if m not in cut]
    share = f"{10 * len(whole)} % of all test things" if whole else "not measured"
    assert page.locator(".mmt-share").first.inner_text() == share
    assert page.locator(".mmt-cut").count() == page.locator(".mmt-dashed").count() == len(cut)
    assert (
        page.locator(".mmt-mean")
        .inner_text()
        .endswith(f"mean of {len(whole)}" if whole else "= 0, nothing arrives")
    )
    for modality in cut:
        arrow(page, modality).check()
    assert answers(page) == expected_answers(walk, 0)


def test_the_status_says_what_turns_and_what_stays(show, widgets):
    page, walk = show("walk"), widgets["walk"]
    status = page.locator(".mmt-status")
    expect(status).to_have_text(f"{walk.names[0]}, all arrows whole: {count_right(walk, 0)} of 2 are right.")
    change = lambda i: [  # noqa: E731
        f"{task} turns from {old} to {new}" if old != new else f"{task} stays"
        for task, old, new in zip(
            TASKS, expected_answers(walk, i), expected_answers(walk, i, ALL), strict=True
        )
    ]
    thing = next(i for i in range(THINGS) if len({line.split()[1] for line in change(i)}) == 2)
    page.get_by_role("radio", name=walk.names[thing], exact=True).check()
    for modality in ALL:
        arrow(page, modality).uncheck()
    expect(status).to_contain_text("where nothing arrives and the heads answer by habit")
    for line in change(thing):
        expect(status).to_contain_text(line)
    expect(status).to_contain_text(f"{count_right(walk, thing, ALL)} of ")


def count_right(walk, thing, cut=()):
    scores = walk.scores(thing, cut)
    return sum(scores[task["name"]].argmax() in task["truth"][thing] for task in walk.tasks)


def test_a_thing_is_chosen_by_mouse_and_by_arrow_keys(show, widgets):
    page, walk = show("walk"), widgets["walk"]
    page.locator(".mmt-choice").nth(5).click()
    assert page.get_by_role("radio", checked=True).get_attribute("aria-label") == walk.names[5]
    assert answers(page) == expected_answers(walk, 5)
    page.keyboard.press("ArrowRight")
    assert page.locator(".mmt-chosen b").inner_text() == walk.names[6]
    assert answers(page) == expected_answers(walk, 6)


def test_all_of_it_is_reached_by_the_keyboard_in_order(show, widgets):
    page, walk = show("walk"), widgets["walk"]
    page.get_by_role("radio", checked=True).focus()
    names = []
    for _ in range(4):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.closest('label, button').textContent"))
    assert [name.split()[-1] for name in names] == ["picture", "animation", "animation", "name"]
    page.keyboard.press("Space")
    assert answers(page) == expected_answers(walk, 0, ["text"])


def test_a_thing_without_animation_sends_nothing_and_says_so(show, widgets):
    page, walk = show("walk"), widgets["walk"]
    page.get_by_role("radio", name=walk.names[3], exact=True).check()
    lane = page.get_by_role("group", name="animation", exact=True)
    assert lane.locator(".mmt-inside").inner_text() == "none"
    assert lane.get_by_role("button").count() == 0 and lane.locator("canvas").count() == 0
    assert answers(page) == expected_answers(walk, 3)
    assert page.locator(".mmt-mean").inner_text().endswith("mean of 2")
    lines = page.locator(".mmt-meetings li").all_inner_texts()
    assert "nothing comes from the animation" in lines[0] and "nothing comes from the animation" in lines[2]
    assert "of 10" in lines[1]


def test_what_is_not_known_is_not_called_wrong(show, widgets):
    page = show("walk")
    page.get_by_role("radio", name=widgets["walk"].names[9], exact=True).check()
    hand = page.get_by_role("group", name="hand", exact=True)
    assert "no answer is known" in hand.inner_text() and hand.get_by_role("img").count() == 0
    group = page.get_by_role("group", name="group", exact=True)
    assert group.get_by_role("img").count() == 1


def test_meetings_name_both_directions_and_need_both_arrows(show):
    page = show("two")  # picture and name of one thing are the same point
    line = page.locator(".mmt-meetings li")
    assert line.all_inner_texts() == [
        "picture and name meet: seen from the picture, the name is 1st of 10; "
        "from the name, the picture is 1st of 10 (cosine 1.00)."
    ]
    arrow(page, "text").uncheck()
    assert line.all_inner_texts() == ["picture and name: nothing comes from the name."]


def test_the_animation_plays_on_demand_and_rests(show, stop_the_clock):
    page = show("walk")
    stop_the_clock(page)
    screens = page.locator(".mmt-from-video .mmt-inside canvas")
    assert screens.count() == 4
    page.get_by_role("button", name="animation").click()
    seen = set()
    for _ in range(4):
        page.clock.run_for(250)
        seen.add(screens.evaluate("canvas => canvas.toDataURL()"))  # there is only one
    assert len(seen) > 1
    page.clock.run_for(3000)
    assert screens.count() == 4


def test_without_motion_where_the_reader_wants_none(show):
    page = show("walk", reduced_motion="reduce")
    assert page.get_by_role("button").count() == 0
    assert page.locator(".mmt-from-video .mmt-inside canvas").count() == 4


def test_a_cut_arrow_has_a_gap_between_two_strokes(show):
    page = show("walk")
    solid = "paths => paths.map(p => p.getTotalLength())"
    whole = page.locator(".mmt-wires .mmt-strong").evaluate_all(solid)
    arrow(page, "image").uncheck()
    stub = page.locator(".mmt-wires .mmt-strong").evaluate_all(solid)[0]
    rest = page.locator(".mmt-wires .mmt-dashed").evaluate_all(solid)[0]
    assert stub > 5 and rest > 5 and stub + rest < whole[0] - 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_both_themes(show, scheme):
    page = show("walk", color_scheme=scheme)
    arrow(page, "image").uncheck()
    page.locator(".mmt-choice").nth(3).click()
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []


@pytest.mark.parametrize("width", [360, 400, 700])
def test_fits_the_page_and_its_arrows_end_at_their_boxes(show, width):
    page = show("walk", viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for control in page.locator(".mmt button:visible, .mmt label:visible").all():
        box = control.bounding_box()
        assert box["height"] >= 24 and box["x"] >= 0 and box["x"] + box["width"] <= width
    space = page.locator(".mmt-space").bounding_box()
    lane = page.locator(".mmt-lane").first.bounding_box()
    beside = width > 650
    assert (lane["x"] + lane["width"] <= space["x"] + 1) == beside
    tip = page.locator(".mmt-wires path[fill]:not([fill=none])").first.bounding_box()
    assert (abs(tip["x"] - space["x"]) if beside else abs(tip["y"] - space["y"])) < 24


def test_labels_are_text_never_markup(open_page, publish):
    tasks = {HOSTILE: (torch.randn(2, DIM), torch.randn(2))}
    walk = make_walk(
        0,
        names=[HOSTILE] * THINGS,
        heads=tasks,
        answers={HOSTILE: [HOSTILE] * 2},
        truth={HOSTILE: [0] * THINGS},
    )
    visit = open_page(publish({"hostile": walk}) + "/hostile.html")
    visit.page.wait_for_selector(".mmt-try")
    arrow(visit.page, "image").uncheck()
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    assert HOSTILE in visit.page.locator(".mmt-answer").inner_text()
    assert visit.errors == [] and visit.outside == []


def test_two_walks_on_one_page_choose_for_themselves(show):
    page = show("all twice")
    page.wait_for_function("document.querySelectorAll('.mmt-try').length === 4")
    first, second = (page.locator(".mmt-walk").nth(i) for i in (0, 2))
    first.locator(".mmt-choice").nth(4).click()
    assert (
        first.get_by_role("radio", checked=True).count()
        == second.get_by_role("radio", checked=True).count()
        == 1
    )
    assert first.locator(".mmt-chosen").inner_text() != second.locator(".mmt-chosen").inner_text()
