"""An inspector of dual-modality attention: what each part looks at, and what the answer is without it."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import traitlets
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from ..dam import PARTS
from ..dtl import DTLNetwork, DTLOutput
from ..style import INK, MODALITY, TASK
from .attention_explorer import (
    LEVELS,
    TOLERANCE,
    _apportion,
    _check_pictures,
    _count,
    _digits,
    _percent,
    _rgb,
)
from .base import BookWidget, script, style
from .pack import sheet, to_numpy, webp

ROWS = COLUMNS = 4  # of the patches of a picture
PATCHES = ROWS * COLUMNS
MODALITIES = ("picture", "animation")
VIEWS = ("exchange", *PARTS)
FINE = 2**16 - 1  # levels of a probability
LARGEST_SIDE = 96  # of a picture on the sheet, in pixels
SURE = {90: "very sure", 70: "fairly sure", 50: "in doubt", 0: "guessing"}  # from so many percent on
QUESTION = "Which part changes its mind?"
# What each kind of weights holds: names, and the shape of each in T frames, P patches, N slots, K kinds.
SHAPES = {
    "exchange": {"picture": "P", "animation": "T"},
    "inter": {"frames to patches": "TP", "patches to frames": "T"},
    "composition": {"picture": "P", "animation": "T"},
    "mix": {"picture": "K", "animation": "K"},
    "hierarchical": {"picture": "P", "animation": "T"},
    "short": {"": "TT"},
    "long": {"write": "TN", "read": "TN"},
}
SHARE_OF_ONE = ("exchange, picture", "exchange, animation", "long, write")  # others: rows that sum to one


@dataclass(frozen=True, eq=False)
class Inspected:
    r"""What a network did with one thing: its weights, and its answer with each choice of its parts.

    Args:
        name: what the thing is called.
        picture: ``(H, H, 3)`` uint8.
        frames: ``(T, H, H, 3)`` uint8.
        answer: the right class, counted from 0.
        weights: of the exchange and of the parts, as far as there are any:

            * ``"exchange"``: ``{"picture": (16,), "animation": (T,)}``, how much was replaced, 0 to 1;
            * ``"inter"``: ``{"frames to patches": (T, 16), "patches to frames": (T,)}``, means over heads,
              the second over patches too;
            * ``"composition"``: ``{"picture": (16,), "animation": (T,)}``, and with it
              ``"mix"``: ``{"picture": {kind: share}, "animation": {kind: share}}``;
            * ``"hierarchical"``: ``{"picture": (16,), "animation": (T,)}``, with sum one over both;
            * ``"short"``: ``(T, T)``, row t over the frames before it;
            * ``"long"``: ``{"write": (T, N), "read": (T, N)}``, written shares are 0 to 1.

            Where nothing else is said, rows sum to one. A row of zeros is padding, or has nothing to look at.
        probabilities: of the classes, ``(2**k, C)``; the bits of a row's number say which of the ``k`` parts
            are on, the first part's bit being the lowest.

    Raises:
        ValueError: for other shapes, weights that are none, probabilities that do not sum to one, an answer
            that is no class.

    Example:
        >>> frames = np.zeros((2, 32, 32, 3), np.uint8)
        >>> weights = {"short": [[0, 0], [1, 0]]}
        >>> thing = Inspected("star", frames[0], frames, 1, weights, [[0.5, 0.5], [0.25, 0.75]])
        >>> thing.answer, len(thing.frames)
        (1, 2)
    """

    name: str
    picture: UInt8[np.ndarray, "height width 3"]
    frames: UInt8[np.ndarray, "frames height width 3"]
    answer: int
    weights: dict
    probabilities: Float[np.ndarray, "variants classes"]

    def __post_init__(self):
        _check_pictures(f"picture of {self.name!r}", self.picture, "(H, H, 3)", 3)
        _check_pictures(f"frames of {self.name!r}", self.frames, "(T, H, H, 3)", 4)
        for what, array in (("picture", self.picture), ("frames", self.frames)):
            if array.shape[-3] != array.shape[-2]:
                raise ValueError(f"{what} of {self.name!r}: expected squares, found {array.shape}")
        p = self._array("probabilities", self.probabilities)
        if p.ndim != 2 or not p.size:
            raise ValueError(f"probabilities of {self.name!r}: expected (2**k, C), found {p.shape}")
        self._check_sums("probabilities", p, "rows that sum to one", False)
        if not 0 <= self.answer < p.shape[1]:
            raise ValueError(f"answer of {self.name!r}: expected 0 to {p.shape[1] - 1}, found {self.answer}")
        self.blocks()

    def blocks(self) -> dict[str, np.ndarray]:
        """Return all weights as rectangles under names such as ``"inter, frames to patches"``, checked."""
        where = f"weights of {self.name!r}"
        if unknown := [key for key in self.weights if key not in SHAPES]:
            raise ValueError(f"{where}: expected some of {', '.join(SHAPES)}; found {unknown}")
        if ("composition" in self.weights) != ("mix" in self.weights):
            raise ValueError(f"{where}: expected composition and mix together, found {list(self.weights)}")
        found, sizes = {}, {"P": PATCHES, "T": len(self.frames)}
        for view in (view for view in SHAPES if view in self.weights):
            for key, array in self._parts_of(view).items():
                name = ", ".join(filter(None, [view, key]))
                array, shape = self._array(f"weights, {name},", array), SHAPES[view][key]
                if shape[-1] in "NK" and array.ndim:
                    sizes.setdefault(shape[-1], array.shape[-1])
                expected = tuple(sizes.get(size, 0) for size in shape)
                if array.shape != expected or not array.size:
                    raise ValueError(f"{where}, {name}: expected {expected}, found {array.shape}")
                found[name] = array.reshape(-1, array.shape[-1])
                if name in SHARE_OF_ONE:
                    if (array > 1 + TOLERANCE).any():
                        raise ValueError(f"{where}, {name}: expected 0 to 1, found {array.max():g}")
                    found[name] = found[name].clip(max=1)
                elif view != "hierarchical":
                    self._check_sums(f"weights, {name},", found[name], "rows that sum to one, or all zero")
        if "hierarchical" in self.weights:
            both = np.concatenate([found.pop(f"hierarchical, {m}") for m in MODALITIES], 1)
            expected = "picture and animation together to sum to one, or all zero"
            self._check_sums("weights, hierarchical,", both, expected)
            found["hierarchical"] = both
        if "short" in found and np.triu(found["short"]).any():
            t, j = np.argwhere(np.triu(found["short"]))[0]
            raise ValueError(
                f"{where}, short: expected weights on earlier frames, found {found['short'][t, j]:g} "
                f"at frame {t + 1} on frame {j + 1}"
            )
        return found

    def kinds(self) -> list[str]:
        """Return the kinds of attention that composition mixes."""
        return list(self.weights["mix"]["picture"]) if "mix" in self.weights else []

    def _parts_of(self, view: str) -> dict:
        """The arrays of one kind of weights, in the order of SHAPES."""
        given = {"": self.weights[view]} if view == "short" else self.weights[view]
        if not isinstance(given, Mapping) or sorted(given) != sorted(SHAPES[view]):
            keys = list(given) if isinstance(given, Mapping) else type(given).__name__
            raise ValueError(f"weights of {self.name!r}, {view}: expected {list(SHAPES[view])}, found {keys}")
        if view == "mix":
            if any(list(given[m]) != list(given["picture"]) for m in MODALITIES):
                found = {m: list(given[m]) for m in MODALITIES}
                raise ValueError(f"weights of {self.name!r}, mix: expected the same kinds, found {found}")
            return {m: list(given[m].values()) for m in MODALITIES}
        return {key: given[key] for key in SHAPES[view]}

    def _array(self, what: str, array) -> np.ndarray:
        array = to_numpy(array)
        wrong = ~(np.isfinite(array) & (array >= 0))
        if wrong.any():
            found = f"{array[wrong][0]:g} at {np.argwhere(wrong)[0].tolist()}"
            raise ValueError(f"{what} of {self.name!r}: expected finite numbers from 0, found {found}")
        return array

    def _check_sums(self, what: str, rows: np.ndarray, expected: str, zero: bool = True) -> None:
        total = rows.sum(1)
        wrong = (np.abs(total - 1) > TOLERANCE) & ~(zero & (total == 0))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{what} of {self.name!r}: expected {expected}, found a sum of {total[row]:g} in row {row}"
            )


class DAMInspector(BookWidget):
    r"""Choose a thing, switch parts off, step through the frames, and look into what each part does.

    Nothing is computed on the page: the answers with each of the :math:`2^k` choices of parts are recorded,
    and so are the weights. Rows of weights that sum to one are stored as
    :class:`~mmtutor.widgets.AttentionExplorer` stores them, off by less than :math:`1/255`; what is replaced
    or written in 255 steps, off by at most :math:`1/510`; probabilities in 65535 steps. Numbers here and on
    the page come from these. In words the network is very sure from 90% on, fairly sure from 70%, in doubt
    from 50%, and guesses below that.

    Args:
        things: one or more, with the same kinds of weights and as many frames.
        classes: names of the answers.
        parts: those that the network has, in the order of the bits of ``probabilities``.
        question: the question put to the reader.
        thing: the one shown first, counted from 0.
        frame: counted from 0.
        view: what is looked into, ``"exchange"`` or a part that the things have weights of. ``"inter"``
            stands for the first one there is if there is no inter.
        off: the parts that are off.

    Traits that Python sees: ``thing``, ``frame``, ``view`` and ``off``.

    Raises:
        ValueError: for no things, things with different weights or numbers of frames, unknown parts, another
            number of variants or classes, weights of a part that is not in ``parts``.
        traitlets.TraitError: for a thing, frame, view or part that is not there. Also when set later.

    Example:
        >>> frames = np.zeros((2, 32, 32, 3), np.uint8)
        >>> weights = {"short": [[0, 0], [1, 0]]}
        >>> star = Inspected("star", frames[0], frames, 1, weights, [[0.6, 0.4], [0.25, 0.75]])
        >>> inspector = DAMInspector([star], ["still", "moves"], ["short"], frame=1)
        >>> inspector
        DAMInspector(1 thing, 2 frames, parts: short)
        >>> inspector.values()["frames"], round(inspector.values()["probabilities"]["moves"], 3)
        ([1.0, 0.0], 0.75)
        >>> inspector.off = ["short"]
        >>> round(inspector.values()["probabilities"]["moves"], 3)
        0.4
    """

    _esm = script("dam_inspector")
    _css = style("dam_inspector")

    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    answers = traitlets.List(traitlets.Int()).tag(sync=True)
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    parts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    views = traitlets.List(traitlets.Unicode()).tag(sync=True)
    kinds = traitlets.List(traitlets.Unicode()).tag(sync=True)
    frame_count = traitlets.Int().tag(sync=True)
    layout_of_weights = traitlets.List().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    probabilities = traitlets.Bytes().tag(sync=True)
    sprite = traitlets.Bytes().tag(sync=True)
    sprite_size = traitlets.Int().tag(sync=True)
    sprite_columns = traitlets.Int().tag(sync=True)
    question = traitlets.Unicode().tag(sync=True)
    right_colour = traitlets.Unicode(TASK["what"]).tag(sync=True)
    thing = traitlets.Int().tag(sync=True)
    frame = traitlets.Int().tag(sync=True)
    view = traitlets.Unicode().tag(sync=True)
    off = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        things: Sequence[Inspected],
        classes: Sequence[str],
        parts: Sequence[str],
        *,
        question: str = QUESTION,
        thing: int = 0,
        frame: int = 0,
        view: str = "inter",
        off: Sequence[str] = (),
    ):
        blocks = _checked(things, classes, parts)
        first = things[0]
        self._stored = [{name: _stored(name, rows) for name, rows in of.items()} for of in blocks]
        variants = np.stack([to_numpy(one.probabilities) for one in things])
        self._variants = np.rint(FINE * variants / variants.sum(2, keepdims=True)).astype("<u2")
        views = [one for one in VIEWS if one in first.weights]
        pictures = [picture for one in things for picture in (one.picture, *one.frames)]
        size = min(LARGEST_SIDE, max(len(picture) for picture in pictures))
        file, columns = sheet(pictures, size, quality=90)
        self._pictures = [(one.picture, one.frames) for one in things]
        super().__init__(
            names=[one.name for one in things],
            answers=[int(one.answer) for one in things],
            classes=list(classes),
            parts=list(parts),
            views=views,
            kinds=first.kinds(),
            frame_count=len(first.frames),
            layout_of_weights=[[name, *rows.shape, name in SHARE_OF_ONE] for name, rows in blocks[0].items()],
            weights=b"".join(rows.tobytes() for of in self._stored for rows in of.values()),
            probabilities=self._variants.tobytes(),
            sprite=file,
            sprite_size=size,
            sprite_columns=columns,
            question=question,
            thing=thing,
            frame=frame,
            view=next(iter(views), "") if view == "inter" and "inter" not in views else view,
            off=list(off),
        )

    @traitlets.validate("thing", "frame")
    def _is_there(self, proposal) -> int:
        trait = proposal.trait.name
        count = len(self.names) if trait == "thing" else self.frame_count
        if not 0 <= proposal.value < count:
            raise traitlets.TraitError(f"{trait}: expected 0 to {count - 1}, found {proposal.value}")
        return proposal.value

    @traitlets.validate("view")
    def _is_a_view(self, proposal) -> str:
        if proposal.value not in (self.views or [""]):
            expected = ", ".join(self.views)
            raise traitlets.TraitError(f"view: expected one of {expected}; found {proposal.value!r}")
        return proposal.value

    @traitlets.validate("off")
    def _are_parts(self, proposal) -> list[str]:
        if unknown := [part for part in proposal.value if part not in self.parts]:
            raise traitlets.TraitError(f"off: expected some of {', '.join(self.parts)}; found {unknown}")
        return [part for part in self.parts if part in proposal.value]

    def _rows(self, name: str) -> list[list[float]]:
        """Weights of the chosen thing, from what is stored; sums are of whole numbers, as on the page."""
        rows = self._stored[self.thing][name].tolist()
        if name in SHARE_OF_ONE:
            return [[q / LEVELS for q in row] for row in rows]
        return [[q / (sum(row) or 1) for q in row] for row in rows]

    def _probabilities(self, off: Sequence[str]) -> list[float]:
        row = sum(1 << bit for bit, part in enumerate(self.parts) if part not in off)
        stored = self._variants[self.thing, row].tolist()
        return [q / sum(stored) for q in stored]

    def values(self) -> dict:
        """Return what the page shows, from the same rounded numbers.

        Returns:
            ``"probabilities"`` by class, with the parts that are on; ``"patches"`` and ``"frames"``, what is
            painted on each, or None; ``"mix"``, by modality the share of each kind, ``"write"`` and
            ``"read"``, a row for each frame, or None.
        """
        view, found = self.view, dict.fromkeys(("patches", "frames", "mix", "write", "read"))
        if view in ("exchange", "composition"):
            found["patches"], found["frames"] = (self._rows(f"{view}, {m}")[0] for m in MODALITIES)
        if view == "composition":
            shares = {m: self._rows(f"mix, {m}")[0] for m in MODALITIES}
            found["mix"] = {m: dict(zip(self.kinds, x, strict=True)) for m, x in shares.items()}
        if view == "inter":
            found["patches"] = self._rows("inter, frames to patches")[self.frame]
            found["frames"] = self._rows("inter, patches to frames")[0]
        if view == "hierarchical":
            both = self._rows("hierarchical")[0]
            found["patches"], found["frames"] = both[:PATCHES], both[PATCHES:]
        if view == "short":
            found["frames"] = self._rows("short")[self.frame]
        if view == "long":
            found["write"], found["read"] = self._rows("long, write"), self._rows("long, read")
        p = self._probabilities(self.off)
        return {"probabilities": dict(zip(self.classes, p, strict=True)), **found}

    def summary(self) -> str:
        parts = f"the parts {_listed(self.parts)}" if self.parts else "no parts"
        return (
            f"A DTL network with {parts} has read {_count(len(self.names), 'thing', 'things')}: a picture of "
            f"{PATCHES} patches and {_count(self.frame_count, 'frame', 'frames')} of each. "
            f"{self._answer_in_words()} {self._view_in_words()}".rstrip()
        )

    def _answer_in_words(self) -> str:
        """What the network answers, and whether it would with all parts; the page says the same."""
        p, whole, right = self._probabilities(self.off), self._probabilities(()), self.answers[self.thing]
        said, before = p.index(max(p)), whole.index(max(whole))
        sure = next(words for least, words in SURE.items() if math.floor(100 * p[said] + 0.5) >= least)
        parts = "With all parts on it"
        if self.off:
            every = len(self.off) == len(self.parts) > 1
            parts = f"Without {'any part' if every else _listed(self.off)} it"
        words = (
            f"“{self.names[self.thing]}”. {parts if self.parts else 'It'} says “{self.classes[said]}”, "
            f"{_percent(p[said], 0)}, {sure}: "
            f"{'right' if said == right else f'wrong, it is “{self.classes[right]}”'}."
        )
        if self.off and said == before:
            words += f" With all parts on it says the same, {_percent(whole[before], 0)}."
        elif self.off:
            share = _percent(whole[before], 0)
            words += f" It changed its mind: with all parts on it says “{self.classes[before]}”, {share}."
        return words

    def _view_in_words(self) -> str:
        """What is seen of the chosen part at the chosen frame; the page says the same."""
        if not self.view:
            return ""
        return f"{self.view.capitalize()}. {getattr(self, f'_{self.view}_in_words')(self.values())}"

    def _exchange_in_words(self, found: dict) -> str:
        patches = _replaced("patch", "patches", found["patches"], _patch)
        frames = _replaced("frame", "frames", found["frames"], _frame)
        return f"{patches} {frames} Of frame {self.frame + 1}, {_percent(found['frames'][self.frame], 0)}."

    def _inter_in_words(self, found: dict) -> str:
        t = self.frame
        words = f"Frame {t + 1} looks at no patch: it or the picture is padding."
        if any(found["patches"]):
            words = f"Frame {t + 1} looks most at {_most(found['patches'], _patch, 2)}."
        if not any(found["frames"]):
            return f"{words} No patch looks at a frame."
        words += f" The patches look most at {_most(found['frames'], _frame, 1)}"
        return f"{words}{self._and_here(found['frames'])}."

    def _composition_in_words(self, found: dict) -> str:
        said = []
        for m, weights, name in zip(
            MODALITIES, (found["patches"], found["frames"]), (_patch, _frame), strict=True
        ):
            words = "no weights, it is padding"
            if any(weights):
                here = self._and_here(weights) if m == "animation" else ""
                words = f"most on {_most(weights, name, 1)}{here}"
            mix = [f"{_percent(share, 0)} {kind}" for kind, share in found["mix"][m].items()]
            said.append(f"{m.capitalize()}: {words}; the look is {_listed(mix)}.")
        return " ".join(said)

    def _hierarchical_in_words(self, found: dict) -> str:
        both = self._stored[self.thing]["hierarchical"][0].tolist()
        if not any(both):
            return "There are no weights: all is padding."
        pictures, frames = sum(both[:PATCHES]) / sum(both), sum(both[PATCHES:]) / sum(both)
        words = [f"Of all weight {_percent(pictures, 0)} is on the picture"]
        words[0] += f", most on {_most(found['patches'], _patch, 1)}." if pictures else "."
        words.append(f"On the animation it is {_percent(frames, 0)}")
        words[1] += (
            f", most on {_most(found['frames'], _frame, 1)}{self._and_here(found['frames'])}."
            if frames
            else "."
        )
        return " ".join(words)

    def _short_in_words(self, found: dict) -> str:
        t = self.frame
        if t == 0:
            return "Frame 1 is the first: there is no earlier one to look at."
        if not any(found["frames"]):
            return f"Frame {t + 1} looks at no earlier one: it is padding, or those before it are."
        return f"Frame {t + 1} looks back most at {_most(found['frames'], _frame, 2)}."

    def _long_in_words(self, found: dict) -> str:
        t, write, read = self.frame, found["write"][self.frame], found["read"][self.frame]
        if not any(read):
            return f"Frame {t + 1} neither writes nor reads: it is padding."
        n, slot = write.index(max(write)), read.index(max(read))
        wrote = f"Frame {t + 1} writes {_percent(write[n], 0)} of slot {n + 1}"
        if not any(any(earlier) for earlier in found["write"][:t]):
            return f"{wrote}; what it reads is empty, since nothing was written before."
        return f"{wrote} and reads mostly slot {slot + 1} ({_percent(read[slot], 0)})."

    def _and_here(self, frames: list[float]) -> str:
        """How much the chosen frame has, if it is not the one that has most."""
        if frames.index(max(frames)) == self.frame:
            return ""
        share = _percent(frames[self.frame], _digits(max(frames)))
        return f", frame {self.frame + 1} has {share}"

    def picture(self) -> bytes:
        """Draw the picture and the frames with their weights, the chosen frame framed, and the answer."""
        found = self.values()
        count = self.frame_count
        across = min(count, 8)
        image = Image.new("RGB", (480, 168 + 46 * (math.ceil(count / across) - 1)), "white")
        draw, colour = ImageDraw.Draw(image), _rgb(MODALITY["view"])
        picture, frames = self._pictures[self.thing]

        def paint(array: np.ndarray, x: int, y: int, side: int) -> None:
            image.paste(Image.fromarray(array).resize((side, side), Image.Resampling.NEAREST), (x, y))

        def square(x: float, y: float, side: float, share: float) -> None:
            half = side * math.sqrt(share) / 2
            if share:
                draw.rectangle([x - half, y - half, x + half, y + half], fill=colour, outline="white")

        paint(picture, 6, 6, 112)
        patches, painted = found["patches"] or [0.0] * PATCHES, found["frames"] or [0.0] * count
        for j, share in enumerate(patches):
            square(20 + 28 * (j % COLUMNS), 20 + 28 * (j // COLUMNS), 26, share / (max(patches) or 1))
        for t, share in enumerate(painted):
            x, y = 130 + 43 * (t % across), 6 + 46 * (t // across)
            paint(frames[t], x, y, 40)
            square(x + 10, y + 30, 18, share / (max(painted) or 1))
            if t == self.frame:
                draw.rectangle([x - 2, y - 2, x + 41, y + 41], outline="black", width=2)
        top = image.height - 112
        p = list(found["probabilities"].values())
        for c, share in enumerate(p):
            width = 340 / len(p)
            x, fill = 130 + c * width, TASK["what"] if c == self.answers[self.thing] else MODALITY["view"]
            draw.rectangle([x, top + 98 - 90 * share, x + max(1, width - 6), top + 98], fill=fill)
        draw.line([130, top + 99, 474, top + 99], fill=INK)
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return (
            f"DAMInspector({_count(len(self.names), 'thing', 'things')}, "
            f"{_count(self.frame_count, 'frame', 'frames')}, parts: {', '.join(self.parts) or 'none'})"
        )


def inspected(
    model: DTLNetwork,
    inputs: dict[str, Tensor],
    names: Sequence[str],
    answers: Sequence[int],
    valid: dict[str, Tensor] | None = None,
) -> list[Inspected]:
    """Run a network over some things: once for its weights, once for each choice of parts that are off.

    A copy of the model runs, on its device, without dropout and gradients.

    Args:
        model: of the modalities ``"picture"`` (16 tokens) and ``"animation"``. Memories are shown if they
            remember the animation.
        inputs: ``"picture"``, ``(N, 3, 32, 32)``, and ``"animation"``, ``(N, T, 6, 32, 32)``, from -1 to 1.
        names: of the N things.
        answers: the right classes.
        valid: as in :class:`~mmtutor.dtl.DTLNetwork`; by default all is real.

    Returns:
        One for each thing; bits of ``probabilities`` are in the order of ``model.dam.parts``.

    Raises:
        ValueError: for other modalities or shapes, numbers outside of -1 to 1, another number of names or
            answers, a network whose pictures have other than 16 tokens.

    Example:
        >>> from mmtutor.dtl import Extractor, residual_body
        >>> extractors = {m: Extractor(8, residual_body(4)) for m in MODALITIES}
        >>> model = DTLNetwork(extractors, dict.fromkeys(MODALITIES, 8), dim=8, classes=4, parts=["inter"])
        >>> inputs = {"picture": torch.zeros(2, 3, 32, 32), "animation": torch.zeros(2, 8, 6, 32, 32)}
        >>> star, moon = inspected(model, inputs, ["star", "moon"], [0, 3])
        >>> star.probabilities.shape, star.weights["inter"]["frames to patches"].shape
        ((2, 4), (8, 16))
    """
    if sorted(model.modalities) != sorted(MODALITIES):
        raise ValueError(f"model: expected the modalities {list(MODALITIES)}, found {model.modalities}")
    pictures = _as_pictures(inputs)
    N = len(pictures["picture"])
    for what, given in (("names", names), ("answers", answers)):
        if len(given) != N:
            raise ValueError(f"{what}: expected {N}, one for each thing; found {len(given)}")
    model = copy.deepcopy(model).eval()  # the caller's may go on training
    device = next(model.parameters()).device
    inputs = {m: x.to(device) for m, x in inputs.items()}
    valid = None if valid is None else {m: x.to(device) for m, x in valid.items()}
    parts = list(model.dam.parts)
    variants = []
    with torch.no_grad():
        for row in range(2 ** len(parts)):  # the last has all parts on
            off = [part for bit, part in enumerate(parts) if not row >> bit & 1]
            out = model(inputs, valid, off)
            variants.append(out.logits.double().softmax(1).cpu())
    probabilities, weights = torch.stack(variants, 1).numpy(), _weights_of(model, out)
    return [
        Inspected(
            names[n],
            pictures["picture"][n],
            pictures["animation"][n],
            int(answers[n]),
            _at(weights, n),
            probabilities[n],
        )
        for n in range(N)
    ]


def _as_pictures(inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The first three channels as uint8, ``(…, 32, 32, 3)``, after a check of the inputs."""
    if sorted(inputs) != sorted(MODALITIES):
        raise ValueError(f"inputs: expected {list(MODALITIES)}, found {list(inputs)}")
    pictures = {}
    for m, axes in (("picture", 4), ("animation", 5)):
        x, shape = inputs[m], "(N, 3, 32, 32)" if m == "picture" else "(N, T, 6, 32, 32)"
        if x.ndim != axes or x.shape[-3] < 3 or x.shape[-2:] != (32, 32) or not x.numel():
            raise ValueError(f"{m}: expected {shape}, found {tuple(x.shape)}")
        x = x.detach()[..., :3, :, :].cpu().double()
        if not (x.isfinite().all() and x.abs().max() <= 1 + TOLERANCE):
            raise ValueError(f"{m}: expected numbers from -1 to 1, found {x.min():g} to {x.max():g}")
        pictures[m] = ((x + 1) * 127.5).round().clamp(0, 255).byte().movedim(-3, -1).numpy()
    if len(inputs["picture"]) != len(inputs["animation"]):
        found = f"{len(inputs['picture'])} and {len(inputs['animation'])}"
        raise ValueError(f"inputs: expected as many pictures as animations, found {found}")
    return pictures


