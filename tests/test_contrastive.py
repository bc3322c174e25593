"""The contrastive losses: against slow loops, numerical gradients, known limits and other libraries."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from mmtutor.contrastive import (
    alignment,
    cosine,
    info_nce,
    margin_contrastive,
    multi_positive_nce,
    sigmoid_contrastive,
    uniformity,
)

FORMS = [(metric, squared) for metric in ("euclidean", "cosine") for squared in (True, False)]


def pair(batch: int = 5, dim: int = 3, seed: int = 0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Two matrices of embeddings, not normalised."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64).to(dtype)
    return a, b


def learnt(*tensors: Tensor) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


def matches(batch: int = 5) -> Tensor:
    """True pairs: the diagonal, and one pair more in the first row."""
    match = torch.eye(batch, dtype=torch.bool)
    match[0, -1] = True
    return match


def losses(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Every loss of paired rows, by name."""
    match = torch.eye(len(a), dtype=torch.bool)
    return {
        "info_nce": info_nce(a, b),
        "chunked": info_nce(a, b, chunk_size=2),
        "multi_positive_nce": multi_positive_nce(a, b, match),
        "sigmoid": sigmoid_contrastive(a, b),
        "alignment": alignment(a, b),
        **{
            f"margin {form}": margin_contrastive(a, b, match, metric=form[0], squared=form[1])
            for form in FORMS
        },
    }


# The equations, as loops over single numbers


def cosine_of(x: Tensor, y: Tensor) -> float:
    dot = sum(float(p) * float(q) for p, q in zip(x, y, strict=True))
    return dot / math.sqrt(sum(float(p) ** 2 for p in x)) / math.sqrt(sum(float(q) ** 2 for q in y))


def distance_of(x: Tensor, y: Tensor, metric: str) -> float:
    if metric == "cosine":
        return 1 - cosine_of(x, y)
    return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(x, y, strict=True)))


def loop_multi_positive(a: Tensor, b: Tensor, match: Tensor, temperature: float) -> float:
    def one_way(a, b, match):
        rows = []
        for i in range(len(a)):
            scores = [cosine_of(a[i], z) / temperature for z in b]
            log_sum = math.log(sum(math.exp(score) for score in scores))
            log_p = [scores[j] - log_sum for j in range(len(b)) if match[i, j]]
            if log_p:
                rows.append(sum(log_p) / len(log_p))
        return -sum(rows) / len(rows)

    return (one_way(a, b, match) + one_way(b, a, match.T)) / 2


def loop_margin(a: Tensor, b: Tensor, match: Tensor, margin: float, metric: str, squared: bool) -> Tensor:
    loss = torch.zeros(len(a), len(b), dtype=torch.float64)
    for i in range(len(a)):
        for j in range(len(b)):
            delta = distance_of(a[i], b[j], metric)
            term = delta if match[i, j] else max(0.0, margin - delta)
            loss[i, j] = term**2 if squared else term
    return loss


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 5, 99])
def test_info_nce_equals_the_loop_over_single_numbers(temperature, chunk_size):
    a, b = pair()
    expected = loop_multi_positive(a, b, torch.eye(5), temperature)
    assert info_nce(a, b, temperature, chunk_size=chunk_size).item() == pytest.approx(expected, rel=1e-12)


def test_multi_positive_nce_equals_the_loop_with_several_partners_and_with_none():
    a, b = pair(4)[0], pair(6, seed=1)[1]
    match = torch.zeros(4, 6, dtype=torch.bool)
    match[0, [0, 3, 5]] = match[1, 1] = match[2, 3] = (
        True  # the last row has no partner, nor have two columns
    )
    expected = loop_multi_positive(a, b, match, 0.3)
    assert multi_positive_nce(a, b, match, 0.3).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric, squared", FORMS)
def test_margin_contrastive_equals_the_loop_in_every_reduction(metric, squared):
    a, b = pair()
    expected = loop_margin(a, b, matches(), 1.3, metric, squared)
    assert (expected == 0).any() and (expected > 0).any()  # pairs on both sides of the margin

    def loss(reduction):
        return margin_contrastive(
            a, b, matches(), margin=1.3, metric=metric, squared=squared, reduction=reduction
        )

    torch.testing.assert_close(loss("none"), expected)
    torch.testing.assert_close(loss("sum"), expected.sum())
    torch.testing.assert_close(loss("mean"), expected.mean())


