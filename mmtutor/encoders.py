"""Encoders: maps from one modality into the shared space, each ``f_m : X_m -> R^d``.

Small on purpose: each is read in a minute and trained in one. Outputs are *not* normalised; a loss that
needs unit vectors normalises them itself (``contrastive.info_nce`` does).
"""

import re
import unicodedata

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


def pixels(images: UInt8[Tensor, "*batch 32 32 3"] | np.ndarray) -> Float[Tensor, "*batch 3 32 32"]:
    """Turn stored pictures into network input: ``uint8`` 0..255 to floats -1..1, channels first.

    Raises:
        TypeError: if the pictures are not ``uint8``.
        ValueError: if the last three axes are not ``(32, 32, 3)``.

    Example:
        >>> pixels(torch.full((2, 32, 32, 3), 255, dtype=torch.uint8)).shape
        torch.Size([2, 3, 32, 32])
    """
    images = torch.tensor(images) if isinstance(images, np.ndarray) else images
    if images.dtype != torch.uint8:
        raise TypeError(f"pictures: expected dtype uint8 (0..255), found {images.dtype}")
    if images.shape[-3:] != (32, 32, 3):
        raise ValueError(f"pictures: expected shape (..., 32, 32, 3), found {tuple(images.shape)}")
    return images.movedim(-1, -3).float() / 127.5 - 1