def _weights_of(model: DTLNetwork, out: DTLOutput) -> dict:
    """A network's weights as :class:`Inspected` names them, still of all things together."""
    found = {
        name: out.weights[name] for name in ("exchange", "composition", "hierarchical") if name in out.weights
    }
    if "inter" in out.weights:
        pairs = out.weights["inter"]
        asked = pairs["picture", "animation"].mean(1)  # (B, patches, T); a picture is real or it is not
        found["inter"] = {
            "frames to patches": pairs["animation", "picture"].mean(1),
            "patches to frames": asked.mean(1),
        }
    if "mix" in out.weights:
        kinds = model.dam.parts["composition"].kinds
        found["mix"] = {m: dict(zip(kinds, out.weights["mix"][m].unbind(1), strict=True)) for m in MODALITIES}
    for memory in ("short", "long"):
        if "animation" in out.weights.get(memory, {}):
            found[memory] = out.weights[memory]["animation"]
    return found


def _at(weights, n: int):
    """The weights of one thing."""
    if isinstance(weights, dict):
        return {key: _at(of, n) for key, of in weights.items()}
    one = to_numpy(weights[n])
    return one if one.ndim else float(one)


def _checked(
    things: Sequence[Inspected], classes: Sequence[str], parts: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """The weights of all things, after a check that they can be shown together."""
    if not len(things):
        raise ValueError("things: expected at least one, found none")
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"parts: expected some of {', '.join(PARTS)}; found {unknown}")
    if len(set(parts)) < len(parts):
        raise ValueError(f"parts: expected each once, found {list(parts)}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes: expected different names, found {list(classes)}")
    blocks = [one.blocks() for one in things]
    first = {name: rows.shape for name, rows in blocks[0].items()}
    for one, of in zip(things, blocks, strict=True):
        variants, expected = to_numpy(one.probabilities).shape, (2 ** len(parts), len(classes))
        if variants != expected:
            raise ValueError(f"probabilities of {one.name!r}: expected {expected}, found {variants}")
        if len(one.frames) != len(things[0].frames):
            expected = f"{len(things[0].frames)}, as of {things[0].name!r}"
            raise ValueError(f"frames of {one.name!r}: expected {expected}; found {len(one.frames)}")
        shapes = {name: rows.shape for name, rows in of.items()}
        if shapes != first or one.kinds() != things[0].kinds():
            raise ValueError(
                f"weights of {one.name!r}: expected those of {things[0].name!r}, {first} and kinds "
                f"{things[0].kinds()}; found {shapes} and kinds {one.kinds()}"
            )
        views = [view for view in one.weights if view in PARTS]
        if other := [view for view in views if view not in parts]:
            raise ValueError(f"weights of {one.name!r}: expected those of {list(parts)}, found {other}")
    return blocks


