r"""Two towers that talk to each other, a gate that says whom to trust, and whatever fuses what they send.

A tower maps a modality to points :math:`h_m`, ``(B, D)``. A residual interaction lets two towers that agree
learn from each other. The gate is a small conditional random field over "modality ``m`` is to be trusted",
:math:`u_m\in\{0,1\}`; its marginals rank, choose and weight the modalities, in front of any fuser.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmtutor.contrastive import check_pair, check_positive, unit

Scalar = Float[Tensor, ""]
Points = dict[str, Float[Tensor, "batch dim"]]
Fused = tuple[Float[Tensor, "batch out"], Float[Tensor, "batch m"]]

EXACT_UP_TO = 6  # modalities: 64 states an item
ENUMERABLE = 12  # 4096 states an item


# Checks


def _check_modalities(modalities: Iterable[str], least: int = 1) -> list[str]:
    names = list(modalities)
    if len(names) < least or len(set(names)) < len(names):
        raise ValueError(f"modalities: expected at least {least}, all different; found {names}")
    return names


def _check_inputs(inputs: dict, modalities: list[str], valid: Tensor | None) -> Bool[Tensor, "batch m"]:
    """Raise unless each modality has as many items; return which of them are there, by default all."""
    if set(inputs) != set(modalities):
        raise ValueError(f"inputs: expected the modalities {modalities}, found {list(inputs)}")
    sizes = {name: len(inputs[name]) for name in modalities}
    batch = sizes[modalities[0]]
    if set(sizes.values()) != {batch}:
        raise ValueError(f"inputs: expected one batch size, found {sizes}")
    if valid is None:
        devices = [x.device for x in inputs.values() if isinstance(x, Tensor)]
        return torch.ones(batch, len(modalities), dtype=torch.bool, device=devices[0] if devices else None)
    return _check_mask("valid", valid, (batch, len(modalities)))


def _check_mask(name: str, mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"{name}: expected bool of shape {tuple(shape)}, found {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return mask


def _check_marginals(marginals: Tensor, valid: Tensor | None) -> Tensor:
    """Raise unless these are probabilities ``(B, M)``; return which modalities are there."""
    if marginals.ndim != 2 or not ((marginals >= 0) & (marginals <= 1)).all():
        raise ValueError(
            f"marginals: expected probabilities of shape (B, M), found shape {tuple(marginals.shape)} "
            f"and values {marginals.flatten()[:6].tolist()}"
        )
    if valid is None:
        return torch.ones_like(marginals, dtype=torch.bool)
    return _check_mask("valid", valid, marginals.shape)


def _full_precision(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


# The conditional random field


def _check_potentials(unary: Tensor, pairwise: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32 or better, the diagonal of ``pairwise`` zero, or raise."""
    if unary.ndim != 2 or unary.shape[1] == 0:
        raise ValueError(f"unary: expected shape (B, M), found {tuple(unary.shape)}")
    batch, m = unary.shape
    if pairwise.shape != (batch, m, m):
        raise ValueError(f"pairwise: expected shape {(batch, m, m)}, found {tuple(pairwise.shape)}")
    if (unary.isnan() | unary.isposinf()).any():
        raise ValueError("unary: expected numbers or minus infinity, found NaN or infinity")
    diagonal = torch.eye(m, dtype=torch.bool, device=pairwise.device)
    unary, pairwise = _full_precision(unary), _full_precision(pairwise).masked_fill(diagonal, 0)
    if not torch.isfinite(pairwise).all():
        raise ValueError("pairwise: expected finite numbers off the diagonal, found NaN or infinity")
    difference = (pairwise - pairwise.mT).abs()
    if (difference > 1e-4 * (1 + pairwise.abs())).any():
        raise ValueError(
            f"pairwise: expected symmetric matrices, found some that differ from their transpose "
            f"by {difference.max().item():.6g}"
        )
    return unary, pairwise


def _states(
    unary: Tensor, pairwise: Tensor
) -> tuple[Bool[Tensor, "states m"], Float[Tensor, "batch states"]]:
    """Return all ``2**M`` states, and for each item the exponent of each state."""
    m = unary.shape[1]
    if m > ENUMERABLE:
        raise ValueError(f"unary: expected at most {ENUMERABLE} modalities for the exact sum, found {m}")
    states = torch.tensor(list(itertools.product([False, True], repeat=m)), device=unary.device)
    first, second = torch.triu_indices(m, m, offset=1, device=unary.device)
    both = states[:, first] & states[:, second]
    # by where: in a state without it, an absent modality counts 0, not 0 times minus infinity
    alone = torch.where(states, unary[:, None], 0).sum(2)
    return states, alone + torch.where(both, pairwise[:, None, first, second], 0).sum(2)


