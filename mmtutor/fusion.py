r"""Fusion: one point of several, :math:`z=\phi(z_1,\dots,z_M)`, whichever modalities an item has.

Feature-level fusers join what encoders found; model-level fusion (:class:`LateFusion`) joins the answers of
models that saw a modality each. All keep one contract, that of :class:`Fusion`.
"""

import itertools
import math
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmtutor.contrastive import check_positive

Fused = tuple[Float[Tensor, "batch out"], Float[Tensor, "batch modalities"]]
Value = float | Tensor

LARGEST_TENSOR = 2**24  # weights of a BilinearFusion: 64 MiB
MOST_MODALITIES = 6  # of shapley_values, which asks about each of 2**6 sets


class Fusion(nn.Module):
    r"""A map from the features of several modalities to one point: what all fusers have in common.

    .. math:: \phi:\mathbb R^{d_1}\times\dots\times\mathbb R^{d_M}\to\mathbb R^D,\qquad
              z=\phi\big(\{z_m\}_{m\in\mathcal P}\big)

    with the set :math:`\mathcal P` of the modalities that an item has. What stands in place of an absent
    modality has no influence, neither on the point nor on a gradient; it may be NaN. An item without any
    modality gets a point that depends on nothing but the fuser's own weights, often zero.

    A fuser says in ``fuse`` how it makes a point of clean features.

    Args:
        dims: :math:`d_m`, width of each modality's features, by its name.
        out_dim: ``D``, width of the point.

    Shapes: features, for each modality ``(B, d_m)``, in any order, and ``valid``, bool ``(B, M)``, with
    columns in the order of ``dims`` (by default all are present) -> the point ``(B, D)`` and weights
    ``(B, M)``, zero where a modality is absent. Fusers that weigh nothing return 1 where it is present.

    Raises:
        ValueError: without modalities or for a width below 1; (the call) for modalities that are missing or
            unknown, features of another width, different numbers of items, a mask of another shape or type.
        TypeError: (the call) for features that are not floats.

    Example:
        >>> fuser = MeanFusion({"image": 3, "text": 5}, out_dim=4)
        >>> features = {"text": torch.zeros(2, 5), "image": torch.full((2, 3), torch.nan)}
        >>> point, weights = fuser(features, valid=torch.tensor([[False, True], [False, False]]))
        >>> isinstance(fuser, Fusion), point.shape, weights
        (True, torch.Size([2, 4]), tensor([[0., 1.],
                [0., 0.]]))
    """

    def __init__(self, dims: dict[str, int], out_dim: int):
        super().__init__()
        if not dims:
            raise ValueError("dims: expected at least one modality, found none")
        for name, width in {**dims, "out_dim": out_dim}.items():
            if width < 1:
                raise ValueError(f"{name}: expected a width of at least 1, found {width}")
        self.dims, self.out_dim = dict(dims), out_dim

    def forward(
        self,
        features: dict[str, Float[Tensor, "batch _"]],
        valid: Bool[Tensor, "batch modalities"] | None = None,
    ) -> Fused:
        return self.fuse(*self.present(features, valid))

    def fuse(self, z: dict[str, Tensor], valid: Bool[Tensor, "batch modalities"]) -> Fused:
        """Make the point and the weights of features from :meth:`present`."""
        raise NotImplementedError

    def present(
        self,
        features: dict[str, Float[Tensor, "batch _"]],
        valid: Bool[Tensor, "batch modalities"] | None = None,
    ) -> tuple[dict[str, Float[Tensor, "batch _"]], Bool[Tensor, "batch modalities"]]:
        """Return the features in the order of ``dims``, zero where absent, and the mask."""
        self._check(features)
        first = next(iter(features.values()))
        expected = (len(first), len(self.dims))
        if valid is None:
            valid = torch.ones(expected, dtype=torch.bool, device=first.device)
        if valid.dtype != torch.bool or valid.shape != expected:
            raise ValueError(
                f"valid: expected bool of shape {expected}, found {valid.dtype} of shape {tuple(valid.shape)}"
            )
        # `where`, because zero times NaN is NaN, in the point and in the gradient of the weights
        z = {m: torch.where(valid[:, i, None], features[m], 0) for i, m in enumerate(self.dims)}
        return z, valid

    def _check(self, features: dict[str, Tensor]) -> None:
        if set(features) != set(self.dims):
            raise ValueError(
                f"features: expected the modalities {sorted(self.dims)}, found {sorted(features)}"
            )
        for m, width in self.dims.items():
            z_m = features[m]
            if z_m.ndim != 2 or z_m.shape[1] != width:
                raise ValueError(f"{m}: expected shape (B, {width}), found {tuple(z_m.shape)}")
            if not z_m.is_floating_point():
                raise TypeError(f"{m}: expected floats, found {z_m.dtype}")
        sizes = {m: len(features[m]) for m in self.dims}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"features: expected as many items of each modality, found {sizes}")


