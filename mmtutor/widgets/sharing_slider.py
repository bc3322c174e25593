"""A slider for soft sharing: recorded runs of two trunks on a spring, from apart to tied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, log10

import numpy as np
import traitlets
from PIL import Image, ImageDraw

from ..ledger import Ledger, number_text
from ..style import INK, MODALITY, TASK
from .base import BookWidget, script, style
from .pack import webp

STRENGTHS = ("0", "0.1", "0.3", "1", "3", "10", "∞")  # of the spring, as the names of the rows have them
COLOURS = {
    "digit": TASK["what"],
    "morphological": MODALITY["view"],
    "style": TASK["style"],
    "group": TASK["what"],
}


@dataclass(frozen=True)
class TiedPair:
    """Two tasks whose trunks a spring ties, and the rows of the recipe to compare them with.

    Args:
        tasks: two tasks, with what their score is called.
        about: what they are asked about, in a sentence.
        hard: the row of hard sharing.
        alone: for a task that was also trained alone, its row.

    Example:
        >>> list(TiedPair({"style": "accuracy", "group": "accuracy"}).tasks)
        ['style', 'group']
    """

    tasks: Mapping[str, str]
    about: str = ""
    hard: str | None = None
    alone: Mapping[str, str] = field(default_factory=dict)


PAIRS = {  # the rows' name up to ", soft, λ = …": the pair
    "digits + morphological": TiedPair(
        {"digit": "accuracy", "morphological": "R²"},
        "Handwritten digits: which one it is, told of five of each; six numbers on its shape, told of all.",
        hard="digits + morphological",
        alone={"digit": "digits, alone"},
    ),
    "style + group": TiedPair(
        {"style": "accuracy", "group": "accuracy"},
        "Pictures of emoji: in whose style a thing is drawn; to which group it belongs.",
        hard="style + group, hard",
        alone={"style": "style, alone", "group": "group, alone"},
    ),
}


class SharingSlider(BookWidget):
    r"""Move the spring's strength λ and see what two tasks that share softly gain and lose.

    All of it is recorded: for each of seven strengths the test scores of both tasks, the distance of their
    trunks' weights, and the cosine of their gradients; and the course of all three along the training.

    Args:
        ledger: the recorded runs of the recipe ``sharing``. Means are over the seeds that are there; where
            some lack, the page says so.
        pairs: the rows' name up to ``", soft, λ = …"`` to the `TiedPair`; the book's two if None.
        pair: the pair shown first; by default the first.
        strength: one of ``STRENGTHS``, shown first.

    Traits that Python sees: ``pair`` and ``strength`` (both text).

    Raises:
        ValueError: for a row or a figure that was never recorded, a pair that has not two tasks, or no pair.
        traitlets.TraitError: for an unknown pair or strength.

    Example:
        >>> ledger = Ledger("sharing", "cpu")
        >>> for strength in STRENGTHS:
        ...     figures = {"style": 0.6, "group": 0.5, "distance": 2, "cosine, style and group": 0.02}
        ...     looks = {f"{name} @ {step}": x for step in (0, 50) for name, x in figures.items()}
        ...     ledger.record(f"style + group, soft, λ = {strength}", 0, {**figures, **looks})
        >>> slider = SharingSlider(ledger, {"style + group": TiedPair(PAIRS["style + group"].tasks)})
        >>> slider.values()
        {'style': 0.6, 'group': 0.5, 'distance': 2.0, 'cosine': 0.02}
    """

    _esm = script("sharing_slider")
    _css = style("sharing_slider")

    pair = traitlets.Unicode().tag(sync=True)
    strength = traitlets.Enum(STRENGTHS).tag(sync=True)
    strengths = traitlets.List(traitlets.Unicode(), list(STRENGTHS)).tag(sync=True)
    pairs = traitlets.List().tag(sync=True)
    scale = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        ledger: Ledger,
        pairs: Mapping[str, TiedPair] | None = None,
        *,
        pair: str | None = None,
        strength: str = "1",
    ):
        pairs = PAIRS if pairs is None else pairs
        if not pairs:
            raise ValueError("pairs: expected at least one, found none")
        self._names = list(pairs)
        super().__init__(
            pairs=[_recorded_pair(ledger, name, given) for name, given in pairs.items()],
            pair=self._names[0] if pair is None else pair,
            strength=strength,
            scale=ledger.scale,
        )

    @traitlets.validate("pair")
    def _known_pair(self, proposal) -> str:
        if proposal.value not in self._names:
            raise traitlets.TraitError(
                f"pair: expected one of {', '.join(self._names)}; found {proposal.value!r}"
            )
        return proposal.value

    def _shown(self) -> dict:
        return self.pairs[self._names.index(self.pair)]

    def _figures(self) -> dict[str, dict]:
        """The figures of the present stop by name."""
        shown, stop = self._shown(), STRENGTHS.index(self.strength)
        figures = {task["name"]: task["scores"][stop] for task in shown["tasks"]}
        return figures | {name: shown[name]["end"][stop] for name in ("distance", "cosine")}

    def values(self) -> dict[str, float]:
        """Return what the page shows at the present stop, means over the seeds.

        Returns:
            Each task's score with the test items; ``"distance"``, how far apart the trunks' weights are in
            the end; ``"cosine"``, that of the two tasks' gradients, the mean of all looks on the way.
        """
        return {name: figure["mean"] for name, figure in self._figures().items()}

    def summary(self) -> str:
        shown = self._shown()
        figures = ", ".join(f"{name} {figure['text']}" for name, figure in self._figures().items())
        best = [
            f"{task['name']} at λ = {STRENGTHS[int(np.argmax([score['mean'] for score in task['scores']]))]}"
            for task in shown["tasks"]
        ]
        return (
            f"Two trunks on a spring, for the tasks {' and '.join(task['name'] for task in shown['tasks'])}. "
            f"At λ = {self.strength}: {figures}. The highest mean test score: {', '.join(best)}."
        )

    def picture(self) -> bytes:
        """Draw each task's seven scores small, as a line."""
        image = Image.new("RGB", (480, 120), "white")
        draw = ImageDraw.Draw(image)
        for i, task in enumerate(self._shown()["tasks"]):
            means = np.array([score["mean"] for score in task["scores"]])
            heights = 100 - 80 * (means - means.min()) / (np.ptp(means) or 1)
            points = [(20 + 240 * i + 33 * k, float(y)) for k, y in enumerate(heights)]
            draw.line(points, fill=task["colour"], width=3, joint="curve")
            for x, y in points:
                draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=task["colour"])
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"SharingSlider({self.pair!r}, λ = {self.strength})"