def crf_log_partition(
    unary: Float[Tensor, "batch m"], pairwise: Float[Tensor, "batch m m"]
) -> Float[Tensor, " batch"]:
    r"""Logarithm of the sum over all states of the field, each of ``M`` modalities trusted or not.

    .. math:: \log Z=\log\sum_{u\in\{0,1\}^M}\exp\Big(\sum_m\vartheta_mu_m+\sum_{m<n}W_{mn}u_mu_n\Big),
              \qquad \frac{\partial\log Z}{\partial\vartheta_m}=p(u_m=1)

    Args:
        unary: :math:`\vartheta`, ``(B, M)``; minus infinity for what is absent.
        pairwise: :math:`W`, ``(B, M, M)``, symmetric; its diagonal is ignored.

    Returns:
        ``(B,)``.

    Raises:
        ValueError: as :func:`crf_marginals`.

    Example:
        >>> round(crf_log_partition(torch.zeros(1, 3), torch.zeros(1, 3, 3)).exp().item(), 3)
        8.0
    """
    _, energy = _states(*_check_potentials(unary, pairwise))
    return energy.logsumexp(1)


def crf_marginals(
    unary: Float[Tensor, "batch m"], pairwise: Float[Tensor, "batch m m"], *, exact: bool | None = None
) -> Float[Tensor, "batch m"]:
    r"""Probability that each modality is to be trusted, :math:`p(u_m=1)`, given what speaks for it.

    .. math:: p(u)\propto\exp\Big(\sum_m\vartheta_mu_m+\sum_{m<n}W_{mn}u_mu_n\Big),\qquad
              p(u_m=1)=\sum_{u:\,u_m=1}p(u)

    :math:`W_{mn}>0` says: if one, then the other. With :math:`W=0`, :math:`p(u_m=1)=\sigma(\vartheta_m)`.
    A modality with :math:`\vartheta_m=-\infty` has exactly 0 and does not touch the others.

    Args:
        unary: :math:`\vartheta`, ``(B, M)``; minus infinity for what is absent.
        pairwise: :math:`W`, ``(B, M, M)``, symmetric; its diagonal is ignored.
        exact: sum over all :math:`2^M` states, or else :func:`mean_field`. By default exact up to six
            modalities; it is possible up to twelve.

    Returns:
        ``(B, M)``.

    Raises:
        ValueError: for other shapes, a matrix that is not symmetric, NaN, infinity (except minus infinity in
            ``unary``), or too many modalities for the exact sum.

    Source:
        Lafferty, McCallum and Pereira (2001), for conditional random fields, which label a sequence; here
        every pair is joined, and the labels say which modality is trusted.

    Example:
        >>> unary = torch.tensor([[1.0, 0.0, -torch.inf]])
        >>> crf_marginals(unary, torch.zeros(1, 3, 3))
        tensor([[0.7311, 0.5000, 0.0000]])
        >>> crf_marginals(unary, torch.ones(1, 3, 3))  # the first speaks for the second, which speaks for it
        tensor([[0.8348, 0.6929, 0.0000]])
    """
    unary, pairwise = _check_potentials(unary, pairwise)
    if exact is None:
        exact = unary.shape[1] <= EXACT_UP_TO
    if not exact:
        return mean_field(unary, pairwise)
    states, energy = _states(unary, pairwise)
    p = energy.softmax(1)
    return torch.where(states, p[:, :, None], 0).sum(1).clamp(max=1)  # rounding may give a little more


def mean_field(
    unary: Float[Tensor, "batch m"],
    pairwise: Float[Tensor, "batch m m"],
    start: Float[Tensor, "batch m"] | None = None,
    *,
    sweeps: int = 100,
) -> Float[Tensor, "batch m"]:
    r"""Approximate the marginals by the best field without couplings: each modality sees the others' mean.

    .. math:: q_m\leftarrow\sigma\Big(\vartheta_m+\sum_{n\ne m}W_{mn}q_n\Big)\qquad\text{for }m=1,\dots,M
              \text{, again and again}

    Each update raises :math:`\mathbb E_q[\text{exponent}]+H(q)\le\log Z` or leaves it, so this converges;
    but where couplings are strong it has several ends, and ``start`` decides which. It costs
    :math:`O(M^2)` a sweep instead of :math:`2^M` states. The stronger the couplings, the larger its error;
    it is mostly too sure, further from one half than the exact marginal.

    Args:
        unary, pairwise: as of :func:`crf_marginals`.
        start: :math:`q` at first, probabilities ``(B, M)``; by default :math:`\sigma(\vartheta)`.
        sweeps: how many at most; it ends when nothing changes by more than a millionth.

    Returns:
        :math:`q`, ``(B, M)``; 0 for what is absent. Gradients flow through the updates.

    Raises:
        ValueError: as :func:`crf_marginals`, and for a start that is no probabilities ``(B, M)``.

    Source:
        Jordan, Ghahramani, Jaakkola and Saul (1999).

    Example:
        >>> unary, pairwise = torch.full((1, 2), -3.0), torch.full((1, 2, 2), 6.0)
        >>> mean_field(unary, pairwise, start=torch.zeros(1, 2))  # exact: one half
        tensor([[0.0707, 0.0707]])
        >>> mean_field(unary, pairwise, start=torch.ones(1, 2))
        tensor([[0.9293, 0.9293]])
    """
    unary, pairwise = _check_potentials(unary, pairwise)
    check_positive("sweeps", sweeps)
    q = unary.sigmoid() if start is None else start.to(unary)
    if q.shape != unary.shape or not ((q >= 0) & (q <= 1)).all():
        raise ValueError(
            f"start: expected probabilities of shape {tuple(unary.shape)}, found {tuple(q.shape)}"
        )
    columns = list(torch.where(unary.isneginf(), 0, q).unbind(1))
    for _ in range(sweeps):
        before = torch.stack(columns, 1)
        for m in range(len(columns)):
            field = unary[:, m] + (pairwise[:, m] * torch.stack(columns, 1)).sum(1)
            columns[m] = field.sigmoid()
        if (torch.stack(columns, 1) - before).abs().max() <= 1e-6:
            break
    return torch.stack(columns, 1)


