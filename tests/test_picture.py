"""The recurring picture: what it says is true of the data, what is lit is lit, the saved file is current."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mmtutor.data import load_emoji
from mmtutor.picture import LIT, ORDER, OVERLAYS, TASKS, THING, maps_picture
from mmtutor.style import MODALITY, TASK

ASSETS = Path(__file__).parents[1] / "assets"


def drawings(lit=None) -> list[ElementTree.Element]:
    """The wide and the tall drawing, parsed."""
    html = maps_picture(lit)._repr_html_()
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_both_layouts_are_drawn_and_described():
    wide, tall = drawings()
    assert (wide.get("class"), tall.get("class")) == ("wide", "tall")
    for svg in (wide, tall):
        assert svg.get("role") == "img"
        assert "one shared space Z" in svg.get("aria-label")
        assert svg.find("title").text == "One thing going through the maps"


def test_nothing_is_dim_and_no_overlay_shows_unless_something_is_lit():
    for svg in drawings():
        assert {group.get("class") for group in svg.iter("g")} == {"plain"}
        assert not OVERLAYS & {group.get("data-part") for group in svg.iter("g")}


@pytest.mark.parametrize("lit", LIT)
def test_lighting_a_name_leaves_exactly_its_parts_bright(lit):
    sentence, parts = LIT[lit]
    assert set(parts.split()) <= set(ORDER.split())
    for svg in drawings(lit):
        bright = {group.get("data-part") for group in svg.iter("g") if group.get("class") == "lit"}
        assert bright == set(parts.split())
        assert all(len(group) for group in svg.iter("g")), "an empty part"
        assert svg.get("aria-label").startswith(sentence)


def test_an_unknown_name_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(ValueError, match="unknown part 'aline'.*encode.*align"):
        maps_picture("aline")


def test_the_parts_have_the_colours_of_the_book():
    html = maps_picture()._repr_html_()
    for colour in (*(MODALITY[name] for name in ("image", "video", "text")), *(TASK[name] for name in TASKS)):
        assert colour in html


def test_the_answers_in_the_picture_are_those_of_the_data():
    emoji = load_emoji()
    item = list(emoji.hex).index(THING)
    motion = emoji.motion[list(emoji.video_item).index(item)]
    assert emoji.names[item] == "penguin" and emoji.names_zh[item] == "企鹅"
    assert "bird" in emoji.subgroup_names[emoji.subgroup[item]]
    assert emoji.motion_names[motion] == "horizontal"
    assert emoji.present[list(emoji.styles).index("noto"), item]


def test_everything_drawn_stays_inside_the_frame():
    for svg in drawings("generate"):
        width, height = map(float, svg.get("viewBox").split()[2:])
        for rect in svg.iter("rect"):
            x, y, w, h = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height


def test_it_is_light_and_repeats_exactly():
    html = maps_picture("align")._repr_html_()
    assert html == maps_picture("align")._repr_html_()
    assert len(html) < 60_000
    assert repr(maps_picture("align")) == "maps_picture('align')"


def test_the_saved_picture_is_current(tmp_path):
    maps_picture().save(tmp_path / "maps.svg")
    ElementTree.parse(tmp_path / "maps.svg")  # well formed
    files = tmp_path / "maps.svg", ASSETS / "maps.svg"
    # the same pixels may be compressed to other bytes by another version of Pillow
    current, stored = (re.sub('base64,[^"]+', "", file.read_text(encoding="utf-8")) for file in files)
    again = "python -c \"from mmtutor.picture import maps_picture; maps_picture().save('assets/maps.svg')\""
    assert stored == current, f"assets/maps.svg is out of date; make it again: {again}"


def test_the_style_sheet_has_the_palette_of_the_package():
    sheet = (ASSETS / "book.css").read_text(encoding="utf-8")
    for kind, palette in (("modality", MODALITY), ("task", TASK)):
        for name, colour in palette.items():
            assert f"--mm-{kind}-{name}: {colour};" in sheet