def _softmax(scores: Float[Tensor, "batch modalities"], valid: Bool[Tensor, "batch modalities"]) -> Tensor:
    """Softmax over the present modalities; zeros for an item that has none."""
    some = valid.any(1, keepdim=True)
    # an item that has none keeps its scores: a softmax over nothing is NaN, and so is its gradient
    weights = scores.masked_fill(~valid & some, -math.inf).softmax(1)
    return torch.where(valid, weights, 0)


def _weighted_sum(weights: Float[Tensor, "batch modalities"], h: Tensor) -> Float[Tensor, "batch _"]:
    return torch.einsum("bm,bmd->bd", weights, h)


# Joining features side by side


class ConcatFusion(Fusion):
    r"""A linear map of all features side by side, :math:`z=W[z_1;\dots;z_M]+b`.

    Zeros stand in place of an absent modality. With :math:`W=[W_1\dots W_M]` this is
    :math:`\sum_mW_mz_m+b`, a sum of projections: concatenation alone lets no modality change what another
    one means. That takes a product or something nonlinear after it.

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.

    Example:
        >>> fuser = ConcatFusion({"image": 3, "text": 5}, out_dim=4)
        >>> point, weights = fuser({"image": torch.zeros(2, 3), "text": torch.zeros(2, 5)})
        >>> torch.equal(point[0], fuser.join.bias), weights.tolist()
        (True, [[1.0, 1.0], [1.0, 1.0]])
    """

    def __init__(self, dims: dict[str, int], out_dim: int):
        super().__init__(dims, out_dim)
        self.join = nn.Linear(sum(dims.values()), out_dim)

    def fuse(self, z: dict[str, Tensor], valid: Bool[Tensor, "batch modalities"]) -> Fused:
        point = self.join(torch.cat([*z.values()], 1))
        return point, valid.to(point.dtype)


# One token a modality


class TokenFusion(Fusion):
    r"""Fusers that first bring every modality to the width of the point, as one token each.

    .. math:: h_m=W_mz_m+b_m\in\mathbb R^D,\qquad h_m=0\text{ where absent}

    They differ in ``combine``, which makes one point of the tokens. The bias :math:`b_m` tells a modality
    from the others. With the same :math:`W_m` and :math:`b_m` for all, the order of the modalities does not
    matter (unless a fuser says otherwise).

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.

    Attributes:
        projections: the linear maps :math:`z_m\mapsto h_m` by modality.

    Example:
        >>> fuser = SumFusion({"image": 3, "text": 5}, out_dim=4)
        >>> isinstance(fuser, TokenFusion), fuser.projections["text"]
        (True, Linear(in_features=5, out_features=4, bias=True))
    """

    def __init__(self, dims: dict[str, int], out_dim: int):
        super().__init__(dims, out_dim)
        self.projections = nn.ModuleDict({m: nn.Linear(width, out_dim) for m, width in dims.items()})

    def fuse(self, z: dict[str, Tensor], valid: Bool[Tensor, "batch modalities"]) -> Fused:
        return self.combine(self.tokens(z, valid), valid)

    def tokens(
        self, z: dict[str, Tensor], valid: Bool[Tensor, "batch modalities"]
    ) -> Float[Tensor, "batch modalities dim"]:
        """Return the tokens ``(B, M, D)`` of features from :meth:`present`."""
        h = torch.stack([self.projections[m](z_m) for m, z_m in z.items()], 1)
        return torch.where(valid[..., None], h, 0)  # without it an absent modality would leave its bias

    def combine(
        self, h: Float[Tensor, "batch modalities dim"], valid: Bool[Tensor, "batch modalities"]
    ) -> Fused:
        """Make the point and the weights of tokens, which are zero where absent."""
        raise NotImplementedError