def test_sigmoid_contrastive_equals_the_loop():
    a, b = pair()
    total = 0.0
    for i in range(5):
        for j in range(5):
            y = 1 if i == j else -1
            total += math.log(1 + math.exp(-y * (cosine_of(a[i], b[j]) / 0.2 - 3)))
    assert sigmoid_contrastive(a, b, 0.2, -3.0).item() == pytest.approx(total / 5, rel=1e-12)


def test_alignment_and_uniformity_equal_their_loops():
    a, b = pair()
    s = [cosine_of(x, y) for x, y in zip(a, b, strict=True)]
    assert alignment(a, b).item() == pytest.approx(2 * (1 - sum(s) / 5), rel=1e-12)
    terms = [math.exp(-3 * (2 - 2 * cosine_of(a[i], a[j]))) for i in range(5) for j in range(i)]
    assert uniformity(a, t=3.0).item() == pytest.approx(math.log(sum(terms) / 10), rel=1e-12)


# Gradients


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 5])
def test_gradient_of_info_nce_is_right(chunk_size):
    assert gradcheck(lambda a, b: info_nce(a, b, 0.3, chunk_size=chunk_size), learnt(*pair()))


def test_gradients_with_respect_to_temperature_and_bias_are_right():
    t, bias = learnt(torch.tensor(0.4, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64))
    assert gradcheck(info_nce, [*learnt(*pair()), t])
    assert gradcheck(sigmoid_contrastive, [*learnt(*pair()), t, bias])
    assert gradcheck(lambda a, b, t: multi_positive_nce(a, b, matches(), t), [*learnt(*pair()), t])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("metric, squared", FORMS)
def test_gradient_of_margin_contrastive_is_right(metric, squared, reduction):
    def loss(a, b):
        return margin_contrastive(
            a, b, matches(), margin=1.3, metric=metric, squared=squared, reduction=reduction
        )

    assert gradcheck(loss, learnt(*pair()))


def test_gradients_of_alignment_and_uniformity_are_right():
    assert gradcheck(alignment, learnt(*pair()))
    assert gradcheck(uniformity, learnt(pair()[0]))


def test_gradient_on_the_similarities_is_p_row_plus_p_column_minus_twice_the_identity():
    s = F.normalize(torch.randn(6, 6, dtype=torch.float64), dim=1)
    s, tau = s.requires_grad_(), 0.2
    loss = (F.cross_entropy(s / tau, torch.arange(6)) + F.cross_entropy(s.T / tau, torch.arange(6))) / 2
    (gradient,) = torch.autograd.grad(loss, s)
    expected = ((s / tau).softmax(1) + (s / tau).softmax(0) - 2 * torch.eye(6)) / (2 * 6 * tau)
    torch.testing.assert_close(gradient, expected)
    # and carried on by s = a b^T to unit vectors a, it is the gradient of info_nce along the sphere
    a, b = learnt(*(F.normalize(z, dim=1) for z in pair(6)))
    s = (a @ b.T).detach()
    on_s = ((s / tau).softmax(1) + (s / tau).softmax(0) - 2 * torch.eye(6)) / (2 * 6 * tau)
    for chunk_size in (None, 4):
        (gradient,) = torch.autograd.grad(info_nce(a, b, tau, chunk_size=chunk_size), a)
        along = on_s @ b - ((on_s @ b) * a).sum(1, keepdim=True) * a
        torch.testing.assert_close(gradient, along)


@pytest.mark.parametrize("name", losses(*pair()))
def test_backward_twice_gives_the_same_gradient_twice(name):
    a, b = learnt(*pair())
    loss = losses(a, b)[name]
    first = torch.autograd.grad(loss, [a, b], retain_graph=True)
    second = torch.autograd.grad(3 * loss, [a, b])
    for one, three in zip(first, second, strict=True):
        torch.testing.assert_close(three, 3 * one)


