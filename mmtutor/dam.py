r"""Dual-modality attention: an exchange between two sequences of tokens, and five parts that attend.

================ ============================== ==============================================
part             class                          who asks for what
================ ============================== ==============================================
``inter``        :class:`InterAttention`        each token, for its like in the other modality
``composition``  :class:`CompositionAttention`  the other modality's mean, by several looks
``hierarchical`` :class:`HierarchicalAttention` learnt queries, for tokens and for segments
``short``        :class:`ShortTermMemory`       the present step, for one of the last few
``long``         :class:`LongTermMemory`        the present step, for what was once written
================ ============================== ==============================================

:class:`FeatureExchange` comes before them, :class:`DAM` joins those that are switched on.
"""

import math
from collections.abc import Callable, Collection, Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmtutor.attention import (
    AdditiveAttention,
    Attention,
    LocationAttention,
    MultiHeadAttention,
    ScaledDotAttention,
    masked_softmax,
)
from mmtutor.contrastive import check_positive, unit
from mmtutor.cross_modal import CrossModal, Masks, Tokens, Weights, _clean, masked_mean

PARTS = ("inter", "composition", "hierarchical", "short", "long")
KINDS = {"additive": AdditiveAttention, "dot": ScaledDotAttention, "location": LocationAttention}
Remembered = tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch time time"]]


