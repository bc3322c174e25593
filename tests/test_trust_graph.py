"""The trust graph: its numbers are those of the equation, its words say whom to trust, bad input is named."""

import io
import itertools
import json
import math
import random
import re

import pytest
from PIL import Image

from mmtutor.widgets import TrustGraph
from mmtutor.widgets.trust_graph import _number, _percent

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"
ABC = ["image", "text", "video"]


def matrix(m, s):
    return [[1.0 if a == b else s for b in range(m)] for a in range(m)]


def random_graph(seed):
    generator = random.Random(seed)
    m = generator.randint(2, 6)
    unary = [generator.choice((-math.inf, *[generator.uniform(-5, 5) for _ in range(4)])) for _ in range(m)]
    s = matrix(m, 0.0)
    for a, b in itertools.combinations(range(m), 2):
        s[a][b] = s[b][a] = generator.uniform(-1, 1)
    return TrustGraph([f"m{i}" for i in range(m)], unary, s, generator.choice((0, 2, 10)))


def state_of(graph):
    state = re.search(r'<script type="application/json">(.*?)</script>', graph.to_html(), re.S).group(1)
    return json.loads(state)["values"]


# --- the numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_values_are_those_of_a_slow_sum_over_states(seed):
    graph = random_graph(seed)
    there = [m for m, present in enumerate(graph.present) if present]
    weights = {}
    for on in itertools.chain.from_iterable(itertools.combinations(there, k) for k in range(len(there) + 1)):
        pairs = itertools.combinations(on, 2)
        exponent = sum(graph.unary[m] for m in on)
        exponent += sum(graph.coupling * graph.similarity[a][b] for a, b in pairs)
        weights["".join("1" if m in on else "0" for m in range(len(graph.modalities)))] = math.exp(exponent)
    z = sum(weights.values())
    values = graph.values()
    assert values["log_partition"] == pytest.approx(math.log(z))
    assert {u: p for u, p in values["states"].items() if p} == pytest.approx(
        {u: x / z for u, x in weights.items() if x / z}, abs=1e-12
    )
    assert len(values["states"]) == 2 ** len(graph.modalities)
    for m, p in enumerate(values["marginals"]):
        assert p == pytest.approx(sum(x for u, x in weights.items() if u[m] == "1") / z, abs=1e-12)
        alone = 1 / (1 + math.exp(-graph.unary[m])) if m in there else 0
        assert values["alone"][m] == pytest.approx(alone)
    assert sum(values["weights"]) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(10))
def test_states_stand_in_the_order_of_their_probability(seed):
    shares = list(random_graph(seed).values()["states"].values())
    assert all(first >= second - 2e-9 for first, second in itertools.pairwise(shares))


def test_opens_with_three_that_agree_and_one_that_loses_trust_though_all_are_alike_alone():
    values = TrustGraph().values()
    first, second, third, odd = values["marginals"]
    assert first == pytest.approx(second) == pytest.approx(third)
    assert len(set(values["alone"])) == 1 and odd < 0.4 < values["alone"][0] < 0.9 < first
    assert list(values["states"])[0] == "1110"


def test_without_coupling_each_marginal_is_what_it_is_alone():
    values = TrustGraph(coupling=0).values()
    assert values["marginals"] == pytest.approx(values["alone"])
    assert values["mean_field"] == pytest.approx(values["alone"])


def test_two_who_disagree_lose_trust_alike():
    values = TrustGraph(["a", "b"], [0.5, 0.5], matrix(2, -0.8)).values()
    assert values["marginals"][0] == pytest.approx(values["marginals"][1])
    assert values["marginals"][0] < values["alone"][0]


def test_strong_coupling_makes_two_modes_and_mean_field_sits_in_one():
    values = TrustGraph(unary=[-4] * 4, similarity=matrix(4, 0.8), coupling=10 / 3).values()
    assert values["marginals"] == pytest.approx([0.5] * 4)
    assert list(values["states"])[:2] == ["1111", "0000"] and min(list(values["states"].values())[:2]) > 0.4
    assert max(values["mean_field"]) < 0.1


def test_minus_infinity_makes_a_modality_absent_and_it_returns_with_what_it_has():
    graph = TrustGraph(ABC, [1, -math.inf, 0.3])
    assert graph.present == [True, False, True] and graph.unary == [1, 0, 0.3]
    assert graph.values()["marginals"][1] == graph.values()["mean_field"][1] == 0
    alone = TrustGraph(["image", "video"], [1, 0.3], matrix(2, graph.similarity[0][2]))
    kept = [graph.values()["marginals"][m] for m in (0, 2)]
    assert kept == pytest.approx(alone.values()["marginals"])
    graph.present = [True, True, True]
    assert graph.values()["marginals"] == pytest.approx(TrustGraph(ABC, [1, 0, 0.3]).values()["marginals"])


# --- words ----------------------------------------------------------------------------------------------


def test_summary_says_the_field_and_whom_it_trusts():
    said = TrustGraph(ABC, [0.5, -0.25, -math.inf], matrix(3, -0.2)).summary()
    assert "ϑ: image 0.5, text −0.25, video −∞." in said and "image and text −0.2" in said
    assert "Coupling w = 2." in said


