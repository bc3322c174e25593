"""Follow one thing through the maps: into the shared space, out of it by every task, with arrows to cut."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import traitlets
from PIL import Image, ImageDraw
from torch.nn.functional import adaptive_avg_pool2d

from ..style import INK, MODALITY
from .base import BookWidget, script, style
from .pack import quantise, sheet, to_numpy, webp

MODALITIES = ("image", "video", "text")
TILE = 32  # pixels of a picture or frame on the sheet
FRAMES = 8  # of an animation, evenly spaced
SIDE = 16  # cells of an activation map, at most


class MapsWalk(BookWidget):
    r"""Choose a thing, cut arrows, and see what the rest of the diagram still answers.

    The page holds the points :math:`z_m=f_m(x_m)` of N things and the heads' weights, and computes
    :math:`q_t\circ\phi` itself. Fusion :math:`\phi` is the mean of the unit vectors that are there and whose
    arrows are not cut, zero if none is; a head is :math:`q_t(z)=sW_tz+b_t`, its answer the largest score.

    Args:
        points: modality (image, video, text) to its points ``(N, D)``; made unit vectors here.
        heads: task to weight ``(C, D)`` and bias ``(C,)``.
        answers: task to the C things it can say.
        truth: task to N right answers: an index, several, or -1 where none is known.
        measured: the modalities whose arrows are whole, a tuple, to task to the share of *all* test things
            that is answered right with exactly these; what was not measured is left out.
        names: N names.
        pictures: ``(N, 32, 32, 3)`` uint8.
        frames: N animations ``(L, 32, 32, 3)`` uint8, None for a thing without one; its point is not used.
        stops: modality to what its encoder makes on the way, in order: activations ``(N, C, H, W)``, drawn as
            the mean over their channels, or ``(N, K)``, drawn as bars. Up to four stops fit.
        scale: the factor :math:`s` in front of the mean point.
        thing: the thing shown at first; by default one that loses a right answer with its picture.

    Traits that Python sees: ``thing`` (index) and ``cut`` (the modalities whose arrows are cut).

    Raises:
        ValueError: for an unknown modality, or lengths and shapes that do not fit; the message names them.

    Example:
        >>> points = {"image": torch.eye(2, 8), "text": torch.eye(2, 8)}
        >>> walk = MapsWalk(
        ...     points,
        ...     heads={"group": (torch.eye(2, 8), torch.zeros(2))},
        ...     answers={"group": ["animal", "food"]},
        ...     truth={"group": [0, 1]},
        ...     measured={("image", "text"): {"group": 0.8}, ("text",): {"group": 0.7}},
        ...     names=["cat", "apple"],
        ...     pictures=np.zeros((2, 32, 32, 3), np.uint8),
        ... )
        >>> walk.scores(1, cut=["image"])["group"]
        array([0., 1.])
    """

    _esm = script("maps_drawing", "maps_walk")
    _css = style("maps_walk")

    thing = traitlets.Int(0).tag(sync=True)
    cut = traitlets.List(traitlets.Unicode()).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    modalities = traitlets.List(traitlets.Unicode()).tag(sync=True)
    valid = traitlets.List().tag(sync=True)
    tasks = traitlets.List().tag(sync=True)
    measured = traitlets.Dict().tag(sync=True)
    dim = traitlets.Int().tag(sync=True)
    points = traitlets.Bytes().tag(sync=True)
    points_scale = traitlets.Float().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    biases = traitlets.Bytes().tag(sync=True)
    stops = traitlets.Dict().tag(sync=True)
    activations = traitlets.Bytes().tag(sync=True)
    length = traitlets.Int().tag(sync=True)
    frames = traitlets.Int(FRAMES).tag(sync=True)
    sprite = traitlets.Bytes().tag(sync=True)
    sprite_size = traitlets.Int(TILE).tag(sync=True)
    sprite_columns = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        points: Mapping[str, object],
        heads: Mapping[str, tuple],
        answers: Mapping[str, Sequence[str]],
        truth: Mapping[str, Sequence],
        measured: Mapping[Sequence[str], Mapping[str, float]],
        *,
        names: Sequence[str],
        pictures,
        frames: Sequence | None = None,
        stops: Mapping[str, Sequence] | None = None,
        scale: float = 1.0,
        thing: int | None = None,
    ):
        modalities, stops = list(points), dict(stops or {})
        frames = [None] * len(names) if frames is None else list(frames)
        _check_known("points", modalities, MODALITIES)
        _check_known("stops", stops, modalities)
        for name, found in {"answers": answers, "truth": truth}.items():
            if missing := [task for task in heads if task not in found]:
                raise ValueError(f"{name}: expected the tasks of heads, found none for {missing[0]!r}")
        per_thing = {"pictures": pictures, "frames": frames}
        per_thing |= {f"points[{m!r}]": z for m, z in points.items()}
        per_thing |= {f"truth[{task!r}]": truth[task] for task in heads}
        per_thing |= {f"stops[{m!r}]": h for m, passed in stops.items() for h in passed}
        _check_lengths(per_thing, len(names))
        if not heads:
            raise ValueError("heads: expected at least one task, found none")
        if "video" in modalities and all(film is None for film in frames):
            raise ValueError("frames: expected animations, for points has video; found none")
        if thing is not None and not 0 <= thing < len(names):
            raise ValueError(f"thing: expected 0 to {len(names) - 1}, found {thing}")

        valid = np.array([[m != "video" or film is not None for m in modalities] for film in frames])
        rows, points_scale = quantise(_unit_points(points, valid))
        packed = {t: _packed_head(t, h, len(answers[t]), rows.shape[2], scale) for t, h in heads.items()}
        right = {t: [[int(i) for i in np.atleast_1d(found) if i >= 0] for found in truth[t]] for t in heads}
        films = [np.asarray(film) for film in frames if film is not None]
        shown = [film[np.linspace(0, len(film) - 1, FRAMES).round().astype(int)] for film in films]
        sprite, columns = sheet([*pictures, *(frame for film in shown for frame in film)], TILE, quality=70)
        drawn = [_drawn(m, to_numpy(h)) for m, passed in stops.items() for h in passed]
        sizes = iter([list(d.shape[1:]) for d in drawn])
        super().__init__(
            names=[str(name) for name in names],
            modalities=modalities,
            valid=valid.tolist(),
            tasks=[
                {"name": t, "answers": list(answers[t]), "step": step, "truth": right[t]}
                for t, (_, step, _) in packed.items()
            ],
            measured={
                _key(whole, modalities): {task: float(share) for task, share in shares.items()}
                for whole, shares in measured.items()
            },
            dim=rows.shape[2],
            points=rows.tobytes(),
            points_scale=points_scale,
            weights=b"".join(weight.tobytes() for weight, _, _ in packed.values()),
            biases=b"".join(bias.tobytes() for _, _, bias in packed.values()),
            stops={
                m: [{"shape": list(h.shape[1:]), "size": next(sizes)} for h in passed]
                for m, passed in stops.items()
            },
            activations=b"".join(d.tobytes() for d in drawn),
            length=len(films[0]) if films else 0,
            sprite=sprite,
            sprite_columns=columns,
        )
        self._points = rows * points_scale
        self._heads = {task: (weight * step, bias) for task, (weight, step, bias) in packed.items()}
        self.thing = self._telling_thing() if thing is None else thing

    def scores(self, thing: int, cut: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Return each task's scores for a thing, as the page computes them from the quantised numbers.

        Args:
            thing: its index.
            cut: the modalities whose arrows are cut.

        Returns:
            Task to scores ``(C,)``; the largest is the answer.
        """
        kept = [m not in cut and there for m, there in zip(self.modalities, self.valid[thing], strict=True)]
        z = self._points[thing][kept].mean(0) if any(kept) else np.zeros(self.dim)
        return {task: weight @ z + bias for task, (weight, bias) in self._heads.items()}

    def _right(self, thing: int, cut: Sequence[str] = ()) -> set[str]:
        """The tasks that are answered right."""
        scores = self.scores(thing, cut)
        return {task["name"] for task in self.tasks if scores[task["name"]].argmax() in task["truth"][thing]}

    def _telling_thing(self) -> int:
        """The first thing with all modalities that loses a right answer, but not all, with its picture."""
        for i, there in enumerate(self.valid):
            if all(there) and set() < self._right(i, ["image"]) < self._right(i):
                return i
        return 0

    def summary(self) -> str:
        scores = self.scores(self.thing, self.cut)
        found = [
            f"{task['name']}: {task['answers'][int(scores[task['name']].argmax())]}" for task in self.tasks
        ]
        without = f" without {' and '.join(self.cut)}" if self.cut else ""
        return (
            f"A diagram of maps with {len(self.names)} things to choose from. For "
            f"{self.names[self.thing]}{without} the answers are: {'; '.join(found)}. "
            "The arrow of each modality can be cut."
        )

    def picture(self) -> bytes:
        """Draw the diagram small: the thing, an arrow per modality, the space, an arrow per task."""
        image = Image.new("RGB", (480, 150), "white")
        draw = ImageDraw.Draw(image)
        left, top = self.thing % self.sprite_columns * TILE, self.thing // self.sprite_columns * TILE
        face = Image.open(io.BytesIO(self.sprite)).crop((left, top, left + TILE, top + TILE))
        image.paste(face.resize((96, 96)), (20, 27))
        for i, m in enumerate(self.modalities):
            draw.line(
                [124, 75, 250, 75 + 40 * (i - (len(self.modalities) - 1) / 2)], fill=MODALITY[m], width=3
            )
        for i in range(len(self.tasks)):
            draw.line([300, 75, 460, 75 + 36 * (i - (len(self.tasks) - 1) / 2)], fill=INK, width=3)
        draw.ellipse([210, 15, 330, 135], fill="#f3f3f3", outline=INK, width=2)
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"MapsWalk({len(self.names)} things)"


