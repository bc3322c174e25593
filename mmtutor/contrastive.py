r"""Contrastive losses: pull true pairs together, push the others apart.

Row ``i`` of ``a`` and row ``i`` of ``b`` embed the same thing, seen through two modalities. Every loss here
is a function of all ``B x B`` similarities or distances. The gradients of the two main losses are derived in
chapter 06 and written out below, so that no loss keeps more ``B x B`` matrices than it needs.
"""

import functools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Scalar = Float[Tensor, ""]


def check_embeddings(**embeddings: Tensor) -> None:
    """Raise a ``ValueError``, naming the argument, unless each is a finite, non-empty ``(N, D)``."""
    for name, z in embeddings.items():
        if z.ndim != 2 or not z.numel():
            raise ValueError(f"{name}: expected embeddings of shape (N, D), found {tuple(z.shape)}")
        if not torch.isfinite(z.detach().sum()):
            raise ValueError(f"{name}: expected finite embeddings, found NaN or infinity")


def check_pair(a: Tensor, b: Tensor) -> None:
    """The same for two tensors whose rows are pairs: they must have one shape ``(B, D)``."""
    check_embeddings(a=a, b=b)
    if a.shape != b.shape:
        raise ValueError(
            f"a, b: expected two tensors of one shape (B, D), found {tuple(a.shape)}, {tuple(b.shape)}"
        )


def check_positive(name: str, value: float | Tensor) -> None:
    if not (value > 0):
        raise ValueError(f"{name}: expected a positive number, found {value}")


def check_match(match: Tensor, a: Tensor, b: Tensor) -> None:
    expected = (len(a), len(b))
    if match.dtype != torch.bool or match.shape != expected:
        raise ValueError(
            f"match: expected bool of shape {expected}, found {match.dtype} of shape {tuple(match.shape)}"
        )


def in_full_precision(loss):
    """Compute a function of ``a, b`` in float32 or better, inside of autocast too.

    bfloat16 has three digits: too few for a sum of exponentials, or for a difference of near points.
    """

    @functools.wraps(loss)
    def wrapped(a, b, *args, **kwargs):
        half = (torch.bfloat16, torch.float16)
        a, b = (z.float() if z.dtype in half else z for z in (a, b))
        with torch.autocast(a.device.type, enabled=False):
            return loss(a, b, *args, **kwargs)

    return wrapped


