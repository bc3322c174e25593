"""What answers questions about films without learning, told where clips begin and which of them play."""

import numpy as np

from mmtutor.data import load_emoji

from .dtl_tasks import moving
from .films_tasks import Films
from .fusion_tasks import VENDORS

LEVELS = 4  # of each colour


class Colours:
    """The latest clip whose first frame has most of the colours of what is shown: does it play?

    What is shown is the picture, or the single frame at the end, if there is one.
    """

    def answers(self, drawn: Films) -> np.ndarray:
        emoji, clip = load_emoji(), moving()[0]
        shown = np.stack([emoji.pictures(name) for name in VENDORS])[drawn.vendor, drawn.item]
        if drawn.again:
            shown = emoji.videos[clip[drawn.item], 0]
        items, played = drawn.items.flip(1), drawn.played.flip(1).numpy()  # of two as like, the later one
        frames = emoji.videos[clip[items], 0]
        alike = np.minimum(histogram(shown)[:, None], histogram(frames)).sum(2)
        return played[np.arange(len(alike)), alike.argmax(1)].astype(int)


def histogram(pictures: np.ndarray) -> np.ndarray:
    """Return which share of its pixels has each of 64 colours, the white ground left out, ``(..., 64)``."""
    level = pictures.astype(int) * LEVELS // 256
    bins = (level * LEVELS ** np.arange(3)).sum(-1).reshape(*pictures.shape[:-3], -1)
    ink = (pictures < 250).any(-1).reshape(bins.shape)
    count = np.stack([((bins == k) & ink).sum(-1) for k in range(LEVELS**3)], -1)
    return count / np.maximum(count.sum(-1, keepdims=True), 1)
