"""Matching: divergences at their edges, degrees of pairs, losses that collapse, a mixture that improves."""

import itertools
import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.autograd import gradcheck

from mmtutor.contrastive import info_nce
from mmtutor.matching import (
    MATCHING_LOSSES,
    GradientReversal,
    ModalityDiscriminator,
    PairedMixture,
    divergence_of_means,
    js_divergence,
    js_from_logits,
    kl_divergence,
    kl_from_logits,
    matching_cross_entropy,
    matching_degree,
    matching_mse,
    reversal_strength,
)
from mmtutor.metrics import recall_at_k

LOG_2 = math.log(2)
FORMS = [kl_divergence, js_divergence]
FROM_LOGITS = [kl_from_logits, js_from_logits]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def distributions(*shape: int, zeros: bool = True) -> Tensor:
    """Random distributions in double precision, some classes of which have no probability."""
    weights = torch.rand(*shape, dtype=torch.float64) + 1e-3
    if zeros:
        weights = torch.where(torch.rand(*shape) < 0.3, 0, weights)
        weights[..., 0] += 0.01  # not all zero
    return weights / weights.sum(-1, keepdim=True)


def kl_by_loop(p: list[float], q: list[float]) -> float:
    total = 0.0
    for p_c, q_c in zip(p, q, strict=True):
        if p_c > 0:
            total += p_c * math.log(p_c / q_c) if q_c > 0 else math.inf
    return total


def js_by_loop(p: list[float], q: list[float]) -> float:
    m = [(p_c + q_c) / 2 for p_c, q_c in zip(p, q, strict=True)]
    return kl_by_loop(p, m) / 2 + kl_by_loop(q, m) / 2


# Divergences


