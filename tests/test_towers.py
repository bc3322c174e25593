"""Towers: the field against brute force and its own derivative, gates with real zeros, absent modalities."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

from mmtutor import fusion
from mmtutor.towers import (
    CRFGate,
    ResidualInteraction,
    TwoTower,
    choose_modalities,
    confidence_weights,
    corruption_loss,
    crf_log_partition,
    crf_marginals,
    fuse_by_confidence,
    mean_field,
    rank_modalities,
    swap_modalities,
)

NAMES = ["image", "text", "sound"]
WIDTHS = {"image": 5, "text": 3, "sound": 2}
Z = torch.zeros(2, 4)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def potentials(batch: int = 5, m: int = 4, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random scores and symmetric couplings; the diagonal holds something that must not matter."""
    generator = torch.Generator().manual_seed(seed)
    unary = torch.randn(batch, m, dtype=torch.float64, generator=generator)
    upper = torch.randn(batch, m, m, dtype=torch.float64, generator=generator).triu(1) * scale
    return unary, upper + upper.mT + 7 * torch.eye(m, dtype=torch.float64)


def brute_force(unary: list[float], pairwise: list[list[float]]) -> tuple[float, list[float]]:
    """log Z and the marginals of one item, written from the equation one state at a time."""
    m = len(unary)
    Z, on = 0.0, [0.0] * m
    for u in itertools.product([0, 1], repeat=m):
        exponent = sum(unary[i] for i in range(m) if u[i])
        exponent += sum(pairwise[i][j] * u[i] * u[j] for i in range(m) for j in range(i + 1, m))
        Z += math.exp(exponent)
        for i in range(m):
            on[i] += u[i] * math.exp(exponent)
    return math.log(Z), [part / Z for part in on]


class MeanFuser(nn.Module):
    """The least module with the contract of a fuser: the mean of what is there."""

    def forward(self, features, valid):
        self.seen = list(features), valid
        weights = valid / valid.sum(1, keepdim=True).clamp(min=1)
        h = torch.stack([*features.values()], 1)
        return torch.einsum("bm,bmd->bd", weights.to(h), h), weights


def model(names=("image", "text", "sound"), gated: bool = True, **options) -> TwoTower:
    towers = {name: nn.Linear(WIDTHS[name], 4) for name in names}
    return TwoTower(towers, 4, MeanFuser(), gate=CRFGate(names, 4) if gated else None, **options).double()


def things(batch: int = 6, names=("image", "text", "sound")) -> dict[str, Tensor]:
    return {name: torch.randn(batch, WIDTHS[name], dtype=torch.float64) for name in names}


# The field


@pytest.mark.parametrize("m", range(1, 7))
def test_log_partition_and_marginals_equal_brute_force(m):
    unary, pairwise = potentials(m=m)
    log_Z, p = crf_log_partition(unary, pairwise), crf_marginals(unary, pairwise)
    for i in range(len(unary)):
        expected_log_Z, expected = brute_force(unary[i].tolist(), pairwise[i].tolist())
        assert log_Z[i].item() == pytest.approx(expected_log_Z, rel=1e-12)
        assert p[i].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("m", [1, 2, 6])
def test_marginals_are_the_derivative_of_log_partition_by_autograd_and_by_differences(m):
    unary, pairwise = potentials(m=m)
    unary.requires_grad_()
    (by_autograd,) = torch.autograd.grad(crf_log_partition(unary, pairwise).sum(), unary)
    unary = unary.detach()
    p, h = crf_marginals(unary, pairwise), 1e-5
    torch.testing.assert_close(by_autograd, p)
    for i in range(m):
        step = h * torch.eye(m, dtype=torch.float64)[i]
        up, down = crf_log_partition(unary + step, pairwise), crf_log_partition(unary - step, pairwise)
        torch.testing.assert_close((up - down) / (2 * h), p[:, i], rtol=0, atol=1e-9)


def test_the_derivative_by_a_coupling_is_the_probability_that_both_are_trusted():
    unary, pairwise = potentials(batch=1, m=3)
    w = torch.zeros((), dtype=torch.float64, requires_grad=True)
    both = torch.zeros(3, 3, dtype=torch.float64)
    both[0, 1] = both[1, 0] = 1
    (found,) = torch.autograd.grad(crf_log_partition(unary, pairwise + w * both).sum(), w)
    clamped = unary.clone()
    clamped[:, 0] = 60.0  # so that the first is trusted for certain
    expected = crf_marginals(unary, pairwise)[0, 0] * crf_marginals(clamped, pairwise)[0, 1]
    torch.testing.assert_close(found, expected)


def test_the_gradient_of_the_marginals_is_right():
    unary, pairwise = potentials(batch=2, m=3)

    def marginals(unary, upper):
        return crf_marginals(unary, upper + upper.mT)

    assert gradcheck(marginals, (unary.requires_grad_(), pairwise.triu(1).requires_grad_()))
    assert gradcheck(
        lambda *x: mean_field(*x, sweeps=3),
        (unary, (0.5 * (pairwise + pairwise.mT)).detach()),
    )