class SumFusion(TokenFusion):
    r"""The sum of the present tokens, :math:`z=\sum_{m\in\mathcal P}h_m`; zero without any.

    The point grows with the number of modalities: a head that knows items with all of them has not seen
    points as short as those of an item with one.

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.

    Example:
        >>> fuser, z = SumFusion({"image": 3, "text": 3}, out_dim=4), torch.ones(1, 3)
        >>> point, weights = fuser({"image": z, "text": z})
        >>> torch.allclose(point, fuser.projections["image"](z) + fuser.projections["text"](z))
        True
    """

    def combine(self, h: Tensor, valid: Bool[Tensor, "batch modalities"]) -> Fused:
        return h.sum(1), valid.to(h.dtype)


class MeanFusion(TokenFusion):
    r"""The mean of the present tokens, :math:`z=\frac1{|\mathcal P|}\sum_{m\in\mathcal P}h_m`.

    Of an item with one modality it is the token of that one; without any it is zero.

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.

    Example:
        >>> fuser, z = MeanFusion({"image": 3, "text": 3}, out_dim=4), torch.ones(1, 3)
        >>> point, weights = fuser({"image": z, "text": z}, valid=torch.tensor([[True, False]]))
        >>> torch.equal(point, fuser.projections["image"](z)), weights.tolist()
        (True, [[1.0, 0.0]])
    """

    def combine(self, h: Tensor, valid: Bool[Tensor, "batch modalities"]) -> Fused:
        weights = valid.to(h.dtype) / valid.sum(1, keepdim=True).clamp(min=1)
        return _weighted_sum(weights, h), weights


class MaxFusion(TokenFusion):
    r"""The largest value of the present tokens in each dimension, :math:`z_k=\max_{m\in\mathcal P}h_{mk}`.

    Without any modality it is zero. A modality's weight is the share of dimensions in which it is the largest
    (those who tie share a dimension equally, as they share its gradient); no gradient flows through it.

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.

    Example:
        >>> fuser = MaxFusion({"image": 4, "text": 4}, out_dim=4)
        >>> for projection in fuser.projections.values():
        ...     _ = nn.init.eye_(projection.weight), nn.init.zeros_(projection.bias)
        >>> image, text = torch.tensor([[1.0, 2.0, 0.0, 5.0]]), torch.tensor([[0.0, 0.0, 3.0, 5.0]])
        >>> point, weights = fuser({"image": image, "text": text})
        >>> point.tolist(), weights.tolist()
        ([[1.0, 2.0, 3.0, 5.0]], [[0.625, 0.375]])
    """

    def combine(self, h: Tensor, valid: Bool[Tensor, "batch modalities"]) -> Fused:
        some = valid.any(1, keepdim=True)
        z = h.masked_fill((~valid & some)[..., None], -math.inf).amax(1)
        largest = (h == z[:, None]) & valid[..., None]
        shares = largest / largest.sum(1, keepdim=True).clamp(min=1)
        return z, shares.mean(2).to(h.dtype)


class GatedFusion(TokenFusion):
    r"""Gates that look at all modalities and say, dimension by dimension, how much of each gets through.

    .. math:: g_m=\sigma\big(V_m[z_1;\dots;z_M]+c_m\big),\qquad
              z=\sum_{m\in\mathcal P}g_m\odot\tanh(h_m)

    Gates are independent: they need not sum to one. A modality's weight is the mean of its gate over the
    dimensions. Which features stand where matters to the gates, so this fuser is not symmetric.

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.

    Attributes:
        gates: :math:`g_m` of the last call, ``(B, M, D)``, zero where absent, to be read: without gradient.

    Source:
        Arevalo, Solorio, Montes-y-Gómez and González (2017), GMU. For two modalities they tie the gates,
        :math:`g_2=1-g_1`; here they are independent for any number. The biases are ours.

    Example:
        >>> fuser = GatedFusion({"image": 3, "text": 5}, out_dim=4)
        >>> point, weights = fuser({"image": torch.ones(2, 3), "text": torch.ones(2, 5)})
        >>> fuser.gates.shape, torch.equal(weights, fuser.gates.mean(2))
        (torch.Size([2, 2, 4]), True)
    """

    def __init__(self, dims: dict[str, int], out_dim: int):
        super().__init__(dims, out_dim)
        self.gate = nn.Linear(sum(dims.values()), len(dims) * out_dim)

    def fuse(self, z: dict[str, Tensor], valid: Bool[Tensor, "batch modalities"]) -> Fused:
        h = self.tokens(z, valid)
        g = self.gate(torch.cat([*z.values()], 1)).sigmoid().view_as(h)
        g = torch.where(valid[..., None], g, 0)
        self.gates = g.detach()
        return (g * h.tanh()).sum(1), g.mean(2)


