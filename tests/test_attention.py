"""Attention: each kind against a loop over its equation, padding without influence, PyTorch's own heads."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

from mmtutor.attention import (
    AdditiveAttention,
    Attention,
    ContentAttention,
    DotAttention,
    HybridAttention,
    LocalAttention,
    LocationAttention,
    MultiHeadAttention,
    ScaledDotAttention,
    masked_softmax,
)

CONTENT = [AdditiveAttention, ContentAttention, DotAttention, ScaledDotAttention]
KINDS = [*CONTENT, LocationAttention, LocalAttention, HybridAttention]
D = 4


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make(kind: type[Attention], **options) -> Attention:
    """A kind in double precision, with weights large enough to matter."""
    attention = kind(D, **options).double()
    with torch.no_grad():
        for p in attention.parameters():
            p.mul_(1.5)
    return attention


def sequence(batch: int = 3, length: int = 6, values: int = 5) -> dict[str, Tensor]:
    """Arguments of a call, with a state that is weights; the first item is whole, the last all padding."""
    valid = torch.rand(batch, length) < 0.6
    valid[0], valid[-1] = True, False
    return {
        "query": torch.randn(batch, D, dtype=torch.float64),
        "keys": torch.randn(batch, length, D, dtype=torch.float64),
        "values": torch.randn(batch, length, values, dtype=torch.float64),
        "valid": valid,
        "state": masked_softmax(torch.randn(batch, length, dtype=torch.float64), valid),
    }


# The softmax


def softmax(scores: list[float], valid: list[bool]) -> list[float]:
    """Written from the equation; zeros if nothing is real."""
    exponentials = [math.exp(e) if v else 0.0 for e, v in zip(scores, valid, strict=True)]
    return [x / sum(exponentials) if any(valid) else 0.0 for x in exponentials]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=1, max_size=9))
def test_the_softmax_equals_the_equation_and_sums_to_one_where_something_is_real(row):
    scores, valid = map(list, zip(*row, strict=True))
    weights = masked_softmax(torch.tensor(scores, dtype=torch.float64), torch.tensor(valid))
    assert weights.tolist() == pytest.approx(softmax(scores, valid), rel=1e-9)
    assert weights.sum().item() == pytest.approx(float(any(valid)))
    assert all(a == 0 for a, v in zip(weights.tolist(), valid, strict=True) if not v)


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf])
def test_a_score_at_padding_touches_neither_weights_nor_gradients(rubbish):
    valid = torch.tensor([[True, True, False], [False, False, False]])
    scores = torch.tensor([[1.0, 2.0, rubbish], [rubbish, rubbish, rubbish]], requires_grad=True)
    weights = masked_softmax(scores, valid)
    assert torch.equal(weights[0, :2], torch.tensor([1.0, 2.0]).softmax(0))
    assert weights[0, 2] == 0 and (weights[1] == 0).all()
    (weights * torch.tensor([3.0, 1.0, 5.0])).sum().backward()
    assert torch.isfinite(scores.grad).all() and (scores.grad[~valid] == 0).all()
    assert (scores.grad[0, :2] != 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_nothing_on_the_way_back_from_a_row_of_padding_is_nan():
    scores, valid = torch.randn(2, 3, requires_grad=True), torch.tensor([[True], [False]])
    with torch.autograd.detect_anomaly():
        masked_softmax(scores, valid)[:, 0].sum().backward()


def test_a_score_that_is_no_number_at_a_real_position_shows_in_its_own_row_and_no_other():
    scores = torch.tensor([[0.0, math.nan], [0.0, 0.0]])
    weights = masked_softmax(scores, torch.ones(2, 2, dtype=torch.bool))
    assert weights[0].isnan().all() and weights[1].tolist() == [0.5, 0.5]


def test_large_scores_do_not_overflow_and_no_positions_give_no_weights():
    weights = masked_softmax(torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[True] * 3]))
    assert weights.tolist() == [[1.0, 0.0, 0.0]]
    assert masked_softmax(torch.zeros(2, 0), torch.ones(2, 0, dtype=torch.bool)).shape == (2, 0)


@pytest.mark.parametrize(
    "valid",
    [
        torch.ones(2, 3),
        torch.ones(2, 4, dtype=torch.bool),
        torch.ones(3, 1, dtype=torch.bool),
        torch.ones(1, 2, 3, dtype=torch.bool),
    ],
)
def test_a_mask_that_does_not_fit_the_scores_is_refused(valid):
    with pytest.raises(ValueError, match=r"valid: expected bool of a shape that broadcasts to \(2, 3\)"):
        masked_softmax(torch.zeros(2, 3), valid)


# Each kind against a loop over its equation


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def times(W: nn.Linear, x: list[float]) -> list[float]:
    return [dot(row, x) for row in W.weight.tolist()]


def additive(attention, q, k, before):
    scores = []
    for k_j in k:
        pairs = zip(times(attention.W_q, q), times(attention.W_k, k_j), strict=True)
        scores.append(times(attention.w, [math.tanh(a + b) for a, b in pairs])[0])
    return scores


def content(attention, q, k, before):
    beta, scores = math.exp(attention.log_sharpness.item()), []
    for k_j in k:
        lengths = math.sqrt(dot(q, q)) * math.sqrt(dot(k_j, k_j))
        scores.append(beta * dot(q, k_j) / lengths)
    return scores


def location(attention, q, k, before):
    return [times(attention.W, q)[j] for j in range(len(k))]


def hybrid(attention, q, k, before):
    kernels, L, scores = attention.kernels.weight[:, 0].tolist(), len(k), []
    half = len(kernels[0]) // 2
    for j in range(L):
        f_j = []
        for kernel in kernels:
            places = [(o, j + o - half) for o in range(len(kernel))]
            f_j.append(sum(kernel[o] * before[i] for o, i in places if 0 <= i < L))
        parts = times(attention.W_q, q), times(attention.W_k, k[j]), times(attention.U, f_j)
        scores.append(times(attention.w, [math.tanh(sum(x)) for x in zip(*parts, strict=True)])[0])
    return scores


SCORES = {
    AdditiveAttention: additive,
    ContentAttention: content,
    DotAttention: lambda attention, q, k, before: [dot(q, k_j) for k_j in k],
    ScaledDotAttention: lambda attention, q, k, before: [dot(q, k_j) / math.sqrt(D) for k_j in k],
    LocationAttention: location,
    HybridAttention: hybrid,
}


def raw_local_weights(attention, q, k) -> list[float]:
    """Luong's: a softmax in the window, times the Gaussian, not divided by its sum."""
    x = times(attention.w, [math.tanh(h) for h in times(attention.W, q)])[0]
    p, r = (len(k) - 1) / (1 + math.exp(-x)), attention.radius
    near = [abs(j - p) <= r for j in range(len(k))]
    align = softmax([dot(q, k_j) / math.sqrt(D) for k_j in k], near)
    return [a * math.exp(-((j - p) ** 2) / (2 * (r / 2) ** 2)) for j, a in enumerate(align)]