class FeatureExchange(CrossModal):
    r"""Tokens that nobody attends to are replaced by what the other modality has in their place.

    Both modalities are mapped to one width, :math:`a_i` and :math:`b_j`, and compared,
    :math:`C_{ij}=\cos(a_i,b_j)`. The *importance* of :math:`b_j` is the attention that it receives, and its
    *counterpart* is what it finds when it looks itself:

    .. math:: I_j=\frac{|\mathcal V_b|}{|\mathcal V_a|}\sum_{i\in\mathcal V_a}
              \underset{j\in\mathcal V_b}{\mathrm{softmax}}\,\beta C_{ij},\qquad
              \tilde b_j=\sum_{i\in\mathcal V_a}\Big(\underset{i\in\mathcal V_a}{\mathrm{softmax}}\,
              \beta C_{ij}\Big)a_i,

    .. math:: b_j'=b_j+g_j(\tilde b_j-b_j),

    and the same for :math:`a`, of the original features of both. Importance is 1 on average over the real
    tokens. The gate is soft, :math:`g_j=\sigma(u-vI_j)` with learnt :math:`u` and :math:`v>0`, or hard: 1 for
    the share ``replaced`` of least importance and 0 for all others, with the gradient of the soft one
    (straight through).

    Args:
        dims: width of each of the two modalities, by name.
        dim: ``D``, the common width.
        hard: whether gates are 0 or 1.
        replaced: share of a modality's real tokens that a hard gate replaces, rounded.
        sharpness: :math:`\beta`; learnt, by its logarithm.

    Shapes: tokens, by modality ``(B, L_m, D_m)``, and valid as in :class:`~mmtutor.cross_modal.CrossModal`
    -> tokens by modality, ``(B, L_m, D)``, and gates by modality, ``(B, L_m)``; both zero at padding. An item
    that lacks the other modality keeps its tokens.

    Raises:
        ValueError: for other than two modalities, widths below 1, a share outside of 0 to 1; (the call) as
            :class:`~mmtutor.cross_modal.CrossModal`.

    Source:
        Wang et al. (2022), TokenFusion, replaces unimportant tokens by projected ones of the other modality;
        there a small network scores a token by itself, with a penalty that makes few of them count, and the
        token in the same place replaces it. Bengio, Léonard and Courville (2013) for the gradient that goes
        straight through.

    Example:
        >>> exchange = FeatureExchange({"picture": 6, "animation": 4}, dim=8, hard=True, replaced=0.25)
        >>> tokens, gates = exchange({"picture": torch.randn(2, 16, 6), "animation": torch.randn(2, 8, 4)})
        >>> tokens["animation"].shape, gates["picture"].sum(1).detach(), gates["animation"].sum(1).detach()
        (torch.Size([2, 8, 8]), tensor([4., 4.]), tensor([2., 2.]))
    """

    def __init__(
        self,
        dims: dict[str, int],
        dim: int,
        *,
        hard: bool = False,
        replaced: float = 0.25,
        sharpness: float = 5.0,
    ):
        super().__init__(dim, dims)
        if len(self.modalities) != 2:
            raise ValueError(f"dims: expected exactly two modalities, found {self.modalities}")
        if not 0 <= replaced <= 1:
            raise ValueError(f"replaced: expected a share from 0 to 1, found {replaced}")
        check_positive("sharpness", sharpness)
        for m, width in dims.items():
            check_positive(f"dims of {m}", width)
        self.dims, self.hard, self.replaced = dict(dims), hard, replaced
        self.project = nn.ModuleList(nn.Linear(d, dim) for d in dims.values())
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))
        self.u, self.log_v = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(math.log(2.0)))

    def forward(self, tokens: dict[str, Tensor], valid: Masks | None = None) -> tuple[Tokens, Weights]:
        x, valid = self.projected(tokens, valid)
        a, b = self.modalities
        C = torch.einsum("bid,bjd->bij", *(unit(y.flatten(0, 1)).view_as(y) for y in x.values()))
        looks = {a: self.look(C, valid[b]), b: self.look(C.mT, valid[a])}
        exchanged, gates = {}, {}
        for m, other in ((a, b), (b, a)):
            gate = self.gate(self.importance(looks[other], valid[m], valid[other]), valid[m])
            gates[m] = torch.where(valid[m] & valid[other].any(1, keepdim=True), gate, 0)
            exchanged[m] = x[m] + gates[m][..., None] * (looks[m] @ x[other] - x[m])
        return {m: torch.where(valid[m][..., None], y, 0) for m, y in exchanged.items()}, gates

    def projected(self, tokens: dict[str, Tensor], valid: Masks | None) -> tuple[Tokens, Masks]:
        """Return tokens of one width, zero at padding, and their masks."""
        narrow = {m: x for m, x in tokens.items() if m in self.dims}
        cleaned = {m: _clean(m, x, (valid or {}).get(m), self.dims[m]) for m, x in narrow.items()}
        maps = dict(zip(self.modalities, self.project, strict=True))
        wide = {m: maps[m](x) for m, (x, _) in cleaned.items()}
        return self.present({**tokens, **wide}, valid)

    def look(
        self, cosine: Float[Tensor, "batch own other"], valid_other: Bool[Tensor, "batch other"]
    ) -> Float[Tensor, "batch own other"]:
        """Return how much each token attends to each of the other modality."""
        return masked_softmax(self.log_sharpness.exp() * cosine, valid_other[:, None])

    def importance(
        self,
        received: Float[Tensor, "batch other own"],
        valid: Bool[Tensor, "batch own"],
        valid_other: Bool[Tensor, "batch other"],
    ) -> Float[Tensor, "batch own"]:
        """Return how much attention each token receives, 1 on average; zero at padding."""
        total = torch.where(valid_other[..., None], received, 0).sum(1)
        return total * valid.sum(1, keepdim=True) / valid_other.sum(1, keepdim=True).clamp(min=1)

    def gate(
        self, importance: Float[Tensor, "batch own"], valid: Bool[Tensor, "batch own"]
    ) -> Float[Tensor, "batch own"]:
        """Return how much of each token is replaced, from 0 to 1."""
        soft = torch.sigmoid(self.u - self.log_v.exp() * importance)
        if not self.hard:
            return soft
        count = (self.replaced * valid.sum(1, keepdim=True)).round()
        rank = torch.where(valid, importance, math.inf).argsort(dim=1, stable=True).argsort(dim=1)
        return (rank < count).to(soft) - soft.detach() + soft


