"""How arrays travel to the page: pictures as one sheet, numbers as small integers and a scale."""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image


def to_numpy(array) -> np.ndarray:
    """Return a tensor (on any device) or an array as a NumPy array of floats."""
    return torch.as_tensor(array).detach().cpu().double().numpy()


def quantise(array: np.ndarray, levels: int = 127) -> tuple[np.ndarray, float]:
    r"""Round to integers: :math:`q=\mathrm{round}(x/s)`, :math:`s=\max|x|/\text{levels}`.

    The error of each number is at most ``s / 2``.

    Args:
        array: any shape, any real numbers.
        levels: the largest integer used, at most 127; fewer levels compress better.

    Returns:
        The integers ``int8`` and the scale ``s``.

    Raises:
        ValueError: if the array holds NaN or infinity.

    Example:
        >>> quantise(np.array([-1.0, 0.0, 0.5]), levels=2)
        (array([-2,  0,  1], dtype=int8), 0.5)
    """
    if not np.isfinite(array).all():
        raise ValueError("array: expected finite numbers, found NaN or infinity")
    scale = float(np.abs(array).max(initial=0)) / levels or 1.0
    return np.rint(array / scale).astype(np.int8), scale


def sheet(pictures: Sequence[np.ndarray], size: int, quality: int) -> tuple[bytes, int]:
    """Put square pictures side by side on one WebP sheet, so that the page loads one image, not hundreds.

    Args:
        pictures: each ``(H, W, 3)`` uint8.
        size: width of a picture on the sheet, in pixels.
        quality: of the WebP file, 0 to 100.

    Returns:
        The file and the number of pictures in a row.

    Raises:
        ValueError: if a picture is not ``(H, W, 3)`` uint8.

    Example:
        >>> file, columns = sheet([np.zeros((32, 32, 3), np.uint8)] * 5, size=16, quality=75)
        >>> columns, Image.open(io.BytesIO(file)).size
        (3, (48, 32))
    """
    columns = math.ceil(math.sqrt(max(len(pictures), 1)))
    rows = math.ceil(max(len(pictures), 1) / columns)
    image = Image.new("RGB", (columns * size, rows * size), "white")
    for i, picture in enumerate(pictures):
        picture = np.asarray(picture)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"picture {i}: expected (H, W, 3) uint8, found {picture.shape} {picture.dtype}")
        small = Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS)
        image.paste(small, (i % columns * size, i // columns * size))
    return webp(image, quality), columns


def webp(image: Image.Image, quality: int) -> bytes:
    """Return the image as a WebP file."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()