def loop(attention, query, keys, values, valid, state):
    """Weights and contexts of a batch, item by item and position by position, in Python's numbers."""
    contexts, weights = [], []
    for b in range(len(query)):
        q, k, v, real = query[b].tolist(), keys[b].tolist(), values[b].tolist(), valid[b].tolist()
        if isinstance(attention, LocalAttention):
            raw = raw_local_weights(attention, q, [k_j for k_j, here in zip(k, real, strict=True) if here])
            remaining = iter(raw)
            alpha = [next(remaining) / sum(raw) if here else 0.0 for here in real]
        else:
            k = [k_j if here else [1.0] * D for k_j, here in zip(k, real, strict=True)]
            alpha = softmax(SCORES[type(attention)](attention, q, k, state[b].tolist()), real)
        weights.append(alpha)
        contexts.append([sum(a * v_j[c] for a, v_j in zip(alpha, v, strict=True)) for c in range(len(v[0]))])
    return torch.tensor(contexts, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_equals_a_loop_over_its_equation(kind):
    attention, inputs = make(kind), sequence(batch=5)
    context, weights = attention(**inputs)
    expected_context, expected_weights = loop(attention, **inputs)
    torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-12)
    torch.testing.assert_close(context, expected_context, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_inputs_and_parameters_are_right(kind):
    attention, inputs = make(kind), sequence(length=4, values=2)
    parameters = {name: p.detach() for name, p in attention.named_parameters()}
    valid = inputs.pop("valid")

    def call(*tensors):
        given = dict(zip([*inputs, *parameters], tensors, strict=True))
        own = {name: given.pop(name) for name in parameters}
        return torch.func.functional_call(attention, own, kwargs={**given, "valid": valid})

    assert gradcheck(call, [x.requires_grad_() for x in (*inputs.values(), *parameters.values())])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if [*kind(D).parameters()]])
def test_all_parameters_learn(kind):
    attention, inputs = make(kind), sequence()
    attention(**inputs)[0].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in attention.parameters())


def test_without_values_the_keys_are_read():
    inputs = sequence()
    inputs["values"] = inputs["keys"]
    context, _ = DotAttention(D)(**inputs)
    assert torch.equal(DotAttention(D)(inputs["query"], inputs["keys"], valid=inputs["valid"])[0], context)


