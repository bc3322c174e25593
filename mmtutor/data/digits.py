"""Handwritten digits seen six ways: the Multiple Features data set."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from .files import FOLDER, read_arrays, read_only

VIEWS = ("fourier", "profile", "karhunen", "pixels", "zernike", "morphological")


class Views(dict):
    """The views by name; an unknown name raises a KeyError that lists the known ones."""

    def __missing__(self, name):
        raise KeyError(f"view: expected one of {', '.join(self)}; found {name!r}")


@dataclass(frozen=True)
class Digits:
    """2,000 handwritten digits, 200 a class, each described by six sets of numbers.

    Attributes:
        views: six (2000, d) float32 read-only arrays: ``fourier`` 76 Fourier coefficients of the outline,
            ``profile`` 216 profile correlations, ``karhunen`` 64 Karhunen-Loève coefficients, ``pixels`` 240
            averages (16 rows of 15, 0 … 6), ``zernike`` 47 Zernike moments, ``morphological`` 6 features.
        labels: (2000,) int64, the digit, 0 … 9.
    """

    views: dict[str, np.ndarray]
    labels: np.ndarray


@cache
def load_digits(folder: Path = FOLDER) -> Digits:
    """Load the digits, unscaled: the views differ in scale by orders of magnitude.

    Args:
        folder: where the data files lie; by default those shipped with the package.

    Returns:
        A `Digits`; the same object on every call.

    Raises:
        DataError: if a file is missing, damaged or of another version.

    Example:
        >>> digits = load_digits()
        >>> {view: x.shape[1] for view, x in digits.views.items()}["fourier"], digits.labels[0].item()
        (76, 0)
    """
    arrays = read_arrays("digits.npz", folder)
    views = Views({view: read_only(arrays[view].astype(np.float32)) for view in VIEWS})
    return Digits(views, read_only(arrays["labels"].astype(np.int64)))
