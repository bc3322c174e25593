"""What chapter 12 learns to draw: faces and hearts in two hands; and the eye that looks at what was drawn."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.augment import random_affine, random_mirror
from mmtutor.data import load_emoji, split
from mmtutor.encoders import ImageEncoder, pixels
from mmtutor.training import train

Views = dict[str, Tensor]
STYLES = ("noto", "fluent")  # two vendors; neither drawing is a rendering of the other
GROUP, NOT_DRAWN = "smileys & emotion", "emotion"  # the subgroup of signs: speech bubbles, a bomb, sleep
MOVED = dict(degrees=14.0, shift=0.075, scale=0.1, shear=0.0)
EYE = dict(dim=64, width=24, steps=600, batch=128, rate=4e-3)


@cache
def face_items(part: str) -> Int64[np.ndarray, "items"]:
    """Return which things are faces and hearts, of ``"train"``, ``"validation"`` or ``"test"``."""
    emoji, things = load_emoji(), getattr(split("emoji-things"), part)
    group, signs = emoji.group_names.index(GROUP), emoji.subgroup_names.index(NOT_DRAWN)
    return things[(emoji.group[things] == group) & (emoji.subgroup[things] != signs)]


@cache
def faces(part: str) -> Views:
    """Return faces and hearts in both hands, ``(N, 3, 32, 32)`` each."""
    return {style: pixels(load_emoji().pictures(style)[face_items(part)]) for style in STYLES}


def at(x: Views, rows: Tensor) -> Views:
    """Return some of the items."""
    return {m: view[rows] for m, view in x.items()}


def mirrored(x: Views) -> Views:
    """Return all items, then their mirror images."""
    return {m: torch.cat([view, view.flip(-1)]) for m, view in x.items()}


def varied(x: Views, generator: torch.Generator | None = None) -> Views:
    """Move each thing a little, in all its pictures alike, and mirror half of them."""
    moved = random_affine(torch.cat([*x.values()], 1), **MOVED, generator=generator)
    return dict(zip(x, random_mirror(moved, generator=generator).split(3, 1), strict=True))


@cache
@torch.enable_grad()
def eye() -> nn.Module:
    """Train a classifier of all pictures of all vendors into 94 subgroups; its features look at drawings.

    It has seen the things that generators learn from and those they do not: it knows both equally well.
    """
    emoji, generator = load_emoji(), runtime.seed_everything(0)
    style, item = np.nonzero(emoji.present)
    x, y = pixels(emoji.images[style, item]), torch.tensor(emoji.subgroup[item])
    look = nn.Sequential(ImageEncoder(EYE["dim"], EYE["width"]), nn.GELU())
    answer = nn.Linear(EYE["dim"], int(y.max()) + 1)

    def batch_loss(step: int) -> Tensor:
        rows = torch.randint(len(y), (EYE["batch"],), generator=generator)
        shown = random_mirror(random_affine(x[rows], generator=generator), generator=generator)
        return F.cross_entropy(answer(look(shown)), y[rows])

    train(nn.Sequential(look, answer), batch_loss, EYE["steps"], rate=EYE["rate"], progress=False)
    return look.eval()


@torch.no_grad()
def seen(x: Views) -> Float[Tensor, "items features"]:
    """Return what the eye sees in all views of each thing, side by side."""
    return torch.cat([eye()(view.cpu()) for view in x.values()], 1)
