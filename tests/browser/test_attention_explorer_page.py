"""The attention explorer in a real browser: it computes, says and paints Python's numbers, and answers."""

import base64
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.data import load_emoji
from mmtutor.widgets import AttentionExplorer, Frames, Patches
from mmtutor.widgets.attention_explorer import _percent

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
SENTENCE = "a small grey cat that sleeps on the warm Donaudampfschifffahrtsgesellschaft dreams of fish"
CHOSEN = ("model", "beside", "layer", "head", "query")
TRAITS = ("models", "query_names", "key_names")


def attention(*shape, sharp=2.0, seed=0):
    """Random weights: the softmax of normal scores, `sharp` times as far apart."""
    scores = sharp * np.random.default_rng(seed).normal(size=shape)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def with_padding():
    """Query 4 is padding, and so are the last two keys."""
    weights = attention(2, 3, 9, 16)
    weights[..., 14:] = 0
    weights /= weights.sum(-1, keepdims=True)
    weights[:, :, 3] = 0
    return weights


@pytest.fixture(scope="module")
def widgets():
    picture, frames = load_emoji().pictures("fluent")[0], load_emoji().videos[0]
    grid = Patches(picture, 4, 4)
    two = {"trained": attention(1, 1, 3, 8), "not trained": attention(2, 4, 3, 8, sharp=0.3)}
    long = SENTENCE.split()
    return {
        "naming": AttentionExplorer(with_padding(), "red apple", grid, layer=1, head=2, query=4),
        "two": AttentionExplorer(two, ["what", "moves", "how"], Frames(frames), query=1),
        "words": AttentionExplorer(attention(2, 2, len(long), len(long)), long, head=None, query=3),
        "mixed": AttentionExplorer(attention(1, 2, 18, 18), ["[CLS]", grid, "end"], query=6),
        "fine": AttentionExplorer(
            {"a": attention(36, 196), "b": attention(36, 196, seed=1)},
            Patches(picture, 6, 6),
            Patches(picture, 14, 14),
        ),
        "one": AttentionExplorer([[1.0]], ["only"], Patches(picture, 1, 1)),
    }


def status(page):
    return page.locator(".mmt-attention .mmt-status")


def sides(page, model=0):
    """The sides of the squares on the keys of a model, in shares of a full one."""
    return (
        page.locator(".mmt-model")
        .nth(model)
        .locator(".mmt-square")
        .evaluate_all("all => all.map(s => parseFloat(s.style.getPropertyValue('--mmt-side')) / 100)")
    )


def said(widget, query):
    """What Python says of another query; the widget stays as it was."""
    before, widget.query = widget.query, query
    words, widget.query = widget._in_words(), before
    return words


# --- the numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["naming", "two", "words", "fine", "one"])
def test_page_computes_python_s_numbers(show, address, widgets, name):
    page, widget = show(name), widgets[name]
    stored = [{trait: getattr(widget, trait) for trait in TRAITS}, base64.b64encode(widget.weights).decode()]
    before = {trait: getattr(widget, trait) for trait in CHOSEN}
    asked, expected = [], []
    for m, about in enumerate(widget.models):
        widget.model, widget.beside = about["name"], ""
        for layer in range(about["layers"]):
            for head in (None, *range(about["heads"])):
                for query in range(0, len(widget.query_names), 2):
                    widget.layer, widget.head, widget.query = layer, head, query
                    asked.append([m, layer, head, query])
                    expected.append(widget.values()[about["name"]])
    for trait, value in before.items():
        setattr(widget, trait, value)
    found = page.evaluate(
        f"""async ([[traits, weights], asked]) => {{
        const {{ rectangle, figures }} = await import("{address}/AttentionExplorer.js");
        const bytes = Uint8Array.from(atob(weights), (c) => c.charCodeAt(0));
        const [lq, lk] = [traits.query_names.length, traits.key_names.length];
        return asked.map(([m, layer, head, query]) =>
            figures(rectangle(traits.models[m], bytes, lq, lk, layer, head)[query], 5)); }}""",
        [stored, asked],
    )
    assert len(found) >= len(widget.models)
    for told, values in zip(found, expected, strict=True):
        assert told["top"] == values["top"]
        assert told["weights"] == pytest.approx(values["weights"], abs=1e-9)
        for figure in ("entropy", "effective"):
            assert told[figure] == pytest.approx(values[figure], abs=1e-6)