class AttentionFusion(TokenFusion):
    r"""A learnt query :math:`q` that chooses between the tokens of an item.

    .. math:: \alpha_m=\underset{m\in\mathcal P}{\mathrm{softmax}}\,\frac{q^\top h_m}{\sqrt D},\qquad
              z=\sum_{m\in\mathcal P}\alpha_mh_m

    It starts at :math:`q=0`, where it is :class:`MeanFusion`. Without any modality the point is zero.

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.

    Source:
        Yang et al. (2016), for a learnt query over the parts of one thing, there words and sentences. They
        have a layer with tanh before the product; here it is the scaled product of Vaswani et al. (2017).

    Example:
        >>> fuser = AttentionFusion({"image": 3, "text": 5}, out_dim=4)
        >>> point, weights = fuser({"image": torch.ones(1, 3), "text": torch.ones(1, 5)})
        >>> weights.tolist()  # as long as nothing is learnt
        [[0.5, 0.5]]
    """

    def __init__(self, dims: dict[str, int], out_dim: int):
        super().__init__(dims, out_dim)
        self.query = nn.Parameter(torch.zeros(out_dim))

    def combine(self, h: Tensor, valid: Bool[Tensor, "batch modalities"]) -> Fused:
        weights = _softmax(h @ self.query / math.sqrt(self.out_dim), valid)
        return _weighted_sum(weights, h), weights


class TransformerFusion(AttentionFusion):
    r"""A Transformer encoder lets the tokens look at each other; a learnt query then chooses between them.

    .. math:: \tilde h_1,\dots,\tilde h_M=\mathrm{Encoder}(h_1,\dots,h_M),\qquad
              z=\sum_{m\in\mathcal P}\alpha_m\tilde h_m

    with the weights :math:`\alpha_m` of :class:`AttentionFusion`. They say which token was read, not where
    its content is from: :math:`\tilde h_m` may hold what another modality said.

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.
        heads: of each layer; they divide ``out_dim``.
        layers: of the encoder.
        dropout: in training, inside the layers.

    Raises:
        ValueError: if the heads do not divide the width.

    Source:
        Vaswani et al. (2017), with the normalisation before each part. PyTorch's mask says what is padding,
        ours what is real. Over nothing but padding its attention is NaN in some versions and zero in others;
        here the point is zero.

    Example:
        >>> fuser = TransformerFusion({"image": 3, "text": 5}, out_dim=4, heads=2)
        >>> valid = torch.tensor([[True, True], [False, False]])
        >>> point, _ = fuser({"image": torch.ones(2, 3), "text": torch.ones(2, 5)}, valid)
        >>> point[1].tolist()
        [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self, dims: dict[str, int], out_dim: int, *, heads: int = 1, layers: int = 1, dropout: float = 0.0
    ):
        super().__init__(dims, out_dim)
        if out_dim % heads:
            raise ValueError(f"heads: expected a divisor of out_dim {out_dim}, found {heads}")
        layer = nn.TransformerEncoderLayer(
            out_dim, heads, 2 * out_dim, dropout, batch_first=True, norm_first=True
        )
        # nested tensors may return fewer tokens than they were given
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def combine(self, h: Tensor, valid: Bool[Tensor, "batch modalities"]) -> Fused:
        some = valid.any(1, keepdim=True)
        h = self.encoder(h, src_key_padding_mask=~valid & some)
        return super().combine(torch.where(valid[..., None], h, 0), valid)


# Products of modalities


class BilinearFusion(Fusion):
    r"""A linear map of all products of features, one from each modality.

    .. math:: z=W\,\mathrm{vec}\Big(\begin{bmatrix}z_1\\1\end{bmatrix}\otimes\dots\otimes
              \begin{bmatrix}z_M\\1\end{bmatrix}\Big)

    For two modalities that is :math:`z_k=z_1^\top W_kz_2+a_k^\top z_1+b_k^\top z_2+c_k`: a bilinear form, and
    by the ones what is linear in each. An absent modality is :math:`[0;1]`: the terms with it vanish, the
    others stay. There are :math:`D\prod_m(d_m+1)` weights, soon too many: see :class:`LowRankFusion`.

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.

    Raises:
        ValueError: if there are more than ``LARGEST_TENSOR`` weights.

    Source:
        Zadeh, Chen, Poria, Cambria and Morency (2017), the tensor fusion network, without the layers around.

    Example:
        >>> fuser = BilinearFusion({"a": 1, "b": 1}, out_dim=1)
        >>> fuser.join.weight.data = torch.tensor([[-2.0, 1.0, 1.0, 0.0]])  # of ab, a, b and 1
        >>> a, b = torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([[0.0], [1.0], [0.0], [1.0]])
        >>> fuser({"a": a, "b": b})[0].flatten().tolist()  # whether they differ
        [0.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, dims: dict[str, int], out_dim: int):
        super().__init__(dims, out_dim)
        products = math.prod(width + 1 for width in dims.values())
        if products * out_dim > LARGEST_TENSOR:
            raise ValueError(
                f"dims: expected at most {LARGEST_TENSOR} weights, found {products} products "
                f"times {out_dim}; see LowRankFusion"
            )
        self.join = nn.Linear(products, out_dim, bias=False)

    def fuse(self, z: dict[str, Tensor], valid: Bool[Tensor, "batch modalities"]) -> Fused:
        products = self.join.weight.new_ones(len(valid), 1)
        for z_m in z.values():
            with_one = F.pad(z_m, (0, 1), value=1.0)
            products = torch.einsum("bi,bj->bij", products, with_one).flatten(1)
        point = self.join(products)
        return point, valid.to(point.dtype)


