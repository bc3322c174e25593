"""A playground for contrastive losses: four pictures and four words on the unit circle."""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
import traitlets
from PIL import Image, ImageDraw

from ..contrastive import info_nce, margin_contrastive
from ..data import load_emoji
from ..style import MODALITY
from .base import BookWidget, script, style
from .pack import sheet, webp

LOSSES = ("info_nce", "margin")
THINGS = {"cat": "cat face", "dog": "dog face", "apple": "red apple", "car": "automobile"}
OPENING = [118, 62, 207, 316] + [73, 107, 197, 327]  # degrees: cat and dog swapped, apple and car at home


class ContrastivePlayground(BookWidget):
    r"""Drag pictures and words on the circle of unit vectors and watch the loss pull and push them.

    The page computes :func:`mmtutor.contrastive.info_nce` or :func:`mmtutor.contrastive.margin_contrastive`
    and its gradient with respect to the angles, and steps :math:`\theta-\eta\,\partial L/\partial\theta`.

    Args:
        loss: ``"info_nce"`` or ``"margin"`` (between unit vectors, Euclidean distance).
        names: one name per thing, ``N`` of them.
        thumbnails: ``(N, 32, 32, 3)`` uint8; the four things of the book if None.

    Traits that Python sees: ``angles`` (2N angles in radians, pictures first), ``temperature``, ``margin``,
    ``squared``.

    Raises:
        ValueError: for another loss, or if ``names`` and ``thumbnails`` are not equally many.

    Example:
        >>> playground = ContrastivePlayground("margin")
        >>> playground.margin, len(playground.angles)
        (1.0, 8)
    """

    _esm = script("contrastive_playground")
    _css = style("contrastive_playground")

    loss = traitlets.Unicode().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    angles = traitlets.List(traitlets.Float()).tag(sync=True)
    temperature = traitlets.Float(0.07).tag(sync=True)
    margin = traitlets.Float(1.0).tag(sync=True)
    squared = traitlets.Bool(True).tag(sync=True)
    sprite = traitlets.Bytes().tag(sync=True)
    sprite_size = traitlets.Int(32).tag(sync=True)
    sprite_columns = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        loss: str = "info_nce",
        names: Sequence[str] = tuple(THINGS),
        thumbnails: np.ndarray | None = None,
    ):
        if loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, found {loss!r}")
        if thumbnails is None:
            thumbnails = _book_pictures(names)
        if len(thumbnails) != len(names):
            raise ValueError(f"thumbnails: expected {len(names)}, one per name, found {len(thumbnails)}")
        sprite, columns = sheet(thumbnails, size=32, quality=95)
        super().__init__(
            loss=loss, names=list(names), angles=_opening(len(names)), sprite=sprite, sprite_columns=columns
        )

    def value(self) -> float:
        """Return the loss at the present angles, computed by the library.

        Example:
            >>> round(ContrastivePlayground().value(), 2)
            1.97
        """
        points = torch.tensor([(math.cos(t), math.sin(t)) for t in self.angles], dtype=torch.float64)
        pictures, words = points.chunk(2)
        if self.loss == "info_nce":
            return float(info_nce(pictures, words, self.temperature))
        match = torch.eye(len(pictures), dtype=torch.bool)
        return float(margin_contrastive(pictures, words, match, margin=self.margin, squared=self.squared))

    def summary(self) -> str:
        knob = (
            f"temperature {self.temperature:.2f}" if self.loss == "info_nce" else f"margin {self.margin:.2f}"
        )
        return (
            f"Pictures and words of {', '.join(self.names)} as points on the unit circle, to be dragged; "
            f"loss {self.value():.3f} at {knob}."
        )

    def picture(self) -> bytes:
        """Draw the circle: pictures outside of it, words as diamonds on it, a line between partners."""
        image = Image.new("RGB", (240, 240), "white")
        draw = ImageDraw.Draw(image)
        draw.ellipse([40, 40, 200, 200], outline="#bbbbbb", width=2)
        at = [(120 + 80 * math.cos(t), 120 - 80 * math.sin(t)) for t in self.angles]
        far = [(120 + 100 * math.cos(t), 120 - 100 * math.sin(t)) for t in self.angles]
        sheet = Image.open(io.BytesIO(self.sprite))
        things, size = len(self.names), self.sprite_size
        for i in range(things):
            draw.line([*at[i], *at[things + i]], "#dddddd", 2)
        for i in range(things):
            (x, y), (u, v) = at[things + i], far[i]
            draw.polygon([(x - 7, y), (x, y - 7), (x + 7, y), (x, y + 7)], MODALITY["text"])
            left, top = i % self.sprite_columns * size, i // self.sprite_columns * size
            thing = sheet.crop((left, top, left + size, top + size))
            image.paste(thing, (round(u - size / 2), round(v - size / 2)))
            draw.ellipse([at[i][0] - 5, at[i][1] - 5, at[i][0] + 5, at[i][1] + 5], MODALITY["image"])
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"ContrastivePlayground(loss={self.loss!r})"


def _book_pictures(names: Sequence[str]) -> np.ndarray:
    unknown = set(names) - set(THINGS)
    if unknown:
        raise ValueError(f"thumbnails: expected pictures for names other than {list(THINGS)}, found None")
    emoji = load_emoji()
    style_index = emoji.styles.index("twemoji")
    return np.stack([emoji.images[style_index, emoji.names.index(THINGS[name])] for name in names])


def _opening(things: int) -> list[float]:
    """Angles to start from: the first two things swapped, each other one close to its word."""
    if things == len(THINGS):
        return [math.radians(angle) for angle in OPENING]
    pictures = [2 * math.pi * i / things for i in range(things)]
    words = [angle + 0.1 for angle in pictures]
    words[:2] = words[:2][::-1]
    return pictures + words
