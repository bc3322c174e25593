r"""Multimodal attention: one modality's tokens decide where to look among the tokens of another.

A modality :math:`m` is a sequence of tokens :math:`x_{m,1},\dots,x_{m,L_m}\in\mathbb R^D`, of which those in
:math:`\mathcal V_m` are real. The kinds differ in who asks whom:

============================== ======================== ================================================
kind                           who asks                 weights sum to one over
============================== ======================== ================================================
:class:`InteractiveAttention`  a modality's summary     the tokens of another modality
:class:`JointAttention`        a learnt query           the tokens of all modalities together
:class:`CoAttention`           both, by their affinity  the tokens of either modality by itself
:class:`TemporalAttention`     what was read before     the modalities, at each step anew
:class:`CrossModalTransformer` each token               the tokens of another modality, for every head
============================== ======================== ================================================

All keep one contract, that of :class:`CrossModal`. :class:`CrossModalLayer` and :class:`GatedCrossAttention`
are parts to build with: one sequence ``x`` that reads another one ``y``.
"""

import itertools
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmtutor.attention import MultiHeadAttention, ScaledDotAttention, masked_softmax
from mmtutor.contrastive import check_positive

Tokens = dict[str, Float[Tensor, "batch _ dim"]]
Masks = dict[str, Bool[Tensor, "batch _"]]
Weights = dict[str, Float[Tensor, "batch _"]]
PairWeights = dict[tuple[str, str], Float[Tensor, "batch _"]]
Read = tuple[Float[Tensor, "batch own dim"], Float[Tensor, "batch heads own other"] | None]


