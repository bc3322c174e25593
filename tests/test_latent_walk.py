"""The latent walk: noise between corners is noise, the page gets what was drawn, bad input is named."""

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmtutor.data import load_emoji
from mmtutor.widgets import LatentWalk, between

ROWS, COLUMNS = 3, 4


def a_walk(**more):
    emoji = load_emoji()
    views = {m: emoji.pictures(m)[:12].reshape(ROWS, COLUMNS, 32, 32, 3) for m in ("noto", "fluent")}
    names = [[emoji.names[(r + c) % 3] for c in range(COLUMNS)] for r in range(ROWS)]
    learnt = {emoji.names[i]: emoji.pictures("noto")[i] for i in range(3)}
    given = dict(views=views, nearest=names, apart=np.arange(12).reshape(ROWS, COLUMNS) / 10, learnt=learnt)
    return LatentWalk(**(given | more))


def state_of(widget):
    return json.loads(
        re.search(r'<script type="application/json">(.*?)</script>', widget.to_html(), re.S).group(1)
    )


def test_noise_between_corners_keeps_the_length_that_noise_has():
    corners = torch.randn(4, 4000, generator=torch.Generator().manual_seed(0))
    grid = between(corners, 5, 7)
    assert grid.shape == (5, 7, 4000)
    corner = grid[[0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corner, corners)
    assert ((grid.norm(dim=-1) / 4000**0.5 - 1).abs() < 0.05).all()


def test_noise_between_corners_needs_four_of_them():
    with pytest.raises(ValueError, match="expected 4 corners and at least 2 by 2 places, found 3, 5 by 5"):
        between(torch.zeros(3, 8), 5, 5)


def test_page_gets_both_views_and_the_nearest_things():
    walk = a_walk(row=1, column=2)
    state = state_of(walk)
    values = state["values"]
    assert values["shape"] == [ROWS, COLUMNS] and values["views"] == ["noto", "fluent"]
    assert (values["row"], values["column"]) == (1, 2) and len(values["nearest"]) == 12
    picture = np.asarray(Image.open(io.BytesIO(walk.pictures)), int)
    first = load_emoji().pictures("noto")[0]
    assert np.abs(picture[:32, :32] - first).mean() < 12  # as good as the file's quality
    assert len(walk.to_html().encode()) < 60 * 1024


def test_says_where_it_stands():
    walk = a_walk(row=1, column=2)
    assert walk.here() == (load_emoji().names[0], 0.6)
    assert "In row 2, column 3 the nearest thing learnt is grinning face, 0.60 away." in walk.summary()
    walk.column = 0
    assert walk.here()[1] == 0.4 and repr(walk) == "LatentWalk(3 x 4 places, row=1, column=0)"
    assert "To use the widget" in walk.to_html() and Image.open(io.BytesIO(walk.picture())).size == (128, 96)


def test_a_hostile_name_cannot_leave_its_script_element():
    hostile = "</script><img src=x onerror=alert(1)>"
    walk = a_walk(nearest=[[hostile] * COLUMNS] * ROWS, learnt={hostile: np.zeros((32, 32, 3), np.uint8)})
    html = walk.to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html


GRID = np.zeros((ROWS, COLUMNS, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(views={"noto": GRID}), "views: expected at least two, found 1"),
        (dict(views={"a": GRID, "b": GRID[..., :2]}), r"b: expected \(rows, columns, 32, 32, 3\), found"),
        (dict(views={"a": GRID[:1], "b": GRID[:1]}), r"a: expected \(rows, columns, 32, 32, 3\), found \(1,"),
        (dict(apart=np.zeros((2, 2))), "expected as many places in views, nearest and apart"),
        (dict(learnt={}), "learnt: expected a picture of each nearest thing, found none of '"),
        (dict(row=3), "row: expected 0 to 2, found 3"),
        (dict(column=-1), "column: expected 0 to 3, found -1"),
    ],
)
def test_names_what_is_wrong(given, message):
    with pytest.raises(ValueError, match=message):
        a_walk(**given)


def test_names_a_place_off_the_map_later_too():
    walk = a_walk()
    with pytest.raises(ValueError, match="column: expected 0 to 3, found 4"):
        walk.column = 4
    assert walk.column == 0


def test_pictures_of_another_type_are_named():
    with pytest.raises(ValueError, match="expected .* uint8"):
        a_walk(views={"a": GRID.astype(float), "b": GRID})
