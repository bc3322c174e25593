"""What chapter 10 asks: who drew the thing named, does it rotate or move, what is it; two streams to follow.

Pictures and clips come in *parts*, a scene of four pictures or a film of three clips, and each part
is asked about once. So where the answer stands is known, though no model is told.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmtutor.data import load_emoji, split
from mmtutor.encoders import fnv1a, pixels, text_features

from .fusion_tasks import Examples

QUESTIONS = ("hand", "motion", "held", "group")
HANDS = ("noto", "twemoji", "fluent", "fluent3d")
SCENE, FILM, FRAMES = 4, 3, 4  # pictures in a scene, clips in a film, frames of a clip
MOTIONS = {  # how each is asked for
    "horizontal": "move sideways",
    "vertical": "move up and down",
    "rotate": "rotate",
    "in place": "stay in place",
}
BUCKETS, WORDS, FEATURES = 4096, 12, 16  # of the hash; words of a text and features of a word that are read


@dataclass(frozen=True)
class Asked:
    """Scenes, and questions about their parts.

    Attributes:
        parts: pictures ``(B, P, 3, 32, 32)``, or clips ``(B, P, T, 6, 32, 32)``: frames, and what changed.
        words: each question, hashed features of its words, ``(B, Q, W, F)``; zero is padding.
        answer: ``(B, Q)``.
        item: which thing each part is, ``(B, P)``. Question q is about part q.
        texts: each question as text, B lists of Q.
    """

    parts: Float[Tensor, "batch parts *what 32 32"]
    words: Int64[Tensor, "batch questions words features"]
    answer: Int64[Tensor, "batch questions"]
    item: Int64[Tensor, "batch parts"]
    texts: list[list[str]]


@cache
def hashed(text: str) -> Int64[Tensor, "words features"]:
    """Return the hashed features of a text's words; zero is padding.

    Example:
        >>> (hashed("red apple") > 0).sum(1)[:3]
        tensor([4, 6, 0])
    """
    ids = torch.zeros(WORDS, FEATURES, dtype=torch.int64)
    for row, word in zip(ids, text.split()[:WORDS], strict=False):
        found = [1 + fnv1a(feature) % BUCKETS for feature in text_features(word)[:FEATURES]]
        row[: len(found)] = torch.tensor(found, dtype=torch.int64)
    return ids


def _hashed(texts: list[list[str]]) -> Int64[Tensor, "batch questions words features"]:
    ids = torch.stack([torch.stack([*map(hashed, row)]) for row in texts])
    longest = int((ids > 0).any(3).sum(2).max())
    return ids[:, :, : max(longest, 1)]


def apart(
    items: np.ndarray, size: int, count: int, generator: torch.Generator, chance: Tensor | None = None
) -> Int64[Tensor, "size count"]:
    """Draw things for each scene, no two of one family, each as often as ``chance`` says or all alike."""
    items, family = torch.tensor(items), torch.tensor(load_emoji().family)
    chance = torch.ones(len(items)) if chance is None else chance

    def draw(n: int) -> Tensor:
        return items[torch.multinomial(chance.expand(n, -1), count, generator=generator)]

    drawn = draw(size)
    while True:
        ordered = family[drawn].sort(1).values
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if not again.any():
            return drawn
        drawn[again] = draw(int(again.sum()))


def hand(items: np.ndarray, size: int, generator: torch.Generator) -> Asked:
    """Draw scenes of four things by four hands. Who drew the one that is named?

    Each scene has all hands, so neither the scene nor the name tells the answer alone.
    """
    emoji = load_emoji()
    item = apart(items, size, SCENE, generator)
    hands = torch.rand(size, SCENE, generator=generator).argsort(1)
    style = torch.tensor([emoji.styles.index(name) for name in HANDS])[hands]
    parts = pixels(emoji.images[style.numpy(), item.numpy()])
    texts = [[emoji.names[i].lower() for i in row] for row in item]
    return Asked(parts, _hashed(texts), hands, item, texts)


def with_change(frames: Float[Tensor, "*batch frames 3 32 32"]) -> Float[Tensor, "*batch frames 6 32 32"]:
    """Add to each frame what changed since the one before; clips run in a loop.

    Example:
        >>> with_change(torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 32, 32))[:, 3, 0, 0]
        tensor([-2.,  1.,  1.])
    """
    return torch.cat([frames, frames - frames.roll(1, -4)], -3)


@cache
def _clips() -> tuple[dict[int, int], Tensor]:
    """Return the clip of each thing that has one with a motion known, and all clips with what changed."""
    emoji = load_emoji()
    clip = {int(i): n for n, i in enumerate(emoji.video_item) if emoji.motion[n] >= 0}
    frames = pixels(emoji.videos[:, :: emoji.videos.shape[1] // FRAMES])
    return clip, with_change(frames)


def motion(items: np.ndarray, size: int, generator: torch.Generator) -> Asked:
    """Draw films of three clips. Does the thing that is named move as the question says?

    Half of the answers are yes, whatever motion is asked for: clips are drawn so that all motions come
    equally often, which among all clips they do not. Clips run in a loop: the first frame's change is from
    the last one.
    """
    emoji, clips = load_emoji(), _clips()[1]
    items, kind = _moving(items)
    item = apart(items, size, FILM, generator, 1 / kind.bincount()[kind])
    number, moves = _number(item)
    answer = torch.randint(2, item.shape, generator=generator)
    other = (moves + torch.randint(1, len(MOTIONS), item.shape, generator=generator)) % len(MOTIONS)
    asked = torch.where(answer == 1, moves, other)
    ways = [MOTIONS[name] for name in emoji.motion_names]
    texts = [
        [f"does the {emoji.names[i].lower()} {ways[k]}" for i, k in zip(things, kinds, strict=True)]
        for things, kinds in zip(item, asked, strict=True)
    ]
    return Asked(clips[number], _hashed(texts), answer, item, texts)


def held(items: np.ndarray, size: int, generator: torch.Generator) -> Asked:
    """Draw films of three clips, half of them held at their first frame. Does the thing that is named move?

    Only things that move when they are played. What a thing is called and how it looks tells nothing of the
    answer: each clip is held in one film and played in another.
    """
    emoji, clips = load_emoji(), _clips()[1]
    items, kind = _moving(items)
    item = apart(items[kind != emoji.motion_names.index("in place")], size, FILM, generator)
    parts = clips[_number(item)[0]]
    answer = torch.randint(2, item.shape, generator=generator)
    still = with_change(parts[:, :, :1, :3].expand(-1, -1, FRAMES, -1, -1, -1))
    parts = torch.where(answer[..., None, None, None, None] == 1, parts, still)
    texts = [[f"does the {emoji.names[i].lower()} move" for i in things] for things in item]
    return Asked(parts, _hashed(texts), answer, item, texts)


def _moving(items: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """Return those things that have a clip with a motion known, and that motion."""
    clip = _clips()[0]
    items = np.array([i for i in items if int(i) in clip])
    return items, _number(torch.tensor(items))[1]


def _number(item: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of each thing's clip, and its motion."""
    emoji, clip = load_emoji(), _clips()[0]
    number = torch.tensor([clip[int(i)] for i in item.flatten()]).view_as(item)
    return number, torch.tensor(emoji.motion)[number].long()


