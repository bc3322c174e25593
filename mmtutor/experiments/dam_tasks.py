"""Small cases of chapter 11, of handwritten digits: in each, one part of DAM is needed.

A *card* is a digit on a colour. Digits are drawn anew in every case; which drawings, the split says.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from .attention_tasks import TAGS, draw_of
from .fusion_tasks import Examples

VIEWS = {"upper": "karhunen", "lower": "fourier"}  # 64 and 76 numbers a digit
STEPS, RECENT, COLOURS = 12, 3, 4  # of a stream; steps that count as recent; colours in `latest`
ROWS, CARDS, PAGES = 4, 4, ("left", "right")  # rows of both pages, and cards of a row


@dataclass(frozen=True)
class Case:
    """Cards, and a question about them.

    Attributes:
        digits: by modality, numbers of each digit ``(B, L, F)``; zeros where a card has none.
        tags: by modality, the colour of each card ``(B, L)``; ``TAGS`` is no colour.
        answer: the right class, ``(B, T)``: of each card, or ``T = 1`` of all together.
        answered: which answers count, ``(B, T)``.
        kind: of questions of two kinds, which one, ``(B,)``; else zeros.
    """

    digits: dict[str, Float[Tensor, "batch length _"]]
    tags: dict[str, Int64[Tensor, "batch length"]]
    answer: Int64[Tensor, "batch turns"]
    answered: Bool[Tensor, "batch turns"]
    kind: Int64[Tensor, "batch"]


def case(name: str, side: Examples, size: int, generator: torch.Generator) -> Case:
    """Draw one of ``CASES``; the digits from the examples of one side of the split.

    Raises:
        ValueError: for an unknown case.

    Example:
        >>> from mmtutor.experiments.fusion_tasks import examples
        >>> seen = case("partner", examples("digits", "test"), 3, torch.Generator().manual_seed(0))
        >>> {m: tuple(x.shape) for m, x in seen.digits.items()}, tuple(seen.answer.shape)
        ({'upper': (3, 4, 64), 'lower': (3, 4, 76)}, (3, 4))
    """
    if name not in CASES:
        raise ValueError(f"case: expected one of {', '.join(CASES)}; found {name!r}")
    return CASES[name](side, size, generator)


def _numbers(side: Examples, classes: Tensor, generator: torch.Generator, m: str = "upper") -> Tensor:
    return side.x[VIEWS[m]][draw_of(side, classes, generator)]


def _colours(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw colours, all different in a row."""
    return torch.rand(size, TAGS, generator=generator).argsort(1)[:, :count]


def partner(side: Examples, size: int, generator: torch.Generator) -> Case:
    """Two rows of the same four digits, in another order and drawn by others; the upper one has colours.

    Of each card of the lower row: which colour has the same digit in the upper one?
    """
    classes = torch.rand(size, 10, generator=generator).argsort(1)[:, :CARDS]
    order = torch.rand(size, CARDS, generator=generator).argsort(1)
    colours, lower = _colours(size, CARDS, generator), classes.gather(1, order)
    digits = {
        "upper": _numbers(side, classes, generator),
        "lower": _numbers(side, lower, generator, "lower"),
    }
    tags = {"upper": colours, "lower": torch.full_like(colours, TAGS)}
    return Case(digits, tags, colours.gather(1, order), colours >= 0, colours.new_zeros(size))


def either(side: Examples, size: int, generator: torch.Generator) -> Case:
    """A row of eight cards. Half of the questions show another drawing of a digit: which colour has it?

    The other half give a number, in place of a tag: which colour has the card of that number?
    """
    count = 8
    classes = torch.rand(size, 10, generator=generator).argsort(1)[:, :count]
    colours, place = _colours(size, count, generator), torch.randint(count, (size, 1), generator=generator)
    by_place = torch.randint(2, (size,), generator=generator)
    asked = _numbers(side, classes.gather(1, place), generator)
    digits = {
        "upper": _numbers(side, classes, generator),
        "question": torch.where(by_place[:, None, None] == 1, 0, asked),
    }
    tags = {"upper": colours, "question": torch.where(by_place[:, None] == 1, place, TAGS)}
    answer = colours.gather(1, place)
    return Case(digits, tags, answer, answer >= 0, by_place)


