r"""Matching: do two modalities say the same about one thing? Measures of it, losses for it, a model of it.

Row ``i`` of ``p`` and row ``i`` of ``q`` are what two modalities say about the same thing: two distributions
over ``C`` classes, :math:`p_i` and :math:`q_i`. Of pairs, a *true* one is two rows of one thing, a *false*
one two rows of different things.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmtutor.contrastive import check_embeddings, check_pair, check_positive, cosine, info_nce

Scalar = Float[Tensor, ""]
Views = dict[str, Float[Tensor, "items _"]]

LOG_2 = math.log(2)


# Divergences


def _same_classes(first: str, a: Tensor, second: str, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32 or better, or raise unless they are floats over the same classes."""
    for name, x in ((first, a), (second, b)):
        if not x.is_floating_point():
            raise TypeError(f"{name}: expected floats, found {x.dtype}")
        if x.ndim == 0 or x.shape[-1] == 0:
            raise ValueError(f"{name}: expected shape (..., C), found {tuple(x.shape)}")
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"{first}, {second}: expected one number of classes, found {a.shape[-1]} and {b.shape[-1]}"
        )
    half = (torch.bfloat16, torch.float16)
    return tuple(x.float() if x.dtype in half else x for x in (a, b))


def _check_distributions(name: str, p: Tensor) -> None:
    """Raise, naming the first row that is none, unless each row is a distribution."""
    least, total = p.amin(-1), p.sum(-1)
    for fault, found, what in (
        (~(least >= 0), least, "holds"),  # so that NaN is a fault too
        (~((total - 1).abs() <= 1e-4), total, "sums to"),
    ):
        if fault.any():
            place = fault.nonzero()[0].tolist()
            row = ", ".join(map(str, place)) or "0"  # a single distribution is row 0
            value = found[tuple(place)].item()
            raise ValueError(
                f"{name}: expected rows of numbers from 0 that sum to 1; row {row} {what} {value:.6g}"
            )


def _distributions(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = _same_classes("p", p, "q", q)
    _check_distributions("p", p)
    _check_distributions("q", q)
    return p, q


def _kl(p: Tensor, q: Tensor) -> Tensor:
    # Rounding may give -1e-8 where p and q are nearly equal.
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1).clamp(min=0)


def _js(p: Tensor, q: Tensor) -> Tensor:
    def to_middle(p, q):  # KL(p‖m); the ratio is between 0 and 2, also for p so small that p / 2 is 0
        ratio = torch.where(p > 0, 2 * p / (p + q), 1)
        return (p * ratio.log()).sum(-1)

    return ((to_middle(p, q) + to_middle(q, p)) / 2).clamp(0, LOG_2)


def kl_divergence(
    p: Float[Tensor, "*#rows classes"], q: Float[Tensor, "*#rows classes"]
) -> Float[Tensor, "..."]:
    r"""Kullback-Leibler divergence, the nats lost by whoever believes :math:`q` where :math:`p` is true.

    .. math:: \mathrm{KL}(p\Vert q)=\sum_cp_c\log\frac{p_c}{q_c}\ \ge0,\qquad 0\log0=0

    It is not symmetric, has no upper bound, and is infinite where :math:`q_c=0<p_c`. There its gradient with
    respect to probabilities is not finite either: to train, take :func:`kl_from_logits`.

    Args:
        p, q: distributions ``(..., C)``; the axes before the last may broadcast.

    Returns:
        ``(...)``, in nats.

    Raises:
        TypeError: for numbers that are not floats.
        ValueError: for another number of classes, and, naming the row, for a negative number, NaN, or a sum
            other than 1 (by more than 0.0001).

    Source:
        Kullback and Leibler (1951).

    Example:
        >>> certain, even = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
        >>> kl_divergence(certain, even), kl_divergence(even, certain)
        (tensor(0.6931), tensor(inf))
    """
    return _kl(*_distributions(p, q))


