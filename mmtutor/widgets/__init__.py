"""Interactive figures: alive in Jupyter and Colab, and without a kernel on the built site."""

from .base import BookWidget
from .contrastive_playground import ContrastivePlayground
from .embedding_explorer import EmbeddingExplorer
from .search_box import SearchBox

__all__ = ["BookWidget", "ContrastivePlayground", "EmbeddingExplorer", "SearchBox"]
