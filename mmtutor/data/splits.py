"""Train, validation and test, fixed by name: by family, stratified, the same on every machine."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.sparse import csr_matrix

from .digits import load_digits
from .emoji import load_emoji
from .families import joined
from .files import read_only
from .tweets import load_tweets

SPLITS = ("emoji-things", "emoji-videos", "digits", "tweets")
SHARES = (0.70, 0.15)  # of train and validation; the rest is test

# Fluent and Fluent 3D are one drawing rendered twice (and the animations are that drawing, moving):
# one must never be tested on a model that has seen the other. Noto grew out of the blob drawings.
ONE_DRAWING = {"fluent": "fluent3d", "fluent3d": "fluent"}
RELATIVES = {"noto": "blob", "blob": "noto"}

NO_WORDS = frozenset(["anonymous", "http", "url_removed"])  # stand for what was taken out


@dataclass(frozen=True)
class Split:
    """Indices of the items to learn from, to choose by, and to test on; ascending, read-only int64.

    Attributes:
        train, validation, test: index arrays; together they hold every item once.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@cache
def split(name: str) -> Split:
    """Return the book's fixed split of a data set: 70 % train, 15 % validation, 15 % test.

    ``"emoji-things"`` indexes the N things, by family; ``"emoji-videos"`` the V animations, each on the
    side of its thing; ``"digits"`` the digits; ``"tweets"`` the texts. Twins are on one side: things with
    one picture (`inseparable_things`), scans and texts that are nearly the same (`digit_twins`,
    `tweet_twins`). Groups, classes and the signs of the ratings are cut alike.

    Args:
        name: one of `SPLITS`.

    Raises:
        ValueError: if there is no such split; the message lists those there are.

    Example:
        >>> part = split("digits")
        >>> len(part.train), len(part.validation), len(part.test)
        (1400, 299, 301)
    """
    if name == "emoji-things":
        emoji, first = load_emoji(), inseparable_things()
        return partition([emoji.hex[i] for i in first], emoji.group[first].tolist())
    if name == "emoji-videos":
        things, item = split("emoji-things"), load_emoji().video_item
        sides = (things.train, things.validation, things.test)
        return Split(*(read_only(np.flatnonzero(np.isin(item, side))) for side in sides))
    if name == "digits":
        digits, first = load_digits(), digit_twins()
        return partition([str(i) for i in first], digits.labels[first].tolist())
    if name == "tweets":
        tweets, first = load_tweets(), tweet_twins()
        return partition([tweets.texts[i] for i in first], np.sign(tweets.mean[first]).tolist())
    raise ValueError(f"split: expected one of {', '.join(SPLITS)}, found {name!r}")


@cache
def inseparable_things() -> np.ndarray:
    """Return for each emoji the first one that must be on its side of a split, (N,) int64.

    Inseparable are the things of one family, and two things with the same picture, pixel by pixel, in some
    style (Fluent draws *grinning cat* and *cat face* alike): a picture seen in training is no test.

    Example:
        >>> emoji, first = load_emoji(), inseparable_things()
        >>> emoji.names[first[emoji.names.index("cat face")]]
        'grinning cat'
    """
    emoji = load_emoji()
    marks: list[set] = [{family} for family in emoji.family.tolist()]
    for style, item in zip(*emoji.present.nonzero(), strict=True):
        marks[item].add((style, emoji.images[style, item].tobytes()))
    return read_only(np.array(joined(marks)))


@cache
def digit_twins() -> np.ndarray:
    """Return for each digit the first one that is the same scan, (N,) int64: itself, for most.

    More than half of the sixes exist a second time as a nine: the same scan, turned by half a turn. And a few
    digits exist twice as they are. Twins are digits whose pixels, upright or turned, differ by a squared
    distance below 150; that of two digits which resemble each other is near 1,000.

    Example:
        >>> int((np.bincount(digit_twins()) > 1).sum())
        123
    """
    x = load_digits().views["pixels"]
    marks: list[list] = [[i] for i in range(len(x))]
    for y in (x, x[:, ::-1]):  # the last pixel first: half a turn
        distance = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        for i, j in np.argwhere(distance < 150).tolist():
            marks[j].append(i)
    return read_only(np.array(joined(marks)))