class CRFGate(nn.Module):
    r"""How far each modality of an item can be trusted: the marginals of a field that looks at their points.

    .. math:: p(u\mid x)\propto\exp\Big(\sum_m\vartheta_m(h_m)\,u_m+\sum_{m<n}w_{mn}s_{mn}u_mu_n\Big),\qquad
              s_{mn}=\hat h_m^\top\hat h_n

    A small network for each modality gives :math:`\vartheta_m`; :math:`w` is learnt. At 0 the marginals are
    sigmoids. With :math:`w_{mn}>0`, modalities that agree vouch for each other, and those that disagree
    (:math:`s<0`) exclude each other. By the loss of a task alone nothing need close a gate: add
    :func:`corruption_loss`.

    Args:
        modalities: names, in the order of the columns.
        dim: width ``D`` of the points, the same for all, in one space (else :math:`s` means nothing).
        hidden: width of the hidden layer behind :math:`\vartheta_m`.
        coupling: :math:`w_{mn}` at the start, the same for all pairs.

    Shapes: dict of ``(B, D)`` -> ``(B, M)``.

    Raises:
        ValueError: for no modality or one twice; (the call) for missing or unknown modalities, different
            batch sizes, points of another shape or not finite, a mask of another shape.

    Example:
        >>> gate = CRFGate(["image", "text"], dim=3)
        >>> h = {"image": torch.randn(2, 3), "text": torch.randn(2, 3)}
        >>> gate(h, valid=torch.tensor([[True, False], [False, False]])) > 0
        tensor([[ True, False],
                [False, False]])
    """

    def __init__(self, modalities: Iterable[str], dim: int, hidden: int = 32, *, coupling: float = 0.0):
        super().__init__()
        self.modalities, self.dim = _check_modalities(modalities), dim
        self.scores = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, 1)) for _ in self.modalities
        )
        self.register_buffer("pairs", torch.triu_indices(*[len(self.modalities)] * 2, offset=1))
        self.coupling = nn.Parameter(torch.full((self.pairs.shape[1],), float(coupling)))

    @property
    def w(self) -> Float[Tensor, "m m"]:
        """The couplings as a symmetric matrix, ``(M, M)``, with a diagonal of zeros."""
        m = len(self.modalities)
        upper = self.coupling.new_zeros(m, m).index_put(tuple(self.pairs), self.coupling)
        return upper + upper.T

    def potentials(
        self, features: Points, valid: Bool[Tensor, "batch m"] | None = None
    ) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "batch m m"]]:
        r"""Return :math:`\vartheta`, ``(B, M)``, and :math:`w_{mn}s_{mn}`, ``(B, M, M)``, of each item."""
        valid = _check_inputs(features, self.modalities, valid)
        for name in self.modalities:
            if features[name].shape[1:] != (self.dim,):
                raise ValueError(
                    f"{name}: expected points of shape (B, {self.dim}), found {tuple(features[name].shape)}"
                )
        h = torch.stack([features[name] for name in self.modalities], 1)
        h = torch.where(valid[:, :, None], h, 0)  # whatever stands in place of an absent modality
        if not torch.isfinite(h).all():
            raise ValueError("features: expected finite points where valid, found NaN or infinity")
        theta = torch.cat([score(z) for score, z in zip(self.scores, h.unbind(1), strict=True)], 1)
        direction = unit(_full_precision(h).flatten(0, 1)).view_as(h)
        s = (direction[:, :, None] * direction[:, None]).sum(3)
        return theta.masked_fill(~valid, -math.inf), self.w * s

    def forward(
        self, features: Points, valid: Bool[Tensor, "batch m"] | None = None
    ) -> Float[Tensor, "batch m"]:
        return crf_marginals(*self.potentials(features, valid))


