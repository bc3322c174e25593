"""The divergence playground: its numbers are those defined, its words say why, bad input is named."""

import io
import json
import math
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmtutor.widgets import DivergencePlayground
from mmtutor.widgets.divergence_playground import _moved, _percent

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"


def distribution(generator, n):
    weights = [generator.choice((0, 1e-12, generator.random(), generator.random())) for _ in range(n)]
    weights[generator.randrange(n)] = 1.0
    return [weight / sum(weights) for weight in weights]


def kl(p, q):
    return sum((x * math.log(x / y) if y else math.inf) for x, y in zip(p, q, strict=True) if x)


def state_of(playground):
    state = re.search(r'<script type="application/json">(.*?)</script>', playground.to_html(), re.S).group(1)
    return json.loads(state)["values"]


# --- the numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_values_are_those_of_the_definitions(seed):
    generator = random.Random(seed)
    n = generator.randint(2, 8)
    p, q = distribution(generator, n), distribution(generator, n)
    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    values = DivergencePlayground([str(i) for i in range(n)], p, q).values()
    assert values["kl_pq"] == pytest.approx(kl(p, q), abs=1e-9)
    assert values["kl_qp"] == pytest.approx(kl(q, p), abs=1e-9)
    assert values["js"] == pytest.approx((kl(p, middle) + kl(q, middle)) / 2, abs=1e-9)
    product = sum(x * y for x, y in zip(p, q, strict=True))
    assert values["cosine"] == pytest.approx(product / (math.hypot(*p) * math.hypot(*q)), abs=1e-9)
    assert list(values) == ["cosine", "kl_pq", "kl_qp", "js"]


def test_opens_with_q_like_p_but_for_one_answer_that_q_holds_unlikely():
    playground = DivergencePlayground()
    p, q = playground.p, playground.q
    assert sum(p) == pytest.approx(1) and sum(q) == pytest.approx(1)
    assert q[1] == 0.02 and p[1] > 0.2 and playground.moved == ["q", 1]
    ratios = [y / x for i, (x, y) in enumerate(zip(p, q, strict=True)) if i != 1]
    assert ratios == pytest.approx([ratios[0]] * 4)
    assert 0.3 < playground.values()["kl_pq"] < 0.4 and playground.values()["cosine"] > 0.9


def test_zero_makes_one_kl_infinite_while_the_cosine_hardly_notices():
    playground = DivergencePlayground()
    before = playground.values()
    playground.q = _moved(playground.q, 1, 0.0)
    after = playground.values()
    assert after["kl_pq"] == math.inf and after["kl_qp"] < 0.3
    assert after["js"] < 0.1 and abs(after["cosine"] - before["cosine"]) < 0.02


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(0, 7), st.floats(0, 1))
def test_a_moved_bar_stands_where_it_was_put_and_the_others_keep_their_proportions(weights, i, to):
    weights[0] += 1
    start, i = [weight / sum(weights) for weight in weights], i % len(weights)
    found = _moved(start, i, to)
    assert found[i] == to and sum(found) == pytest.approx(1)
    for j, x in enumerate(start):
        if j != i and start[i] < 0.99:
            assert found[j] == pytest.approx(x * (1 - to) / (1 - start[i]), abs=1e-9)


def test_where_all_others_are_zero_they_become_even():
    assert _moved([0.0, 1.0, 0.0], 1, 0.4) == pytest.approx([0.3, 0.4, 0.3])


# --- words ----------------------------------------------------------------------------------------------

ABC = ["cat", "dog", "fox"]


def test_summary_says_the_bars_and_the_four_numbers():
    said = DivergencePlayground(ABC, [0.5, 0.3, 0.2], [0.25, 0.25, 0.5]).summary()
    assert "p: cat 50%, dog 30%, fox 20%; q: cat 25%, dog 25%, fox 50%." in said
    assert said.endswith("KL(p‖q) is 0.22. KL(q‖p) is 0.24. JS is 0.06 of at most 0.69, the cosine 0.79.")


def test_summary_names_the_answers_that_make_a_divergence_infinite():
    said = DivergencePlayground(ABC, [0.5, 0.3, 0.2], [1, 0, 0]).summary()
    assert "KL(p‖q) is infinite: q gives dog and fox nothing, p 50%. KL(q‖p) is 0.69." in said
    said = DivergencePlayground(ABC, [0.8, 0.2, 0], [0, 0.4, 0.6]).summary()
    assert "q gives cat nothing, p 80%. KL(q‖p) is infinite: p gives fox nothing, q 60%." in said