@pytest.mark.parametrize("name", losses(*pair()))
def test_losses_leave_their_arguments_unchanged(name):
    a, b = learnt(*pair())
    losses(a, b)[name].backward()
    assert torch.equal(a, pair()[0]) and torch.equal(b, pair()[1])


# Limits


def test_info_nce_is_log_b_if_all_look_alike_and_zero_if_partners_are_certain():
    same = torch.ones(8, 3)
    assert info_nce(same, same).item() == pytest.approx(math.log(8))
    assert info_nce(torch.eye(8), torch.eye(8), 0.01).item() == pytest.approx(0, abs=1e-6)
    a, b = pair(8)
    assert info_nce(a, b, 1e6).item() == pytest.approx(math.log(8), abs=1e-5)


def test_a_batch_of_one_has_no_negatives_so_info_nce_is_zero_without_gradient():
    for chunk_size in (None, 1):
        a, b = learnt(*pair(1))
        loss = info_nce(a, b, chunk_size=chunk_size)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-12)
        torch.testing.assert_close(a.grad, torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize("metric, squared", FORMS)
def test_a_batch_of_one_has_a_margin_loss_of_its_distance(metric, squared):
    a, b = pair(1)
    delta = distance_of(a[0], b[0], metric)
    loss = margin_contrastive(a, b, torch.eye(1, dtype=torch.bool), metric=metric, squared=squared)
    assert loss.item() == pytest.approx(delta**2 if squared else delta, rel=1e-12)


def test_info_nce_stays_finite_at_a_tiny_temperature():
    a, b = learnt(*pair(6, dtype=torch.float32))
    info_nce(a, b, 1e-4).backward()
    assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()


def test_sigmoid_contrastive_starts_near_minus_bias_and_ends_at_zero():
    a, b = pair(8)
    # with a large temperature every logit is the bias: one true pair and seven false ones a row
    expected = math.log1p(math.exp(10)) + 7 * math.log1p(math.exp(-10))
    assert sigmoid_contrastive(a, b, 1e6, -10.0).item() == pytest.approx(expected, rel=1e-5)
    assert sigmoid_contrastive(torch.eye(8), torch.eye(8), 0.01, -50.0).item() == pytest.approx(0, abs=1e-12)


def test_alignment_runs_from_0_to_4_and_uniformity_from_minus_4t_to_0():
    a, _ = pair()
    assert alignment(a, 7 * a).item() == pytest.approx(0, abs=1e-12)
    assert alignment(a, -a).item() == pytest.approx(4)
    assert uniformity(torch.ones(4, 3)).item() == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), t=2.0).item() == pytest.approx(-8)


def test_a_large_margin_pushes_false_pairs_and_a_small_one_leaves_them():
    a, b = pair()
    false = ~torch.eye(5, dtype=torch.bool)
    wide = margin_contrastive(a, b, ~false, margin=100.0, reduction="none")[false]
    narrow = margin_contrastive(a, b, ~false, margin=1e-6, reduction="none")[false]
    assert (wide > 0).all() and (narrow == 0).all()


# Where a distance has no gradient


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_coincident_points_feel_no_force(squared, dtype):
    z = pair(4, 8, dtype=dtype)[0]
    z[1] = z[0]  # so a false pair coincides too, beside the true ones
    a, b = learnt(z, z)
    match = torch.eye(4, dtype=torch.bool)
    loss = margin_contrastive(a, b, match, margin=0.1, squared=squared, reduction="none")
    torch.testing.assert_close(loss.diagonal(), torch.zeros(4, dtype=dtype))
    assert loss[0, 1].item() == pytest.approx(0.01 if squared else 0.1)
    loss.sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a)) and torch.equal(b.grad, torch.zeros_like(b))


@pytest.mark.parametrize("squared", [True, False])
def test_one_coincident_pair_does_not_disturb_the_forces_of_the_others(squared):
    a, b = pair(3)
    b[0] = a[0]
    match = torch.eye(3, dtype=torch.bool)
    a, b = learnt(a, b)
    margin_contrastive(a, b, match, margin=9.0, squared=squared, reduction="sum").backward()
    other = learnt(a.detach())[0]
    delta = (other[:, None] - b.detach()).square().sum(2)
    apart = ~(match & (delta == 0))
    delta = delta[apart].sqrt()
    terms = torch.where(match[apart], delta, 9.0 - delta)
    (terms**2 if squared else terms).sum().backward()
    torch.testing.assert_close(a.grad, other.grad)


