r"""Maps between spaces: what may be composed, what composition loses, and a shared space found linearly.

A network is a map :math:`f:\mathcal X\to\mathcal Z`. Multi-task learning has several maps out of one space,
multimodal learning several maps into one. Chapter 01 derives what is here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmtutor.contrastive import check_embeddings


@dataclass(frozen=True)
class Space:
    """A named set of tensors: where a map starts or ends.

    Two spaces are the same if both name and shape are. Two networks' hidden layers may both be 64 wide; a
    point of one still means nothing in the other.

    Attributes:
        name: for example ``"pictures"``.
        shape: the shape of one element, without the batch; None for what is no tensor, such as texts.

    Example:
        >>> print(Space("pictures", (3, 32, 32)))
        pictures (3, 32, 32)
    """

    name: str
    shape: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return self.name if self.shape is None else f"{self.name} {self.shape}"

    def check(self, x: Tensor, what: str) -> None:
        """Raise a ``ValueError``, saying ``what`` was looked at, unless ``x`` is a batch of elements."""
        if self.shape is not None and tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"{what}: expected a batch from {self}, found shape {tuple(x.shape)}")


class Map(nn.Module):
    r"""A function between spaces, :math:`f:\mathcal X\to\mathcal Z`; ``q @ f`` is ``q`` after ``f``.

    Args:
        domain: the space it starts from.
        codomain: the space it ends in.
        function: a module or function of a batch.

    Raises:
        ValueError: if a batch does not come from the domain, an answer does not lie in the codomain, or
            ``q @ f`` joins maps of which one does not end where the other starts.

    Example:
        >>> X, Z, Y = Space("points", (2,)), Space("Z", (5,)), Space("labels", (3,))
        >>> f, q = Map(X, Z, nn.Linear(2, 5)), Map(Z, Y, nn.Linear(5, 3))
        >>> print(q @ f), (q @ f)(torch.zeros(4, 2)).shape
        points (2,) → Z (5,) → labels (3,)
        (None, torch.Size([4, 3]))
        >>> f @ q
        Traceback (most recent call last):
        ValueError: composition: the first map ends in labels (3,), the second starts from points (2,)
    """

    def __init__(self, domain: Space, codomain: Space, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.domain, self.codomain, self.function = domain, codomain, function
        self.parts = [self]

    def forward(self, x: Tensor) -> Tensor:
        self.domain.check(x, "input")
        y = self.function(x)
        self.codomain.check(y, "output")
        return y

    def __matmul__(self, first: "Map") -> "Map":
        if first.codomain != self.domain:
            raise ValueError(
                f"composition: the first map ends in {first.codomain}, the second starts from {self.domain}"
            )
        both = Map(first.domain, self.codomain, nn.Sequential(first, self))
        both.parts = [*first.parts, *self.parts]
        return both

    def follow(self, x: Tensor) -> list[tuple[Space, Tensor]]:
        """Return every stop of a batch on its way: each space, and what the batch is there."""
        stops = [(self.domain, x)]
        for part in self.parts:
            stops.append((part.codomain, part(stops[-1][1])))
        return stops

    def __str__(self) -> str:
        return " → ".join(map(str, [self.domain, *(part.codomain for part in self.parts)]))

    def extra_repr(self) -> str:
        return str(self)


def gaussian_information(
    A: Float[Tensor, "out in"],
    noise: Float[Tensor, "out out"],
    covariance: Float[Tensor, "in in"] | None = None,
) -> float:
    r"""Mutual information, in nats, of a Gaussian and its noisy linear image.

    .. math:: I(X;AX+\epsilon)=\tfrac12\log\det(A\Sigma A^\top+N)-\tfrac12\log\det N

    Args:
        A: the map, ``(out, in)``.
        noise: :math:`N`, covariance of :math:`\epsilon`, positive definite. Without noise the information of
            a linear map is infinite, which is why the formula has it.
        covariance: :math:`\Sigma` of the input, ``(in, in)``; by default the identity.

    Raises:
        ValueError: for shapes that do not fit, or a noise covariance that is not positive definite.

    Source:
        Cover and Thomas (2006), chapter 9: parallel Gaussian channels.

    Example:
        >>> round(gaussian_information(torch.eye(1), torch.eye(1)), 4)  # half the log of 2
        0.3466
    """
    rows, columns = A.shape
    covariance = torch.eye(columns, dtype=A.dtype) if covariance is None else covariance
    for name, matrix, size in (("noise", noise, rows), ("covariance", covariance, columns)):
        if matrix.shape != (size, size):
            raise ValueError(f"{name}: expected shape {(size, size)}, found {tuple(matrix.shape)}")
    if torch.linalg.cholesky_ex(noise).info:
        raise ValueError("noise: expected a positive definite covariance, found one that is not")
    signal = A @ covariance @ A.T
    return ((signal + noise).logdet() - noise.logdet()).item() / 2


class CCA:
    r"""Canonical correlation analysis: the linear maps of two views whose images agree best.

    With covariances :math:`C_{xx},C_{xy},C_{yy}` of the training pairs and a ridge :math:`\lambda` on the two
    own ones, the maps are :math:`W_x=C_{xx}^{-1/2}U` and :math:`W_y=C_{yy}^{-1/2}V`, where
    :math:`U\,\mathrm{diag}(\rho)\,V^\top=C_{xx}^{-1/2}C_{xy}C_{yy}^{-1/2}`.

    Args:
        x, y: training pairs ``(N, P)`` and ``(N, Q)``; row ``i`` of both is one thing.
        components: width of the shared space, at most ``min(P, Q)``.
        ridge: :math:`\lambda\ge0`, as a share of the mean variance of each view. Without it a view with more
            columns than rows has perfect correlations that mean nothing.

    Attributes:
        rho: canonical correlations of the training pairs, largest first ``(components,)``.

    Raises:
        ValueError: for other shapes, NaN, or too many components.

    Source:
        Hotelling (1936).

    Example:
        >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> cca = CCA(x, x @ torch.randn(3, 4), components=2)
        >>> [round(r, 3) for r in cca.rho.tolist()], cca.encode_x(x).shape
        ([1.0, 1.0], torch.Size([500, 2]))
    """

    def __init__(
        self,
        x: Float[Tensor, "n p"],
        y: Float[Tensor, "n q"],
        components: int,
        ridge: float = 0.0,
    ):
        check_embeddings(x=x, y=y)
        if len(x) != len(y):
            raise ValueError(f"x, y: expected as many rows in both, found {len(x)} and {len(y)}")
        most = min(x.shape[1], y.shape[1])
        if not 1 <= components <= most:
            raise ValueError(f"components: expected 1 to {most}, found {components}")
        if ridge < 0:
            raise ValueError(f"ridge: expected 0 or more, found {ridge}")
        self.mean_x, self.mean_y = x.mean(0), y.mean(0)
        x, y = x - self.mean_x, y - self.mean_y
        whiten_x, whiten_y = _inverse_root(x, ridge), _inverse_root(y, ridge)
        U, rho, Vt = torch.linalg.svd(whiten_x @ (x.T @ y / len(x)) @ whiten_y)
        self.rho = rho[:components]
        self.W_x, self.W_y = whiten_x @ U[:, :components], whiten_y @ Vt.T[:, :components]

    def encode_x(self, x: Float[Tensor, "n p"]) -> Float[Tensor, "n d"]:
        """Map the first view into the shared space."""
        return (x - self.mean_x) @ self.W_x

    def encode_y(self, y: Float[Tensor, "n q"]) -> Float[Tensor, "n d"]:
        """Map the second view into the shared space."""
        return (y - self.mean_y) @ self.W_y


def _inverse_root(x: Tensor, ridge: float) -> Tensor:
    r"""Return :math:`(C+\lambda\bar cI)^{-1/2}` of centred rows; directions without variance become zero."""
    C = x.T @ x / len(x)
    variances, directions = torch.linalg.eigh(C)
    variances = variances + ridge * C.diagonal().mean()
    kept = variances > variances.max() * len(C) * torch.finfo(x.dtype).eps
    scale = torch.where(kept, variances.clamp(min=torch.finfo(x.dtype).tiny).rsqrt(), 0)
    return directions * scale @ directions.T


def mutual_information(p: Float[Tensor, "a b"]) -> float:
    r"""Mutual information of a joint table, :math:`\sum_{ab}p_{ab}\log\frac{p_{ab}}{p_ap_b}`, in nats.

    Args:
        p: probabilities (or counts: they are divided by their sum) ``(A, B)``.

    Raises:
        ValueError: for another number of axes, negative entries, or a table of zeros.

    Example:
        >>> round(mutual_information(torch.eye(2)), 4)  # log 2: one bit
        0.6931
    """
    p = _distribution(p, 2)
    independent = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
    return torch.where(p > 0, p * (p / independent).log(), 0).sum().item()


def information_parts(p: Float[Tensor, "a b c"]) -> dict[str, float]:
    r"""Split what two sources say of a target into redundancy, two unique parts and synergy, in nats.

    The redundancy is the information that either source has about each value of the target, at least:
    :math:`\sum_yp(y)\min_mI(X_m;Y{=}y)` with the specific information
    :math:`I(X;Y{=}y)=\sum_xp(x\mid y)\log\frac{p(y\mid x)}{p(y)}`. The rest follows:
    unique is :math:`I(X_m;Y)` less the redundancy, and synergy is what :math:`I(X_1,X_2;Y)` has beyond these
    three.

    Args:
        p: probabilities or counts :math:`p(x_1,x_2,y)`, ``(A, B, C)``.

    Returns:
        ``redundancy``, ``unique_1``, ``unique_2``, ``synergy``; none is negative, and their sum is
        :math:`I(X_1,X_2;Y)`.

    Raises:
        ValueError: for another number of axes, negative entries, or a table of zeros.

    Source:
        Williams and Beer (2010); one of several definitions in use, and the oldest.

    Example:
        >>> xor = torch.zeros(2, 2, 2)
        >>> for a in (0, 1):
        ...     for b in (0, 1):
        ...         xor[a, b, a ^ b] = 1
        >>> {name: round(value, 3) for name, value in information_parts(xor).items()}
        {'redundancy': 0.0, 'unique_1': 0.0, 'unique_2': 0.0, 'synergy': 0.693}
    """
    p = _distribution(p, 3)
    first, second = p.sum(1), p.sum(0)
    redundancy = torch.minimum(_specific(first), _specific(second)) @ p.sum((0, 1))
    one, two = mutual_information(first), mutual_information(second)
    both = mutual_information(p.flatten(0, 1))
    shared = redundancy.item()
    return {
        "redundancy": shared,
        "unique_1": one - shared,
        "unique_2": two - shared,
        "synergy": both - one - two + shared,
    }


def _specific(p: Tensor) -> Tensor:
    """Information that a source has about each value of the target, from ``p(x, y)``."""
    target = p.sum(0)
    ratio = p / (p.sum(1, keepdim=True) * target)
    given = p / target
    return torch.where(p > 0, given * ratio.log(), 0).sum(0)


def _distribution(p: Tensor, axes: int) -> Tensor:
    if p.ndim != axes or not (p >= 0).all() or not p.sum() > 0:
        raise ValueError(
            f"p: expected a table of {axes} axes, without negative entries and not all zero, "
            f"found shape {tuple(p.shape)} and sum {p.sum().item():g}"
        )
    return p.double() / p.sum()
