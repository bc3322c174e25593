"""Every widget on a plain page in a real browser: drawn without kernel and network, accessible, safe."""

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from mmtutor.data import load_emoji
from mmtutor.encoders import TextEncoder
from mmtutor.widgets import ContrastivePlayground, EmbeddingExplorer, SearchBox

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>bold</b>"
DRAWN = {
    "explorer": "canvas",
    "info_nce": ".mmt-point",
    "margin": ".mmt-point",
    "search": ".mmt-results li",
}


@pytest.fixture(scope="module")
def widgets():
    emoji = load_emoji()
    pictures, names = emoji.images[0, :24], list(emoji.names[:24])
    checkpoints = [{"image": torch.randn(24, 8), "text": torch.randn(24, 8)} for _ in range(3)]
    encoder = TextEncoder().eval()
    return {
        "explorer": EmbeddingExplorer.from_embeddings(checkpoints, pictures, names, [0, 1] * 12, ["a", "b"]),
        "info_nce": ContrastivePlayground(),
        "margin": ContrastivePlayground("margin"),
        "search": SearchBox(encoder, torch.randn(24, 192), pictures, names, ["red apple", "苹果"]),
    }


@pytest.mark.parametrize("name", DRAWN)
def test_draws_without_kernel_error_or_network(show, ink, name):
    page = show(name)
    assert page.locator(DRAWN[name]).count() > 0
    assert page.locator(".mmt-fallback").count() == 0
    assert "?" in page.locator(".mmt-try em").inner_text()  # each asks one question
    for canvas in page.locator("canvas:visible").all():
        assert ink(canvas) > 50


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
    page = show("all twice")
    page.wait_for_function("document.querySelectorAll('.mmt-try').length === 8")
    first, second = (page.locator(".mmt-playground .mmt-loss").nth(i) for i in (0, 2))
    before = second.inner_text()
    assert first.inner_text() == before
    page.get_by_role("button", name="One step downhill").first.click()
    assert first.inner_text() != before and second.inner_text() == before


BLACK = np.zeros((2, 32, 32, 3), np.uint8)
NAMES = [HOSTILE, HOSTILE + "2"]
HOSTILE_WIDGETS = {
    "explorer": lambda: EmbeddingExplorer(
        np.random.rand(2, 2, 2), list(BLACK), NAMES, ["image", HOSTILE], [1, 0], [0, 0], [HOSTILE],
        neighbours=[[[1], [0]]] * 2, figures={HOSTILE: [0, 1]}, selected=0, axes=(HOSTILE, HOSTILE),
    ),
    "playground": lambda: ContrastivePlayground(names=NAMES, thumbnails=BLACK),
    "search": lambda: SearchBox(TextEncoder().eval(), torch.randn(2, 192), BLACK, NAMES, [HOSTILE]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_WIDGETS)
def test_labels_are_text_never_markup(open_page, publish, name):
    visit = open_page(publish({"hostile": HOSTILE_WIDGETS[name]()}) + "/hostile.html")
    visit.page.wait_for_selector(".mmt-try")
    visit.page.wait_for_timeout(200)
    assert visit.page.title() == "widgets"
    assert visit.page.locator(".mmt img, .mmt b:text-is('bold')").count() == 0
    assert HOSTILE in visit.page.locator(".mmt").inner_text()
    assert visit.errors == [] and visit.outside == []