@cache
def tweet_twins() -> np.ndarray:
    """Return for each text the first one that is nearly the same, (N,) int64: itself, for most.

    Some texts were made up from others: *STUPID rain!!* from *Stupid rain.* Twins are texts of three words or
    more that have six tenths of all their words in common, whatever their case and punctuation.

    Example:
        >>> texts, first = load_tweets().texts, tweet_twins()
        >>> texts[first[texts.index("STUPID rain!! STUPID treadmill HELL!!")]]
        'Stupid rain. Stupid treadmill hell.'
    """
    texts = [text.lower() for text in load_tweets().texts]
    words = [sorted(set(re.findall(r"[a-z0-9']+", text)) - NO_WORDS) for text in texts]
    column = {word: k for k, word in enumerate(sorted({word for own in words for word in own}))}
    rows = [i for i, own in enumerate(words) for _ in own]
    columns = [column[word] for own in words for word in own]
    has_word = csr_matrix((np.ones(len(rows)), (rows, columns)), (len(words), len(column)))
    common, size = (has_word @ has_word.T).tocoo(), np.array([len(own) for own in words])
    i, j = common.row, common.col
    twins = (common.data >= 0.6 * (size[i] + size[j] - common.data)) & (size[i] > 2) & (size[j] > 2)
    marks: list[list] = [[" ".join(text.split())] for text in texts]
    for first, second in zip(i[twins].tolist(), j[twins].tolist(), strict=True):
        marks[second].append(first)
    return read_only(np.array(joined(marks)))


def partition(keys: list[str], strata: list) -> Split:
    """Split items by key: those with equal keys go to one side, and each stratum is cut in the same shares.

    The keys of a stratum are ordered by their SHA-256, which is the same everywhere and for ever, and the
    ordered items are cut at 70 % and 85 %.

    Args:
        keys: N keys; what must stay together has one key.
        strata: N strata; a key counts for the stratum in which it first appears.

    Returns:
        A `Split` of the indices 0 … N-1.

    Example:
        >>> part = partition(["a", "a", *"bcdefghij"], [0] * 11)
        >>> len(part.train), len(part.validation), len(part.test)
        (7, 2, 2)
    """
    stratum: dict[str, object] = {}
    members: dict[str, list[int]] = {}
    for i, (key, value) in enumerate(zip(keys, strata, strict=True)):
        stratum.setdefault(key, value)
        members.setdefault(key, []).append(i)
    sides: tuple[list[int], list[int], list[int]] = ([], [], [])
    for value in dict.fromkeys(strata):
        of_value = [key for key in members if stratum[key] == value]
        of_value.sort(key=lambda key: hashlib.sha256(key.encode()).digest())
        total, before = sum(len(members[key]) for key in of_value), 0
        for key in of_value:
            middle = (before + len(members[key]) / 2) / total
            sides[(middle > SHARES[0]) + (middle > sum(SHARES))].extend(members[key])
            before += len(members[key])
    return Split(*(read_only(np.array(sorted(side), dtype=np.int64)) for side in sides))


def held_out_style(style: str, relatives: bool = True) -> tuple[tuple[str, ...], str]:
    """Return the styles to learn from when one drawing style is kept unseen.

    The other rendering of the same drawing (Fluent, Fluent 3D) is always left out.

    Args:
        style: the style to test on, one of ``load_emoji().styles``.
        relatives: whether a related drawing (Noto and blob) may be learnt from.

    Returns:
        The names of the training styles and the name of the test style.

    Raises:
        ValueError: if there is no such style; the message lists those there are.

    Example:
        >>> held_out_style("noto", relatives=False)
        (('twemoji', 'fluent', 'fluent3d'), 'noto')
    """
    styles = load_emoji().styles
    if style not in styles:
        raise ValueError(f"style: expected one of {', '.join(styles)}, found {style!r}")
    left_out = {style, ONE_DRAWING.get(style)}
    if not relatives:
        left_out.add(RELATIVES.get(style))
    return tuple(name for name in styles if name not in left_out), style
