"""A conditional random field as a graph: whom it trusts, and what each would be worth alone."""

import itertools
import math
from collections.abc import Sequence

import torch
import traitlets
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from ..style import MODALITY
from ..towers import confidence_weights, crf_log_partition, crf_marginals, mean_field
from .base import BookWidget, script, style
from .pack import webp

LIMIT = 100  # of ϑ and w: far beyond what sliders reach, and far from overflow
TOLERANCE = 1e-4  # of a cosine; that of crf_marginals
WITNESSES = ("fourier", "profile", "pixels", "zernike")
ALL = ("nobody", "one", "both", "all three", "all four", "all five", "all six")


class TrustGraph(BookWidget):
    r"""Say what speaks for each modality and how well they agree, and see whom the field trusts.

    .. math:: p(u)\propto\exp\Big(\sum_m\vartheta_mu_m+\sum_{m<n}w\,s_{mn}u_mu_n\Big)

    with :math:`u_m=1` if modality ``m`` is to be trusted. The page computes the marginals
    :math:`p(u_m=1)`, beside each what it would be alone, :math:`\sigma(\vartheta_m)`, and by
    :func:`~mmtutor.towers.mean_field`; the most probable states; and the
    :func:`~mmtutor.towers.confidence_weights`.

    Args:
        modalities: 2 to 6 names, all different.
        unary: :math:`\vartheta`, ``M`` numbers from -100 to 100, minus infinity for what is absent; by
            default one half each.
        similarity: :math:`s`, the cosines as an ``M`` by ``M`` matrix, symmetric; its diagonal is ignored. By
            default 0.8, but -0.2 for each pair with the last modality.
        coupling: :math:`w`, from 0 to 100.

    Traits that Python sees: ``modalities``, ``unary``, ``similarity``, ``coupling``; ``present``, whether
    each modality is there (an absent one keeps a finite ``unary`` for its return); and ``selected``, the pair
    whose cosine the page's slider moves, as ``[0, 3]``.

    Raises:
        ValueError: for fewer or more modalities, one that comes twice, other numbers of :math:`\vartheta` or
            cosines, NaN, a cosine outside -1 to 1, a matrix that is not symmetric, or a negative coupling.
            Also when a trait is set later.

    Example:
        >>> graph = TrustGraph(["image", "text"], unary=[1, 0], similarity=[[1, 0.5], [0.5, 1]])
        >>> [round(p, 4) for p in graph.values()["marginals"]]
        [0.8348, 0.6929]
    """

    _esm = script("trust_graph")
    _css = style("trust_graph")

    modalities = traitlets.List(traitlets.Unicode()).tag(sync=True)
    unary = traitlets.List(traitlets.Float()).tag(sync=True)
    similarity = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    coupling = traitlets.Float().tag(sync=True)
    present = traitlets.List(traitlets.Bool()).tag(sync=True)
    selected = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(
        self,
        modalities: Sequence[str] = WITNESSES,
        unary: Sequence[float] | None = None,
        similarity: Sequence[Sequence[float]] | None = None,
        coupling: float = 2.0,
    ):
        modalities = list(modalities)
        m = len(modalities)
        if not 2 <= m <= 6:
            raise ValueError(f"modalities: expected 2 to 6, found {m}")
        if len(set(modalities)) < m:
            raise ValueError(f"modalities: expected different ones, found {modalities}")
        theta = [0.5] * m if unary is None else [float(x) for x in unary]
        present = [x != -math.inf for x in theta]
        kept = [x if there else 0.0 for x, there in zip(theta, present, strict=True)]
        super().__init__(
            modalities=modalities,
            unary=_numbers("unary", kept, modalities),
            similarity=_odd_one_out(m) if similarity is None else _cosines(similarity, modalities),
            coupling=_coupling(coupling),
            present=present,
            selected=[0, m - 1],
        )

    @traitlets.validate("unary")
    def _are_numbers(self, proposal) -> list[float]:
        return _numbers("unary", proposal.value, self.modalities)

    @traitlets.validate("similarity")
    def _are_cosines(self, proposal) -> list[list[float]]:
        return _cosines(proposal.value, self.modalities)

    @traitlets.validate("coupling")
    def _is_a_coupling(self, proposal) -> float:
        return _coupling(proposal.value)

    @traitlets.validate("present")
    def _is_a_mask(self, proposal) -> list[bool]:
        if len(proposal.value) != len(self.modalities):
            expected = f"{len(self.modalities)} truth values, one per modality"
            raise ValueError(f"present: expected {expected}, found {len(proposal.value)}")
        return proposal.value

    @traitlets.validate("selected")
    def _is_a_pair(self, proposal) -> list[int]:
        if tuple(proposal.value) not in itertools.combinations(range(len(self.modalities)), 2):
            expected = f"[m, n] with 0 <= m < n < {len(self.modalities)}"
            raise ValueError(f"selected: expected {expected}, found {proposal.value}")
        return proposal.value

    def _potentials(self) -> tuple[Float[Tensor, "1 m"], Float[Tensor, "1 m m"]]:
        theta = [x if there else -math.inf for x, there in zip(self.unary, self.present, strict=True)]
        s = torch.tensor([self.similarity], dtype=torch.float64)
        return torch.tensor([theta], dtype=torch.float64), self.coupling * s

    def values(self) -> dict:
        """Return what the page shows, computed by the library in double precision.

        Returns:
            Lists with one number per modality: ``"marginals"``; ``"alone"``, without the others; and
            ``"mean_field"``. ``"states"``: the probability of each state, the most probable first, as
            ``{"110": 0.6, ...}`` with 1 for what is trusted. ``"weights"``: how much the set of the ``k``
            most trusted counts, for each ``k`` from 1. ``"log_partition"``: a number.
        """
        theta, W = self._potentials()
        marginals, log_partition = crf_marginals(theta, W), crf_log_partition(theta, W)
        return {
            "marginals": marginals[0].tolist(),
            "alone": theta.sigmoid()[0].tolist(),
            "mean_field": mean_field(theta, W)[0].tolist(),
            "states": _state_probabilities(theta[0], W[0], log_partition[0]),
            "weights": confidence_weights(marginals)[0].tolist(),
            "log_partition": log_partition.item(),
        }

    def summary(self) -> str:
        members = ", ".join(
            f"{name} {_number(x) if there else '−∞'}"
            for name, x, there in zip(self.modalities, self.unary, self.present, strict=True)
        )
        cosines = ", ".join(
            f"{self.modalities[m]} and {self.modalities[n]} {_number(self.similarity[m][n])}"
            for m, n in itertools.combinations(range(len(self.modalities)), 2)
        )
        return (
            f"A field over whom to trust. ϑ: {members}. Cosines: {cosines}. "
            f"Coupling w = {_number(self.coupling)}. {self._in_words()}"
        )

    def _in_words(self) -> str:
        """Whom the field trusts, in words; the page says the same."""
        found = self.values()
        there = [m for m, is_there in enumerate(self.present) if is_there]
        if not there:
            return "Nobody is there, and nobody is trusted."
        shares = {m: _percent(found["marginals"][m]) for m in there}
        if len(there) == 1:
            return f"Only {self.modalities[there[0]]} is there: {shares[there[0]]}, as alone."

        def alike(end: int) -> str:
            group = [m for m in there if shares[m] == shares[end]]
            who = ALL[len(there)] if len(group) == len(there) else _listed(self.modalities[m] for m in group)
            alone = sorted(found["alone"][m] for m in group)
            return f"{who}, {shares[end]} (alone {_range(_percent(alone[0]), _percent(alone[-1]))})"

        order = sorted(there, key=lambda m: -found["marginals"][m])
        most, least = alike(order[0]), alike(order[-1])
        trust = f"Trusted alike: {most}." if most == least else f"Most trusted: {most}; least: {least}."
        gaps = [abs(q - p) for q, p in zip(found["mean_field"], found["marginals"], strict=True)]
        points = _rounded(100 * max(gaps))
        off = f"is up to {points} point{'' if points == 1 else 's'} off" if points else "agrees"
        return f"{trust} {self._most_probable(found['states'])} Mean field {off}."

    def _most_probable(self, states: dict[str, float]) -> str:
        most = next(iter(states.values()))
        best = [state for state, p in states.items() if _level(p) == _level(most)]
        if len(best) > 2:
            return f"Most probable: {len(best)} states alike ({_percent(most)} each)."
        each = " each" if len(best) == 2 else ""
        return f"Most probable: {' or '.join(map(self._company, best))} ({_percent(most)}{each})."

    def _company(self, state: str) -> str:
        """Who is trusted in a state."""
        trusted = [name for name, u in zip(self.modalities, state, strict=True) if u == "1"]
        if not trusted:
            return "nobody"
        if len(trusted) == sum(self.present):
            return ALL[len(trusted)]
        return _listed(trusted) if len(trusted) > 1 else f"only {trusted[0]}"

    def picture(self) -> bytes:
        """Draw the graph: discs whose area is the marginal, lines as thick as a cosine is large."""
        image = Image.new("RGB", (480, 200), "white")
        draw = ImageDraw.Draw(image)
        places = [(240 + 80 * x, 100 + 70 * y) for x, y in _places(len(self.modalities))]
        for m, n in itertools.combinations(range(len(places)), 2):
            s = self.similarity[m][n]
            draw.line([places[m], places[n]], MODALITY["image" if s >= 0 else "text"], 1 + round(5 * abs(s)))
        for (x, y), p in zip(places, self.values()["marginals"], strict=True):
            draw.circle((x, y), 24, "white", "#555555", 2)
            draw.circle((x, y), 24 * math.sqrt(p), MODALITY["image"])
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"TrustGraph({', '.join(self.modalities)})"