def test_without_couplings_the_marginals_are_sigmoids_and_one_modality_is_one():
    unary, pairwise = potentials()
    for form in (crf_marginals, mean_field):
        torch.testing.assert_close(form(unary, torch.zeros_like(pairwise)), unary.sigmoid())
        torch.testing.assert_close(form(unary[:, :1], pairwise[:, :1, :1]), unary[:, :1].sigmoid())


@pytest.mark.parametrize("exact", [True, False])
def test_an_absent_modality_has_exactly_zero_and_the_others_as_if_it_did_not_exist(exact):
    unary, pairwise = potentials(scale=0.3)
    there = [0, 1, 3]
    expected = crf_marginals(unary[:, there], pairwise[:, there][:, :, there], exact=exact)
    unary[:, 2] = -math.inf
    unary.requires_grad_()
    p = crf_marginals(unary, pairwise, exact=exact)
    assert (p[:, 2] == 0).all()
    torch.testing.assert_close(p[:, there], expected, rtol=0, atol=1e-6)
    p.square().sum().backward()
    assert torch.isfinite(unary.grad).all() and (unary.grad[:, 2] == 0).all()


@pytest.mark.parametrize("exact", [True, False])
def test_where_all_are_absent_all_marginals_are_zero(exact):
    unary, pairwise = potentials()
    absent = torch.full_like(unary, -math.inf)
    assert (crf_marginals(absent, pairwise, exact=exact) == 0).all()
    assert (crf_log_partition(absent, pairwise) == 0).all()  # one state, and its exponent is zero


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.floats(0, 20), st.integers(0, 99))
def test_marginals_are_probabilities_and_follow_a_change_of_order(m, scale, seed):
    unary, pairwise = potentials(2, m, scale, seed)
    order = torch.randperm(m)
    p = crf_marginals(unary, pairwise)
    assert ((p >= 0) & (p <= 1)).all()
    torch.testing.assert_close(crf_marginals(unary[:, order], pairwise[:, order][:, :, order]), p[:, order])


def test_rounding_in_single_precision_makes_no_marginal_larger_than_one():
    unary, pairwise = potentials(batch=500, m=6)
    p = crf_marginals((unary + 8).float(), pairwise.float())
    assert p.max() == 1


def test_strong_evidence_neither_overflows_nor_loses_its_gradient_to_nan():
    unary = torch.tensor([[1000.0, -2000.0, 0.0]], requires_grad=True)
    p = crf_marginals(unary, torch.full((1, 3, 3), 500.0))
    assert p.tolist() == [[1.0, 0.0, 1.0]]
    p.sum().backward()
    assert torch.isfinite(unary.grad).all()


def test_a_positive_coupling_lifts_both_and_a_negative_one_lowers_both():
    unary = torch.zeros(1, 2)
    p = [crf_marginals(unary, torch.full((1, 2, 2), w))[0, 0].item() for w in (-2.0, 0.0, 2.0)]
    assert p[0] < p[1] == 0.5 < p[2]


def test_beyond_six_modalities_the_default_is_mean_field_and_the_exact_sum_ends_at_twelve():
    unary, pairwise = potentials(batch=2, m=7)
    assert torch.equal(crf_marginals(unary, pairwise), mean_field(unary, pairwise))
    assert not torch.allclose(crf_marginals(unary, pairwise), crf_marginals(unary, pairwise, exact=True))
    unary, pairwise = potentials(batch=2, m=13)
    assert crf_marginals(unary, pairwise).shape == (2, 13)
    with pytest.raises(ValueError, match="expected at most 12 modalities for the exact sum, found 13"):
        crf_marginals(unary, pairwise, exact=True)


# Mean field


def bound(q: Tensor, unary: Tensor, pairwise: Tensor) -> Tensor:
    """What mean field raises: the expected exponent and the entropy."""
    upper = pairwise.triu(1)
    entropy = -(torch.xlogy(q, q) + torch.xlogy(1 - q, 1 - q)).sum(1)
    return (unary * q).sum(1) + torch.einsum("bm,bmn,bn->b", q, upper, q) + entropy