# Padding


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 9), st.integers(0, 99))
def test_weights_are_a_distribution_over_what_is_real(kind, length, seed):
    torch.manual_seed(seed)
    inputs = sequence(batch=4, length=length)
    _, weights = make(kind)(**inputs)
    assert (weights >= 0).all() and (weights[~inputs["valid"]] == 0).all()
    torch.testing.assert_close(weights.sum(1), inputs["valid"].any(1).double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rubbish", [math.nan, math.inf, 1e300])
def test_what_stands_at_padding_touches_neither_results_nor_gradients(kind, rubbish):
    attention, inputs = make(kind), sequence()
    valid = inputs["valid"]
    expected = attention(**inputs)
    spoilt = {"query": inputs["query"].requires_grad_(), "valid": valid}
    for name in ("keys", "values", "state"):
        x, here = inputs[name], valid[..., None] if name != "state" else valid
        spoilt[name] = torch.where(here, x, rubbish).requires_grad_()
    found = attention(**spoilt)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    (found[0].square().sum() + found[1].square().sum()).backward()
    for name in ("keys", "values", "state"):
        gradient = spoilt[name].grad
        assert gradient is None or (gradient.isfinite().all() and (gradient[~valid] == 0).all())
    assert all(p.grad.isfinite().all() for p in attention.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [3, 0])
def test_with_nothing_to_read_all_is_zero_and_so_is_every_gradient(kind, length):
    attention, inputs = make(kind), sequence(length=length)
    inputs = {
        n: x.requires_grad_() if x.is_floating_point() else torch.zeros_like(x) for n, x in inputs.items()
    }
    context, weights = attention(**inputs)
    assert context.shape == (3, 5) and weights.shape == (3, length)
    assert (context == 0).all() and (weights == 0).all()
    (context.sum() + weights.sum()).backward()
    leaves = [x for x in (*inputs.values(), *attention.parameters()) if x.requires_grad]
    assert all(x.grad is None or (x.grad == 0).all() for x in leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_at_the_end_changes_nothing(kind):
    attention, short = make(kind), sequence(length=4)
    long = {n: F.pad(x, (0, 0, 0, 3) if x.ndim == 3 else (0, 3)) for n, x in short.items() if n != "query"}
    found, expected = attention(short["query"], **long), attention(**short)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], F.pad(expected[1], (0, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_gives_an_empty_batch(kind):
    context, weights = make(kind)(**{name: x[:0] for name, x in sequence().items()})
    assert context.shape == (0, 5) and weights.shape == (0, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_is_no_number_spoils_its_own_item_at_most(kind):
    attention, inputs = make(kind), sequence()
    expected = attention(**inputs)[1]
    inputs["keys"][0, 2] = math.nan
    weights = attention(**inputs)[1]
    assert torch.equal(weights[1:], expected[1:])
    assert weights[0].isnan().all() == (kind is not LocationAttention)


# What the kinds look at


@pytest.mark.parametrize("kind", CONTENT)
def test_a_change_of_order_changes_the_order_of_content_weights_and_nothing_else(kind):
    attention, inputs, order = make(kind), sequence(), torch.randperm(6)
    context, weights = attention(**inputs)
    moved = {name: x if name == "query" else x[:, order] for name, x in inputs.items()}
    found = attention(**moved)
    torch.testing.assert_close(found[1], weights[:, order])
    torch.testing.assert_close(found[0], context)


def test_a_change_of_order_of_the_keys_leaves_weights_by_location_as_they_are():
    attention, inputs = make(LocationAttention), sequence()
    _, weights = attention(**inputs)
    inputs["keys"] = inputs["keys"][:, torch.randperm(6)]
    assert torch.equal(attention(**inputs)[1], weights)


@pytest.mark.parametrize("kind", [LocalAttention, HybridAttention])
def test_kinds_of_content_and_place_follow_no_change_of_order(kind):
    attention, inputs = make(kind), sequence()
    order = torch.arange(5, -1, -1)
    _, weights = attention(**inputs)
    inputs["keys"] = inputs["keys"][:, order]
    found = attention(**inputs)[1]
    assert not torch.allclose(found[0], weights[0]) and not torch.allclose(found[0], weights[0, order])


def test_content_goes_by_direction_from_everywhere_alike_to_the_nearest_alone():
    inputs, nearest = sequence(batch=4), torch.zeros(4, 6)
    inputs["valid"][-1] = True
    q, k = inputs["query"], inputs["keys"]
    cosine = F.cosine_similarity(q[:, None], k, dim=2).masked_fill(~inputs["valid"], -2)
    nearest[torch.arange(4), cosine.argmax(1)] = 1
    everywhere = inputs["valid"] / inputs["valid"].sum(1, keepdim=True)
    for sharpness, expected in ((1e-9, everywhere), (1e6, nearest)):
        _, weights = ContentAttention(D, sharpness).double()(**inputs)
        torch.testing.assert_close(weights, expected.double(), rtol=0, atol=1e-6)
    inputs |= {"query": 7 * q, "keys": k * torch.rand(4, 6, 1).double().add(0.1)}
    attention = ContentAttention(D)
    assert attention.sharpness.item() == pytest.approx(10)
    torch.testing.assert_close(attention(**inputs)[1], attention(q, k, valid=inputs["valid"])[1])


def test_a_key_of_zeros_has_cosine_zero_and_a_finite_gradient():
    keys = torch.zeros(1, 2, D, requires_grad=True)
    attention = ContentAttention(D)
    _, weights = attention(torch.ones(1, D), keys)
    assert weights.tolist() == [[0.5, 0.5]]
    weights[0, 0].backward()
    assert keys.grad.isfinite().all()


def test_the_scaled_product_keeps_its_sharpness_as_vectors_grow_wider_and_the_plain_one_does_not():
    entropies = {}
    for kind in (DotAttention, ScaledDotAttention):
        for dim in (4, 256):
            _, weights = kind(dim)(torch.randn(500, dim), torch.randn(500, 8, dim))
            entropies[kind, dim] = torch.special.entr(weights).sum(1).mean().item()
    assert entropies[DotAttention, 256] < 0.3 < 1 < entropies[DotAttention, 4]
    scaled = entropies[ScaledDotAttention, 4], entropies[ScaledDotAttention, 256]
    assert scaled[0] == pytest.approx(scaled[1], abs=0.1) and min(scaled) > 1.5


@pytest.mark.parametrize("length", [1, 8])
def test_a_sequence_longer_than_the_table_is_refused(length):
    attention = LocationAttention(D, max_length=8)
    attention(torch.zeros(1, D), torch.zeros(1, length, D))
    with pytest.raises(ValueError, match="keys: expected at most 8 positions, as in the table; found 9"):
        attention(torch.zeros(1, D), torch.zeros(1, 9, D))


# A window


@pytest.mark.parametrize("radius", [1e6, math.inf])
@pytest.mark.parametrize("content", [*CONTENT, HybridAttention])
def test_a_window_over_everything_is_the_kind_that_scores_its_content(content, radius):
    inputs, inside = sequence(), make(content)
    attention = make(LocalAttention, radius=radius, content=inside)
    for found, expected in zip(attention(**inputs), inside(**inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_window_weighs_nothing_beyond_its_radius_and_always_something_within():
    attention = make(LocalAttention, radius=1)
    inputs = sequence(batch=200, length=9)
    attention.w.weight.data *= 20  # centres everywhere
    inputs["valid"][:] = True
    centre, (_, weights) = attention.centre(inputs["query"], inputs["valid"]), attention(**inputs)
    near = (torch.arange(9) - centre).abs() <= 1
    assert torch.equal(weights > 0, near) and near.any(1).all()
    assert centre.min() < 1 and centre.max() > 7
    torch.testing.assert_close(weights.sum(1), torch.ones(200).double())


def test_padding_anywhere_moves_no_window():
    attention, inputs = make(LocalAttention, radius=1.5), sequence(batch=1, length=9)
    inputs["valid"][0, [0, 1, 4, 5, 6]] = False  # at the front and a hole wider than the window
    here = inputs["valid"][0]
    alone = {name: x if name == "query" else x[:, here] for name, x in inputs.items()}
    found, expected = attention(**inputs), attention(**alone)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1][:, here], expected[1])


@pytest.mark.parametrize(("radius", "total"), [(2, 0.50), (10, 0.58)])
def test_what_is_divided_by_is_about_one_half_where_content_is_alike(radius, total):
    attention, length = make(LocalAttention, radius=radius), 2 * radius + 1
    q, k = torch.zeros(1, D).double(), torch.ones(1, length, D).double()
    raw = raw_local_weights(attention, q[0].tolist(), k[0].tolist())  # a query of zeros looks at the middle
    assert sum(raw) == pytest.approx(total, abs=0.005)
    assert attention(q, k)[1][0].tolist() == pytest.approx([a / sum(raw) for a in raw])


def test_the_place_is_learnt_through_the_gaussian():
    attention, q = LocalAttention(D, radius=2), torch.randn(1, D)
    keys, target = torch.randn(1, 12, D), torch.tensor([9])
    optimiser = torch.optim.Adam(attention.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        _, weights = attention(q, keys)
        # the mean place, not the likelihood: beyond the window a weight is zero, with no gradient
        ((weights * torch.arange(12.0)).sum(1) - target).square().sum().backward()
        optimiser.step()
    assert attention.centre(q, torch.ones(1, 12, dtype=torch.bool)).item() == pytest.approx(9, abs=1)


@pytest.mark.parametrize("radius", [0.5, 0, -1, math.nan])
def test_a_window_that_may_hold_nothing_is_refused(radius):
    with pytest.raises(ValueError, match="radius: expected at least 1, found"):
        LocalAttention(D, radius=radius)


def test_content_of_another_width_is_refused():
    with pytest.raises(ValueError, match="content: expected a kind of width 4, found 3"):
        LocalAttention(D, content=DotAttention(3))


# A past


def test_without_a_past_or_with_kernels_of_zero_the_hybrid_kind_is_additive():
    hybrid, additive, inputs = make(HybridAttention), make(AdditiveAttention), sequence()
    additive.load_state_dict({name: hybrid.state_dict()[name] for name in additive.state_dict()})
    expected = additive(**inputs)
    assert not torch.allclose(hybrid(**inputs)[1], expected[1])
    assert torch.equal(hybrid(**{**inputs, "state": None})[1], expected[1])
    nn.init.zeros_(hybrid.kernels.weight)
    assert torch.equal(hybrid(**inputs)[1], expected[1])


def test_the_hybrid_kind_can_walk_along_a_sequence_whatever_stands_there():
    walker = HybridAttention(D, hidden=1, filters=1, kernel_size=3)
    with torch.no_grad():
        for p in walker.parameters():
            p.zero_()
        walker.kernels.weight[0, 0, 0] = 1.0  # sees the position before
        walker.U.weight.fill_(10.0), walker.w.weight.fill_(50.0)
    keys, state, seen = torch.randn(1, 5, D), torch.eye(5)[:1], []
    for _ in range(4):
        _, state = walker(torch.randn(1, D), keys, state=state)
        seen.append(state.argmax().item())
    assert seen == [1, 2, 3, 4]


def test_gradients_flow_through_the_state_into_the_steps_before():
    attention, inputs = make(HybridAttention), sequence()
    first = inputs["query"].clone().requires_grad_()
    _, state = attention(**{**inputs, "query": first, "state": None})
    attention(**{**inputs, "state": state})[1].square().sum().backward()
    assert (first.grad[0] != 0).all() and (first.grad[-1] == 0).all()


@pytest.mark.parametrize("kind", [*CONTENT, LocationAttention, LocalAttention])
def test_a_kind_without_past_takes_a_state_and_ignores_it(kind):
    attention, inputs = make(kind), sequence()
    assert torch.equal(attention(**inputs)[1], attention(**{**inputs, "state": None})[1])


# What is refused


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"query": torch.zeros(3, 5)}, ValueError, r"query: expected shape \(B, 4\), found \(3, 5\)"),
        ({"query": torch.zeros(3, 1, 4)}, ValueError, r"query: .* found \(3, 1, 4\)"),
        ({"query": torch.zeros(2, 4)}, ValueError, r"keys: expected shape \(2, L, 4\), found \(3, 6, 4\)"),
        ({"keys": torch.zeros(3, 6, 5)}, ValueError, r"keys: expected shape \(3, L, 4\), found \(3, 6, 5\)"),
        ({"keys": torch.zeros(3, 4)}, ValueError, r"keys: .* found \(3, 4\)"),
        ({"keys": torch.zeros(3, 7, 4)}, ValueError, r"values: .* \(3, 7, V\), found \(3, 6, 5\)"),
        ({"values": torch.zeros(3, 6)}, ValueError, r"values: expected shape \(3, 6, V\), found \(3, 6\)"),
        ({"valid": torch.ones(3, 6)}, ValueError, r"valid: expected bool of .* \(3, 6\), found torch.float"),
        ({"valid": torch.ones(6, dtype=torch.bool)}, ValueError, r"valid: .* torch.bool of shape \(6,\)"),
        ({"state": torch.zeros(3, 5)}, ValueError, r"state: expected shape \(3, 6\), found \(3, 5\)"),
        ({"state": torch.zeros(3, 6).long()}, TypeError, "state: expected floats, found torch.int64"),
        ({"query": torch.zeros(3, 4).long()}, TypeError, "query: expected floats, found torch.int64"),
        ({"keys": torch.zeros(3, 6, 4).long()}, TypeError, "keys: expected floats, found torch.int64"),
        ({"values": torch.zeros(3, 6, 5).long()}, TypeError, "values: expected floats, found torch.int64"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(kind, wrong, error, message):
    with pytest.raises(error, match=message):
        make(kind)(**{**sequence(), **wrong})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (AdditiveAttention, {"hidden": 0}, "hidden: expected a positive number, found 0"),
        (ContentAttention, {"sharpness": 0.0}, "sharpness: expected a positive number"),
        (LocationAttention, {"max_length": 0}, "max_length: expected a positive number, found 0"),
        (HybridAttention, {"filters": 0}, "filters: expected a positive number, found 0"),
        (HybridAttention, {"kernel_size": 4}, "kernel_size: expected an odd number, found 4"),
        (HybridAttention, {"kernel_size": -1}, "kernel_size: expected an odd number, found -1"),
        (DotAttention, {"dim": 0}, "dim: expected a positive number, found 0"),
    ],
)
def test_options_that_make_no_attention_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"dim": D, **options})