def _numbers(name: str, given: Sequence[float], modalities: list[str]) -> list[float]:
    numbers = [float(x) for x in given]
    if len(numbers) != len(modalities):
        expected = f"{len(modalities)} numbers, one per modality"
        raise ValueError(f"{name}: expected {expected}, found {len(numbers)}")
    for modality, x in zip(modalities, numbers, strict=True):
        if not abs(x) <= LIMIT:  # so that NaN is a fault too
            raise ValueError(
                f"{name}: expected numbers from -{LIMIT} to {LIMIT}, found {x:g} for {modality!r}"
            )
    return numbers


def _cosines(given: Sequence[Sequence[float]], modalities: list[str]) -> list[list[float]]:
    """The given matrix with ones on its diagonal, or an error if it is no matrix of cosines."""
    matrix = [[float(s) for s in row] for row in given]
    m = len(modalities)
    if [len(row) for row in matrix] != [m] * m:
        raise ValueError(
            f"similarity: expected {m} rows of {m} cosines, found rows of {[len(row) for row in matrix]}"
        )
    cosines = [[1.0] * m for _ in range(m)]
    for a, b in itertools.combinations(range(m), 2):
        s, mirrored = matrix[a][b], matrix[b][a]
        pair = f"{modalities[a]!r} and {modalities[b]!r}"
        for found in (s, mirrored):
            if not abs(found) <= 1 + TOLERANCE:
                raise ValueError(f"similarity: expected cosines from -1 to 1, found {found:g} for {pair}")
        if abs(s - mirrored) > TOLERANCE:
            raise ValueError(f"similarity: expected one cosine for {pair}, found {s:g} and {mirrored:g}")
        cosines[a][b] = cosines[b][a] = max(-1.0, min(1.0, s))
    return cosines


