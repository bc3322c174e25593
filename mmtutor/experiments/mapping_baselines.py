"""Chapter 01's baselines: the most frequent answer, and linear maps of plain features."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmtutor.encoders import pixels

# (modality, task): the regression's C, an inverse penalty, chosen on the validation things
MAPS = {
    ("picture", "group"): 1e-3,
    ("picture", "style"): 0.1,
    ("picture", "word"): 1e-3,
    ("animation", "group"): 1e-3,
    ("animation", "motion"): 1e-2,
    ("name", "group"): 1.0,
}
COMPONENTS = 150


def features(modality: str, drawings, rows: np.ndarray):
    """Return plain features of some drawings: 16 by 16 pixels (of the mean and stillness), or the names."""
    if modality == "name":
        return [drawings.names[i] for i in rows]
    x = pixels(drawings.images[rows]) if modality == "picture" else drawings.videos[drawings.video[rows]]
    return F.avg_pool2d(x, 2).flatten(1).numpy()


def rows_of(modality: str, task: str, drawings) -> np.ndarray:
    """Return the drawings that have this modality and a known answer."""
    known = drawings.known(task) & ((drawings.video >= 0) | (modality != "animation"))
    return known.nonzero()[:, 0].numpy()


class Largest:
    """Answers each task with what is most frequent in training, whatever it is shown."""

    def __init__(self, drawings):
        self.most = {}
        for modality, task in MAPS:
            target = drawings.targets[task][rows_of(modality, task, drawings)]
            counts = target.sum(0) if task == "word" else target.bincount().float()
            self.most[modality, task] = counts

    def scores(self, drawings) -> dict[str, torch.Tensor]:
        """Return for each map the same scores for all drawings, ``(B, C)``."""
        count = len(drawings.item)
        return {f"{m} → {t}": counts.expand(count, -1) for (m, t), counts in self.most.items()}


class Linear:
    """One logistic regression a map, on principal components of pixels or on weighted letter groups."""

    def __init__(self, drawings):
        self.maps = {}
        for (modality, task), C in MAPS.items():
            rows = rows_of(modality, task, drawings)
            regression = LogisticRegression(C=C, max_iter=500)
            if task == "word":
                regression = MultiOutputClassifier(regression)
            first = [StandardScaler(), PCA(COMPONENTS, random_state=0)]
            if modality == "name":
                first = [TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))]
            fitted = make_pipeline(*first, regression)
            self.maps[modality, task] = fitted.fit(
                features(modality, drawings, rows), drawings.targets[task][rows].numpy()
            )

    def scores(self, drawings) -> dict[str, torch.Tensor]:
        """Return each map's log-probabilities ``(B, C)``; of drawings without the modality, zeros.

        ``"picture, name → group"`` adds the log-probabilities of the two.
        """
        result = {}
        for (modality, task), fitted in self.maps.items():
            rows = (drawings.video >= 0) | torch.tensor(modality != "animation")
            rows = rows.expand(len(drawings.item)).nonzero()[:, 0].numpy()
            x = features(modality, drawings, rows)
            if task == "word":
                found = np.stack([p[:, 1] for p in fitted.predict_proba(x)], 1)
            else:
                found = np.log(fitted.predict_proba(x).clip(1e-9))
            result[f"{modality} → {task}"] = torch.zeros(len(drawings.item), found.shape[1])
            result[f"{modality} → {task}"][rows] = torch.tensor(found).float()
        result["picture, name → group"] = result["picture → group"] + result["name → group"]
        return result


def fit(kind: str, drawings):
    """Return a baseline, ``"largest"`` or ``"linear"``, made from the training drawings."""
    return {"largest": Largest, "linear": Linear}[kind](drawings)