class LowRankFusion(Fusion):
    r"""The products of :class:`BilinearFusion`, with a tensor of weights that is a sum of ``R`` simple ones.

    .. math:: z=\sum_{r=1}^R\;\bigodot_{m=1}^M\big(W_m^{(r)}z_m+b_m^{(r)}\big)

    Its :math:`RD\sum_m(d_m+1)` weights grow with the sum of the widths, not with their product. An absent
    modality leaves its factor :math:`b_m^{(r)}`, which starts at 1.

    Args:
        dims: see :class:`Fusion`.
        out_dim: see :class:`Fusion`.
        rank: ``R``.

    Raises:
        ValueError: for a rank below 1.

    Source:
        Liu, Shen, Lakshminarasimhan, Liang, Zadeh and Morency (2018). The start of the biases is ours.

    Example:
        >>> fuser = LowRankFusion({"image": 3, "text": 5}, out_dim=4, rank=2)
        >>> point, _ = fuser({"image": torch.zeros(1, 3), "text": torch.zeros(1, 5)})
        >>> point.tolist()
        [[2.0, 2.0, 2.0, 2.0]]
    """

    def __init__(self, dims: dict[str, int], out_dim: int, *, rank: int = 4):
        super().__init__(dims, out_dim)
        check_positive("rank", rank)
        self.rank = rank
        self.factors = nn.ModuleDict({m: nn.Linear(width, rank * out_dim) for m, width in dims.items()})
        for factor in self.factors.values():
            nn.init.ones_(factor.bias)  # a product of many small factors would start near zero and stay there

    def fuse(self, z: dict[str, Tensor], valid: Bool[Tensor, "batch modalities"]) -> Fused:
        product = torch.stack([self.factors[m](z_m) for m, z_m in z.items()]).prod(0)
        point = product.unflatten(1, (self.rank, self.out_dim)).sum(1)
        return point, valid.to(point.dtype)


# Model-level fusion


def logarithmic_pool(
    log_p: Float[Tensor, "batch modalities classes"], weights: Float[Tensor, "batch modalities"]
) -> Float[Tensor, "batch classes"]:
    r"""Average the log-probabilities of several models, and renormalise.

    .. math:: \log p_c=\sum_m\alpha_m\log p_{mc}-\log\sum_{c'}\exp\sum_m\alpha_m\log p_{mc'}

    The second term is needed: the plain average of log-probabilities belongs to numbers that sum to less than
    one, unless all models agree. Without any weight the classes are equally probable.

    Args:
        log_p: :math:`\log p_{mc}`, ``(B, M, C)``; where the weight is zero it has no influence.
        weights: :math:`\alpha_m\ge0`, ``(B, M)``. They may be larger than one in sum, which makes the answer
            more certain.

    Returns:
        :math:`\log p_c`, ``(B, C)``.

    Raises:
        ValueError: for other shapes.

    Source:
        Genest and Zidek (1986), the logarithmic opinion pool.

    Example:
        >>> log_p = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]).log()
        >>> logarithmic_pool(log_p, torch.tensor([[0.5, 0.5]])).exp()
        tensor([[0.7500, 0.2500]])
    """
    if log_p.ndim != 3 or weights.shape != log_p.shape[:2]:
        raise ValueError(
            f"log_p, weights: expected shapes (B, M, C) and (B, M), "
            f"found {tuple(log_p.shape)} and {tuple(weights.shape)}"
        )
    log_p = torch.where(weights[..., None] != 0, log_p, 0)
    return _weighted_sum(weights, log_p).log_softmax(1)


