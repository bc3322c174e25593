"""What is named: pictures in a style never seen or of things never seen, and English names in Chinese."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mmtutor.data import held_out_style, load_emoji, split
from mmtutor.encoders import pixels
from mmtutor.seq2seq import Vocabulary

STYLE = "noto"  # the style that no model sees in training
QUESTIONS = ("English", "Chinese", "animals", "unseen things", "translation")
GROUP = "animals & nature"


@dataclass(frozen=True)
class Named:
    """Inputs, and the name that each is to get.

    Attributes:
        inputs: pictures ``(N, 32, 32, 3)`` uint8, or the ids of English names ``(N, L)``.
        names: what to write, N texts.
        thing: which thing each is, ``(N,)``.
    """

    inputs: Tensor
    names: list[str]
    thing: np.ndarray

    def at(self, rows: Tensor) -> Tensor:
        """Return what an encoder takes of some of the inputs."""
        chosen = self.inputs[rows]
        return pixels(chosen) if chosen.dtype == torch.uint8 else chosen


@cache
def named(question: str, part: str) -> Named:
    """Return what there is to name; ``part`` is train, validation or test.

    ``"English"`` and ``"Chinese"``: all 1,562 things in the known styles in training, and in a style never
    seen in the test. ``"animals"``: the same of animals and plants, in English. ``"unseen things"``: the
    training things in all styles, and the test things in that style. ``"translation"``: English names of the
    training, validation or test things, to be written in Chinese. Only the last has a validation part:
    pictures are trained for a fixed number of steps.

    Raises:
        ValueError: for another question.

    Example:
        >>> test = named("Chinese", "test")
        >>> tuple(test.inputs.shape), test.names[:2]
        ((1562, 32, 32, 3), ['嘿嘿', '哈哈'])
    """
    if question not in QUESTIONS:
        raise ValueError(f"question: expected one of {', '.join(QUESTIONS)}; found {question!r}")
    emoji, things = load_emoji(), split("emoji-things")
    names = emoji.names_zh if question in ("Chinese", "translation") else emoji.names
    if question == "translation":
        thing = getattr(things, part)
        english = vocabulary("English").encode([emoji.names[i] for i in thing])
        return Named(english, [names[i] for i in thing], thing)
    known = emoji.styles if question == "unseen things" else held_out_style(STYLE, True)[0]
    items = getattr(things, part) if question == "unseen things" else np.arange(len(names))
    if question == "animals":
        items = np.flatnonzero(emoji.group == emoji.group_names.index(GROUP))
    styles = [emoji.styles.index(name) for name in known] if part == "train" else [emoji.styles.index(STYLE)]
    style, thing = np.array([(s, i) for s in styles for i in items if emoji.present[s, i]]).T
    return Named(torch.tensor(emoji.images[style, thing]), [names[i] for i in thing], thing)


@cache
def vocabulary(language: str) -> Vocabulary:
    """Return the characters of all names in English or Chinese; unseen things may need some of their own."""
    emoji = load_emoji()
    return Vocabulary(list(emoji.names if language == "English" else emoji.names_zh))