# What marginals are for


def rank_modalities(
    marginals: Float[Tensor, "batch m"], valid: Bool[Tensor, "batch m"] | None = None
) -> Int[Tensor, "batch m"]:
    """Order the modalities of each item, the most trusted first, absent ones last.

    Args:
        marginals: ``(B, M)``, from :class:`CRFGate`.
        valid: which modalities are there, ``(B, M)``; by default all.

    Returns:
        Their columns, ``(B, M)``; of equals the first column goes first.

    Raises:
        ValueError: for no probabilities ``(B, M)``, or a mask of another shape.

    Example:
        >>> rank_modalities(torch.tensor([[0.2, 0.9, 0.5]])).tolist()
        [[1, 2, 0]]
    """
    valid = _check_marginals(marginals, valid)
    return torch.where(valid, marginals, -1).argsort(dim=1, descending=True, stable=True)


def choose_modalities(
    marginals: Float[Tensor, "batch m"], k: int, valid: Bool[Tensor, "batch m"] | None = None
) -> Bool[Tensor, "batch m"]:
    """Choose the ``k`` most trusted modalities of each item; all of them where there are fewer.

    Args:
        marginals: ``(B, M)``, from :class:`CRFGate`.
        k: how many, at least 1.
        valid: which modalities are there, ``(B, M)``; by default all. An absent one is never chosen.

    Returns:
        Whether each is chosen, ``(B, M)``: a mask that can take the place of ``valid``.

    Raises:
        ValueError: for ``k < 1``, no probabilities ``(B, M)``, or a mask of another shape.

    Example:
        >>> choose_modalities(torch.tensor([[0.2, 0.9, 0.5]]), 2).tolist()
        [[False, True, True]]
    """
    check_positive("k", k)
    order = rank_modalities(marginals, valid)
    chosen = torch.zeros_like(marginals, dtype=torch.bool).scatter(1, order[:, :k], True)
    return chosen if valid is None else chosen & valid


def confidence_weights(
    marginals: Float[Tensor, "batch m"], valid: Bool[Tensor, "batch m"] | None = None
) -> Float[Tensor, "batch m"]:
    r"""Say how much the set of the ``k`` most trusted modalities counts, for each ``k`` from 1 to ``M``.

    .. math:: \omega_k=\frac{p_{(k)}-p_{(k+1)}}{p_{(1)}},\qquad
              p_{(1)}\ge\dots\ge p_{(M)}\ge p_{(M+1)}=0

    Draw how strict to be, :math:`t`, uniformly between 0 and :math:`p_{(1)}`, and trust the modalities with
    :math:`p_m\ge t`. These are the :math:`k` most trusted if :math:`p_{(k+1)}<t\le p_{(k)}`, which has the
    probability :math:`\omega_k`.

    Args:
        marginals: :math:`p`, ``(B, M)``, from :class:`CRFGate`; of absent modalities they count as 0.
        valid: which modalities are there, ``(B, M)``; by default all.

    Returns:
        ``(B, M)``, rows that sum to 1. Where all are trusted alike, even if not at all, the set of all has
        the weight 1.

    Raises:
        ValueError: for no probabilities ``(B, M)``, or a mask of another shape.

    Example:
        >>> confidence_weights(torch.tensor([[0.2, 0.8, 0.6], [0.3, 0.3, 0.3]]))
        tensor([[0.2500, 0.5000, 0.2500],
                [0.0000, 0.0000, 1.0000]])
    """
    valid = _check_marginals(marginals, valid)
    p = torch.where(valid, marginals, 0).sort(1, descending=True).values
    most = p[:, :1]
    strictest = torch.where(most > 0, p / most.masked_fill(most == 0, 1), 1)  # share of t that lets each in
    return strictest - nn.functional.pad(strictest[:, 1:], (0, 1))


