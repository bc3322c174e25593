"""What chapter 07 matches: two views of a digit, a drawing of a thing and a text about it."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmtutor.data import load_emoji, split
from mmtutor.data.splits import digit_twins
from mmtutor.encoders import fnv1a, pixels, text_features

from . import fusion_tasks
from .balancing_tasks import BUCKETS, PADDING
from .fusion_tasks import Examples

QUERY = "noto"  # the hand whose drawings are asked for; in training a thing is drawn by all hands


@cache
def examples(data: str, part: str) -> Examples:
    """Return the examples of one side of the split; ``part`` is train, validation or test.

    ``"digits"``: the six views of a digit, each with mean 0 and variance 1 in training.
    ``"things"``: a drawing (``"picture"``) of a thing, its English name (``"name"``) and the name with the
    keywords (``"words"``), texts as rows of an encoder's table, padded. The class is the thing's group. To
    learn from there are all drawings of a thing; to choose and to test the one by ``QUERY``. Families are
    scans of one digit and variants of one thing: in an interval they count as one.

    Example:
        >>> data = examples("things", "test")
        >>> data.x["picture"].shape, bool(len(data.item) == len(set(data.item)))
        (torch.Size([234, 3, 32, 32]), True)
    """
    if data == "things":
        return _things(part)
    digits = fusion_tasks.examples(data, part)
    return replace(digits, family=digit_twins()[digits.item])


def _things(part: str) -> Examples:
    emoji, items = load_emoji(), getattr(split("emoji-things"), part)
    styles = range(len(emoji.styles)) if part == "train" else [emoji.styles.index(QUERY)]
    style, thing = np.array([(s, i) for s in styles for i in items if emoji.present[s, i]]).T
    data = Examples(
        {"picture": pixels(emoji.images[style, thing])},
        torch.ones(len(thing), 3, dtype=torch.bool),
        torch.tensor(emoji.group[thing]),
        thing,
        emoji.family[thing],
    )
    return replace(data, x=data.x | {m: table_rows(texts(data, m)) for m in ("name", "words")})


def texts(data: Examples, modality: str) -> list[str]:
    """Return the ``"name"`` of each thing, or its ``"words"``: the name and the keywords."""
    emoji = load_emoji()
    if modality == "name":
        return [emoji.names[i] for i in data.item]
    return [" ".join([emoji.names[i], *emoji.keywords[i]]) for i in data.item]


def table_rows(texts: list[str]) -> Tensor:
    """Return the rows of an encoder's table that each text picks, padded, ``(N, L)``.

    Example:
        >>> table_rows(["cat", "a cat"]).shape
        torch.Size([2, 6])
    """
    rows = [torch.tensor([fnv1a(f) % BUCKETS for f in text_features(text)]) for text in texts]
    return pad_sequence(rows, batch_first=True, padding_value=PADDING)


def false_pairs(data: Examples, generator: torch.Generator) -> Examples:
    """Return the examples with each other's second modality, dealt out at random."""
    second = list(data.x)[1]
    return replace(
        data, x=data.x | {second: data.x[second][torch.randperm(len(data.y), generator=generator)]}
    )


def some(data: Examples, share: float, seed: int) -> Examples:
    """Return a share of the examples; which ones depends on the seed alone, fewer are part of more."""
    order = torch.tensor(np.random.RandomState(seed).permutation(len(data.y)))
    return data.at(order[: round(share * len(order))])
