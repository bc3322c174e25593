"""Interactive figures: alive in Jupyter and Colab, and without a kernel on the built site."""

from .attention_explorer import AttentionExplorer, Frames, Patches
from .augmentation_lab import AugmentationLab
from .base import BookWidget
from .contrastive_playground import ContrastivePlayground
from .dam_inspector import DAMInspector, Inspected, inspected
from .divergence_playground import DivergencePlayground
from .embedding_explorer import EmbeddingExplorer
from .fusion_switches import FusionSwitches
from .gradient_compass import GradientCompass
from .maps_walk import MapsWalk
from .search_box import SearchBox
from .sharing_slider import SharingSlider
from .trust_graph import TrustGraph

__all__ = [
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
    "MapsWalk",
    "Patches",
    "SearchBox",
    "SharingSlider",
    "TrustGraph",
    "inspected",
]