class InterAttention(CrossModal):
    r"""Each token of a modality adds what it finds in the other one.

    .. math:: x_a\leftarrow x_a+\frac1{M-1}\sum_{b\ne a}\mathrm{MHA}_{ab}(N_ax_a,N_bx_b)

    with layer norms :math:`N_m` and :class:`~mmtutor.attention.MultiHeadAttention`, all modalities at once.

    Args:
        dim: see :class:`~mmtutor.cross_modal.CrossModal`.
        modalities: see :class:`~mmtutor.cross_modal.CrossModal`.
        heads: ``H``; they divide ``D``.

    Shapes: tokens and valid as in :class:`~mmtutor.cross_modal.CrossModal` -> tokens by modality,
    ``(B, L_m, D)``, zero at padding, and weights by pair (who asks, who is asked), ``(B, H, L_a, L_b)``.

    Source:
        Lu et al. (2019); the cross-attention of :class:`~mmtutor.cross_modal.CrossModalLayer` alone.

    Example:
        >>> inter = InterAttention(8, ["picture", "animation"], heads=2)
        >>> tokens = {"picture": torch.randn(3, 16, 8), "animation": torch.randn(3, 5, 8)}
        >>> tokens, weights = inter(tokens)
        >>> tokens["animation"].shape, weights["animation", "picture"].shape
        (torch.Size([3, 5, 8]), torch.Size([3, 2, 5, 16]))
    """

    def __init__(self, dim: int, modalities: Iterable[str], heads: int = 4):
        super().__init__(dim, modalities)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.modalities)
        self.looks = nn.ModuleList(MultiHeadAttention(dim, heads) for _ in self.pairs)

    def forward(
        self, tokens: Tokens, valid: Masks | None = None
    ) -> tuple[Tokens, dict[tuple[str, str], Float[Tensor, "batch heads _ _"]]]:
        x, valid = self.present(tokens, valid)
        normed = {m: norm(x[m]) for m, norm in zip(self.modalities, self.norms, strict=True)}
        read, weights = dict(x), {}
        for (a, b), look in zip(self.pairs, self.looks, strict=True):
            found, seen = look(normed[a], normed[b], valid=valid[b], need_weights=True)
            read[a] = read[a] + found / (len(self.modalities) - 1)
            weights[a, b] = torch.where(valid[a][:, None, :, None], seen, 0)
        return {m: torch.where(valid[m][..., None], y, 0) for m, y in read.items()}, weights


class CompositionAttention(CrossModal):
    r"""Several kinds of attention look at a modality, and the other one says how much each of them counts.

    .. math:: \alpha_a=\sum_k\pi_{a,k}\,\alpha_a^{(k)},\qquad
              \pi_a=\mathrm{softmax}(V_as_b+v_a),\qquad c_a=\sum_j\alpha_{a,j}x_{a,j}

    with the weights :math:`\alpha_a^{(k)}` of kind :math:`k` for the query :math:`W_as_b+w_a`, made like
    :math:`\pi` of the mean :math:`s_b` of the other modality (of several others: the mean of their means). A
    convex combination of weights is again weights: not negative, with sum one. :math:`\pi` starts equal. An
    item without the other modality is looked at by the constants :math:`w_a` and :math:`v_a`; in the mean of
    several, one that is absent counts as zero.

    Args:
        dim: see :class:`~mmtutor.cross_modal.CrossModal`.
        modalities: see :class:`~mmtutor.cross_modal.CrossModal`.
        kinds: makes of :class:`~mmtutor.attention.Attention`, by name; each is called with ``dim``.

    Shapes: tokens and valid as in :class:`~mmtutor.cross_modal.CrossModal` -> contexts :math:`c_a` by
    modality, ``(B, D)``, weights :math:`\alpha_a` by modality, ``(B, L_a)``, and :math:`\pi_a` by modality,
    ``(B, K)``.

    Raises:
        ValueError: without any kind.

    Source:
        Jacobs, Jordan, Nowlan and Hinton (1991): experts, and a gate that mixes them. Here they are looks.

    Example:
        >>> composition = CompositionAttention(8, ["picture", "animation"])
        >>> tokens = {"picture": torch.randn(3, 16, 8), "animation": torch.randn(3, 5, 8)}
        >>> contexts, weights, mix = composition(tokens)
        >>> contexts["picture"].shape, weights["picture"].shape, mix["picture"][0].detach()
        (torch.Size([3, 8]), torch.Size([3, 16]), tensor([0.3333, 0.3333, 0.3333]))
    """

    def __init__(
        self,
        dim: int,
        modalities: Iterable[str],
        kinds: dict[str, Callable[[int], Attention]] = KINDS,
    ):
        super().__init__(dim, modalities)
        if not kinds:
            raise ValueError("kinds: expected one or more kinds of attention, found none")
        self.kinds = list(kinds)
        self.queries = nn.ModuleList(nn.Linear(dim, dim) for _ in self.modalities)
        self.mixes = nn.ModuleList(nn.Linear(dim, len(kinds)) for _ in self.modalities)
        self.looks = nn.ModuleList(
            nn.ModuleList(make(dim) for make in kinds.values()) for _ in self.modalities
        )
        for mix in self.mixes:
            nn.init.zeros_(mix.weight)
            nn.init.zeros_(mix.bias)

    def forward(
        self, tokens: Tokens, valid: Masks | None = None
    ) -> tuple[dict[str, Float[Tensor, "batch dim"]], Weights, dict[str, Float[Tensor, "batch kinds"]]]:
        x, valid = self.present(tokens, valid)
        summaries = {m: masked_mean(x[m], valid[m]) for m in self.modalities}
        contexts, weights, mixes = {}, {}, {}
        for a, W, V, looks in zip(self.modalities, self.queries, self.mixes, self.looks, strict=True):
            asks = torch.stack([s for m, s in summaries.items() if m != a]).mean(0)
            alphas = torch.stack([look(W(asks), x[a], valid=valid[a])[1] for look in looks], 1)  # (B, K, L)
            mixes[a] = V(asks).softmax(1)
            weights[a] = torch.einsum("bk,bkl->bl", mixes[a], alphas)
            contexts[a] = torch.einsum("bl,bld->bd", weights[a], x[a])
        return contexts, weights, mixes


