"""Emoji as one thing in many modalities: drawings, animations, names and keywords, human sentiment."""

import csv
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from .families import families
from .files import FOLDER, read_arrays, read_bytes, read_lines, read_only

MOTIONS = ("horizontal", "vertical", "rotate", "in place")
STILL = 0.5  # pixels of a 48-pixel frame: an animation that moves less is "in place"


@dataclass(frozen=True)
class Emoji:
    """1,562 things in five drawing styles, with names in two languages; 692 of them also move.

    S styles, N things, V animations; arrays are read-only. ``N = 1562``, ``S = 5``, ``V = 692``.

    Attributes:
        images: (S, N, 32, 32, 3) uint8, RGB on white; white all over where ``present`` is False.
        present: (S, N) bool, whether the style draws the thing (only "blob" has gaps, 388 of them).
        styles: the S names of the styles.
        hex: the N hexcodes, the key shared by all sources; ``emoji``: the N characters.
        names, names_zh: the N names in English and Chinese.
        keywords, keywords_zh: N tuples of words.
        group, subgroup: (N,) int64, indices into ``group_names`` and ``subgroup_names``.
        family: (N,) int64, the same number for variants of one thing, 0 … F-1.
        videos: (V, 8, 32, 32, 3) uint8, RGB on white, one loop of the animation.
        video_item: (V,) int64, the thing that moves, an index into the N things, ascending.
        motion: (V,) int64, index into ``motion_names``, computed from ``motion_px``; -1 for zoom.
        motion_px: (V, 4) float32, standard deviation over a loop of the shift in x, the shift in y, the
            zoom and the rotation, in pixels of a 48-pixel frame (zoom and rotation at radius 14).
    """

    images: np.ndarray
    present: np.ndarray
    styles: tuple[str, ...]
    hex: tuple[str, ...]
    emoji: tuple[str, ...]
    names: tuple[str, ...]
    names_zh: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    keywords_zh: tuple[tuple[str, ...], ...]
    group: np.ndarray
    group_names: tuple[str, ...]
    subgroup: np.ndarray
    subgroup_names: tuple[str, ...]
    family: np.ndarray
    videos: np.ndarray
    video_item: np.ndarray
    motion: np.ndarray
    motion_names: tuple[str, ...]
    motion_px: np.ndarray

    def pictures(self, style: str) -> np.ndarray:
        """Return one style's pictures, (N, 32, 32, 3) uint8.

        Raises:
            ValueError: if there is no such style; the message lists those there are.

        Example:
            >>> load_emoji().pictures("twemoji").shape
            (1562, 32, 32, 3)
        """
        if style not in self.styles:
            raise ValueError(f"style: expected one of {', '.join(self.styles)}, found {style!r}")
        return self.images[self.styles.index(style)]


@dataclass(frozen=True)
class Sentiment:
    """How people use 726 of the things in tweets (Emoji Sentiment Ranking 1.0, CC BY-SA 4.0).

    Attributes:
        item: (R,) int64, the rated things, indices into the N things of `load_emoji`, ascending.
        counts: (R, 3) int64, uses in tweets that people labelled negative, neutral and positive.
        score: (R,) float32, (positive - negative) / (negative + neutral + positive), from -1 to 1.
    """

    item: np.ndarray
    counts: np.ndarray
    score: np.ndarray


@cache
def load_emoji(folder: Path = FOLDER) -> Emoji:
    """Load the emoji: pictures, animations, names, keywords, groups.

    Args:
        folder: where the data files lie; by default those shipped with the package.

    Returns:
        An `Emoji`; the same object on every call.

    Raises:
        DataError: if a file is missing, damaged or of another version.

    Example:
        >>> emoji = load_emoji()
        >>> emoji.images.shape, emoji.names[0], emoji.group_names[emoji.group[0]]
        ((5, 1562, 32, 32, 3), 'grinning face', 'smileys & emotion')
    """
    text = read_lines("emoji_text.jsonl", folder)
    pictures = read_arrays("emoji_pictures.npz", folder)
    animations = read_arrays("emoji_animations.npz", folder)
    hexcodes = tuple(row["hex"] for row in text)
    position = {code: i for i, code in enumerate(hexcodes)}
    names = tuple(row["name"] for row in text)
    group, group_names = _numbered([row["group"] for row in text])
    subgroup, subgroup_names = _numbered([row["subgroup"] for row in text])
    family, _ = _numbered(families(hexcodes, names))
    return Emoji(
        images=pictures["images"],
        present=pictures["present"],
        styles=tuple(pictures["styles"].tolist()),
        hex=hexcodes,
        emoji=tuple(row["emoji"] for row in text),
        names=names,
        names_zh=tuple(row["name_zh"] for row in text),
        keywords=tuple(tuple(row["keywords"]) for row in text),
        keywords_zh=tuple(tuple(row["keywords_zh"]) for row in text),
        group=group,
        group_names=group_names,
        subgroup=subgroup,
        subgroup_names=subgroup_names,
        family=family,
        videos=animations["videos"],
        video_item=read_only(np.array([position[code] for code in animations["hex"].tolist()])),
        motion=read_only(motion_label(animations["motion_px"])),
        motion_names=MOTIONS,
        motion_px=animations["motion_px"],
    )


@cache
def load_sentiment(folder: Path = FOLDER) -> Sentiment:
    """Load the human sentiment counts, aligned with the things of `load_emoji`.

    Args:
        folder: where the data files lie; by default those shipped with the package.

    Returns:
        A `Sentiment`; the same object on every call.

    Raises:
        DataError: if a file is missing, damaged or of another version.

    Example:
        >>> sentiment = load_sentiment()
        >>> often = sentiment.counts.sum(axis=1).argmax()
        >>> load_emoji().names[sentiment.item[often]], round(sentiment.score[often].item(), 2)
        ('face with tears of joy', 0.22)
    """
    position = {row["hex"]: i for i, row in enumerate(read_lines("emoji_text.jsonl", folder))}
    table = csv.DictReader(io.StringIO(read_bytes("emoji_sentiment.csv", folder).decode("utf-8")))
    rows = sorted(
        (position[row["hex"]], int(row["negative"]), int(row["neutral"]), int(row["positive"]))
        for row in table
    )
    item, counts = np.array([row[0] for row in rows]), np.array([row[1:] for row in rows])
    score = ((counts[:, 2] - counts[:, 0]) / counts.sum(1)).astype(np.float32)
    return Sentiment(read_only(item), read_only(counts), read_only(score))


def motion_label(motion_px: np.ndarray) -> np.ndarray:
    """Return how each animation mainly moves: the component with the largest standard deviation.

    Args:
        motion_px: (V, 4) standard deviations in pixels of x, y, zoom and rotation.

    Returns:
        (V,) int64 indices into `MOTIONS`: 3 where all are below half a pixel, -1 where zoom is largest.

    Example:
        >>> motion_label(np.array([[2.0, 0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 2.0], [0.1, 0.1, 0, 0]]))
        array([ 0, -1,  2,  3])
    """
    of_component = np.array(
        [MOTIONS.index("horizontal"), MOTIONS.index("vertical"), -1, MOTIONS.index("rotate")]
    )
    label = of_component[motion_px.argmax(axis=1)]
    return np.where(motion_px.max(axis=1) < STILL, MOTIONS.index("in place"), label)


def _numbered(values: list) -> tuple[np.ndarray, tuple]:
    """Number distinct values in the order of their first appearance."""
    names = tuple(dict.fromkeys(values))
    number = {name: i for i, name in enumerate(names)}
    return read_only(np.array([number[value] for value in values])), names