@pytest.mark.parametrize(("form", "loop"), [(kl_divergence, kl_by_loop), (js_divergence, js_by_loop)])
def test_divergences_equal_the_loop_over_classes_zeros_included(form, loop):
    p, q = distributions(40, 6), distributions(40, 6)
    expected = [loop(a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    assert form(p, q).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    if form is kl_divergence:
        assert 5 < sum(math.isinf(x) for x in expected) < 40  # both kinds of rows were there


def test_divergences_agree_with_scipy_and_pytorch():
    p, q = distributions(20, 5), distributions(20, 5, zeros=False)
    expected = torch.tensor(scipy.special.rel_entr(p.numpy(), q.numpy()).sum(1))
    torch.testing.assert_close(kl_divergence(p, q), expected)
    expected = torch.tensor(scipy.spatial.distance.jensenshannon(p.numpy(), q.numpy(), axis=1) ** 2)
    torch.testing.assert_close(js_divergence(p, q), expected)
    a, b = torch.randn(2, 7, 5, dtype=torch.float64)
    expected = F.kl_div(b.log_softmax(1), a.log_softmax(1), reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(kl_from_logits(a, b), expected)


def test_zero_times_log_zero_is_zero_and_a_class_that_q_excludes_costs_infinity():
    p = torch.tensor([0.5, 0.5, 0.0])
    assert kl_divergence(p, torch.tensor([0.25, 0.75, 0.0])).item() == pytest.approx(
        kl_by_loop([0.5] * 2, [0.25, 0.75])
    )
    assert kl_divergence(p, torch.tensor([1.0, 0.0, 0.0])).item() == math.inf
    assert kl_divergence(torch.tensor([1.0, 0.0, 0.0]), p).item() == pytest.approx(LOG_2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=6, max_size=6),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_the_bounds_hold_for_any_distributions(numbers, dtype):
    weights = torch.tensor(numbers, dtype=dtype).reshape(2, 3)
    weights[:, 0] += 0.01
    p, q = weights / weights.sum(1, keepdim=True)
    assert kl_divergence(p, q) >= 0 and kl_divergence(p, p) == 0
    assert 0 <= js_divergence(p, q) <= torch.tensor(LOG_2, dtype=dtype)
    assert js_divergence(p, p) == 0
    torch.testing.assert_close(js_divergence(p, q), js_divergence(q, p))


def test_js_is_log_two_for_disjoint_distributions_also_beside_the_smallest_number_there_is():
    smallest = 1e-45  # half of it is zero in float32
    p, q = torch.tensor([1.0, 0.0, smallest]), torch.tensor([0.0, 1.0, 0.0])
    assert js_divergence(p, q).item() == pytest.approx(LOG_2)
    assert js_divergence(p, torch.tensor([1.0, 0.0, 0.0])).item() == 0


def test_kl_is_not_symmetric_and_is_finite_where_q_is_as_small_as_can_be():
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([1e-45, 1.0])
    assert kl_divergence(p, q).item() == pytest.approx(103.28, abs=0.01)
    assert kl_divergence(q, p).item() == math.inf


def test_axes_before_the_last_broadcast():
    p, q = distributions(3, 1, 4, zeros=False), distributions(5, 4, zeros=False)
    for form in FORMS:
        assert form(p, q).shape == (3, 5)
        torch.testing.assert_close(form(p, q)[2, 1], form(p[2, 0], q[1]))


def test_half_precision_is_computed_in_single():
    p = torch.tensor([0.5, 0.5], dtype=torch.bfloat16)
    assert kl_divergence(p, torch.tensor([0.25, 0.75])).dtype == torch.float32
    assert js_from_logits(p, p).dtype == torch.float32


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (torch.tensor([[0.5, 0.5], [0.7, 0.7]]), "p: expected rows .*sum to 1; row 1 sums to 1.4"),
        (torch.tensor([[[0.5, 0.5]], [[1.2, -0.2]]]), "p: expected rows .*row 1, 0 holds -0.2"),
        (torch.tensor([0.5, 0.4]), "p: expected rows .*row 0 sums to 0.9"),
        (torch.tensor([[math.nan, 1.0]]), "p: expected rows .*row 0 holds nan"),
        (torch.tensor([[math.inf, 0.0]]), "p: expected rows .*row 0 sums to inf"),
        (torch.zeros(2, 3), "p, q: expected one number of classes, found 3 and 2"),
        (torch.tensor(1.0), r"p: expected shape \(\.\.\., C\), found \(\)"),
    ],
)  # fmt: skip
def test_what_is_no_distribution_is_refused_and_its_row_named(p, message):
    for form in FORMS:
        with pytest.raises(ValueError, match=message):
            form(p, torch.tensor([0.5, 0.5]))


def test_counts_and_logits_that_are_not_finite_are_refused():
    with pytest.raises(TypeError, match="q: expected floats, found torch.int64"):
        kl_divergence(torch.tensor([0.5, 0.5]), torch.tensor([1, 0]))
    for form in FROM_LOGITS:
        with pytest.raises(ValueError, match="b: expected finite logits, found NaN or infinity"):
            form(torch.zeros(2), torch.tensor([0.0, -math.inf]))


def test_with_respect_to_probabilities_the_gradient_is_right_inside_and_not_finite_at_zero():
    weights = torch.rand(2, 3, 4, dtype=torch.float64, requires_grad=True)
    for form in FORMS:
        assert gradcheck(lambda weights, form=form: form(*weights / weights.sum(2, keepdim=True)), weights)
    q = torch.tensor([1.0, 0.0], requires_grad=True)
    kl_divergence(torch.tensor([0.5, 0.5]), q).backward()
    assert not torch.isfinite(q.grad).all()


# From logits


@pytest.mark.parametrize(("form", "of_p"), list(zip(FROM_LOGITS, FORMS, strict=True)))
def test_the_forms_from_logits_equal_those_of_probabilities_and_ignore_a_constant(form, of_p):
    a, b = torch.randn(2, 8, 5, dtype=torch.float64) * 3
    expected = of_p(a.softmax(1), b.softmax(1))
    torch.testing.assert_close(form(a, b), expected)
    torch.testing.assert_close(form(a + 100, b - 50), expected)
    assert gradcheck(form, (a.requires_grad_(), b.requires_grad_()))


@pytest.mark.parametrize("form", FROM_LOGITS)
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4, 1e30])
def test_value_and_gradient_from_logits_are_finite_however_certain(form, size):
    a = torch.tensor([[size, -size, 0.0]], requires_grad=True)
    b = torch.tensor([[-size, size, 0.0]], requires_grad=True)
    value = form(a, b)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()


def test_the_gradient_of_kl_by_the_logits_of_q_is_the_difference_of_the_distributions():
    a, b = torch.randn(2, 5, dtype=torch.float64).requires_grad_(), torch.randn(2, 5, dtype=torch.float64)
    b.requires_grad_()
    kl_from_logits(a, b).sum().backward()
    p, q = a.softmax(1), b.softmax(1)
    torch.testing.assert_close(b.grad, (q - p).detach())
    kl = kl_divergence(p, q)[:, None]
    torch.testing.assert_close(a.grad, (p * ((p / q).log() - kl)).detach())


