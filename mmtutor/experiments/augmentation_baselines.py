"""Baselines of chapter 02: answers to the same questions by nearest pixels or by a few numbers.

Each has ``scores(examples) -> (N, classes)``, as the trained model does.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmtutor.encoders import pixels

from .contrastive_baselines import small_centred

NEIGHBOURS = 5  # of 1, 5, 15, and C of 0.01, 0.1, 1: with the validation things none is better in all tasks
C = 0.1


def picture_statistics(pictures) -> np.ndarray:
    """Return what colours a picture has and how hard its edges are, ``(N, 67)``.

    64 shares of pixels, one for each cell of a 4 x 4 x 4 grid of colours, and the mean of the absolute
    Laplacian in each channel. Where something is does not count.
    """
    x = pixels(pictures)
    level = ((x + 1) * 2).long().clamp(max=3)
    cell = (level * torch.tensor([16, 4, 1])[:, None, None]).sum(1).flatten(1)
    shares = F.one_hot(cell, 64).float().mean(1)
    laplacian = 4 * x - sum(x.roll(step, axis) for step in (-1, 1) for axis in (2, 3))
    return torch.cat([shares.sqrt(), laplacian.abs().mean((2, 3))], 1).numpy()


def motion_statistics(clips) -> np.ndarray:
    r"""Return how much a clip moves, turns and grows, from differences of its frames, ``(N, 9)``.

    The change between two frames is explained by one small motion of the whole picture, by least squares
    (Lucas and Kanade 1981),

    .. math:: -\partial_tx\approx u\,\partial_1x+v\,\partial_2x+\theta\,(r\times\nabla x)+s\,(r\cdot\nabla x).

    Kept are the spread over time of the summed motions, the mean size of one, and the mean change of a grey
    value, as logarithms. The labels come from a finer registration of the same kind, so this is close to how
    they were made.
    """
    x = pixels(clips).mean(2)
    now, later = x[:, :-1], x[:, 1:]
    down, across = torch.gradient((now + later) / 2, dim=(2, 3))
    place = (torch.arange(32) - 15.5) / 14  # turn and growth count in pixels at radius 14
    turn = place * down - place[:, None] * across
    growth = place * across + place[:, None] * down
    A = torch.stack([across, down, turn, growth], -1).flatten(2, 3)
    change = later - now
    inner = A.mT @ A + 0.1 * torch.eye(4)
    motion = torch.linalg.solve(inner, A.mT @ -change.flatten(2)[..., None])[..., 0]
    spread, size = motion.cumsum(1).std(1), motion.abs().mean(1)
    return torch.cat([spread, size, change.abs().mean((1, 2, 3))[:, None]], 1).clamp(min=1e-4).log().numpy()


class Baseline:
    """A classifier of scikit-learn on numbers that are computed from each example."""

    def __init__(self, numbers, classifier, examples):
        self.numbers, self.classifier = numbers, classifier
        classifier.fit(numbers(examples.x), examples.label)

    def scores(self, examples) -> np.ndarray:
        return self.classifier.predict_proba(self.numbers(examples.x))


def fit(kind: str, examples) -> Baseline:
    """Return a baseline fitted to training examples.

    Raises:
        ValueError: for an unknown kind.
    """
    moving = examples.x.ndim == 5
    if kind == "largest class":
        return Baseline(lambda x: np.zeros((len(x), 1)), DummyClassifier(), examples)
    if kind == "nearest pixels":
        frames = (lambda x: torch.stack([*map(small_centred, x)]).flatten(1)) if moving else small_centred
        neighbours = KNeighborsClassifier(NEIGHBOURS, weights="distance")
        return Baseline(frames, neighbours, examples)
    if kind == "statistics":
        line = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
        return Baseline(motion_statistics if moving else picture_statistics, line, examples)
    raise ValueError(f"baseline: expected 'largest class', 'nearest pixels' or 'statistics', found {kind!r}")