@pytest.mark.parametrize("name", ["naming", "two", "words", "mixed", "fine", "one"])
def test_what_is_said_listed_and_painted_is_what_python_says(show, widgets, name):
    page, widget = show(name), widgets[name]
    expect(status(page)).to_have_text(widget._in_words())
    values = widget.values()
    largest = max(max(found["weights"]) for found in values.values())
    assert page.locator(".mmt-model:visible").count() == len(values)
    for k, (model, found) in enumerate(values.items()):
        panel = page.locator(".mmt-model").nth(k)
        assert [side**2 for side in sides(page, k)] == pytest.approx(
            [p / largest for p in found["weights"]], abs=1e-4
        )
        digits = 1 if max(found["weights"]) < 0.1 else 0
        shares = [_percent(found["weights"][j], digits) for j in found["top"]]
        assert panel.locator(".mmt-number").all_inner_texts() == shares
        assert panel.locator(".mmt-name").all_inner_texts() == [widget.key_names[j] for j in found["top"]]
        framed = panel.locator(".mmt-key").evaluate_all(
            "all => all.flatMap((key, j) => key.classList.contains('mmt-top') ? [j] : [])"
        )
        assert framed == sorted(found["top"])
        expect(panel.locator(".mmt-heading")).to_contain_text(model)
        expect(panel.locator(".mmt-spread")).to_contain_text(f"Entropy {found['entropy']:.2f} nats")
    assert page.locator(".mmt-try em").inner_text().count("?") == 1


def test_numbers_stand_beside_the_framed_words_and_ranks_on_the_framed_patches(show, widgets):
    page, found = show("words"), widgets["words"].values()["attention"]
    shares = page.locator(".mmt-share").all_inner_texts()
    for j, p in enumerate(found["weights"]):
        assert shares[j] == (_percent(p, 0) if j in found["top"] else "")
    assert page.locator(".mmt-self").count() == 1  # words that look at themselves
    page, found = show("naming"), widgets["naming"].values()["attention"]
    ranks = page.locator(".mmt-rank").all_inner_texts()
    assert [ranks[j] for j in found["top"]] == ["1", "2", "3", "4", "5"]
    assert page.locator(".mmt-self").count() == 0


