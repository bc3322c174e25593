"""The adversarial toy: its divergences and slopes are those of the definitions, bad input is named."""

import io
import json
import math
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mmtutor.widgets import AdversarialToy
from mmtutor.widgets.adversarial_toy import LOSSES, REAL


def states(n=12):
    """Random toys, with one, two and three hills."""
    generator = random.Random(0)
    for k in range(n):
        weights = [generator.random() for _ in range(1 + k % 3)]
        hills = [(w / sum(weights), generator.uniform(-5, 5), generator.uniform(0.2, 2)) for w in weights]
        share = [generator.uniform(0.1, 10) for _ in range(2)]
        yield dict(
            real=hills,
            mean=generator.uniform(-5, 5),
            sd=generator.uniform(0.2, 2),
            weights=share,
            loss=LOSSES[k % len(LOSSES)],
        )


def by_another_way(state):
    """The same numbers another way: on another grid, the slopes by autograd through the noise."""
    x = torch.linspace(-25, 25, 20001, dtype=torch.float64)
    noise = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    m, log_s = (torch.tensor(v, dtype=torch.float64) for v in (state["mean"], math.log(state["sd"])))

    def log_real(at):
        hills = [math.log(w) + torch.distributions.Normal(a, s).log_prob(at) for w, a, s in state["real"]]
        return torch.stack(hills).logsumexp(0)

    def log_made(at):
        return torch.distributions.Normal(m, log_s.exp()).log_prob(at)

    w_r, w_g = state["weights"]
    pi = w_r / (w_r + w_g)
    r, g = log_real(x), log_made(x)
    middle = torch.logaddexp(r + math.log(pi), g + math.log(1 - pi))
    js = pi * (r.exp() * (r - middle)).sum() + (1 - pi) * (g.exp() * (g - middle)).sum()
    kl = (g.exp() * (g - r)).sum()
    dx = x[1] - x[0]

    place, width = m.clone().requires_grad_(), log_s.clone().requires_grad_()
    made = place + width.exp() * noise
    logit = log_real(made) - log_made(made) + math.log(w_r / w_g)  # the judge knows m and s, and holds still
    loss = {"minimax": -F.softplus(logit), "non-saturating": F.softplus(-logit), "matching": -logit}
    share = (-(noise**2) / 2).exp()
    slopes = torch.autograd.grad((share * loss[state["loss"]]).sum() / share.sum(), (place, width))
    return {
        "js": (js * dx).item(),
        "kl": (kl * dx).item(),
        "reading": (kl * dx).item() - math.log(w_r / w_g),
        "slope_mean": slopes[0].item(),
        "slope_log_sd": slopes[1].item(),
    }


@pytest.mark.parametrize("state", [*states()])
def test_values_are_those_of_the_definitions_and_of_autograd(state):
    found = AdversarialToy(**state).values()
    assert found == pytest.approx(by_another_way(state), abs=1e-6, rel=1e-6)


def test_generator_that_makes_the_real_numbers_has_nothing_left_to_learn():
    for loss in LOSSES:
        values = AdversarialToy(real=[(1, 0.3, 0.7)], mean=0.3, sd=0.7, loss=loss).values()
        assert values == pytest.approx(dict.fromkeys(values, 0.0), abs=1e-9)


def test_opens_where_minimax_is_nearly_flat_and_matching_steep():
    minimax, matching = (AdversarialToy(loss=loss).values() for loss in ("minimax", "matching"))
    assert abs(minimax["slope_mean"]) < 0.05 < 5 < abs(matching["slope_mean"])
    assert AdversarialToy().loss == "minimax" and minimax["js"] > 0.68


def test_weights_shift_the_reading_by_their_logarithm_and_leave_kl_alone():
    toys = [AdversarialToy(real=[(1, 0, 1)], mean=1.2, sd=1, weights=w).values() for w in ((1, 1), (3, 1))]
    assert [toy["kl"] for toy in toys] == pytest.approx([0.72, 0.72])
    assert toys[1]["reading"] == pytest.approx(0.72 - math.log(3))


def test_output_holds_a_picture_and_a_page_that_needs_no_kernel():
    toy = AdversarialToy()
    data, _ = toy._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert repr(toy) == "AdversarialToy(mean=-4.5, sd=0.5, loss='minimax')"
    html = data["text/html"]
    assert "To use the widget" in html and "data:image/webp" in html and len(html.encode()) < 50 * 1024
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert AdversarialToy().to_html() == html
    state = re.search(r'<script type="application/json">(.*?)</script>', html, re.S).group(1)
    assert json.loads(state)["values"]["real"] == [list(hill) for hill in REAL]
    picture = Image.open(io.BytesIO(toy.picture()))
    assert picture.size == (480, 130) and np.asarray(picture).std() > 20


def test_summary_says_where_the_bell_stands_and_what_is_left():
    said = AdversarialToy(real=[(1, 0, 1)], mean=1, sd=1, loss="matching").summary()
    assert "bell at 1.00, of width 1.00, beside 1 hill of real numbers" in said
    assert "KL(p_g‖p_r) 0.50; the slope of the matching loss by the bell's place is 1.000" in said


WRONG = [
    (dict(mean=6), "mean: expected a number from -5 to 5, found 6"),
    (dict(sd=0.1), "sd: expected a number from 0.2 to 2, found 0.1"),
    (dict(sd=math.nan), "sd: expected a number from 0.2 to 2, found nan"),
    (dict(weights=[1.0]), r"weights: expected w_r and w_g, found \[1.0\]"),
    (dict(weights=[0.0, 1.0]), "weights: expected a number from 0.1 to 10, found 0"),
    (dict(loss="KL"), "loss: expected one of non-saturating, minimax, matching; found 'KL'"),
    (dict(real=[]), r"real: expected \(weight, mean, deviation\) of at least one hill, found \[\]"),
    (dict(real=[[0.5, 0.0, 1.0]]), "real: expected weights that sum to 1, found 0.5"),
    (dict(real=[[1.0, 9.0, 1.0]]), "a hill's mean: expected a number from -5 to 5, found 9"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_names_what_is_wrong_at_once_and_later(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        AdversarialToy(**given)
    toy, (name, value) = AdversarialToy(), *given.items()
    before = getattr(toy, name)
    with pytest.raises(ValueError, match=f"^{message}"):
        setattr(toy, name, value)
    assert getattr(toy, name) == before
