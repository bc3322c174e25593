"""An explorer of the shared space: pictures and words as points, through the checkpoints of a training."""

from collections.abc import Sequence

import numpy as np
import torch
import traitlets
from PIL import Image, ImageDraw
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ..metrics import recall_at_k
from ..style import INK, MODALITY
from .base import BookWidget, script, style
from .pack import sheet, to_numpy, webp

METHODS = ("pca", "tsne")


class EmbeddingExplorer(BookWidget):
    """Pictures and words as points of the shared space, moving as training goes on.

    T checkpoints, P points, k neighbours. Usually made by :meth:`from_embeddings`.

    Args:
        positions: ``(T, P, 2)`` floats, already projected; each axis is stretched to the frame.
        thumbnails: P pictures ``(32, 32, 3)`` uint8, None for a point without one; the same array object
            given twice is stored once.
        names: P names.
        modality: P strings, ``"image"``, ``"text"`` or ``"video"``.
        pair: P indices of the true partner, -1 for none.
        group: P integers.
        group_names: names of the groups, in order.
        steps: T training steps.
        neighbours: ``(T, P, k)`` indices of the nearest points in the full space, nearest first.
        figures: name -> T numbers, shown beside the slider.
        axes: what the two axes are.
        selected: the point held at first, -1 for none.

    Traits that Python sees: ``selected``, ``step`` (index of the checkpoint), ``shown_group`` (-1 for all).

    Raises:
        ValueError: if lengths differ or an index points nowhere; the message names expected and found.

    Example:
        >>> where = np.random.rand(3, 2, 2)
        >>> EmbeddingExplorer(where, None, ["cat", "cat"], ["image", "text"], [1, 0], [0, 0])
        EmbeddingExplorer(2 points, 3 checkpoints)
    """

    _esm = script("embedding_map", "embedding_explorer")
    _css = style("embedding_explorer")

    positions = traitlets.Bytes().tag(sync=True)
    neighbours = traitlets.Bytes().tag(sync=True)
    neighbour_count = traitlets.Int().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    modality = traitlets.List(traitlets.Unicode()).tag(sync=True)
    pair = traitlets.List(traitlets.Int()).tag(sync=True)
    group = traitlets.List(traitlets.Int()).tag(sync=True)
    group_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    steps = traitlets.List(traitlets.Int()).tag(sync=True)
    figures = traitlets.Dict().tag(sync=True)
    axes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    picture_index = traitlets.List(traitlets.Int()).tag(sync=True)
    sprite = traitlets.Bytes().tag(sync=True)
    sprite_size = traitlets.Int(32).tag(sync=True)
    sprite_columns = traitlets.Int().tag(sync=True)
    step = traitlets.Int().tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)
    shown_group = traitlets.Int(-1).tag(sync=True)

    def __init__(
        self,
        positions,
        thumbnails,
        names: Sequence[str],
        modality: Sequence[str],
        pair: Sequence[int],
        group: Sequence[int],
        group_names: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
        neighbours=None,
        *,
        figures: dict[str, Sequence[float]] | None = None,
        axes: tuple[str, str] = ("first direction", "second direction"),
        selected: int = -1,
    ):
        positions = to_numpy(positions)
        if positions.ndim != 3 or positions.shape[2] != 2 or not positions.size:
            raise ValueError(f"positions: expected shape (T, P, 2), found {positions.shape}")
        checkpoints, points = positions.shape[:2]
        thumbnails = [None] * points if thumbnails is None else thumbnails
        steps = range(checkpoints) if steps is None else steps
        figures = {name: [float(x) for x in values] for name, values in (figures or {}).items()}
        if group_names is None:
            group_names = [f"group {i}" for i in range(max(group, default=-1) + 1)]
        neighbours = np.zeros((checkpoints, points, 0)) if neighbours is None else np.asarray(neighbours)
        per_point = {
            "thumbnails": thumbnails,
            "names": names,
            "modality": modality,
            "pair": pair,
            "group": group,
        }
        for name, values in per_point.items():
            _check_length(name, values, points)
        for name, values in {"steps": steps, "neighbours": neighbours, **figures}.items():
            _check_length(name, values, checkpoints)
        _check_length("neighbours of a checkpoint", neighbours[0], points)
        _check_range("pair", pair, -1, points)
        _check_range("neighbours", neighbours, 0, points)
        _check_range("group", group, 0, len(group_names))
        _check_range("selected", [selected], -1, points)

        pictures, picture_index = _without_repetition(thumbnails)
        sprite, columns = sheet(pictures, size=32, quality=70)
        super().__init__(
            positions=_to_unit_square(positions).tobytes(),
            neighbours=neighbours.astype(np.uint16).tobytes(),
            neighbour_count=neighbours.shape[2],
            names=[str(name) for name in names],
            modality=list(modality),
            pair=[int(i) for i in pair],
            group=[int(i) for i in group],
            group_names=list(group_names),
            steps=[int(step) for step in steps],
            figures=figures,
            axes=list(axes),
            picture_index=picture_index,
            sprite=sprite,
            sprite_columns=columns,
            step=checkpoints - 1,
            selected=selected,
        )

    @classmethod
    def from_embeddings(
        cls,
        checkpoints: Sequence[dict],
        thumbnails,
        names: Sequence[str],
        group: Sequence[int],
        group_names: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
        method: str = "pca",
        neighbours: int = 5,
    ) -> "EmbeddingExplorer":
        """Project the embeddings of N things in M modalities, find neighbours, build the widget.

        One PCA, fitted to the last checkpoint, serves all, so a point moves only because its embedding does;
        t-SNE is fitted to each checkpoint, from the last one back, each starting where the later one ended.
        Neighbours are the nearest points of the *other* modalities in the full space, by cosine. The widget
        opens on a thing whose nearest neighbour in the end is not its own.

        Args:
            checkpoints: T dicts, modality -> embeddings ``(N, D)``; row ``i`` is thing ``i`` in each.
            thumbnails: ``(N, 32, 32, 3)`` uint8, drawn for every modality but text.
            names: N names.
            group: N integers; ``group_names`` names them.
            steps: T training steps.
            method: ``"pca"`` or ``"tsne"``.
            neighbours: k.

        Raises:
            ValueError: for an unknown method, or embeddings that are not all ``(N, D)``.

        Example:
            >>> early, late = (dict(image=torch.randn(4, 3), text=torch.randn(4, 3)) for _ in range(2))
            >>> pictures = np.zeros((4, 32, 32, 3), np.uint8)
            >>> EmbeddingExplorer.from_embeddings([early, late], pictures, "abcd", [0, 0, 1, 1], ["x", "y"])
            EmbeddingExplorer(8 points, 2 checkpoints)
        """
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, found {method!r}")
        modalities, things = list(checkpoints[0]), len(names)
        frames = np.stack([_unit_rows(checkpoint, modalities, things) for checkpoint in checkpoints])
        points = len(modalities) * things
        modality = np.repeat(modalities, things)
        pair = (np.arange(points) + things) % points  # the same thing in the next modality
        if len(modalities) == 1:
            pair[:] = -1
        similarity = frames @ frames.transpose(0, 2, 1)
        hidden = modality[:, None] == modality if len(modalities) > 1 else np.eye(points, dtype=bool)
        nearest = np.argsort(np.where(hidden, -np.inf, similarity), axis=2)[:, :, ::-1][:, :, :neighbours]
        figures = {}
        if len(modalities) > 1:
            true = similarity[:, :things, things : 2 * things]
            figures = {
                "recall@1": [recall_at_k(torch.as_tensor(s), 1) for s in true],
                "mean cosine of true pairs": [float(np.trace(s)) / things for s in true],
            }
        mistakes = np.flatnonzero(nearest[-1, :things, 0] != pair[:things]) if pair[0] >= 0 else []
        axes = ("first principal direction", "second principal direction")
        return cls(
            _project(frames, method),
            [None if m == "text" else picture for m in modalities for picture in thumbnails],
            list(names) * len(modalities),
            modality.tolist(),
            pair,
            list(group) * len(modalities),
            group_names,
            steps,
            nearest,
            figures=figures,
            axes=axes if method == "pca" else ("t-SNE (no unit)", "t-SNE (no unit)"),
            selected=int(mistakes[0]) if len(mistakes) else 0,
        )

    def summary(self) -> str:
        counts = [f"{self.modality.count(m)} {m}" for m in dict.fromkeys(self.modality)]
        figures = "".join(f"; {name} {values[-1]:.2f}" for name, values in self.figures.items())
        return (
            f"A map of the shared space with {' and '.join(counts)} points at {len(self.steps)} checkpoints, "
            f"here the last (step {self.steps[-1]}){figures}."
        )

    def picture(self) -> bytes:
        """Draw the last checkpoint small: lines between partners, a disc per point."""
        width, height = 480, 300
        last = np.frombuffer(self.positions, np.uint16).reshape(len(self.steps), -1, 2)[-1] / 65535
        xy = last * (width - 20, height - 20) + 10
        image = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(image)
        for i, partner in enumerate(self.pair):
            if partner >= 0:
                draw.line([*xy[i], *xy[partner]], fill="#dddddd")
        for (x, y), modality in zip(xy, self.modality, strict=True):
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=MODALITY.get(modality, INK))
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"EmbeddingExplorer({len(self.names)} points, {len(self.steps)} checkpoints)"