def _stored(name: str, rows: np.ndarray) -> UInt8[np.ndarray, "rows columns"]:
    """Whole numbers up to 255; of half of one less, so that half replaced is not more than half."""
    if name in SHARE_OF_ONE:
        return np.ceil(LEVELS * rows - 0.5).clip(0).astype(np.uint8)
    total = rows.sum(1, keepdims=True)
    return _apportion(rows / np.where(total > 0, total, 1))


def _patch(j: int) -> str:
    return f"row {j // COLUMNS + 1}, column {j % COLUMNS + 1}"


def _frame(t: int) -> str:
    return f"frame {t + 1}"


def _most(weights: list[float], name, count: int) -> str:
    """The largest weights in words, equal ones in order, none that is zero."""
    order = sorted(range(len(weights)), key=lambda j: -weights[j])[:count]
    digits = _digits(max(weights))
    return ", then ".join(f"{name(j)} ({_percent(weights[j], digits)})" for j in order if weights[j])


def _replaced(one: str, several: str, levels: list[float], name) -> str:
    if not any(levels):
        return f"No {one} is replaced."
    count = sum(level > 0.5 for level in levels)
    return (
        f"{count} of {len(levels)} {several} {'is' if count == 1 else 'are'} replaced by more than half; "
        f"most of all {_most(levels, name, 1)}."
    )


def _listed(words: Sequence[str]) -> str:
    """Words with commas and a last "and"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
