"""Measures of generators: equal to loops and peers, unbiased where they promise it, clear about input."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from mmtutor.generated import density_coverage, frechet_distance, kernel_distance, partner_rank


def normal(n, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Distances


@pytest.mark.parametrize(("n", "m"), [(30, 40), (9, 40), (8, 7)])
def test_frechet_is_the_formula_with_scipy_s_matrix_root(n, m):
    a, b = normal(n), normal(m, seed=1) * 2 + 1
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    gap = (a.mean(0) - b.mean(0)).square().sum()
    expected = gap + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-4)


def test_frechet_of_a_sample_and_its_shifted_or_scaled_copy_is_known():
    x = normal(200)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 6)
    assert frechet_distance(x, 3 * x - 2 * x.mean(0)) == pytest.approx(4 * np.trace(np.cov(x.T)))


def test_frechet_is_symmetric_and_does_not_turn_with_the_axes():
    a, b = normal(30), normal(40, seed=1) + 1
    turn = torch.linalg.qr(normal(6, seed=2)).Q
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))


def test_kernel_distance_is_the_loop_over_pairs():
    a, b = normal(9), normal(7, seed=1) + 0.5

    def k(x, y):
        return ((x @ y / 6 + 1) ** 3).item()

    expected = sum(k(x, y) for x, y in itertools.permutations(a, 2)) / (9 * 8)
    expected += sum(k(x, y) for x, y in itertools.permutations(b, 2)) / (7 * 6)
    expected -= 2 * sum(k(x, y) for x in a for y in b) / (9 * 7)
    assert kernel_distance(a, b) == pytest.approx(expected)


def test_kernel_distance_agrees_with_torchmetrics():
    from torchmetrics.image.kid import poly_mmd  # after mmtutor, which prepares torchvision

    a, b = normal(20), normal(20, seed=1) + 0.5
    assert kernel_distance(a, b) == pytest.approx(poly_mmd(a, b, degree=3, coef=1.0).item())


def test_kernel_distance_of_equal_distributions_is_zero_on_average_and_frechet_is_not():
    pairs = [(normal(20, seed=2 * s), normal(20, seed=2 * s + 1)) for s in range(200)]
    found = np.array([kernel_distance(a, b) for a, b in pairs])
    assert abs(found.mean()) < 3 * found.std() / 200**0.5
    assert np.mean([frechet_distance(a, b) for a, b in pairs]) > 0.5


# Density and coverage


def test_density_and_coverage_are_the_loops_over_balls():
    real, made, k = normal(25), normal(31, seed=1), 4
    inside = np.zeros((31, 25), bool)
    for i, x in enumerate(real):
        radius = sorted((x - y).norm().item() for j, y in enumerate(real) if j != i)[k - 1]
        for j, y in enumerate(made):
            inside[j, i] = (x - y).norm().item() <= radius
    density, coverage = density_coverage(real, made, k)
    assert density == pytest.approx(inside.sum() / (k * 31))
    assert coverage == pytest.approx(inside.any(0).mean())


def test_one_perfect_thing_again_and_again_is_dense_and_covers_little():
    real = normal(100, d=2)
    middle = real[real.norm(dim=1).argmin()].expand(50, 2)
    density, coverage = density_coverage(real, middle)
    assert density > 0.8 and coverage < 0.2
    assert density_coverage(real, real)[1] == 1
    assert density_coverage(real, real + 100) == (0, 0)


# Agreement


def test_partner_rank_is_the_loop():
    real = normal(12), normal(12, d=3, seed=1)
    made = normal(9, seed=2), normal(9, d=3, seed=3)
    for j, rank in enumerate(partner_rank(real, made)):
        own = (made[0][j] - real[0]).norm(dim=1).argmin()
        distances = (made[1][j] - real[1]).norm(dim=1)
        assert rank == 1 + (distances < distances[own]).sum()


def test_real_pairs_rank_first_and_shuffled_ones_by_chance():
    real = normal(200), normal(200, d=3, seed=1)
    assert (partner_rank(real, real) == 1).all()
    shuffled = partner_rank(real, (real[0], real[1].roll(1, 0)))
    assert 80 < shuffled.mean() < 120


def test_ties_count_by_their_middle():
    first, second = normal(5), torch.zeros(5, 2)
    assert (partner_rank((first, second), (first, second)) == 3).all()


# Mistakes

X = torch.zeros(4, 3)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, density_coverage])
@pytest.mark.parametrize(
    ("real", "made", "message"),
    [
        (X[0], X, r"real: expected \(N, D\) with N of at least \d, found \(3,\)"),
        (X, X[:0], r"made: expected \(N, D\) with N of at least \d, found \(0, 3\)"),
        (X, X[:, :2], "expected features of one width, found 3 and 2"),
        (X, torch.full((4, 3), torch.nan), "made: expected finite numbers, found nan"),
        (torch.full((4, 3), torch.inf), X, "real: expected finite numbers, found inf"),
    ],
)
def test_names_what_is_wrong_with_features(measure, real, made, message):
    with pytest.raises(ValueError, match=message):
        measure(real, made)


def test_names_too_many_neighbours_and_broken_pairs():
    with pytest.raises(ValueError, match="k: expected 1 to 3, fewer than the real items; found 5"):
        density_coverage(X, X)
    with pytest.raises(ValueError, match="expected pairs, found 4 and 3 real views, 4 and 4 generated ones"):
        partner_rank((X, X[:3]), (X, X))