def test_zero_vectors_have_no_direction_and_give_finite_losses():
    zero = torch.zeros(3, 4)
    torch.testing.assert_close(cosine(zero, pair(3, 4, dtype=torch.float32)[1]), torch.zeros(3, 3))
    a, b = learnt(zero, zero)
    for name, loss in losses(a, b).items():
        gradients = torch.autograd.grad(loss, [a, b])
        assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients), name


@pytest.mark.parametrize("loss", [info_nce, sigmoid_contrastive])
def test_a_zero_row_gets_no_gradient_and_does_not_disturb_the_others(loss):
    a, b = pair(6, 4, dtype=torch.float32)
    a[2] = 0
    a, b = learnt(a, b)
    gradient, _ = torch.autograd.grad(loss(a, b), [a, b])
    assert (gradient[2] == 0).all() and (gradient[[0, 1, 3, 4, 5]] != 0).any(1).all()
    assert gradient.abs().max() < 100


# Symmetries


@given(batch=st.integers(1, 12), dim=st.integers(1, 6), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_permuting_pairs_together_and_swapping_sides_leave_every_loss_unchanged(batch, dim, seed):
    a, b = pair(batch, dim, seed)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    expected, permuted, swapped = losses(a, b), losses(a[order], b[order]), losses(b, a)
    for name, loss in expected.items():
        torch.testing.assert_close(permuted[name], loss, msg=f"{name}, permuted")
        torch.testing.assert_close(swapped[name], loss, msg=f"{name}, swapped")


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), other=st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_scaling_embeddings_changes_no_loss_that_normalises(seed, scale, other):
    a, b = pair(seed=seed)
    expected, scaled = losses(a, b), losses(scale * a, other * b)
    for name in set(expected) - {f"margin {form}" for form in FORMS if form[0] == "euclidean"}:
        torch.testing.assert_close(scaled[name], expected[name], msg=name)
    torch.testing.assert_close(uniformity(scale * a), uniformity(a))


@given(batch=st.integers(1, 20), chunk_size=st.integers(1, 25), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_chunking_changes_neither_the_loss_nor_its_gradient(batch, chunk_size, seed):
    whole, chunked = learnt(*pair(batch, seed=seed)), learnt(*pair(batch, seed=seed))
    loss, in_chunks = info_nce(*whole, 0.1), info_nce(*chunked, 0.1, chunk_size=chunk_size)
    torch.testing.assert_close(in_chunks, loss)
    (2 * loss).backward()
    (2 * in_chunks).backward()
    for z, same in zip(whole, chunked, strict=True):
        torch.testing.assert_close(same.grad, z.grad)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_losses_stay_in_their_bounds(seed):
    a, b = pair(6, seed=seed)
    found = losses(a, b)
    assert all(loss >= -1e-12 for loss in found.values())
    assert 0 <= found["alignment"] <= 4 and -8 <= uniformity(a) <= 1e-12
    assert torch.allclose(found["alignment"], 2 * (1 - cosine(a, b).diagonal().mean()))


# Other libraries


def test_info_nce_is_two_cross_entropies():
    a, b = pair(7, 4)
    s, partner = cosine(a, b) / 0.2, torch.arange(7)
    expected = (F.cross_entropy(s, partner) + F.cross_entropy(s.T, partner)) / 2
    torch.testing.assert_close(info_nce(a, b, 0.2), expected)


def test_info_nce_agrees_with_pytorch_metric_learning_in_both_directions():
    from pytorch_metric_learning.losses import NTXentLoss

    a, b = pair(7, 4)
    labels, same = (
        torch.arange(7),
        torch.arange(7),
    )  # two objects: that library drops true pairs of one object
    peer = NTXentLoss(temperature=0.2)
    both = peer(a, labels, ref_emb=b, ref_labels=same) + peer(b, labels, ref_emb=a, ref_labels=same)
    torch.testing.assert_close(info_nce(a, b, 0.2), both / 2)


def test_multi_positive_nce_agrees_with_pytorch_metric_learning_where_every_row_has_a_partner():
    from pytorch_metric_learning.losses import SupConLoss

    a, b = pair(6, 4)
    labels, others = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 2, 0, 0, 1])
    peer = SupConLoss(temperature=0.2)
    both = peer(a, labels, ref_emb=b, ref_labels=others) + peer(b, others, ref_emb=a, ref_labels=labels)
    torch.testing.assert_close(multi_positive_nce(a, b, labels[:, None] == others, 0.2), both / 2)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_margin_contrastive_agrees_with_pytorch_metric_learning(metric):
    from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
    from pytorch_metric_learning.losses import ContrastiveLoss
    from pytorch_metric_learning.reducers import SumReducer

    a, b = pair(6, 4)
    labels, others = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([0, 1, 2, 3, 0, 1])
    if metric == "euclidean":
        peer = ContrastiveLoss(0, 1.3, distance=LpDistance(normalize_embeddings=False), reducer=SumReducer())
    else:  # in similarities: true pairs up to 1, false ones down to 1 - margin
        peer = ContrastiveLoss(1, 1 - 1.3, distance=CosineSimilarity(), reducer=SumReducer())
    expected = peer(a, labels, ref_emb=b, ref_labels=others)
    match = labels[:, None] == others
    found = margin_contrastive(a, b, match, margin=1.3, metric=metric, squared=False, reduction="sum")
    torch.testing.assert_close(found, expected)