def test_mean_field_ends_where_every_modality_answers_the_mean_of_the_others():
    unary, pairwise = potentials()
    q = mean_field(unary, pairwise)
    off = pairwise - torch.diag_embed(pairwise.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(q, (unary + (off @ q[:, :, None])[:, :, 0]).sigmoid(), rtol=0, atol=1e-5)


def test_every_sweep_of_mean_field_raises_a_bound_that_stays_below_log_partition():
    unary, pairwise = potentials(batch=20, scale=3.0)
    values = torch.stack([bound(mean_field(unary, pairwise, sweeps=n), unary, pairwise) for n in range(1, 9)])
    assert (values.diff(dim=0) > -1e-9).all() and (values.diff(dim=0) > 1e-3).any()
    assert (values <= crf_log_partition(unary, pairwise) + 1e-12).all()


def test_the_error_of_mean_field_is_small_for_weak_couplings_and_grows_with_them():
    errors = []
    for scale in (0.0, 0.1, 0.5, 2.0):
        unary, pairwise = potentials(batch=200, m=8, scale=scale)
        gap = mean_field(unary, pairwise) - crf_marginals(unary, pairwise, exact=True)
        errors.append(gap.abs().mean().item())
    assert errors == sorted(errors)
    assert errors[0] < 1e-6 and errors[1] < 0.002 and errors[3] > 0.03


def test_under_strong_coupling_mean_field_has_two_ends_and_the_exact_marginal_lies_between():
    unary, pairwise = torch.full((1, 2), -3.0), torch.full((1, 2, 2), 6.0)
    low = mean_field(unary, pairwise, start=torch.zeros(1, 2))
    high = mean_field(unary, pairwise, start=torch.ones(1, 2))
    assert (low < 0.1).all() and (high > 0.9).all()
    for q in (low, high):
        torch.testing.assert_close(q, (-3 + 6 * q.flip(1)).sigmoid(), rtol=0, atol=1e-5)
    torch.testing.assert_close(crf_marginals(unary, pairwise), torch.full((1, 2), 0.5))
    weak = torch.full((1, 2, 2), 2.0)  # below a slope of one there is a single end
    ends = [mean_field(unary / 3, weak, start=torch.full((1, 2), q)) for q in (0.0, 1.0)]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("unary", "pairwise", "message"),
    [
        (torch.zeros(2), torch.zeros(2, 2), r"unary: expected shape \(B, M\), found \(2,\)"),
        (torch.zeros(2, 0), torch.zeros(2, 0, 0), r"unary: expected shape \(B, M\), found \(2, 0\)"),
        (torch.zeros(2, 3), torch.zeros(3, 3), r"pairwise: expected shape \(2, 3, 3\), found \(3, 3\)"),
        (torch.zeros(1, 2), torch.ones(1, 2, 2).triu(), "expected symmetric matrices, .* by 1"),
        (torch.tensor([[math.nan, 0]]), torch.zeros(1, 2, 2), "unary: .* found NaN or infinity"),
        (torch.tensor([[math.inf, 0]]), torch.zeros(1, 2, 2), "unary: .* found NaN or infinity"),
        (torch.zeros(1, 2), torch.full((1, 2, 2), math.nan), "pairwise: expected finite"),
    ],
)  # fmt: skip
def test_potentials_that_make_no_field_are_refused(unary, pairwise, message):
    for form in (crf_marginals, crf_log_partition, mean_field):
        with pytest.raises(ValueError, match=message):
            form(unary, pairwise)


@pytest.mark.parametrize("start", [torch.zeros(1, 3), torch.full((1, 2), 1.5), torch.full((1, 2), math.nan)])
def test_a_start_that_is_no_probabilities_is_refused(start):
    with pytest.raises(ValueError, match=r"start: expected probabilities of shape \(1, 2\)"):
        mean_field(torch.zeros(1, 2), torch.zeros(1, 2, 2), start)


# The gate


def points(batch: int = 6, names=NAMES) -> dict[str, Tensor]:
    return {name: torch.randn(batch, 4, dtype=torch.float64) for name in names}


def test_the_gate_equals_brute_force_on_its_own_scores_and_cosines():
    gate, h = CRFGate(NAMES, 4).double(), points()
    with torch.no_grad():
        gate.coupling.copy_(torch.tensor([0.5, -1.0, 2.0]))
        p = gate(h)
        assert gate.w.tolist() == [[0, 0.5, -1], [0.5, 0, 2], [-1, 2, 0]]
        for i in range(6):
            theta = [score(h[name][i]).item() for name, score in zip(NAMES, gate.scores, strict=True)]
            s = [[F.cosine_similarity(h[a][i], h[b][i], dim=0).item() for b in NAMES] for a in NAMES]
            W = [[gate.w[a, b].item() * s[a][b] for b in range(3)] for a in range(3)]
            assert p[i].tolist() == pytest.approx(brute_force(theta, W)[1], rel=1e-9)


def test_a_new_gate_is_a_sigmoid_of_each_score_but_its_couplings_learn():
    gate, h = CRFGate(NAMES, 4).double(), points()
    theta, _ = gate.potentials(h)
    torch.testing.assert_close(gate(h), theta.sigmoid())
    gate(h).sum().backward()
    assert (gate.coupling.grad != 0).all()
    assert all(p.grad.abs().sum() > 0 for p in gate.scores.parameters())


