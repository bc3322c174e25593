"""Changes of a picture that a slider sets, and the known drawing that a changed picture resembles most.

``picture_changes.js`` holds the same arithmetic for the page.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SIDE, PATCH = 32, 4  # pixels of a picture's side, and of a hidden patch's
BLANK = 1e-6  # a picture that differs less than this from one even colour resembles nothing
ASPECTS = ("left and right", "up and down", "tilt", "place", "size", "colour", "every part")
LUMA = np.array([0.299, 0.587, 0.114])
HIDING_ORDER = np.random.default_rng(0).permutation((SIDE // PATCH) ** 2)


@dataclass(frozen=True)
class Change:
    """A change of a picture whose strength a slider sets.

    Attributes:
        name: what the reader chooses; ``knob``: what the slider is called.
        strengths: the slider's stops; the first leaves the picture as it is.
        opening: the strength shown first.
        label: strength -> the slider's value in words; ``words``: what was done to the thing.
        apply: pictures ``(N, 32, 32, 3)`` in 0..1 and a strength -> pictures of the same shape.
        gives_up: strength -> those of ``ASPECTS`` that the change no longer preserves.
    """

    name: str
    knob: str
    strengths: tuple[float, ...]
    opening: float
    label: Callable[[float], str]
    words: Callable[[float], str]
    apply: Callable[[np.ndarray, float], np.ndarray]
    gives_up: Callable[[float], Sequence[str]]


def look_up(pictures: np.ndarray, matrix, shift=(0.0, 0.0)) -> np.ndarray:
    r"""Build pictures whose pixel at :math:`p` is the old pixel at :math:`A(p-c)+c+t`.

    Coordinates are ``(x, y)`` of a pixel's centre, y downwards, and c is the picture's centre. Between pixels
    the look-up is bilinear; outside of the picture is white.

    Args:
        pictures: ``(N, 32, 32, 3)`` floats, white = 1.
        matrix: A, ``(2, 2)``.
        shift: t, in pixels.

    Returns:
        Pictures of the same shape.

    Example:
        >>> picture = np.random.rand(1, 32, 32, 3)
        >>> mirrored = look_up(picture, [[-1, 0], [0, 1]])
        >>> np.allclose(mirrored, picture[:, :, ::-1])
        True
    """
    centre = (SIDE - 1) / 2
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1) - centre
    (a, b), (c, d) = matrix
    x, y = a * x + b * y + centre + shift[0], c * x + d * y + centre + shift[1]
    left, top = np.floor(x), np.floor(y)
    ink = pictures.transpose(1, 2, 0, 3).reshape(SIDE * SIDE, -1) - 1  # pixel by pixel; nothing on white
    found = np.zeros_like(ink)
    for column, row, weight in (
        (left, top, (left + 1 - x) * (top + 1 - y)),
        (left + 1, top, (x - left) * (top + 1 - y)),
        (left, top + 1, (left + 1 - x) * (y - top)),
        (left + 1, top + 1, (x - left) * (y - top)),
    ):
        on = np.flatnonzero((column >= 0) & (column < SIDE) & (row >= 0) & (row < SIDE) & (weight > 0))
        source = (row[on] * SIDE + column[on]).astype(int)
        found[on] += weight[on, None].astype(ink.dtype) * ink[source]
    return found.reshape(SIDE, SIDE, -1, 3).transpose(2, 0, 1, 3) + 1


def _turn(pictures: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return look_up(pictures, [[cos, sin], [-sin, cos]])


def _hide(pictures: np.ndarray, share: float) -> np.ndarray:
    """Fill a share of the patches with the picture's mean colour, always in the same order."""
    patch = np.arange(SIDE) // PATCH
    number = patch[:, None] * (SIDE // PATCH) + patch
    hidden = np.isin(number, HIDING_ORDER[: round(share * len(HIDING_ORDER))])
    return np.where(hidden[..., None], pictures.mean((1, 2), keepdims=True), pictures)


def _hue(pictures: np.ndarray, degrees: float) -> np.ndarray:
    """Turn the colours about the axis of greys; white stays white, and red becomes green at 120 degrees."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    same, before, after = (1 + 2 * cos) / 3, (1 - cos) / 3 - sin / 3**0.5, (1 - cos) / 3 + sin / 3**0.5
    matrix = np.array([[same, before, after], [after, same, before], [before, after, same]], pictures.dtype)
    return (pictures @ matrix.T).clip(0, 1)


def _grey(pictures: np.ndarray, share: float) -> np.ndarray:
    """Mix with the brightness, ``0.299 R + 0.587 G + 0.114 B``."""
    return (1 - share) * pictures + share * (pictures @ LUMA.astype(pictures.dtype))[..., None]


def _turn_gives_up(degrees: float) -> list[str]:
    """Beyond 15 degrees lines change their tilt, but not by half a turn; from 45 on sides change places."""
    tilted = 15 < degrees % 180 < 165
    return ["left and right", "up and down"] * (45 <= degrees <= 315) + ["tilt"] * tilted


def _steps(count: int, last: float, first: float = 0.0) -> tuple[float, ...]:
    return tuple(round(first + (last - first) * i / count, 4) for i in range(count + 1))


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _switch(done: str, name: str, matrix, gives_up: str) -> Change:
    return Change(
        name, "strength", (0.0, 1.0), 1.0, lambda s: done if s else "as it is", lambda s: done,
        lambda x, s: look_up(x, matrix) if s else x, lambda s: [gives_up] if s else [],
    )  # fmt: skip


CHANGES: dict[str, Change] = {
    "mirror": _switch("mirrored", "mirror (left for right)", [[-1, 0], [0, 1]], "left and right"),
    "flip": _switch("flipped", "flip (top for bottom)", [[1, 0], [0, -1]], "up and down"),
    "turn": Change(
        "turn", "angle", _steps(24, 360), 180, lambda s: f"{s:.0f}°", lambda s: f"turned by {s:.0f}°",
        _turn, _turn_gives_up,
    ),
    "move": Change(
        "move to the right", "distance", _steps(16, 16), 4, lambda s: f"{s:.0f} px",
        lambda s: f"moved by {s:.0f} pixels", lambda x, s: look_up(x, np.eye(2), (-s, 0)),
        lambda s: ["place"] * (s > 0) + ["every part"] * (s >= 4),
    ),
    "shrink": Change(
        "make smaller", "size", _steps(14, 0.3, 1.0), 0.7, _percent, lambda s: f"shrunk to {s:.0%}",
        lambda x, s: look_up(x, np.eye(2) / s), lambda s: ["size"] * (s < 0.85),
    ),
    "crop": Change(
        "crop the middle", "side kept", _steps(14, 0.3, 1.0), 0.7, _percent,
        lambda s: f"cropped to {s:.0%}", lambda x, s: look_up(x, np.eye(2) * s),
        lambda s: ["size", "every part"] * (s < 0.85),
    ),
    "mask": Change(
        "hide patches", "share hidden", _steps(15, 15 / 16), 0.5, _percent,
        lambda s: f"{s:.0%} hidden", _hide, lambda s: ["every part"] * (s > 0),
    ),
    "hue": Change(
        "turn the hue", "angle", _steps(24, 360), 120, lambda s: f"{s:.0f}°",
        lambda s: f"hue turned by {s:.0f}°", _hue, lambda s: ["colour"] * (15 < s < 345),
    ),
    "grey": Change(
        "take the colour away", "share taken", _steps(10, 1.0), 1.0, _percent,
        lambda s: f"{s:.0%} of its colour gone", _grey, lambda s: ["colour"] * (s > 0.25),
    ),
}  # fmt: skip


def centred(pictures: np.ndarray) -> np.ndarray:
    """Shrink to 16 x 16 by averages, subtract each picture's mean colour, make unit vectors.

    The cosine of such vectors does not see contrast: a pale grey disc and a black one are the same to it.

    Args:
        pictures: ``(N, 32, 32, 3)`` floats.

    Returns:
        ``(N, 768)``; zero for a picture of one even colour.

    Example:
        >>> centred(np.random.rand(2, 32, 32, 3)).shape, centred(np.ones((1, 32, 32, 3))).max().item()
        ((2, 768), 0.0)
    """
    rows = pictures[:, ::2] + pictures[:, 1::2]
    small = (rows[:, :, ::2] + rows[:, :, 1::2]) / 4
    x = (small - small.mean((1, 2), keepdims=True)).reshape(len(pictures), -1)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.where(length > BLANK, x / np.maximum(length, BLANK), 0)


def measure(pictures: np.ndarray) -> dict[str, list[float]]:
    """Measure, for each change and strength, the share of things whose nearest drawing is still their own.

    Args:
        pictures: the known drawings, ``(N, 32, 32, 3)`` uint8.

    Returns:
        Change -> a share for each of its strengths. A picture that became blank has no nearest drawing.

    Example:
        >>> measure(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))["mirror"][0]
        1.0
    """
    known = (pictures / 255).astype(np.float32)
    vectors = centred(known)
    own = np.arange(len(known))

    def share(change: Change, strength: float) -> float:
        similarity = centred(change.apply(known, strength)) @ vectors.T
        return float(np.mean((similarity.argmax(1) == own) & (similarity[own, own] > 0)))

    return {key: [share(change, s) for s in change.strengths] for key, change in CHANGES.items()}