class Pool(nn.Module):
    r"""A learnt query chooses among vectors.

    .. math:: \alpha_j=\underset{j\in\mathcal V}{\mathrm{softmax}}\,q^\top\tanh(Wx_j+b),\qquad
              z=\sum_j\alpha_jx_j

    Shapes: x ``(..., L, D)``, valid, bool ``(..., L)`` -> the weighted sum ``(..., D)`` and weights
    ``(..., L)``. Nothing to choose from gives zeros.

    Source:
        Yang et al. (2016).

    Example:
        >>> z, weights = Pool(4)(torch.randn(2, 3, 5, 4), torch.ones(2, 3, 5, dtype=torch.bool))
        >>> z.shape, weights.shape
        (torch.Size([2, 3, 4]), torch.Size([2, 3, 5]))
    """

    def __init__(self, dim: int):
        super().__init__()
        self.hidden, self.q = nn.Linear(dim, dim), nn.Linear(dim, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "*shape length dim"], valid: Bool[Tensor, "*shape length"]
    ) -> tuple[Float[Tensor, "*shape dim"], Float[Tensor, "*shape length"]]:
        x = torch.where(valid[..., None], x, 0)
        weights = masked_softmax(self.q(self.hidden(x).tanh())[..., 0], valid)
        return torch.einsum("...l,...ld->...d", weights, x), weights