def fuse_by_confidence(
    fuser: Callable[[Points, Tensor], Fused],
    features: Points,
    marginals: Float[Tensor, "batch m"],
    valid: Bool[Tensor, "batch m"] | None = None,
) -> Fused:
    r"""Fuse by how far each modality is trusted, with any fuser: it sees the most trusted, then ever more.

    .. math:: z=\sum_{k=1}^M\omega_k\,\phi\big(\{h_m\}_{m\in S_k}\big)
               =\mathbb E_{t\sim U(0,\,p_{(1)})}\,\phi\big(\{h_m:p_m\ge t\}\big)

    with the ``k`` most trusted modalities :math:`S_k` and :math:`\omega_k` of :func:`confidence_weights`. A
    fuser asks of a modality only whether it is there; a marginal lies between yes and no, so this is the mean
    over where to draw the line. It follows that

    * a modality with :math:`p_m=0` is absent: every :math:`S_k` that has it counts
      :math:`p_{(k)}-p_{(k+1)}=0`;
    * equal marginals are no gate at all: all but :math:`\omega_M=1` vanish. Only ratios of marginals matter;
    * between them :math:`z` is continuous: where two marginals meet, the set with one of them has no weight.

    Multiplying each :math:`h_m` by :math:`p_m` would leave a fuser's bias at :math:`p_m=0`, and shrink
    :math:`z` where little is trusted. A mean of the points with weights :math:`p_m/\sum_np_n` has the right
    limits too, but takes the place of the fuser.

    Args:
        fuser: :math:`\phi`, ``fuser(features, valid) -> (fused, weights)``; called once, on ``M B`` items.
        features: :math:`h_m`, ``(B, D)``, by modality in the order of the columns.
        marginals: :math:`p`, ``(B, M)``, from :class:`CRFGate`.
        valid: which modalities are there, ``(B, M)``; by default all.

    Returns:
        The fused points ``(B, out)``, and the mean of the fuser's weights ``(B, M)``.

    Raises:
        ValueError: for no probabilities ``(B, M)``, a mask of another shape, other numbers of modalities.

    Source:
        Lovász (1983), who extends a function of sets to weighted sets in this way.

    Example:
        >>> def total(features, valid):
        ...     weights = valid.float()
        ...     return torch.einsum("bm,bmd->bd", weights, torch.stack([*features.values()], 1)), weights
        >>> h = {"image": torch.tensor([[1.0]]), "text": torch.tensor([[10.0]])}
        >>> fused, weights = fuse_by_confidence(total, h, torch.tensor([[0.8, 0.2]]))
        >>> fused, weights  # 0.75 * 1 + 0.25 * (1 + 10)
        (tensor([[3.5000]]), tensor([[1.0000, 0.2500]]))
    """
    valid = _check_marginals(marginals, valid)
    batch, m = marginals.shape
    if len(features) != m:
        raise ValueError(f"features: expected {m} modalities, found {list(features)}")
    omega = confidence_weights(marginals, valid)
    most_trusted = torch.cat([choose_modalities(marginals, k, valid) for k in range(1, m + 1)])
    fused, weights = fuser({name: h.repeat(m, 1) for name, h in features.items()}, most_trusted)

    def mean(x: Float[Tensor, "sets _"]) -> Float[Tensor, "batch _"]:
        return torch.einsum("bk,kbd->bd", omega.to(x), x.unflatten(0, (m, batch)))

    return mean(fused), mean(weights)


def corruption_loss(
    marginals: Float[Tensor, "batch m"],
    corrupted: Bool[Tensor, "batch m"],
    valid: Bool[Tensor, "batch m"] | None = None,
) -> Scalar:
    r"""Teach the gate by damage made on purpose: trust what was left alone, and not what was corrupted.

    .. math:: L=-\frac1{|V|}\sum_{(i,m)\in V}\big[(1-c_{im})\log p_{im}+c_{im}\log(1-p_{im})\big]

    Args:
        marginals: :math:`p`, ``(B, M)``, from :class:`CRFGate`.
        corrupted: :math:`c`, bool ``(B, M)``: which modality of which item was corrupted.
        valid: :math:`V`, which modalities are there, ``(B, M)``; by default all.

    Returns:
        The mean binary cross-entropy in nats, finite; 0 if no modality is there.

    Raises:
        ValueError: for no probabilities ``(B, M)``, or a mask of another shape.

    Example:
        >>> corruption_loss(torch.tensor([[0.5, 0.5]]), torch.tensor([[True, False]]))  # log 2
        tensor(0.6931)
    """
    valid = _check_marginals(marginals, valid)
    _check_mask("corrupted", corrupted, marginals.shape)
    right = torch.where(corrupted, 1 - marginals, marginals)
    log_right = right.clamp(min=torch.finfo(marginals.dtype).tiny).log()
    return -torch.where(valid, log_right, 0).sum() / valid.sum().clamp(min=1)