# Half precision


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_and_zeros_for_padding(kind, dtype):
    attention, inputs = kind(D), sequence()
    inputs = {n: x.float() if x.is_floating_point() else x for n, x in inputs.items()}
    expected = attention(**inputs)
    half = {n: x.to(dtype) if x.is_floating_point() else x for n, x in inputs.items()}
    found = attention.to(dtype)(**half)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == dtype
        torch.testing.assert_close(x.float(), y, rtol=0.05, atol=0.05)
    assert (found[1][~inputs["valid"]] == 0).all() and (found[0][-1] == 0).all()


def test_half_precision_does_not_round_the_places_of_a_long_sequence():
    attention, q, k = LocalAttention(D, radius=2), torch.zeros(1, D), torch.ones(1, 1000, D)
    expected = attention(q, k)[1]  # a query of zeros looks at the middle, 499.5
    assert expected[0].nonzero().flatten().tolist() == [498, 499, 500, 501]
    found = attention.bfloat16()(q.bfloat16(), k.bfloat16())[1]
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_gives_nearly_the_same(kind):
    attention, inputs = kind(D), sequence()
    inputs = {n: x.float() if x.is_floating_point() else x for n, x in inputs.items()}
    expected = attention(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        context, weights = attention(**inputs)
    torch.testing.assert_close(weights, expected[1], rtol=0.05, atol=0.05)
    torch.testing.assert_close(context.float(), expected[0], rtol=0.05, atol=0.05)


# Many heads


def heads(dim: int = 8, count: int = 2, **options) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    """Ours and PyTorch's, with the same weights and no bias of zero."""
    peer = nn.MultiheadAttention(dim, count, batch_first=True, **options).double()
    for bias in (peer.in_proj_bias, peer.out_proj.bias):
        nn.init.normal_(bias)
    attention = MultiHeadAttention(dim, count, **options).double()
    attention.load_state_dict(peer.state_dict())
    return attention, peer


def tokens(queries: int = 5, keys: int = 5, own: bool = False) -> list[Tensor]:
    """Queries, keys, values (``own``: all the same) and a mask; every item has a first key."""
    x = torch.randn(3, queries, 8, dtype=torch.float64, requires_grad=True)
    y, z = torch.randn(2, 3, keys, 8, dtype=torch.float64)
    valid = torch.rand(3, keys) < 0.6
    valid[:, 0] = True
    return [x, x, x, valid] if own else [x, y, z, valid]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_heads_agree_with_pytorch_in_results_weights_and_gradients(causal, padded, own, training):
    attention, peer = (module.train(training) for module in heads())
    *inputs, valid = tokens(own=own)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, expected_weights = peer(
        *inputs,
        key_padding_mask=~valid if padded else None,
        attn_mask=future if causal else None,
        average_attn_weights=False,
    )

    def gradients(out, module):
        return torch.autograd.grad(out.square().sum(), [inputs[0], *module.parameters()])

    expected_gradients = gradients(expected, peer)
    for need_weights in (False, True):
        out, weights = attention(*inputs, valid if padded else None, need_weights, causal=causal)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(gradients(out, attention), expected_gradients, rtol=0, atol=1e-9)
        assert (weights is None) == (not need_weights)
    torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-9)