def js_divergence(
    p: Float[Tensor, "*#rows classes"], q: Float[Tensor, "*#rows classes"]
) -> Float[Tensor, "..."]:
    r"""Jensen-Shannon divergence: how far two distributions are from their middle, on average.

    .. math:: \mathrm{JS}(p,q)=\tfrac12\mathrm{KL}(p\Vert m)+\tfrac12\mathrm{KL}(q\Vert m),\qquad
              m=\tfrac12(p+q)

    Symmetric, 0 for equal distributions, :math:`\log2` for those that share no class; never infinite, since
    :math:`m` is zero only where both are. Where a class has no probability the slope is infinite, and what
    automatic differentiation returns there is not it: to train, take :func:`js_from_logits`.

    Args:
        p, q: distributions ``(..., C)``; the axes before the last may broadcast.

    Returns:
        ``(...)``, in nats, between 0 and ``log 2``.

    Raises:
        TypeError: for numbers that are not floats.
        ValueError: as :func:`kl_divergence`.

    Source:
        Lin (1991). SciPy's ``jensenshannon`` is the square root of it.

    Example:
        >>> js_divergence(torch.tensor([[1.0, 0.0], [0.3, 0.7]]), torch.tensor([[0.0, 1.0], [0.3, 0.7]]))
        tensor([0.6931, 0.0000])
    """
    return _js(*_distributions(p, q))


def _log_probabilities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _same_classes("a", a, "b", b)
    for name, x in (("a", a), ("b", b)):
        if not torch.isfinite(x).all():
            raise ValueError(f"{name}: expected finite logits, found NaN or infinity")
    return a.log_softmax(-1), b.log_softmax(-1)


def kl_from_logits(
    a: Float[Tensor, "*#rows classes"], b: Float[Tensor, "*#rows classes"]
) -> Float[Tensor, "..."]:
    r"""KL divergence of two softmaxes, :math:`\mathrm{KL}(p\Vert q)`, computed from their logits.

    .. math:: p=\mathrm{softmax}(a),\quad q=\mathrm{softmax}(b),\qquad
              \frac{\partial\,\mathrm{KL}}{\partial b}=q-p,\qquad
              \frac{\partial\,\mathrm{KL}}{\partial a_c}=p_c\Big(\log\frac{p_c}{q_c}-\mathrm{KL}\Big)

    Value and gradient are finite, however certain the two are: a softmax is never zero, and its logarithm is
    known even where rounding makes it so.

    Args:
        a, b: logits ``(..., C)``; the axes before the last may broadcast.

    Returns:
        ``(...)``, in nats.

    Raises:
        TypeError: for numbers that are not floats.
        ValueError: for another number of classes, or logits that are NaN or infinite.

    Example:
        >>> kl_from_logits(torch.tensor([500.0, -500.0]), torch.tensor([-500.0, 500.0]))
        tensor(1000.)
    """
    log_p, log_q = _log_probabilities(a, b)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


def js_from_logits(
    a: Float[Tensor, "*#rows classes"], b: Float[Tensor, "*#rows classes"]
) -> Float[Tensor, "..."]:
    r"""JS divergence of two softmaxes, computed from their logits; value and gradient are finite.

    The gradient vanishes where the two hardly share a class, because JS cannot exceed :math:`\log2`: what
    is far apart is not pulled. :func:`kl_from_logits` pulls there.

    Args:
        a, b: logits ``(..., C)``; the axes before the last may broadcast.

    Returns:
        ``(...)``, in nats, between 0 and ``log 2``.

    Raises:
        TypeError: for numbers that are not floats.
        ValueError: for another number of classes, or logits that are NaN or infinite.

    Example:
        >>> js_from_logits(torch.tensor([500.0, -500.0]), torch.tensor([-500.0, 500.0]))
        tensor(0.6931)
    """
    log_p, log_q = _log_probabilities(a, b)
    log_m = torch.logaddexp(log_p, log_q) - LOG_2
    two_ways = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return (two_ways.sum(-1) / 2).clamp(0, LOG_2)


# Matching degree


DIVERGENCES = {"kl": _kl, "js": _js}


def _check_kind(kind: str, known: Iterable[str]) -> None:
    if kind not in known:
        raise ValueError(f"kind: expected one of {', '.join(known)}; found {kind!r}")