def test_words_name_the_most_and_the_least_trusted():
    said = TrustGraph()._in_words()
    assert said.startswith("Most trusted: fourier, profile and pixels, 96% (alone 62%); least: zernike, 34%")
    assert "Most probable: fourier, profile and pixels (61%)." in said


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (TrustGraph(["a", "b"], [0, 0], matrix(2, 0), 0), "Most probable: 4 states alike (25% each)."),
        (TrustGraph(["a", "b"], [1, 1], matrix(2, -1), 5), "Most probable: only a or only b (42% each)."),
        (TrustGraph(["a", "b"], [9, 9], matrix(2, 1)), "Trusted alike: both, >99% (alone >99%)."),
        (TrustGraph(["a", "b"], [-9, -9], matrix(2, 1)), "Most probable: nobody (>99%). Mean field agrees."),
        (TrustGraph(["a", "b"], [0, -math.inf]), "Only a is there: 50%, as alone."),
        (TrustGraph(["a", "b"], [-math.inf] * 2), "Nobody is there, and nobody is trusted."),
        (TrustGraph(ABC, [1, 2, -3], matrix(3, 0)), "Most trusted: text, 88% (alone 88%); least: video, 5%"),
    ],
)
def test_words_of_special_fields(graph, said):
    assert said in graph._in_words()


@pytest.mark.parametrize(
    ("x", "said"), [(0, "0%"), (0.004, "<1%"), (0.125, "13%"), (0.996, ">99%"), (1, "100%")]
)
def test_percentages_say_zero_and_hundred_only_where_it_is_so(x, said):
    assert _percent(x) == said


def test_numbers_have_a_real_minus_and_zero_has_none():
    assert (_number(-0.5), _number(-0.001), _number(10 / 3)) == ("−0.5", "0", "3.33")


# --- the page -------------------------------------------------------------------------------------------


def test_output_holds_the_live_view_a_picture_and_a_page_that_needs_no_kernel():
    graph = TrustGraph()
    data, _ = graph._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert data["text/plain"] == repr(graph) == "TrustGraph(fourier, profile, pixels, zernike)"
    html = data["text/html"]
    assert "To use the widget" in html and "data:image/webp" in html
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert TrustGraph().to_html() == html  # the same every time
    assert Image.open(io.BytesIO(graph.picture())).size == (480, 200)
    assert len(html.encode()) < 50 * 1024


def test_page_gets_the_field_in_full_precision_and_no_infinity():
    graph = TrustGraph(["a", "b"], [1 / 3, -math.inf], matrix(2, 2 / 7), 0.1)
    assert state_of(graph) == {
        "modalities": ["a", "b"],
        "unary": [1 / 3, 0],
        "similarity": matrix(2, 2 / 7),
        "coupling": 0.1,
        "present": [True, False],
        "selected": [0, 1],
    }


def test_a_hostile_name_cannot_leave_its_script_element():
    graph = TrustGraph([HOSTILE, "b"])
    html = graph.to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html and "<!--" not in html
    assert state_of(graph)["modalities"][0] == HOSTILE


# --- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (["a"], "modalities: expected 2 to 6, found 1"),
        ([str(i) for i in range(7)], "modalities: expected 2 to 6, found 7"),
        (["a", "b", "a"], r"modalities: expected different ones, found \['a', 'b', 'a'\]"),
    ],
)
def test_names_what_is_wrong_with_modalities(modalities, message):
    with pytest.raises(ValueError, match=message):
        TrustGraph(modalities)


def cosines(a, b, s):
    changed = matrix(3, 0.5)
    changed[a][b] = s
    return changed


MISTAKES = [
    ("unary", [0.5, 0.5], "expected 3 numbers, one per modality, found 2"),
    ("unary", [0.5, math.nan, 0], "expected numbers from -100 to 100, found nan for 'text'"),
    ("unary", [math.inf, 0, 0], "expected numbers from -100 to 100, found inf for 'image'"),
    ("similarity", matrix(2, 0.5), r"expected 3 rows of 3 cosines, found rows of \[2, 2\]"),
    ("similarity", [[1.0]] * 3, r"expected 3 rows of 3 cosines, found rows of \[1, 1, 1\]"),
    ("similarity", cosines(0, 1, 1.2), "expected cosines from -1 to 1, found 1.2 for 'image' and 'text'"),
    (
        "similarity",
        cosines(2, 1, math.nan),
        "expected cosines from -1 to 1, found nan for 'text' and 'video'",
    ),
    ("similarity", cosines(2, 0, 0.4), "expected one cosine for 'image' and 'video', found 0.5 and 0.4"),
    ("coupling", -0.1, "expected a number from 0 to 100, found -0.1"),
    ("coupling", math.nan, "expected a number from 0 to 100, found nan"),
]


@pytest.mark.parametrize(("name", "given", "message"), MISTAKES)
def test_names_what_is_no_field_at_once_and_later(name, given, message):
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        TrustGraph(ABC, **{name: given})
    graph = TrustGraph(ABC)
    before = getattr(graph, name)
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        setattr(graph, name, given)
    assert getattr(graph, name) == before


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("present", [True], "expected 3 truth values, one per modality, found 1"),
        ("selected", [1, 1], r"expected \[m, n\] with 0 <= m < n < 3, found \[1, 1\]"),
        ("selected", [0, 3], r"expected \[m, n\] with 0 <= m < n < 3, found \[0, 3\]"),
        ("unary", [0, -math.inf, 0], "expected numbers from -100 to 100, found -inf for 'text'"),
    ],
)
def test_names_what_cannot_be_set(name, given, message):
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        setattr(TrustGraph(ABC), name, given)


def test_a_cosine_that_is_off_by_rounding_is_accepted():
    assert TrustGraph(ABC, similarity=matrix(3, 1.00001)).similarity == matrix(3, 1)