def stride_block(n_in: int, n_out: int) -> nn.Sequential:
    """One convolution that halves height and width, with batch normalisation and a GELU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.GELU()
    )


class ImageEncoder(nn.Module):
    r"""Four strided convolutions and one linear map, :math:`f_I:[-1,1]^{3\times32\times32}\to\mathbb R^d`.

    The grid is flattened rather than averaged: *where* a colour sits tells drawings apart.

    Args:
        dim: width ``D`` of the shared space.
        width: channels of the first block; the later ones have 2, 4 and 4 times as many.
        channels: channels of the input (3 for one picture).

    Shapes: ``(B, channels, 32, 32) -> (B, dim)``.

    Example:
        >>> ImageEncoder(dim=16, width=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16])
    """

    def __init__(self, dim: int = 192, width: int = 48, channels: int = 3):
        super().__init__()
        self.blocks = nn.Sequential(
            stride_block(channels, width),
            stride_block(width, 2 * width),
            stride_block(2 * width, 4 * width),
            stride_block(4 * width, 4 * width),
        )
        self.project = nn.Linear(4 * width * 2 * 2, dim)

    def forward(self, x: Float[Tensor, "batch channels 32 32"]) -> Float[Tensor, "batch dim"]:
        expected = self.blocks[0][0].in_channels
        if x.ndim != 4 or x.shape[1] != expected:
            raise ValueError(f"pictures: expected shape (B, {expected}, 32, 32), found {tuple(x.shape)}")
        return self.project(self.blocks(x).flatten(1))


class VideoEncoder(nn.Module):
    r"""One image encoder for all frames, averaged over time: :math:`f_V(x) = \frac1L\sum_{l} f_I(x_l)`.

    Shapes: ``(B, L, 3, 32, 32) -> (B, dim)``.

    Example:
        >>> VideoEncoder(ImageEncoder(dim=16, width=8))(torch.zeros(2, 8, 3, 32, 32)).shape
        torch.Size([2, 16])
    """

    def __init__(self, frame_encoder: nn.Module):
        super().__init__()
        self.frame_encoder = frame_encoder

    def forward(self, x: Float[Tensor, "batch length 3 32 32"]) -> Float[Tensor, "batch dim"]:
        if x.ndim != 5:
            raise ValueError(f"animations: expected shape (B, L, 3, 32, 32), found {tuple(x.shape)}")
        batch, length = x.shape[:2]
        return self.frame_encoder(x.flatten(0, 1)).unflatten(0, (batch, length)).mean(1)


def fnv1a(text: str) -> int:
    """Hash a string to 32 bits (Fowler, Noll and Vo's function 1a over its UTF-8 bytes).

    Python's own ``hash`` changes from run to run; this one is the same everywhere, in the browser too.

    Example:
        >>> hex(fnv1a("a"))
        '0xe40c292c'
    """
    value = 0x811C9DC5
    for byte in text.encode("utf-8"):
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def text_features(text: str) -> list[str]:
    """Split a text into words with their letter trigrams, and Chinese characters with their pairs.

    A word never seen in training still shares trigrams with words that were ("kitten" and "kittens").

    Example:
        >>> text_features("A cat")
        ['a', '<a>', 'cat', '<ca', 'cat', 'at>']
        >>> text_features("熊猫")
        ['熊', '猫', '熊猫']
    """
    text = unicodedata.normalize("NFKC", text).lower()
    features: list[str] = []
    for word in re.findall("[a-z0-9]+", text):
        marked = f"<{word}>"
        features += [word] + [marked[i : i + 3] for i in range(len(marked) - 2)]
    for run in re.findall("[\u4e00-\u9fff]+", text):
        features += list(run) + [run[i : i + 2] for i in range(len(run) - 1)]
    return features


class TextEncoder(nn.Module):
    r"""A bag of hashed features and a small network, :math:`f_T(x)=g\big(\frac1n\sum_iE_{h(x_i)}\big)`.

    Each feature ``x_i`` (:func:`text_features`) picks row ``h(x_i)`` of a table ``E`` by its hash, so there
    is no vocabulary to keep, and English and Chinese use the same table. The order of words is ignored. A
    text without any feature (empty, or signs only) gives the zero vector.

    Args:
        dim: width ``D`` of the shared space.
        buckets: rows ``V`` of the table; two features may share one.
        width: columns of the table.
        hidden: units between the two linear maps of the network ``g``.
        dropout: share of features and units dropped in training; it helps with words never seen, and slows
            the learning of those that were.

    Shapes: a list of ``B`` strings ``-> (B, dim)``.

    Example:
        >>> TextEncoder(dim=16)(["red apple", "红苹果", ""]).shape
        torch.Size([3, 16])
    """

    def __init__(
        self, dim: int = 192, buckets: int = 4096, width: int = 48, hidden: int = 256, dropout: float = 0.0
    ):
        super().__init__()
        self.buckets = buckets
        self.bag = nn.EmbeddingBag(buckets, width, mode="mean")
        nn.init.normal_(self.bag.weight, std=0.25)  # small, so that it soon forgets where it started
        self.network = nn.Sequential(
            nn.Dropout(dropout),
            nn.BatchNorm1d(width),
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
        )

    @property
    def table(self) -> Float[Tensor, "buckets width"]:
        """The table ``E``: one row per bucket."""
        return self.bag.weight

    @torch.no_grad()
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """The trained network as two linear layers ``(weight, bias)`` with a ReLU between them.

        In evaluation mode a batch normalisation is a linear map, so it is folded into its neighbour.
        """
        _, before, first, after, _, _, last = self.network
        weight = first.weight
        scale = before.weight / (before.running_var + before.eps).sqrt()
        bias = weight @ (before.bias - scale * before.running_mean)
        weight = weight * scale
        scale = after.weight / (after.running_var + after.eps).sqrt()
        weight, bias = scale[:, None] * weight, scale * (bias - after.running_mean) + after.bias
        return [(weight, bias), (last.weight.detach(), last.bias.detach())]

    def features(self, text: str) -> list[int]:
        """Return the table rows that a text picks, with repetition."""
        return [fnv1a(feature) % self.buckets for feature in text_features(text)]

    def prepare(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Look up the rows of many texts once: all rows in one tensor, and how many each text has.

        Raises:
            TypeError: if ``texts`` is not a list of strings.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"texts: expected a list of strings, found {texts!r:.60}")
        rows = [self.features(text) for text in texts]
        return torch.tensor([i for row in rows for i in row], dtype=torch.long), torch.tensor(
            [*map(len, rows)]
        )

    def forward(self, texts: list[str] | tuple[Tensor, Tensor]) -> Float[Tensor, "batch dim"]:
        rows, lengths = texts if isinstance(texts, tuple) else self.prepare(texts)
        rows, lengths = rows.to(self.table.device), lengths.to(self.table.device)
        z = self.network(self.bag(rows, lengths.cumsum(0) - lengths))
        return torch.where(lengths[:, None] > 0, z, 0)