def _check_length(name: str, values: Sequence, expected: int) -> None:
    if len(values) != expected:
        raise ValueError(f"{name}: expected length {expected}, found {len(values)}")


def _check_range(name: str, values, smallest: int, limit: int) -> None:
    values = np.asarray(values)
    if values.size and not (smallest <= values.min() and values.max() < limit):
        raise ValueError(
            f"{name}: expected {smallest} to {limit - 1}, found {values.min()} to {values.max()}"
        )


def _to_unit_square(positions: np.ndarray) -> np.ndarray:
    """Stretch all checkpoints together to 0 … 65535 on both axes, as uint16."""
    low, high = positions.min((0, 1)), positions.max((0, 1))
    return np.rint((positions - low) / np.maximum(high - low, 1e-12) * 65535).astype(np.uint16)


def _without_repetition(thumbnails) -> tuple[list, list[int]]:
    """Return the distinct pictures and, for every point, the index of its picture or -1."""
    seen: dict[bytes, int] = {}
    pictures, index = [], []
    for picture in thumbnails:
        key = b"" if picture is None else np.asarray(picture).tobytes()
        if picture is not None and key not in seen:
            seen[key] = len(pictures)
            pictures.append(picture)
        index.append(-1 if picture is None else seen[key])
    return pictures, index