class HierarchicalAttention(CrossModal):
    r"""First which token of a segment, then which segment of a modality, then which modality.

    .. math:: z=\sum_m\gamma_m\sum_s\beta_{m,s}\sum_{j\in s}\alpha_{m,j}x_{m,j}

    Each level is a :class:`Pool`: weights of the tokens of one segment sum to one, as do those of the
    segments of one modality and those of the modalities. A segment is chosen by what its chosen tokens
    make together, which a token by itself does not tell. The products of the three sum to one over all
    tokens. Padding stands in a segment as any token does: at the end of a sequence it changes nothing, in the
    middle it moves what comes after into a later segment.

    Args:
        dim: see :class:`~mmtutor.cross_modal.CrossModal`.
        modalities: see :class:`~mmtutor.cross_modal.CrossModal`.
        segment: tokens of a segment, a number for all modalities or one for each by name; the last segment
            of a sequence may be shorter.

    Shapes: tokens and valid as in :class:`~mmtutor.cross_modal.CrossModal` -> the fused vector ``(B, D)`` and
    the product of the weights by modality, ``(B, L_m)``.

    Raises:
        ValueError: for a segment of less than one token.

    Source:
        Yang et al. (2016), for the words and sentences of a text; the modalities are a third level.

    Example:
        >>> hierarchy = HierarchicalAttention(8, ["picture", "animation"], {"picture": 4, "animation": 2})
        >>> tokens = {"picture": torch.randn(3, 16, 8), "animation": torch.randn(3, 5, 8)}
        >>> z, weights = hierarchy(tokens)
        >>> levels = hierarchy.read(tokens)[1]
        >>> z.shape, weights["animation"].shape, levels["segments"]["animation"].shape
        (torch.Size([3, 8]), torch.Size([3, 5]), torch.Size([3, 3]))
    """

    def __init__(self, dim: int, modalities: Iterable[str], segment: int | dict[str, int] = 4):
        super().__init__(dim, modalities)
        self.segment = segment if isinstance(segment, dict) else dict.fromkeys(self.modalities, segment)
        if sorted(self.segment) != sorted(self.modalities):
            raise ValueError(f"segment: expected one for each of {self.modalities}, found {self.segment}")
        for m, size in self.segment.items():
            check_positive(f"segment of {m}", size)
        self.tokens, self.segments = (nn.ModuleList(Pool(dim) for _ in self.modalities) for _ in range(2))
        self.choice = Pool(dim)

    def forward(
        self, tokens: Tokens, valid: Masks | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Weights]:
        z, levels = self.read(tokens, valid)
        product = {}
        for n, m in enumerate(self.modalities):
            length = tokens[m].shape[1]
            of_segment = levels["segments"][m].repeat_interleave(self.segment[m], 1)[:, :length]
            product[m] = levels["modalities"][:, n, None] * of_segment * levels["tokens"][m]
        return z, product

    def read(self, tokens: Tokens, valid: Masks | None = None) -> tuple[Float[Tensor, "batch dim"], dict]:
        """Return the fused vector and the weights of each level.

        ``"tokens"``: by modality ``(B, L_m)``, ``"segments"``: by modality ``(B, S_m)``, ``"modalities"``:
        ``(B, M)``.
        """
        x, valid = self.present(tokens, valid)
        levels, vectors = {"tokens": {}, "segments": {}}, []
        for m, of_tokens, of_segments in zip(self.modalities, self.tokens, self.segments, strict=True):
            (parts, here), length = self.cut(m, x[m], valid[m]), x[m].shape[1]
            of_segment, alpha = of_tokens(parts, here)
            vector, levels["segments"][m] = of_segments(of_segment, here.any(2))
            levels["tokens"][m] = alpha.flatten(1)[:, :length]
            vectors.append(vector)
        some = torch.stack([here.any(1) for here in valid.values()], 1)
        z, levels["modalities"] = self.choice(torch.stack(vectors, 1), some)
        return z, levels

    def cut(
        self, m: str, x: Float[Tensor, "batch length dim"], valid: Bool[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, "batch segments size dim"], Bool[Tensor, "batch segments size"]]:
        """Cut a sequence into segments; the last is filled up with padding."""
        size = self.segment[m]
        more = -x.shape[1] % size
        x = torch.cat([x, x.new_zeros(len(x), more, x.shape[2])], 1)
        valid = torch.cat([valid, valid.new_zeros(len(x), more)], 1)
        return x.unflatten(1, (-1, size)), valid.unflatten(1, (-1, size))


