"""The training film: pictures in their order, curves shortened but true, bad input is named."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from mmtutor.data import load_emoji
from mmtutor.widgets import TrainingFilm

STEPS = [0, 10, 20, 40]
PAIRS = 3


def a_film(**more):
    emoji = load_emoji()
    views = {m: emoji.pictures(m)[:12].reshape(4, PAIRS, 32, 32, 3) for m in ("noto", "fluent")}
    given = dict(steps=STEPS, views=views, curves={"real": np.linspace(0.5, 0.9, 400), "made": [0.25] * 400})
    return TrainingFilm(**(given | more))


def test_each_look_holds_its_pairs_side_by_side():
    film = a_film()
    drawn = np.asarray(Image.open(io.BytesIO(film.pictures)), int)
    for look, pair, v in ((0, 0, 0), (0, 0, 1), (2, 1, 0), (3, 2, 1)):
        k = (look * PAIRS + pair) * 2 + v
        y, x = divmod(k, film.sheet_columns)
        real = load_emoji().pictures(("noto", "fluent")[v])[look * PAIRS + pair]
        assert np.abs(drawn[32 * y : 32 * y + 32, 32 * x : 32 * x + 32] - real).mean() < 12


def test_curves_are_means_of_equal_stretches():
    film = a_film()
    assert len(film.curves["real"]) == TrainingFilm.POINTS and set(film.curves["made"]) == {0.25}
    assert np.mean(film.curves["real"]) == pytest.approx(0.7, abs=2e-3)
    assert len(a_film(curves={"real": [0.5, 0.7]}).curves["real"]) == 2


def test_says_what_the_discriminator_said_at_the_present_look():
    film = a_film(look=2)
    assert film.values() == pytest.approx({"real": 0.7, "made": 0.25}, abs=0.01)
    assert "3 pairs of pictures (noto and fluent) drawn from the same noise at 4 steps" in film.summary()
    assert "At step 20 the discriminator says: real 0.70, made 0.25." in film.summary()
    assert repr(film) == "TrainingFilm(4 looks, 3 pairs, look=2)"


def test_page_holds_all_of_it_and_needs_no_kernel():
    film = a_film()
    html = film.to_html()
    state = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S).group(1))
    assert state["values"]["steps"] == STEPS and state["values"]["pairs"] == PAIRS
    assert "To use the widget" in html and len(html.encode()) < 60 * 1024
    assert Image.open(io.BytesIO(film.picture())).size == (96, 64)


def test_a_hostile_name_cannot_leave_its_script_element():
    hostile = "</script><img src=x onerror=alert(1)>"
    html = a_film(curves={hostile: [0.5]}).to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html


PICTURES = np.zeros((4, PAIRS, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(steps=[0]), r"steps: expected at least two that ascend, found \[0\]"),
        (dict(steps=[0, 10, 10, 20]), "steps: expected at least two that ascend"),
        (dict(steps=[0, 10, 20]), r"views: expected \(3, pairs, 32, 32, 3\) each, found"),
        (dict(views={"a": PICTURES, "b": PICTURES[:, :2]}), r"views: expected \(4, pairs, 32, 32, 3\) each"),
        (dict(curves={"real": [0.5, 1.5]}), "real: expected numbers from 0 to 1"),
        (dict(curves={"real": [0.5, np.nan]}), "real: expected numbers from 0 to 1"),
        (dict(curves={"real": []}), "real: expected numbers from 0 to 1, found others or none"),
        (dict(look=4), "look: expected 0 to 3, found 4"),
    ],
)
def test_names_what_is_wrong(given, message):
    with pytest.raises(ValueError, match=message):
        a_film(**given)


def test_names_a_look_that_is_not_there_later_too():
    film = a_film()
    with pytest.raises(ValueError, match="look: expected 0 to 3, found -1"):
        film.look = -1
    assert film.look == 0
