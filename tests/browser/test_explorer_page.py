"""The embedding explorer in a real browser: what it shows, and how it answers."""

import numpy as np
import pytest
import torch

from mmtutor.data import load_emoji
from mmtutor.widgets import EmbeddingExplorer

THINGS, CHECKPOINTS = 24, 3


@pytest.fixture(scope="module")
def widgets():
    emoji = load_emoji()
    generator = torch.Generator().manual_seed(0)
    checkpoints = [
        {name: torch.randn(THINGS, 8, generator=generator) for name in ("image", "text")}
        for _ in range(CHECKPOINTS)
    ]
    groups = [i % 2 for i in range(THINGS)]
    explorer = EmbeddingExplorer.from_embeddings(
        checkpoints, emoji.images[0, :THINGS], emoji.names[:THINGS], groups, ["even", "odd"], [0, 50, 100]
    )
    return {"explorer": explorer}


def picture_of(page):
    return page.locator(".mmt-stage canvas").evaluate("canvas => canvas.toDataURL()")


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


def test_play_moves_smoothly_and_can_be_paused(show, stop_the_clock):
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


def test_filters_leave_less_on_the_map(show, ink):
    page = show("explorer")
    canvas = page.locator(".mmt-stage canvas")
    canvas.focus()
    page.keyboard.press("Escape")
    everything = ink(canvas)
    page.get_by_label("words").uncheck()
    without_words = ink(canvas)
    page.get_by_label("show").select_option("even")
    assert everything > without_words > ink(canvas) > 0


def test_map_follows_the_theme_while_open(show):
    page = show("explorer", color_scheme="light")
    light = picture_of(page)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "light => document.querySelector('.mmt-stage canvas').toDataURL() !== light", arg=light
    )