def test_far_apart_kl_still_pulls_and_js_does_not():
    a = torch.tensor([20.0, -20.0])
    pull = {}
    for form in FROM_LOGITS:
        b = torch.tensor([-20.0, 20.0], requires_grad=True)
        form(a, b).backward()
        pull[form] = b.grad.abs().max().item()
    assert pull[kl_from_logits] == pytest.approx(1) and pull[js_from_logits] < 1e-6


# Matching degree


def test_the_degrees_are_those_of_single_pairs_true_ones_first():
    p, q = distributions(5, 3, zeros=False), distributions(5, 3, zeros=False)
    degree = {
        "cosine": lambda x, y: F.cosine_similarity(x, y, dim=0),
        "kl": lambda x, y: -kl_divergence(x, y),
        "js": lambda x, y: 1 - js_divergence(x, y) / LOG_2,
    }
    for kind, of_pair in degree.items():
        true_pairs, false_pairs = matching_degree(p, q, kind)
        torch.testing.assert_close(true_pairs, torch.stack([of_pair(p[i], q[i]) for i in range(5)]))
        expected = [of_pair(p[i], q[j]) for i, j in itertools.product(range(5), repeat=2) if i != j]
        torch.testing.assert_close(false_pairs, torch.stack(expected))


@pytest.mark.parametrize(("kind", "best", "worst"), [("cosine", 1, 0), ("kl", 0, -math.inf), ("js", 1, 0)])
def test_larger_is_closer_from_the_worst_to_the_best(kind, best, worst):
    true_pairs, false_pairs = matching_degree(torch.eye(3), torch.eye(3), kind)
    assert true_pairs.tolist() == [best] * 3
    assert false_pairs.tolist() == [worst] * 6


def test_two_modalities_that_always_say_the_same_match_perfectly_and_false_pairs_do_too():
    same = torch.tensor([[0.9, 0.1]]).expand(4, 2)
    for kind in ("cosine", "kl", "js"):
        true_pairs, false_pairs = matching_degree(same, same, kind)
        torch.testing.assert_close(true_pairs.mean(), false_pairs.mean())


def test_rows_of_another_kind_shape_or_number_are_refused():
    p = distributions(3, 4)
    with pytest.raises(ValueError, match="kind: expected one of cosine, kl, js; found 'l2'"):
        matching_degree(p, p, "l2")
    with pytest.raises(ValueError, match="expected two tensors of one shape"):
        matching_degree(p, p[:2], "kl")
    with pytest.raises(ValueError, match="expected at least 2 pairs, found 1"):
        matching_degree(p[:1], p[:1])
    with pytest.raises(ValueError, match="p: expected rows of numbers from 0 that sum to 1; row 0 sums to 2"):
        matching_degree(2 * p, p, "js")


# Means


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(2, 6), st.integers(0, 999), st.sampled_from(["kl", "js"]))
def test_the_divergence_of_means_is_never_above_the_mean_of_divergences(batch, classes, seed, kind):
    torch.manual_seed(seed)
    of_means, mean = divergence_of_means(distributions(batch, classes), distributions(batch, classes), kind)
    assert of_means <= mean + 1e-12


@pytest.mark.parametrize("kind", ["kl", "js"])
def test_the_divergence_of_means_does_not_see_who_is_paired_with_whom(kind):
    p = distributions(30, 4, zeros=False)
    of_means, mean = divergence_of_means(p, p.roll(1, 0), kind)
    assert of_means < 1e-12 and mean > 0.01
    assert divergence_of_means(p, p, kind)[1] == 0
    one, same = divergence_of_means(p[:1], p[1:2], kind)
    torch.testing.assert_close(one, same)  # of a single pair both are the same
    with pytest.raises(ValueError, match="kind: expected one of kl, js; found 'cosine'"):
        divergence_of_means(p, p, "cosine")


# Losses


