"""A map of a generator's noise: every place on it is one generated thing, drawn in two hands."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import traitlets
from PIL import Image

from .base import BookWidget, script, style
from .pack import sheet, webp

SIZE = 32  # of a picture, in pixels


class LatentWalk(BookWidget):
    r"""Walk over a grid of generated things and see both views change, beside the nearest thing learnt.

    The corners are four draws of noise, :math:`\epsilon_{00},\dots,\epsilon_{11}`; in between
    :math:`\epsilon` is a mixture of them. Every picture was drawn by the generator beforehand: the page only
    shows them.

    Args:
        views: by name, ``(rows, columns, 32, 32, 3)`` uint8 pictures, at least 2 by 2, two views or more.
        nearest: for each place the name of the nearest thing learnt, and
        apart: how far that is, in any unit, ``(rows, columns)`` each.
        learnt: pictures of the named things, first view, ``(32, 32, 3)`` uint8 by name.
        row, column: where to start.

    Traits that Python sees: ``row`` and ``column``.

    Raises:
        ValueError: for pictures of another shape or type, names without a picture, sizes that differ, a place
            that is not on the map; also when a trait is set later.

    Example:
        >>> grid = np.full((2, 3, 32, 32, 3), 200, np.uint8)
        >>> names = [["a face"] * 3] * 2
        >>> LatentWalk({"noto": grid, "fluent": grid}, names, np.ones((2, 3)), {"a face": grid[0, 0]})
        LatentWalk(2 x 3 places, row=0, column=0)
    """

    _esm = script("latent_walk")
    _css = style("latent_walk")

    views = traitlets.List(traitlets.Unicode()).tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    nearest = traitlets.List(traitlets.Int()).tag(sync=True)
    apart = traitlets.List(traitlets.Float()).tag(sync=True)
    pictures = traitlets.Bytes().tag(sync=True)
    sheet_columns = traitlets.Int().tag(sync=True)
    row = traitlets.Int().tag(sync=True)
    column = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        views: Mapping[str, np.ndarray],
        nearest: Sequence[Sequence[str]],
        apart: np.ndarray,
        learnt: Mapping[str, np.ndarray],
        row: int = 0,
        column: int = 0,
    ):
        grids = {name: np.asarray(grid) for name, grid in views.items()}
        if len(grids) < 2:
            raise ValueError(f"views: expected at least two, found {len(grids)}")
        for name, grid in grids.items():
            if grid.ndim != 5 or grid.shape[2:] != (SIZE, SIZE, 3) or min(grid.shape[:2]) < 2:
                raise ValueError(f"{name}: expected (rows, columns, {SIZE}, {SIZE}, 3), found {grid.shape}")
        shapes = {grid.shape[:2] for grid in grids.values()} | {np.shape(nearest), np.shape(apart)}
        if len(shapes) > 1:
            raise ValueError(f"expected as many places in views, nearest and apart, found {sorted(shapes)}")
        said = [str(name) for line in nearest for name in line]
        unknown = sorted(set(said) - set(learnt))
        if unknown:
            raise ValueError(
                f"learnt: expected a picture of each nearest thing, found none of {unknown[0]!r}"
            )
        names = sorted(set(said))
        drawn = [picture for grid in grids.values() for line in grid for picture in line]
        self._first = next(iter(grids.values()))
        packed, columns = sheet([*drawn, *(learnt[name] for name in names)], SIZE, 82)
        super().__init__(
            views=[*grids],
            shape=[*map(int, self._first.shape[:2])],
            names=names,
            nearest=[names.index(name) for name in said],
            apart=[float(x) for line in np.asarray(apart) for x in line],
            pictures=packed,
            sheet_columns=columns,
            row=row,
            column=column,
        )

    @traitlets.validate("row", "column")
    def _on_the_map(self, proposal) -> int:
        name, most = proposal.trait.name, self.shape[proposal.trait.name == "column"] - 1
        if not 0 <= proposal.value <= most:
            raise ValueError(f"{name}: expected 0 to {most}, found {proposal.value}")
        return proposal.value

    def here(self) -> tuple[str, float]:
        """Return the nearest thing learnt at the present place, and how far it is."""
        k = self.row * self.shape[1] + self.column
        return self.names[self.nearest[k]], self.apart[k]

    def summary(self) -> str:
        rows, columns = self.shape
        name, apart = self.here()
        return (
            f"A map of {rows} by {columns} generated things, each in {len(self.views)} views: "
            f"{' and '.join(self.views)}. In row {self.row + 1}, column {self.column + 1} the nearest thing "
            f"learnt is {name}, {apart:.2f} away."
        )

    def picture(self) -> bytes:
        """Draw the map in its first view, every second place if it is large."""
        grid = self._first[::2, ::2] if max(self.shape) > 7 else self._first
        rows = np.concatenate([np.concatenate([*line], 1) for line in grid], 0)
        return webp(Image.fromarray(rows), quality=60)

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"LatentWalk({rows} x {columns} places, row={self.row}, column={self.column})"


def between(corners: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    r"""Return noise on a grid between four corners, ``(rows, columns, noise)``.

    .. math:: \epsilon(s,t)\propto(1-s)(1-t)\,\epsilon_{00}+(1-s)t\,\epsilon_{01}
              +s(1-t)\,\epsilon_{10}+st\,\epsilon_{11}

    divided by the root of the squared weights' sum: else noise in the middle would be shorter than any that
    the generator was trained on.

    Args:
        corners: ``(4, noise)``, in the order of the formula.

    Raises:
        ValueError: for another number of corners, or fewer than two rows or columns.

    Example:
        >>> grid = between(torch.eye(4), 3, 3)
        >>> grid[0, 2].tolist(), grid[1, 1].tolist()
        ([0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5])
    """
    if len(corners) != 4 or min(rows, columns) < 2:
        raise ValueError(
            f"expected 4 corners and at least 2 by 2 places, found {len(corners)}, {rows} by {columns}"
        )
    s, t = torch.linspace(0, 1, rows)[:, None], torch.linspace(0, 1, columns)
    weights = torch.stack([(1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t], -1)
    return weights / weights.norm(dim=-1, keepdim=True) @ corners