def matching_degree(
    a: Float[Tensor, "batch width"], b: Float[Tensor, "batch width"], kind: str = "cosine"
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " false_pairs"]]:
    r"""How well two modalities match, for every true and for every false pair; larger is closer.

    .. math:: d_{ij}=\hat a_i^\top\hat b_j,\qquad d_{ij}=-\mathrm{KL}(p_i\Vert q_j)\qquad\text{or}\qquad
              d_{ij}=1-\frac{\mathrm{JS}(p_i,q_j)}{\log2}

    A degree says little by itself: two modalities that always answer "cat" match perfectly. It means
    something beside that of the false pairs, so both are returned.

    Args:
        a, b: row ``i`` of both is one thing. For ``"cosine"`` embeddings ``(B, D)``, otherwise distributions
            ``(B, C)``.
        kind: ``"cosine"`` (from -1 to 1), ``"kl"`` (from minus infinity to 0) or ``"js"`` (from 0 to 1).

    Returns:
        The degrees :math:`d_{ii}` of the true pairs, ``(B,)``, and :math:`d_{ij}` of all false ones,
        ``(B (B - 1),)``, row after row.

    Raises:
        ValueError: for an unknown kind, other shapes, a single pair (it has no false one), rows that are not
            finite, and for KL and JS rows that are no distributions, naming the row.

    Example:
        >>> p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        >>> true_pairs, false_pairs = matching_degree(p, p, kind="js")
        >>> true_pairs, false_pairs
        (tensor([1., 1.]), tensor([0.6887, 0.6887]))
    """
    _check_kind(kind, ("cosine", *DIVERGENCES))
    check_pair(a, b)
    if len(a) < 2:
        raise ValueError("a, b: expected at least 2 pairs, found 1, which has no false pair")
    if kind == "cosine":
        degree = cosine(a, b)
    else:
        p, q = _distributions(a, b)
        distance = torch.stack([DIVERGENCES[kind](row, q) for row in p])  # a row at a time: B x C numbers
        degree = -distance if kind == "kl" else 1 - distance / LOG_2
    false = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    return degree.diagonal(), degree[false]


def divergence_of_means(
    p: Float[Tensor, "batch classes"], q: Float[Tensor, "batch classes"], kind: str = "kl"
) -> tuple[Scalar, Scalar]:
    r"""Divergence of the mean distributions, beside the mean of the divergences, which is never smaller.

    .. math:: D\Big(\tfrac1B\sum_ip_i\,\Big\Vert\,\tfrac1B\sum_iq_i\Big)\ \le\
              \tfrac1B\sum_iD(p_i\Vert q_i)

    because KL and JS are convex in both arguments together. The left side does not know which rows are
    pairs: it is the same after one side is shuffled. It tells whether two modalities predict the same
    classes equally often, not whether they agree about any one thing.

    Args:
        p, q: distributions ``(B, C)``; row ``i`` of both is one thing.
        kind: ``"kl"`` or ``"js"``.

    Returns:
        The left and the right side, in nats.

    Raises:
        TypeError: for numbers that are not floats.
        ValueError: for an unknown kind, other shapes, or a row that is no distribution.

    Source:
        Cover and Thomas (2006), theorem 2.7.2.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> of_means, mean = divergence_of_means(p, p.flip(0))  # wrong about everything, right on average
        >>> of_means, mean
        (tensor(0.), tensor(1.7578))
    """
    _check_kind(kind, DIVERGENCES)
    check_pair(p, q)
    p, q = _distributions(p, q)
    divergence = DIVERGENCES[kind]
    return divergence(p.mean(0), q.mean(0)), divergence(p, q).mean()


# Losses that optimise the match