def _unit_rows(checkpoint: dict, modalities: list[str], things: int) -> np.ndarray:
    if list(checkpoint) != modalities:
        raise ValueError(f"checkpoints: expected modalities {modalities}, found {list(checkpoint)}")
    rows = [to_numpy(checkpoint[name]) for name in modalities]
    for name, row in zip(modalities, rows, strict=True):
        if row.ndim != 2 or len(row) != things or row.shape[1] != rows[0].shape[1]:
            raise ValueError(f"{name}: expected shape ({things}, {rows[0].shape[1]}), found {row.shape}")
    stacked = np.concatenate(rows)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True).clip(1e-12)


def _project(frames: np.ndarray, method: str) -> np.ndarray:
    """Project ``(T, P, D)`` to ``(T, P, 2)`` so that successive checkpoints can be compared."""
    pca = PCA(2, random_state=0).fit(frames[-1])
    flat = pca.transform(frames.reshape(-1, frames.shape[2])).reshape(*frames.shape[:2], 2)
    if method == "pca":
        return flat
    perplexity = min(30, (frames.shape[1] - 1) / 3)
    start = flat[-1] / flat[-1, :, 0].std() * 1e-4
    maps = []
    for frame in frames[::-1]:
        maps.append(
            TSNE(2, perplexity=perplexity, init=start.astype(np.float32), random_state=0).fit_transform(frame)
        )
        start = maps[-1] / maps[-1][:, 0].std() * 1e-4
    return np.stack(maps[::-1])