class LateFusion(Fusion):
    r"""A head for each modality, and one answer of theirs: model-level fusion of classes.

    .. math:: \log p_m=\log\mathrm{softmax}(W_mz_m+b_m),\qquad
              \log p=\log\mathrm{softmax}\sum_{m\in\mathcal P}\alpha_m\log p_m

    by equal weights (``"mean"``), by weights that are learnt, one for each modality, softmax over those
    present (``"learnt"``), or by *stacking*: another linear map of all log-probabilities side by side,
    :math:`\log p=\log\mathrm{softmax}(S[\log p_1;\dots;\log p_M]+c)`, with zeros for an absent modality.
    All three start at the mean (stacking: of an item that has all modalities). Without any, the classes are
    equally probable (stacking: what :math:`c` says).

    Trained only through the joint answer, ``"mean"`` is :class:`MeanFusion` to ``C`` dimensions: a softmax
    does not see the normalisation of each :math:`p_m`. It is late fusion if each head learns from a loss of
    its own; see :meth:`modality_logits`. Learnt weights and stacking want items that the heads were not
    trained on: on those they were, the most overfitted head looks best.

    Args:
        dims: see :class:`Fusion`.
        out_dim: ``C``, the number of classes.
        kind: ``"mean"``, ``"learnt"`` or ``"stacking"``.

    Shapes: as for every fuser; the point is :math:`\log p`, ``(B, C)``, logits as for a cross-entropy.

    Raises:
        ValueError: for an unknown kind or fewer than two classes.

    Source:
        Genest and Zidek (1986), for the pool; Wolpert (1992), for stacking.

    Example:
        >>> fuser = LateFusion({"image": 3, "text": 5}, out_dim=10)
        >>> features = {"image": torch.ones(2, 3), "text": torch.ones(2, 5)}
        >>> log_p, weights = fuser(features)
        >>> torch.allclose(log_p.exp().sum(1), torch.ones(2)), weights[0].tolist()
        (True, [0.5, 0.5])
    """

    def __init__(self, dims: dict[str, int], out_dim: int, *, kind: str = "mean"):
        super().__init__(dims, out_dim)
        if kind not in ("mean", "learnt", "stacking"):
            raise ValueError(f"kind: expected mean, learnt or stacking; found {kind!r}")
        if out_dim < 2:
            raise ValueError(f"out_dim: expected at least 2 classes, found {out_dim}")
        self.kind = kind
        self.heads = nn.ModuleDict({m: nn.Linear(width, out_dim) for m, width in dims.items()})
        if kind == "learnt":
            self.scores = nn.Parameter(torch.zeros(len(dims)))
        if kind == "stacking":
            self.stack = nn.Linear(len(dims) * out_dim, out_dim)
            with torch.no_grad():
                self.stack.weight.copy_(torch.eye(out_dim).repeat(1, len(dims)) / len(dims))
                self.stack.bias.zero_()

    def modality_logits(
        self,
        features: dict[str, Float[Tensor, "batch _"]],
        valid: Bool[Tensor, "batch modalities"] | None = None,
    ) -> dict[str, Float[Tensor, "batch classes"]]:
        """Return what each modality's head says by itself, ``(B, C)``, for a loss of its own.

        Leave absent items out of that loss, as :meth:`~mmtutor.sharing.Head.loss` does by its ``valid``; here
        they have the logits of features that are zero.
        """
        z, _ = self.present(features, valid)
        return {m: self.heads[m](z_m) for m, z_m in z.items()}

    def fuse(self, z: dict[str, Tensor], valid: Bool[Tensor, "batch modalities"]) -> Fused:
        log_p = torch.stack([self.heads[m](z_m).log_softmax(1) for m, z_m in z.items()], 1)
        if self.kind == "stacking":
            log_p = torch.where(valid[..., None], log_p, 0)
            return self.stack(log_p.flatten(1)).log_softmax(1), valid.to(log_p.dtype)
        scores = self.scores if self.kind == "learnt" else log_p.new_zeros(len(self.dims))
        weights = _softmax(scores.expand(valid.shape), valid)
        return logarithmic_pool(log_p, weights), weights


# Training with several modalities