def unit(z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    r"""Scale each row to length one, :math:`\hat z=z/\lVert z\rVert`.

    A zero row has no direction: it stays zero, with gradient zero. (PyTorch's ``normalize`` divides by
    :math:`10^{-12}` there, in the gradient too.)

    Example:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    length = z.norm(dim=-1, keepdim=True)
    return z / length.masked_fill(length == 0, math.inf)


@in_full_precision
def cosine(a: Float[Tensor, "n dim"], b: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    r"""Cosine similarity of all pairs, :math:`s_{ij}=\hat a_i^\top\hat b_j`, between -1 and 1.

    A zero vector has similarity 0 to everything.

    Example:
        >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        tensor([[1., 0.]])
    """
    return unit(a) @ unit(b).T


@in_full_precision
def info_nce(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    temperature: float | Tensor = 0.07,
    *,
    chunk_size: int | None = None,
) -> Scalar:
    r"""InfoNCE in both directions: a classification of each thing's partner among all ``B`` candidates.

    .. math:: L=\frac1{2B}\sum_i\Big[-\log\frac{e^{s_{ii}/\tau}}{\sum_je^{s_{ij}/\tau}}
              -\log\frac{e^{s_{ii}/\tau}}{\sum_je^{s_{ji}/\tau}}\Big],\qquad s_{ij}=\hat a_i^\top\hat b_j

    Args:
        a, b: embeddings ``(B, D)``; normalised here. Row ``i`` of both is one thing.
        temperature: :math:`\tau>0`; a tensor may be learnt (not together with ``chunk_size``).
        chunk_size: rows of the similarity matrix held at a time. The result is the same; memory is
            ``chunk_size x B`` instead of ``B x B``, and the rows are computed again in the backward pass.
            First derivatives only.

    Returns:
        The mean loss in nats: 0 if every partner is certain, ``log B`` if nothing is known.

    Raises:
        ValueError: for other shapes, NaN, a temperature or chunk size that is not positive.

    Source:
        van den Oord, Li and Vinyals (2018); the symmetric form of Radford et al. (2021).

    Example:
        >>> a = torch.eye(4)
        >>> round(info_nce(a, a, temperature=1.0).item(), 4)
        0.7437
    """
    check_pair(a, b)
    check_positive("temperature", temperature)
    a, b = unit(a), unit(b)
    if chunk_size is not None:
        check_positive("chunk_size", chunk_size)
        if isinstance(temperature, Tensor) and temperature.requires_grad:
            raise ValueError("temperature: expected a fixed number with chunk_size, found one that is learnt")
        return _ChunkedInfoNCE.apply(a, b, float(temperature), int(chunk_size))
    s = a / temperature @ b.T
    partner_in_row, partner_in_column = s.log_softmax(1).diagonal(), s.log_softmax(0).diagonal()
    return -(partner_in_row + partner_in_column).mean() / 2


class _ChunkedInfoNCE(torch.autograd.Function):
    """InfoNCE of normalised ``a, b`` from a few rows of ``s`` at a time; the backward pass is the chapter's
    equation eq-infonce-gradient."""

    @staticmethod
    def forward(ctx, a, b, temperature, chunk_size):
        rows = a.new_empty(len(a))
        columns = a.new_full((len(b),), -math.inf)
        for i in range(0, len(a), chunk_size):
            s = a[i : i + chunk_size] @ b.T / temperature
            rows[i : i + chunk_size] = s.logsumexp(1)
            columns = torch.logaddexp(columns, s.logsumexp(0))
        ctx.save_for_backward(a, b, rows, columns)
        ctx.temperature, ctx.chunk_size = temperature, chunk_size
        return (rows + columns).mean() / 2 - (a * b).sum(1).mean() / temperature

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        a, b, rows, columns = ctx.saved_tensors
        grad_a, grad_b = torch.empty_like(a), -b.new_ones(1) * 2 * a
        for i in range(0, len(a), ctx.chunk_size):
            chunk = slice(i, i + ctx.chunk_size)
            s = a[chunk] @ b.T / ctx.temperature
            p = (s - rows[chunk, None]).exp_() + s.sub_(columns).exp_()  # P_row + P_col
            grad_a[chunk] = p @ b - 2 * b[chunk]
            grad_b.addmm_(p.T, a[chunk])
        factor = upstream / (2 * len(a) * ctx.temperature)
        return grad_a * factor, grad_b * factor, None, None


@in_full_precision
def multi_positive_nce(
    a: Float[Tensor, "n dim"],
    b: Float[Tensor, "m dim"],
    match: Bool[Tensor, "n m"],
    temperature: float | Tensor = 0.07,
) -> Scalar:
    r"""InfoNCE where a row may have several partners: the mean of their log-probabilities, both directions.

    .. math:: L=\frac12\big[\ell(s,y)+\ell(s^\top,y^\top)\big],\quad
              \ell(s,y)=-\frac1{|R|}\sum_{i\in R}\frac1{|P_i|}\sum_{j\in P_i}
              \log\frac{e^{s_{ij}/\tau}}{\sum_ke^{s_{ik}/\tau}}

    :math:`P_i=\{j:y_{ij}=1\}` are the partners of row ``i`` and ``R`` the rows that have any; the others only
    serve as negatives. ``a`` and ``b`` may differ in length: a batch of pictures against all names. With
    ``match`` the identity this is :func:`info_nce`.

    Args:
        a, b: embeddings ``(N, D)`` and ``(M, D)``; normalised here.
        match: :math:`y`, bool ``(N, M)``: whether ``a[i]`` and ``b[j]`` belong together.
        temperature: :math:`\tau>0`.

    Raises:
        ValueError: for other shapes, NaN, a temperature that is not positive, or no partner at all.

    Source:
        Khosla et al. (2020), their outer sum; here between two modalities and in both directions.

    Example:
        >>> a, match = torch.eye(4), torch.eye(4, dtype=torch.bool)
        >>> bool(torch.isclose(multi_positive_nce(a, a, match, 1.0), info_nce(a, a, 1.0)))
        True
    """
    check_embeddings(a=a, b=b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a, b: expected one width D, found {tuple(a.shape)}, {tuple(b.shape)}")
    check_match(match, a, b)
    check_positive("temperature", temperature)
    if not match.any():
        raise ValueError("match: expected at least one true pair, found none")
    s = cosine(a, b) / temperature

    def one_way(s, match):
        log_p = s - s.logsumexp(1, keepdim=True)
        partners = match.sum(1)
        mean_log_p = torch.where(match, log_p, 0).sum(1) / partners.clamp(min=1)
        return -mean_log_p.sum() / (partners > 0).sum()

    return (one_way(s, match) + one_way(s.T, match.T)) / 2


@in_full_precision
def margin_contrastive(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    match: Bool[Tensor, "batch batch"],
    *,
    margin: float = 1.0,
    metric: str = "euclidean",
    squared: bool = True,
    reduction: str = "mean",
) -> Scalar | Float[Tensor, "batch batch"]:
    r"""Margin loss over all pairs: true pairs at distance 0, the others at least a margin apart.

    .. math:: \ell_{ij}=y_{ij}\,\Delta_{ij}+(1-y_{ij})\max(0,\gamma-\Delta_{ij}),\qquad
              \text{or with squares, }\; y_{ij}\,\Delta_{ij}^2+(1-y_{ij})\max(0,\gamma-\Delta_{ij})^2

    A Euclidean distance has no gradient where two points coincide; it is defined as zero there. Points
    closer than rounding can tell (:math:`\Delta^2\le8\,\epsilon\,(|a|^2+|b|^2)`) count as coincident.

    Args:
        a, b: embeddings ``(B, D)``, used as they are (normalise them first if the scale should not matter).
        match: :math:`y`, bool ``(B, B)``; a row may hold several true pairs.
        margin: :math:`\gamma>0`, in units of the distance.
        metric: ``"euclidean"``, or ``"cosine"`` for :math:`\Delta=1-s`.
        squared: square both terms (Hadsell's form without its factor 1/2) or neither.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (the matrix :math:`\ell`).

    Raises:
        ValueError: for other shapes, NaN, a margin that is not positive, unknown metric or reduction.

    Source:
        Hadsell, Chopra and LeCun (2006).

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 0.5], [3.0, 0.0]])
        >>> margin_contrastive(a, b, torch.eye(2, dtype=torch.bool), squared=False, reduction="sum")
        tensor(0.5000)
    """
    check_pair(a, b)
    check_match(match, a, b)
    check_positive("margin", margin)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', found {reduction!r}")
    if metric == "euclidean":
        loss = _EuclideanMargin.apply(a, b, match, margin, squared, reduction)
        return loss / match.numel() if reduction == "mean" else loss
    if metric != "cosine":
        raise ValueError(f"metric: expected 'euclidean' or 'cosine', found {metric!r}")
    distance = 1 - cosine(a, b)
    loss = torch.where(match, distance, (margin - distance).clamp(min=0))
    loss = loss**2 if squared else loss
    return {"mean": loss.mean, "sum": loss.sum, "none": lambda: loss}[reduction]()


class _EuclideanMargin(torch.autograd.Function):
    r"""The sum (or matrix) of the margin loss; the backward pass is the chapter's
    equation eq-margin-gradient.

    It keeps one matrix, :math:`w_{ij}=\ell'(\Delta_{ij})/\Delta_{ij}`, because
    :math:`\partial L/\partial a_i=\sum_jw_{ij}(a_i-b_j)`.
    """

    @staticmethod
    def forward(ctx, a, b, match, margin, squared, reduction):
        size = (a * a).sum(1)[:, None] + (b * b).sum(1)
        delta = torch.addmm(size, a, b.T, alpha=-2)  # squared distances
        coincident = delta <= 8 * torch.finfo(a.dtype).eps * size
        delta = delta.masked_fill_(coincident, 0).sqrt_()
        shortfall = (margin - delta).clamp_(min=0)  # how much closer than the margin
        loss = torch.where(match, delta, shortfall)
        if squared:
            w = torch.where(match, 2.0, shortfall.mul_(-2).div_(delta))
            loss = loss.square_()
        else:
            w = torch.where(match, 1.0, -(shortfall > 0).to(delta.dtype)).div_(delta)
        w.masked_fill_(coincident, 0)
        ctx.save_for_backward(a, b, w)
        return loss if reduction == "none" else loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        a, b, w = ctx.saved_tensors
        w = w * upstream
        grad_a = w.sum(1)[:, None] * a - w @ b
        grad_b = w.sum(0)[:, None] * b - w.T @ a
        return grad_a, grad_b, None, None, None, None


@in_full_precision
def sigmoid_contrastive(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    temperature: float | Tensor = 0.1,
    bias: float | Tensor = -10.0,
) -> Scalar:
    r"""Sigmoid loss: each pair is one yes-or-no question, "are these two the same thing?".

    .. math:: L=-\frac1B\sum_{ij}\log\sigma\big(y_{ij}(s_{ij}/\tau+\beta)\big),\qquad
              y_{ij}=1\text{ if }i=j,\text{ else }-1

    The bias starts low because only one pair in ``B`` is true.

    Args:
        a, b: embeddings ``(B, D)``; normalised here.
        temperature: :math:`\tau>0`.
        bias: :math:`\beta`, the log-odds of a pair with similarity 0.

    Raises:
        ValueError: for other shapes, NaN, or a temperature that is not positive.

    Source:
        Zhai et al. (2023), SigLIP.

    Example:
        >>> a = torch.eye(2)
        >>> round(sigmoid_contrastive(a, a, temperature=0.1, bias=-5.0).item(), 4)
        0.0134
    """
    check_pair(a, b)
    check_positive("temperature", temperature)
    logits = cosine(a, b) / temperature + bias
    y = 2 * torch.eye(len(a), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(y * logits).sum() / len(a)


@in_full_precision
def alignment(a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]) -> Scalar:
    r"""Mean squared distance of true pairs, :math:`\frac1B\sum_i\lVert\hat a_i-\hat b_i\rVert^2`.

    Between 0 (all pairs coincide) and 4 (all opposite). Equals :math:`2(1-\bar s_{ii})`.

    Source:
        Wang and Isola (2020), exponent 2.

    Example:
        >>> alignment(torch.eye(2), torch.eye(2)).item()
        0.0
    """
    check_pair(a, b)
    return (unit(a) - unit(b)).square().sum(1).mean()


def uniformity(a: Float[Tensor, "batch dim"], t: float = 2.0) -> Scalar:
    r"""How evenly points cover the sphere: the log-mean of :math:`e^{-t\lVert\hat a_i-\hat a_j\rVert^2}`.

    0 if all points coincide; the more negative, the more even.

    Source:
        Wang and Isola (2020).

    Example:
        >>> round(uniformity(torch.eye(3)).item(), 4)
        -4.0
    """
    check_embeddings(a=a)
    if len(a) < 2:
        raise ValueError(f"a: expected at least 2 points, found {len(a)}")
    i, j = torch.triu_indices(len(a), len(a), offset=1)
    squared = 2 - 2 * cosine(a, a)[i, j]
    return (-t * squared).logsumexp(0) - math.log(len(i))