def test_heads_start_as_those_of_pytorch():
    torch.manual_seed(3)
    expected = nn.MultiheadAttention(8, 2).state_dict()
    torch.manual_seed(3)
    found = MultiHeadAttention(8, 2).state_dict()
    assert list(found) == list(expected) and all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize("causal", [False, True])
def test_heads_equal_a_loop_over_queries_and_keys(causal):
    attention, _ = heads()
    x, y, z, valid = (t.detach() for t in tokens())
    W, b = (t.detach().chunk(3) for t in (attention.in_proj_weight, attention.in_proj_bias))
    q, k, v = ((t @ W_t.T + b_t).tolist() for t, W_t, b_t in zip((x, y, z), W, b, strict=True))
    joined, expected = torch.zeros(3, 5, 8).double(), torch.zeros(3, 2, 5, 5).double()
    for item in range(3):
        for head, part in enumerate((slice(0, 4), slice(4, 8))):
            for i in range(5):
                scores = [dot(q[item][i][part], k[item][j][part]) / math.sqrt(4) for j in range(5)]
                read = [valid[item, j].item() and (j <= i or not causal) for j in range(5)]
                alpha = torch.tensor(softmax(scores, read)).double()
                expected[item, head, i] = alpha
                joined[item, i, part] = alpha @ torch.tensor(v[item]).double()[:, part]
    out, weights = attention(x, y, z, valid, need_weights=True, causal=causal)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(out, attention.out_proj(joined), rtol=0, atol=1e-6)