def test_what_stands_in_place_of_an_absent_modality_touches_neither_marginals_nor_gradients():
    gate, h = CRFGate(NAMES, 4).double(), points()
    nn.init.ones_(gate.coupling)
    valid = torch.rand(6, 3) < 0.6
    valid[0] = False
    expected = gate(h, valid)
    spoilt = {
        name: torch.where(v[:, None], h[name], math.nan) for name, v in zip(NAMES, valid.T, strict=True)
    }
    p = gate(spoilt, valid)
    assert torch.equal(p, expected) and (p[~valid] == 0).all() and (p[valid] > 0).all()
    p.sum().backward()
    assert all(torch.isfinite(w.grad).all() for w in gate.parameters())


def test_a_gate_for_one_modality_is_a_sigmoid_and_for_eight_it_is_mean_field():
    h = points(names=list("abcdefgh"))
    one, eight = CRFGate(["a"], 4).double(), CRFGate(h, 4).double()
    theta, _ = one.potentials({"a": h["a"]})
    torch.testing.assert_close(one({"a": h["a"]}), theta.sigmoid())
    nn.init.constant_(eight.coupling, 0.3)
    assert torch.equal(eight(h), mean_field(*eight.potentials(h)))


def descend(module: nn.Module, rate: float) -> None:
    """One step of plain gradient descent."""
    with torch.no_grad():
        for p in module.parameters():
            if p.grad is not None:
                p -= rate * p.grad


def test_a_step_down_the_corruption_loss_opens_the_gate_for_what_was_left_alone_and_closes_it_for_the_rest():
    gate, h = CRFGate(NAMES, 4).double(), points()
    corrupted = torch.zeros(6, 3, dtype=torch.bool)
    corrupted[:, 1] = True
    before = gate(h)
    corruption_loss(before, corrupted).backward()
    descend(gate, 0.1)
    change = (gate(h) - before).mean(0)
    assert change[0] > 0.001 and change[1] < -0.001 and change[2] > 0.001


@pytest.mark.parametrize(
    ("features", "valid", "message"),
    [
        ({"image": Z}, None, r"expected the modalities \['image', 'text'\], found \['image'\]"),
        ({"image": Z, "smell": Z}, None, "found .*'smell'"),
        ({"image": Z, "text": torch.zeros(3, 4)}, None, "one batch size, found .*'text': 3"),
        ({"image": Z, "text": torch.zeros(2, 5)}, None, r"text: expected points of shape \(B, 4\)"),
        ({"image": Z, "text": torch.full((2, 4), math.nan)}, None, "expected finite points"),
        ({"image": Z, "text": Z}, torch.ones(2, 3) > 0, r"shape \(2, 2\), found"),
        ({"image": Z, "text": Z}, torch.ones(2, 2), "found torch.float32"),
    ],
)  # fmt: skip
def test_points_that_do_not_fit_the_gate_are_refused(features, valid, message):
    with pytest.raises(ValueError, match=message):
        CRFGate(["image", "text"], 4)(features, valid)


def test_couplings_start_where_they_are_told_and_by_default_at_zero():
    assert torch.equal(CRFGate(NAMES, 4, coupling=2.0).w, 2 * (1 - torch.eye(3)))
    assert not CRFGate(NAMES, 4).w.any()


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_a_gate_needs_different_modalities(names):
    with pytest.raises(ValueError, match="modalities: expected at least 1, all different"):
        CRFGate(names, 4)


# Ranking, choosing, weighting


def test_modalities_are_ranked_by_marginal_absent_ones_last_even_below_a_marginal_of_zero():
    p = torch.tensor([[0.2, 0.9, 0.5], [0.0, 0.0, 0.3]])
    valid = torch.tensor([[True, True, True], [False, True, True]])
    assert rank_modalities(p, valid).tolist() == [[1, 2, 0], [2, 1, 0]]


def test_the_k_most_trusted_are_chosen_and_never_an_absent_one():
    p = torch.tensor([[0.2, 0.9, 0.5], [0.4, 0.0, 0.0], [0.0, 0.0, 0.0]])
    valid = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    assert choose_modalities(p, 2, valid).tolist() == [[False, True, True], [True, False, True], [False] * 3]
    assert choose_modalities(p, 1, valid).sum(1).tolist() == [1, 1, 0]
    assert torch.equal(choose_modalities(p, 99, valid), valid)


def test_weights_are_how_often_a_random_strictness_leaves_so_many_modalities():
    p = torch.tensor([[0.2, 0.6, 0.9], [0.5, 0.0, 0.25]], dtype=torch.float64)
    t = (torch.arange(9000) + 0.5) / 9000 * p.amax(1)[:, None]
    trusted = (p[:, None] >= t[..., None]).sum(2)
    expected = torch.stack([(trusted == k).double().mean(1) for k in (1, 2, 3)], 1)
    torch.testing.assert_close(confidence_weights(p), expected, rtol=0, atol=2e-4)


