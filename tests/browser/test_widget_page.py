"""The widgets on a plain page in a real browser: no kernel, no network, mouse, touch and keyboard."""

import math

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mmtutor.contrastive import info_nce, margin_contrastive
from mmtutor.data import load_emoji
from mmtutor.encoders import TextEncoder, fnv1a, text_features
from mmtutor.widgets import ContrastivePlayground, EmbeddingExplorer, SearchBox

THINGS, CHECKPOINTS = 24, 3
HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>widgets</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>@media (prefers-color-scheme: dark) {{ html {{ background: #121212; color: #ced6dd }} }}</style>
<main><h1>Widgets</h1>{}</main></html>"""
TEXTS = [
    "red apple", "a cat", "KITTENS", "smiling face", "heart", "Flag 2", "car!", "moon", "x", "tree house",
    "苹果", "红色的心", "猫", "笑 face", "中文字", "ＡＢＣ", "naïve café", "e-mail", "  ", "日本 flag",
    "zzzz", "👍 thumbs",
]  # fmt: skip


@pytest.fixture(scope="module")
def widgets():
    emoji = load_emoji()
    pictures, names = emoji.images[0, :THINGS], list(emoji.names[:THINGS])
    generator = torch.Generator().manual_seed(0)
    checkpoints = [
        {name: torch.randn(THINGS, 8, generator=generator) for name in ("image", "text")}
        for _ in range(CHECKPOINTS)
    ]
    torch.manual_seed(0)
    encoder = TextEncoder(dim=128).eval()
    many, many_names = emoji.images[0, :200], list(emoji.names[:200])
    black = np.zeros((2, 32, 32, 3), np.uint8)
    hostile = [HOSTILE, HOSTILE + "2"]
    return {
        "explorer": EmbeddingExplorer.from_embeddings(
            checkpoints, pictures, names, [i % 2 for i in range(THINGS)], ["even", "odd"], [0, 50, 100]
        ),
        "info_nce": ContrastivePlayground(),
        "margin": ContrastivePlayground("margin"),
        "search": SearchBox(encoder, encoder(many_names), many, many_names, ["red apple", "苹果"]),
        "hostile explorer": EmbeddingExplorer(
            np.random.rand(2, 2, 2),
            [*black],
            hostile,
            ["image", HOSTILE],
            [1, 0],
            [0, 0],
            [HOSTILE],
            neighbours=[[[1], [0]]] * 2,
            figures={HOSTILE: [0, 1]},
            selected=0,
            axes=(HOSTILE, HOSTILE),
        ),  # fmt: skip
        "hostile playground": ContrastivePlayground(names=hostile, thumbnails=black),
        "hostile search": SearchBox(encoder, torch.randn(2, 128), black, hostile, [HOSTILE]),
    }


@pytest.fixture(scope="module")
def address(widgets, serve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("widgets")
    for name, widget in widgets.items():
        (folder / f"{name}.html").write_text(PAGE.format(widget.to_html()), "utf-8")
    twice = [widgets[name].to_html() for name in ("explorer", "info_nce", "margin", "search", "info_nce")]
    (folder / "all.html").write_text(PAGE.format("".join(twice)), "utf-8")
    for kind in (ContrastivePlayground, SearchBox):
        (folder / f"{kind.__name__}.js").write_text(kind._esm, "utf-8")
    return serve(folder)


@pytest.fixture
def show(address, open_page):
    """Open one widget's page and wait until it is drawn; afterwards nothing may have gone wrong."""
    visits = []

    def show(name, **options):
        visit = open_page(f"{address}/{name}.html", **options)
        visit.page.wait_for_selector(".mmt-try")
        visit.page.wait_for_function(SIZED)  # a canvas is drawn as soon as it has its size
        visits.append(visit)
        return visit.page

    yield show
    for visit in visits:
        assert visit.errors == [] and visit.outside == []


SIZED = "[...document.querySelectorAll('.mmt-stage canvas')].every(canvas => canvas.style.height)"
DRAWN = {
    "explorer": "canvas",
    "info_nce": ".mmt-point",
    "margin": ".mmt-point",
    "search": ".mmt-results li",
}
INK = """canvas => { const {width, height} = canvas;
  const copy = new OffscreenCanvas(width, height).getContext('2d');
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(0, 0, width, height).data.filter((x, i) => i % 4 === 3 && x > 0).length; }"""


def picture_of(page):
    return page.locator(".mmt-stage canvas").evaluate("canvas => canvas.toDataURL()")


@pytest.mark.parametrize("name", DRAWN)
def test_draws_without_kernel_error_or_network(show, name):
    page = show(name)
    assert page.locator(DRAWN[name]).count() > 0
    assert page.locator(".mmt-fallback").count() == 0
    assert "?" in page.locator(".mmt-try em").inner_text()  # each asks one question
    for canvas in page.locator("canvas:visible").all():
        assert canvas.evaluate(INK) > 50


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", DRAWN)
def test_accessible_in_both_themes(show, name, scheme):
    page = show(name, color_scheme=scheme)
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []


@pytest.mark.parametrize("name", DRAWN)
def test_fits_a_narrow_touch_screen(show, name):
    page = show(name, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for button in page.locator(".mmt button:visible, .mmt select:visible").all():
        box = button.bounding_box()
        assert box["height"] >= 24 and box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_widgets_share_a_page_and_one_may_stand_there_twice(show):
    page = show("all")
    page.wait_for_function("document.querySelectorAll('.mmt-try').length === 5")
    first, second = (page.locator(".mmt-playground .mmt-loss").nth(i) for i in (0, 2))
    before = second.inner_text()
    assert first.inner_text() == before
    page.get_by_role("button", name="One step downhill").first.click()
    assert first.inner_text() != before and second.inner_text() == before


@pytest.mark.parametrize("name", ["hostile explorer", "hostile playground", "hostile search"])
def test_labels_are_text_never_markup(show, name):
    page = show(name)
    page.wait_for_timeout(200)
    assert page.title() == "widgets"
    assert page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    assert HOSTILE in page.locator(".mmt").inner_text()


# --- embedding explorer ---------------------------------------------------------------------------------


def test_panel_lists_the_neighbours_computed_in_python(show, widgets):
    page, widget = show("explorer", reduced_motion="reduce"), widgets["explorer"]
    neighbours = np.frombuffer(widget.neighbours, np.uint16).reshape(CHECKPOINTS, 2 * THINGS, -1)
    for step in range(CHECKPOINTS):
        page.get_by_role("slider").fill(str(step))
        expected = [widget.names[i] for i in neighbours[step, widget.selected]]
        assert page.locator(".mmt-panel li span:not(.mmt-swatch)").all_inner_texts() == expected
        assert f"recall@1 {widget.figures['recall@1'][step]:.2f}" in page.locator(".mmt-figures").inner_text()


def test_slider_moves_the_points_and_play_runs_to_the_end(show):
    page = show("explorer", reduced_motion="reduce")
    end = picture_of(page)
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "step 0"
    assert picture_of(page) != end
    page.get_by_role("button", name="Play").click()
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "step 100"
    assert picture_of(page) == end


def stop_the_clock(page):
    """From now on the page's time passes only in ``page.clock.run_for(milliseconds)``."""
    page.clock.install(time=0)
    page.clock.pause_at(10_000)


def test_play_moves_smoothly_and_can_be_paused(show):
    page = show("explorer")
    stop_the_clock(page)
    page.get_by_role("button", name="Play").click()
    pictures = []
    for _ in range(3):
        page.clock.run_for(200)  # of 900 from one checkpoint to the next
        pictures.append(picture_of(page))
    assert len(set(pictures)) == 3
    page.get_by_role("button", name="Pause").click()
    paused = picture_of(page)
    page.clock.run_for(1000)
    assert picture_of(page) == paused
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "step 50"


def test_map_answers_mouse_and_keyboard(show, widgets):
    page, widget = show("explorer"), widgets["explorer"]
    held = page.locator(".mmt-panel .mmt-title b")
    canvas = page.locator(".mmt-stage canvas")
    assert held.inner_text() == widget.names[widget.selected]
    canvas.focus()
    names = set()
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
        names.add(held.inner_text())
    assert len(names) >= 2
    page.keyboard.press("Escape")
    assert held.count() == 0
    box = canvas.bounding_box()
    x, y = np.frombuffer(widget.positions, np.uint16).reshape(CHECKPOINTS, -1, 2)[-1, 5] / 65535
    where = (box["x"] + 36 + x * (box["width"] - 56), box["y"] + 20 + y * (box["height"] - 56))
    page.mouse.move(*where)
    assert held.inner_text() == widget.names[5]
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 30)
    assert held.count() == 0  # only pointed at, not held
    page.mouse.click(*where)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 30)
    assert held.inner_text() == widget.names[5]


def test_filters_leave_less_on_the_map(show):
    page = show("explorer")
    canvas = page.locator(".mmt-stage canvas")
    canvas.focus()
    page.keyboard.press("Escape")
    everything = canvas.evaluate(INK)
    page.get_by_label("words").uncheck()
    without_words = canvas.evaluate(INK)
    page.get_by_label("show").select_option("even")
    assert everything > without_words > canvas.evaluate(INK) > 0


def test_map_follows_the_theme_while_open(show):
    page = show("explorer", color_scheme="light")
    light = picture_of(page)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "light => document.querySelector('.mmt-stage canvas').toDataURL() !== light", arg=light
    )


# --- contrastive playground -----------------------------------------------------------------------------


def angles(seed, count=4):
    return (
        torch.rand(2, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 * math.pi
    )


def in_python(loss, a, b):
    """Loss and gradients with respect to the angles, by automatic differentiation."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    value = loss(*(torch.stack([t.cos(), t.sin()], 1) for t in (a, b)))
    return value.item(), *torch.autograd.grad(value, (a, b))


def in_page(page, address, function, a, b, *options):
    result = page.evaluate(
        f"""async (inputs) => {{
          const module = await import("{address}/ContrastivePlayground.js");
          const {{loss, gradA, gradB}} = module.{function}(...inputs);
          return [loss, gradA, gradB]; }}""",
        [a.tolist(), b.tolist(), *options],
    )
    return result[0], *(torch.tensor(gradient, dtype=torch.float64) for gradient in result[1:])


def assert_equal(found, expected):
    for x, y in zip(found, expected, strict=True):
        assert torch.as_tensor(x).sub(torch.as_tensor(y)).abs().max() < 1e-6


def test_info_nce_in_the_page_equals_torch(show, address):
    page = show("info_nce")
    for seed, temperature in enumerate((0.02, 0.05, 0.07, 0.2, 0.5, 1.0, 2.0)):
        a, b = angles(seed)
        expected = in_python(lambda x, y: info_nce(x, y, temperature), a, b)  # noqa: B023
        assert_equal(in_page(page, address, "infoNce", a, b, temperature), expected)


@pytest.mark.parametrize("squared", [False, True])
def test_margin_loss_in_the_page_equals_torch(show, address, squared):
    page, match = show("margin"), torch.eye(4, dtype=torch.bool)
    for seed, margin in enumerate((1.0, 0.3, 0.7, 1.5, 2.0)):
        a, b = angles(seed)
        if seed == 0:
            b[0] = a[0]  # a true pair at distance 0, where the gradient is defined as 0
            b[2] = a[1]  # and a wrong one
        expected = in_python(
            lambda x, y: margin_contrastive(x, y, match, margin=margin, squared=squared),  # noqa: B023
            a,
            b,
        )
        assert_equal(in_page(page, address, "marginLoss", a, b, margin, squared), expected)


@pytest.mark.parametrize("name", ["info_nce", "margin"])
def test_opening_loss_is_the_library_s(show, widgets, name):
    assert show(name).locator(".mmt-loss").inner_text() == f"{widgets[name].value():.3f}"


def number(locator):
    return float(locator.inner_text())


def test_points_answer_mouse_and_arrow_keys(show):
    page = show("info_nce")
    loss, point = page.locator(".mmt-loss"), page.get_by_role("slider", name="picture cat")
    before = number(loss)
    point.focus()
    page.keyboard.press("ArrowRight")
    assert point.get_attribute("aria-valuetext") == "116 degrees"
    assert number(loss) < before  # towards its word
    handle, ring = point.locator(".mmt-handle").bounding_box(), page.locator(".mmt-ring").bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] + 20, steps=4)
    page.mouse.up()
    assert point.get_attribute("aria-valuetext") == "270 degrees"


def test_steps_go_downhill_and_start_again_returns(show):
    page = show("info_nce", reduced_motion="reduce")
    loss = page.locator(".mmt-loss")
    start = number(loss)
    page.get_by_role("button", name="One step downhill").click()
    after_one = number(loss)
    page.get_by_role("button", name="Run 80 steps").click()
    assert number(loss) < after_one < start
    assert number(loss) < 0.05  # every pair has found itself
    page.get_by_role("button", name="Start again").click()
    assert number(loss) == start


def test_run_is_drawn_step_by_step_and_can_be_stopped(show):
    page = show("info_nce")
    stop_the_clock(page)
    loss = page.locator(".mmt-loss")
    losses = [number(loss)]
    page.get_by_role("button", name="Run 80 steps").click()
    for _ in range(3):
        page.clock.run_for(200)  # five steps
        losses.append(number(loss))
    assert sorted(set(losses), reverse=True) == losses
    page.get_by_role("button", name="Stop").click()
    page.clock.run_for(1000)
    assert number(loss) == losses[-1]


ARROWS = "els => els.map(e => e.getAttribute('d') ? e.getTotalLength() : 0)"


def test_low_temperature_moves_the_confused_only_high_temperature_all(show):
    page = show("info_nce")
    knob = page.get_by_label("temperature")
    cold = page.locator(".mmt-arrow").evaluate_all(ARROWS)
    assert min(cold[i] for i in (0, 1, 4, 5)) > 10 and max(cold[i] for i in (2, 3, 6, 7)) == 0
    knob.fill("0")  # log10 of the temperature
    assert min(page.locator(".mmt-arrow").evaluate_all(ARROWS)[i] for i in (2, 3, 6, 7)) > 0


def test_wrong_pairs_beyond_the_margin_are_not_pushed(show):
    page = show("margin")
    page.get_by_label("margin").fill("0.1")
    shades = page.locator(".mmt-matrix td:not(.mmt-true):not(:empty)")
    assert set(shades.evaluate_all("tds => tds.map(td => td.style.getPropertyValue('--mmt-shade'))")) == {
        "0%"
    }
    before = number(page.locator(".mmt-loss"))
    page.get_by_label("squared").check()
    assert number(page.locator(".mmt-loss")) != before


def test_matrix_rows_and_columns_sum_to_one(show):
    tables = show("info_nce").locator("table.mmt-matrix")
    tables = [
        np.array(tables.nth(i).locator("td:not(:empty)").all_inner_texts(), float).reshape(4, 4)
        for i in range(2)
    ]
    assert tables[0].sum(1) == pytest.approx(np.ones(4), abs=0.021)
    assert tables[1].sum(0) == pytest.approx(np.ones(4), abs=0.021)


# --- search box -----------------------------------------------------------------------------------------


def test_features_and_hashes_equal_python_s(show, address):
    texts = [*TEXTS, "İstanbul", "½ ﬁne", "Ⅷ", "a_b", "猫cat狗", "𠀀", "ÅÖ"]
    found = show("search").evaluate(
        f"""async (texts) => {{
          const {{textFeatures, fnv1a}} = await import("{address}/SearchBox.js");
          return texts.map(text => textFeatures(text).map(feature => [feature, fnv1a(feature)])); }}""",
        texts,
    )
    assert found == [[[feature, fnv1a(feature)] for feature in text_features(text)] for text in texts]


def test_page_ranks_as_python_does(show, widgets):
    page, box = show("search"), widgets["search"]
    for text in TEXTS:
        page.get_by_role("searchbox").fill(text)
        found = list(
            zip(
                page.locator(".mmt-name").all_inner_texts()[:10],
                map(float, page.locator(".mmt-number").all_inner_texts()[:10]),
                strict=True,
            )
        )
        expected = box.search(text, k=10)
        assert [name for name, _ in found] == [name for name, _ in expected], text
        assert [s for _, s in found] == pytest.approx([s for _, s in expected], abs=0.006)


def test_search_is_live_and_says_when_it_has_nothing_to_go_on(show):
    page = show("search")
    box, status = page.get_by_role("searchbox"), page.locator(".mmt-status")
    box.fill("")
    expect(status).to_contain_text("Nothing to go on")
    assert page.locator(".mmt-results li").count() == 0
    box.press_sequentially("moon")
    assert page.locator(".mmt-results li").count() == 12
    expect(status).to_contain_text("Pictures for “moon”")


def test_examples_and_pictures_can_be_asked_by_keyboard(show):
    page = show("search")
    page.get_by_role("searchbox").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("searchbox").input_value() == "苹果"
    page.keyboard.press("Tab")  # the first result
    name = page.locator(".mmt-results .mmt-name").first.inner_text()
    page.keyboard.press("Enter")
    assert page.locator(".mmt-results .mmt-name").first.inner_text() == name  # a picture is nearest to itself
    assert page.locator(".mmt-results .mmt-number").first.inner_text() == "1.00"
    page.get_by_role("button", name="苹果", exact=True).click()
    assert "1.00" not in page.locator(".mmt-results .mmt-number").all_inner_texts()
