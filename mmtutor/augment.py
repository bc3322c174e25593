"""Augmentation: change a thing's picture without changing what is true of it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def random_affine(
    images: Float[Tensor, "batch channels height width"],
    *,
    degrees: float = 10.0,
    shift: float = 0.07,
    scale: float = 0.15,
    shear: float = 0.1,
    fill: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch channels height width"]:
    r"""Turn, move, stretch and shear each picture a little, each by its own random amount.

    Every output pixel :math:`p` looks up the input at :math:`Ap+t`. torchvision's ``RandomAffine`` draws one
    transform for a whole batch; here each picture gets its own, in one call. Preserves what the thing is and
    its left and right (no mirror); does not preserve exact place, size or slope.

    Args:
        images: ``(B, C, H, W)``.
        degrees: largest turn to either side.
        shift: largest move, as a share of the picture's side.
        scale: largest relative change of size; height and width also differ by up to three quarters of it.
        shear: largest slope added.
        fill: value outside of the picture (1 is white for pictures in -1..1).

    Raises:
        ValueError: for another number of axes.
        TypeError: for pictures that are not floats.

    Example:
        >>> random_affine(torch.ones(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    if images.ndim != 4:
        raise ValueError(f"images: expected shape (B, C, H, W), found {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images: expected floats, found {images.dtype}; see encoders.pixels")

    def uniform(limit: float) -> Tensor:
        return ((torch.rand(len(images), generator=generator) * 2 - 1) * limit).to(images.device)

    angle = uniform(degrees).deg2rad()
    size, aspect = 1 + uniform(scale), 1 + uniform(0.75 * scale)
    row_x = torch.stack(
        [angle.cos() * size * aspect, uniform(shear) - angle.sin() * size, uniform(2 * shift)], 1
    )
    row_y = torch.stack([angle.sin() * size, angle.cos() * size / aspect, uniform(2 * shift)], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images - fill, grid, align_corners=False) + fill


def random_ink(
    images: Float[Tensor, "batch 3 height width"],
    *,
    strength: float = 0.3,
    paper: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    r"""Change how strongly each colour is laid on, :math:`x' = p-g_c\,(p-x)`, a gain per channel.

    White paper :math:`p` stays white; an orange becomes more red or more yellow. Preserves shape and place,
    not the exact hue.

    Args:
        images: ``(B, 3, H, W)``.
        strength: gains are drawn evenly from ``1 - strength`` to ``1 + strength``.
        paper: the value of white (1 for pictures in -1..1).

    Raises:
        ValueError: for other shapes.

    Example:
        >>> random_ink(torch.ones(2, 3, 8, 8)).min().item()
        1.0
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected shape (B, 3, H, W), found {tuple(images.shape)}")
    gain = 1 + (torch.rand(len(images), 3, 1, 1, generator=generator) * 2 - 1) * strength
    return paper - gain.to(images.device) * (paper - images)