def gradient_modulation(confidence: dict[str, float], strength: float = 0.5) -> dict[str, float]:
    r"""By how much to slow down each modality's encoder, so that the surest does not starve the others.

    .. math:: k_m=\begin{cases}1-\tanh(\beta\rho_m)&\text{if }\rho_m>1\\1&\text{otherwise}\end{cases},\qquad
              \rho_m=\frac{s_m}{\frac1{M-1}\sum_{n\ne m}s_n}

    Once one modality answers well by itself, the joint loss is small and its gradient too, for all encoders.
    Multiply the gradient of encoder :math:`m` by :math:`k_m` between ``backward`` and the optimiser's step.
    (Adam divides a gradient by its own size, so a constant factor does nothing there; SGD obeys.) The factor
    jumps: it is 1 at :math:`\rho_m=1` and near :math:`1-\tanh\beta` just above.

    Args:
        confidence: :math:`s_m`, for each modality the mean probability of the right class over a batch, by
            what that modality says alone.
        strength: :math:`\beta\ge0`; 0 changes nothing.

    Returns:
        :math:`k_m` by modality, from 0 to 1.

    Raises:
        ValueError: without modalities, for a confidence that is no probability, or a negative strength.

    Source:
        Peng, Wei, Deng, Wang and Hu (2022), OGM-GE, for two modalities; the mean of the others for more is
        ours. They also add noise to the gradients (the GE of the name), which is left out here.

    Example:
        >>> k = gradient_modulation({"image": 0.8, "text": 0.4})
        >>> {m: round(k_m, 3) for m, k_m in k.items()}
        {'image': 0.238, 'text': 1.0}
        >>> encoder = nn.Linear(3, 2)
        >>> encoder(torch.ones(1, 3)).sum().backward()
        >>> for p in encoder.parameters():
        ...     p.grad *= k["image"]
    """
    if not confidence:
        raise ValueError("confidence: expected at least one modality, found none")
    for m, s_m in confidence.items():
        if not 0 <= s_m <= 1:
            raise ValueError(f"{m}: expected a mean probability from 0 to 1, found {s_m}")
    if not strength >= 0:
        raise ValueError(f"strength: expected 0 or more, found {strength}")
    k = dict.fromkeys(confidence, 1.0)
    for m, s_m in confidence.items():
        others = [s_n for n, s_n in confidence.items() if n != m]
        mean = sum(others) / max(len(others), 1)
        if others and s_m > mean:
            k[m] = 1 - math.tanh(strength * s_m / max(mean, 1e-12))
    return k


# What each modality contributes


def shapley_values(value: Callable[[frozenset[str]], Value], modalities: Collection[str]) -> dict[str, Value]:
    r"""Share out what all modalities achieve together: each gets its mean gain over all orders of joining.

    .. math:: \varphi_m=\sum_{\mathcal S\subseteq\mathcal M\setminus\{m\}}
              \frac{|\mathcal S|!\,(M-|\mathcal S|-1)!}{M!}\,
              \big(v(\mathcal S\cup\{m\})-v(\mathcal S)\big)

    They sum to :math:`v(\mathcal M)-v(\emptyset)`; modalities that change the same get the same; one that
    never changes anything gets zero. Exact: ``value`` is asked once about each of the :math:`2^M` sets. What
    two modalities say both is split between them, and so is what only the two together say: a Shapley value
    does not tell redundancy from synergy (see :func:`~mmtutor.mapping.information_parts`).

    Args:
        value: :math:`v(\mathcal S)`, what the model achieves with a set of modalities, the others absent: a
            score, or a tensor of any shape, as a log-probability for each item.
        modalities: their names, at most ``MOST_MODALITIES``.

    Returns:
        :math:`\varphi_m` by modality, in the unit of ``value``.

    Raises:
        ValueError: for no modality, one named twice, or too many.

    Source:
        Shapley (1953).

    Example:
        >>> accuracy = {"": 0.1, "image": 0.7, "text": 0.5, "image text": 0.9}
        >>> phi = shapley_values(lambda s: accuracy[" ".join(sorted(s))], ["image", "text"])
        >>> {m: round(phi_m, 3) for m, phi_m in phi.items()}
        {'image': 0.5, 'text': 0.3}
    """
    names, M = list(modalities), len(modalities)
    if not 1 <= M <= MOST_MODALITIES or len(set(names)) < M:
        raise ValueError(
            f"modalities: expected 1 to {MOST_MODALITIES}, each once; found {M}: {', '.join(names)}"
        )
    sets = [frozenset(s) for size in range(M + 1) for s in itertools.combinations(names, size)]
    v = {s: value(s) for s in sets}
    return {
        # M comb(M - 1, |S|) = M! / (|S|! (M - |S| - 1)!)
        m: sum((v[s | {m}] - v[s]) / (M * math.comb(M - 1, len(s))) for s in sets if m not in s)
        for m in names
    }