def test_the_cross_entropy_is_pytorchs_both_ways_and_entropy_plus_kl():
    a, b = torch.randn(2, 6, 5, dtype=torch.float64)
    p, q = a.softmax(1), b.softmax(1)
    expected = (F.cross_entropy(b, p) + F.cross_entropy(a, q)) / 2
    torch.testing.assert_close(matching_cross_entropy(a, b), expected)
    entropy = -(p * p.log() + q * q.log()).sum(1).mean() / 2
    kl = (kl_divergence(p, q) + kl_divergence(q, p)).mean() / 2
    torch.testing.assert_close(matching_cross_entropy(a, b), entropy + kl)
    assert gradcheck(matching_cross_entropy, (a.requires_grad_(), b.requires_grad_()))


def test_the_cross_entropy_of_equal_distributions_is_their_entropy_and_zero_only_when_certain():
    assert matching_cross_entropy(torch.zeros(3, 4), torch.zeros(3, 4)).item() == pytest.approx(math.log(4))
    certain = torch.tensor([[90.0, 0.0], [90.0, 0.0]])
    assert matching_cross_entropy(certain, certain).item() == pytest.approx(0, abs=1e-30)


def test_the_squared_error_is_pytorchs_and_refuses_what_that_would_broadcast():
    a, b = torch.randn(2, 6, 5)
    torch.testing.assert_close(matching_mse(a, b), F.mse_loss(a, b))
    with pytest.raises(ValueError, match="expected two tensors of one shape"):
        matching_mse(a, b[:1])


def test_a_collapsed_model_is_a_minimum_of_the_squared_error_and_as_bad_as_chance_for_the_contrastive_loss():
    point = torch.randn(1, 5)
    a, b = point.repeat(8, 1).requires_grad_(), point.repeat(8, 1).requires_grad_()
    loss = MATCHING_LOSSES["mse"](a, b)
    loss.backward()
    assert loss == 0 and (a.grad == 0).all() and (b.grad == 0).all()
    assert MATCHING_LOSSES["contrastive"](a, b).item() == pytest.approx(math.log(8), rel=1e-5)
    assert recall_at_k(a.detach() @ b.detach().T, 1) == pytest.approx(1 / 8)
    assert MATCHING_LOSSES["contrastive"] is info_nce and set(MATCHING_LOSSES) == {
        "cross-entropy",
        "mse",
        "contrastive",
    }


# Adversarial alignment


def test_reversal_is_the_identity_forward_and_turns_the_gradient_round_by_its_strength():
    z = torch.randn(3, 2, requires_grad=True)
    reversal = GradientReversal(0.3)
    assert torch.equal(reversal(z), z)
    (reversal(z) ** 2).sum().backward()
    torch.testing.assert_close(z.grad, -0.3 * 2 * z.detach())
    reversal.strength, z.grad = 0.0, None
    reversal(z).sum().backward()
    assert (z.grad == 0).all()


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_a_strength_that_does_not_reverse_is_refused(strength):
    with pytest.raises(ValueError, match="strength: expected a finite number of 0 or more, found"):
        GradientReversal(strength)


def test_the_strength_rises_from_zero_to_nearly_one():
    strengths = [reversal_strength(t / 20) for t in range(21)]
    assert strengths[0] == 0 and strengths == sorted(strengths) and 0.999 < strengths[-1] < 1
    assert reversal_strength(0.3, rate=4.0) == pytest.approx(math.tanh(0.6))  # the same curve
    for progress in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="progress: expected 0 to 1"):
            reversal_strength(progress)
    with pytest.raises(ValueError, match="rate: expected a positive number"):
        reversal_strength(0.5, rate=0)


def test_the_discriminator_learns_to_tell_and_the_encoder_not_to_be_told():
    features = {"a": torch.randn(6, 3), "b": torch.randn(4, 3) + 1}
    leaves = {name: z.clone().requires_grad_() for name, z in features.items()}
    discriminator = ModalityDiscriminator(features, 3, hidden=8)
    loss = discriminator.loss(leaves)
    logits = {name: discriminator(z).detach() for name, z in features.items()}
    terms = [F.cross_entropy(logits[n], torch.full((len(logits[n]),), m)) for m, n in enumerate(features)]
    torch.testing.assert_close(loss.detach(), sum(terms) / 2)
    loss.backward()
    with torch.no_grad():
        # a small step of the encoders down their gradient raises the loss; one of the discriminator lowers it
        moved = discriminator.loss({name: z - 0.01 * z.grad for name, z in leaves.items()})
        for p in discriminator.parameters():
            p -= 0.01 * p.grad
        assert moved > loss > discriminator.loss(leaves)


