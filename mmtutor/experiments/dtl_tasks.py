"""What chapter 11 asks of a picture and an animation of one thing: what is it, and how does it move?

The picture is by another vendor than the animation. Frames come with what has changed since the one before,
as in chapter 10.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmtutor.data import load_emoji, split
from mmtutor.encoders import pixels

from .cross_modal_tasks import with_change
from .fusion_tasks import GROUPS, VENDORS

MODALITIES = ("picture", "animation")
QUESTIONS = ("group × moves", "group", "motion")
MOTIONS = 4


@dataclass(frozen=True)
class Things:
    """Pictures and animations, and one question about each pair.

    Attributes:
        x: ``"picture"``, ``(N, 3, 32, 32)``, and ``"animation"``, ``(N, L, 6, 32, 32)``.
        valid: which are real, by modality: ``(N,)`` and ``(N, L)``.
        y: the right class, ``(N,)``.
        item: which thing it is, ``(N,)``.
    """

    x: dict[str, Tensor]
    valid: dict[str, Bool[Tensor, "items *length"]]
    y: Int64[Tensor, "items"]
    item: Int64[Tensor, "items"]

    def at(self, rows: Tensor) -> "Things":
        """Return some of the items."""
        x, valid = ({m: t[rows] for m, t in d.items()} for d in (self.x, self.valid))
        return Things(x, valid, self.y[rows], self.item[rows])


@cache
def moving() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each thing the number of its clip, its motion, its group among ``GROUPS``; -1 for none."""
    emoji = load_emoji()
    clip = np.full(len(emoji.names), -1)
    clip[emoji.video_item] = np.arange(len(emoji.video_item))
    motion = np.where(clip >= 0, emoji.motion[clip], -1)
    names = [emoji.group_names[g] for g in emoji.group]
    return clip, motion, np.array([GROUPS.index(name) if name in GROUPS else -1 for name in names])


@cache
def clips(frames: int) -> Float[Tensor, "clips frames 6 32 32"]:
    """Return all animations, with so many frames each, and what has changed."""
    videos = load_emoji().videos
    return with_change(pixels(videos[:, :: videos.shape[1] // frames]))


@cache
def things(question: str, part: str, frames: int = 8) -> Things:
    """Return all pairs of one side of the split, each thing once by each of the vendors.

    Args:
        question: ``"group × moves"``: person, smiley, animal or vehicle, and does it move or stay in place?
            Also ``"group"`` alone, and ``"motion"``, sideways, up and down, turning or in place.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        frames: of each animation.

    Raises:
        ValueError: for another question.

    Example:
        >>> {m: tuple(x.shape) for m, x in things("motion", "test").x.items()}
        {'picture': (206, 3, 32, 32), 'animation': (206, 8, 6, 32, 32)}
    """
    if question not in QUESTIONS:
        raise ValueError(f"question: expected one of {', '.join(QUESTIONS)}; found {question!r}")
    emoji, (clip, motion, group) = load_emoji(), moving()
    items = np.array([i for i in getattr(split("emoji-things"), part) if motion[i] >= 0 and group[i] >= 0])
    still = motion[items] == emoji.motion_names.index("in place")
    y = {"group × moves": 2 * group[items] + still, "group": group[items], "motion": motion[items]}[question]
    x = {
        "picture": pixels(np.concatenate([emoji.pictures(vendor)[items] for vendor in VENDORS])),
        "animation": clips(frames)[clip[items]].repeat(len(VENDORS), 1, 1, 1, 1),
    }
    valid = {
        "picture": torch.ones(len(x["picture"])).bool(),
        "animation": torch.ones(x["animation"].shape[:2]).bool(),
    }
    y, item = (torch.tensor(np.tile(values, len(VENDORS))).long() for values in (y, items))
    return Things(x, valid, y, item)
