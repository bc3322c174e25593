"""Baselines of naming that write nothing new: one answer for all, or the name of the most similar thing."""

from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from mmtutor.data import load_emoji

from .contrastive_baselines import small_centred
from .naming_tasks import Named, named

NAMES = ("constant", "nearest")
CANDIDATES, REFERENCES = 200, 300  # of the constant answer, and names that it is compared with


@dataclass
class Constant:
    """The same answer to everything."""

    answer: str

    def write(self, things: Named) -> list[str]:
        return [self.answer] * len(things.names)


@dataclass
class Nearest:
    """The name of the most similar training input: small centred pixels, or letters of the English name."""

    known: Named

    def write(self, things: Named) -> list[str]:
        if things.inputs.ndim == 4:
            similarity = small_centred(things.inputs) @ small_centred(self.known.inputs).T
            return [self.known.names[i] for i in similarity.argmax(1).tolist()]
        english = load_emoji().names
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        known = letters.fit_transform([english[i] for i in self.known.thing])
        asked = letters.transform([english[i] for i in things.thing])
        return [self.known.names[i] for i in np.asarray((asked @ known.T).argmax(1)).ravel()]


def fit(name: str, question: str) -> Constant | Nearest:
    """Return a baseline. ``"constant"`` is the training name with the largest mean chrF with other names.

    Raises:
        ValueError: for another name.
    """
    if name not in NAMES:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}; found {name!r}")
    side = named(question, "train")
    if name == "nearest":
        return Nearest(side)
    from .naming import chrf

    names, random = sorted({*side.names}), np.random.RandomState(0)
    candidates = [names[i] for i in random.permutation(len(names))[:CANDIDATES]]
    others = [names[i] for i in random.permutation(len(names))[:REFERENCES]]
    means = [chrf([candidate] * len(others), others).mean() for candidate in candidates]
    return Constant(candidates[int(np.argmax(means))])