def _clean(name: str, x: Tensor, valid: Tensor | None, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Return tokens that are zero at padding, and their mask; raise where the shapes are others."""
    if x.ndim != 3 or (dim is not None and x.shape[2] != dim):
        raise ValueError(f"{name}: expected shape (B, L, {dim or 'D'}), found {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected floats, found {x.dtype}")
    if valid is None:
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if valid.dtype != torch.bool or valid.shape != x.shape[:2]:
        raise ValueError(
            f"valid of {name}: expected bool of shape {tuple(x.shape[:2])}, "
            f"found {valid.dtype} of shape {tuple(valid.shape)}"
        )
    # `where`, because zero times NaN is NaN, in a mean and in the gradient of the weights
    return torch.where(valid[..., None], x, 0), valid


def masked_mean(
    x: Float[Tensor, "batch length dim"], valid: Bool[Tensor, "batch length"] | None = None
) -> Float[Tensor, "batch dim"]:
    r"""Average the real tokens of a sequence; zeros if there are none.

    .. math:: s=\frac1{|\mathcal V|}\sum_{j\in\mathcal V}x_j

    Args:
        x: :math:`x_j`, ``(B, L, D)``. What stands in place of padding has no influence.
        valid: :math:`\mathcal V`, bool ``(B, L)``; by default all are real.

    Returns:
        :math:`s`, ``(B, D)``.

    Raises:
        ValueError: for other shapes, or a mask that is not bool.
        TypeError: for tokens that are not floats.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [torch.nan]], [[1.0], [2.0], [3.0]]])
        >>> masked_mean(x, torch.tensor([[True, True, False], [False, False, False]]))
        tensor([[2.],
                [0.]])
    """
    x, valid = _clean("x", x, valid)
    return x.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)


class CrossModal(nn.Module):
    r"""Tokens of several modalities that read each other: what all kinds have in common.

    What stands in place of padding has no influence, neither on a result nor on a gradient; it may be NaN. A
    modality that an item does not have is a row of padding. Weights are not negative, zero at padding, and
    sum to one over what is real; where there is nothing to read, or nobody to ask, they are zeros, and so is
    what is read. An order of the tokens is known only from what is in them, as in
    :class:`~mmtutor.seq2seq.PictureTokens`: weights follow the tokens when these change places
    (:class:`TemporalAttention`, whose tokens are steps in time, says otherwise).

    Args:
        dim: ``D``, width of all tokens.
        modalities: their names, two or more.

    Attributes:
        pairs: all ordered pairs (who asks, who is asked).

    Shapes: tokens, by modality ``(B, L_m, D)``, in any order, and valid, by modality bool ``(B, L_m)``: which
    tokens are real (a modality left out: all) -> a kind's own results.

    Raises:
        ValueError: for a width below 1, fewer than two modalities or one named twice; (the call) for
            modalities that are missing or unknown, another width, different numbers of items, or a mask of
            another shape or type.
        TypeError: (the call) for tokens that are not floats.

    Example:
        >>> class Mean(CrossModal):
        ...     def forward(self, tokens, valid=None):
        ...         tokens, valid = self.present(tokens, valid)
        ...         return sum(masked_mean(tokens[m], valid[m]) for m in self.modalities)
        >>> tokens = {"text": torch.ones(1, 3, 2), "image": torch.full((1, 4, 2), torch.nan)}
        >>> Mean(2, ["image", "text"])(tokens, {"image": torch.zeros(1, 4, dtype=torch.bool)})
        tensor([[1., 1.]])
    """

    def __init__(self, dim: int, modalities: Iterable[str]):
        super().__init__()
        check_positive("dim", dim)
        names = [modalities] if isinstance(modalities, str) else list(modalities)
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"modalities: expected two or more, all different; found {names}")
        self.dim, self.modalities = dim, names
        self.pairs = list(itertools.permutations(names, 2))

    def present(self, tokens: Tokens, valid: Masks | None = None) -> tuple[Tokens, Masks]:
        """Return tokens and masks in the order of ``modalities``; tokens are zero at padding."""
        valid = {} if valid is None else valid
        missing = [m for m in self.modalities if m not in tokens]
        unknown = [m for m in {**tokens, **valid} if m not in self.modalities]
        if missing or unknown:
            raise ValueError(
                f"tokens: expected the modalities {self.modalities}, found {list(tokens)}; "
                f"missing: {missing}, unknown: {unknown}"
            )
        pairs = {m: _clean(m, tokens[m], valid.get(m), self.dim) for m in self.modalities}
        sizes = {m: len(x) for m, (x, _) in pairs.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"tokens: expected as many items of each modality, found {sizes}")
        return {m: x for m, (x, _) in pairs.items()}, {m: here for m, (_, here) in pairs.items()}


# One answer of all modalities


class InteractiveAttention(CrossModal):
    r"""The summary of each modality asks the tokens of every other one.

    .. math:: s_m=\frac1{|\mathcal V_m|}\sum_{j\in\mathcal V_m}x_{m,j},\qquad
              \alpha^{ab}=\underset{j\in\mathcal V_b}{\mathrm{softmax}}\,
              \frac{(W_{ab}s_a)^\top x_{b,j}}{\sqrt D},\qquad
              c^{ab}=\sum_{j\in\mathcal V_b}\alpha^{ab}_jx_{b,j}

    for every ordered pair: :math:`a` asks :math:`b`. The fused vector is
    :math:`z=W[s_1;\dots;s_M;c^{12};c^{13};\dots]+b`. A picture asks the words which of them speak of it, and
    the words ask the picture where that is. An item that lacks :math:`a` or :math:`b` has
    :math:`\alpha^{ab}=0` and :math:`c^{ab}=0`. A large weight is not the only way to point at a token: beside
    the summary, which has all of them, a context that has a little more *or less* of one tells it as well.

    Args:
        dim: see :class:`CrossModal`.
        modalities: see :class:`CrossModal`.

    Shapes: tokens and valid as in :class:`CrossModal` -> the fused vector ``(B, D)`` and weights
    :math:`\alpha^{ab}` by pair, ``(B, L_b)``.

    Source:
        Ma, Li, Zhang and Wang (2017), for the words of a sentence and those of a thing it speaks of. Their
        score is :math:`\tanh(x_j^\top Ws+b)`, between -1 and 1, which bounds how sharp the weights become;
        here it is the scaled product. They fuse the contexts without the summaries.

    Example:
        >>> attention = InteractiveAttention(dim=4, modalities=["image", "text"])
        >>> tokens = {"image": torch.randn(2, 16, 4), "text": torch.randn(2, 5, 4)}
        >>> z, weights = attention(tokens)
        >>> z.shape, weights["image", "text"].shape, weights["text", "image"].shape
        (torch.Size([2, 4]), torch.Size([2, 5]), torch.Size([2, 16]))
    """

    def __init__(self, dim: int, modalities: Iterable[str]):
        super().__init__(dim, modalities)
        self.queries = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in self.pairs)
        self.attention = ScaledDotAttention(dim)
        self.join = nn.Linear((len(self.modalities) + len(self.pairs)) * dim, dim)

    def forward(
        self, tokens: Tokens, valid: Masks | None = None
    ) -> tuple[Float[Tensor, "batch dim"], PairWeights]:
        summaries, contexts, weights = self.read(tokens, valid)
        return self.join(torch.cat([*summaries.values(), *contexts.values()], 1)), weights

    def read(
        self, tokens: Tokens, valid: Masks | None = None
    ) -> tuple[
        dict[str, Float[Tensor, "batch dim"]],
        dict[tuple[str, str], Float[Tensor, "batch dim"]],
        PairWeights,
    ]:
        """Return the summaries by modality, the contexts ``(B, D)`` by pair, and the weights by pair."""
        x, valid = self.present(tokens, valid)
        summaries = {m: masked_mean(x[m], valid[m]) for m in self.modalities}
        contexts, weights = {}, {}
        for (a, b), W in zip(self.pairs, self.queries, strict=True):
            somebody_asks = valid[a].any(1, keepdim=True)
            found = self.attention(W(summaries[a]), x[b], valid=valid[b] & somebody_asks)
            contexts[a, b], weights[a, b] = found
        return summaries, contexts, weights


class JointAttention(CrossModal):
    r"""One softmax over all tokens of all modalities: they compete for the same weight.

    .. math:: \alpha_{m,j}=\underset{(m,j)\,:\,j\in\mathcal V_m}{\mathrm{softmax}}\,
              \frac{q^\top(x_{m,j}+e_m)}{\sqrt D},\qquad
              z=\sum_m\sum_{j\in\mathcal V_m}\alpha_{m,j}x_{m,j}

    with a learnt query :math:`q` and an embedding :math:`e_m` for each modality, which lets one be preferred
    whatever its tokens are. Weights of all modalities together sum to one; what each gets of it is its
    :meth:`share`, which is not yet what it adds to :math:`z`, since values may cancel. A modality with more
    tokens begins with more. It starts at :math:`q=0`, where :math:`z` is the mean of all tokens. No token is
    compared with another one: a match between modalities is not seen.

    Args:
        dim: see :class:`CrossModal`.
        modalities: see :class:`CrossModal`.

    Shapes: tokens and valid as in :class:`CrossModal` -> the fused vector ``(B, D)`` and weights by modality,
    ``(B, L_m)``.

    Source:
        Yang et al. (2016) for a learnt query over the parts of one thing, with a layer and tanh before the
        product; the embedding of a modality as in BERT's segments, Devlin, Chang, Lee and Toutanova (2019),
        here only in the scores.

    Example:
        >>> attention = JointAttention(dim=4, modalities=["image", "text"])
        >>> tokens = {"image": torch.randn(1, 16, 4), "text": torch.randn(1, 4, 4)}
        >>> z, weights = attention(tokens)
        >>> attention.share(weights).detach()  # as long as nothing is learnt
        tensor([[0.8000, 0.2000]])
    """

    def __init__(self, dim: int, modalities: Iterable[str]):
        super().__init__(dim, modalities)
        self.query = nn.Parameter(torch.zeros(dim))
        self.embeddings = nn.Parameter(torch.zeros(len(self.modalities), dim))
        self.attention = ScaledDotAttention(dim)

    def forward(
        self, tokens: Tokens, valid: Masks | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Weights]:
        x, valid = self.present(tokens, valid)
        keys = torch.cat([x_m + e_m for x_m, e_m in zip(x.values(), self.embeddings, strict=True)], 1)
        values, here = torch.cat([*x.values()], 1), torch.cat([*valid.values()], 1)
        z, weights = self.attention(self.query.expand(len(values), -1), keys, values, here)
        lengths = [x_m.shape[1] for x_m in x.values()]
        return z, dict(zip(self.modalities, weights.split(lengths, 1), strict=True))

    def share(self, weights: Weights) -> Float[Tensor, "batch modalities"]:
        r"""Return the weight of each modality, :math:`\sum_j\alpha_{m,j}`, in the order of ``modalities``."""
        return torch.stack([weights[m].sum(1) for m in self.modalities], 1)


class CoAttention(CrossModal):
    r"""Two modalities choose among their own tokens, each by what stands in the other one.

    .. math:: C_{ij}=\tanh(x_{a,i}^\top Wx_{b,j}),\qquad
              h_{a,i}=\tanh\Big(W_ax_{a,i}+\sum_{j\in\mathcal V_b}C_{ij}W_bx_{b,j}\Big),\qquad
              \alpha_a=\underset{i\in\mathcal V_a}{\mathrm{softmax}}\,w_a^\top h_{a,i}

    and :math:`h_{b,j}=\tanh(W_bx_{b,j}+\sum_{i\in\mathcal V_a}C_{ij}W_ax_{a,i})`, :math:`\alpha_b` likewise.
    The *affinity* :math:`C` says of each pair of tokens whether they go together, from -1 to 1. Sums over
    tokens, not means, enter :math:`h`: for long sequences the tanh saturates. The fused vector is
    :math:`z=W_z[c_a;c_b]+b_z` with the contexts :math:`c_m=\sum_i\alpha_{m,i}x_{m,i}`.

    Args:
        dim: see :class:`CrossModal`.
        modalities: exactly two, :math:`a` and :math:`b`.

    Shapes: tokens and valid as in :class:`CrossModal` -> the fused vector ``(B, D)`` and weights by modality,
    ``(B, L_m)``, each of which sums to one.

    Raises:
        ValueError: for more than two modalities.

    Source:
        Lu, Yang, Batra and Parikh (2016), parallel co-attention. Maps inside are ``D`` by ``D`` (theirs lead
        to another width), contexts go side by side into a linear map (theirs are added and pass a tanh), and
        there is one level where they have words, phrases and the question.

    Example:
        >>> attention = CoAttention(dim=4, modalities=["image", "text"])
        >>> tokens = {"image": torch.randn(2, 16, 4), "text": torch.randn(2, 5, 4)}
        >>> z, weights = attention(tokens)
        >>> weights["image"].shape, attention.affinity(tokens).shape
        (torch.Size([2, 16]), torch.Size([2, 16, 5]))
    """

    def __init__(self, dim: int, modalities: Iterable[str]):
        super().__init__(dim, modalities)
        if len(self.modalities) != 2:
            raise ValueError(f"modalities: expected exactly two, found {self.modalities}")
        self.W = nn.Linear(dim, dim, bias=False)
        self.W_a, self.W_b = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.w_a, self.w_b = (nn.Linear(dim, 1, bias=False) for _ in range(2))
        self.join = nn.Linear(2 * dim, dim)

    def forward(
        self, tokens: Tokens, valid: Masks | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Weights]:
        x, valid = self.present(tokens, valid)
        a, b = self.modalities
        C = self.affinity(x, valid)
        # padding is zero, and so is what it adds to the sums
        h = {a: self.W_a(x[a]) + C @ self.W_b(x[b]), b: self.W_b(x[b]) + C.mT @ self.W_a(x[a])}
        scores = {a: self.w_a(h[a].tanh()), b: self.w_b(h[b].tanh())}
        weights = {m: masked_softmax(scores[m].squeeze(2), valid[m]) for m in (a, b)}
        contexts = [torch.einsum("bl,bld->bd", weights[m].to(x[m].dtype), x[m]) for m in (a, b)]
        return self.join(torch.cat(contexts, 1)), weights

    def affinity(self, tokens: Tokens, valid: Masks | None = None) -> Float[Tensor, "batch a b"]:
        """Return :math:`C`, ``(B, L_a, L_b)``, zero at padding."""
        x, _ = self.present(tokens, valid)
        a, b = self.modalities
        return (x[a] @ self.W(x[b]).mT).tanh()


# Modalities weighted anew at each step


class TemporalAttention(CrossModal):
    r"""Modalities side by side in time, and at each step a choice between them by what was read before.

    .. math:: \alpha_{t,m}=\underset{m\in\mathcal P_t}{\mathrm{softmax}}\,
              \frac{(Ws_{t-1}+b)^\top(x_{m,t}+e_m)}{\sqrt D},\qquad
              c_t=\sum_{m\in\mathcal P_t}\alpha_{t,m}x_{m,t},\qquad s_t=\mathrm{GRU}(c_t,s_{t-1})

    with the set :math:`\mathcal P_t` of modalities that are real at step :math:`t`, an embedding :math:`e_m`
    of each modality, and :math:`s_0=0`. At a step without any, :math:`s_t=s_{t-1}`. So the sound may count
    while a clip is dark, and the picture when there is light again. No later step has any influence.

    Args:
        dim: see :class:`CrossModal`.
        modalities: see :class:`CrossModal`.

    Shapes: tokens, by modality ``(B, T, D)``, and valid, by modality ``(B, T)`` -> states :math:`s_t`,
    ``(B, T, D)``, of which the last is the fused vector, and weights ``(B, T, M)`` in the order of
    ``modalities``.

    Raises:
        ValueError: (the call) for modalities of different lengths, or without any step.

    Source:
        Xu et al. (2015) for the state of a recurrent network that asks before each step, there the places of
        a picture; here it asks the modalities of that step. The GRU is that of Cho et al. (2014).

    Example:
        >>> attention = TemporalAttention(dim=4, modalities=["image", "sound"])
        >>> tokens = {"image": torch.randn(2, 8, 4), "sound": torch.randn(2, 8, 4)}
        >>> states, weights = attention(tokens)
        >>> states.shape, weights.shape, torch.allclose(weights.sum(2), torch.ones(2, 8))
        (torch.Size([2, 8, 4]), torch.Size([2, 8, 2]), True)
    """

    def __init__(self, dim: int, modalities: Iterable[str]):
        super().__init__(dim, modalities)
        self.query = nn.Linear(dim, dim)
        self.embeddings = nn.Parameter(torch.zeros(len(self.modalities), dim))
        self.attention = ScaledDotAttention(dim)
        self.gru = nn.GRUCell(dim, dim)

    def forward(
        self, tokens: Tokens, valid: Masks | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch time modalities"]]:
        x, valid = self.present(tokens, valid)
        lengths = {m: x_m.shape[1] for m, x_m in x.items()}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ValueError(f"tokens: expected as many steps of each modality, at least 1; found {lengths}")
        steps, here = torch.stack([*x.values()], 2), torch.stack([*valid.values()], 2)
        state, states, weights = steps.new_zeros(len(steps), self.dim), [], []
        for x_t, here_t in zip(steps.unbind(1), here.unbind(1), strict=True):
            c_t, alpha_t = self.attention(self.query(state), x_t + self.embeddings, x_t, here_t)
            state = torch.where(here_t.any(1, keepdim=True), self.gru(c_t, state), state)
            states.append(state)
            weights.append(alpha_t)
        return torch.stack(states, 1), torch.stack(weights, 1)


# Every token asks


def _clean_both(
    x: Tensor, y: Tensor, valid_x: Tensor | None, valid_y: Tensor | None, dim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, valid_x = _clean("x", x, valid_x, dim)
    y, valid_y = _clean("y", y, valid_y, dim)
    if len(x) != len(y):
        raise ValueError(f"x, y: expected as many items of both, found {len(x)} and {len(y)}")
    return x, valid_x, y, valid_y


def _only_real(x: Tensor, weights: Tensor | None, valid: Tensor) -> Read:
    """Put zeros into the rows of queries that are padding."""
    if weights is not None:
        weights = torch.where(valid[:, None, :, None], weights, 0)
    return torch.where(valid[..., None], x, 0), weights


def _mlp(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))


class CrossModalLayer(nn.Module):
    r"""One layer in which a sequence reads itself, then another modality, and thinks.

    .. math:: x\leftarrow x+\mathrm{self}(N_1x),\quad x\leftarrow x+\mathrm{cross}(N_2x,N_2y),\quad
              x\leftarrow x+\mathrm{MLP}(N_3x)

    with layer norms :math:`N_i` and :class:`~mmtutor.attention.MultiHeadAttention`. :math:`y` stays as it is.
    Where there is no :math:`y` the second step adds nothing.

    Args:
        dim: ``D``.
        heads: ``H``; they divide ``D``.

    Shapes: x ``(B, Lx, D)``, y ``(B, Ly, D)``, valid_x, bool ``(B, Lx)``, and valid_y, bool ``(B, Ly)`` (by
    default all are real) -> x ``(B, Lx, D)`` and, with ``need_weights``, the weights of the cross-attention
    ``(B, H, Lx, Ly)``, else ``None``; all zero in the rows of padding.

    Raises:
        ValueError: for heads that do not divide the width; (the call) for other shapes, or a mask that is
            not bool.
        TypeError: (the call) for an x or y that is not floats.

    Source:
        Tsai et al. (2019), MulT, for cross-attention with the norm first, one norm for both sides; they have
        no self-attention in these layers. Lu et al. (2019), ViLBERT, have both, with a network after each.

    Example:
        >>> layer = CrossModalLayer(dim=8, heads=2)
        >>> x, weights = layer(torch.randn(3, 5, 8), torch.randn(3, 16, 8), need_weights=True)
        >>> x.shape, weights.shape
        (torch.Size([3, 5, 8]), torch.Size([3, 2, 5, 16]))
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, heads)
        self.cross_attention = MultiHeadAttention(dim, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.mlp = _mlp(dim)
        self.dim = dim

    def forward(
        self,
        x: Float[Tensor, "batch own dim"],
        y: Float[Tensor, "batch other dim"],
        valid_x: Bool[Tensor, "batch own"] | None = None,
        valid_y: Bool[Tensor, "batch other"] | None = None,
        need_weights: bool = False,
    ) -> Read:
        x, valid_x, y, valid_y = _clean_both(x, y, valid_x, valid_y, self.dim)
        own = self.norms[0](x)
        x = x + self.self_attention(own, own, valid=valid_x)[0]
        query, keys = self.norms[1](x), self.norms[1](y)
        found, weights = self.cross_attention(query, keys, valid=valid_y, need_weights=need_weights)
        x = x + found
        return _only_real(x + self.mlp(self.norms[2](x)), weights, valid_x)


class CrossModalTransformer(CrossModal):
    r"""Layers in which the tokens of each modality read their own and those of every other one.

    .. math:: x_a^{l+1}=\frac1{M-1}\sum_{b\ne a}\mathrm{layer}^l_{ab}(x_a^l,x_b^l),\qquad
              x_a=N_a(x_a^{\text{last}})

    with a :class:`CrossModalLayer` for every ordered pair and a last layer norm :math:`N_a`. All modalities
    read at once: what :math:`a` sees of :math:`b` is from before the layer, so the second layer is the first
    in which :math:`b` answers with what it read of :math:`a`.

    Args:
        dim: see :class:`CrossModal`.
        modalities: see :class:`CrossModal`.
        layers: number of layers.
        heads: ``H``, heads of each attention; they divide ``dim``.

    Shapes: tokens and valid as in :class:`CrossModal` -> tokens by modality, ``(B, L_m, D)``, zero at
    padding, and, with ``need_weights``, the weights of the cross-attention by pair (who asks, who is asked),
    ``(B, layers, H, L_a, L_b)``, else ``None``. Rows of padding are zero.

    Raises:
        ValueError: for less than one layer, or heads that do not divide the width.

    Source:
        Lu et al. (2019), ViLBERT, for two streams that read each other layer by layer. Tsai et al. (2019),
        MulT, for every ordered pair of more than two; there :math:`a` reads the tokens with which
        :math:`b` began, in every layer, and what it finds in each :math:`b` is joined side by side at the
        end; here it is averaged in every layer.

    Example:
        >>> model = CrossModalTransformer(dim=8, modalities=["image", "text"], layers=2, heads=4)
        >>> tokens = {"image": torch.randn(3, 16, 8), "text": torch.randn(3, 5, 8)}
        >>> tokens, weights = model(tokens, need_weights=True)
        >>> tokens["text"].shape, weights["text", "image"].shape
        (torch.Size([3, 5, 8]), torch.Size([3, 2, 4, 5, 16]))
    """

    def __init__(self, dim: int, modalities: Iterable[str], layers: int = 2, heads: int = 4):
        super().__init__(dim, modalities)
        check_positive("layers", layers)
        self.layers = nn.ModuleList(
            nn.ModuleList(CrossModalLayer(dim, heads) for _ in self.pairs) for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.modalities)

    def forward(
        self, tokens: Tokens, valid: Masks | None = None, need_weights: bool = False
    ) -> tuple[Tokens, dict[tuple[str, str], Float[Tensor, "batch layers heads _ _"]] | None]:
        x, valid = self.present(tokens, valid)
        weights = {pair: [] for pair in self.pairs}
        for layer in self.layers:
            read = {m: [] for m in self.modalities}
            for (a, b), part in zip(self.pairs, layer, strict=True):
                x_a, looked = part(x[a], x[b], valid[a], valid[b], need_weights)
                read[a].append(x_a)
                weights[a, b].append(looked)
            x = {m: sum(parts) / len(parts) for m, parts in read.items()}
        x = {m: norm(x[m]) for m, norm in zip(self.modalities, self.norms, strict=True)}
        x = {m: torch.where(valid[m][..., None], x[m], 0) for m in self.modalities}
        return x, {pair: torch.stack(w, 1) for pair, w in weights.items()} if need_weights else None


class GatedCrossAttention(nn.Module):
    r"""Cross-attention that begins as nothing, to be put into a model that works already.

    .. math:: x\leftarrow x+\tanh(a)\,\mathrm{cross}(N_1x,y),\qquad
              x\leftarrow x+\tanh(b)\,\mathrm{MLP}(N_2x)

    with numbers :math:`a` and :math:`b` that start at 0: the layer starts as the identity, and a model
    trained without it says what it said before. Only the gates can learn in the first step. The factor
    :math:`\tanh(a)` stands before all that the loss sees of the cross-attention, so its parameters and
    :math:`y` get a gradient of exactly 0, while :math:`\frac{\partial\ell}{\partial a}=(1-\tanh^2a)\,
    \langle\frac{\partial\ell}{\partial x},\mathrm{cross}(N_1x,y)\rangle` is in general not 0. Once a gate
    has moved, what is behind it learns too.

    Args:
        dim: ``D``.
        heads: ``H``; they divide ``D``.

    Shapes: see :class:`CrossModalLayer`.

    Raises:
        ValueError: see :class:`CrossModalLayer`.
        TypeError: see :class:`CrossModalLayer`.

    Source:
        Alayrac et al. (2022), Flamingo, where the text reads what a resampler made of pictures before it.
        There a word sees only the picture last shown; here :math:`x` reads all of :math:`y`.

    Example:
        >>> layer, x = GatedCrossAttention(dim=8, heads=2), torch.randn(3, 5, 8)
        >>> torch.equal(layer(x, torch.randn(3, 16, 8))[0], x), layer.gate.tolist()
        (True, [0.0, 0.0])
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.cross_attention = MultiHeadAttention(dim, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.mlp = _mlp(dim)
        self.a, self.b = (nn.Parameter(torch.zeros(())) for _ in range(2))
        self.dim = dim

    @property
    def gate(self) -> Float[Tensor, "2"]:
        r"""Return :math:`\tanh(a)` and :math:`\tanh(b)`: how far the layer is open, from -1 to 1."""
        return torch.stack([self.a, self.b]).tanh()

    def forward(
        self,
        x: Float[Tensor, "batch own dim"],
        y: Float[Tensor, "batch other dim"],
        valid_x: Bool[Tensor, "batch own"] | None = None,
        valid_y: Bool[Tensor, "batch other"] | None = None,
        need_weights: bool = False,
    ) -> Read:
        x, valid_x, y, valid_y = _clean_both(x, y, valid_x, valid_y, self.dim)
        query, (gate_cross, gate_mlp) = self.norms[0](x), self.gate
        found, weights = self.cross_attention(query, y, valid=valid_y, need_weights=need_weights)
        x = x + gate_cross * found
        return _only_real(x + gate_mlp * self.mlp(self.norms[1](x)), weights, valid_x)