def test_one_head_with_maps_that_change_nothing_is_the_scaled_product():
    attention = MultiHeadAttention(D, heads=1).double()
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.eye(D).repeat(3, 1))
        attention.out_proj.weight.copy_(torch.eye(D))
    inputs = sequence(values=D)
    del inputs["state"]
    context, weights = ScaledDotAttention(D)(**inputs)
    inputs["query"] = inputs["query"][:, None]
    out, of_heads = attention(**inputs, need_weights=True)
    torch.testing.assert_close(out[:, 0], context)
    torch.testing.assert_close(of_heads[:, 0, 0], weights)


def test_without_values_heads_read_the_keys():
    attention, _ = heads()
    x, y, _, valid = tokens()
    assert torch.equal(attention(x, y, valid=valid)[0], attention(x, y, y, valid)[0])


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_heads_are_right(need_weights, causal):
    attention, _ = heads(dim=4)
    *inputs, valid = (t.detach()[:2, :3] for t in tokens())
    inputs = [t[..., :4].clone().requires_grad_() for t in inputs]
    valid[1] = False
    assert gradcheck(lambda *x: attention(*x, valid, need_weights, causal=causal)[0], inputs)
    if need_weights:
        assert gradcheck(lambda *x: attention(*x, valid, True, causal=causal)[1], inputs)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("rubbish", [math.nan, math.inf])