def test_weights_sum_to_one_also_where_something_is_absent_or_nothing_is_trusted():
    p = torch.tensor([[0.2, 0.6, 0.9], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]], requires_grad=True)
    valid = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    weights = confidence_weights(p, valid)
    torch.testing.assert_close(weights, torch.tensor([[2 / 3, 1 / 3, 0], [0, 0, 1], [0, 0, 1]]))
    weights[:, 0].sum().backward()
    assert torch.isfinite(p.grad).all() and p.grad[0].abs().sum() > 0


FUSERS = [
    fusion.ConcatFusion,
    fusion.SumFusion,
    fusion.MeanFusion,
    fusion.MaxFusion,
    fusion.GatedFusion,
    fusion.AttentionFusion,
    fusion.TransformerFusion,
    fusion.BilinearFusion,
    fusion.LowRankFusion,
    fusion.LateFusion,
]


def random_fuser(kind: type) -> fusion.Fusion:
    """A fuser of four-dimensional points whose weights and biases are anything but zero."""
    fuser = kind(dict.fromkeys(NAMES, 4), 4).double()
    for parameter in fuser.parameters():
        nn.init.normal_(parameter)
    return fuser


@pytest.mark.parametrize("kind", FUSERS)
def test_a_marginal_of_zero_is_the_same_as_absence_whatever_the_fuser(kind):
    fuser, h, p = random_fuser(kind), points(), torch.rand(6, 3, dtype=torch.float64)
    there = torch.tensor([True, False, True]).expand(6, 3)
    found = fuse_by_confidence(fuser, h, p * there)
    for x, expected in zip(found, fuse_by_confidence(fuser, h, p, there), strict=True):
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)
    assert (found[1][:, 1] == 0).all()
    alone = torch.tensor([True, False, False]).expand(6, 3)  # one that is trusted: the fuser's own answer
    torch.testing.assert_close(fuse_by_confidence(fuser, h, p * alone)[0], fuser(h, alone)[0])


@pytest.mark.parametrize("kind", FUSERS)
@pytest.mark.parametrize("p", [1.0, 0.3, 1e-6, 0.0])
def test_equal_marginals_however_small_are_no_gate_at_all_whatever_the_fuser(kind, p):
    fuser, h, valid = random_fuser(kind), points(), torch.rand(6, 3) < 0.7
    found = fuse_by_confidence(fuser, h, torch.full((6, 3), p, dtype=torch.float64), valid)
    for x, expected in zip(found, fuser(h, valid), strict=True):
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", FUSERS)
def test_what_is_fused_is_the_mean_over_where_the_line_is_drawn(kind):
    fuser, h = random_fuser(kind), {name: x[:1] for name, x in points().items()}
    p, steps = torch.tensor([[0.3, 0.9, 0.6]], dtype=torch.float64), 900
    t = (torch.arange(steps) + 0.5) / steps * 0.9
    many = {name: x.expand(steps, 4) for name, x in h.items()}
    expected = fuser(many, p >= t[:, None])[0].mean(0, keepdim=True)
    torch.testing.assert_close(fuse_by_confidence(fuser, h, p)[0], expected)


def test_where_two_marginals_meet_the_fused_point_does_not_jump_and_its_gradient_is_right():
    fuser, h = random_fuser(fusion.MaxFusion), points()
    below, above = (torch.tensor([[0.5, 0.5 + e, 0.8]]).double().expand(6, 3) for e in (-1e-9, 1e-9))
    torch.testing.assert_close(
        fuse_by_confidence(fuser, h, below)[0], fuse_by_confidence(fuser, h, above)[0], rtol=0, atol=1e-7
    )
    p = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda p: fuse_by_confidence(fuser, h, p)[0], (p,))


def test_points_of_other_modalities_than_the_marginals_are_refused():
    with pytest.raises(ValueError, match=r"features: expected 2 modalities, found \['image'\]"):
        fuse_by_confidence(MeanFuser(), {"image": Z}, torch.ones(2, 2))


@pytest.mark.parametrize("p", [torch.zeros(3), torch.full((1, 2), 1.2), torch.full((1, 2), math.nan)])
def test_what_is_no_marginals_is_refused(p):
    for use in (rank_modalities, confidence_weights, lambda p: choose_modalities(p, 1)):
        with pytest.raises(ValueError, match=r"marginals: expected probabilities of shape \(B, M\)"):
            use(p)
    with pytest.raises(ValueError, match="k: expected a positive number, found 0"):
        choose_modalities(torch.zeros(1, 2), 0)


# Corruption


def test_the_corruption_loss_is_pytorchs_binary_cross_entropy_over_what_is_there():
    p, corrupted, valid = torch.rand(6, 3), torch.rand(6, 3) < 0.4, torch.rand(6, 3) < 0.7
    expected = F.binary_cross_entropy(p[valid], (~corrupted[valid]).float())
    torch.testing.assert_close(corruption_loss(p, corrupted, valid), expected)