def _coupling(w: float) -> float:
    if not 0 <= w <= LIMIT:
        raise ValueError(f"coupling: expected a number from 0 to {LIMIT}, found {w:g}")
    return float(w)


def _odd_one_out(m: int) -> list[list[float]]:
    """Cosines of modalities that agree, all but the last."""
    pair = [[-0.2 if m - 1 in (a, b) else 0.8 for b in range(m)] for a in range(m)]
    return [[1.0 if a == b else pair[a][b] for b in range(m)] for a in range(m)]


def _state_probabilities(
    theta: Float[Tensor, " m"], W: Float[Tensor, "m m"], log_partition: Float[Tensor, ""]
) -> dict[str, float]:
    r""":math:`p(u)=\exp(\sum_m\vartheta_mu_m+\sum_{m<n}W_{mn}u_mu_n-\log Z)`, the most probable first."""
    probability = {}
    for u in itertools.product((1, 0), repeat=len(theta)):
        on = [m for m, trusted in enumerate(u) if trusted]
        exponent = theta[on].sum() + sum(W[m, n] for m, n in itertools.combinations(on, 2))
        probability["".join(map(str, u))] = (exponent - log_partition).exp().item()
    return dict(sorted(probability.items(), key=lambda item: -_level(item[1])))


def _level(p: float) -> int:
    """Probabilities that differ by rounding only have one level, so that rounding orders nothing."""
    return _rounded(1e9 * p)


def _rounded(x: float) -> int:
    return math.floor(x + 0.5)  # halves go up, as on the page


def _places(m: int) -> list[tuple[float, float]]:
    """Where the modalities stand on the unit circle; the page's y goes down."""
    first = {2: math.pi, 4: -0.75 * math.pi}.get(m, -0.5 * math.pi)
    angles = [first + 2 * math.pi * i / m for i in range(m)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def _listed(names) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _number(x: float) -> str:
    return f"{round(x, 2) + 0:g}".replace("-", "−")  # + 0: no zero with a sign


def _percent(x: float) -> str:
    if 0 < x < 0.005:
        return "<1%"
    if 0.995 <= x < 1:
        return ">99%"
    return f"{_rounded(100 * x)}%"
