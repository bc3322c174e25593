"""Tasks of chapter 03: what is asked of pictures and of digits, and which answers a row is given."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from mmtutor.data import load_digits, load_emoji, load_sentiment, split
from mmtutor.encoders import pixels

EMOJI = ("style", "group", "subgroup", "keywords", "sentiment")
VIEWS = ("morphological", "fourier", "profile", "karhunen", "zernike")
HELPERS = (*VIEWS, "components", "random map")  # the last two need no view but the pixels
KINDS = {
    **dict.fromkeys(("digit", "style", "group", "subgroup"), "classes"),
    "keywords": "labels",
    **dict.fromkeys(("sentiment", *HELPERS), "numbers"),
}
FAMILIES = 10  # a keyword counts if so many families of the training things have it


@dataclass
class Examples:
    """What is shown and what is asked.

    Attributes:
        x: pictures ``(N, 3, 32, 32)`` or a digit's pixels ``(N, 240)``.
        targets: by task, as `Head.loss` takes them; numbers have mean 0 and standard deviation 1 over the
            training items.
        known: by task, bool ``(N,)``: of which examples the answer is known.
        thing: which thing or digit it is, ``(N,)``: of a thing there are up to five pictures.
        family: which examples belong together, ``(N,)``.
    """

    x: Tensor
    targets: dict[str, Tensor]
    known: dict[str, Tensor]
    thing: np.ndarray
    family: np.ndarray

    def size(self, task: str) -> int:
        """Return how many classes, labels or numbers a task has."""
        y = self.targets[task]
        return int(y.max()) + 1 if KINDS[task] == "classes" else y.shape[1]


@cache
def examples(data: str, part: str) -> Examples:
    """Return all examples of ``"emoji"`` or ``"digits"``; ``part`` is train, validation or test.

    Example:
        >>> examples("digits", "test").x.shape[1:]
        torch.Size([240])
    """
    sides = split("digits" if data == "digits" else "emoji-things")
    return (_digits if data == "digits" else _pictures)(getattr(sides, part), sides.train)


def _digits(items: np.ndarray, learnt: np.ndarray) -> Examples:
    digits = load_digits()
    x = digits.views["pixels"] / 3 - 1
    numbers = {view: digits.views[view] for view in VIEWS}
    numbers["components"] = PCA(16, random_state=0).fit(x[learnt]).transform(x)
    random = np.random.RandomState(0)  # two layers that nobody trained: can be learnt, means nothing
    units = np.tanh(x @ random.normal(0, 2 / 240**0.5, (240, 64)))
    numbers["random map"] = units @ random.normal(0, 2 / 64**0.5, (64, 6))
    targets = {"digit": torch.tensor(digits.labels[items])}
    targets |= {task: _standard(y, learnt, items) for task, y in numbers.items()}
    known = dict.fromkeys(targets, torch.ones(len(items), dtype=torch.bool))
    return Examples(torch.tensor(x[items]), targets, known, items, items)


def _pictures(items: np.ndarray, learnt: np.ndarray) -> Examples:
    emoji, rated, words = load_emoji(), load_sentiment(), vocabulary()
    style, k = np.nonzero(emoji.present[:, items])
    thing = items[k]
    sentiment = np.full((len(emoji.names), 1), np.nan)
    sentiment[rated.item, 0] = rated.score
    targets = {
        "style": torch.tensor(style),
        "group": torch.tensor(emoji.group[thing]),
        "subgroup": torch.tensor(emoji.subgroup[thing]),
        "keywords": torch.tensor([[word in emoji.keywords[i] for word in words] for i in thing]),
        "sentiment": _standard(sentiment, learnt, thing),
    }
    known = dict.fromkeys(EMOJI, torch.ones(len(thing), dtype=torch.bool))
    known["sentiment"] = ~targets["sentiment"][:, 0].isnan()  # of half of the things
    return Examples(pixels(emoji.images[style, thing]), targets, known, thing, emoji.family[thing])


def _standard(y: np.ndarray, learnt: np.ndarray, items: np.ndarray) -> Tensor:
    mean, spread = np.nanmean(y[learnt], 0), np.nanstd(y[learnt], 0)
    return torch.tensor((y[items] - mean) / spread, dtype=torch.float32)


@cache
def vocabulary() -> list[str]:
    """Return the keywords that ten families or more of the training things have."""
    emoji, families = load_emoji(), {}
    for i in split("emoji-things").train:
        for word in emoji.keywords[i]:
            families.setdefault(word, set()).add(emoji.family[i])
    return sorted(word for word, found in families.items() if len(found) >= FAMILIES)


def labelled(data: Examples, task: str, count: int, seed: int) -> Tensor:
    """Choose so many things of each class, with all pictures of each; return which examples they are, (N,).

    The choice depends on the seed alone; that of a smaller count is part of that of a larger one.
    """
    things, first = np.unique(data.thing, return_index=True)
    label = data.targets[task].numpy()[first]
    order = np.random.RandomState(seed).permutation(len(things))
    chosen = [order[label[order] == c][:count] for c in np.unique(label)]
    return torch.tensor(np.isin(data.thing, things[np.concatenate(chosen)]))


def outcomes(task: str, output: Tensor, target: Tensor) -> dict[str, np.ndarray]:
    r"""Return how well each answer fits, ``(N,)``, by the name of the figure whose mean it gives.

    Classes: whether the highest score is that of the right one. Labels: average precision of the item's
    labels. (An item without labels has none: leave it out.) Numbers: :math:`1-(q-y)^2/\mathrm{var}(y)`, the
    share of variance that is explained, and as ``"task, side"`` whether :math:`q` is on the side of 0 on
    which :math:`y` is.

    Example:
        >>> outcomes("keywords", torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[False, True, True]]))
        {'keywords': array([0.58333333])}
    """
    if KINDS[task] == "classes":
        found = {task: output.argmax(1) == target}
    elif KINDS[task] == "labels":
        right = target.gather(1, output.argsort(1, descending=True)).double()
        precision = right.cumsum(1) / torch.arange(1, right.shape[1] + 1)
        found = {task: (right * precision).sum(1) / right.sum(1)}
    else:
        explained = 1 - (output - target).square() / target.var(0, correction=0)
        found = {task: explained.mean(1), f"{task}, side": ((output > 0) == (target > 0)).double().mean(1)}
    return {name: values.double().numpy() for name, values in found.items()}


def asked(data: Examples, task: str) -> Tensor:
    """Return of which examples the answer can be judged, bool ``(N,)``: known, and not an empty set."""
    known, y = data.known[task], data.targets[task]
    return known & y.any(1) if KINDS[task] == "labels" else known
