"""Maps compose only where they meet; what composition loses and two views share, by other routes."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cross_decomposition import CCA as PeerCCA
from sklearn.metrics import mutual_info_score
from torch import nn

from mmtutor.mapping import CCA, Map, Space, gaussian_information, information_parts, mutual_information

X, Z, Y = Space("pictures", (3, 4, 4)), Space("Z", (5,)), Space("labels", (2,))


@pytest.fixture
def f():
    return Map(X, Z, nn.Sequential(nn.Flatten(), nn.Linear(48, 5)))


@pytest.fixture
def q():
    return Map(Z, Y, nn.Linear(5, 2))


def test_composition_is_one_map_after_the_other(f, q):
    x = torch.randn(7, 3, 4, 4)
    assert torch.equal((q @ f)(x), q(f(x)))
    assert str(q @ f) == "pictures (3, 4, 4) → Z (5,) → labels (2,)"


def test_composition_is_associative(f, q):
    h = Map(Y, Space("score", (1,)), nn.Linear(2, 1))
    x = torch.randn(7, 3, 4, 4)
    assert torch.equal(((h @ q) @ f)(x), (h @ (q @ f))(x))
    assert str((h @ q) @ f) == str(h @ (q @ f))


def test_following_a_batch_stops_in_every_space(f, q):
    x = torch.randn(7, 3, 4, 4)
    stops = (q @ f).follow(x)
    assert [space for space, _ in stops] == [X, Z, Y]
    assert all(torch.equal(a, b) for (_, a), b in zip(stops, [x, f(x), q(f(x))], strict=True))


def test_the_parameters_of_a_composed_map_are_those_of_its_parts(f, q):
    assert {id(p) for p in (q @ f).parameters()} == {id(p) for m in (f, q) for p in m.parameters()}


@pytest.mark.parametrize("other", [Space("Z", (6,)), Space("another Z", (5,))])
def test_maps_that_do_not_meet_are_refused_by_width_and_by_name(f, other):
    with pytest.raises(ValueError) as error:
        Map(other, Y, nn.Identity()) @ f
    assert f"ends in Z (5,), the second starts from {other}" in str(error.value)


def test_a_batch_from_elsewhere_and_an_answer_that_lands_elsewhere_are_refused(f):
    with pytest.raises(ValueError, match=r"input: expected a batch from pictures \(3, 4, 4\), found shape"):
        f(torch.zeros(7, 3, 5, 4))
    with pytest.raises(
        ValueError, match=r"output: expected a batch from labels \(2,\), found shape \(7, 5\)"
    ):
        Map(Z, Y, nn.Identity())(torch.zeros(7, 5))


def random_covariance(size, seed):
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


def test_gaussian_information_is_the_mean_log_ratio_of_densities():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    N, S = random_covariance(3, 1), random_covariance(4, 2)
    x = torch.randn(200_000, 4, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(S).T
    e = torch.randn(200_000, 3, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(N).T
    y, zero = x @ A.T + e, torch.zeros(3, dtype=torch.float64)
    given_x = torch.distributions.MultivariateNormal(zero, N).log_prob(y - x @ A.T)
    alone = torch.distributions.MultivariateNormal(zero, A @ S @ A.T + N).log_prob(y)
    assert abs((given_x - alone).mean().item() - gaussian_information(A, N, S)) < 0.02


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_second_map_never_adds_information(seed):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    B = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    N, M = random_covariance(3, seed + 1), random_covariance(5, seed + 2)
    assert gaussian_information(B @ A, B @ N @ B.T + M) <= gaussian_information(A, N) + 1e-9


@pytest.mark.parametrize(
    ("noise", "message"),
    [(torch.eye(3), "noise: expected shape"), (torch.zeros(2, 2), "noise: expected a positive definite")],
)
def test_noise_of_another_shape_or_none_at_all_is_refused(noise, message):
    with pytest.raises(ValueError, match=message):
        gaussian_information(torch.ones(2, 2), noise)


def two_views(rows=400):
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    x = torch.cat([shared, torch.randn(rows, 3, generator=generator, dtype=torch.float64)], 1)
    y = shared + torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    y = torch.cat([y, torch.randn(rows, 2, generator=generator, dtype=torch.float64)], 1)
    mix = [torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (5, 4)]
    return x @ mix[0], y @ mix[1]


def test_cca_equals_scikit_learn_s_up_to_sign():
    x, y = two_views()
    ours = CCA(x, y, 2)
    peer = PeerCCA(2, tol=1e-12, max_iter=10_000).fit(x, y)
    for mine, theirs in zip((ours.encode_x(x), ours.encode_y(y)), peer.transform(x, y), strict=True):
        theirs = torch.tensor(theirs)
        theirs = theirs / theirs.std(0, correction=0)
        assert torch.allclose((mine * theirs).mean(0).abs(), torch.ones(2, dtype=torch.float64), atol=1e-4)


def test_canonical_variables_are_white_and_correlate_as_rho_says():
    x, y = two_views()
    cca = CCA(x, y, 4)
    a, b = cca.encode_x(x), cca.encode_y(y)
    eye = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(a.T @ a / len(a), eye, atol=1e-9)
    assert torch.allclose(b.T @ b / len(b), eye, atol=1e-9)
    assert torch.allclose(a.T @ b / len(a), cca.rho.diag(), atol=1e-9)
    assert (cca.rho.diff() <= 0).all()


def test_correlations_do_not_change_when_a_view_is_mixed():
    x, y = two_views()
    mix = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(CCA(x, y, 4).rho, CCA(x @ mix + 3, y, 4).rho, atol=1e-9)


def test_more_columns_than_rows_correlate_perfectly_by_chance_and_a_ridge_says_no():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 50, generator=generator), torch.randn(30, 40, generator=generator)
    assert CCA(x.double(), y.double(), 3).rho.min() > 0.999
    assert CCA(x.double(), y.double(), 3, ridge=10.0).rho.max() < 0.5


def test_a_constant_column_does_no_harm():
    x, y = two_views()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    assert torch.isfinite(CCA(x, y, 4).encode_x(x)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(4, 2), 1), "as many rows in both, found 3 and 4"),
        ((torch.zeros(3, 2), torch.zeros(3, 4), 3), "components: expected 1 to 2, found 3"),
        ((torch.zeros(3, 2), torch.zeros(3, 4), 1, -1.0), "ridge: expected 0 or more"),
        ((torch.full((3, 2), math.nan), torch.zeros(3, 4), 1), "x: expected finite"),
        ((torch.zeros(3), torch.zeros(3, 4), 1), r"x: expected embeddings of shape \(N, D\)"),
    ],
)
def test_views_that_cca_cannot_use_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CCA(*arguments)


tables = st.lists(st.integers(0, 20), min_size=12, max_size=12).filter(lambda counts: sum(counts) > 0)


@given(counts=tables)
@settings(max_examples=50, deadline=None)
def test_mutual_information_equals_scikit_learn_s(counts):
    table = torch.tensor(counts).view(3, 4)
    peer = mutual_info_score(None, None, contingency=table.numpy())
    assert abs(mutual_information(table.float()) - peer) < 1e-9


@given(counts=tables)
@settings(max_examples=100, deadline=None)
def test_the_parts_are_never_negative_and_add_up(counts):
    p = torch.tensor(counts, dtype=torch.float64).view(2, 3, 2)
    parts = information_parts(p)
    assert min(parts.values()) > -1e-9
    assert abs(sum(parts.values()) - mutual_information(p.flatten(0, 1))) < 1e-9


def table_of(target):
    p = torch.zeros(2, 2, 4)
    for a, b in itertools.product((0, 1), repeat=2):
        p[a, b, target(a, b)] = 1
    return p


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (lambda a, b: a ^ b, (0, 0, 0, 1)),
        (lambda a, b: a, (0, 1, 0, 0)),
        (lambda a, b: b, (0, 0, 1, 0)),
        (lambda a, b: 2 * a + b, (1, 0, 0, 1)),  # the known flaw: two separate bits count as shared
    ],
)
def test_parts_of_known_tables_in_bits(target, expected):
    parts = [value / math.log(2) for value in information_parts(table_of(target)).values()]
    assert parts == pytest.approx(expected, abs=1e-9)


def test_a_bit_that_both_sources_have_is_redundant():
    p = torch.zeros(2, 2, 2)
    p[0, 0, 0] = p[1, 1, 1] = 1
    parts = [value / math.log(2) for value in information_parts(p).values()]
    assert parts == pytest.approx((1, 0, 0, 0), abs=1e-9)


@pytest.mark.parametrize(
    "p", [torch.zeros(2, 2), -torch.ones(2, 2), torch.ones(2), torch.full((2, 2), math.nan)]
)
def test_what_is_no_table_is_refused(p):
    with pytest.raises(ValueError, match="p: expected a table of 2 axes"):
        mutual_information(p)