def test_the_corruption_loss_has_the_gradient_of_a_sigmoids_cross_entropy():
    theta = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    corrupted = torch.rand(4, 2) < 0.5
    corruption_loss(theta.sigmoid(), corrupted).backward()
    torch.testing.assert_close(theta.grad, (theta.sigmoid() - (~corrupted).double()) / 8)


def test_the_corruption_loss_is_finite_for_certain_errors_and_zero_where_nothing_is_there():
    p = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = corruption_loss(p, torch.tensor([[False, True]]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(p.grad).all()
    assert corruption_loss(p, torch.tensor([[False, True]]), torch.zeros(1, 2) > 0).item() == 0
    with pytest.raises(ValueError, match="corrupted: expected bool"):
        corruption_loss(p, torch.zeros(1, 2))


def test_swapped_modalities_come_from_another_item_that_has_them():
    valid = torch.rand(50, 2) < 0.7
    inputs = {name: torch.where(v, torch.arange(50), -1) for name, v in zip("ab", valid.T, strict=True)}
    swapped, corrupted = swap_modalities(inputs, 0.5, valid, torch.Generator().manual_seed(0))
    for m, name in enumerate("ab"):
        assert torch.equal(swapped[name] != inputs[name], corrupted[:, m])
        assert ((swapped[name] >= 0) == valid[:, m]).all()
    assert 0.3 < corrupted[valid].float().mean() < 0.7 and not corrupted[~valid].any()


def test_with_groups_what_is_put_in_place_comes_from_another_group_that_has_it():
    group, valid = torch.arange(60) % 3, torch.rand(60, 2) < 0.7
    inputs = {"a": torch.arange(60), "b": torch.arange(60)}
    swapped, corrupted = swap_modalities(inputs, 1.0, valid, groups=group)
    assert torch.equal(corrupted, valid)  # none of these is called swapped and is right by chance
    for m, name in enumerate("ab"):
        rows = corrupted[:, m]
        assert (group[swapped[name]] != group)[rows].all() and valid[swapped[name][rows], m].all()
        assert len(swapped[name][rows].unique()) > 10  # not all from the same one


def test_where_no_item_of_another_group_has_a_modality_it_stays_and_is_not_called_corrupted():
    inputs, valid = {"a": torch.arange(4)}, torch.tensor([[True], [True], [False], [True]])
    swapped, corrupted = swap_modalities(inputs, 1.0, valid, groups=torch.tensor([0, 0, 1, 0]))
    assert torch.equal(swapped["a"], inputs["a"]) and not corrupted.any()
    with pytest.raises(ValueError, match=r"groups: expected shape \(4,\), found \(3,\)"):
        swap_modalities(inputs, 1.0, groups=torch.zeros(3))


def test_a_modality_that_only_one_item_has_is_not_swapped_and_a_rate_must_be_one():
    inputs = {"a": torch.arange(3)}
    swapped, corrupted = swap_modalities(inputs, 1.0, torch.tensor([[True], [False], [False]]))
    assert torch.equal(swapped["a"], inputs["a"]) and not corrupted.any()
    inputs = {"a": torch.arange(50), "b": torch.randn(50, 2)}
    assert swap_modalities(inputs, 1.0)[1].all() and not swap_modalities(inputs, 0.0)[1].any()
    for rate in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="rate: expected 0 to 1, found"):
            swap_modalities(inputs, rate)


# Interaction


def test_the_interaction_equals_the_equation_one_item_at_a_time():
    interaction = ResidualInteraction(4, hidden=7, slope=0.8, offset=0.1).double()
    h, other = torch.randn(2, 9, 4, dtype=torch.float64)
    updated, gate = interaction(h, other)
    for i in range(9):
        s = F.cosine_similarity(h[i], other[i], dim=0).item()
        r = min(1.0, max(0.0, 0.8 * s + 0.1))
        assert gate[i].item() == pytest.approx(r, abs=1e-6)
        expected = h[i] + r * interaction.F(torch.cat([other[i], h[i] * other[i]]))
        torch.testing.assert_close(updated[i], expected, rtol=0, atol=1e-6)


def test_the_gate_is_exactly_zero_on_disagreement_rises_with_agreement_and_ends_at_one():
    interaction = ResidualInteraction(2, slope=2.0, offset=-0.5)
    s = torch.linspace(-1, 1, 41)
    r = interaction.gate(s)
    assert (r[s <= 0.24] == 0).all() and (r[s >= 0.76] == 1).all() and (r.diff() >= 0).all()
    sigmoid = torch.sigmoid(2 * s - 0.5)
    assert (sigmoid > 0).all()  # what a sigmoid never does
    h = torch.randn(5, 2)
    updated, r = interaction(h, -h)
    assert (r == 0).all() and torch.equal(updated, h)
    updated.sum().backward()
    assert all((p.grad == 0).all() for p in interaction.F.parameters())  # nothing is learnt from it


def test_untrained_gates_are_neither_closed_nor_wide_open_for_points_that_have_nothing_in_common():
    h, other = torch.randn(2, 1000, 32)
    _, r = ResidualInteraction(32)(h, other)
    assert ((r > 0) & (r < 1)).float().mean() > 0.98
    _, r = ResidualInteraction(32)(h, h)
    assert (r == 1).all()


@pytest.mark.parametrize("slope", [0.01, 1.0, 30.0])
def test_the_slope_at_the_start_is_the_one_asked_for_and_stays_positive(slope):
    interaction = ResidualInteraction(2, slope=slope, offset=0.0)
    assert F.softplus(interaction.a).item() == pytest.approx(slope, rel=1e-4)
    with torch.no_grad():
        interaction.a.fill_(-5.0)
    assert 0 < interaction.gate(torch.tensor(1.0)) < 0.01


def test_the_gradients_of_the_interaction_are_right_between_its_ends():
    interaction = ResidualInteraction(3, slope=0.3, offset=0.5).double()
    h, other = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda h, other: interaction(h, other), (h, other))
    interaction(h, other)[0].sum().backward()
    assert interaction.a.grad != 0 and interaction.beta.grad != 0


