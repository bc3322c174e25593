"""A compass for two tasks on one trunk: recorded gradients, and where each way of adding them points."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import traitlets
from jaxtyping import Float
from PIL import Image, ImageDraw

from ..ledger import Ledger
from ..style import INK, MODALITY, TASK
from .base import BookWidget, script, style
from .pack import webp
from .sharing_slider import COLOURS

DIRECTIONS = {"sum": INK, "PCGrad": TASK["moves"], "equal lengths": MODALITY["view"]}
NO_DIRECTION = 1e-9  # of the longer gradient; two opposed ones cancel but for rounding


@dataclass(frozen=True)
class Condition:
    """A row of the recipe `balancing` whose gradients were recorded, and what was done to its tasks.

    Args:
        row: its name in the ledger.
        about: what was done, in a sentence.

    Example:
        >>> Condition("balanced, equal").row
        'balanced, equal'
    """

    row: str
    about: str = ""


CONDITIONS = {
    "balanced": Condition("balanced, equal", "Both tasks as they are: all labels known, each loss in nats."),
    "scale": Condition("scale, equal", "The loss of group is multiplied by 30: other units, the same task."),
    "data": Condition("data, equal", "The style is known of a twentieth of the training things only."),
    "difficulty": Condition("difficulty, equal", "Half of the training labels of group are wrong."),
}


def plane_gradients(lengths: Float[np.ndarray, "2"], cosine: float) -> Float[np.ndarray, "2 2"]:
    r"""Draw two gradients in the plane that they span, their bisector upwards, the first on the left.

    .. math:: g_1=\lVert g_1\rVert\,(-\sin\tfrac\vartheta2,\cos\tfrac\vartheta2),\qquad
              g_2=\lVert g_2\rVert\,(\sin\tfrac\vartheta2,\cos\tfrac\vartheta2)

    with the angle :math:`\vartheta=\arccos` of their cosine. Lengths, angle, sums and projections are those
    of the whole gradients, however many weights these have.

    Args:
        lengths: :math:`\lVert g_1\rVert,\lVert g_2\rVert`, ``(2,)``.
        cosine: of the two gradients.

    Returns:
        A gradient a row, ``(2, 2)``.

    Example:
        >>> plane_gradients(np.array([1.0, 2.0]), 0.0).round(2)
        array([[-0.71,  0.71],
               [ 1.41,  1.41]])
    """
    half = np.arccos(np.clip(cosine, -1, 1)) / 2
    return np.asarray(lengths)[:, None] * [[-np.sin(half), np.cos(half)], [np.sin(half), np.cos(half)]]


def plane_surgery(gradients: Float[np.ndarray, "2 plane"]) -> Float[np.ndarray, " plane"]:
    r"""PCGrad of two gradients: each gives up its part along the other if they are in conflict; then the sum.

    .. math:: g=\sum_i\big(g_i-\min(0,g_i^\top u_j)\,u_j\big),\qquad u_j=\frac{g_j}{\lVert g_j\rVert},\ j\ne i

    Args:
        gradients: a gradient a row; a zero one changes nothing.

    Returns:
        The result, in the same plane.

    Source:
        Yu, Kumar, Gupta, Levine, Hausman and Finn (2020); see :func:`mmtutor.balancing.pcgrad`.

    Example:
        >>> plane_surgery(np.array([[1.0, 0.0], [-1.0, 1.0]]))
        array([0.5, 1.5])
    """
    others = _unit(gradients)[::-1]
    conflict = np.minimum(0, (gradients * others).sum(1, keepdims=True))
    return (gradients - conflict * others).sum(0)


def _unit(vectors: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Each row with length 1, or zero if it is no longer than the least."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > least)


class GradientCompass(BookWidget):
    r"""Go along a recorded training and see where two tasks' gradients point, and three ways of adding them.

    The gradients on the trunk were recorded as lengths and cosine at some looks: enough to draw them without
    loss in the plane that they span. The three ways are their plain sum, PCGrad, and the sum of both after
    each was given length 1 (what GradNorm with :math:`\alpha=0` aims at). The cosine of a way with a task's
    gradient says how much a short step along it lowers the task's loss, as a share of what a step of the
    same length along the task's own gradient would.

    Args:
        ledger: the recorded runs of the recipe ``balancing``, with the figures ``"norm, style @ 0"``,
            ``"norm, group @ 0"``, ``"cosine, style and group @ 0"``, and so on for every look's step.
        rows: the name shown to the `Condition`; by default the book's four.
        tasks: the two tasks, as the figures name them.
        row: the condition shown first, by its name in ``rows``; by default the first.
        seed: the run shown first. Only seeds recorded for all of the rows can be shown; by default the first.
        look: which look is shown first, counted from 0.

    Traits that Python sees: ``condition`` (text), ``seed`` and ``look`` (integers).

    Raises:
        ValueError: for no rows, tasks that are not two, or a row, figure or common seed never recorded.
        traitlets.TraitError: for an unknown condition, seed or look.

    Example:
        >>> ledger = Ledger("balancing", "cpu")
        >>> names = ("norm, style", "norm, group", "cosine, style and group")
        >>> looks = {f"{name} @ {s}": x for s in (0, 50) for name, x in zip(names, (1, 1, -0.5))}
        >>> ledger.record("balanced, equal", 0, looks)
        >>> compass = GradientCompass(ledger, {"balanced": Condition("balanced, equal")})
        >>> {name: round(x, 2) for name, x in compass.values().items() if "PCGrad" not in name}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'angle': 120.0, 'length, style': 1.0, 'length, group': 1.0, 'conflict': 1.0,
         'sum, style': 0.5, 'sum, group': 0.5, 'turn, equal lengths': 0.0,
         'equal lengths, style': 0.5, 'equal lengths, group': 0.5}
    """

    _esm = script("gradient_compass")
    _css = style("gradient_compass")

    condition = traitlets.Unicode().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    look = traitlets.Int().tag(sync=True)
    conditions = traitlets.List().tag(sync=True)
    seeds = traitlets.List(traitlets.Int()).tag(sync=True)
    steps = traitlets.List(traitlets.Int()).tag(sync=True)
    tasks = traitlets.List().tag(sync=True)
    directions = traitlets.List().tag(sync=True)
    scale = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        ledger: Ledger,
        rows: Mapping[str, Condition] = CONDITIONS,
        *,
        tasks: tuple[str, str] = ("style", "group"),
        row: str | None = None,
        seed: int | None = None,
        look: int = 0,
    ):
        if not rows:
            raise ValueError("rows: expected at least one, found none")
        if len(tasks) != 2:
            raise ValueError(f"tasks: expected two, found {len(tasks)}")
        seeds = _common_seeds(ledger, [given.row for given in rows.values()])
        steps = _steps(ledger, next(iter(rows.values())).row, seeds[0], tasks)
        super().__init__(
            conditions=[
                {
                    "name": name,
                    "about": given.about,
                    "runs": [_run(ledger, given.row, seed, tasks, steps) for seed in seeds],
                }
                for name, given in rows.items()
            ],
            seeds=seeds,
            steps=steps,
            tasks=[{"name": task, "colour": COLOURS.get(task, INK)} for task in tasks],
            directions=[{"name": name, "colour": colour} for name, colour in DIRECTIONS.items()],
            scale=ledger.scale,
            condition=next(iter(rows)) if row is None else row,
            seed=seeds[0] if seed is None else seed,
            look=look,
        )

    @traitlets.validate("condition", "seed", "look")
    def _one_of_those_recorded(self, proposal) -> str | int:
        trait = proposal.trait.name
        known = {
            "condition": [condition["name"] for condition in self.conditions],
            "seed": self.seeds,
            "look": range(len(self.steps)),
        }[trait]
        if proposal.value not in known:
            expected = ", ".join(map(str, known))
            raise traitlets.TraitError(f"{trait}: expected one of {expected}; found {proposal.value!r}")
        return proposal.value

    def _shown(self) -> tuple[dict, dict]:
        """The present condition and its run with the present seed."""
        condition = next(condition for condition in self.conditions if condition["name"] == self.condition)
        return condition, condition["runs"][self.seeds.index(self.seed)]

    def _plane(self) -> tuple[np.ndarray, np.ndarray]:
        """The present gradients, the longer of length 1, and the three directions, each of length 1 or 0."""
        _, run = self._shown()
        lengths = np.array(run["lengths"][self.look])
        g = plane_gradients(lengths / (lengths.max() or 1), run["cosines"][self.look])
        ways = np.stack([g.sum(0), plane_surgery(g), _unit(g).sum(0)])
        return g, _unit(ways, least=NO_DIRECTION)

    def values(self) -> dict[str, float]:
        """Return what the page shows at the present look.

        Returns:
            ``"angle"`` of the two gradients in degrees (90 if one is zero); ``"length, …"`` of each task's;
            ``"conflict"``, the share of this run's looks with a cosine below zero; for the directions
            ``"sum"``, ``"PCGrad"`` and ``"equal lengths"``: ``"turn, …"``, by how many degrees it departs
            from the sum, and ``"…, task"``, its cosine with each task's gradient, 0 where there is none.
        """
        _, run = self._shown()
        g, directions = self._plane()
        effects = directions @ _unit(g).T  # (3, 2)
        names = [task["name"] for task in self.tasks]
        figures = {"angle": float(np.degrees(np.arccos(np.clip(run["cosines"][self.look], -1, 1))))}
        figures |= {f"length, {name}": x for name, x in zip(names, run["lengths"][self.look], strict=True)}
        figures["conflict"] = float(np.mean(np.array(run["cosines"]) < 0))
        for direction, way, effect in zip(DIRECTIONS, directions, effects, strict=True):
            if direction != "sum":
                figures[f"turn, {direction}"] = _degrees_between(way, directions[0])
            figures |= {f"{direction}, {name}": float(x) for name, x in zip(names, effect, strict=True)}
        return figures

    def summary(self) -> str:
        figures, names = self.values(), [task["name"] for task in self.tasks]
        conflict = "in conflict" if self._shown()[1]["cosines"][self.look] < 0 else "not in conflict"
        found = f"{figures['angle']:.1f}° apart, {conflict}"
        silent = [name for name in names if not figures[f"length, {name}"]]
        if silent:
            found = f"no gradient of {' and '.join(silent)}"
        effects = "; ".join(
            f"{direction}: "
            + ", ".join(f"{name} {_percent(figures[f'{direction}, {name}'])}" for name in names)
            for direction in DIRECTIONS
        )
        return (
            f"Gradients of {' and '.join(names)} on one trunk: {self.condition}, seed {self.seed}, "
            f"step {self.steps[self.look]}: {found}. "
            f"PCGrad turns their sum by {figures['turn, PCGrad']:.1f}°. "
            f"Share of the steepest descent of each task in a step of one length: {effects}. "
            f"In conflict at {_percent(figures['conflict'])} of the looks of this run."
        )

    def picture(self) -> bytes:
        """Draw the two gradients over their thinner three directions."""
        image = Image.new("RGB", (480, 150), "white")
        draw = ImageDraw.Draw(image)
        g, directions = self._plane()

        def arrow(vector, colour, width):
            draw.line([240, 140, 240 + 130 * float(vector[0]), 140 - 130 * float(vector[1])], colour, width)

        for direction, colour in zip(directions, DIRECTIONS.values(), strict=True):
            arrow(direction, colour, 2)
        for vector, task in zip(g, self.tasks, strict=True):
            arrow(vector, task["colour"], 6)
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"GradientCompass({self.condition!r}, seed={self.seed}, look={self.look})"


def _common_seeds(ledger: Ledger, rows: list[str]) -> list[int]:
    """The seeds that were recorded for all of the rows."""
    for row in rows:
        if not ledger.n_seeds(row):
            raise ValueError(f"ledger {ledger.name}-{ledger.scale}: expected row {row!r}, found none")
    found = {row: sorted(map(int, ledger.seeds(row))) for row in rows}
    common = sorted(set.intersection(*map(set, found.values())))
    if not common:
        raise ValueError(f"rows: expected a seed recorded for all, found {found}")
    return common


def _steps(ledger: Ledger, row: str, seed: int, tasks: tuple[str, str]) -> list[int]:
    """The steps at which gradients were looked at."""
    start = "cosine, {} and {} @ ".format(*tasks)
    entry = ledger.seeds(row)[str(seed)]
    steps = sorted(int(name.removeprefix(start)) for name in entry if name.startswith(start))
    if len(steps) < 2:
        raise ValueError(f"row {row!r}: expected '{start}…' at two steps or more, found {len(steps)}")
    return steps


def _run(ledger: Ledger, row: str, seed: int, tasks: tuple[str, str], steps: list[int]) -> dict:
    """What the page is told of a run: the lengths ``(looks, 2)`` and the cosines ``(looks,)``."""
    entry = ledger.seeds(row)[str(seed)]

    def figure(name: str) -> float:
        if name not in entry:
            raise ValueError(f"row {row!r}, seed {seed}: expected the figure {name!r}, found none")
        return float(f"{entry[name]:.6g}")  # more digits than a page can show

    cosine = "cosine, {} and {}".format(*tasks)
    return {
        "lengths": [[figure(f"norm, {task} @ {step}") for task in tasks] for step in steps],
        "cosines": [figure(f"{cosine} @ {step}") for step in steps],
    }


def _degrees_between(a: np.ndarray, b: np.ndarray) -> float:
    """The angle of two directions, 0 if one is zero; exact for small angles, as the arccosine is not."""
    return float(np.degrees(np.arctan2(abs(a[0] * b[1] - a[1] * b[0]), a @ b)))


def _percent(share: float) -> str:
    return f"{round(100 * share)}%".replace("-", "−")