def matching_cross_entropy(a: Float[Tensor, "batch classes"], b: Float[Tensor, "batch classes"]) -> Scalar:
    r"""Cross-entropy between two predictive distributions, both ways, from their logits.

    .. math:: L=\frac1{2B}\sum_i\big[H(p_i,q_i)+H(q_i,p_i)\big],\qquad
              H(p,q)=-\sum_cp_c\log q_c=H(p)+\mathrm{KL}(p\Vert q)

    Because of :math:`H(p)` it asks for agreement *and* certainty: it is 0 only where both are certain of
    one class, and :math:`\log C` where both are even. It does not ask which class: without another loss,
    one class for everything will do.

    Args:
        a, b: logits ``(B, C)``; row ``i`` of both is one thing.

    Returns:
        The mean over pairs, in nats.

    Raises:
        ValueError: for other shapes, NaN or infinity.

    Example:
        >>> matching_cross_entropy(torch.zeros(2, 4), torch.zeros(2, 4))  # log 4
        tensor(1.3863)
    """
    check_pair(a, b)
    log_p, log_q = _log_probabilities(a, b)
    return -(log_p.exp() * log_q + log_q.exp() * log_p).sum(1).mean() / 2


def matching_mse(a: Float[Tensor, "batch width"], b: Float[Tensor, "batch width"]) -> Scalar:
    r"""Mean squared difference of true pairs, :math:`\frac1{BD}\sum_i\lVert a_i-b_i\rVert^2`.

    Nothing in it pushes false pairs apart. Where both sides are trained, one point for all things has loss
    0 and gradient 0: it *collapses*. :func:`~mmtutor.contrastive.info_nce` is ``log B`` there.

    Args:
        a, b: embeddings, or distributions, ``(B, D)``.

    Returns:
        The mean, in the squared unit of the numbers.

    Raises:
        ValueError: for other shapes, NaN or infinity.

    Example:
        >>> matching_mse(torch.zeros(2, 2), torch.tensor([[0.0, 2.0], [0.0, 0.0]])).item()
        1.0
    """
    check_pair(a, b)
    return (a - b).square().mean()


MATCHING_LOSSES = {
    "cross-entropy": matching_cross_entropy,
    "mse": matching_mse,
    "contrastive": info_nce,
}


# Adversarial alignment


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, strength):
        ctx.strength = strength
        return z.view_as(z)

    @staticmethod
    def backward(ctx, upstream):
        return -ctx.strength * upstream, None


class GradientReversal(nn.Module):
    r"""The identity, :math:`R(z)=z`, with the gradient turned round, :math:`R'(z)=-\lambda I`.

    What comes after it learns to lower a loss; what comes before it learns, from the same backward pass, to
    raise it.

    Args:
        strength: :math:`\lambda\ge0`; may be set anew during training, see :func:`reversal_strength`.

    Shapes: any.

    Raises:
        ValueError: for a strength that is negative or not finite.

    Source:
        Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand and Lempitsky (2016).

    Example:
        >>> z = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> GradientReversal(0.5)(z).sum().backward()
        >>> z.grad
        tensor([-0.5000, -0.5000])
    """

    def __init__(self, strength: float = 1.0):
        super().__init__()
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength: expected a finite number of 0 or more, found {strength}")
        self.strength = strength

    def forward(self, z: Tensor) -> Tensor:
        return _Reverse.apply(z, self.strength)

    def extra_repr(self) -> str:
        return f"strength={self.strength}"


