"""Baselines of chapter 03: answers to the same questions without sharing, most without a deep network.

Each has ``answers(x)``: by task a score for each class or label, or the numbers, ``(N, C)``.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor

from mmtutor.sharing import resnet_trunk

from .augmentation_baselines import picture_statistics
from .contrastive_baselines import small_centred
from .sharing_tasks import KINDS, Examples

# Chosen with the validation items: C of 0.01, 0.1, 1, 10 (none is clearly better, nor ridge's of 1, 10, 100);
# neighbours of 1, 3 for digits, of 1, 5, 15, 50 for pictures, and in spreading of 5, 7, 10, 20 with 0.2, 0.8,
# 0.99 of a label from them; components of 10, 20, 40; a predicted number counts as 1 or 3. Pseudo-labels are
# the same within a hundredth for C of 1, 10, 100.
C, RIDGE = 1.0, 10.0
NEIGHBOURS = {"digits": 1, "pictures": 5, "spreading": 7, "predicted": 5}
FROM_NEIGHBOURS, COMPONENTS, COUNTS = 0.2, 20, 3.0


def stored(x: Tensor) -> Tensor:
    """Turn network input back into stored pictures, uint8 ``(N, 32, 32, 3)``."""
    return ((x + 1) * 127.5).round().byte().movedim(1, -1)


def scores_wanted(data: Examples, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what a regression should answer, ``(K, C)``, and for which K examples, bool ``(N,)``."""
    known = data.known[task]
    y = data.targets[task][known]
    if KINDS[task] == "classes":
        y = F.one_hot(y, data.size(task))
    return y.float().numpy(), known.numpy()


class Regression:
    """For each task a regression from a few numbers of an example to its scores.

    Args:
        numbers: maps examples to ``(N, D)``.
        make: returns a regression of scikit-learn.
        data: to learn from.
    """

    def __init__(self, numbers: Callable, make: Callable, data: Examples):
        self.numbers, self.maps, features = numbers, {}, np.asarray(numbers(data.x))
        for task in data.targets:
            y, known = scores_wanted(data, task)
            self.maps[task] = make().fit(features[known], y)

    def answers(self, x: Tensor) -> dict[str, Tensor]:
        features = np.asarray(self.numbers(x))
        return {task: torch.tensor(np.asarray(m.predict(features))) for task, m in self.maps.items()}


class Linear:
    """For each task a linear map from a few numbers of an example: it also probes what a trunk has learnt.

    Logistic regression for classes, ridge regression for labels and numbers, on standardised numbers.

    Args:
        numbers: maps examples to ``(N, D)``.
        data: to learn from.
        tasks: those to learn; by default all.
    """

    def __init__(self, numbers: Callable, data: Examples, tasks=None):
        self.numbers, self.maps, features = numbers, {}, np.asarray(numbers(data.x))
        for task in data.targets if tasks is None else tasks:
            if KINDS[task] == "classes":
                known, y = data.known[task].numpy(), data.targets[task].numpy()
                self.maps[task] = make_pipeline(
                    StandardScaler(), LogisticRegression(C=C, tol=1e-3, max_iter=1000)
                )
                self.maps[task].fit(features[known], y[known])
            else:
                y, known = scores_wanted(data, task)
                self.maps[task] = make_pipeline(StandardScaler(), Ridge(RIDGE)).fit(features[known], y)
        self.sizes = {task: data.size(task) for task in self.maps}

    def answers(self, x: Tensor) -> dict[str, Tensor]:
        features, found = np.asarray(self.numbers(x)), {}
        for task, model in self.maps.items():
            found[task] = torch.full((len(x), self.sizes[task]), -torch.inf)  # for classes never seen
            if KINDS[task] == "classes":
                found[task][:, model.classes_] = torch.tensor(model.decision_function(features)).float()
            else:
                found[task] = torch.tensor(model.predict(features)).reshape(len(x), -1)
        return found


class Spreading:
    """Label spreading: labels wander from digit to digit to their nearest neighbours, labelled or not."""

    def __init__(self, data: Examples):
        y = np.where(data.known["digit"], data.targets["digit"], -1)
        self.model = LabelSpreading(
            kernel="knn", n_neighbors=NEIGHBOURS["spreading"], alpha=FROM_NEIGHBOURS, max_iter=200
        )
        self.model.fit(data.x.numpy(), y)

    def answers(self, x: Tensor) -> dict[str, Tensor]:
        return {"digit": torch.tensor(self.model.predict_proba(x.numpy()))}


def untrained(width: int) -> Callable:
    """Return what a trunk finds that was never trained."""
    trunk = resnet_trunk(64, width).eval()

    @torch.no_grad()
    def numbers(x):
        return torch.cat([trunk(part) for part in x.split(512)])

    return numbers


def helped(data: Examples) -> Callable:
    """Return a map to the pixels and the helper's numbers as the nearest digits have them: no trunk."""
    (helper,) = set(data.targets) - {"digit"}
    near = KNeighborsRegressor(NEIGHBOURS["predicted"], weights="distance")
    near.fit(data.x, data.targets[helper])
    return lambda x: np.hstack([x, COUNTS * near.predict(x)])


def pseudo_labels(y: Tensor, known: Tensor, clues: Tensor) -> Tensor:
    """Guess the classes that are not known, by a logistic regression from clues that are known of all.

    Args:
        y: classes ``(N,)``; those not known are not looked at.
        known: bool ``(N,)``.
        clues: ``(N, C)``, say the keywords of each example.

    Returns:
        Classes ``(N,)``, those known as they are.

    Example:
        >>> pseudo_labels(torch.tensor([0, 1, 9]), torch.tensor([True, True, False]), torch.eye(2)[[0, 1, 1]])
        tensor([0, 1, 1])
    """
    model = LogisticRegression(C=C, max_iter=1000).fit(clues[known], y[known])
    return torch.where(known, y, torch.tensor(model.predict(clues)))


def fit(kind: str, data: Examples):
    """Return a baseline fitted to training examples.

    Raises:
        ValueError: for an unknown kind.
    """
    pictures = data.x.ndim == 4
    components = make_pipeline(PCA(COMPONENTS, whiten=True, random_state=0))
    near = NEIGHBOURS["pictures" if pictures else "digits"]
    known = {
        "same answer": lambda: Regression(lambda x: x.flatten(1), DummyRegressor, data),
        "nearest pixels": lambda: Regression(
            lambda x: small_centred(stored(x)) if pictures else x,
            lambda: KNeighborsRegressor(near, weights="distance"),
            data,
        ),
        "statistics": lambda: Linear(lambda x: picture_statistics(stored(x)), data),
        "untrained trunk": lambda: Linear(untrained(16), data),
        "logistic regression": lambda: Linear(lambda x: x, data),
        "components": lambda: Linear(components.fit(data.x).transform, data),
        "helper predicted first": lambda: Linear(helped(data), data, ["digit"]),
        "label spreading": lambda: Spreading(data),
    }
    if kind not in known:
        raise ValueError(f"baseline: expected one of {', '.join(known)}; found {kind!r}")
    return known[kind]()