def page(side: Examples, size: int, generator: torch.Generator) -> Case:
    """Two pages of two rows of four cards. One row has a zero. Which digit lies on that row's dark card?

    Each row has one dark card, of colour 0; the others have colour 1. The zero lies on a light one.
    """
    where = torch.rand(size, ROWS, CARDS, generator=generator).argsort(2)  # dark, then the zero's place
    classes = torch.randint(1, 10, (size, ROWS, CARDS), generator=generator)
    dark, row = where[..., 0], torch.randint(ROWS, (size,), generator=generator)
    every = torch.arange(size)
    classes[every, row, where[every, row, 1]] = 0
    tags = (torch.arange(CARDS) != dark[..., None]).long()
    answer = classes[every, row, dark[every, row]][:, None]
    half, digits = ROWS * CARDS // 2, _numbers(side, classes.flatten(1), generator)
    pages = dict(zip(PAGES, digits.split(half, 1), strict=True))
    colours = dict(zip(PAGES, tags.flatten(1).split(half, 1), strict=True))
    return Case(pages, colours, answer, answer >= 0, answer.new_zeros(size))


def recent(side: Examples, size: int, generator: torch.Generator) -> Case:
    """A stream of digits. Of each but the first: was the same digit among the last three?

    Half of the answers are yes. Many of the others have been there, but longer ago.
    """
    classes = torch.randint(10, (size, STEPS), generator=generator)
    for t in range(1, STEPS):
        last, before = classes[:, max(0, t - RECENT) : t], classes[:, : max(0, t - RECENT)]
        fresh = (torch.arange(10) != last[..., None]).all(1)  # digits that are not among the last three
        was = (torch.arange(10) == before[..., None]).any(1) & fresh
        longer_ago = (torch.rand(size, 1, generator=generator) < 0.75) & was.any(1, keepdim=True)
        no = torch.multinomial(torch.where(longer_ago, was, fresh).double(), 1, generator=generator)
        yes = last.gather(1, torch.randint(last.shape[1], (size, 1), generator=generator))
        classes[:, t] = torch.where(torch.rand(size, 1, generator=generator) < 0.5, yes, no)[:, 0]
    back = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
    same = (classes[:, :, None] == classes[:, None]) & (back > 0) & (back <= RECENT)
    answered = (torch.arange(STEPS) > 0).expand(size, -1)
    tags = {"upper": torch.full_like(classes, TAGS)}
    return Case(
        {"upper": _numbers(side, classes, generator)}, tags, same.any(2).long(), answered, classes[:, 0] * 0
    )


def latest(side: Examples, size: int, generator: torch.Generator) -> Case:
    """A stream of cards of four colours, and at its end a colour: which digit lay on it last?

    That was more than four steps ago, and the colour has come before with other digits.
    """
    length = 2 * STEPS
    classes = torch.randint(10, (size, length), generator=generator)
    colours = torch.randint(COLOURS, (size, length), generator=generator)
    asked = torch.randint(COLOURS, (size,), generator=generator)
    gap = torch.randint(5, length - 4, (size,), generator=generator)
    last = length - gap  # where the card is; the question stands at `length`
    step = torch.arange(length)
    other = (asked[:, None] + torch.randint(1, COLOURS, (size, length), generator=generator)) % COLOURS
    colours = torch.where(step > last[:, None], other, colours)
    colours = torch.where(step == last[:, None], asked[:, None], colours)
    answer = classes.gather(1, last[:, None])
    numbers = _numbers(side, classes, generator)
    digits = torch.cat([numbers, torch.zeros_like(numbers[:, :1])], 1)
    tags = torch.cat([colours, asked[:, None]], 1)
    return Case({"upper": digits}, {"upper": tags}, answer, answer >= 0, answer.new_zeros(size))


def neighbours(side: Examples, size: int, generator: torch.Generator) -> Case:
    """A stream of digits. Of each: are its two neighbours both odd or both even?

    Who knows one of the two knows nothing. Of the first and the last digit there is no question.
    """
    classes = torch.randint(10, (size, STEPS), generator=generator)
    answer = (classes.roll(-1, 1) + classes.roll(1, 1)) % 2
    answered = torch.ones_like(answer, dtype=torch.bool)
    answered[:, [0, -1]] = False
    tags = {"upper": torch.full_like(classes, TAGS)}
    return Case({"upper": _numbers(side, classes, generator)}, tags, answer, answered, classes[:, 0] * 0)


CASES: dict[str, Callable[[Examples, int, torch.Generator], Case]] = {
    "partner": partner,
    "either": either,
    "page": page,
    "recent": recent,
    "latest": latest,
    "neighbours": neighbours,
}
