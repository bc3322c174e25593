"""Make a plain ``import torchvision`` work where torchvision's compiled part was built for another torch.

The usual case is a CPU-only torch beside the package index's torchvision, which is built for CUDA. Its
library ``_C`` cannot load there, and ``import torchvision`` stops with "operator torchvision::nms does not
exist", although transforms, models and data sets need nothing of it.
"""

import importlib.util
from pathlib import Path

import torch

# torchvision attaches shape rules to these operators while it is imported, so they have to be known by then
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # the operators exist for as long as this object does


def declare_missing_operators() -> bool:
    """Declare the operators that ``import torchvision`` asks for, where its compiled library cannot load.

    They are declared, not implemented: ``torchvision.ops.nms`` then says that the compiled part is missing.
    Decoding by ``torchvision.io`` is missing as well: open pictures with Pillow.

    Returns:
        True where the operators had to be declared; False where the compiled library loads (or torchvision
        is not installed) and nothing was done.

    Example:
        >>> declared = declare_missing_operators()
        >>> from torchvision.transforms import v2
        >>> v2.functional.hflip(torch.tensor([[1, 2]])).tolist()
        [[2, 1]]
    """
    global _library
    spec = importlib.util.find_spec("torchvision")
    compiled = next(Path(spec.origin).parent.glob("_C.*"), None) if spec else None
    if compiled is None:
        return False
    if _library is None:
        try:
            torch.ops.load_library(str(compiled))
        except OSError:
            _library = torch.library.Library("torchvision", "DEF")
            for schema in OPERATORS:
                _library.define(schema)
    return _library is not None


declare_missing_operators()
