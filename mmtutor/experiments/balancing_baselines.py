"""Baselines of chapter 04: answers to the same questions without a network."""

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_union
from torch import Tensor

from . import sharing_baselines
from .balancing_tasks import names
from .sharing_tasks import KINDS, Examples

C = {"classes": 10.0, "labels": 10.0}
RIDGE = 3.0


class NGrams:
    """For each task a linear map from how often words and pieces of words occur in a name.

    Logistic regression for classes and for each label, ridge regression for numbers.

    Args:
        data: names to learn from.
    """

    def __init__(self, data: Examples):
        self.counts = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        x, self.maps = self.counts.fit_transform(names(data)), {}
        for task, y in data.targets.items():
            known, kind = data.known[task].numpy(), KINDS[task]
            if kind == "numbers":
                model = Ridge(RIDGE)
            else:
                model = LogisticRegression(C=C[kind], max_iter=1000)
                model = OneVsRestClassifier(model) if kind == "labels" else model
            self.maps[task] = model.fit(x[known], y.numpy()[known])

    def answers(self, texts: list[str]) -> dict[str, Tensor]:
        x, found = self.counts.transform(texts), {}
        for task, model in self.maps.items():
            scores = model.predict(x) if KINDS[task] == "numbers" else model.decision_function(x)
            found[task] = torch.tensor(np.asarray(scores)).reshape(len(texts), -1).float()
        return found


def fit(kind: str, data: Examples):
    """Return a baseline fitted to training examples: of names ``"n-grams"``, else one of chapter 03.

    Raises:
        ValueError: for an unknown kind.
    """
    return NGrams(data) if kind == "n-grams" else sharing_baselines.fit(kind, data)
