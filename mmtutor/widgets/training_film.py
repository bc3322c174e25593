"""A generator's training as a film: what it draws of the same noise, and what the discriminator says."""

from collections.abc import Mapping, Sequence

import numpy as np
import traitlets
from PIL import Image

from .base import BookWidget, script, style
from .pack import sheet, webp

SIZE = 32  # of a picture, in pixels


class TrainingFilm(BookWidget):
    """Move through a training run: pairs drawn from the same noise, and how real both sides looked.

    Args:
        steps: at which the pictures were drawn, ascending, at least two.
        views: by name, ``(looks, pairs, 32, 32, 3)`` uint8 pictures.
        curves: by name, one number from 0 to 1 for each step of training; few are kept for the page.
        look: which of the looks to show first.

    Traits that Python sees: ``look``.

    Raises:
        ValueError: for steps that do not ascend, pictures of another shape, curves outside of 0 to 1, a look
            that is not there; also when the trait is set later.

    Example:
        >>> pictures = np.full((3, 4, 32, 32, 3), 200, np.uint8)
        >>> TrainingFilm([0, 10, 20], {"noto": pictures, "fluent": pictures}, {"real": [0.5] * 20})
        TrainingFilm(3 looks, 4 pairs, look=0)
    """

    _esm = script("training_film")
    _css = style("training_film")

    steps = traitlets.List(traitlets.Int()).tag(sync=True)
    views = traitlets.List(traitlets.Unicode()).tag(sync=True)
    pairs = traitlets.Int().tag(sync=True)
    curves = traitlets.Dict().tag(sync=True)
    pictures = traitlets.Bytes().tag(sync=True)
    sheet_columns = traitlets.Int().tag(sync=True)
    look = traitlets.Int().tag(sync=True)

    POINTS = 120  # of a curve on the page: means of equal stretches

    def __init__(
        self,
        steps: Sequence[int],
        views: Mapping[str, np.ndarray],
        curves: Mapping[str, Sequence[float]],
        look: int = 0,
    ):
        steps = [int(step) for step in steps]
        if len(steps) < 2 or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"steps: expected at least two that ascend, found {steps}")
        films = {name: np.asarray(film) for name, film in views.items()}
        shapes = {film.shape for film in films.values()}
        if len(shapes) != 1 or (shape := shapes.pop())[0] != len(steps) or shape[2:] != (SIZE, SIZE, 3):
            found = {name: film.shape for name, film in films.items()}
            raise ValueError(f"views: expected ({len(steps)}, pairs, {SIZE}, {SIZE}, 3) each, found {found}")
        for name, curve in curves.items():
            if not len(curve) or not (np.min(curve) >= 0 and np.max(curve) <= 1):
                raise ValueError(f"{name}: expected numbers from 0 to 1, found others or none")
        drawn = [
            film[look, i] for look in range(len(steps)) for i in range(shape[1]) for film in films.values()
        ]
        packed, columns = sheet(drawn, SIZE, 80)
        self._last = [film[-1] for film in films.values()]
        super().__init__(
            steps=steps,
            views=[*films],
            pairs=shape[1],
            curves={name: self._short(curve) for name, curve in curves.items()},
            pictures=packed,
            sheet_columns=columns,
            look=look,
        )

    def _short(self, curve: Sequence[float]) -> list[float]:
        points = min(self.POINTS, len(curve))
        cuts = np.linspace(0, len(curve), points + 1).round().astype(int)[1:-1]
        return [round(float(part.mean()), 4) for part in np.split(np.asarray(curve, float), cuts)]

    @traitlets.validate("look")
    def _is_there(self, proposal) -> int:
        if not 0 <= proposal.value < len(self.steps):
            raise ValueError(f"look: expected 0 to {len(self.steps) - 1}, found {proposal.value}")
        return proposal.value

    def values(self) -> dict[str, float]:
        """Return each curve at the present look, as the page says it."""
        share = self.steps[self.look] / self.steps[-1]
        return {
            name: curve[min(len(curve) - 1, int(share * len(curve)))] for name, curve in self.curves.items()
        }

    def summary(self) -> str:
        said = ", ".join(f"{name} {value:.2f}" for name, value in self.values().items())
        return (
            f"{self.pairs} pairs of pictures ({' and '.join(self.views)}) drawn from the same noise at "
            f"{len(self.steps)} steps of training, from {self.steps[0]} to {self.steps[-1]}. At step "
            f"{self.steps[self.look]} the discriminator says: {said}."
        )

    def picture(self) -> bytes:
        """Draw the last look, a row for each view."""
        rows = np.concatenate([np.concatenate([*view], 1) for view in self._last], 0)
        return webp(Image.fromarray(rows), quality=60)

    def __repr__(self) -> str:
        return f"TrainingFilm({len(self.steps)} looks, {self.pairs} pairs, look={self.look})"
