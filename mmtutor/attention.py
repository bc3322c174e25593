r"""Attention: where a query looks in a sequence, and what it brings back from there.

A query :math:`q` scores the positions :math:`j` of a sequence, a softmax turns the scores :math:`e_j` into
weights :math:`\alpha_j`, and the context is the mean of the values under them. The kinds differ in the score:

=========================== ========================================== =========================
kind                        score                                      looks at
=========================== ========================================== =========================
:class:`AdditiveAttention`  :math:`w^\top\tanh(W_qq+W_kk_j)`            content
:class:`ContentAttention`   :math:`\beta\,\hat q^\top\hat k_j`          content, by direction only
:class:`DotAttention`       :math:`q^\top k_j`                         content
:class:`ScaledDotAttention` :math:`q^\top k_j/\sqrt D`                 content
:class:`LocationAttention`  :math:`(Wq)_j`                             place
:class:`LocalAttention`     any of these, in a window around a place   both
:class:`HybridAttention`    additive, and where the last query looked  both
=========================== ========================================== =========================

All keep one contract, that of :class:`Attention`. :class:`MultiHeadAttention` is the scaled product for many
queries at once, several times side by side.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmtutor.contrastive import check_positive, unit

Attended = tuple[Float[Tensor, "batch value_dim"], Float[Tensor, "batch length"]]


def masked_softmax(scores: Float[Tensor, "*shape"], valid: Bool[Tensor, "..."]) -> Float[Tensor, "*shape"]:
    r"""Softmax over the real positions of the last axis; zeros in a row that has none.

    .. math:: \alpha_j=\frac{[\,j\in\mathcal V\,]\,e^{e_j}}{\sum_{i\in\mathcal V}e^{e_i}}

    with the set :math:`\mathcal V` of real positions. What stands at the others, be it NaN, has no influence,
    and the gradient there is exactly zero.

    Args:
        scores: :math:`e`, ``(..., L)``. NaN or plus infinity at a real position makes its own row NaN.
        valid: :math:`\mathcal V`, bool, of the same shape or one that broadcasts to it.

    Returns:
        :math:`\alpha`, in the shape and type of ``scores``.

    Raises:
        ValueError: for a mask of another type, or a shape that does not broadcast.

    Example:
        >>> scores = torch.tensor([[0.0, 0.0, torch.nan], [1.0, 2.0, 3.0]])
        >>> masked_softmax(scores, torch.tensor([[True, True, False], [False, False, False]]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    if valid.dtype != torch.bool or not _broadcasts(valid.shape, scores.shape):
        raise ValueError(
            f"valid: expected bool of a shape that broadcasts to {tuple(scores.shape)}, "
            f"found {valid.dtype} of shape {tuple(valid.shape)}"
        )
    some = valid.any(-1, keepdim=True)
    # a softmax over nothing but minus infinity is NaN, and so is its gradient
    elsewhere = torch.where(some, -math.inf, 0.0).to(scores.dtype)
    return torch.where(some, torch.where(valid, scores, elsewhere).softmax(-1), 0)


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(
        n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False)
    )


def _check_sequences(keys: Tensor, values: Tensor, valid: Tensor | None, batch: int, dim: int) -> None:
    if keys.ndim != 3 or (keys.shape[0], keys.shape[2]) != (batch, dim):
        raise ValueError(f"keys: expected shape ({batch}, L, {dim}), found {tuple(keys.shape)}")
    if values.ndim != 3 or values.shape[:2] != keys.shape[:2]:
        B, L = keys.shape[:2]
        raise ValueError(f"values: expected shape ({B}, {L}, V), found {tuple(values.shape)}")
    if valid is not None and (valid.dtype != torch.bool or valid.shape != keys.shape[:2]):
        raise ValueError(
            f"valid: expected bool of shape {tuple(keys.shape[:2])}, "
            f"found {valid.dtype} of shape {tuple(valid.shape)}"
        )


def _check_floats(**tensors: Tensor) -> None:
    for name, x in tensors.items():
        if not x.is_floating_point():
            raise TypeError(f"{name}: expected floats, found {x.dtype}")


# One query


class Attention(nn.Module):
    r"""Where one query looks in a sequence: what all kinds have in common.

    .. math:: \alpha=\mathrm{softmax}_{j\in\mathcal V}\,e_j(q,k),\qquad c=\sum_{j\in\mathcal V}\alpha_jv_j

    with the set :math:`\mathcal V` of real positions. Weights are not negative and sum to one over
    :math:`\mathcal V`. What stands in place of padding has no influence, neither on the context nor on a
    gradient; it may be NaN. A query with nothing to read, all padding or a sequence of length 0, gets zeros.

    A kind says in ``scores`` how it makes :math:`e`. A kind with a past reads where the last query looked:
    ``state`` is the weights that the last step returned, so that a loop is the same for all kinds::

        state = None
        for query in queries:
            context, state = attention(query, keys, values, valid, state)

    At the first step, without a state, there is no past. Kinds without a past check a state and ignore it.

    Args:
        dim: ``D``, width of query and keys.

    Shapes: query ``(B, D)``, keys ``(B, L, D)``, values ``(B, L, V)`` (by default the keys), valid, bool
    ``(B, L)`` (by default all are real), state ``(B, L)`` -> context ``(B, V)`` and weights ``(B, L)``, both
    in the type of the values.

    Raises:
        ValueError: for a width below 1; (the call) for any other shape, or a mask that is not bool.
        TypeError: (the call) for a query, keys, values or a state that are not floats.

    Example:
        >>> attention, keys = DotAttention(dim=2), torch.tensor([[[1.0, 0.0], [1.0, 0.0], [torch.nan] * 2]])
        >>> attention(torch.ones(1, 2), keys, valid=torch.tensor([[True, True, False]]))
        (tensor([[1., 0.]]), tensor([[0.5000, 0.5000, 0.0000]]))
    """

    def __init__(self, dim: int):
        super().__init__()
        check_positive("dim", dim)
        self.dim = dim

    def forward(
        self,
        query: Float[Tensor, "batch dim"],
        keys: Float[Tensor, "batch length dim"],
        values: Float[Tensor, "batch length value_dim"] | None = None,
        valid: Bool[Tensor, "batch length"] | None = None,
        state: Float[Tensor, "batch length"] | None = None,
    ) -> Attended:
        values = keys if values is None else values
        self._check(query, keys, values, valid, state)
        if valid is None:
            valid = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
        # `where`, because zero times NaN is NaN, in the context and in the gradient of the weights
        keys, values = (torch.where(valid[..., None], x, 0) for x in (keys, values))
        if state is not None:
            state = torch.where(valid, state, 0)
        weights = self.weigh(query, keys, valid, state).to(values.dtype)
        return torch.einsum("bl,blv->bv", weights, values), weights

    def weigh(
        self, query: Tensor, keys: Tensor, valid: Bool[Tensor, "batch length"], state: Tensor | None
    ) -> Float[Tensor, "batch length"]:
        """Make weights ``(B, L)``; keys and state are zero at padding."""
        return masked_softmax(self.scores(query, keys, state), valid)

    def scores(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Float[Tensor, "batch length"]:
        """Score all positions, ``(B, L)``; keys and state are zero at padding."""
        raise NotImplementedError

    def _check(
        self, query: Tensor, keys: Tensor, values: Tensor, valid: Tensor | None, state: Tensor | None
    ) -> None:
        if query.ndim != 2 or query.shape[1] != self.dim:
            raise ValueError(f"query: expected shape (B, {self.dim}), found {tuple(query.shape)}")
        _check_sequences(keys, values, valid, len(query), self.dim)
        _check_floats(query=query, keys=keys, values=values)
        if state is not None:
            _check_floats(state=state)
            if state.shape != keys.shape[:2]:
                expected = tuple(keys.shape[:2])
                raise ValueError(f"state: expected shape {expected}, found {tuple(state.shape)}")


class AdditiveAttention(Attention):
    r"""A small network of query and key, :math:`e_j=w^\top\tanh(W_qq+W_kk_j)`.

    Args:
        dim: see :class:`Attention`.
        hidden: rows of :math:`W_q` and :math:`W_k`; by default ``dim``.

    Source:
        Bahdanau, Cho and Bengio (2015).

    Example:
        >>> attention = AdditiveAttention(dim=4, hidden=3)
        >>> context, weights = attention(torch.randn(2, 4), torch.randn(2, 5, 4))
        >>> context.shape, weights.shape
        (torch.Size([2, 4]), torch.Size([2, 5]))
    """

    def __init__(self, dim: int, hidden: int | None = None):
        super().__init__(dim)
        hidden = dim if hidden is None else hidden
        check_positive("hidden", hidden)
        self.W_q = nn.Linear(dim, hidden, bias=False)
        self.W_k = nn.Linear(dim, hidden, bias=False)
        self.w = nn.Linear(hidden, 1, bias=False)

    def scores(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Float[Tensor, "batch length"]:
        return self.w(self.mix(query, keys, state).tanh()).squeeze(2)

    def mix(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Float[Tensor, "batch length hidden"]:
        """Return what goes into the tanh."""
        return self.W_q(query)[:, None] + self.W_k(keys)


class ContentAttention(Attention):
    r"""The angle between query and key, and how much it counts: :math:`e_j=\beta\,\hat q^\top\hat k_j`.

    The length of a vector does not matter, only its direction; a zero vector has cosine 0 to everything.
    :math:`\beta\to0` looks everywhere alike, :math:`\beta\to\infty` at the nearest key alone.

    Args:
        dim: see :class:`Attention`.
        sharpness: :math:`\beta>0` at the start. It is learnt, by its logarithm.

    Raises:
        ValueError: for a sharpness that is not positive.

    Source:
        Graves, Wayne and Danihelka (2014). There a network makes :math:`\beta` anew at each step; here it is
        one number for all.

    Example:
        >>> attention, keys = ContentAttention(dim=2, sharpness=5.0), torch.tensor([[[9.0, 0.0], [0.1, 0.1]]])
        >>> attention(torch.tensor([[1.0, 1.0]]), keys)[1].detach()  # the short key has the right direction
        tensor([[0.1878, 0.8122]])
    """

    def __init__(self, dim: int, sharpness: float = 10.0):
        super().__init__(dim)
        check_positive("sharpness", sharpness)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))

    @property
    def sharpness(self) -> Float[Tensor, ""]:
        r"""Return :math:`\beta`."""
        return self.log_sharpness.exp()

    def scores(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Float[Tensor, "batch length"]:
        directions = unit(keys.flatten(0, 1)).view_as(keys)
        return self.sharpness * torch.einsum("bd,bld->bl", unit(query), directions)


class DotAttention(Attention):
    r"""The product of query and key, :math:`e_j=q^\top k_j`.

    If the entries of both are independent with mean 0 and variance 1, the score has variance ``D``: the wider
    the vectors, the nearer the weights are to a single one. See :class:`ScaledDotAttention`.

    Args:
        dim: see :class:`Attention`.

    Source:
        Luong, Pham and Manning (2015).

    Example:
        >>> keys = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
        >>> DotAttention(dim=2)(torch.tensor([[3.0, 5.0]]), keys)[1]
        tensor([[0.0474, 0.9526]])
    """

    def scores(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Float[Tensor, "batch length"]:
        return torch.einsum("bd,bld->bl", query, keys)


class ScaledDotAttention(DotAttention):
    r"""The product of query and key in units of its spread, :math:`e_j=q^\top k_j/\sqrt D`.

    Args:
        dim: see :class:`Attention`.

    Source:
        Vaswani et al. (2017), without the projections, for which see :class:`MultiHeadAttention`.

    Example:
        >>> q, k = torch.randn(2, 4), torch.randn(2, 5, 4)
        >>> torch.allclose(ScaledDotAttention(dim=4)(q, k)[1], DotAttention(dim=4)(q / 2, k)[1])
        True
    """

    def scores(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Float[Tensor, "batch length"]:
        return super().scores(query / math.sqrt(self.dim), keys, state)


class LocationAttention(Attention):
    r"""Places by number, whatever stands there: :math:`e_j=(Wq)_j`.

    The table :math:`W` has one row for each position, so there is a longest sequence. Keys are not looked at,
    unless they are the values.

    Args:
        dim: see :class:`Attention`.
        max_length: rows of :math:`W`.

    Raises:
        ValueError: (the call) for a sequence longer than the table.

    Source:
        Luong, Pham and Manning (2015). There, what goes beyond the table is not looked at; here it is an
        error.

    Example:
        >>> attention, q = LocationAttention(dim=4, max_length=8), torch.randn(1, 4)
        >>> torch.equal(attention(q, torch.zeros(1, 5, 4))[1], attention(q, torch.randn(1, 5, 4))[1])
        True
    """

    def __init__(self, dim: int, max_length: int = 128):
        super().__init__(dim)
        check_positive("max_length", max_length)
        self.W = nn.Linear(dim, max_length, bias=False)

    def scores(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Float[Tensor, "batch length"]:
        length, longest = keys.shape[1], self.W.out_features
        if length > longest:
            raise ValueError(f"keys: expected at most {longest} positions, as in the table; found {length}")
        return self.W(query)[:, :length]


class LocalAttention(Attention):
    r"""A place is predicted; content is looked at in a window around it, and the nearer the more.

    .. math:: p=(n-1)\,\sigma\big(w^\top\tanh(Wq)\big),\qquad
              \alpha_j\propto[\,|j-p|\le r\,]\;\exp\Big(e_j-\frac{(j-p)^2}{2(r/2)^2}\Big)

    with the scores :math:`e_j` of any kind and positions :math:`j=0,\dots,n-1` counted over what is real:
    padding, wherever it stands, moves nothing. (A window of columns could hold nothing but padding.) The
    place is learnt through the Gaussian; where the window ends there is a step, and no gradient.
    :math:`r\to\infty` is the kind that makes :math:`e`.

    Args:
        dim: see :class:`Attention`.
        radius: :math:`r\ge1`, half the width of the window, in positions.
        content: the kind that makes :math:`e`; by default :class:`ScaledDotAttention`.

    Raises:
        ValueError: for a radius below 1, or a kind of another width.

    Source:
        Luong, Pham and Manning (2015), local-p. There the Gaussian is multiplied on weights that already sum
        to one in the window, and the product is left as it is: where all scores are equal it sums to
        about one half (0.50 for a window of 5 positions, 0.58 of 21). Here it is divided by its sum. Their
        :math:`p` reaches from 0 to the length of the sequence; ours from its first position to its last.

    Example:
        >>> attention = LocalAttention(dim=4, radius=1)
        >>> attention(torch.zeros(1, 4), torch.ones(1, 5, 4))[1].detach()  # the middle, e**-2 of it beside
        tensor([[0.0000, 0.1065, 0.7870, 0.1065, 0.0000]])
    """

    def __init__(self, dim: int, radius: float = 2.0, content: Attention | None = None):
        super().__init__(dim)
        if not radius >= 1:
            raise ValueError(f"radius: expected at least 1, found {radius}")
        self.radius = radius
        self.content = ScaledDotAttention(dim) if content is None else content
        if self.content.dim != dim:
            raise ValueError(f"content: expected a kind of width {dim}, found {self.content.dim}")
        self.W = nn.Linear(dim, dim, bias=False)
        self.w = nn.Linear(dim, 1, bias=False)

    def centre(
        self, query: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch 1"]:
        """Return the predicted place ``p``, ``(B, 1)``, in real positions counted from 0."""
        last = (valid.sum(1, keepdim=True) - 1).clamp(min=0)
        share = self.w(self.W(query).tanh()).sigmoid()
        return last * share.to(torch.promote_types(share.dtype, torch.float32))  # half counts only so far

    def weigh(
        self, query: Tensor, keys: Tensor, valid: Bool[Tensor, "batch length"], state: Tensor | None
    ) -> Float[Tensor, "batch length"]:
        distance = valid.cumsum(1) - 1 - self.centre(query, valid)
        log_gaussian = -(distance**2) / (2 * (self.radius / 2) ** 2)
        near = valid & (distance.abs() <= self.radius)
        return masked_softmax(self.content.scores(query, keys, state) + log_gaussian, near)


class HybridAttention(AdditiveAttention):
    r"""Content, and where the last query looked: an additive score that also sees the weights before.

    .. math:: e_j=w^\top\tanh\big(W_qq+W_kk_j+U(F*\alpha^{\text{before}})_j\big)

    A convolution (as in every deep-learning library, a correlation) with several kernels :math:`F` shows each
    position the weights around it, so that "one further than before" can be learnt. The weights are those of
    ``state``, see :class:`Attention`; beyond the ends of the sequence and at padding they are zero. Without a
    state, or with :math:`F=0`, this is :class:`AdditiveAttention`. Gradients flow through the state into the
    steps before; detach it to stop them.

    Args:
        dim: see :class:`Attention`.
        hidden: see :class:`AdditiveAttention`.
        filters: number of kernels.
        kernel_size: positions that a kernel sees, an odd number.

    Raises:
        ValueError: for an even kernel size.

    Source:
        Chorowski, Bahdanau, Serdyuk, Cho and Bengio (2015), without the bias and without sharpening.

    Example:
        >>> attention, keys = HybridAttention(dim=4), torch.randn(2, 5, 4)
        >>> _, first = attention(torch.randn(2, 4), keys)
        >>> context, second = attention(torch.randn(2, 4), keys, state=first)
        >>> second.shape
        torch.Size([2, 5])
    """

    def __init__(self, dim: int, hidden: int | None = None, *, filters: int = 8, kernel_size: int = 5):
        super().__init__(dim, hidden)
        check_positive("filters", filters)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, found {kernel_size}")
        self.kernels = nn.Conv1d(1, filters, kernel_size, padding=kernel_size // 2, bias=False)
        self.U = nn.Linear(filters, self.W_k.out_features, bias=False)

    def mix(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Float[Tensor, "batch length hidden"]:
        by_content = super().mix(query, keys, state)
        if state is None or state.numel() == 0:  # PyTorch refuses to convolve nothing
            return by_content
        before = self.kernels(state[:, None].to(by_content.dtype))
        return by_content + self.U(before.mT)


# Many queries, many heads


class MultiHeadAttention(nn.Module):
    r"""The scaled product for many queries, in ``H`` subspaces of width ``D / H`` side by side.

    .. math:: \alpha^h=\mathrm{softmax}\frac{(XW_q^h)(YW_k^h)^\top}{\sqrt{D/H}},\qquad
              \mathrm{out}=W_o\big[\alpha^1YW_v^1;\dots;\alpha^HYW_v^H\big]

    (each map with a bias). What stands in place of padding has no influence, as in :class:`Attention`. In
    self-attention, where ``query`` is the very tensor ``keys``, padding asks too, and there NaN and infinity
    count as 0. A query with nothing to read gets zeros, out and weights. If weights are not asked for,
    PyTorch's fused product does the work and never stores them.

    Args:
        dim: ``D``.
        heads: ``H``; they divide ``D``.
        dropout: share of the weights that are dropped in training. Those returned are from before.

    Shapes: query ``(B, Lq, D)``, keys and values ``(B, Lk, D)``, ``values`` by default the keys, valid, bool
    ``(B, Lk)``: which keys are real; ``causal``: query ``i`` reads keys ``0`` to ``i``, for as many keys as
    queries -> out ``(B, Lq, D)`` and, with ``need_weights``, the weights of each head ``(B, H, Lq, Lk)``,
    else ``None``.

    Raises:
        ValueError: for heads that do not divide the width, a dropout outside of 0 to 1; (the call) for any
            other shape, a mask that is not bool, or ``causal`` with different numbers of queries and keys.
        TypeError: (the call) for a query, keys or values that are not floats.

    Source:
        Vaswani et al. (2017). Parameters have the names, shapes and start of PyTorch's
        ``nn.MultiheadAttention``: ``load_state_dict`` takes them over, and the results are the same. Three
        things differ: PyTorch's mask says what is padding, over nothing but padding its result is NaN, and
        the weights it returns are from after the dropout.

    Example:
        >>> attention, peer = MultiHeadAttention(8, heads=2), nn.MultiheadAttention(8, 2, batch_first=True)
        >>> _ = attention.load_state_dict(peer.state_dict())
        >>> x = torch.randn(3, 5, 8)
        >>> out, weights = attention(x, x, x, need_weights=True)
        >>> weights.shape, torch.allclose(out, peer(x, x, x)[0], atol=1e-5)
        (torch.Size([3, 2, 5, 5]), True)
    """

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0):
        super().__init__()
        check_positive("dim", dim)
        check_positive("heads", heads)
        if dim % heads:
            raise ValueError(f"heads: expected a divisor of dim {dim}, found {heads}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a share from 0 to 1, found {dropout}")
        self.dim, self.heads, self.dropout = dim, heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))  # W_q, W_k and W_v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        keys: Float[Tensor, "batch keys dim"],
        values: Float[Tensor, "batch keys dim"] | None = None,
        valid: Bool[Tensor, "batch keys"] | None = None,
        need_weights: bool = False,
        *,
        causal: bool = False,
    ) -> tuple[Float[Tensor, "batch queries dim"], Float[Tensor, "batch heads queries keys"] | None]:
        values = keys if values is None else values
        self._check(query, keys, values, valid, causal)
        if valid is None and keys.shape[1] == 0:  # so that all of them are padding
            valid = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
        if valid is not None:
            query, keys, values = _without_padding(query, keys, values, valid)
        q, k, v = self._project(query, keys, values)
        bias = some = None
        if valid is not None or (causal and need_weights):
            bias, some = self._bias(q, valid, causal)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q / math.sqrt(q.shape[-1]) @ k.mT
            weights = (scores if bias is None else scores.add_(bias)).softmax(-1)
            out = F.dropout(weights, dropout) @ v
        else:
            weights, causal = None, causal and bias is None  # a bias says it already
            out = F.scaled_dot_product_attention(q, k, v, bias, dropout_p=dropout, is_causal=causal)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if valid is not None:
            out = torch.where(some[:, 0], out, 0)
            if need_weights and not some.all():  # a copy only where it is needed
                weights = torch.where(some, weights, 0)
        return out, weights

    def _project(self, query: Tensor, keys: Tensor, values: Tensor) -> list[Tensor]:
        """Return the queries, keys and values of each head, ``(B, H, L, D / H)``."""
        W, b = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        projected = map(F.linear, (query, keys, values), W, b)
        return [x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in projected]

    def _bias(
        self, q: Tensor, valid: Tensor | None, causal: bool
    ) -> tuple[Float[Tensor, "_ 1 _ keys"], Bool[Tensor, "_ 1 _ 1"]]:
        """Return what is added to scores, 0 or minus infinity, and which queries have something to read.

        A query that has nothing reads all, since a softmax over nothing is NaN; zeros replace its result.
        Padding is zero already, so no score there is NaN: a sum does, and it costs less than the `where` of
        :func:`masked_softmax`, which would be another pass over all scores, forward and backward.
        """
        if causal:
            length = q.shape[2]
            past = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
            mask = past[None, None] if valid is None else valid[:, None, None] & past
        else:
            mask = valid[:, None, None]
        some = mask.any(-1, keepdim=True)
        return torch.where(mask | ~some, 0.0, -math.inf).to(q.dtype), some

    def _check(self, query: Tensor, keys: Tensor, values: Tensor, valid: Tensor | None, causal: bool) -> None:
        if query.ndim != 3 or query.shape[2] != self.dim:
            raise ValueError(f"query: expected shape (B, L, {self.dim}), found {tuple(query.shape)}")
        _check_sequences(keys, values, valid, len(query), self.dim)
        if values.shape != keys.shape:
            raise ValueError(f"values: expected shape {tuple(keys.shape)}, found {tuple(values.shape)}")
        _check_floats(query=query, keys=keys, values=values)
        if causal and query.shape[1] != keys.shape[1]:
            raise ValueError(
                f"causal: expected as many keys as queries, found {keys.shape[1]} and {query.shape[1]}"
            )


def _without_padding(query: Tensor, keys: Tensor, values: Tensor, valid: Tensor) -> list[Tensor]:
    """Put zeros in place of padding; in the queries of self-attention only where they are no numbers.

    A query that is padding is computed as PyTorch does, but NaN in it would reach the gradients of all.
    """
    real = valid[..., None]
    clean = torch.where(real, keys, 0)
    return [
        torch.where(real | (query.abs() < math.inf), query, 0) if query is keys else query,
        clean,
        clean if values is keys else torch.where(real, values, 0),
    ]
