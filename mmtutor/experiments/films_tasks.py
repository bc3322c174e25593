"""Chapter 11, films: real clips strung together, a picture, and one question that only the whole answers.

*Find*: the picture is of one of the three things in the film, by another vendor. Does that thing's clip play,
or is it held at its first frame? *Recall*: which of the first four clips moves like the fifth?
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmtutor.data import load_emoji, split
from mmtutor.encoders import pixels

from .cross_modal_tasks import apart, with_change
from .dtl_tasks import MOTIONS, Things, clips, moving
from .fusion_tasks import VENDORS

FILMS = {"find": 3, "recall": 5}  # clips of a film
CLIP = 4  # frames of a clip


@dataclass(frozen=True)
class Films:
    """What is in each film, what is asked, and the answer.

    Attributes:
        items: the thing of each clip, ``(N, P)``.
        played: whether the clip plays or is held at its first frame, ``(N, P)``.
        item: the thing of the picture, ``(N,)``.
        vendor: who drew the picture, a number in ``VENDORS``, ``(N,)``.
        y: the answer, ``(N,)``.
    """

    items: Int64[Tensor, "films clips"]
    played: Bool[Tensor, "films clips"]
    item: Int64[Tensor, "films"]
    vendor: Int64[Tensor, "films"]
    y: Int64[Tensor, "films"]

    def seen(self) -> Things:
        """Return the pictures and the films, ``(N, P * CLIP, 6, 32, 32)``."""
        pictures = np.stack([load_emoji().pictures(name) for name in VENDORS])
        drawn = pixels(pictures[self.vendor.numpy(), self.item.numpy()])
        frames = clips(CLIP)[torch.tensor(moving()[0])[self.items]]
        frames = torch.where(self.played[..., None, None, None, None], frames, held(frames)).flatten(1, 2)
        valid = {"picture": torch.ones(len(drawn)).bool(), "animation": torch.ones(frames.shape[:2]).bool()}
        return Things({"picture": drawn, "animation": frames}, valid, self.y, self.item)


def films(question: str, part: str, size: int, generator: torch.Generator) -> Films:
    """String real clips together, and ask about one thing in the film.

    Args:
        question: ``"find"``: does the thing of the picture move? All three of the film do, but each clip is
            held at its first frame with a chance of one half. ``"recall"``: which of the first four clips
            moves like the fifth? All four move otherwise. The picture is of the last thing.
        part: of the split, see `things`.
        size: how many films.
        generator: of what is drawn.

    Raises:
        ValueError: for another question.

    Example:
        >>> drawn = films("recall", "test", 5, torch.Generator().manual_seed(0))
        >>> drawn.items.shape, drawn.seen().x["animation"].shape
        (torch.Size([5, 5]), torch.Size([5, 20, 6, 32, 32]))
    """
    if question not in FILMS:
        raise ValueError(f"question: expected one of {', '.join(FILMS)}; found {question!r}")
    motion, count = moving()[1], FILMS[question]
    known = np.array([i for i in getattr(split("emoji-things"), part) if motion[i] >= 0])
    if question == "find":
        in_place = load_emoji().motion_names.index("in place")
        items = apart(known[motion[known] != in_place], size, count, generator)
        played = torch.rand(size, count, generator=generator) < 0.5
        asked = torch.randint(count, (size,), generator=generator)
        y = played.gather(1, asked[:, None])[:, 0].long()
    else:
        y = torch.randint(count - 1, (size,), generator=generator)
        kinds = torch.rand(size, MOTIONS, generator=generator).argsort(1)[:, : count - 1]
        items = moving_so(known, torch.cat([kinds, kinds.gather(1, y[:, None])], 1), generator)
        played, asked = torch.ones(size, count).bool(), torch.full((size,), count - 1)
    vendor = torch.randint(len(VENDORS), (size,), generator=generator)
    return Films(items, played, items.gather(1, asked[:, None])[:, 0], vendor, y)


def held(clips: Float[Tensor, "*batch frames 6 32 32"]) -> Float[Tensor, "*batch frames 6 32 32"]:
    """Return the clips, each held at its first frame: nothing ever changes.

    Example:
        >>> held(torch.rand(2, 4, 6, 32, 32))[:, :, 3:].abs().max()
        tensor(0.)
    """
    return with_change(clips[..., :1, :3, :, :].expand(*clips.shape[:-3], 3, -1, -1))


def moving_so(known: np.ndarray, kinds: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a thing for each kind of motion ``(N, P)``, no two of one family in a film."""
    family, known = torch.tensor(load_emoji().family), torch.tensor(known)
    chance = F.one_hot(torch.tensor(moving()[1])[known].long(), MOTIONS).T.float()

    def draw(kinds: Tensor) -> Tensor:
        rows = torch.multinomial(chance[kinds.flatten()], 1, generator=generator)
        return known[rows[:, 0]].view_as(kinds)

    drawn = draw(kinds)
    while True:
        ordered = family[drawn].sort(1).values
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if not again.any():
            return drawn
        drawn[again] = draw(kinds[again])