class ShortTermMemory(nn.Module):
    r"""Each step looks at the few steps before it, the later of them first.

    .. math:: \alpha_{tj}=\underset{t-w\le j<t,\ j\in\mathcal V}{\mathrm{softmax}}
              \Big(\frac{(W_qh_t)^\top W_kh_j}{\sqrt D}-\lambda(t-j)\Big),\qquad
              c_t=\sum_j\alpha_{tj}h_j

    with a learnt :math:`\lambda>0`, the *recency*. No step looks at itself or ahead: a later state never
    changes an earlier result. The first step has nothing to remember, and so has a step after a gap of
    :math:`w`: zeros.

    Args:
        dim: ``D``.
        window: :math:`w`, how many steps back.
        recency: :math:`\lambda` at the start.

    Shapes: states ``(B, T, D)``, valid, bool ``(B, T)`` (by default all are real) -> contexts ``(B, T, D)``
    and weights ``(B, T, T)``, row :math:`t`, column :math:`j`; zero in rows and columns of padding.

    Raises:
        ValueError: for a width or window below 1, a recency that is not positive; (the call) for other
            shapes, or a mask that is not bool.
        TypeError: (the call) for states that are not floats.

    Source:
        Luong, Pham and Manning (2015) for a window; Press, Smith and Lewis (2022) for a bias that falls with
        distance, there fixed.

    Example:
        >>> contexts, weights = ShortTermMemory(dim=8, window=2)(torch.randn(3, 5, 8))
        >>> (weights[0] > 0).int()
        tensor([[0, 0, 0, 0, 0],
                [1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [0, 1, 1, 0, 0],
                [0, 0, 1, 1, 0]], dtype=torch.int32)
    """

    def __init__(self, dim: int, window: int = 4, recency: float = 0.1):
        super().__init__()
        check_positive("dim", dim)
        check_positive("window", window)
        check_positive("recency", recency)
        self.dim, self.window = dim, window
        self.W_q, self.W_k = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.log_recency = nn.Parameter(torch.tensor(math.log(recency)))

    def forward(
        self, states: Float[Tensor, "batch time dim"], valid: Bool[Tensor, "batch time"] | None = None
    ) -> Remembered:
        h, valid = _clean("states", states, valid, self.dim)
        back = torch.arange(self.window, 0, -1, device=h.device)  # how long ago
        place = torch.arange(h.shape[1], device=h.device)[:, None] - back  # (T, w)
        j = place.clamp(min=0)
        seen = valid[:, j] & (place >= 0) & valid[..., None]
        # `where`, since a later state that is no number must not reach an earlier result, not even times zero
        past, keys = (torch.where(seen[..., None], x[:, j], 0) for x in (h, self.W_k(h)))
        scores = torch.einsum("btd,btwd->btw", self.W_q(h), keys) / math.sqrt(self.dim)
        weights = masked_softmax(scores - self.log_recency.exp() * back, seen)
        square = weights.new_zeros(*valid.shape, h.shape[1]).scatter_add(2, j.expand_as(weights), weights)
        return torch.einsum("btw,btwd->btd", weights, past), square


