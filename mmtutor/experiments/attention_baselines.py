"""Baselines of chapter 09 that learn no attention: look for the digit that is most like the one asked."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.svm import SVC
from torch import Tensor, nn

from mmtutor.data import load_digits

from .attention_tasks import TAGS, VIEW, Rows
from .fusion_tasks import examples

NAMES = ("nearest drawing", "LDA", "SVM")


class Lookup(nn.Module):
    """Answer with the tag of the digit that is most like the one asked, all weight on that one.

    Args:
        likeness: of drawings ``(N, 64)`` and ``(M, 64)``, ``(N, M)``.
    """

    def __init__(self, likeness):
        super().__init__()
        self.likeness = likeness

    def forward(self, seen: Rows) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, 1, TAGS)`` and weights ``(B, 1, L)``, as `Reader` does."""
        pairs = zip(seen.asked, seen.digits, strict=True)
        scores = torch.stack([self.likeness(asked[None], digits)[0] for asked, digits in pairs])
        best = torch.where(seen.valid, scores, -torch.inf).argmax(1, keepdim=True)
        logits = F.one_hot(seen.tags.gather(1, best), TAGS).float()
        return logits, F.one_hot(best, seen.valid.shape[1]).float()


def fit(name: str) -> Lookup:
    """Return a baseline: ``"nearest drawing"``, which knows no classes, or a classifier's.

    The classifiers are trained on the *classes* of the training digits, which no reader is told; two drawings
    are alike if the classifier thinks that they are of one class.

    Raises:
        ValueError: for another name.
    """
    if name not in NAMES:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}; found {name!r}")
    side = examples("digits", "train")
    if name == "nearest drawing":  # in units of the drawings, where the first coefficients count most
        spread = torch.tensor(load_digits().views[VIEW][side.item].std(0))
        return Lookup(lambda a, b: -torch.cdist(a * spread, b * spread))
    svm = CalibratedClassifierCV(SVC(C=10), ensemble=False)  # for probabilities
    model = LinearDiscriminantAnalysis() if name == "LDA" else svm
    model.fit(side.x[VIEW].numpy(), side.y.numpy())

    def classes(x: Tensor) -> Tensor:
        return torch.tensor(np.asarray(model.predict_proba(x.numpy())))

    return Lookup(lambda a, b: classes(a) @ classes(b).T)
