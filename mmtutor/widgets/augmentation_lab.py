"""An augmentation lab: change a picture, and see which known drawing it now looks like."""

import re
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import traitlets
from PIL import Image

from ..data import load_emoji
from .base import BookWidget, script, style
from .pack import webp
from .picture_changes import ASPECTS, CHANGES, HIDING_ORDER, SIDE, centred, measure

STYLE, KNOWN = "fluent", 360  # the book's known drawings: their style, their number


class AugmentationLab(BookWidget):
    r"""Choose a thing and a change; see what the change declares to preserve, and what the picture became.

    The page changes the picture as :data:`CHANGES` does, and ranks the N known drawings by the cosine of
    centred pixels, :math:`z'^\top z_n` with :func:`centred`. Beside it stands the share of all N things whose
    nearest drawing is still their own, measured here at every strength that the slider offers.

    Args:
        thing: name of the thing shown first.
        change: a key of :data:`CHANGES`.
        strength: one of the change's strengths; its own opening one if None.
        pictures: the known drawings, ``(N, 32, 32, 3)`` uint8; 360 of the book's if None.
        names: N different names; only with ``pictures``.
        choices: title -> names of the things to choose from; the first 60 if None.
        needs: name -> those of ``ASPECTS`` that the name speaks of ("left arrow": left and right, tilt); a
            change that gives one of them up is not safe for it.

    Traits that Python sees: ``thing`` (index), ``change``, ``strength`` and ``nearest`` (indices of the
    nearest drawings, nearest first).

    Raises:
        ValueError: if pictures and names do not fit, or a name, change, strength or aspect is unknown.

    Example:
        >>> pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
        >>> pictures[1] = pictures[0, :, ::-1]
        >>> lab = AugmentationLab("left", pictures=pictures, names=["left", "right"])
        >>> lab.rank(k=1)
        [('right', 1.0)]
    """

    _esm = script("picture_changes", "augmentation_lab")
    _css = style("augmentation_lab")

    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    pictures = traitlets.Bytes().tag(sync=True)
    groups = traitlets.List().tag(sync=True)
    aspects = traitlets.List(traitlets.Unicode()).tag(sync=True)
    needs = traitlets.List().tag(sync=True)
    changes = traitlets.List().tag(sync=True)
    order = traitlets.List(traitlets.Int()).tag(sync=True)
    thing = traitlets.Int().tag(sync=True)
    tip = traitlets.Unicode().tag(sync=True)
    change = traitlets.Unicode().tag(sync=True)
    strength = traitlets.Float().tag(sync=True)
    nearest = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(
        self,
        thing: str | None = None,
        change: str = "mirror",
        strength: float | None = None,
        *,
        pictures=None,
        names: Sequence[str] | None = None,
        choices: Mapping[str, Sequence[str]] | None = None,
        needs: Mapping[str, Sequence[str]] | None = None,
    ):
        if (pictures is None) != (names is None):
            raise ValueError("pictures, names: expected both or neither, found one of them")
        if pictures is None:
            pictures, names = _book_drawings()
            thing = thing or "left arrow"
            choices = {title: list(row) for title, row in CHOICES.items()} if choices is None else choices
            needs = {name: row[name] for row in CHOICES.values() for name in row} if needs is None else needs
            shares = _book_shares()
            tip = "turn the thumbs up by 180°, or take the red apple’s colour away."
        else:
            pictures = _checked(pictures, names)
            shares = measure(pictures)
            tip = "choose a thing and a change, then move the slider."
        names = [str(name) for name in names]
        choices = {"things": names[:60]} if choices is None else choices
        thing = names[0] if thing is None else thing
        if change not in CHANGES:
            raise ValueError(f"change: expected one of {', '.join(CHANGES)}, found {change!r}")
        strength = CHANGES[change].opening if strength is None else strength
        if strength not in CHANGES[change].strengths:
            stops = ", ".join(map(str, CHANGES[change].strengths))
            raise ValueError(f"strength: expected one of {stops}, found {strength}")
        place = {name: i for i, name in enumerate(names)}
        for name in [thing, *(name for row in choices.values() for name in row), *(needs or {})]:
            if name not in place:
                raise ValueError(f"names: expected {name!r} among the {len(names)} known, found it not there")
        for aspect in (aspect for row in (needs or {}).values() for aspect in row):
            if aspect not in ASPECTS:
                raise ValueError(f"needs: expected some of {', '.join(ASPECTS)}, found {aspect!r}")
        super().__init__(
            names=names,
            pictures=pictures.tobytes(),
            groups=[
                {"title": title, "things": [place[name] for name in row]} for title, row in choices.items()
            ],
            aspects=list(ASPECTS),
            needs=[[ASPECTS.index(aspect) for aspect in (needs or {}).get(name, ())] for name in names],
            changes=[_for_page(key, shares[key]) for key in CHANGES],
            order=HIDING_ORDER.tolist(),
            tip=tip,
            thing=place[thing],
            change=change,
            strength=strength,
        )
        self._known = pictures
        self._vectors = centred(pictures / 255)

    def _stop(self) -> int:
        """The slider's stop nearest to ``strength``: what the page shows."""
        strengths = CHANGES[self.change].strengths
        return min(range(len(strengths)), key=lambda i: abs(strengths[i] - self.strength))

    def changed(self) -> np.ndarray:
        """Return the chosen thing's picture after the change, ``(32, 32, 3)`` floats in 0..1."""
        change = CHANGES[self.change]
        return change.apply(self._known[[self.thing]] / 255, change.strengths[self._stop()])[0]

    def rank(self, k: int = 5) -> list[tuple[str, float]]:
        """Rank the known drawings by their similarity to the changed picture, as the page does.

        Args:
            k: how many of the nearest to return.

        Returns:
            Pairs of name and cosine similarity, nearest first, equally near ones as they are numbered; none
            if the picture became one even colour.
        """
        z = centred(self.changed()[None])[0]
        if not z.any():
            return []
        similarity = (self._vectors @ z).round(9)
        best = np.argsort(-similarity, kind="stable")[:k]
        return [(self.names[i], float(similarity[i])) for i in best]

    def share(self) -> float:
        """Return the share of all known things whose nearest drawing is still their own."""
        return next(change for change in self.changes if change["key"] == self.change)["shares"][self._stop()]

    def summary(self) -> str:
        found = ", ".join(f"{name} ({similarity:.2f})" for name, similarity in self.rank(k=3))
        change, stop = CHANGES[self.change], self._stop()
        done = change.words(change.strengths[stop]) if stop else "as it is"
        return (
            f"{self.names[self.thing]}, {done}: the nearest of "
            f"{len(self.names)} known drawings, with cosine similarity, are {found or 'none'}. Of all "
            f"{len(self.names)} things, {self.share():.0%} still have their own drawing nearest."
        )

    def picture(self) -> bytes:
        """Draw before and after side by side."""
        both = np.concatenate([self._known[self.thing] / 255, self.changed()], axis=1)
        image = Image.fromarray(np.rint(255 * both).astype(np.uint8))
        return webp(image.resize((256, 128), Image.Resampling.NEAREST), quality=60)

    def __repr__(self) -> str:
        return (
            f"AugmentationLab({self.names[self.thing]!r}, {self.change!r}, {len(self.names)} known drawings)"
        )