class LongTermMemory(nn.Module):
    r"""Slots with keys that are learnt and values that are written; the present step reads them.

    .. math:: w_{t,n}=g_t\,\underset{n}{\mathrm{softmax}}\frac{(W_wh_t)^\top k_n}{\sqrt D},\qquad
              v_{t,n}=v_{t-1,n}+w_{t,n}(W_vh_t-v_{t-1,n}),

    .. math:: c_t=\sum_n\rho_{t,n}v_{t-1,n},\qquad
              \rho_t=\underset{n}{\mathrm{softmax}}\frac{(W_rh_t)^\top(k_n+v_{t-1,n})}{\sqrt D}

    with the *write gate* :math:`g_t=\sigma(w_g^\top h_t+b_g)` and :math:`v_0=0`. The gate says whether a step
    is worth keeping, its key where it goes. A slot that is written with weight 1 forgets what it had, and
    one that is not written keeps it, however long. A step reads before it writes: at the first there is
    nothing. No later state changes an earlier result.

    Args:
        dim: ``D``.
        slots: ``N``.

    Shapes: states ``(B, T, D)``, valid, bool ``(B, T)`` (by default all are real) -> contexts ``(B, T, D)``
    and ``{"read": rho, "write": w}``, ``(B, T, N)`` each. Padding neither reads nor writes: zeros.

    Raises:
        ValueError: for a width or number of slots below 1; (the call) for other shapes, or a mask that is
            not bool.
        TypeError: (the call) for states that are not floats.

    Source:
        Graves, Wayne and Danihelka (2014) for addresses by similarity, Henaff et al. (2017) for slots with
        keys and a write gate. There the gate of each slot asks what is already in it, and values are
        normalised; here values are moved towards what is new, which bounds them.

    Example:
        >>> memory = LongTermMemory(dim=8, slots=4)
        >>> contexts, weights = memory(torch.randn(3, 5, 8))
        >>> contexts.shape, weights["read"].shape, contexts[:, 0].abs().sum().item()
        (torch.Size([3, 5, 8]), torch.Size([3, 5, 4]), 0.0)
    """

    def __init__(self, dim: int, slots: int = 8):
        super().__init__()
        check_positive("dim", dim)
        check_positive("slots", slots)
        self.dim, self.slots = dim, slots
        self.keys = nn.Parameter(torch.randn(slots, dim))
        self.W_w, self.W_v, self.W_r = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.gate = nn.Linear(dim, 1)

    def forward(
        self, states: Float[Tensor, "batch time dim"], valid: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], dict[str, Float[Tensor, "batch time slots"]]]:
        h, valid = _clean("states", states, valid, self.dim)
        root = math.sqrt(self.dim)
        where = (self.W_w(h) @ self.keys.mT / root).softmax(2)
        write = torch.where(valid[..., None], torch.sigmoid(self.gate(h)) * where, 0)
        new, v = self.W_v(h), h.new_zeros(len(h), self.slots, self.dim)
        before = []  # what the slots hold when step t comes
        for w_t, new_t in zip(write.unbind(1), new.unbind(1), strict=True):
            before.append(v)
            v = v + w_t[..., None] * (new_t[:, None] - v)
        v = torch.stack(before, 1) if before else h.new_zeros(len(h), 0, self.slots, self.dim)
        scores = torch.einsum("btd,btnd->btn", self.W_r(h), self.keys + v) / root
        read = torch.where(valid[..., None], scores.softmax(2), 0)
        return torch.einsum("btn,btnd->btd", read, v), {"read": read, "write": write}