def test_squares_lie_over_their_patches_and_frames(show, widgets):
    page = show("naming")
    whole = page.locator(".mmt-keys .mmt-patches").bounding_box()
    best = widgets["naming"].values()["attention"]["top"][0]
    box = page.locator(".mmt-keys .mmt-square").nth(best).bounding_box()
    side = whole["width"] / 4
    assert box["width"] == pytest.approx(side, abs=1.5) and box["height"] == pytest.approx(side, abs=1.5)
    assert box["x"] == pytest.approx(whole["x"] + side * (best % 4), abs=1.5)
    assert box["y"] == pytest.approx(whole["y"] + side * (best // 4), abs=1.5)
    page = show("two")
    for k in range(8):
        picture = page.locator(".mmt-keys .mmt-of-frames img").nth(k).bounding_box()
        square = page.locator(".mmt-keys .mmt-of-frames .mmt-square").nth(k).bounding_box()
        assert picture["x"] - 1 <= square["x"] <= square["x"] + square["width"] <= picture["x"] + 78


def test_pictures_are_drawn(show):
    for name, count in {"naming": 1, "two": 16, "mixed": 2}.items():
        loaded = show(name).locator(".mmt-attention img").evaluate_all("all => all.map(i => i.naturalWidth)")
        assert len(loaded) == count and min(loaded) >= 96


def test_heat_map_is_shaded_by_weight_and_frames_the_query_s_row(show, widgets):
    page, widget = show("naming"), widgets["naming"]
    alpha = page.locator("canvas").evaluate(
        """c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)
            .filter((_, i) => i % 4 === 3)"""
    )
    p = widget._rectangle("attention")
    assert np.reshape(alpha, p.shape) == pytest.approx(255 * p / p.max(), abs=1.5)
    area, row = page.locator(".mmt-area").bounding_box(), page.locator(".mmt-row").bounding_box()
    middle = (row["y"] + row["height"] / 2 - area["y"]) / area["height"]
    assert middle == pytest.approx(4.5 / 9, abs=0.02)
    expect(page.locator(".mmt-across")).to_have_text("keys 1 to 16 →")
    expect(page.locator(".mmt-down")).to_have_text("← queries 1 to 9")


# --- use ------------------------------------------------------------------------------------------------


def test_padding_has_no_squares_and_says_so(show, widgets):
    page, widget = show("naming"), widgets["naming"]
    page.get_by_role("radio", name="␣").click()
    expect(status(page)).to_have_text(said(widget, 3))
    expect(page.locator(".mmt-spread")).to_have_text("Padding: this query has no weights.")
    assert page.locator(".mmt-square:visible").count() == 0 and page.locator(".mmt-most li").count() == 0
    assert "NaN" not in page.content()
    page.get_by_role("radio", name="d", exact=True).click()
    hidden = page.locator(".mmt-square").evaluate_all("all => all.map(s => s.hidden)")
    assert hidden[14:] == [True, True]  # keys that are padding


def test_hover_looks_at_a_query_and_leaving_returns_to_the_chosen_one(show, widgets):
    page, widget = show("naming"), widgets["naming"]
    page.get_by_role("radio", name="r", exact=True).hover()
    expect(status(page)).to_have_text(said(widget, 0))
    assert page.locator("[aria-checked=true]").get_attribute("aria-label") == "a"
    page.locator("h1").hover()
    expect(status(page)).to_have_text(said(widget, 4))
    area = page.locator(".mmt-area").bounding_box()
    page.mouse.move(area["x"] + 20, area["y"] + area["height"] * 8.5 / 9)
    expect(status(page)).to_have_text(said(widget, 8))
    page.mouse.down()
    page.mouse.up()
    page.locator("h1").hover()
    expect(status(page)).to_have_text(said(widget, 8))  # a click keeps it


def test_arrow_keys_walk_along_words_and_over_a_picture(show):
    page = show("mixed")
    page.locator("[aria-checked=true]").focus()

    def walk(*keys):
        for key in keys:
            page.keyboard.press(key)
        focused = page.locator(":focus").get_attribute("aria-label")
        assert page.locator("[aria-checked=true]").get_attribute("aria-label") == focused
        return focused

    assert walk("ArrowDown") == "row 3, column 2"
    assert walk("ArrowRight") == "row 3, column 3"
    assert walk("ArrowUp", "ArrowUp") == "row 1, column 3"
    assert walk("ArrowUp") == "[CLS]" and walk("ArrowUp", "ArrowLeft") == "[CLS]"
    assert walk("ArrowDown") == "row 1, column 1"
    assert walk("End") == "end" and walk("ArrowDown", "ArrowRight") == "end"
    assert walk("ArrowUp") == "row 4, column 4" and walk("ArrowDown") == "end"
    assert walk("Home") == "[CLS]"
    expect(status(page)).to_contain_text("Query 1, “[CLS]”.")


def test_every_control_is_reached_by_tab_and_shows_its_focus(show):
    page = show("two")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        seen.append(
            focused.evaluate("x => x.getAttribute('aria-label') ?? x.parentNode.firstChild.textContent")
        )
        assert focused.evaluate("x => getComputedStyle(x).outlineStyle") == "solid"
        assert focused.get_attribute("data-lm-suppress-shortcuts") == "true"
    assert seen == ["model", "beside it", "layer", "head", "query", "moves"]


def test_layer_head_and_query_are_chosen_from_lists(show, widgets):
    page = show("words")
    fresh = AttentionExplorer(attention(2, 2, 13, 13), SENTENCE.split(), layer=1, head=1, query=5)
    page.get_by_role("combobox", name="layer").select_option("2")
    page.get_by_role("combobox", name="head").select_option("2")
    page.get_by_role("combobox", name="query").select_option("6: sleeps")
    expect(status(page)).to_have_text(fresh._in_words())
    fresh.head = None
    page.get_by_role("combobox", name="head").select_option("mean of heads")
    expect(status(page)).to_have_text(fresh._in_words())


def test_choices_reach_python_under_the_traits_names_and_python_s_reach_the_page(show, address, widgets):
    page, widget = show("one"), widgets["two"]
    traits = {name: getattr(widget, name) for name in widget.trait_names(sync=True) if name[0] != "_"}
    packed = {x: base64.b64encode(traits.pop(x)).decode() for x in ("weights", "pictures")}
    kept = {x: traits[x] for x in traits if isinstance(traits[x], str | int | list | None)}
    told, later = page.evaluate(
        f"""async ([traits, packed]) => {{
        const {{ render }} = (await import("{address}/AttentionExplorer.js")).default;
        const view = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
        const [told, heard] = [[], {{}}];
        const model = {{
          get: (name) => (name in packed ? view(packed[name]) : traits[name]),
          set: (name, value) => {{
            told.push([name, value]); traits[name] = value; heard[`change:${{name}}`]?.();
          }},
          on: (event, callback) => (heard[event] = callback),
          off: (event) => delete heard[event],
          save_changes() {{}},
        }};
        const el = document.body.appendChild(document.createElement("div"));
        const close = render({{ model, el }});
        el.querySelectorAll("[role=radio]")[2].click();
        const choose = (node, i) => {{ node.value = i; node.dispatchEvent(new Event("change")); }};
        [1, 1, 1, 4, 0].forEach((choice, k) => choose(el.querySelectorAll("select")[k], choice));
        traits.query = 1;
        heard["change:query"](); // as when Python changes it
        const later = el.querySelector("[aria-checked=true]").textContent;
        close();
        return [told, [later, Object.keys(heard).length]]; }}""",
        [kept, packed],
    )
    assert told == [
        ["query", 2],
        ["model", "not trained"],
        ["beside", "trained"],
        ["layer", 1],
        ["head", None],
        ["query", 0],
    ]
    assert later == ["moves", 0]


def test_controls_without_a_choice_are_not_there(show):
    page = show("one")
    assert page.get_by_role("combobox").count() == 0 and page.get_by_role("radio").count() == 1
    assert show("mixed").get_by_role("combobox", name="layer").count() == 0


def test_two_models_stand_side_by_side_or_below_each_other(show, widgets):
    for width in (800, 400):
        page = show("two", viewport={"width": width, "height": 800})
        a, b = (page.locator(".mmt-model").nth(k).bounding_box() for k in (0, 1))
        assert (a["y"] == b["y"]) == (width == 800) and (a["x"] == b["x"]) == (width == 400)
    page.get_by_role("combobox", name="beside it").select_option("nothing")
    assert page.locator(".mmt-model:visible").count() == 1
    page.get_by_role("combobox", name="model").select_option("not trained")
    page.get_by_role("combobox", name="head").select_option("3")
    expect(page.locator(".mmt-model").first).to_contain_text("not trained layer 1 of 2, head 3 of 4")
    page.get_by_role("combobox", name="beside it").select_option("trained")
    expect(page.locator(".mmt-model .mmt-heading").nth(1)).to_have_text("trained ")


@pytest.mark.parametrize("width", [400, 800])
@pytest.mark.parametrize("name", ["naming", "two", "words", "mixed", "one"])
def test_texts_never_overlap_nor_leave_the_page(show, boxes_apart, name, width):
    page = show(name, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    text = """() => { const boxes = [];
      const all = document.querySelector(".mmt-attention");
      const walker = document.createTreeWalker(all, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        if (!walker.currentNode.data.trim() || walker.currentNode.parentNode.closest("select")) continue;
        const range = document.createRange();
        range.selectNodeContents(walker.currentNode);
        for (const box of range.getClientRects()) if (box.width) boxes.push(box.toJSON());
      }
      return boxes; }"""
    boxes = page.evaluate(text)
    assert len(boxes) > 8 and all(b["x"] >= 0 and b["x"] + b["width"] <= width for b in boxes)
    assert boxes_apart(boxes, slack=2.5)  # lines of text lie close to each other
    parts = ".mmt-controls select, .mmt-query, .mmt-area, .mmt-key.mmt-of-words, .mmt-most li, .mmt-status"
    assert boxes_apart([place for place in page.locator(parts).all() if place.is_visible()])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["naming", "two", "mixed"])
def test_accessible_in_both_themes(show, scheme, name):
    page = show(name, color_scheme=scheme)
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []
    assert page.locator(".mmt-fallback").count() == 0


def test_keys_and_rectangle_are_told_in_words(show, widgets):
    page = show("naming")
    labels = [node.get_attribute("aria-label") for node in page.locator(".mmt-attention [role=img]").all()]
    words = widgets["naming"]._in_words().removeprefix("Query 5, “a”. ")
    assert labels[0] == f"Keys. {words}"
    assert re.fullmatch(r"Heat map .* 9 queries down, 16 keys across. The row of “a” is framed.", labels[1])


def test_two_explorers_on_a_page_do_not_share_their_choice(show):
    page = show("all twice")
    page.wait_for_function("document.querySelectorAll('.mmt-attention .mmt-try').length === 12")
    first, second = page.locator(".mmt-attention").nth(0), page.locator(".mmt-attention").nth(6)
    first.get_by_role("radio", name="r", exact=True).click()
    assert first.locator("[aria-checked=true]").get_attribute("aria-label") == "r"
    assert second.locator("[aria-checked=true]").get_attribute("aria-label") == "a"


@pytest.mark.parametrize("width", [400, 800])
def test_labels_are_text_never_markup_and_long_ones_break(open_page, publish, width):
    models = {HOSTILE: attention(2, 2), "b" * 150: attention(2, 2)}
    widget = AttentionExplorer(models, [HOSTILE, "x" * 200], question=f"{HOSTILE}?")
    visit = open_page(
        publish({"hostile": widget}) + "/hostile.html", viewport={"width": width, "height": 800}
    )
    visit.page.wait_for_selector(".mmt-try")
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    for place in (".mmt-status", ".mmt-query", ".mmt-word", ".mmt-name", ".mmt-heading b:not(:text('asks'))"):
        assert HOSTILE in visit.page.locator(place).first.inner_text()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.errors == [] and visit.outside == []
