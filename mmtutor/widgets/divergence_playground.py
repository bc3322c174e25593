"""Two distributions over the same answers, to drag, and four numbers that say how well they match."""

import math
from collections.abc import Sequence

import torch
import traitlets
from PIL import Image, ImageDraw

from ..contrastive import cosine
from ..matching import js_divergence, kl_divergence
from ..style import MODALITY
from .base import BookWidget, script, style
from .pack import webp

ANSWERS = ("cat", "dog", "fox", "bear", "hare")
RARE = 0.02  # what q gives to the second answer at the opening
TOLERANCE = 1e-4  # of a sum; that of kl_divergence


class DivergencePlayground(BookWidget):
    r"""Drag what two modalities say of one thing, and see which measure of their match notices what.

    The page computes the cosine of :math:`p` and :math:`q`, :math:`\mathrm{KL}(p\Vert q)`,
    :math:`\mathrm{KL}(q\Vert p)` and :math:`\mathrm{JS}(p,q)`, and what each answer adds to them. A bar that
    is moved makes the others of its distribution give way in proportion:

    .. math:: q'_i=t,\qquad q'_c=(1-t)\,\frac{q_c}{\sum_{d\ne i}q_d}\quad(c\ne i)

    and evenly if all others are 0.

    Args:
        answers: 2 to 8 names, all different.
        p: a distribution over the answers; by default the first answer is the most probable, the second half
            as much, the third a third, and so on.
        q: the other distribution; by default ``p`` with its second answer moved to 2%.

    Traits that Python sees: ``answers``, ``p``, ``q``, and ``moved``, which bar was moved last, as
    ``["q", 1]``.

    Raises:
        ValueError: for fewer or more answers, one that comes twice, or a ``p`` or ``q`` that is no
            distribution over them: of another length, with a negative number or NaN, or a sum other than 1
            (by more than 0.0001). Also when ``p``, ``q`` or ``moved`` is set later.

    Example:
        >>> playground = DivergencePlayground(["cat", "dog"], p=[0.5, 0.5], q=[1, 0])
        >>> {name: round(x, 4) for name, x in playground.values().items()}
        {'cosine': 0.7071, 'kl_pq': inf, 'kl_qp': 0.6931, 'js': 0.2158}
    """

    _esm = script("divergence_playground")
    _css = style("divergence_playground")

    answers = traitlets.List(traitlets.Unicode()).tag(sync=True)
    p = traitlets.List(traitlets.Float()).tag(sync=True)
    q = traitlets.List(traitlets.Float()).tag(sync=True)
    moved = traitlets.List().tag(sync=True)

    def __init__(
        self,
        answers: Sequence[str] = ANSWERS,
        p: Sequence[float] | None = None,
        q: Sequence[float] | None = None,
    ):
        answers = list(answers)
        if not 2 <= len(answers) <= 8:
            raise ValueError(f"answers: expected 2 to 8, found {len(answers)}")
        if len(set(answers)) < len(answers):
            raise ValueError(f"answers: expected different ones, found {answers}")
        p = _falling(len(answers)) if p is None else _distribution("p", p, answers)
        q = _moved(p, 1, RARE) if q is None else _distribution("q", q, answers)
        super().__init__(answers=answers, p=p, q=q, moved=["q", 1])

    @traitlets.validate("p", "q")
    def _is_a_distribution(self, proposal) -> list[float]:
        return _distribution(proposal.trait.name, proposal.value, self.answers)

    @traitlets.validate("moved")
    def _is_a_bar(self, proposal) -> list:
        if proposal.value not in [[which, i] for which in "pq" for i in range(len(self.answers))]:
            expected = f"['p' or 'q', 0 to {len(self.answers) - 1}]"
            raise ValueError(f"moved: expected {expected}, found {proposal.value}")
        return proposal.value

    def values(self) -> dict[str, float]:
        """Return the four numbers at the present bars, computed by the library in double precision.

        Returns:
            ``"cosine"``, ``"kl_pq"`` = KL(p‖q), ``"kl_qp"`` = KL(q‖p) and ``"js"``, the last three in nats.
        """
        p, q = (torch.tensor(x, dtype=torch.float64) for x in (self.p, self.q))
        return {
            "cosine": cosine(p[None], q[None]).item(),
            "kl_pq": kl_divergence(p, q).item(),
            "kl_qp": kl_divergence(q, p).item(),
            "js": js_divergence(p, q).item(),
        }

    def summary(self) -> str:
        said = [
            f"{name}: "
            + ", ".join(f"{answer} {_percent(x)}" for answer, x in zip(self.answers, bars, strict=True))
            for name, bars in (("p", self.p), ("q", self.q))
        ]
        return f"Two distributions over the same answers. {'; '.join(said)}. {self._in_words()}"

    def _in_words(self) -> str:
        """The four numbers in words; the page says the same."""
        if self.p == self.q:
            return "p and q are equal: the cosine is 1, and each divergence is 0."
        if all(min(x, y) == 0 for x, y in zip(self.p, self.q, strict=True)):
            return (
                "p and q have no answer in common: both KLs are infinite, "
                "JS is at its most, log 2 = 0.69, and the cosine is 0."
            )
        values = self.values()
        js = f"JS is {values['js']:.2f} of at most 0.69, the cosine {values['cosine']:.2f}."
        kl_pq = self._kl_in_words("p", "q", values["kl_pq"])
        kl_qp = self._kl_in_words("q", "p", values["kl_qp"])
        return f"{kl_pq} {kl_qp} {js}"

    def _kl_in_words(self, first: str, second: str, value: float) -> str:
        name = f"KL({first}‖{second})"
        if value < math.inf:
            return f"{name} is {value:.2f}."
        triples = zip(self.answers, getattr(self, first), getattr(self, second), strict=True)
        excluded = [(answer, x) for answer, x, y in triples if x > 0 == y]
        answers = " and ".join(answer for answer, _ in excluded)
        lost = _percent(sum(x for _, x in excluded))
        return f"{name} is infinite: {second} gives {answers} nothing, {first} {lost}."

    def picture(self) -> bytes:
        """Draw the bars side by side, p filled, q as an outline."""
        image = Image.new("RGB", (480, 130), "white")
        draw = ImageDraw.Draw(image)
        draw.line([10, 120, 470, 120], "#888888")
        for i, (x, y) in enumerate(zip(self.p, self.q, strict=True)):
            left = 20 + 450 * i / len(self.answers)
            draw.rectangle([left, 120 - 110 * x, left + 18, 120], MODALITY["image"])
            draw.rectangle([left + 23, 120 - 110 * y, left + 41, 120], None, MODALITY["text"], 3)
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"DivergencePlayground({', '.join(self.answers)})"


