"""Interactive figures: alive in Jupyter and Colab, and without a kernel on the built site."""

from .adversarial_toy import AdversarialToy
from .attention_explorer import AttentionExplorer, Frames, Patches
from .augmentation_lab import AugmentationLab
from .base import BookWidget
from .contrastive_playground import ContrastivePlayground
from .dam_inspector import DAMInspector, Inspected, inspected
from .divergence_playground import DivergencePlayground
from .embedding_explorer import EmbeddingExplorer
from .fusion_switches import FusionSwitches
from .gradient_compass import GradientCompass
from .latent_walk import LatentWalk, between
from .maps_walk import MapsWalk
from .search_box import SearchBox
from .sharing_slider import SharingSlider
from .split_contrast import SplitContrast
from .training_film import TrainingFilm
from .trust_graph import TrustGraph

__all__ = [
    "AdversarialToy",
    "AttentionExplorer",
    "AugmentationLab",
    "BookWidget",
    "ContrastivePlayground",
    "DAMInspector",
    "DivergencePlayground",
    "EmbeddingExplorer",
    "Frames",
    "FusionSwitches",
    "GradientCompass",
    "Inspected",
    "LatentWalk",
    "MapsWalk",
    "Patches",
    "SearchBox",
    "SharingSlider",
    "SplitContrast",
    "TrainingFilm",
    "TrustGraph",
    "between",
    "inspected",
]