def reversal_strength(progress: float, rate: float = 10.0) -> float:
    r"""Strength of the reversal over training, :math:`\lambda(t)=2/(1+e^{-\gamma t})-1`, from 0 to nearly 1.

    A discriminator that has learnt nothing yet sends back noise; it is listened to little by little.

    Args:
        progress: :math:`t`, the part of training that is done, from 0 to 1.
        rate: :math:`\gamma>0`.

    Returns:
        :math:`\lambda`.

    Raises:
        ValueError: for progress outside of 0 to 1, or a rate that is not positive.

    Source:
        Ganin et al. (2016), section 5.2.2.

    Example:
        >>> [round(reversal_strength(t), 2) for t in (0.0, 0.1, 0.5, 1.0)]
        [0.0, 0.46, 0.99, 1.0]
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected 0 to 1, found {progress}")
    check_positive("rate", rate)
    return 2 / (1 + math.exp(-rate * progress)) - 1


class ModalityDiscriminator(nn.Module):
    r"""Guess from which modality a point comes, behind a :class:`GradientReversal`.

    .. math:: L=-\frac1M\sum_m\frac1{B_m}\sum_i\log\mathrm{softmax}\big(D(R(z_i^{(m)}))\big)_m

    Minimise it together with the task's loss: the discriminator learns to tell modalities apart, the
    encoders learn that it cannot. Where it cannot, :math:`L=\log M`. That the *clouds* of two modalities look
    alike does not say that pairs match: shuffled pairs have the same loss.

    Args:
        modalities: names, two or more.
        dim: width ``D`` of the points.
        hidden: width of the one hidden layer.
        strength: :math:`\lambda` of the reversal, in ``reversal.strength``.

    Shapes: ``(B, D) -> (B, M)``, log-odds in the order of the names.

    Raises:
        ValueError: for fewer than two modalities, or points of another shape.

    Source:
        Ganin et al. (2016), their domains being modalities here.

    Example:
        >>> discriminator = ModalityDiscriminator(["image", "text"], dim=3)
        >>> z = {"image": torch.zeros(4, 3), "text": torch.zeros(2, 3)}  # nothing tells them apart
        >>> bool(discriminator.loss(z) > 0.693)  # log 2
        True
    """

    def __init__(self, modalities: Iterable[str], dim: int, hidden: int = 64, strength: float = 1.0):
        super().__init__()
        self.modalities = list(modalities)
        if len(set(self.modalities)) < 2 or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities: expected two or more different names, found {self.modalities}")
        self.dim, self.reversal = dim, GradientReversal(strength)
        self.guess = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, len(self.modalities)))

    def forward(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch modalities"]:
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"points: expected shape (B, {self.dim}), found {tuple(z.shape)}")
        return self.guess(self.reversal(z))

    def loss(self, features: dict[str, Float[Tensor, "_ dim"]]) -> Scalar:
        """Return the cross-entropy of its guesses, in nats; each modality counts the same.

        Args:
            features: points of each modality, ``(B_m, D)``; there need not be equally many.

        Raises:
            ValueError: for modalities that are missing or unknown, or points that are no finite ``(B_m, D)``.
        """
        if set(features) != set(self.modalities):
            raise ValueError(
                f"features: expected the modalities {sorted(self.modalities)}, found {sorted(features)}"
            )
        check_embeddings(**features)
        terms = []
        for m, name in enumerate(self.modalities):
            log_p = self(features[name]).log_softmax(1)
            terms.append(-log_p[:, m].mean())
        return torch.stack(terms).mean()


# A mixture over both modalities


@dataclass(frozen=True)
class _Gaussians:
    """``K`` Gaussians with a variance for each dimension; ``mean`` and ``variance`` are ``(K, D)``."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def fit(cls, x: Tensor, r: Tensor, floor: float) -> "_Gaussians":
        n = r.sum(0)[:, None].clamp(min=torch.finfo(r.dtype).tiny)
        mean = r.T @ x / n
        squares = torch.stack([weight @ (x - centre) ** 2 for weight, centre in zip(r.T, mean, strict=True)])
        # Among the variances not below the floor this is the most likely: the likelihood still rises.
        return cls(mean, (squares / n).clamp(min=floor))

    def log_prob(self, x: Tensor) -> Tensor:
        squares = ((x[:, None] - self.mean) ** 2 / self.variance).sum(2)
        return -(squares + self.variance.log().sum(1) + x.shape[1] * math.log(2 * math.pi)) / 2

    def log_prior(self, floor: float) -> float:
        return 0.0


@dataclass(frozen=True)
class _Multinomials:
    """``K`` distributions over ``D`` words, by which counts are drawn; ``log_theta`` is ``(K, D)``."""

    log_theta: Tensor

    @classmethod
    def fit(cls, x: Tensor, r: Tensor, smoothing: float) -> "_Multinomials":
        counts = r.T @ x + smoothing
        return cls((counts / counts.sum(1, keepdim=True)).log())

    def log_prob(self, x: Tensor) -> Tensor:
        orders = torch.lgamma(x.sum(1) + 1) - torch.lgamma(x + 1).sum(1)  # of the words of an item
        return x @ self.log_theta.T + orders[:, None]

    def log_prior(self, smoothing: float) -> float:
        return smoothing * self.log_theta.sum().item()


