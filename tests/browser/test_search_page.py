"""The search box in a real browser: the text encoder in JavaScript, and how it answers."""

import pytest
import torch
from playwright.sync_api import expect

from mmtutor.data import load_emoji
from mmtutor.encoders import TextEncoder, fnv1a, text_features
from mmtutor.widgets import SearchBox

TEXTS = [
    "red apple", "a cat", "KITTENS", "smiling face", "heart", "Flag 2", "car!", "moon", "x", "tree house",
    "苹果", "红色的心", "猫", "笑 face", "中文字", "ＡＢＣ", "naïve café", "e-mail", "  ", "日本 flag",
    "zzzz", "👍 thumbs",
]  # fmt: skip


@pytest.fixture(scope="module")
def widgets():
    torch.manual_seed(0)
    encoder, emoji = TextEncoder(dim=128).eval(), load_emoji()
    names = list(emoji.names[:200])
    return {"search": SearchBox(encoder, encoder(names), emoji.images[0, :200], names, ["red apple", "苹果"])}


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
