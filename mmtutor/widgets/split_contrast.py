"""Two linear encoders with one weight each: which way does a contrast that is split push them?"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import traitlets
from PIL import Image, ImageDraw
from torch import Tensor

from ..experiments.training import contrast
from ..style import MODALITY
from .base import BookWidget, script, style
from .pack import webp

WAYS = ("all", "own", "detached")
PAIRS, BLOCK = 64, 8
PARTS = (2, 4, 8)
TEMPERATURE = 0.2
MOST_WEIGHT, MOST_CORRELATION = 1.3, 0.95
RATE = 0.5 * TEMPERATURE  # the slope at the origin goes with 1 / temperature


class SplitContrast(BookWidget):
    r"""Roll two weights down the slope of a contrast that several machines share, and see where they end.

    There are 64 pairs of numbers :math:`x_i,y_i` with mean 0, variance 1 and correlation :math:`\rho`. Their
    embeddings are unit vectors in the plane, :math:`\hat a_i\propto(1,w_ax_i)` and
    :math:`\hat b_i\propto(1,w_by_i)`, so that with both weights zero all embeddings are one point. The page
    computes InfoNCE with a temperature of 0.2 and its slope by the two weights, by one of three ways: of all
    candidates, of the candidates in one's own part alone, or of all candidates, those of other parts without
    a gradient. It goes down by :math:`w\leftarrow w-\eta\,\partial L/\partial w`.

    Args:
        way: ``"all"``, ``"own"`` or ``"detached"``.
        parts: among how many machines the 64 pairs are shared: 2, 4 or 8.
        correlation: :math:`\rho` of a pair, from 0 to 0.95.
        weights: :math:`w_a` and :math:`w_b`, each from -1.3 to 1.3.

    Traits that Python sees: all of these.

    Raises:
        ValueError: for another way, number of parts, or numbers outside these bounds; also when a trait is
            set later.

    Example:
        >>> low, high = (SplitContrast(correlation=c, weights=(0.1, 0.1)) for c in (0.3, 0.5))
        >>> low.descend(20)[0] < 0.1 < high.descend(20)[0]
        True
    """

    _esm = script("split_contrast")
    _css = style("split_contrast")

    way = traitlets.Unicode().tag(sync=True)
    parts = traitlets.Int().tag(sync=True)
    correlation = traitlets.Float().tag(sync=True)
    weights = traitlets.List(traitlets.Float()).tag(sync=True)
    x = traitlets.List(traitlets.Float()).tag(sync=True)
    rest = traitlets.List(traitlets.Float()).tag(sync=True)

    def __init__(
        self,
        way: str = "detached",
        parts: int = 4,
        correlation: float = 0.3,
        weights: Sequence[float] = (0.4, 0.3),
    ):
        x, rest = _numbers()
        super().__init__(
            way=way,
            parts=parts,
            correlation=float(correlation),
            weights=[float(w) for w in weights],
            x=x.round(5).tolist(),
            rest=rest.round(5).tolist(),
        )

    @traitlets.validate("way", "parts")
    def _is_known(self, proposal) -> str | int:
        name, known = proposal.trait.name, {"way": WAYS, "parts": PARTS}[proposal.trait.name]
        if proposal.value not in known:
            raise ValueError(
                f"{name}: expected one of {', '.join(map(str, known))}; found {proposal.value!r}"
            )
        return proposal.value

    @traitlets.validate("correlation")
    def _is_a_correlation(self, proposal) -> float:
        return _check("correlation", proposal.value, 0, MOST_CORRELATION)

    @traitlets.validate("weights")
    def _are_weights(self, proposal) -> list[float]:
        if len(proposal.value) != 2:
            raise ValueError(f"weights: expected w_a and w_b, found {proposal.value}")
        return [_check("weights", w, -MOST_WEIGHT, MOST_WEIGHT) for w in proposal.value]

    def embeddings(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return both embeddings of every pair, ``(64, 2)`` each, not yet of length 1."""
        x, rest = (torch.tensor(numbers, dtype=torch.float64) for numbers in (self.x, self.rest))
        y = self.correlation * x + math.sqrt(1 - self.correlation**2) * rest
        return tuple(
            torch.stack([torch.ones_like(x), w * v], 1) for w, v in zip(weights, (x, y), strict=True)
        )

    def values(self) -> dict[str, float]:
        """Return what the page shows: the ``"loss"`` of the whole batch, and the slopes of the chosen way.

        Example:
            >>> round(SplitContrast(weights=(0, 0)).values()["loss"], 3), round(math.log(64), 3)
            (4.159, 4.159)
        """
        w = torch.tensor(self.weights, dtype=torch.float64, requires_grad=True)
        pair, temperature = self.embeddings(w), torch.tensor(TEMPERATURE)
        whole = contrast(*pair, temperature, "all")
        (slopes,) = torch.autograd.grad(contrast(*pair, temperature, self.way, self.parts), w)
        found = {"loss": whole, "slope_a": slopes[0], "slope_b": slopes[1]}
        return {name: round(value.item(), 12) for name, value in found.items()}

    def descend(self, steps: int) -> list[float]:
        """Take steps down the slopes of the chosen way; returns the weights after them."""
        for _ in range(steps):
            found = self.values()
            slopes = found["slope_a"], found["slope_b"]
            stepped = (w - RATE * slope for w, slope in zip(self.weights, slopes, strict=True))
            self.weights = [max(-MOST_WEIGHT, min(MOST_WEIGHT, w)) for w in stepped]
        return self.weights

    def summary(self) -> str:
        found = self.values()
        how = {
            "all": "among all candidates",
            "own": f"in {self.parts} parts, each among its own candidates",
            "detached": f"in {self.parts} parts, candidates of other parts without a gradient",
        }[self.way]
        return (
            f"A contrast of {PAIRS} pairs of correlation {self.correlation:.2f}, {how}. With weights "
            f"{self.weights[0]:.2f} and {self.weights[1]:.2f} the loss of the whole batch is "
            f"{found['loss']:.3f}, where one point for all has {math.log(PAIRS):.3f}; the slopes by the "
            f"weights are {found['slope_a']:.3f} and {found['slope_b']:.3f}."
        )

    def picture(self) -> bytes:
        """Draw the embeddings on their circle, partners joined."""
        image = Image.new("RGB", (300, 170), "white")
        draw = ImageDraw.Draw(image)
        pair = self.embeddings(torch.tensor(self.weights, dtype=torch.float64))
        angles = [torch.atan2(z[:, 1], z[:, 0]).tolist() for z in pair]
        ends = [
            [(150 + r * math.sin(t), 160 - r * math.cos(t)) for t in of]
            for r, of in zip((145, 115), angles, strict=True)
        ]
        for a, b in zip(*ends, strict=True):
            draw.line([*a, *b], "#cccccc", 1)
        for of, colour in zip(ends, (MODALITY["image"], MODALITY["text"]), strict=True):
            for u, v in of:
                draw.ellipse([u - 4, v - 4, u + 4, v + 4], colour)
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"SplitContrast({self.way!r}, parts={self.parts}, correlation={self.correlation:g})"


def _numbers() -> tuple[np.ndarray, np.ndarray]:
    """Two rows of 64 numbers: uncorrelated, of variance 1, and of mean 0 in each block of 8."""
    rows = np.random.default_rng(0).standard_normal((2, PAIRS // BLOCK, BLOCK))
    x, rest = (rows - rows.mean(-1, keepdims=True)).reshape(2, PAIRS)
    rest = rest - (rest @ x) / (x @ x) * x
    return x / x.std(), rest / rest.std()


def _check(name: str, x: float, low: float, high: float) -> float:
    if not low <= x <= high:  # so that NaN is a fault too
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, found {x:g}")
    return x