def test_summary_of_equal_and_of_disjoint_distributions():
    third = [1 / 3] * 3
    assert "p and q are equal" in DivergencePlayground(ABC, third, third).summary()
    assert "no answer in common: both KLs are infinite, JS is at its most, log 2 = 0.69" in (
        DivergencePlayground(ABC, [0.5, 0.5, 0], [0, 0, 1]).summary()
    )
    tiny = [1e-200, 1 - 1e-200]  # their product is 0 in double precision, yet they share both answers
    assert "in common" not in DivergencePlayground(["a", "b"], tiny, tiny[::-1]).summary()


@pytest.mark.parametrize(
    ("x", "said"),
    [(0, "0%"), (1e-12, "<0.1%"), (0.0006, "0.1%"), (0.02, "2%"), (0.055, "5.5%"), (0.0999, "10%")]
    + [(0.125, "13%"), (0.994, "99%"), (0.996, ">99%"), (1, "100%")],
)
def test_percentages_say_zero_and_hundred_only_where_it_is_so(x, said):
    assert _percent(x) == said


# --- the page -------------------------------------------------------------------------------------------


def test_output_holds_the_live_view_a_picture_and_a_page_that_needs_no_kernel():
    playground = DivergencePlayground()
    data, _ = playground._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert data["text/plain"] == repr(playground) == "DivergencePlayground(cat, dog, fox, bear, hare)"
    html = data["text/html"]
    assert "To use the widget" in html and "data:image/webp" in html
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert DivergencePlayground().to_html() == html  # the same every time
    assert Image.open(io.BytesIO(playground.picture())).size == (480, 130)
    assert len(html.encode()) < 50 * 1024


def test_page_gets_the_distributions_in_full_precision():
    generator = random.Random(0)
    p, q = distribution(generator, 3), distribution(generator, 3)
    state = state_of(DivergencePlayground(ABC, p, q))
    assert state == {"answers": ABC, "p": p, "q": q, "moved": ["q", 1]}


def test_a_hostile_answer_cannot_leave_its_script_element():
    playground = DivergencePlayground([HOSTILE, "b"])
    html = playground.to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html and "<!--" not in html
    assert state_of(playground)["answers"][0] == HOSTILE


# --- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["a"], "answers: expected 2 to 8, found 1"),
        ([str(i) for i in range(9)], "answers: expected 2 to 8, found 9"),
        (["a", "b", "a"], r"answers: expected different ones, found \['a', 'b', 'a'\]"),
    ],
)
def test_names_what_is_wrong_with_answers(answers, message):
    with pytest.raises(ValueError, match=message):
        DivergencePlayground(answers)


NO_DISTRIBUTIONS = [
    ([0.5, 0.5], "expected 3 numbers, one per answer, found 2"),
    ([0.5, 0.6, -0.1], "expected numbers from 0, found -0.1 for 'fox'"),
    ([math.nan, 0.5, 0.5], "expected numbers from 0, found nan for 'cat'"),
    ([0.5, 0.3, 0.3], "expected numbers that sum to 1, found the sum 1.1"),
    ([0.5, 0.3, 0.1998], "expected numbers that sum to 1, found the sum 0.9998"),
    ([math.inf, 0, 0], "expected numbers that sum to 1, found the sum inf"),
]


@pytest.mark.parametrize(("numbers", "message"), NO_DISTRIBUTIONS)
@pytest.mark.parametrize("name", ["p", "q"])
def test_names_what_is_no_distribution_at_once_and_later(name, numbers, message):
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        DivergencePlayground(ABC, **{name: numbers})
    playground = DivergencePlayground(ABC)
    before = list(getattr(playground, name))
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        setattr(playground, name, numbers)
    assert getattr(playground, name) == before


def test_a_sum_that_is_off_by_rounding_is_accepted():
    assert DivergencePlayground(ABC, [0.33333, 0.33333, 0.33333]).values()["kl_qp"] > 0


@pytest.mark.parametrize("bar", [["r", 0], ["p", 3], ["p"], ["q", -1]])
def test_names_a_bar_that_is_not_there(bar):
    with pytest.raises(ValueError, match=r"moved: expected \['p' or 'q', 0 to 2\], found "):
        DivergencePlayground(ABC).moved = bar