def test_where_one_of_the_two_is_absent_the_point_stays_and_gradients_are_finite():
    interaction = ResidualInteraction(3, offset=0.9)
    h = torch.randn(3, 3)
    other = torch.tensor([[1.0, 2.0, 3.0], [math.nan] * 3, [0.0] * 3])
    updated, gate = interaction(h, other, valid=torch.tensor([True, False, False]))
    assert gate.tolist()[1:] == [0, 0] and gate[0] > 0 and torch.equal(updated[1:], h[1:])
    updated.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in interaction.parameters())


@pytest.mark.parametrize("other", [torch.zeros(2, 4), torch.zeros(3, 3), torch.zeros(2)])
def test_points_that_do_not_fit_the_interaction_are_refused(other):
    with pytest.raises(ValueError, match=r"h, other: expected two of shape \(B, 3\), found \(2, 3\) and"):
        ResidualInteraction(3)(torch.zeros(2, 3), other)
    with pytest.raises(ValueError, match="slope: expected a positive number, found 0"):
        ResidualInteraction(3, slope=0)


# Two towers


def test_two_symmetric_towers_take_from_each_other_as_the_equations_say():
    network, x = model(["image", "text"]), things(names=["image", "text"])
    output = network(x)
    h = {name: network.towers[name](x[name]) for name in x}
    p = network.gate(h)
    torch.testing.assert_close(output.confidence, p)
    sides = []
    for name, other in [("image", "text"), ("text", "image")]:
        taken, r = network.interactions[name](h[name], h[other])
        torch.testing.assert_close(output.interaction[name], r)
        torch.testing.assert_close(output.features[name], h[name])
        sides.append(taken)
    ratio = (p.amin(1) / p.amax(1))[:, None]  # of the less trusted
    most = torch.where(p[:, :1] > p[:, 1:], *sides)
    torch.testing.assert_close(output.fused, (1 - ratio) * most + ratio * (sides[0] + sides[1]) / 2)


@pytest.mark.parametrize("kind", FUSERS)
def test_what_the_gate_rejects_is_as_if_absent_and_a_gate_that_prefers_nobody_is_as_if_there_were_none(kind):
    network, x = model(interaction=False), things()
    network.fuser = random_fuser(kind)
    with torch.no_grad():
        network.gate.coupling.fill_(0)
        for score, bias in zip(network.gate.scores, (1.0, -2000.0, 1.0), strict=True):
            score[2].weight.fill_(0), score[2].bias.fill_(bias)
    absent = torch.tensor([True, False, True]).expand(6, 3)
    torch.testing.assert_close(network(x).fused, network(x, absent).fused)
    nn.init.constant_(network.gate.scores[1][2].bias, 1.0)
    gated = network(x).fused
    network.gate = None
    torch.testing.assert_close(gated, network(x).fused)


@pytest.mark.parametrize("gated", [True, False])
def test_without_interaction_the_fuser_gets_what_the_towers_send(gated):
    network, x = model(gated=gated, interaction=False), things()
    output = network(x)
    assert output.interaction == {} and not any("interactions" in name for name in network.state_dict())
    sent = {name: network.towers[name](x[name]) for name in NAMES}
    torch.testing.assert_close(output.features, sent)
    expected = fuse_by_confidence(network.fuser, sent, output.confidence)[0]
    torch.testing.assert_close(output.fused, expected)
    nothing = network(x, torch.zeros(6, 3, dtype=torch.bool))
    assert (nothing.fused == 0).all() and nothing.fused.dtype == torch.float64


def test_slope_and_offset_are_those_of_every_interaction():
    for interaction in model(slope=2.0, offset=0.2).interactions.values():
        assert interaction.gate(torch.tensor(0.1).double()).item() == pytest.approx(2 * 0.1 + 0.2)