def test_what_stands_at_padding_touches_no_result_and_no_gradient_of_heads(
    need_weights, causal, own, rubbish
):
    attention, _ = heads()
    *inputs, valid = tokens(own=own)
    valid[2] = False
    results = []
    for replaced_by in (0.0, rubbish):
        y, z = (torch.where(valid[..., None], x, replaced_by).detach().requires_grad_() for x in inputs[1:])
        call = (y, y, y) if own else (inputs[0], y, z)
        out, weights = attention(*call, valid, need_weights, causal=causal)
        loss = out.square().sum() + (weights.square().sum() if need_weights else 0)
        leaves = [*dict.fromkeys(call), *attention.parameters()]
        results.append((out, *torch.autograd.grad(loss, leaves)))
        assert all(result.isfinite().all() for result in results[-1])
        if need_weights:
            assert (weights.movedim(3, 1)[~valid] == 0).all()
    if own:  # a query that is padding has a gradient of its own, except where it is no number
        for result in results:
            result[1][~valid] = 0
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("length", [5, 0])
def test_heads_with_nothing_to_read_give_zeros_and_gradients_of_zero_where_pytorch_gives_nan(
    need_weights, length
):
    attention, peer = heads()
    x, y, z, valid = tokens()
    inputs, valid = (x, y[:, :length], z[:, :length]), torch.zeros_like(valid) if length else None
    out, weights = attention(*inputs, valid, need_weights)
    assert out.shape == (3, 5, 8) and (out == 0).all()
    assert weights is None or (weights.shape == (3, 2, 5, length) and (weights == 0).all())
    out.sum().backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in (inputs[0], *attention.parameters()))
    if length and need_weights:
        assert peer(*inputs, key_padding_mask=~valid)[0].isnan().all()


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_causal_query_before_the_first_real_key_gets_zeros(need_weights):
    attention, _ = heads()
    x, _, _, valid = tokens(own=True)
    valid[:] = torch.tensor([False, False, True, True, True])
    out, weights = attention(x, x, x, valid, need_weights, causal=True)
    assert (out[:, :2] == 0).all() and (out[:, 2:] != 0).any(2).all()
    if need_weights:
        assert (weights[:, :, :2] == 0).all()
        torch.testing.assert_close(weights[:, :, 2:].sum(3), torch.ones(3, 2, 3).double())


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_causal_query_is_untouched_by_what_comes_after(need_weights, padded):
    attention, _ = heads()
    x, _, _, valid = tokens(own=True)
    valid = valid if padded else None
    changed = torch.cat([x[:, :3], torch.randn(3, 2, 8).double()], 1)
    out, found = (attention(t, t, t, valid, need_weights, causal=True)[0] for t in (x, changed))
    torch.testing.assert_close(found[:, :3], out[:, :3])
    assert not torch.allclose(found[:, 3:], out[:, 3:])


