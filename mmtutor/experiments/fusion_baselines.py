"""Baselines of chapter 05: answers without a deep network. Each has ``answers(examples) -> (N,)`` classes."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

from mmtutor.data import load_emoji
from mmtutor.encoders import pixels

from .augmentation_baselines import motion_statistics, picture_statistics
from .fusion_tasks import Examples

# Chosen with the validation items: C of 0.001 to 0.3, of 3, 10, 30 for n-grams; neighbours as in chapter 03
C = {"linear": 0.1, "statistics": 0.01, "n-grams": 10.0}
NEIGHBOURS, FROM_NEIGHBOURS = 7, 0.2


def edge_statistics(pictures) -> np.ndarray:
    """Return how often edges have each of eight directions in each of 4 x 4 cells, ``(N, 128)``.

    A histogram of oriented gradients (Dalal and Triggs 2005) of the grey picture: each pixel counts by the
    length of its gradient; each cell's histogram is a unit vector.
    """
    grey = pixels(pictures).mean(1)
    down, across = torch.gradient(grey, dim=(1, 2))
    direction = (torch.atan2(down, across) % torch.pi / torch.pi * 8).long().clamp(max=7)
    histograms = F.one_hot(direction, 8) * torch.hypot(down, across)[..., None]
    cells = histograms.unflatten(1, (4, 8)).unflatten(3, (4, 8)).sum((2, 4))
    return F.normalize(cells, dim=-1, eps=1e-3).flatten(1).numpy()


def statistics(data: Examples) -> np.ndarray:
    """Return edges and colours of pictures and of the first frames, and the motion of clips."""
    emoji, found = load_emoji(), []
    if "picture" in data.x:
        pictures = ((data.x["picture"] + 1) * 127.5).round().byte().movedim(1, -1)
        found += [edge_statistics(pictures), picture_statistics(pictures)]
    if "animation" in data.x:
        clips = emoji.videos[np.searchsorted(emoji.video_item, data.item)]
        found += [edge_statistics(clips[:, 0]), picture_statistics(clips[:, 0]), motion_statistics(clips)]
    return np.hstack(found)


def side_by_side(data: Examples) -> np.ndarray:
    """Return the numbers of all views side by side."""
    return torch.cat([*data.x.values()], 1).numpy()


class Classifier:
    """A classifier of scikit-learn on what is computed from each item.

    Args:
        numbers: maps examples to ``(N, D)``, or to N texts.
        model: the classifier.
        data: to learn from; a class of -1 is not known.
    """

    def __init__(self, numbers: Callable, model, data: Examples):
        self.numbers, self.model = numbers, model.fit(numbers(data), data.y.numpy())

    def answers(self, data: Examples) -> np.ndarray:
        return self.model.predict(self.numbers(data))


def regression(kind: str):
    """Return logistic regression on standardised numbers."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=C[kind], max_iter=1000))


def spreading(data: Examples, labelled: Examples) -> Classifier:
    """Label spreading: labels wander from item to item to their nearest neighbours, labelled or not."""
    known = np.isin(data.item, labelled.item)
    data = Examples(data.x, data.valid, torch.where(torch.tensor(known), data.y, -1), data.item, data.family)
    model = LabelSpreading(kernel="knn", n_neighbors=NEIGHBOURS, alpha=FROM_NEIGHBOURS, max_iter=200)
    return Classifier(side_by_side, model, data)


def names(data: Examples) -> list[str]:
    """Return the English names of things."""
    return [load_emoji().names[i] for i in data.item]


def fit(kind: str, data: Examples, labelled: Examples) -> Classifier:
    """Return a baseline fitted to the labelled ones of some training examples.

    Raises:
        ValueError: for an unknown kind.
    """
    grams = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    line = LogisticRegression(C=C["n-grams"], max_iter=1000)
    known = {
        "same answer": lambda: Classifier(lambda d: np.zeros((len(d.y), 1)), DummyClassifier(), labelled),
        "linear": lambda: Classifier(side_by_side, regression("linear"), labelled),
        "label spreading": lambda: spreading(data, labelled),
        "statistics": lambda: Classifier(statistics, regression("statistics"), labelled),
        "presence": lambda: Classifier(lambda d: d.valid.numpy(), LogisticRegression(), labelled),
        "n-grams": lambda: Classifier(names, make_pipeline(grams, line), labelled),
    }
    if kind not in known:
        raise ValueError(f"baseline: expected one of {', '.join(known)}; found {kind!r}")
    return known[kind]()
