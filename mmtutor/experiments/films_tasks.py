"""Chapter 11, films: real clips strung together, a picture, and one question that only the whole answers.

Six things are in a film, and each clip, by lot, is played or held at its first frame. *Find*: the picture is
of one of them, by another vendor. Does its clip play? *Recall*: all come twice, in any order, and at the end
one frame of one of them. Did it play when it was last here?
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmtutor.data import load_emoji, split
from mmtutor.encoders import pixels

from .cross_modal_tasks import apart, with_change
from .dtl_tasks import Things, clips, moving
from .fusion_tasks import VENDORS

THINGS, FRAMES = 6, 2  # of a film, of a clip
CLIPS = {"find": THINGS, "recall": 2 * THINGS}  # of a film


@dataclass(frozen=True)
class Films:
    """What is in each film, what is asked, and the answer.

    Attributes:
        items: the thing of each clip, ``(N, P)``.
        played: whether the clip plays or is held at its first frame, ``(N, P)``.
        item: the thing that is asked about, and of the picture, ``(N,)``.
        vendor: who drew the picture, a number in ``VENDORS``, ``(N,)``.
        y: whether the clip that is asked about plays, 0 or 1, ``(N,)``.
        again: whether the thing comes once more at the end, its first frame alone.
    """

    items: Int64[Tensor, "films clips"]
    played: Bool[Tensor, "films clips"]
    item: Int64[Tensor, "films"]
    vendor: Int64[Tensor, "films"]
    y: Int64[Tensor, "films"]
    again: bool

    def seen(self) -> Things:
        """Return the pictures and the films, ``(N, P * FRAMES (+ 1), 6, 32, 32)``."""
        pictures = np.stack([load_emoji().pictures(name) for name in VENDORS])
        drawn = pixels(pictures[self.vendor.numpy(), self.item.numpy()])
        clip, frames = torch.tensor(moving()[0]), clips(FRAMES)
        x = frames[clip[self.items]]
        x = torch.where(self.played[..., None, None, None, None], x, held(x)).flatten(1, 2)
        if self.again:
            x = torch.cat([x, held(frames[clip[self.item]])[:, :1]], 1)
        valid = {"picture": torch.ones(len(drawn)).bool(), "animation": torch.ones(x.shape[:2]).bool()}
        return Things({"picture": drawn, "animation": x}, valid, self.y, self.item)


def draw_films(question: str, part: str, size: int, generator: torch.Generator) -> Films:
    """String real clips together, and ask about one thing in the film.

    Args:
        question: ``"find"``: each thing comes once; the picture is of one of them. ``"recall"``: each comes
            twice, and at the end the first frame of the one that is asked about and that the picture shows;
            what counts is the later of its two clips.
        part: of the split, see `things`.
        size: how many films.
        generator: of what is drawn.

    Raises:
        ValueError: for another question.

    Example:
        >>> drawn = draw_films("recall", "test", 5, torch.Generator().manual_seed(0))
        >>> drawn.items.shape, drawn.seen().x["animation"].shape
        (torch.Size([5, 12]), torch.Size([5, 25, 6, 32, 32]))
    """
    if question not in CLIPS:
        raise ValueError(f"question: expected one of {', '.join(CLIPS)}; found {question!r}")
    count = CLIPS[question]
    cast = apart(moving_things(part), size, THINGS, generator)
    asked = torch.randint(THINGS, (size, 1), generator=generator)
    vendor = torch.randint(len(VENDORS), (size,), generator=generator)
    item, order = cast.gather(1, asked), torch.rand(size, count, generator=generator).argsort(1) % THINGS
    items, played = cast.gather(1, order), torch.rand(size, count, generator=generator) < 0.5
    clip = count - 1 - (order.flip(1) == asked).int().argmax(1, keepdim=True)  # the latest
    y = played.gather(1, clip)[:, 0].long()
    return Films(items, played, item[:, 0], vendor, y, question == "recall")


@cache
def moving_things(part: str) -> np.ndarray:
    """Return the things of one part of the split that do not stay in place.

    Example:
        >>> [len(moving_things(part)) for part in ("train", "validation", "test")]
        [273, 45, 59]
    """
    motion, in_place = moving()[1], load_emoji().motion_names.index("in place")
    return np.array([i for i in getattr(split("emoji-things"), part) if motion[i] not in (-1, in_place)])


def held(clips: Float[Tensor, "*batch frames 6 32 32"]) -> Float[Tensor, "*batch frames 6 32 32"]:
    """Return the clips, each held at its first frame: nothing ever changes.

    Example:
        >>> held(torch.rand(2, 4, 6, 32, 32))[:, :, 3:].abs().max()
        tensor(0.)
    """
    return with_change(clips[..., :1, :3, :, :].expand(*clips.shape[:-3], 3, -1, -1))