class DAM(CrossModal):
    r"""Five parts of dual-modality attention, each of which can be switched off.

    .. math:: z=W\big[s_1;\dots;s_M;\ \text{inter};\ \text{composition};\ \text{hierarchical};\
              \text{short};\ \text{long}\big]+w

    The means :math:`s_m` are always there; a part that is off is left out. What each adds: *inter*, the means
    of tokens that have read the other modality; *composition*, a context of each modality; *hierarchical*,
    one vector; *short* and *long*, what the last real step of each modality remembers. Composition and
    hierarchical attention read the tokens of inter, if that is on. The memories read the *forward* states
    of a recurrent network, not the tokens: those know of later steps. Padding at the end of a sequence
    changes nothing; in the middle it counts as a place in segments, distances and attention by location.

    Args:
        dim: ``D``, width of tokens and of :math:`z`.
        modalities: see :class:`~mmtutor.cross_modal.CrossModal`.
        state_dim: ``H``, width of the forward states.
        parts: which of ``PARTS`` are on.
        heads: of inter.
        segment: of hierarchical, see :class:`HierarchicalAttention`.
        window: of short.
        slots: of long.
        timed: modalities whose order is time; only these are remembered. By default all.

    Shapes: tokens and valid as in :class:`~mmtutor.cross_modal.CrossModal`, states, by modality
    ``(B, L_m, H)``; needed for the modalities of ``timed`` if a memory is on; off: parts that in this call
    add zeros to :math:`z`, though they were trained (composition and hierarchical attention then still read
    inter's tokens, and weights are returned) -> :math:`z`, ``(B, D)``, and weights by part: what it returns
    beside its result.

    Raises:
        ValueError: for an unknown part, or timed modalities that are unknown; (the call) for states that
            are missing.

    Example:
        >>> dam = DAM(8, ["picture", "animation"], state_dim=4, timed=["animation"])
        >>> tokens = {"picture": torch.randn(3, 16, 8), "animation": torch.randn(3, 8, 8)}
        >>> z, weights = dam(tokens, states={"animation": torch.randn(3, 8, 4)})
        >>> z.shape, list(weights)
        (torch.Size([3, 8]), ['inter', 'composition', 'mix', 'hierarchical', 'short', 'long'])
    """

    def __init__(
        self,
        dim: int,
        modalities: Iterable[str],
        *,
        state_dim: int,
        parts: Collection[str] = PARTS,
        heads: int = 4,
        segment: int | dict[str, int] = 4,
        window: int = 4,
        slots: int = 8,
        timed: Collection[str] | None = None,
    ):
        super().__init__(dim, modalities)
        if unknown := [part for part in parts if part not in PARTS]:
            raise ValueError(f"parts: expected some of {', '.join(PARTS)}; found {unknown}")
        self.timed = self.modalities if timed is None else list(timed)
        if unknown := [m for m in self.timed if m not in self.modalities]:
            raise ValueError(f"timed: expected some of {self.modalities}, found {unknown}")
        make = {
            "inter": lambda: InterAttention(dim, self.modalities, heads),
            "composition": lambda: CompositionAttention(dim, self.modalities),
            "hierarchical": lambda: HierarchicalAttention(dim, self.modalities, segment),
            "short": lambda: ShortTermMemory(state_dim, window),
            "long": lambda: LongTermMemory(state_dim, slots),
        }
        self.parts = nn.ModuleDict({part: make[part]() for part in PARTS if part in parts})
        M, memories = len(self.modalities), len(self.timed) * state_dim
        widths = dict(inter=M * dim, composition=M * dim, hierarchical=dim, short=memories, long=memories)
        self.join = nn.Linear(M * dim + sum(widths[part] for part in self.parts), dim)

    def forward(
        self,
        tokens: Tokens,
        valid: Masks | None = None,
        states: Tokens | None = None,
        off: Collection[str] = (),
    ) -> tuple[Float[Tensor, "batch dim"], dict]:
        if unknown := [part for part in off if part not in self.parts]:
            raise ValueError(f"off: expected some of {list(self.parts)}, found {unknown}")
        x, valid = self.present(tokens, valid)
        found, weights = {"": [masked_mean(x[m], valid[m]) for m in self.modalities]}, {}
        if "inter" in self.parts:
            x, weights["inter"] = self.parts["inter"](x, valid)
            found["inter"] = [masked_mean(x[m], valid[m]) for m in self.modalities]
        if "composition" in self.parts:
            contexts, weights["composition"], weights["mix"] = self.parts["composition"](x, valid)
            found["composition"] = list(contexts.values())
        if "hierarchical" in self.parts:
            z, weights["hierarchical"] = self.parts["hierarchical"](x, valid)
            found["hierarchical"] = [z]
        for part in ("short", "long"):
            if part in self.parts:
                weights[part], found[part] = {}, []
                for m in self.timed:
                    h = self._states(states, m, x[m].shape[1])
                    remembered, weights[part][m] = self.parts[part](h, valid[m])
                    found[part].append(last_real(remembered, valid[m]))
        vectors = [
            torch.zeros_like(z) if part in off else z for part, of_part in found.items() for z in of_part
        ]
        return self.join(torch.cat(vectors, 1)), weights

    def _states(self, states: Tokens | None, m: str, length: int) -> Tensor:
        if states is None or m not in states:
            found = None if states is None else list(states)
            raise ValueError(f"states: expected those of {self.timed}, found {found}")
        if states[m].shape[1] != length:
            raise ValueError(f"states of {m}: expected {length} steps, found {states[m].shape[1]}")
        return states[m]


def last_real(
    x: Float[Tensor, "batch time dim"], valid: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch dim"]:
    """Return each sequence's last real step; zeros if there is none.

    Example:
        >>> x = torch.arange(6.0).view(2, 3, 1)
        >>> last_real(x, torch.tensor([[True, True, False], [False, False, False]]))
        tensor([[1.],
                [0.]])
    """
    steps = torch.arange(x.shape[1], device=x.device)
    last = torch.where(valid, steps, -1).amax(1) if x.shape[1] else valid.new_zeros(len(x)).long() - 1
    chosen = x[torch.arange(len(x), device=x.device), last] if x.shape[1] else x.new_zeros(len(x), x.shape[2])
    return torch.where((last >= 0)[:, None], chosen, 0)