def test_margin_contrastive_agrees_with_the_losses_of_pytorch():
    a, b = pair(6, 4)
    match = matches(6)
    y = torch.where(match, 1.0, -1.0).double()
    euclidean = F.hinge_embedding_loss(torch.cdist(a, b), y, margin=1.3)
    torch.testing.assert_close(margin_contrastive(a, b, match, margin=1.3, squared=False), euclidean)
    i, j = torch.cartesian_prod(torch.arange(6), torch.arange(6)).T
    by_cosine = F.cosine_embedding_loss(a[i], b[j], y.flatten(), margin=1 - 0.8)
    found = margin_contrastive(a, b, match, margin=0.8, metric="cosine", squared=False)
    torch.testing.assert_close(found, by_cosine)


def test_sigmoid_contrastive_is_a_binary_cross_entropy():
    a, b = pair(6, 4)
    logits = cosine(a, b) / 0.2 - 4
    expected = F.binary_cross_entropy_with_logits(logits, torch.eye(6).double(), reduction="sum") / 6
    torch.testing.assert_close(sigmoid_contrastive(a, b, 0.2, -4.0), expected)


def test_cosine_agrees_with_pytorch():
    a, b = pair(4)[0], pair(6, seed=1)[1]
    torch.testing.assert_close(cosine(a, b), F.cosine_similarity(a[:, None], b, dim=2))


# Precision


def test_embeddings_of_lower_precision_have_a_loss_in_float32_and_gradients_of_their_own_type():
    a, b = learnt(*pair(16, 32, dtype=torch.bfloat16))
    expected = losses(a.double(), b.double())
    for name, loss in losses(a, b).items():
        assert loss.dtype == torch.float32, name
        torch.testing.assert_close(loss.double(), expected[name], rtol=1e-5, atol=1e-5)
        for gradient in torch.autograd.grad(loss, [a, b]):
            assert gradient.dtype == torch.bfloat16 and torch.isfinite(gradient).all(), name


def test_autocast_changes_no_loss_and_no_gradient():
    a, b = learnt(*pair(16, 32, dtype=torch.float32))
    outside = losses(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = losses(a, b)
    for name, loss in inside.items():
        assert torch.equal(loss, outside[name]), name
        gradients = torch.autograd.grad(loss, [a, b]), torch.autograd.grad(outside[name], [a, b])
        assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True)), name


# Bad input


