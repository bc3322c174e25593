"""Search among pictures with the trained text encoder, which runs in the page."""

import io
from collections.abc import Sequence

import numpy as np
import traitlets
from PIL import Image

from .base import BookWidget, script, style
from .pack import quantise, sheet, to_numpy, webp

TABLE_LEVELS = 15  # the table is the largest part; averaging its rows also averages their rounding errors
LEVELS = 63  # of the layers and the pictures
THUMBNAIL = 22  # pixels; drawn larger, they need not be sharp
DIRECTIONS = 96  # of the shared space that are kept: those in which the pictures differ most


class SearchBox(BookWidget):
    r"""Type any words, English or Chinese, and see the nearest pictures of the shared space, live.

    The page holds the text encoder quantised: features are hashed to rows of a table, the rows averaged, and
    linear layers with ReLU between them applied. Pictures and the last layer are expressed in the leading
    ``DIRECTIONS`` directions :math:`U` of the pictures, and ranked by the cosine
    :math:`x^\top U^\top U t/(\lVert x\rVert\,\lVert Ut\rVert)`.

    Args:
        text_encoder: has ``buckets``, ``table`` (V, E), ``layers()`` and ``features(text)``
            (:class:`mmtutor.encoders.TextEncoder`).
        image_embeddings: ``(N, D)``, one row per picture; normalised here.
        thumbnails: ``(N, 32, 32, 3)`` uint8.
        names: N names of the pictures.
        examples: queries to click on; the first one is asked on opening.

    Traits that Python sees: ``query`` (the text) and ``results`` (indices of the pictures, best first).

    Raises:
        ValueError: if embeddings, thumbnails and names are not equally many, or widths do not fit.

    Example:
        >>> import torch
        >>> from mmtutor.encoders import TextEncoder
        >>> pictures = np.zeros((3, 32, 32, 3), np.uint8)
        >>> box = SearchBox(TextEncoder(dim=8), torch.eye(3, 8), pictures, ["a", "b", "c"], ["cat"])
        >>> len(box.search("a black cat", k=2))
        2
    """

    _esm = script("search_box")
    _css = style("search_box")

    query = traitlets.Unicode().tag(sync=True)
    results = traitlets.List(traitlets.Int()).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    examples = traitlets.List(traitlets.Unicode()).tag(sync=True)
    buckets = traitlets.Int().tag(sync=True)
    table = traitlets.Bytes().tag(sync=True)
    table_scale = traitlets.Float().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    biases = traitlets.Bytes().tag(sync=True)
    layers = traitlets.List().tag(sync=True)
    pictures = traitlets.Bytes().tag(sync=True)
    pictures_scale = traitlets.Float().tag(sync=True)
    sprite = traitlets.Bytes().tag(sync=True)
    sprite_size = traitlets.Int(THUMBNAIL).tag(sync=True)
    sprite_columns = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        text_encoder,
        image_embeddings,
        thumbnails,
        names: Sequence[str],
        examples: Sequence[str] = ("red fruit",),
    ):
        pictures = to_numpy(image_embeddings)
        if not len(pictures) == len(thumbnails) == len(names):
            raise ValueError(
                "image_embeddings, thumbnails, names: expected equally many, "
                f"found {len(pictures)}, {len(thumbnails)}, {len(names)}"
            )
        layers = [(to_numpy(weight), to_numpy(bias)) for weight, bias in text_encoder.layers()]
        if layers[-1][0].shape[0] != pictures.shape[1]:
            raise ValueError(
                f"image_embeddings: expected width {layers[-1][0].shape[0]}, the text encoder's, "
                f"found {pictures.shape[1]}"
            )
        pictures = pictures / np.linalg.norm(pictures, axis=1, keepdims=True).clip(1e-12)
        pictures, layers[-1] = _leading_directions(pictures, *layers[-1])
        table, table_scale = quantise(to_numpy(text_encoder.table), TABLE_LEVELS)
        weights = [quantise(weight, LEVELS) for weight, _ in layers]
        biases = [bias.astype(np.float32) for _, bias in layers]
        rows, pictures_scale = quantise(pictures, LEVELS)
        sprite, columns = sheet(thumbnails, size=THUMBNAIL, quality=50)
        super().__init__(
            query=examples[0] if examples else "",
            names=list(names),
            examples=list(examples),
            buckets=text_encoder.buckets,
            table=table.tobytes(),
            table_scale=table_scale,
            weights=b"".join(weight.tobytes() for weight, _ in weights),
            biases=b"".join(bias.tobytes() for bias in biases),
            layers=[{"rows": w.shape[0], "columns": w.shape[1], "scale": scale} for w, scale in weights],
            pictures=rows.tobytes(),
            pictures_scale=pictures_scale,
            sprite=sprite,
            sprite_columns=columns,
        )
        self._features = text_encoder.features
        self._table = table * table_scale
        self._layers = [(w * scale, bias) for (w, scale), bias in zip(weights, biases, strict=True)]
        self._pictures = rows * pictures_scale

    def search(self, query: str, k: int = 10) -> list[tuple[str, float]]:
        """Rank the pictures as the page does, by the quantised weights.

        Args:
            query: any text.
            k: how many of the best to return.

        Returns:
            Pairs of name and cosine similarity, best first; none if the text has no letter, digit or Chinese
            character to go on.
        """
        rows = self._features(query)
        if not rows:
            return []
        z = self._table[rows].mean(0)
        for i, (weight, bias) in enumerate(self._layers):
            z = weight @ (np.maximum(z, 0) if i else z) + bias
        similarity = self._pictures @ z / max(np.linalg.norm(z), 1e-12)
        best = np.argsort(-similarity, kind="stable")[:k]
        return [(self.names[i], float(similarity[i])) for i in best]

    def summary(self) -> str:
        found = ", ".join(f"{name} ({similarity:.2f})" for name, similarity in self.search(self.query, k=5))
        return (
            f"A search box over {len(self.names)} pictures. “{self.query}” finds, with cosine similarity: "
            f"{found or 'nothing to go on'}."
        )

    def picture(self) -> bytes:
        """Draw the pictures that the query finds, the best on the left."""
        sheet, size = Image.open(io.BytesIO(self.sprite)), self.sprite_size
        image = Image.new("RGB", (5 * 56 + 8, 64), "white")
        for k, (name, _) in enumerate(self.search(self.query, k=5)):
            row, column = divmod(self.names.index(name), self.sprite_columns)
            box = (column * size, row * size, (column + 1) * size, (row + 1) * size)
            image.paste(sheet.crop(box).resize((48, 48), Image.Resampling.LANCZOS), (56 * k + 8, 8))
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return f"SearchBox({len(self.names)} pictures)"


def _leading_directions(pictures: np.ndarray, weight: np.ndarray, bias: np.ndarray):
    """Express pictures (N, D) and the last layer in the directions that carry most of the pictures."""
    if min(pictures.shape) <= DIRECTIONS:
        return pictures, (weight, bias)
    directions = np.linalg.svd(pictures, full_matrices=False)[2][:DIRECTIONS]
    return pictures @ directions.T, (directions @ weight, directions @ bias)
