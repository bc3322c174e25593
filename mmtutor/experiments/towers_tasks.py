"""What chapter 08 looks at: views of a digit, and things with a picture, an animation and a name.

Some modalities are damaged on purpose: swapped with those of an item of another class, noisy, or hidden.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mmtutor.augment import mask_present
from mmtutor.data import load_emoji
from mmtutor.data.splits import digit_twins
from mmtutor.towers import swap_modalities

from . import fusion_tasks
from .fusion_tasks import LETTERS, Examples
from .mapping import moving_pixels

DAMAGES = ("swapped", "noisy", "absent")
RATE = 0.1  # how often each kind of damage befalls a modality in training
NOISE = (1.0, 2.0, 4.0)  # standard deviations in training, that of a feature being 1
VERSIONS = {"swapped": None, "noisy 2": 2.0, "noisy 4": 4.0, "absent": None}  # of the test items


@dataclass(frozen=True)
class Damaged:
    """Items, and which of their modalities hold what is not theirs.

    Attributes:
        data: the items as a model sees them; a modality that was hidden is not ``valid``.
        corrupted: whether a modality was swapped or made noisy, bool ``(N, M)``.
    """

    data: Examples
    corrupted: Tensor


@cache
def examples(data: str, part: str) -> Examples:
    """Return the examples of one side of the split; ``part`` is train, validation or test.

    ``"digits"``: the six views of a digit; which digit is it? ``"things"``: a picture, the letters of the
    English name, and, of fewer than half of the things, an animation by another hand; of which group is it?

    Example:
        >>> {m: tuple(x.shape) for m, x in examples("things", "test").x.items()}
        {'picture': (468, 3, 32, 32), 'animation': (468, 6, 32, 32), 'name': (468, 32)}
    """
    if data == "digits":
        digits = fusion_tasks.examples(data, part)
        return replace(digits, family=digit_twins()[digits.item])  # scans of the same digit are no two digits
    named, emoji = fusion_tasks.examples("names", part), load_emoji()
    thing, row = np.nonzero(named.item[:, None] == emoji.video_item)
    animation = torch.zeros(len(named.y), 6, *named.x["picture"].shape[2:])
    animation[thing] = moving_pixels(emoji.videos[row])
    moves = torch.zeros(len(named.y), dtype=torch.bool).index_fill(0, torch.tensor(thing), True)
    x = {"picture": named.x["picture"], "animation": animation, "name": named.x["name"]}
    return replace(named, x=x, valid=torch.stack([named.valid[:, 0], moves, named.valid[:, 1]], 1))


def noisy(x: Tensor, size: Tensor, generator: torch.Generator) -> Tensor:
    """Return what is seen with noise of a standard deviation for each item, ``(N,)``.

    Of letters a quarter, a half or all are replaced by any, where the noise of numbers is 1, 2 or 4.
    """
    if x.dtype == torch.long:
        other = torch.randint(1, len(LETTERS) + 1, x.shape, generator=generator)
        replaced = torch.rand(x.shape, generator=generator) < size[:, None] / max(NOISE)
        return torch.where(replaced & (x > 0), other, x)
    return x + size.view(-1, *[1] * (x.ndim - 1)) * torch.randn(x.shape, generator=generator)


def damage(data: Examples, generator: torch.Generator, kinds=DAMAGES) -> Damaged:
    """Damage each modality of each item with a probability of ``RATE`` by each kind of damage.

    What is swapped comes from an item of another class: of the same, it would be right, if not its own.
    """
    x, valid, corrupted = dict(data.x), data.valid, torch.zeros_like(data.valid)
    if "swapped" in kinds:
        own = {m: torch.arange(len(data.y)) for m in x}
        source, corrupted = swap_modalities(own, RATE, valid, generator, groups=data.y)
        x = {m: x_m[source[m]] for m, x_m in x.items()}
    if "noisy" in kinds:
        size = torch.tensor(NOISE)[torch.randint(len(NOISE), valid.shape, generator=generator)]
        size = torch.where(valid & (torch.rand(valid.shape, generator=generator) < RATE), size, 0)
        x = {m: noisy(x_m, size[:, k], generator) for k, (m, x_m) in enumerate(x.items())}
        corrupted = corrupted | (size > 0)
    if "absent" in kinds:
        valid = mask_present(valid, rate=RATE, generator=generator)
    return Damaged(replace(data, x=x, valid=valid), corrupted & valid)


def version(kind: str, data: Examples, damaged: Tensor) -> Damaged:
    """Return the items with some modalities damaged, in the same way on every call.

    Args:
        kind: a key of ``VERSIONS``. ``"swapped"``: those of other items, of another class.
        data: the items.
        damaged: which modality of which item, bool ``(N, M)``.
    """
    damaged = damaged & data.valid
    if kind == "absent":
        return Damaged(replace(data, valid=data.valid & ~damaged), torch.zeros_like(damaged))
    x = {}
    for k, (m, own) in enumerate(data.x.items()):
        if kind == "swapped":
            other = own[another_class(data.y, data.valid[:, k], k)]
        else:
            other = noisy(own, torch.full((len(own),), VERSIONS[kind]), torch.Generator().manual_seed(k))
        x[m] = torch.where(damaged[:, k].view(-1, *[1] * (own.ndim - 1)), other, own)
    return Damaged(replace(data, x=x), damaged)


def another_class(y: Tensor, there: Tensor, seed: int) -> Tensor:
    """Return for each item one of another class, of those that are there, ``(N,)``.

    Example:
        >>> another_class(torch.tensor([0, 1, 0, 1]), torch.tensor([True, True, True, False]), seed=0)[[0, 2]]
        tensor([1, 1])
    """
    random, there = np.random.RandomState(seed), there.numpy()
    others = {c: np.flatnonzero((y.numpy() != c) & there) for c in y.unique().tolist()}
    return torch.tensor([random.choice(others[c]) for c in y.tolist()])


def one_of(data: Examples, m: str) -> tuple[Examples, Tensor]:
    """Return the items that have a modality, and the mask ``(N, M)`` of that one."""
    k = list(data.x).index(m)
    some = data.at(data.valid[:, k])
    return some, (torch.arange(len(data.x)) == k).expand(len(some.y), -1)


def half_of(data: Examples) -> tuple[Examples, Tensor]:
    """Return the items and the mask ``(N, M)`` of half of the modalities, others for each item."""
    order = torch.rand(data.valid.shape, generator=torch.Generator().manual_seed(0)).argsort(1)
    return data, order < len(data.x) // 2