def _check_known(name: str, found, known: Sequence[str]) -> None:
    if unknown := [m for m in found if m not in known]:
        raise ValueError(f"{name}: expected modalities among {', '.join(known)}, found {unknown[0]!r}")


def _check_lengths(per_thing: Mapping[str, Sequence], count: int) -> None:
    for name, values in per_thing.items():
        if len(values) != count:
            raise ValueError(f"{name}: expected {count}, one per name, found {len(values)}")


def _packed_head(task: str, head: tuple, answers: int, dim: int, scale: float):
    """Weight as small integers, their step, and bias; the scale goes into the weight."""
    weight, bias = scale * to_numpy(head[0]), to_numpy(head[1])
    if weight.shape != (answers, dim) or bias.shape != (answers,):
        raise ValueError(
            f"heads[{task!r}]: expected weight {(answers, dim)} and bias {(answers,)}, "
            f"found {weight.shape} and {bias.shape}"
        )
    return *quantise(weight), bias.astype(np.float32)


def _key(whole: Sequence[str], modalities: list[str]) -> str:
    """The modalities with commas between them, in the order of the points."""
    if isinstance(whole, str):
        raise ValueError(f"measured: expected a tuple of modalities, found the string {whole!r}")
    _check_known("measured", whole, modalities)
    return ",".join(m for m in modalities if m in whole)


