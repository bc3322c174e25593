"""Figures of merit for retrieval. Ties are broken fairly: by the expected outcome of a random order."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def _counts(similarity: Tensor, relevant: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """For each query's best relevant candidate: how many score higher, how many the same, how many of
    these are relevant."""
    if similarity.ndim != 2 or not similarity.numel():
        raise ValueError(f"similarity: expected shape (Q, N), found {tuple(similarity.shape)}")
    if torch.isnan(similarity.sum()) and similarity.isnan().any():
        raise ValueError("similarity: expected numbers, found NaN")
    queries, candidates = similarity.shape
    if relevant is None:
        if queries != candidates:
            raise ValueError(
                f"relevant: needed unless Q = N (the diagonal), found shape {tuple(similarity.shape)}"
            )
        best = similarity.diagonal()[:, None]
    else:
        if relevant.dtype != torch.bool or relevant.shape != similarity.shape:
            raise ValueError(
                f"relevant: expected bool of shape {tuple(similarity.shape)}, "
                f"found {relevant.dtype} of shape {tuple(relevant.shape)}"
            )
        if not relevant.any(1).all():
            raise ValueError(
                "relevant: expected at least one relevant candidate per query, found a row of none"
            )
        best = similarity.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    higher, tied = similarity > best, similarity == best
    right = torch.ones_like(best, dtype=torch.bool) if relevant is None else tied & relevant
    return tuple(mask.sum(1, dtype=torch.int32) for mask in (higher, tied, right))  # faster than int64


def hits_at_k(
    similarity: Float[Tensor, "queries candidates"],
    k: int,
    relevant: Bool[Tensor, "queries candidates"] | None = None,
) -> Float[Tensor, "queries"]:
    r"""For each query, the probability that its ``k`` best candidates hold a relevant one.

    It is 0 or 1 unless scores tie. Among :math:`t` candidates tied with the best relevant one, :math:`r` of
    them relevant, with :math:`h` scoring higher, :math:`n=\min(k-h,t)` are drawn at random:
    :math:`1-\binom{t-r}{n}/\binom tn`, which is :math:`n/t` for :math:`r=1`.

    Args:
        similarity: scores, larger is closer.
        k: how many candidates are looked at, at least 1.
        relevant: which candidates are right; by default candidate ``i`` for query ``i``.

    Raises:
        ValueError: for NaN, other shapes, a query without a relevant candidate, or ``k < 1``.

    Example:
        >>> hits_at_k(torch.tensor([[0.9, 0.1], [0.7, 0.7]]), 1).tolist()
        [1.0, 0.5]
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, found {k}")
    higher, tied, right = _counts(similarity, relevant)
    drawn = (k - higher).clamp(min=0).minimum(tied)
    if relevant is None:
        return drawn.double() / tied
    tied, right, drawn = tied.double(), right.double(), drawn.double()
    miss = torch.lgamma(tied - right + 1) + torch.lgamma(tied - drawn + 1)
    miss = miss - torch.lgamma((tied - right - drawn).clamp(min=0) + 1) - torch.lgamma(tied + 1)
    return torch.where(drawn > tied - right, 1.0, 1 - miss.exp())


def recall_at_k(
    similarity: Float[Tensor, "queries candidates"],
    k: int,
    relevant: Bool[Tensor, "queries candidates"] | None = None,
) -> float:
    r"""Share of queries whose ``k`` best candidates hold a relevant one: the mean of :func:`hits_at_k`.

    A collapsed model, for which all candidates look alike, scores exactly :math:`k/N`: chance.

    Example:
        >>> recall_at_k(torch.zeros(10, 10), 1)
        0.1
    """
    return hits_at_k(similarity, k, relevant).mean().item()


def median_rank(
    similarity: Float[Tensor, "queries candidates"],
    relevant: Bool[Tensor, "queries candidates"] | None = None,
) -> float:
    r"""Median over queries of the rank of the first relevant candidate; 1 is best.

    Ties count by expectation, :math:`h+(t+1)/(r+1)`: a collapsed model has rank :math:`(N+1)/2`.

    Example:
        >>> median_rank(torch.eye(5))
        1.0
        >>> median_rank(torch.zeros(5, 5))
        3.0
    """
    higher, tied, right = _counts(similarity, relevant)
    return (higher + (tied + 1) / (right + 1)).double().quantile(0.5).item()
