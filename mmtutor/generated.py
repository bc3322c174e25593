r"""How good is a generator? Distances of two samples of features, what is covered, do two views agree.

``real`` and ``made`` are features, one row an item: what a network that was trained for something else has
found in real and in generated things. All figures depend on the sizes of both samples, so compare
generators at equal sizes and print beside them what one half of the real things gets against the other.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Features = Float[Tensor, "items dim"]


def _check(real: Tensor, made: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Return both in double precision, or raise unless they are features of one width, `least` items each."""
    for name, x in (("real", real), ("made", made)):
        if x.ndim != 2 or len(x) < least:
            raise ValueError(f"{name}: expected (N, D) with N of at least {least}, found {tuple(x.shape)}")
        if not x.isfinite().all():
            raise ValueError(f"{name}: expected finite numbers, found {x[~x.isfinite()][0].item()}")
    if real.shape[1] != made.shape[1]:
        raise ValueError(
            f"real, made: expected features of one width, found {real.shape[1]} and {made.shape[1]}"
        )
    return real.double(), made.double()


def frechet_distance(real: Features, made: Features) -> float:
    r"""Squared Fréchet distance of two normal distributions with the samples' means and covariances.

    .. math:: \lVert\mu_r-\mu_g\rVert^2+\mathrm{tr}\big(\Sigma_r+\Sigma_g-2(\Sigma_r\Sigma_g)^{1/2}\big)

    It is biased upwards: two samples of one distribution have a distance, the larger the smaller they are.

    Source:
        Dowson and Landau (1982); Heusel et al. (2017).

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x, x + 2), 3)
        12.0
    """
    real, made = _check(real, made, 2)
    gap = (real.mean(0) - made.mean(0)).square().sum()
    # The trace of the root is the sum of the singular values of the product of both centred samples.
    centred = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (real, made)]
    overlap = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    return (gap + sum(x.square().sum() for x in centred) - 2 * overlap).clamp(min=0).item()


def kernel_distance(real: Features, made: Features) -> float:
    r"""Squared maximum mean discrepancy with the kernel :math:`(x^\top y/D+1)^3`, without bias.

    .. math:: \frac1{n(n-1)}\sum_{i\ne j}k(x_i,x_j)+\frac1{m(m-1)}\sum_{i\ne j}k(y_i,y_j)
              -\frac2{nm}\sum_{i,j}k(x_i,y_j)

    For two samples of one distribution it is zero on average, so it may be negative.

    Source:
        Gretton et al. (2012); Bińkowski et al. (2018).
    """
    real, made = _check(real, made, 2)

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x):
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return (within(real) + within(made) - 2 * kernel(real, made).mean()).item()


def density_coverage(real: Features, made: Features, k: int = 5) -> tuple[float, float]:
    r"""How near to real things generated ones lie, and how many real things have a generated one near.

    With :math:`B_i` the ball about real item :math:`i` that reaches to its :math:`k`-th real neighbour,

    .. math:: \text{density}=\frac1{km}\sum_j\sum_i[y_j\in B_i],\qquad
              \text{coverage}=\frac1n\sum_i[\exists j:y_j\in B_i]

    Density may be more than one; a generator that repeats one perfect thing has a low coverage.

    Raises:
        ValueError: for fewer than ``k + 1`` real items.

    Source:
        Naeem et al. (2020).
    """
    real, made = _check(real, made, 1)
    if not 1 <= k < len(real):
        raise ValueError(f"k: expected 1 to {len(real) - 1}, fewer than the real items; found {k}")
    radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values  # the nearest of all is the item itself
    inside = torch.cdist(made, real) <= radius  # (m, n)
    return inside.sum().item() / (k * len(made)), inside.any(0).double().mean().item()


def partner_rank(real: tuple[Features, Features], made: tuple[Features, Features]) -> Float[Tensor, "made"]:
    r"""Do both views of a generated pair show one thing? The rank of the real partner, 1 is best.

    The first view of generated pair :math:`j` is nearest to the first view of some real thing :math:`i`.
    Among all real second views, ranked by their distance to the generated one, where does that of :math:`i`
    stand? Generated pairs whose views are shuffled give the level of chance.
    """
    first, made_first = _check(real[0], made[0], 1)
    second, made_second = _check(real[1], made[1], 1)
    if len(first) != len(second) or len(made_first) != len(made_second):
        raise ValueError(
            f"expected pairs, found {len(first)} and {len(second)} real views, "
            f"{len(made_first)} and {len(made_second)} generated ones"
        )
    nearest = torch.cdist(made_first, first).argmin(1, keepdim=True)
    far = torch.cdist(made_second, second)
    own = far.gather(1, nearest)
    return 1 + (far < own).sum(1).double() + ((far == own).sum(1) - 1) / 2