def swap_modalities(
    inputs: dict[str, Tensor],
    rate: float,
    valid: Bool[Tensor, "batch m"] | None = None,
    generator: torch.Generator | None = None,
    *,
    groups: Int[Tensor, " batch"] | None = None,
) -> tuple[dict[str, Tensor], Bool[Tensor, "batch m"]]:
    """Corrupt some modalities of some items on purpose: put that of another item in its place.

    What is put there is real, only wrong: no modality alone gives it away, their disagreement does. (With
    two modalities nobody can say which of them is the wrong one; with three or more, the odd one out.) If
    what counts is the class, a cat's picture is not wrong beside the name of another cat: then say by
    ``groups`` which items are alike.

    Args:
        inputs: ``(B, ...)`` for each modality, of any type; not changed.
        rate: how probable it is for each modality of each item, from 0 to 1.
        valid: which modalities are there, ``(B, M)``, in the order of ``inputs``; by default all. Absent
            ones are neither replaced nor taken.
        generator: on the CPU; by default PyTorch's.
        groups: of each item, ``(B,)``; what is put in place comes from another group. By default each item
            is its own.

    Returns:
        The new inputs, and what was corrupted, bool ``(B, M)``. A modality that no item of another group has
        stays, and is not called corrupted.

    Raises:
        ValueError: for a rate outside of 0 to 1, no modality, different batch sizes, a mask or groups of
            another shape.

    Example:
        >>> inputs = {"image": torch.arange(4), "text": torch.arange(4)}
        >>> swapped, corrupted = swap_modalities(inputs, rate=0.5)
        >>> torch.equal(swapped["text"] != inputs["text"], corrupted[:, 1])
        True
        >>> even = torch.arange(4) % 2
        >>> swap_modalities(inputs, rate=1.0, groups=even)[0]["image"] % 2
        tensor([1, 0, 1, 0])
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected 0 to 1, found {rate}")
    names = _check_modalities(inputs)
    valid = _check_inputs(inputs, names, valid)
    there, own = valid.cpu(), torch.arange(len(valid))
    groups = own if groups is None else groups.cpu()
    if groups.shape != own.shape:
        raise ValueError(f"groups: expected shape ({len(valid)},), found {tuple(groups.shape)}")
    corrupted = there & (torch.rand(there.shape, generator=generator) < rate)
    swapped = {}
    for m, name in enumerate(names):
        partners = (groups[:, None] != groups) & there[:, m]  # (B, B): from whom each could get it
        rows = corrupted[:, m] & partners.any(1)
        corrupted[:, m], source = rows, own.clone()
        if rows.any():
            source[rows] = torch.multinomial(partners[rows].float(), 1, generator=generator)[:, 0]
        swapped[name] = inputs[name][source.to(inputs[name].device)]
    return swapped, corrupted.to(valid.device)


# Towers and their interaction


class ResidualInteraction(nn.Module):
    r"""Add to one tower's point what follows from another's, as far as the two agree.

    .. math:: \tilde h_I=h_I+r(s)\,F_I\big([h_T;\,h_I\odot h_T]\big),\qquad
              r(s)=\min(1,\max(0,\alpha s+\beta)),\qquad s=\hat h_I^\top\hat h_T

    with :math:`\alpha=\mathrm{softplus}(a)>0`: the more they agree, the larger. Below
    :math:`s=-\beta/\alpha` the gate is exactly 0 and the point unchanged to the last bit; a sigmoid would
    always let something through. While an item's gate is 0 or 1, :math:`\alpha` and :math:`\beta` learn
    nothing from it.

    Args:
        dim: width ``D`` of both points.
        hidden: width of the hidden layer of :math:`F_I`; by default ``D``.
        slope: :math:`\alpha>0` at the start.
        offset: :math:`\beta` at the start. By default the gate is closed below :math:`s=-\frac12` and open
            above :math:`\frac12`: cosines of points that have learnt nothing lie between, where it can learn.

    Raises:
        ValueError: for a slope that is not positive; (the call) for points that are not two finite
            ``(B, D)`` where valid, or a mask of another shape.

    Example:
        >>> interaction = ResidualInteraction(2)
        >>> h = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> updated, gate = interaction(h, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> [round(r, 4) for r in gate.tolist()], torch.equal(updated[1], h[1])
        ([1.0, 0.0], True)
    """

    def __init__(self, dim: int, hidden: int | None = None, *, slope: float = 1.0, offset: float = 0.5):
        super().__init__()
        check_positive("slope", slope)
        self.dim = dim
        self.F = nn.Sequential(nn.Linear(2 * dim, hidden or dim), nn.GELU(), nn.Linear(hidden or dim, dim))
        self.a = nn.Parameter(torch.tensor(slope + math.log(-math.expm1(-slope))))  # softplus(a) = slope
        self.beta = nn.Parameter(torch.tensor(float(offset)))

    def gate(self, s: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return how open the gate is at a similarity, from 0 to 1."""
        return (nn.functional.softplus(self.a) * s + self.beta).clamp(0, 1)

    def forward(
        self,
        h: Float[Tensor, "batch dim"],
        other: Float[Tensor, "batch dim"],
        valid: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, " batch"]]:
        r"""Return :math:`\tilde h`, ``(B, D)``, and how open the gate was, ``(B,)``.

        Args:
            h, other: :math:`h_I` and :math:`h_T`, ``(B, D)``.
            valid: whether both are there, bool ``(B,)``; by default they are. Where not, the gate is 0.
        """
        if h.shape[1:] != (self.dim,) or other.shape != h.shape:
            raise ValueError(
                f"h, other: expected two of shape (B, {self.dim}), "
                f"found {tuple(h.shape)} and {tuple(other.shape)}"
            )
        if valid is None:
            valid = torch.ones(len(h), dtype=torch.bool, device=h.device)
        there = _check_mask("valid", valid, (len(h),))[:, None]
        h_I, h_T = torch.where(there, h, 0), torch.where(there, other, 0)
        check_pair(h_I, h_T)
        r = torch.where(valid, self.gate((unit(h_I) * unit(h_T)).sum(1)), 0)
        return h + r[:, None] * self.F(torch.cat([h_T, h_I * h_T], 1)), r