def _unit_points(points: Mapping[str, object], valid: np.ndarray) -> np.ndarray:
    """Stack unit vectors to ``(N, M, D)``, zero for what is not there."""
    found = [to_numpy(z) for z in points.values()]
    for m, z in zip(points, found, strict=True):
        if z.ndim != 2 or z.shape != found[0].shape:
            raise ValueError(f"points[{m!r}]: expected shape (N, D), the same for all, found {z.shape}")
    z = np.stack(found, 1)
    unit = z / np.linalg.norm(z, axis=2, keepdims=True).clip(1e-12)
    return np.where(valid[:, :, None], unit, 0)


def _drawn(modality: str, h: np.ndarray) -> np.ndarray:
    """Activations as bytes to draw: maps ``(N, h, w)`` stretched to 0..255, vectors ``(N, K)`` about 127."""
    if h.ndim == 2:
        return np.rint(127 + 127 * h / np.abs(h).max(1, keepdims=True).clip(1e-12)).astype(np.uint8)
    if h.ndim != 4:
        raise ValueError(f"stops[{modality!r}]: expected shape (N, C, H, W) or (N, K), found {h.shape}")
    maps = torch.as_tensor(h.mean(1))
    maps = adaptive_avg_pool2d(maps, [min(side, SIDE) for side in maps.shape[1:]]).numpy()
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return np.rint(255 * (maps - low) / (high - low).clip(1e-12)).astype(np.uint8)
