"""The split contrast: slopes are the definition's, it collapses where it should, bad input is named."""

import io
import json
import math
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmtutor.widgets import SplitContrast
from mmtutor.widgets.split_contrast import PAIRS, PARTS, TEMPERATURE, WAYS


def states(n=12):
    """Random places, in every way and with every number of parts."""
    generator = random.Random(0)
    for k in range(n):
        yield dict(
            way=WAYS[k % 3],
            parts=PARTS[k // 3 % 3],
            correlation=round(generator.uniform(0, 0.95), 3),
            weights=[round(generator.uniform(-1.3, 1.3), 3) for _ in range(2)],
        )


def loss_of_copies(split, ways):
    """The loss by loops, each embedding copied: one copy that is its own, one that others see."""
    own, seen = (torch.tensor(split.weights, dtype=torch.float64, requires_grad=True) for _ in "ab")
    angle = [[torch.atan(z[:, 1]) for z in split.embeddings(w)] for w in (own, seen)]
    size, total = PAIRS // split.parts, 0
    for i in range(PAIRS):
        mates = range(i // size * size, i // size * size + size)
        among = mates if ways == "own" else range(PAIRS)
        for first, second in ((0, 1), (1, 0)):
            scores = [
                (angle[0][first][i] - angle[0 if j in mates or ways == "all" else 1][second][j]).cos()
                for j in among
            ]
            scores = torch.stack(scores) / TEMPERATURE
            total = total + scores.logsumexp(0) - scores[among.index(i)]
    return total / (2 * PAIRS), own


@pytest.mark.parametrize("state", [*states(9)])
def test_values_are_those_of_the_definitions(state):
    split = SplitContrast(**state)
    whole, _ = loss_of_copies(split, "all")
    loss, w = loss_of_copies(split, split.way)
    slopes = torch.autograd.grad(loss, w)[0].tolist()
    expected = {"loss": whole.item(), "slope_a": slopes[0], "slope_b": slopes[1]}
    assert split.values() == pytest.approx(expected, abs=1e-6)


def test_numbers_are_standardised_in_every_part_and_correlated_as_said():
    split = SplitContrast(correlation=0.6)
    x, y = (z[:, 1].numpy() for z in split.embeddings(torch.ones(2, dtype=torch.float64)))
    for v in (x, y):
        assert np.allclose(v.reshape(8, 8).mean(1), 0, atol=1e-4) and v.std() == pytest.approx(1, abs=1e-4)
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(0.6, abs=1e-4)


@pytest.mark.parametrize("parts", PARTS)
def test_near_one_point_the_slopes_change_sign_at_half_of_what_is_lost(parts):
    """With equal small weights a step grows them if the correlation is above (1 - 1/R) / 2, and only then."""
    critical = (1 - 1 / parts) / 2
    for correlation, grows in ((critical - 0.02, False), (critical + 0.02, True)):
        split = SplitContrast("detached", parts, correlation, (0.01, 0.01))
        assert (split.descend(1)[0] > 0.01) == grows
        slope = SplitContrast("detached", parts, correlation, (0.01, 0.01)).values()["slope_a"]
        rate = -2 * TEMPERATURE * slope / 0.01
        assert rate == pytest.approx(2 * correlation - (1 - 1 / parts), abs=2e-3)
    for way in ("all", "own"):
        assert SplitContrast(way, parts, 0.05, (0.01, 0.01)).descend(1)[0] > 0.01


def test_opens_where_the_loss_rises_on_the_way_into_one_point():
    split, losses = SplitContrast(), []
    for _ in range(12):
        losses.append(split.values()["loss"])
        split.descend(10)
    assert losses == sorted(losses) and losses[-1] > losses[0] + 0.025
    assert losses[-1] == pytest.approx(math.log(PAIRS), abs=1e-3)


def test_output_holds_a_picture_and_a_page_that_needs_no_kernel():
    split = SplitContrast()
    data, _ = split._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert repr(split) == "SplitContrast('detached', parts=4, correlation=0.3)"
    html = data["text/html"]
    assert "To use the widget" in html and "data:image/webp" in html and len(html.encode()) < 50 * 1024
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert SplitContrast().to_html() == html
    state = re.search(r'<script type="application/json">(.*?)</script>', html, re.S).group(1)
    assert json.loads(state)["values"]["weights"] == [0.4, 0.3]
    picture = Image.open(io.BytesIO(split.picture()))
    assert picture.size == (300, 170) and np.asarray(picture).std() > 20


def test_summary_says_how_it_is_split_and_what_is_left():
    said = SplitContrast("own", 8, 0.5, (0, 0)).summary()
    assert "correlation 0.50, in 8 parts, each among its own candidates" in said
    assert "the whole batch is 4.159, where one point for all has 4.159" in said


WRONG = [
    (dict(way="none"), "way: expected one of all, own, detached; found 'none'"),
    (dict(parts=3), "parts: expected one of 2, 4, 8; found 3"),
    (dict(correlation=1.0), "correlation: expected a number from 0 to 0.95, found 1"),
    (dict(correlation=math.nan), "correlation: expected a number from 0 to 0.95, found nan"),
    (dict(weights=[1.0]), r"weights: expected w_a and w_b, found \[1.0\]"),
    (dict(weights=[0.0, 2.0]), "weights: expected a number from -1.3 to 1.3, found 2"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_names_what_is_wrong_at_once_and_later(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SplitContrast(**given)
    split, (name, value) = SplitContrast(), *given.items()
    before = getattr(split, name)
    with pytest.raises(ValueError, match=f"^{message}"):
        setattr(split, name, value)
    assert getattr(split, name) == before