def test_points_that_look_alike_leave_the_discriminator_at_chance_or_worse():
    discriminator, z = ModalityDiscriminator(["a", "b", "c"], 3), torch.randn(5, 3)
    assert discriminator.loss({"a": z, "b": z, "c": z[[4, 2, 0, 1, 3]]}) >= math.log(3) - 1e-6
    nn.init.zeros_(discriminator.guess[-1].weight), nn.init.zeros_(discriminator.guess[-1].bias)
    assert discriminator.loss({"a": z, "b": z, "c": z}).item() == pytest.approx(math.log(3))


def test_a_discriminator_refuses_other_modalities_and_points():
    with pytest.raises(ValueError, match="modalities: expected two or more different names, found .'a'"):
        ModalityDiscriminator(["a", "a"], 3)
    discriminator = ModalityDiscriminator(["a", "b"], 3)
    with pytest.raises(ValueError, match=r"features: expected the modalities \['a', 'b'\], found \['a'\]"):
        discriminator.loss({"a": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"points: expected shape \(B, 3\), found \(2, 4\)"):
        discriminator.loss({"a": torch.zeros(2, 4), "b": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="b: expected finite embeddings"):
        discriminator.loss({"a": torch.zeros(2, 3), "b": torch.full((2, 3), math.nan)})


# Mixture


def paired_data(n: int = 60, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Features and word counts of ``n`` things of three kinds, and their kinds."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(n) % 3
    centre = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    x = centre[kind] + torch.randn(n, 2, generator=generator)
    theta = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4]])
    words = torch.multinomial(theta[kind], 8, replacement=True, generator=generator)
    return {"x": x, "words": F.one_hot(words, 4).sum(1).float()}, kind


def mixture(components: int = 3, **options) -> PairedMixture:
    return PairedMixture({"x": "gaussian", "words": "multinomial"}, components, **options)