# Whether a probability may be believed


def reliability_curve(
    probabilities: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], bins: int = 15
) -> tuple[Float[Tensor, " used"], Float[Tensor, " used"], Float[Tensor, " used"]]:
    r"""How often a model is right when it is this sure: the points of a reliability diagram.

    With the answer :math:`\hat y_i=\arg\max_cp_{ic}` and its confidence :math:`\hat p_i=\max_cp_{ic}`, the
    items of bin :math:`b` are those with :math:`\frac{b-1}K<\hat p_i\le\frac bK`. A calibrated model is on
    the diagonal: of the answers given with confidence 0.8, eight in ten are right.

    Args:
        probabilities: :math:`p_{ic}`, ``(B, C)``.
        labels: the right classes, int64 ``(B,)``.
        bins: :math:`K`, equal steps of confidence.

    Returns:
        Mean confidence, share of right answers, and share of the items, one each for every bin that has
        items, in the order of confidence.

    Raises:
        ValueError: for other shapes, no items, rows that are no distribution, classes that do not exist, or
            fewer than one bin.

    Source:
        Guo, Pleiss, Sun and Weinberger (2017). (torchmetrics counts a confidence on the border of two bins
        to the upper one.)

    Example:
        >>> p = torch.tensor([[0.8, 0.2], [0.2, 0.8], [0.8, 0.2], [0.6, 0.4]])
        >>> confidence, accuracy, share = reliability_curve(p, torch.tensor([0, 0, 0, 1]), bins=5)
        >>> accuracy, share
        (tensor([0.0000, 0.6667]), tensor([0.2500, 0.7500]))
    """
    _check_predictions(probabilities, labels)
    check_positive("bins", bins)
    confidence, answer = probabilities.max(1)
    edges = torch.linspace(0, 1, bins + 1).to(confidence)
    place = torch.bucketize(confidence, edges[1:-1])
    count = place.bincount(minlength=bins)
    used = count > 0

    def mean(values: Tensor) -> Tensor:
        return confidence.new_zeros(bins).index_add(0, place, values.to(confidence))[used] / count[used]

    return mean(confidence), mean(answer == labels), count[used] / len(labels)


def _check_predictions(probabilities: Tensor, labels: Tensor) -> None:
    if probabilities.ndim != 2 or not probabilities.numel():
        raise ValueError(f"probabilities: expected shape (B, C), found {tuple(probabilities.shape)}")
    sums = probabilities.sum(1)
    if not ((probabilities >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)):
        low, high = sums.aminmax()
        raise ValueError(
            f"probabilities: expected rows of 0 or more that sum to 1, found sums from {low} to {high}"
        )
    items, classes = probabilities.shape
    if labels.dtype != torch.int64 or labels.shape != (items,):
        raise ValueError(
            f"labels: expected int64 of shape ({items},), found {labels.dtype} of shape {tuple(labels.shape)}"
        )
    low, high = labels.aminmax()
    if low < 0 or high >= classes:
        raise ValueError(f"labels: expected classes 0 to {classes - 1}, found {low} to {high}")


def expected_calibration_error(
    probabilities: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], bins: int = 15
) -> float:
    r"""Mean distance of confidence and accuracy: how far a reliability diagram is from its diagonal.

    .. math:: \mathrm{ECE}=\sum_{b=1}^K\frac{n_b}{B}\,|\mathrm{acc}_b-\mathrm{conf}_b|

    with :math:`n_b` items in bin :math:`b`. Few items in a bin make it too large: compare it only at equal
    numbers of items and bins.

    Args:
        probabilities: see :func:`reliability_curve`.
        labels: see :func:`reliability_curve`.
        bins: see :func:`reliability_curve`.

    Raises:
        ValueError: see :func:`reliability_curve`.

    Source:
        Naeini, Cooper and Hauskrecht (2015); Guo, Pleiss, Sun and Weinberger (2017).

    Example:
        >>> p = torch.tensor([[0.8, 0.2], [0.2, 0.8], [0.8, 0.2], [0.6, 0.4]])
        >>> round(expected_calibration_error(p, torch.tensor([0, 0, 0, 1])), 3)  # 3/4 * 0.133 + 1/4 * 0.6
        0.25
    """
    confidence, accuracy, share = reliability_curve(probabilities, labels, bins)
    return (share * (accuracy - confidence).abs()).sum().item()
