"""What chapter 05 fuses: views of a digit, two digits, a picture with an animation, a picture with a name."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mmtutor.data import load_digits, load_emoji, split
from mmtutor.encoders import pixels

from .mapping import moving_pixels

VENDORS = ("noto", "twemoji")  # the animations are drawn by another hand
PARTNERS = 3  # each digit meets so many others
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 "  # 0 is padding
LONGEST = 32  # letters of a name that are read


@dataclass(frozen=True)
class Examples:
    """Items of several modalities and one question about each.

    Attributes:
        x: what there is to see, by modality, first axis N; zeros where an item lacks it.
        valid: which modalities each item has, bool ``(N, M)``, columns in the order of ``x``.
        y: the right class, int64 ``(N,)``.
        item: which thing or digit it is, ``(N,)``; of parities, the first digit.
        family: which items belong together, ``(N,)``: variants of a thing.
    """

    x: dict[str, Tensor]
    valid: Tensor
    y: Tensor
    item: np.ndarray
    family: np.ndarray

    def of(self, modalities) -> "Examples":
        """Return the same items with some of their modalities, in the order given.

        ``"pixels again"`` are the pixels once more: a second network for what is no second modality.
        """
        source = {m: m.removesuffix(" again") for m in modalities}
        columns = [list(self.x).index(m) for m in source.values()]
        return replace(self, x={m: self.x[own] for m, own in source.items()}, valid=self.valid[:, columns])

    def at(self, rows: Tensor) -> "Examples":
        """Return some of the items."""
        x = {m: x_m[rows] for m, x_m in self.x.items()}
        return Examples(x, self.valid[rows], self.y[rows], self.item[rows.numpy()], self.family[rows.numpy()])


@cache
def examples(data: str, part: str) -> Examples:
    """Return the examples of one side of the split; ``part`` is train, validation or test.

    ``"digits"``: the six views of a digit, each with mean 0 and variance 1 in training; which digit is it?
    ``"parity"``: two digits, in two views; is one of them odd and the other even?
    ``"moving things"``: a picture and an animation by another hand; is it a person, smiley, animal or
    vehicle, and does it move or stay in place?
    ``"things"``: the same of all things, of which fewer than half have an animation; of which group is it?
    ``"names"``: a picture and the letters of the English name; of which group is it?

    Example:
        >>> {m: tuple(x.shape) for m, x in examples("moving things", "test").x.items()}
        {'picture': (206, 3, 32, 32), 'animation': (206, 6, 32, 32)}
    """
    sides = split("digits" if data in ("digits", "parity") else "emoji-things")
    make = {
        "digits": _digits,
        "parity": _parity,
        "moving things": _moving,
        "things": _things,
        "names": _names,
    }
    return make[data](getattr(sides, part), sides.train)


def _digits(items: np.ndarray, learnt: np.ndarray) -> Examples:
    digits, x = load_digits(), {}
    for view, numbers in digits.views.items():
        mean, spread = numbers[learnt].mean(0), numbers[learnt].std(0)
        x[view] = torch.tensor((numbers[items] - mean) / np.where(spread > 0, spread, 1)).float()
    valid = torch.ones(len(items), len(x), dtype=torch.bool)
    return Examples(x, valid, torch.tensor(digits.labels[items]), items, items)


def _parity(items: np.ndarray, learnt: np.ndarray) -> Examples:
    one, random = _digits(items, learnt), np.random.RandomState(0)
    first = np.tile(np.arange(len(items)), PARTNERS)
    second = np.concatenate([random.permutation(len(items)) for _ in range(PARTNERS)])
    x = {"first": one.x["karhunen"][first], "second": one.x["profile"][second]}
    odd = one.y % 2
    valid = torch.ones(len(first), 2, dtype=torch.bool)
    return Examples(x, valid, odd[first] ^ odd[second], items[first], items[first])


def _drawn(items: np.ndarray) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """Return things, each once by each hand, their pictures, and the number of their animation or -1."""
    emoji = load_emoji()
    things = np.tile(items, len(VENDORS))
    pictures = np.concatenate([emoji.pictures(vendor)[items] for vendor in VENDORS])
    number = np.full(len(emoji.names), -1)
    number[emoji.video_item] = np.arange(len(emoji.video_item))
    return things, pixels(pictures), number[things]


def _things(items: np.ndarray, learnt: np.ndarray) -> Examples:
    emoji, (things, pictures, video) = load_emoji(), _drawn(items)
    moves = torch.tensor(video >= 0)
    animation = torch.where(moves[:, None, None, None], moving_pixels(emoji.videos[video]), 0)
    valid = torch.stack([torch.ones_like(moves), moves], 1)
    y = torch.tensor(emoji.group[things])
    return Examples({"picture": pictures, "animation": animation}, valid, y, things, emoji.family[things])


def _moving(items: np.ndarray, learnt: np.ndarray) -> Examples:
    emoji, (things, _, video) = load_emoji(), _drawn(items)
    groups = [emoji.group_names.index(name) for name in GROUPS]
    motion, group = emoji.motion[video], emoji.group[things]
    asked = (video >= 0) & (motion >= 0) & np.isin(group, groups)
    still = motion == emoji.motion_names.index("in place")
    y = 2 * np.searchsorted(groups, group) + still
    all_things = _things(items, learnt)
    return replace(all_things, y=torch.tensor(y)).at(torch.tensor(asked.nonzero()[0]))


GROUPS = ("smileys & emotion", "people & body", "animals & nature", "travel & places")


def _names(items: np.ndarray, learnt: np.ndarray) -> Examples:
    emoji, (things, pictures, _) = load_emoji(), _drawn(items)
    letters = torch.zeros(len(things), LONGEST, dtype=torch.long)
    for row, thing in enumerate(things):
        read = [
            LETTERS.find(c) + 1 for c in emoji.names[thing].lower()[:LONGEST]
        ]  # 0, other signs, is skipped
        read = [c for c in read if c]
        letters[row, : len(read)] = torch.tensor(read)
    valid = torch.ones(len(things), 2, dtype=torch.bool)
    y = torch.tensor(emoji.group[things])
    return Examples({"picture": pictures, "name": letters}, valid, y, things, emoji.family[things])