FAMILIES = {"gaussian": _Gaussians, "multinomial": _Multinomials}


class PairedMixture:
    r"""A mixture over all views of a thing: it draws a component, then each view from that component.

    .. math:: p(x,y)=\sum_k\pi_k\,p(x\mid k)\,p(y\mid k)

    Given the component, the views have nothing more to do with each other; all that they share is
    :math:`k`. Gaussians (for features; standardise these first) have a variance for each dimension,
    multinomials are for counts of words. All is computed on the CPU, in double precision. :meth:`fit` is
    expectation and maximisation by turns:

    .. math:: r_{ik}=\frac{\pi_k\prod_vp(x_i^{(v)}\mid k)}{\sum_l\pi_l\prod_vp(x_i^{(v)}\mid l)},\qquad
              \pi_k=\frac1N\sum_ir_{ik},\qquad
              \mu_k=\frac{\sum_ir_{ik}x_i}{\sum_ir_{ik}},\ \dots

    Args:
        views: ``"gaussian"`` or ``"multinomial"`` for each view, by its name.
        components: ``K``.
        floor: the least variance allowed. Without one, a Gaussian alone with a single point has infinite
            likelihood.
        smoothing: added to each count of a multinomial: a word never seen is rare, not impossible. This
            is the prior :math:`\prod_{kc}\theta_{kc}^{\text{smoothing}}`.

    Attributes:
        weights: :math:`\pi`, ``(K,)``, after :meth:`fit`.
        parts: the components of each view.

    Raises:
        ValueError: for no or an unknown family, or a number that is not positive.

    Source:
        Dempster, Laird and Rubin (1977). With multinomials this is a mixture of unigrams, simpler than topic
        models, in which one item has several components.

    Example:
        >>> x = torch.tensor([[-3.0], [-3.1], [3.0], [3.1]])
        >>> words = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 4.0]])
        >>> model = PairedMixture({"place": "gaussian", "words": "multinomial"}, components=2)
        >>> history = model.fit({"place": x, "words": words}, generator=torch.Generator().manual_seed(0))
        >>> model.similarity({"place": x[:1]}, {"words": words}).argsort(descending=True)[0, :2].sort().values
        tensor([0, 1])
    """

    def __init__(
        self, views: dict[str, str], components: int, *, floor: float = 1e-3, smoothing: float = 0.1
    ):
        if not views or not set(views.values()) <= set(FAMILIES):
            raise ValueError(f"views: expected each one of {', '.join(FAMILIES)}; found {views}")
        for name, value in (("components", components), ("floor", floor), ("smoothing", smoothing)):
            check_positive(name, value)
        self.views, self.components = dict(views), components
        self.guards = {"gaussian": floor, "multinomial": smoothing}  # what keeps each family from extremes
        self.weights: Tensor | None = None
        self.parts: dict[str, _Gaussians | _Multinomials] = {}

    def fit(self, data: Views, steps: int = 50, generator: torch.Generator | None = None) -> list[float]:
        r"""Fit the components, from a random start: each begins as half one item, half all of them.

        Args:
            data: of each view, ``(N, D_v)``; row ``i`` of all is one thing.
            steps: how often the two steps are taken.
            generator: for the items to start from; by default PyTorch's. The end depends on the start: try
                several.

        Returns:
            After each step :math:`\frac1N\big[\sum_i\log p(x_i,y_i)+\log\text{prior}\big]`, in nats: it never
            falls. (The prior is that of multinomials; for Gaussians alone this is the mean log-likelihood.)

        Raises:
            ValueError: for missing or unknown views, views of different lengths, fewer items than
                components, negative counts, NaN or infinity.
        """
        data = self._checked(data, set(self.views))
        n = len(next(iter(data.values())))
        if n < self.components:
            raise ValueError(f"data: expected at least {self.components} items, found {n}")
        check_positive("steps", steps)
        chosen = torch.randperm(n, generator=generator)[: self.components]
        r = F.one_hot(chosen, n).T.double() + 1 / n
        history = []
        for _ in range(steps):
            self._maximise(data, r)
            log_joint = self._log_joint(data)
            r = log_joint.softmax(1)
            prior = sum(part.log_prior(self.guards[self.views[v]]) for v, part in self.parts.items())
            history.append((log_joint.logsumexp(1).sum().item() + prior) / n)
        return history

    def _maximise(self, data: Views, r: Tensor) -> None:
        self.weights = (r.sum(0) / r.sum()).clamp(min=torch.finfo(r.dtype).tiny)  # its logarithm is finite
        self.parts = {
            name: FAMILIES[family].fit(data[name], r, self.guards[family])
            for name, family in self.views.items()
        }

    def _log_joint(self, data: Views) -> Tensor:
        """Return the logarithm of ``pi_k`` times the probability of the given views, ``(N, K)``."""
        return self.weights.log() + sum(self.parts[name].log_prob(x) for name, x in data.items())

    def log_likelihood(self, data: Views) -> Float[Tensor, " items"]:
        r"""Return :math:`\log p` of the given views of each item, ``(N,)``, those not given summed out.

        Args:
            data: one view or several, ``(N, D_v)``.

        Raises:
            ValueError: before :meth:`fit`, for no or unknown views, and for data that ``fit`` refuses.
        """
        return self._log_joint(self._known(data)).logsumexp(1)

    def posterior(self, data: Views) -> Float[Tensor, "items components"]:
        r"""Return how probable each component is given some views, :math:`p(k\mid x)`, ``(N, K)``.

        Args:
            data: one view or several, ``(N, D_v)``.

        Raises:
            ValueError: as :meth:`log_likelihood`.
        """
        return self._log_joint(self._known(data)).softmax(1)

    def similarity(
        self,
        queries: dict[str, Float[Tensor, "queries _"]],
        candidates: dict[str, Float[Tensor, "candidates _"]],
    ) -> Float[Tensor, "queries candidates"]:
        r"""Compare things of one view with things of another by their posteriors.

        .. math:: s_{ij}=\log\sum_k\frac{p(k\mid x_i)\,p(k\mid y_j)}{\pi_k}
                  =\log\frac{p(x_i,y_j)}{p(x_i)\,p(y_j)}

        which is how much more often the model expects the two together than by chance. It depends on things
        through their posteriors alone: those of one component and certain of it all tie.

        Args:
            queries, candidates: of different views, as ``{"image": (Q, D)}`` and ``{"text": (N, D')}``.

        Returns:
            ``(Q, N)``, in nats, larger is closer.

        Raises:
            ValueError: as :meth:`log_likelihood`, and for a view on both sides.
        """
        if set(queries) & set(candidates):
            raise ValueError(
                f"views: expected different ones, found {sorted(queries)} and {sorted(candidates)}"
            )
        of_query, of_candidate = (self._log_joint(self._known(data)) for data in (queries, candidates))
        log_p_k = of_query.log_softmax(1)
        ratio = of_candidate.log_softmax(1) - self.weights.log()
        return torch.stack([(row + ratio).logsumexp(1) for row in log_p_k])

    def _known(self, data: Views) -> Views:
        if self.weights is None:
            raise ValueError("model: expected a fitted one, found none; call fit first")
        return self._checked(data, set(data))

    def _checked(self, data: Views, expected: set[str]) -> Views:
        """Return the views in double precision, on the CPU (not all devices have it), or raise."""
        if set(data) != expected or not expected or not expected <= set(self.views):
            raise ValueError(f"data: expected the views {sorted(self.views)}, found {sorted(data)}")
        check_embeddings(**data)
        lengths = {name: len(x) for name, x in data.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"data: expected equally many items in each view, found {lengths}")
        for name, x in data.items():
            if self.views[name] == "multinomial" and (x < 0).any():
                raise ValueError(f"{name}: expected counts, 0 or more, found {x.min().item():.6g}")
        return {name: x.detach().cpu().double() for name, x in data.items()}