def fitted(seed: int = 0, **options) -> tuple[PairedMixture, list[float]]:
    model = mixture(**options)
    return model, model.fit(paired_data()[0], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("options", [{}, {"floor": 2.0, "smoothing": 3.0}, {"components": 12}])
def test_the_objective_rises_at_each_step_also_where_the_floor_and_the_prior_are_felt(seed, options):
    _, history = fitted(seed, **options)
    steps = np.diff(history)
    assert len(history) == 50 and (steps > -1e-10).all() and steps.max() > 1e-3


def test_for_gaussians_the_objective_is_the_mean_log_likelihood():
    x = paired_data()[0]["x"]
    model = PairedMixture({"x": "gaussian"}, 3)
    history = model.fit({"x": x})
    assert history[-1] == pytest.approx(model.log_likelihood({"x": x}).mean().item(), abs=1e-12)


def test_likelihood_and_posterior_equal_scipys_densities_summed_in_a_loop():
    model, _ = fitted()
    data, _ = paired_data(seed=1)
    joint, posterior = model.log_likelihood(data), model.posterior(data)
    gaussians, words = model.parts["x"], model.parts["words"]
    for i in range(5):
        terms = []
        x, counts = data["x"][i].numpy(), data["words"][i].long().numpy()
        for k, pi in enumerate(model.weights.tolist()):
            density = scipy.stats.norm(gaussians.mean[k].numpy(), gaussians.variance[k].sqrt().numpy()).pdf(x)
            chance = scipy.stats.multinomial(8, words.log_theta[k].exp().numpy()).pmf(counts)
            terms.append(pi * density.prod() * chance)
        assert joint[i].item() == pytest.approx(math.log(sum(terms)), rel=1e-6)
        assert posterior[i].tolist() == pytest.approx(
            [term / sum(terms) for term in terms], rel=1e-5, abs=1e-12
        )


def test_two_gaussian_views_are_one_gaussian_mixture_of_their_columns_as_scikit_learn_fits_it():
    x, y = paired_data()[0]["x"], torch.randn(60, 3) + paired_data()[1][:, None]
    model = PairedMixture({"x": "gaussian", "y": "gaussian"}, 3, floor=1e-9)
    model.fit({"x": x, "y": y}, steps=1, generator=torch.Generator().manual_seed(1))
    mean, variance = (
        torch.cat([getattr(model.parts[name], what) for name in "xy"], 1).numpy()
        for what in ("mean", "variance")
    )
    peer = GaussianMixture(
        3, covariance_type="diag", weights_init=model.weights.numpy(), means_init=mean,
        precisions_init=1 / variance, reg_covar=0, max_iter=7, tol=0,
    )  # fmt: skip
    columns = torch.cat([x, y], 1).double().numpy()
    with pytest.warns(UserWarning, match="converge"):
        peer.fit(columns)
    model.fit({"x": x, "y": y}, steps=8, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(model.parts["y"].mean, peer.means_[:, 2:], rtol=1e-8)
    np.testing.assert_allclose(model.log_likelihood({"x": x, "y": y}), peer.score_samples(columns), rtol=1e-8)


def test_similarity_is_how_much_likelier_two_views_are_together_than_apart():
    model, _ = fitted()
    data, _ = paired_data(12, seed=2)
    x, words = {"x": data["x"]}, {"words": data["words"]}
    found = model.similarity(x, words)
    for i, j in itertools.product(range(3), range(12)):
        pair = {"x": data["x"][i : i + 1], "words": data["words"][j : j + 1]}
        apart = sum(model.log_likelihood({name: view}).item() for name, view in pair.items())
        assert found[i, j].item() == pytest.approx(model.log_likelihood(pair).item() - apart, abs=1e-9)
        by_posterior = (model.posterior(x)[i] * model.posterior(words)[j] / model.weights).sum().log()
        assert found[i, j].item() == pytest.approx(by_posterior.item(), abs=1e-9)
    torch.testing.assert_close(found, model.similarity(words, x).T)


def test_things_are_found_across_views_by_their_component():
    model = max((fitted(seed) for seed in range(5)), key=lambda fit: fit[1][-1])[0]  # the likeliest
    data, kind = paired_data(30, seed=3)
    similarity = model.similarity({"x": data["x"]}, {"words": data["words"]})
    same_kind = kind[:, None] == kind
    assert recall_at_k(similarity, 1, same_kind) > 0.9
    assert recall_at_k(similarity, 1, same_kind.roll(1, 0)) < 0.1  # the wrong kind is not found


def test_a_component_per_item_and_a_constant_column_give_no_nan():
    data, _ = paired_data(6)
    data["x"][:, 0] = 1.0
    model = mixture(6)
    assert np.isfinite(model.fit(data)).all()
    far = {"x": torch.full((1, 2), 1e4)}
    assert torch.isfinite(model.posterior(far)).all()
    assert torch.isfinite(model.similarity(far, {"words": data["words"]})).all()


def test_one_component_knows_nothing_of_pairs():
    data, _ = paired_data()
    model = mixture(1)
    model.fit(data, steps=2)
    similarity = model.similarity({"x": data["x"]}, {"words": data["words"]})
    torch.testing.assert_close(similarity, torch.zeros(60, 60, dtype=torch.float64))


def test_what_a_mixture_cannot_be_is_refused():
    with pytest.raises(ValueError, match="views: expected each one of gaussian, multinomial; found"):
        PairedMixture({"x": "poisson"}, 2)
    for name in ("components", "floor", "smoothing"):
        with pytest.raises(ValueError, match=f"{name}: expected a positive number, found 0"):
            mixture(**{"components": 2, name: 0})


def test_data_that_do_not_fit_a_mixture_are_refused():
    data, _ = paired_data()
    with pytest.raises(ValueError, match="expected a fitted one, found none; call fit first"):
        mixture().posterior(data)
    model, _ = fitted()
    for bad, message in (
        ({"x": data["x"]}, r"data: expected the views \['words', 'x'\], found \['x'\]"),
        (data | {"x": data["x"][:5]}, "equally many items in each view, found .*'x': 5"),
        (data | {"words": -data["words"]}, "words: expected counts, 0 or more, found -"),
        (data | {"x": torch.full((60, 2), math.nan)}, "x: expected finite"),
        ({name: view[:2] for name, view in data.items()}, "data: expected at least 3 items, found 2"),
    ):
        with pytest.raises(ValueError, match=message):
            mixture().fit(bad)
    with pytest.raises(ValueError, match=r"data: expected the views .*found \['smell'\]"):
        model.posterior({"smell": data["x"]})
    with pytest.raises(ValueError, match="data: expected the views"):
        model.posterior({})
    with pytest.raises(ValueError, match="views: expected different ones"):
        model.similarity({"x": data["x"]}, data)
