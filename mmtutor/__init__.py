"""mmtutor: the package behind the book "Everything is a mapping"."""

from . import _torchvision  # noqa: F401  (lets a plain `import torchvision` work beside any torch)
from .notebook import figure, predict, show
from .results import claim, compare, recorded
from .runtime import device, scale, seed_everything

__version__ = "0.1.0"
__all__ = ["claim", "compare", "device", "figure", "predict", "recorded", "scale", "seed_everything", "show"]