@dataclass(frozen=True)
class TowerOutput:
    """What :class:`TwoTower` found.

    Attributes:
        fused: ``(B, out_dim)``, from the fuser.
        weights: ``(B, M)``, the fuser's; with a gate their mean, see :func:`fuse_by_confidence`.
        confidence: ``(B, M)``, the gate's marginals; without a gate 1 for what is there.
        interaction: how open each interaction was, ``(B,)`` by the name of the modality that took from it.
        features: what the towers sent, ``(B, D)`` by modality, before interaction; zeros where absent.

    Example:
        >>> from dataclasses import fields
        >>> [field.name for field in fields(TowerOutput)]
        ['fused', 'weights', 'confidence', 'interaction', 'features']
    """

    fused: Float[Tensor, "batch out"]
    weights: Float[Tensor, "batch m"]
    confidence: Float[Tensor, "batch m"]
    interaction: dict[str, Float[Tensor, " batch"]]
    features: Points


class TwoTower(nn.Module):
    r"""Towers, an interaction between them, a gate that says whom to trust, and a fuser.

    .. math:: x_m\mapsto h_m\mapsto\tilde h_m\;(\text{interaction}),\qquad h\mapsto p\;(\text{gate}),\qquad
              (\tilde h,p)\mapsto z\;(\text{fuser})

    *Symmetric*, without ``lead``: each modality takes from the mean of the others that are there, by a
    :class:`ResidualInteraction` of its own; for two modalities, each from the other. *Asymmetric*, with
    ``lead``: the first tower is the most informative modality, the second tower all the rest, by their
    mean; only the lead takes from the other tower, the rest go on to the fuser as they are.

    The gate sees the points before the interaction: afterwards, what agrees has been made to. Its marginals
    say what the fuser sees, see :func:`fuse_by_confidence`; interactions have a gate of their own. An absent
    modality reaches neither its tower nor anything else; where all are absent, the fuser says what comes out.

    Args:
        towers: a module for each modality that maps a batch to ``(B, D)``, by its name.
        dim: ``D``.
        fuser: any module with ``fuser(features, valid) -> (fused, weights)``, features by modality in the
            order of the towers, ``valid`` and ``weights`` ``(B, M)``.
        lead: the most informative modality, for the asymmetric kind.
        gate: a :class:`CRFGate` of these modalities, in this order; by default all are trusted.
        keep: how many of the most trusted modalities the fuser sees; by default all.
        interaction: whether there is one; without, :math:`\tilde h_m=h_m`.
        slope, offset: of every interaction's gate at the start, see :class:`ResidualInteraction`.

    Raises:
        ValueError: for fewer than two modalities, an unknown lead or one without interaction, a gate of
            others, ``keep`` below 1 or without a gate; (the call) for missing or unknown modalities,
            different batch sizes, a mask of another shape, a tower that returns another shape.

    Source:
        The gate in the place of a sigmoid, and the mean as partner of more than two, are ours; the residual
        branch after He, Zhang, Ren and Sun (2016).

    Example:
        >>> class Mean(nn.Module):
        ...     def forward(self, features, valid):
        ...         weights = valid / valid.sum(1, keepdim=True).clamp(min=1)
        ...         return torch.einsum("bm,bmd->bd", weights, torch.stack([*features.values()], 1)), weights
        >>> towers = {"image": nn.Linear(5, 4), "text": nn.Linear(3, 4)}
        >>> model = TwoTower(towers, 4, Mean(), gate=CRFGate(towers, 4))
        >>> output = model({"image": torch.randn(2, 5), "text": torch.randn(2, 3)})
        >>> output.fused.shape, output.confidence.shape, sorted(output.interaction)
        (torch.Size([2, 4]), torch.Size([2, 2]), ['image', 'text'])
    """

    def __init__(
        self,
        towers: dict[str, nn.Module],
        dim: int,
        fuser: nn.Module,
        *,
        lead: str | None = None,
        gate: CRFGate | None = None,
        keep: int | None = None,
        interaction: bool = True,
        slope: float = 1.0,
        offset: float = 0.5,
    ):
        super().__init__()
        self.modalities, self.dim = _check_modalities(towers, least=2), dim
        if lead is not None and lead not in self.modalities:
            raise ValueError(f"lead: expected one of {self.modalities}, found {lead!r}")
        if lead is not None and not interaction:
            raise ValueError(f"lead: expected an interaction in which one leads, found {lead!r} without")
        if gate is not None and gate.modalities != self.modalities:
            raise ValueError(f"gate: expected the modalities {self.modalities}, found {gate.modalities}")
        if keep is not None:
            check_positive("keep", keep)
            if gate is None:
                raise ValueError(f"keep: expected a gate to choose by, found {keep} without")
        self.towers, self.fuser, self.gate, self.keep = nn.ModuleDict(towers), fuser, gate, keep
        takers = (self.modalities if lead is None else [lead]) if interaction else []
        self.interactions = nn.ModuleDict(
            {name: ResidualInteraction(dim, slope=slope, offset=offset) for name in takers}
        )
        self.frozen: set[str] = set()

    def encode(self, inputs: dict, valid: Bool[Tensor, "batch m"] | None = None) -> Points:
        """Return what each tower sends, ``(B, D)`` by modality; only items that are there go through it.

        Args:
            inputs: a tensor ``(B, ...)`` or a list of ``B`` items (texts) for each modality.
            valid: which modalities are there, bool ``(B, M)`` in the order of the towers; by default all.
        """
        valid = _check_inputs(inputs, self.modalities, valid)
        return {
            name: self._send(name, inputs[name], present)
            for name, present in zip(self.modalities, valid.unbind(1), strict=True)
        }

    def _send(self, name: str, x, present: Bool[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        if not present.any():
            weight = next(self.parameters(), torch.zeros(()))  # of its type: nothing else says which
            return weight.new_zeros(len(present), self.dim)
        rows = x[present] if isinstance(x, Tensor) else [x[i] for i in present.nonzero().flatten().tolist()]
        z = self.towers[name](rows)
        if z.shape != (len(rows), self.dim):
            raise ValueError(
                f"{name}: expected its tower to return {(len(rows), self.dim)}, found {tuple(z.shape)}"
            )
        return z.new_zeros(len(present), self.dim).index_put((present,), z)

    def interact(
        self, features: Points, valid: Bool[Tensor, "batch m"]
    ) -> tuple[Points, dict[str, Float[Tensor, " batch"]]]:
        """Return the points after the interactions, and how open each was.

        Args:
            features: of each tower, ``(B, D)``.
            valid: which modalities are there, bool ``(B, M)``.
        """
        h = torch.stack([features[name] for name in self.modalities], 1)
        updated, gates = dict(features), {}
        for name, interaction in self.interactions.items():
            m = self.modalities.index(name)
            others = valid.clone()
            others[:, m] = False
            count = others.sum(1)
            mean = torch.where(others[:, :, None], h, 0).sum(1) / count.clamp(min=1)[:, None]
            updated[name], gates[name] = interaction(h[:, m], mean, valid[:, m] & (count > 0))
        return updated, gates

    def forward(self, inputs: dict, valid: Bool[Tensor, "batch m"] | None = None) -> TowerOutput:
        valid = _check_inputs(inputs, self.modalities, valid)
        features = self.encode(inputs, valid)
        confidence = self.gate(features, valid) if self.gate else valid.to(features[self.modalities[0]].dtype)
        updated, interaction = self.interact(features, valid)
        seen = valid if self.keep is None else choose_modalities(confidence, self.keep, valid)
        if self.gate:
            fused, weights = fuse_by_confidence(self.fuser, updated, confidence, seen)
        else:
            fused, weights = self.fuser(updated, seen)
        return TowerOutput(fused, weights, confidence, interaction, features)

    def freeze(self, *modalities: str) -> None:
        """Stop training these towers (without names: all), their running averages included.

        Raises:
            ValueError: for an unknown modality.
        """
        self._set_frozen(modalities, True)

    def unfreeze(self, *modalities: str) -> None:
        """Train these towers (without names: all) again.

        Raises:
            ValueError: for an unknown modality.
        """
        self._set_frozen(modalities, False)

    def _set_frozen(self, modalities: tuple[str, ...], frozen: bool) -> None:
        if not set(modalities) <= set(self.modalities):
            raise ValueError(f"modalities: expected some of {self.modalities}, found {list(modalities)}")
        for name in modalities or self.modalities:
            self.towers[name].requires_grad_(not frozen)
            (self.frozen.add if frozen else self.frozen.discard)(name)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TwoTower":
        super().train(mode)
        for name in self.frozen:
            self.towers[name].eval()  # or a batch normalisation would go on moving its averages
        return self
