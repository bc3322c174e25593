"""What answers questions about films without a network, told where clips begin."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmtutor.data import load_emoji

from .augmentation_baselines import motion_statistics
from .dtl_tasks import moving
from .films_tasks import CLIP, Films
from .fusion_tasks import VENDORS

LEVELS = 4  # of each colour


class Colours:
    """Of *find*: the clip whose first frame has the picture's colours; it is told which clips play."""

    def answers(self, drawn: Films) -> np.ndarray:
        emoji = load_emoji()
        pictures = np.stack([emoji.pictures(name) for name in VENDORS])[drawn.vendor, drawn.item]
        frames = emoji.videos[moving()[0][drawn.items], 0]
        shared = np.minimum(histogram(pictures)[:, None], histogram(frames)).sum(2)
        return drawn.played.numpy()[np.arange(len(shared)), shared.argmax(1)].astype(int)


def histogram(pictures: np.ndarray) -> np.ndarray:
    """Return which share of its pixels has each of 64 colours, the white ground left out, ``(..., 64)``."""
    level = pictures.astype(int) * LEVELS // 256
    bins = (level * LEVELS ** np.arange(3)).sum(-1).reshape(*pictures.shape[:-3], -1)
    ink = (pictures < 250).any(-1).reshape(bins.shape)
    count = np.stack([((bins == k) & ink).sum(-1) for k in range(LEVELS**3)], -1)
    return count / np.maximum(count.sum(-1, keepdims=True), 1)


class Motions:
    """Of *recall*: the clip whose motion is most likely the last one's, by `motion_statistics`.

    A logistic regression is fitted to single clips; C is as in chapter 11's baselines of one thing.
    """

    def __init__(self, items: np.ndarray):
        clip, motion, _ = moving()
        self.model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
        self.model.fit(motion_statistics(_shown(clip[items])), motion[items])

    def answers(self, drawn: Films) -> np.ndarray:
        clips = _shown(moving()[0][drawn.items.flatten()])
        p = self.model.predict_proba(motion_statistics(clips)).reshape(*drawn.items.shape, -1)
        return torch.tensor(np.einsum("npk,nk->np", p[:, :-1], p[:, -1])).argmax(1).numpy()


def _shown(clips: np.ndarray) -> np.ndarray:
    videos = load_emoji().videos
    return videos[clips][:, :: videos.shape[1] // CLIP]