def _recorded_pair(ledger: Ledger, name: str, given: TiedPair) -> dict:
    """What the page is told of a pair: its figures at each strength and along the way."""
    if len(given.tasks) != 2:
        raise ValueError(f"pairs[{name!r}]: expected two tasks, found {len(given.tasks)}")
    rows = [f"{name}, soft, λ = {strength}" for strength in STRENGTHS]
    for row in (*rows, given.hard, *given.alone.values()):
        if row is not None and not ledger.n_seeds(row):
            raise ValueError(f"ledger {ledger.name}-{ledger.scale}: expected row {row!r}, found none")
    first = next(iter(ledger.seeds(rows[0]).values()))
    steps = sorted(int(key.split(" @ ")[1]) for key in first if key.startswith("distance @ "))
    if len(steps) < 2:
        raise ValueError(f"row {rows[0]!r}: expected 'distance @ …' at two steps or more, found {len(steps)}")

    def course(metric: str, steps: Sequence[int]) -> list[dict]:
        looks = [[_figure(ledger, row, f"{metric} @ {step}") for step in steps] for row in rows]
        return [{key: [look[key] for look in row] for key in ("mean", "spread")} for row in looks]

    cosine = "cosine, {} and {}".format(*given.tasks)
    return {
        "name": name,
        "about": given.about,
        "tasks": [
            {
                "name": task,
                "measure": measure,
                "colour": COLOURS.get(task, INK),
                "scores": [_figure(ledger, row, task) for row in rows],
                "hard": _figure(ledger, given.hard, task) if given.hard else None,
                "alone": _figure(ledger, given.alone[task], task) if task in given.alone else None,
                "course": course(task, steps),
            }
            for task, measure in given.tasks.items()
        ],
        "distance": {
            "end": [_distance(ledger, row) for row in rows],
            "course": course("distance", steps),
        },
        "cosine": {
            "end": [_figure(ledger, row, cosine) for row in rows],
            "course": course(cosine, steps[:-1]),  # in the end there is no batch to take gradients of
        },
        "steps": steps,
    }


def _figure(ledger: Ledger, row: str, metric: str) -> dict:
    """A metric over the recorded seeds: each value, mean, standard deviation, and both as text."""
    values = ledger.values(row, metric)
    if not len(values):
        raise ValueError(f"row {row!r}: expected the figure {metric!r}, found none")
    return {
        "mean": _short(values.mean()),
        "spread": _short(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "seeds": [_short(value) for value in values],
        "text": ledger.text(row, metric),
    }


def _short(value: float) -> float:
    """Six significant digits, which is more than a page can show."""
    return float(f"{value:.6g}")


def _distance(ledger: Ledger, row: str) -> dict:
    """The distance has no scale of its own: its text has two significant digits."""
    figure = _figure(ledger, row, "distance")
    mean = float(f"{figure['mean']:.2g}")
    return {**figure, "text": number_text(mean, max(0, 1 - floor(log10(mean)))) if mean else "0"}