def test_weights_are_from_before_the_dropout():
    attention, peer = heads(dropout=0.5)
    x, y, z, valid = tokens()
    _, weights = attention(x, y, z, valid, need_weights=True)
    _, after = peer(x, y, z, key_padding_mask=~valid, average_attn_weights=False)
    torch.testing.assert_close(weights.sum(3), torch.ones(3, 2, 5).double())
    assert not torch.allclose(after.sum(3), torch.ones(3, 2, 5).double())
    torch.testing.assert_close(weights, attention.eval()(x, y, z, valid, need_weights=True)[1])


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_drops_in_training_only_and_keeps_the_mean(need_weights):
    attention, _ = heads(dropout=0.5)
    x, y, z, valid = (t.detach() for t in tokens())
    calm = [attention.eval()(x, y, z, valid, need_weights)[0] for _ in range(2)]
    assert torch.equal(*calm)
    attention.train()
    noisy = torch.stack([attention(x, y, z, valid, need_weights)[0] for _ in range(2000)])
    assert (noisy.std(0) > 0.01).all()
    torch.testing.assert_close(noisy.mean(0), calm[0], rtol=0, atol=0.1)


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_key_that_is_no_number_spoils_its_own_item_of_heads_and_no_other(need_weights):
    attention, _ = heads()
    x, y, z, valid = tokens()
    expected, _ = attention(x, y, z, valid, need_weights)
    y[0, 0] = math.nan
    found, _ = attention(x, y, z, valid, need_weights)
    assert found[0].isnan().all() and torch.equal(found[1:], expected[1:])


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_in_half_precision_and_under_autocast_give_nearly_the_same(need_weights, dtype):
    attention, _ = heads()
    x, y, z, valid = tokens()
    valid[2] = False
    expected, expected_weights = attention(x, y, z, valid, True)
    with torch.autocast("cpu", dtype):
        results = [attention.float()(x.float(), y.float(), z.float(), valid, need_weights)]
    results.append(attention.to(dtype)(x.to(dtype), y.to(dtype), z.to(dtype), valid, need_weights))
    for out, weights in results:
        torch.testing.assert_close(out.double(), expected, rtol=0.05, atol=0.05)
        assert (out[2] == 0).all()
        if need_weights:
            torch.testing.assert_close(weights.double(), expected_weights, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("batch_and_queries", [(0, 5), (3, 0)])
def test_no_items_or_no_queries_give_no_results(batch_and_queries):
    attention, _ = heads()
    x, y = torch.zeros(*batch_and_queries, 8).double(), torch.zeros(batch_and_queries[0], 4, 8).double()
    for need_weights in (False, True):
        out, weights = attention(x, y, y, torch.ones(y.shape[:2], dtype=torch.bool), need_weights)
        assert out.shape == x.shape
    assert weights.shape == (batch_and_queries[0], 2, batch_and_queries[1], 4)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"query": torch.zeros(3, 5, 7)}, ValueError, r"query: .* \(B, L, 8\), found \(3, 5, 7\)"),
        ({"query": torch.zeros(3, 8)}, ValueError, r"query: .* found \(3, 8\)"),
        ({"query": torch.zeros(2, 5, 8)}, ValueError, r"keys: expected shape \(2, L, 8\), found \(3, 6, 8\)"),
        ({"keys": torch.zeros(3, 6, 7)}, ValueError, r"keys: .* found \(3, 6, 7\)"),
        ({"values": torch.zeros(3, 5, 8)}, ValueError, r"values: .* \(3, 6, V\), found \(3, 5, 8\)"),
        ({"values": torch.zeros(3, 6, 7)}, ValueError, r"values: .* \(3, 6, 8\), found \(3, 6, 7\)"),
        ({"valid": torch.ones(3, 5, dtype=torch.bool)}, ValueError, r"valid: .* bool of shape \(3, 6\)"),
        ({"valid": torch.ones(3, 6)}, ValueError, "valid: .* found torch.float32"),
        ({"causal": True}, ValueError, "causal: expected as many keys as queries, found 6 and 5"),
        ({"query": torch.zeros(3, 5, 8).long()}, TypeError, "query: expected floats, found torch.int64"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_heads_are_refused(wrong, error, message):
    x, y, z, valid = tokens(keys=6)
    with pytest.raises(error, match=message):
        heads()[0](**{"query": x, "keys": y, "values": z, "valid": valid, **wrong})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads: expected a divisor of dim 8, found 3"),
        ({"heads": 0}, "heads: expected a positive number, found 0"),
        ({"dim": 0}, "dim: expected a positive number, found 0"),
        ({"dropout": 1.5}, "dropout: expected a share from 0 to 1, found 1.5"),
        ({"dropout": math.nan}, "dropout: expected a share from 0 to 1, found nan"),
    ],
)
def test_heads_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**{"dim": 8, "heads": 2, **options})
