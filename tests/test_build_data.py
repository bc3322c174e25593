"""The builder of the data: pictures, motion, and the account of what would change."""

import numpy as np
import pytest
from PIL import Image

from tools.build_data import differences
from tools.data_animations import FIELD, RADIUS, positions, register, sample
from tools.data_pictures import on_white, reduce, svg


@pytest.mark.parametrize("p", [(3, -2, 0, 0), (0, 0, 0.15, 0), (0, 0, 0, 0.3), (2, 1, -0.1, -0.2)])
def test_registration_finds_a_known_motion(p):
    y, x = np.mgrid[:FIELD, :FIELD]
    upright, lying = (
        np.exp(-(((x - 20) / 6) ** 2) - ((y - 24) / 12) ** 2),
        np.exp(-(((x - 30) / 9) ** 2) - ((y - 16) / 4) ** 2),
    )
    outline = (upright + lying).clip(0, 1)
    frame = np.stack([1 - 0.8 * outline, outline])
    reference = sample(frame, positions(np.array(p, dtype=float)))
    gap = np.abs(register(reference, frame, np.zeros(4)) - p) * [1, 1, RADIUS, RADIUS]
    assert gap.max() < 0.25  # pixels


def test_colour_under_transparent_pixels_does_not_bleed():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 0] = 255  # red everywhere, but seen in one pixel of four
    pixels[0, 0, 3] = 255
    assert on_white(reduce(Image.fromarray(pixels), 1)).tolist() == [[[255, 191, 191]]]


def test_icons_follow_aliases_and_mirror_where_asked():
    icons = {
        "width": 32,
        "height": 32,
        "icons": {"left": {"body": "<path/>"}, "tall": {"body": "<path/>", "height": 40}},
        "aliases": {"right": {"parent": "left", "hFlip": True}, "arrow": {"parent": "left"}},
    }
    assert svg(icons, "arrow") == svg(icons, "left")
    assert 'viewBox="0.0 0.0 32 32"' in svg(icons, "left")
    assert '<g transform="translate(32 0) scale(-1 1)"><path/></g>' in svg(icons, "right")
    assert 'viewBox="-4.0 0.0 40 40"' in svg(icons, "tall")


def test_the_builder_says_what_it_would_change(tmp_path):
    old, new = tmp_path / "old.npz", tmp_path / "new.npz"
    np.savez(old, a=np.zeros(4, np.uint8), b=np.zeros(2))
    np.savez(new, a=np.array([0, 0, 0, 2], np.uint8), b=np.zeros(2))
    assert differences(old, old) == []
    assert differences(new, old) == ["a: 1 of 4 values differ, by 0.5 on average over all, by 2 at most"]
    assert differences(new, tmp_path / "none.npz") == ["not shipped yet"]