def test_with_a_lead_only_the_lead_changes_and_it_takes_from_the_mean_of_the_rest():
    network, x = model(gated=False, lead="text"), things()
    valid = torch.ones(6, 3, dtype=torch.bool)
    h = network.encode(x)
    updated, gates = network.interact(h, valid)
    assert list(gates) == ["text"]
    expected, _ = network.interactions["text"](h["text"], (h["image"] + h["sound"]) / 2)
    torch.testing.assert_close(updated["text"], expected)
    assert torch.equal(updated["image"], h["image"]) and torch.equal(updated["sound"], h["sound"])
    assert (network(x).confidence == 1).all()


def test_an_absent_modality_reaches_nothing_and_all_absent_is_what_the_fuser_says():
    network, x = model(), things()
    valid = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    expected = network(x, valid)
    spoilt = {
        name: torch.where(v[:, None], x[name], math.nan) for name, v in zip(NAMES, valid.T, strict=True)
    }
    output = network(spoilt, valid)
    assert torch.equal(output.fused, expected.fused) and (output.confidence[~valid] == 0).all()
    assert (output.fused[2] == 0).all() and output.interaction["image"][[1, 2]].tolist() == [0, 0]
    output.fused.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    alone = network({name: v[:1] for name, v in x.items()}, valid[:1])  # one item is as in the batch
    torch.testing.assert_close(alone.fused, expected.fused[:1])
    nothing = network(x, torch.zeros(6, 3, dtype=torch.bool))
    assert (nothing.fused == 0).all() and (nothing.confidence == 0).all()


def test_the_fuser_sees_the_most_trusted_modalities_alone_in_the_order_of_the_towers():
    network, x = model(keep=1), things()
    output = network({name: x[name] for name in reversed(NAMES)})
    names, seen = network.fuser.seen
    assert names == NAMES and (seen.sum(1) == 1).all()
    assert torch.equal(seen.int().argmax(1).view(3, 6), output.confidence.argmax(1).expand(3, 6))
    assert torch.equal(output.weights, seen[:6].double())


def test_a_tower_may_take_a_list_of_texts():
    class Length(nn.Module):
        def forward(self, texts):
            return torch.tensor([[float(len(text))] * 4 for text in texts])

    network = TwoTower({"image": nn.Linear(5, 4), "text": Length()}, 4, MeanFuser())
    valid = torch.tensor([[True, True], [True, False]])
    h = network.encode({"image": torch.zeros(2, 5), "text": ["cat", "no text"]}, valid)
    assert h["text"][:, 0].tolist() == [3, 0]


def test_frozen_towers_stay_to_the_last_bit_while_the_rest_learns():
    network = model(["image", "text"])
    network.towers["image"] = nn.Sequential(network.towers["image"], nn.BatchNorm1d(4).double())
    network.freeze("image")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    network(things(names=["image", "text"])).fused.square().sum().backward()
    descend(network, 0.1)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("towers.image") for name in changed)
    assert {"towers.text.weight", "interactions.image.F.0.weight", "gate.coupling"} <= changed
    network.unfreeze()
    assert all(p.requires_grad for p in network.parameters()) and network.towers["image"].training
    with pytest.raises(ValueError, match="modalities: expected some of .*, found .'smell'"):
        network.freeze("smell")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["image"]}, "modalities: expected at least 2, all different; found .'image'"),
        ({"lead": "smell"}, "lead: expected one of .*, found 'smell'"),
        ({"lead": "text", "interaction": False}, "lead: expected an interaction .*, found 'text' without"),
        ({"keep": 0}, "keep: expected a positive number, found 0"),
        ({"keep": 1, "gated": False}, "keep: expected a gate to choose by, found 1 without"),
    ],
)
def test_towers_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_a_gate_of_other_modalities_or_in_another_order_is_refused():
    towers = {name: nn.Linear(WIDTHS[name], 4) for name in ("image", "text")}
    with pytest.raises(ValueError, match=r"gate: expected the modalities .*, found \['text', 'image'\]"):
        TwoTower(towers, 4, MeanFuser(), gate=CRFGate(["text", "image"], 4))


def test_inputs_that_do_not_fit_the_towers_are_refused():
    network, x = model(), things()
    for inputs, message in (
        ({name: x[name] for name in ("image", "text")}, "inputs: expected the modalities .*'sound'"),
        (x | {"smell": x["text"]}, "inputs: expected the modalities .*found .*'smell'"),
        (x | {"text": x["text"][:2]}, "one batch size, found .*'text': 2"),
    ):
        with pytest.raises(ValueError, match=message):
            network(inputs)
    with pytest.raises(
        ValueError, match=r"valid: expected bool of shape \(6, 3\), found torch.bool of shape"
    ):
        network(x, torch.ones(6, 2, dtype=torch.bool))
    network.towers["text"] = nn.Linear(3, 5).double()
    with pytest.raises(ValueError, match=r"text: expected its tower to return \(6, 4\), found \(6, 5\)"):
        network(x)