def _distribution(name: str, given: Sequence[float], answers: list[str]) -> list[float]:
    """The given numbers as floats, or an error if they are no distribution over the answers."""
    numbers = [float(x) for x in given]
    if len(numbers) != len(answers):
        raise ValueError(f"{name}: expected {len(answers)} numbers, one per answer, found {len(numbers)}")
    for answer, x in zip(answers, numbers, strict=True):
        if not x >= 0:  # so that NaN is a fault too
            raise ValueError(f"{name}: expected numbers from 0, found {x:g} for {answer!r}")
    if not abs(sum(numbers) - 1) <= TOLERANCE:
        raise ValueError(f"{name}: expected numbers that sum to 1, found the sum {sum(numbers):.6g}")
    return numbers


def _falling(n: int) -> list[float]:
    """A distribution in proportion to 1, 1/2, 1/3, …"""
    weights = [1 / (i + 1) for i in range(n)]
    return [weight / sum(weights) for weight in weights]


def _moved(distribution: list[float], i: int, to: float) -> list[float]:
    """The distribution after its bar ``i`` was moved."""
    rest = sum(x for j, x in enumerate(distribution) if j != i)
    even = 1 / (len(distribution) - 1)
    return [to if j == i else (1 - to) * (x / rest if rest else even) for j, x in enumerate(distribution)]


def _percent(x: float) -> str:
    if 0 < x < 0.0005:
        return "<0.1%"
    if 0.995 <= x < 1:
        return ">99%"
    digits = 1 if x < 0.0995 else 0
    return f"{math.floor(100 * 10**digits * x + 0.5) / 10**digits:g}%"  # halves go up, as on the page
