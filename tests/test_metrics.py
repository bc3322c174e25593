"""Recall and median rank: against all orders of ties written out, other libraries, and known bounds."""

from itertools import permutations
from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmtutor.metrics import hits_at_k, median_rank, recall_at_k


def ranks_by_every_order(scores: list[float], relevant: list[bool]) -> list[int]:
    """The rank of the first relevant candidate, once for every order in which ties may fall."""
    ranks = []
    for order in permutations(range(len(scores))):
        ranked = sorted(order, key=lambda j: -scores[j])  # stable: ties keep the order drawn
        ranks.append(1 + next(place for place, j in enumerate(ranked) if relevant[j]))
    return ranks


def tied_scores(queries: int, candidates: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores with many ties, and relevant candidates: at least one for each query."""
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(0, 3, (queries, candidates), generator=generator).float()
    relevant = torch.rand(queries, candidates, generator=generator) < 0.4
    relevant[:, 0] |= ~relevant.any(1)
    return similarity, relevant


@pytest.mark.parametrize("seed", range(5))
def test_ties_count_as_the_mean_over_every_order_in_which_they_may_fall(seed):
    similarity, relevant = tied_scores(5, 5, seed)
    for which in (None, relevant):
        right = torch.eye(5, dtype=torch.bool) if which is None else which
        ranks = [ranks_by_every_order(s.tolist(), y.tolist()) for s, y in zip(similarity, right, strict=True)]
        for k in range(1, 6):
            expected = [fmean(rank <= k for rank in of_query) for of_query in ranks]
            assert hits_at_k(similarity, k, which).tolist() == pytest.approx(expected)
            assert recall_at_k(similarity, k, which) == pytest.approx(fmean(expected))
        middle = sorted(fmean(of_query) for of_query in ranks)[2]
        assert median_rank(similarity, which) == pytest.approx(middle)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_recall_agrees_with_torchmetrics_where_nothing_ties(k):
    from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_recall

    similarity = torch.rand(20, 20) + 0.01  # positive: that library ignores relevant items scored <= 0
    diagonal = torch.eye(20, dtype=torch.bool)
    peer = [retrieval_recall(s, y, top_k=k).item() for s, y in zip(similarity, diagonal, strict=True)]
    assert hits_at_k(similarity, k).tolist() == peer
    relevant = diagonal | (torch.rand(20, 20) < 0.1)
    peer = [retrieval_hit_rate(s, y, top_k=k).item() for s, y in zip(similarity, relevant, strict=True)]
    assert hits_at_k(similarity, k, relevant).tolist() == pytest.approx(peer, abs=1e-12)


@given(n=st.integers(1, 60), k=st.integers(1, 70), score=st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_a_collapsed_model_scores_exactly_chance(n, k, score):
    collapsed = torch.full((n, n), score)
    chance = min(k, n) / n
    assert recall_at_k(collapsed, k) == pytest.approx(chance, rel=1e-14)
    assert recall_at_k(collapsed, k, torch.eye(n, dtype=torch.bool)) == pytest.approx(chance, rel=1e-9)
    assert median_rank(collapsed) == (n + 1) / 2


@given(seed=st.integers(0, 10**6), queries=st.integers(1, 6), candidates=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_recall_lies_between_0_and_1_grows_with_k_and_ends_at_1(seed, queries, candidates):
    similarity, relevant = tied_scores(queries, candidates, seed)
    hits = torch.stack([hits_at_k(similarity, k, relevant) for k in range(1, candidates + 2)])
    assert (hits >= -1e-12).all() and (hits <= 1 + 1e-12).all()
    assert (hits.diff(dim=0) >= -1e-12).all()
    torch.testing.assert_close(hits[-2:], torch.ones(2, queries, dtype=torch.float64))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_only_the_order_of_scores_counts(seed):
    similarity, relevant = tied_scores(6, 6, seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    for changed in (3 * similarity - 7, similarity.exp(), similarity.double()):
        assert recall_at_k(changed, 2, relevant) == recall_at_k(similarity, 2, relevant)
        assert median_rank(changed, relevant) == median_rank(similarity, relevant)
    assert recall_at_k(similarity[order][:, order], 2) == pytest.approx(recall_at_k(similarity, 2))


def test_by_default_the_diagonal_is_relevant():
    similarity, _ = tied_scores(7, 7, 0)
    diagonal = torch.eye(7, dtype=torch.bool)
    for k in (1, 3, 7):
        assert recall_at_k(similarity, k) == pytest.approx(recall_at_k(similarity, k, diagonal), rel=1e-12)
    assert median_rank(similarity) == median_rank(similarity, diagonal)


def test_a_perfect_model_has_recall_1_and_rank_1_and_a_reversed_one_recall_0_and_the_last_rank():
    assert recall_at_k(torch.eye(9), 1) == 1 and median_rank(torch.eye(9)) == 1
    assert recall_at_k(-torch.eye(9), 8) == 0 and median_rank(-torch.eye(9)) == 9


def test_infinite_scores_are_ranked_like_any_others():
    inf = torch.inf
    similarity = torch.tensor([[inf, 0.0, 1.0], [inf, -inf, -inf], [1.0, 2.0, 3.0]])
    assert hits_at_k(similarity, 1).tolist() == [1, 0, 1]
    assert hits_at_k(similarity, 2).tolist() == [1, 0.5, 1]  # behind one, and tied with another
    diagonal = torch.eye(3, dtype=torch.bool)
    assert hits_at_k(similarity, 2, diagonal).tolist() == pytest.approx([1, 0.5, 1])


def test_one_query_may_have_many_candidates_and_one_candidate_is_always_found():
    relevant = torch.tensor([[False, True, False, True]])
    assert recall_at_k(torch.tensor([[0.4, 0.3, 0.2, 0.1]]), 2, relevant) == 1
    assert recall_at_k(torch.tensor([[0.4]]), 1) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_scores_of_any_precision_are_ranked(dtype):
    similarity = torch.eye(300, dtype=dtype)
    similarity[:100] = 0  # a third of the queries know nothing: 256 and more ties must be counted exactly
    assert recall_at_k(similarity, 1) == pytest.approx((200 + 100 / 300) / 300)


@pytest.mark.parametrize("function", [median_rank, lambda s, y=None: recall_at_k(s, 1, y)])
def test_bad_input_is_named_with_what_was_expected(function):
    square = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"similarity: expected shape \(Q, N\), found \(3,\)"):
        function(torch.zeros(3))
    with pytest.raises(ValueError, match=r"similarity: expected shape \(Q, N\), found \(0, 3\)"):
        function(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="similarity: expected numbers, found NaN"):
        function(torch.full((3, 3), torch.nan))
    with pytest.raises(ValueError, match=r"relevant: needed unless Q = N .*, found shape \(2, 3\)"):
        function(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"relevant: expected bool of shape \(3, 3\), found torch.float32"):
        function(square, torch.eye(3))
    with pytest.raises(ValueError, match=r"relevant: expected bool .* found torch.bool of shape \(3, 2\)"):
        function(square, torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one relevant candidate per query, found a row of none"):
        function(square, torch.tensor([[True, False, False]] * 2 + [[False] * 3]))


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_at_least_one(k):
    with pytest.raises(ValueError, match=f"k: expected at least 1, found {k}"):
        recall_at_k(torch.eye(3), k)


def test_the_median_rank_of_an_even_number_of_queries_lies_between_the_middle_two():
    ranks = torch.tensor([1, 2, 5, 9])
    similarity = -torch.arange(10.0).repeat(4, 1)  # candidate j has rank j + 1
    relevant = ranks[:, None] == torch.arange(1, 11)
    assert median_rank(similarity, relevant) == 3.5
