"""Where and how large the book runs: scale, device, seeds."""

import os
import random

import numpy as np
import torch


def device() -> torch.device:
    """Return the fastest device there is: CUDA, then Apple's MPS, then the CPU.

    Example:
        >>> device().type in ("cuda", "mps", "cpu")
        True
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def scale() -> str:
    """Return the size of the book's experiments: ``"gpu"`` where CUDA is found, else ``"cpu"``.

    The environment variable ``MMTUTOR_SCALE`` overrides what was found.

    Raises:
        ValueError: if ``MMTUTOR_SCALE`` is set to something else.

    Example:
        >>> scale() in ("cpu", "gpu")
        True
    """
    found = os.environ.get("MMTUTOR_SCALE") or ("gpu" if device().type == "cuda" else "cpu")
    if found not in ("cpu", "gpu"):
        raise ValueError(f"MMTUTOR_SCALE: expected 'cpu' or 'gpu', found {found!r}")
    return found


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python, NumPy and PyTorch, and return a generator with the same seed.

    Equal seeds give equal results on one machine with one version of PyTorch; across machines the last
    digits differ, which is why the book states spreads.

    Example:
        >>> _ = seed_everything(0); a = torch.rand(3)
        >>> _ = seed_everything(0); bool((a == torch.rand(3)).all())
        True
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
