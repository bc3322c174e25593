"""mmtutor: the package behind the book "Everything is a mapping"."""

# an old torch is named first; then a plain `import torchvision` is made to work beside any torch
from . import _torch_version, _torchvision  # noqa: F401
from .notebook import figure, here, predict, show
from .results import claim, compare, recorded
from .runtime import device, scale, seed_everything

__version__ = "0.1.0"
__all__ = [
    "claim",
    "compare",
    "device",
    "figure",
    "here",
    "predict",
    "recorded",
    "scale",
    "seed_everything",
    "show",
]
