"""Short texts rated by people from very negative to very positive."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from .files import FOLDER, read_lines, read_only


@dataclass(frozen=True)
class Tweets:
    """4,200 short texts, each rated by at least 20 people from -4 to 4 (Hutto & Gilbert 2014).

    4,000 are modelled on real tweets; 200 were made up to test ways of saying the same more strongly.

    Attributes:
        texts: the texts as published, ``@anonymous`` for names, ``&amp;`` and its like left as they are.
        mean: (4200,) float32, mean rating, -4 (extremely negative) to 4 (extremely positive).
        sd: (4200,) float32, standard deviation of the ratings.
    """

    texts: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray


@cache
def load_tweets(folder: Path = FOLDER) -> Tweets:
    """Load the rated texts.

    Args:
        folder: where the data files lie; by default those shipped with the package.

    Returns:
        A `Tweets`; the same object on every call.

    Raises:
        DataError: if a file is missing, damaged or of another version.

    Example:
        >>> tweets = load_tweets()
        >>> tweets.texts[3], round(tweets.mean[3].item(), 2)
        ('LMAO, AMAZING!', 2.86)
    """
    rows = read_lines("tweets.jsonl", folder)
    return Tweets(
        texts=tuple(row["text"] for row in rows),
        mean=read_only(np.array([row["mean"] for row in rows], dtype=np.float32)),
        sd=read_only(np.array([row["sd"] for row in rows], dtype=np.float32)),
    )
