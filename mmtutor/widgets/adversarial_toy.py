"""A generator with two numbers against the best of all discriminators, on a line."""

import math
from collections.abc import Sequence

import numpy as np
import traitlets
from PIL import Image, ImageDraw

from ..gan import FORMS
from ..style import MODALITY
from .base import BookWidget, script, style
from .pack import webp

REAL = ((0.5, -1.5, 0.6), (0.5, 1.8, 0.6))  # weight, mean and standard deviation of each hill
LOSSES = (*FORMS[:2], "matching")
MEAN, SD = (-5.0, 5.0), (0.2, 2.0)  # what the sliders reach
GRID = np.linspace(-18, 18, 3601)


class AdversarialToy(BookWidget):
    r"""Move a generator's bell on a line, see the best discriminator, and feel which loss still has a slope.

    Real numbers come from hills :math:`p_r=\sum_k\pi_k\mathcal N(\mu_k,\sigma_k)`, the generator's from
    :math:`p_g=\mathcal N(m,s)`. The discriminator is always the best one,

    .. math:: \ell^*=\log\frac{p_r}{p_g}+\log\frac{w_r}{w_g},\qquad D^*=\sigma(\ell^*)

    The page computes :math:`\mathrm{JS}_\pi(p_r,p_g)` with :math:`\pi=w_r/(w_r+w_g)`,
    :math:`\mathrm{KL}(p_g\Vert p_r)`, and the slopes of the chosen loss by :math:`m` and :math:`\log s`,
    along the numbers that the generator makes while the discriminator holds still. All are sums over a grid.

    Args:
        real: weight, mean and standard deviation of each hill; weights sum to one, means lie from -5 to 5,
            deviations from 0.2 to 2.
        mean, sd: of the generator, in the same bounds.
        weights: :math:`w_r` and :math:`w_g`, from 0.1 to 10.
        loss: of the generator: ``"non-saturating"``, ``"minimax"`` or ``"matching"``.

    Traits that Python sees: all of these.

    Raises:
        ValueError: for numbers outside these bounds, weights of hills that do not sum to one, or another
            loss; also when a trait is set later.

    Example:
        >>> AdversarialToy(real=[(1, 0, 1)], mean=1, sd=1).values()["kl"]
        0.5
    """

    _esm = script("adversarial_toy")
    _css = style("adversarial_toy")

    real = traitlets.List().tag(sync=True)
    mean = traitlets.Float().tag(sync=True)
    sd = traitlets.Float().tag(sync=True)
    weights = traitlets.List(traitlets.Float()).tag(sync=True)
    loss = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        real: Sequence[Sequence[float]] = REAL,
        mean: float = -4.5,
        sd: float = 0.5,
        weights: Sequence[float] = (1.0, 1.0),
        loss: str = "minimax",
    ):
        super().__init__(
            real=[[float(x) for x in hill] for hill in real],
            mean=float(mean),
            sd=float(sd),
            weights=[float(w) for w in weights],
            loss=loss,
        )

    @traitlets.validate("real")
    def _are_hills(self, proposal) -> list:
        hills = proposal.value
        if not hills or any(len(hill) != 3 for hill in hills):
            raise ValueError(f"real: expected (weight, mean, deviation) of at least one hill, found {hills}")
        for weight, mean, sd in hills:
            _check("a hill's weight", weight, 0, 1)
            _check("a hill's mean", mean, *MEAN)
            _check("a hill's deviation", sd, *SD)
        total = sum(weight for weight, _, _ in hills)
        if not abs(total - 1) <= 1e-6:
            raise ValueError(f"real: expected weights that sum to 1, found {total:.6g}")
        return hills

    @traitlets.validate("mean", "sd")
    def _is_within(self, proposal) -> float:
        name = proposal.trait.name
        return _check(name, proposal.value, *{"mean": MEAN, "sd": SD}[name])

    @traitlets.validate("weights")
    def _are_weights(self, proposal) -> list[float]:
        if len(proposal.value) != 2:
            raise ValueError(f"weights: expected w_r and w_g, found {proposal.value}")
        return [_check("weights", w, 0.1, 10) for w in proposal.value]

    @traitlets.validate("loss")
    def _is_a_loss(self, proposal) -> str:
        if proposal.value not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}; found {proposal.value!r}")
        return proposal.value

    def values(self) -> dict[str, float]:
        """Return what the page shows: ``"js"``, ``"kl"`` and ``"reading"``, in nats, and both slopes.

        Returns:
            ``"reading"`` is the mean of -ℓ* over what is generated, which is ``"kl"`` but for log(w_r/w_g);
            ``"slope_mean"`` and ``"slope_log_sd"`` are those of the chosen loss.
        """
        x, dx = GRID, GRID[1] - GRID[0]
        w_r, w_g = self.weights
        hills = [math.log(w or 1e-300) + _log_normal(x, m, s) for w, m, s in self.real]
        log_r, log_g = np.logaddexp.reduce(hills, axis=0), _log_normal(x, self.mean, self.sd)
        p_r, p_g = np.exp(log_r) * dx, np.exp(log_g) * dx
        logit = log_r - log_g + math.log(w_r / w_g)
        share = w_r / (w_r + w_g)
        doubt = share * (p_r @ np.logaddexp(0, -logit)) + (1 - share) * (p_g @ np.logaddexp(0, logit))
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        of_hills = sum(
            np.exp(h - log_r) * (m - x) / s**2 for h, (_, m, s) in zip(hills, self.real, strict=True)
        )
        rise = of_hills + (x - self.mean) / self.sd**2  # of the logit, by x
        certain = np.exp(-np.logaddexp(0, -logit))  # D*
        pull = {"matching": 1.0, "non-saturating": 1 - certain, "minimax": certain}[self.loss]
        reading = -(p_g @ logit)
        found = {
            "js": entropy - doubt,
            "kl": reading + math.log(w_r / w_g),
            "reading": reading,
            "slope_mean": -(p_g @ (pull * rise)),
            "slope_log_sd": -(p_g @ (pull * rise * (x - self.mean))),
        }
        return {name: round(float(value), 12) for name, value in found.items()}

    def summary(self) -> str:
        v, hills = self.values(), f"{len(self.real)} hill{'s' if len(self.real) > 1 else ''}"
        return (
            f"A generator's bell at {self.mean:.2f}, of width {self.sd:.2f}, beside {hills} of "
            f"real numbers. Before the best discriminator JS is {v['js']:.2f} and KL(p_g‖p_r) {v['kl']:.2f}; "
            f"the slope of the {self.loss} loss by the bell's place is {v['slope_mean']:.3f}."
        )

    def picture(self) -> bytes:
        """Draw both densities, the real one filled, the generator's as an outline."""
        image = Image.new("RGB", (480, 130), "white")
        draw = ImageDraw.Draw(image)
        x = np.linspace(-6, 6, 240)
        real = sum(w * np.exp(_log_normal(x, m, s)) for w, m, s in self.real)
        made = np.exp(_log_normal(x, self.mean, self.sd))
        top = max(real.max(), made.max())
        at = [[(2 * i, 120 - 110 * y / top) for i, y in enumerate(p)] for p in (real, made)]
        draw.polygon([(0, 120), *at[0], (480, 120)], MODALITY["image"])
        draw.line(at[1], MODALITY["text"], 3)
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"AdversarialToy(mean={self.mean:g}, sd={self.sd:g}, loss={self.loss!r})"


def _check(name: str, x: float, low: float, high: float) -> float:
    if not low <= x <= high:  # so that NaN is a fault too
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, found {x:g}")
    return x


def _log_normal(x: np.ndarray, mean: float, sd: float) -> np.ndarray:
    return -(((x - mean) / sd) ** 2) / 2 - math.log(sd * math.sqrt(2 * math.pi))