def test_a_learnt_temperature_is_refused_where_it_would_get_no_gradient():
    with pytest.raises(ValueError, match="temperature: expected a fixed number with chunk_size"):
        info_nce(*pair(), torch.tensor(0.1, requires_grad=True), chunk_size=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused_by_every_loss(bad):
    a, b = pair()
    b[3, 1] = bad
    match = torch.eye(5, dtype=torch.bool)
    for loss in (info_nce, sigmoid_contrastive, alignment):
        with pytest.raises(ValueError, match="b: expected finite embeddings, found NaN or infinity"):
            loss(a, b)
    for loss in (margin_contrastive, multi_positive_nce):
        with pytest.raises(ValueError, match="b: expected finite embeddings, found NaN or infinity"):
            loss(a, b, match)
    with pytest.raises(ValueError, match="a: expected finite embeddings"):
        uniformity(b)


@pytest.mark.parametrize(
    "a, b, message",
    [
        ((4, 3), (5, 3), r"expected two tensors of one shape \(B, D\), found \(4, 3\), \(5, 3\)"),
        ((4, 3), (4, 2), r"expected two tensors of one shape \(B, D\), found \(4, 3\), \(4, 2\)"),
        ((4,), (4,), r"a: expected embeddings of shape \(N, D\), found \(4,\)"),
        ((2, 4, 3), (2, 4, 3), r"a: expected embeddings of shape \(N, D\), found \(2, 4, 3\)"),
        ((0, 3), (0, 3), r"a: expected embeddings of shape \(N, D\), found \(0, 3\)"),
        ((4, 3), (4, 0), r"b: expected embeddings of shape \(N, D\), found \(4, 0\)"),
    ],
)
def test_wrong_shapes_are_named_with_what_was_expected(a, b, message):
    a, b = torch.ones(a), torch.ones(b)
    for loss in (info_nce, sigmoid_contrastive, alignment):
        with pytest.raises(ValueError, match=message):
            loss(a, b)
    with pytest.raises(ValueError, match=message):
        margin_contrastive(a, b, torch.eye(4, dtype=torch.bool))


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, math.nan, torch.tensor(-0.1)])
def test_what_must_be_positive_is_named(bad):
    a, b = pair()
    match = torch.eye(5, dtype=torch.bool)
    for loss in (info_nce, sigmoid_contrastive):
        with pytest.raises(ValueError, match="temperature: expected a positive number, found"):
            loss(a, b, bad)
    with pytest.raises(ValueError, match="temperature: expected a positive number, found"):
        multi_positive_nce(a, b, match, bad)
    with pytest.raises(ValueError, match="margin: expected a positive number, found"):
        margin_contrastive(a, b, match, margin=bad)
    with pytest.raises(ValueError, match="chunk_size: expected a positive number, found"):
        info_nce(a, b, chunk_size=bad)


@pytest.mark.parametrize("loss", [margin_contrastive, multi_positive_nce])
def test_match_must_be_bool_and_of_the_right_shape(loss):
    a, b = pair()
    with pytest.raises(
        ValueError, match=r"match: expected bool of shape \(5, 5\), found torch.float32 of shape"
    ):
        loss(a, b, torch.eye(5))
    with pytest.raises(
        ValueError, match=r"match: expected bool of shape \(5, 5\), found .* of shape \(5, 4\)"
    ):
        loss(a, b, torch.ones(5, 4, dtype=torch.bool))


def test_unknown_metric_and_reduction_are_named_with_the_known_ones():
    a, b = pair()
    match = torch.eye(5, dtype=torch.bool)
    with pytest.raises(ValueError, match="metric: expected 'euclidean' or 'cosine', found 'manhattan'"):
        margin_contrastive(a, b, match, metric="manhattan")
    with pytest.raises(ValueError, match="reduction: expected 'mean', 'sum' or 'none', found 'max'"):
        margin_contrastive(a, b, match, reduction="max")


def test_multi_positive_nce_needs_a_true_pair_and_one_width():
    a, b = pair()
    with pytest.raises(ValueError, match="match: expected at least one true pair, found none"):
        multi_positive_nce(a, b, torch.zeros(5, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"a, b: expected one width D, found \(5, 3\), \(5, 2\)"):
        multi_positive_nce(a, b[:, :2], matches())


def test_uniformity_needs_two_points():
    with pytest.raises(ValueError, match="a: expected at least 2 points, found 1"):
        uniformity(torch.ones(1, 3))
