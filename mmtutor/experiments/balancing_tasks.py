"""Tasks of chapter 04: those of chapter 03, made unequal on purpose, and the names of the same things."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmtutor.data import load_emoji
from mmtutor.encoders import TextEncoder, fnv1a, text_features

from . import sharing_tasks
from .sharing_tasks import Examples

NAME_TASKS = ("group", "keywords", "sentiment")
BUCKETS, PADDING = 4096, -1


def examples(data: str, part: str) -> Examples:
    """Return all examples of ``"emoji"`` or ``"names"``; ``part`` is train, validation or test.

    Example:
        >>> len(examples("names", "test").x) == len(set(examples("emoji", "test").thing))
        True
    """
    return _named(part) if data == "names" else sharing_tasks.examples(data, part)


@cache
def _named(part: str) -> Examples:
    """Return one example a thing: its English name as the features' rows in a table, padded, ``(N, L)``.

    A thing's keywords often are words of its name, so that task is one of reading, not of knowledge.
    """
    drawn = sharing_tasks.examples("emoji", part)
    _, first = np.unique(drawn.thing, return_index=True)
    targets, known = (
        {t: found[t][first] for t in NAME_TASKS if t in found} for found in (drawn.targets, drawn.known)
    )
    kept = Examples(torch.empty(0), targets, known, drawn.thing[first], drawn.family[first])
    rows = [torch.tensor([fnv1a(f) % BUCKETS for f in text_features(name)]) for name in names(kept)]
    return replace(kept, x=pad_sequence(rows, batch_first=True, padding_value=PADDING))


def names(data: Examples) -> list[str]:
    """Return the English names of the things that are shown."""
    return [load_emoji().names[i] for i in data.thing]


class NameEncoder(TextEncoder):
    """A text encoder that takes names as `examples` returns them, rows of its table, ``(B, L) -> (B, D)``.

    Example:
        >>> NameEncoder(dim=8, buckets=BUCKETS)(examples("names", "test").x[:3]).shape
        torch.Size([3, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        real = x != PADDING
        return super().forward((x[real], real.sum(1)))


def few_things(data: Examples, share: float, seed: int) -> Tensor:
    """Choose a share of the things, with all pictures of each; return which examples they are, ``(N,)``.

    The choice depends on the seed alone; that of a smaller share is part of that of a larger one.
    """
    things = np.random.RandomState(seed).permutation(np.unique(data.thing))
    return torch.tensor(np.isin(data.thing, things[: round(share * len(things))]))


def wrong_classes(y: Tensor, classes: int, share: float, generator: torch.Generator) -> Tensor:
    """Return classes ``(N,)`` of which a share, drawn at random, is wrong: each other class as likely.

    Example:
        >>> y = torch.zeros(10, dtype=torch.long)
        >>> int((wrong_classes(y, 3, 0.5, torch.Generator()) != y).sum())
        5
    """
    index = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    moved = torch.randint(1, classes, index.shape, generator=generator)
    return y.index_copy(0, index, (y[index] + moved) % classes)


def dealt(y: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
    """Return the known targets dealt out anew: as many of each, but those of other examples."""
    index = known.nonzero()[:, 0]
    mixed = index[torch.randperm(len(index), generator=generator)]
    return y.index_copy(0, index, y[mixed])