def _for_page(key: str, shares: Sequence[float]) -> dict:
    """What the page is told of a change: everything but the pixels' arithmetic, which it does itself."""
    change = CHANGES[key]
    return {
        "key": key,
        "name": change.name,
        "knob": change.knob,
        "strengths": list(change.strengths),
        "opening": change.opening,
        "labels": [change.label(s) for s in change.strengths],
        "words": [change.words(s) for s in change.strengths],
        "gives_up": [[ASPECTS.index(aspect) for aspect in change.gives_up(s)] for s in change.strengths],
        "shares": [round(share, 4) for share in shares],
    }


def _checked(pictures, names: Sequence[str]) -> np.ndarray:
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (SIDE, SIDE, 3) or not len(pictures):
        raise ValueError(
            f"pictures: expected shape (N, 32, 32, 3) uint8, found {pictures.shape} {pictures.dtype}"
        )
    if len(set(names)) != len(pictures):
        raise ValueError(f"names: expected {len(pictures)} different ones, found {len(set(names))}")
    return pictures


_SIDES, _UPRIGHT, _TILT, _COLOUR = ("left and right",), ("up and down",), ("tilt",), ("colour",)
_PARTS, _SIZED = ("every part",), ("size", "colour", "tilt")
CHOICES = {  # title -> name -> what the name speaks of
    "directions": {
        "left arrow": _SIDES + _TILT,
        "right arrow": _SIDES + _TILT,
        "up arrow": _UPRIGHT + _TILT,
        "up-right arrow": _SIDES + _UPRIGHT + _TILT,
        "thumbs up": _UPRIGHT,
        "thumbs down": _UPRIGHT,
        "left-facing fist": _SIDES,
        "magnifying glass tilted left": _SIDES + _TILT,
    },
    "signs": {
        "keycap: 6": _SIDES + _UPRIGHT,
        "keycap: 9": _SIDES + _UPRIGHT,
        "A button (blood type)": _UPRIGHT,
        "plus": _TILT,
        "red triangle pointed up": _UPRIGHT + _COLOUR,
        "three o’clock": _SIDES + _UPRIGHT + _TILT,
        "twelve o’clock": _UPRIGHT + _TILT,
        "first quarter moon": _SIDES,
    },
    "colours": dict.fromkeys(
        ["red circle", "green circle", "blue circle", "red heart", "green heart", "red apple", "green apple"]
        + ["blue book"],
        _COLOUR,
    ),
    "sizes": {
        f"{size} {colour} diamond": _SIZED for colour in ("orange", "blue") for size in ("large", "small")
    }
    | {f"black {size} square": _SIZED for size in ("large", "medium", "medium-small", "small")},
    "parts": dict.fromkeys(
        ["smiling face with tear", "smiling face with halo", "grinning face with sweat", "nest with eggs"]
        + ["bell with slash", "unlocked", "broken heart", "umbrella with rain drops"],
        _PARTS,
    ),
    "others": {
        "slightly smiling face": _UPRIGHT,
        "upside-down face": _UPRIGHT,
        "droplet": _COLOUR,
        "cat": (),
        "flexed biceps": (),
        "butterfly": (),
        "automobile": (),
        "pizza": (),
    },
}
_COLOURS = "red|pink|orange|yellow|green|blue|purple|brown|black|grey|white"
_RELATIVES = (  # what the things to choose from may be mistaken for
    f"^({_COLOURS}) (heart|circle|square|book|apple|cat)$",
    "(large|medium|small) (square|diamond)|triangle|closed book|minus|divide|^cross mark$|full moon$",
    "arrow|-facing fist|wards (pushing )?hand|palm (up|down)|^raised (back|hand)|magnifying|speech",
    "o’clock|-thirty|quarter moon$|(waxing|waning) (crescent|gibbous)|keycap: [0-9]|[ABO] button",
    "^(play|reverse|fast.*|upwards|downwards) button",
    "locked|nest|^bell|^drop|mechanical|(crying|neutral) face$",
)


@cache
def _book_drawings() -> tuple[np.ndarray, list[str]]:
    """The things to choose from, those they are mistaken for, and others from all over; no two look alike."""
    emoji = load_emoji()
    drawings = emoji.pictures(STYLE)
    z = centred(drawings / 255)
    chosen = [emoji.names.index(name) for row in CHOICES.values() for name in row]
    relatives = [i for i, name in enumerate(emoji.names) if re.search("|".join(_RELATIVES), name)]
    everything = np.random.default_rng(0).permutation(len(drawings)).tolist()
    known: list[int] = []
    for i in [*chosen, *relatives, *everything]:
        strange = i in chosen or emoji.family[i] not in emoji.family[known]
        if strange and i not in known and (z[known] @ z[i]).max(initial=-1) < 0.995:
            known.append(i)
    known = sorted(known[:KNOWN])
    return drawings[known], [emoji.names[i] for i in known]


@cache
def _book_shares() -> dict[str, list[float]]:
    return measure(_book_drawings()[0])
