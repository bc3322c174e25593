"""What chapter 09 looks at: rows of handwritten digits, and three ways to ask for one of them.

Every question is the same to a reader who sees the whole row. They differ in what has to be known to find the
answer: what stands there (content), where it stands (place), or where one looked before (both).
"""

from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from mmtutor.data import load_digits

from .fusion_tasks import Examples

TAGS = 10  # colours of the card that a digit lies on
LENGTHS = {"train": (5, 10), "test": (5, 10), "longer": (15, 20)}  # digits in a row, from and to
LONGEST = 20
QUESTIONS = ("content", "place", "reading")
VIEW = "karhunen"  # 64 numbers a digit


@dataclass(frozen=True)
class Rows:
    """Rows of digits, what is asked, and the answers.

    Attributes:
        item: which of the examples each digit is, ``(B, L)``.
        digits: zeros at padding, ``(B, L, 64)``.
        tags: the colour of each digit's card, ``(B, L)``.
        valid: which are real, ``(B, L)``; padding stands at the end.
        asked: of ``"content"`` another drawing of the digit wanted, ``(B, 64)``; of ``"place"`` its number,
            counted from 0, ``(B,)``; of ``"reading"`` nothing, None.
        place: where the answer stands, ``(B, T)``; of ``"reading"`` 0 to L - 1, and else ``T = 1``.
        answer: the tag there, ``(B, T)``.
        answered: which of the answers count, ``(B, T)``.
    """

    item: Int64[Tensor, "batch length"]
    digits: Float[Tensor, "batch length 64"]
    tags: Int64[Tensor, "batch length"]
    valid: Bool[Tensor, "batch length"]
    asked: Tensor | None
    place: Int64[Tensor, "batch turns"]
    answer: Int64[Tensor, "batch turns"]
    answered: Bool[Tensor, "batch turns"]


def rows(
    question: str, side: Examples, size: int, generator: torch.Generator, lengths: str = "train"
) -> Rows:
    """Draw rows of digits, up to a length of ten all of different classes, each on a card of some colour.

    Args:
        question: ``"content"``: which colour has the digit of which this is another drawing? ``"place"``:
            which colour stands at this place? ``"reading"``: which are the colours, one after the other?
        side: digits to draw from.
        size: how many rows.
        generator: of what is drawn.
        lengths: a key of ``LENGTHS``.

    Raises:
        ValueError: for another question, or ``"content"`` in rows in which a class must come twice.
    """
    if question not in QUESTIONS:
        raise ValueError(f"question: expected one of {', '.join(QUESTIONS)}; found {question!r}")
    least, most = LENGTHS[lengths]
    if question == "content" and most > 10:
        raise ValueError(f"lengths: expected at most 10 digits where each comes once, found up to {most}")
    length = torch.randint(least, most + 1, (size,), generator=generator)
    valid = torch.arange(most) < length[:, None]
    tens = -(-most // 10)
    classes = torch.rand(size, tens, 10, generator=generator).argsort(2).flatten(1)[:, :most]
    item = draw_of(side, classes, generator)
    digits = torch.where(valid[..., None], side.x[VIEW][item], 0)
    tags = torch.where(valid, torch.randint(TAGS, (size, most), generator=generator), 0)
    if question == "reading":
        place = torch.arange(most).expand(size, -1)
        return Rows(item, digits, tags, valid, None, place, tags, valid)
    place = (torch.rand(size, 1, generator=generator) * length[:, None]).long()
    asked = place[:, 0]
    if question == "content":
        asked = side.x[VIEW][draw_of(side, classes.gather(1, place)[:, 0], generator)]
    return Rows(item, digits, tags, valid, asked, place, tags.gather(1, place), valid[:, :1])


def draw_of(side: Examples, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a digit of each class, in the shape of ``classes``; in rows of two it may be the same twice."""
    order, count = side.y.argsort(stable=True), side.y.bincount(minlength=10)
    which = (torch.rand(classes.shape, generator=generator) * count[classes]).long()
    return order[(count.cumsum(0) - count)[classes] + which]


def cards(seen: Rows, row: int, side: Examples) -> UInt8[np.ndarray, "length 20 19 3"]:
    """Draw the digits of one row as they lie there: white, each on a card of its colour.

    Example:
        >>> from mmtutor.experiments.fusion_tasks import examples
        >>> side = examples("digits", "test")
        >>> seen = rows("reading", side, 2, torch.Generator().manual_seed(0))
        >>> len(cards(seen, 0, side)) == int(seen.valid[0].sum())
        True
    """
    valid = seen.valid[row]
    which = side.item[seen.item[row, valid].numpy()]
    ink = np.pad(load_digits().views["pixels"][which].reshape(-1, 16, 15) / 6, ((0, 0), (2, 2), (2, 2)))
    colour = matplotlib.colormaps["tab10"](seen.tags[row, valid].numpy())[:, None, None, :3]
    return (255 * (colour + ink[..., None] * (1 - colour))).round().astype(np.uint8)
