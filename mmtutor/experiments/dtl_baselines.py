"""Chapter 11's baselines: classifiers of scikit-learn on hand-made features of pictures and clips."""

import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mmtutor.data import load_emoji

from .augmentation_baselines import motion_statistics, picture_statistics
from .dtl_tasks import Things
from .fusion_baselines import edge_statistics

# Chosen with the validation things, of C 0.001 to 0.3 and 0.3 to 30
C = {"regression": 0.01, "machine": 3.0}
NAMES = ("same answer", "logistic regression", "support vectors", "motion statistics")


def statistics(seen: Things) -> np.ndarray:
    """Return edges and colours of pictures and of the first frames, and the motion of clips."""
    emoji = load_emoji()
    clips = emoji.videos[np.searchsorted(emoji.video_item, seen.item.numpy())]
    pictures = ((seen.x["picture"] + 1) * 127.5).round().byte().movedim(1, -1)
    still = [
        f(x) for x in (pictures, torch.tensor(clips[:, 0])) for f in (edge_statistics, picture_statistics)
    ]
    return np.hstack([*still, motion_statistics(clips)])


class Baseline:
    """A classifier on numbers that are computed of each thing."""

    def __init__(self, numbers, classifier, seen: Things, y: np.ndarray):
        self.numbers, self.classifier = numbers, classifier.fit(numbers(seen), y)

    def answers(self, seen: Things) -> np.ndarray:
        return self.classifier.predict(self.numbers(seen))


def fit(name: str, seen: Things, shuffled: int | None = None) -> Baseline:
    """Return one of ``NAMES``, fitted to training things; a number ``shuffled`` deals their answers out anew.

    Raises:
        ValueError: for an unknown name.
    """
    y = seen.y.numpy()
    if shuffled is not None:
        y = np.random.RandomState(shuffled).permutation(y)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=C["regression"], max_iter=1000))
    machine = make_pipeline(StandardScaler(), SVC(C=C["machine"]))

    def motion(seen: Things) -> np.ndarray:
        return statistics(seen)[:, -9:]

    made = {
        "same answer": (lambda seen: np.zeros((len(seen.y), 1)), DummyClassifier()),
        "logistic regression": (statistics, regression),
        "support vectors": (statistics, machine),
        "motion statistics": (
            motion,
            make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)),
        ),
    }
    if name not in made:
        raise ValueError(f"baseline: expected one of {', '.join(NAMES)}; found {name!r}")
    return Baseline(*made[name], seen, y)