def group(items: np.ndarray, size: int, generator: torch.Generator) -> Asked:
    """Draw pictures with their names: of which group is it? Each of the two nearly tells the answer alone."""
    emoji = load_emoji()
    item = apart(items, size, 1, generator)
    style = torch.randint(len(HANDS), (size,), generator=generator)
    number = torch.tensor([emoji.styles.index(name) for name in HANDS])[style]
    parts = pixels(emoji.images[number.numpy(), item[:, 0].numpy()])[:, None]
    texts = [[emoji.names[i].lower()] for i in item[:, 0]]
    return Asked(parts, _hashed(texts), torch.tensor(emoji.group)[item].long(), item, texts)


def asked(question: str, part: str, size: int, generator: torch.Generator) -> Asked:
    """Draw scenes of the training, validation or test things.

    Args:
        question: ``"hand"``, ``"motion"``, ``"held"`` or ``"group"``.
        part: of the split of things.
        size: how many scenes.
        generator: of what is drawn.

    Raises:
        ValueError: for another question.

    Example:
        >>> seen = asked("hand", "test", 2, torch.Generator().manual_seed(0))
        >>> tuple(seen.parts.shape), seen.answer.sort(1).values
        ((2, 4, 3, 32, 32), tensor([[0, 1, 2, 3],
                [0, 1, 2, 3]]))
    """
    if question not in QUESTIONS:
        raise ValueError(f"question: expected one of {', '.join(QUESTIONS)}; found {question!r}")
    draw = {"hand": hand, "motion": motion, "held": held, "group": group}[question]
    return draw(getattr(split("emoji-things"), part), size, generator)


# Two streams


@dataclass(frozen=True)
class Streams:
    """Two streams of digits side by side. An odd digit says: read on in the other stream.

    Attributes:
        x: by stream ``(B, T, 64)``.
        follows: in which stream the reader is at each step, ``(B, T)``; it starts in the first.
        answer: the digit that is read last, ``(B,)``.
    """

    x: dict[str, Float[Tensor, "batch steps 64"]]
    follows: Int64[Tensor, "batch steps"]
    answer: Int64[Tensor, "batch"]


def streams(side: Examples, size: int, generator: torch.Generator, steps: int = 8) -> Streams:
    """Draw two streams of handwritten digits, and follow the path through them.

    Example:
        >>> from mmtutor.experiments.fusion_tasks import examples
        >>> seen = streams(examples("digits", "test"), 5, torch.Generator().manual_seed(0))
        >>> seen.x["upper"].shape, bool((seen.follows[:, 0] == 0).all())
        (torch.Size([5, 8, 64]), True)
    """
    drawn = torch.randint(len(side.y), (size, steps, 2), generator=generator)
    digits, at = side.y[drawn], torch.zeros(size, dtype=torch.int64)
    follows = []
    for t in range(steps):
        follows.append(at)
        read = digits[:, t].gather(1, at[:, None])[:, 0]
        at = (at + read) % 2  # an odd digit changes the stream
    x = side.x["karhunen"][drawn]
    return Streams({"upper": x[:, :, 0], "lower": x[:, :, 1]}, torch.stack(follows, 1), read)
