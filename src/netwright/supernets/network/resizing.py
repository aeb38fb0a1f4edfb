"""Images of the side that a sub-network was chosen for."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree


def resize(x: Tensor, side: int) -> Tensor:
    """Images of another size, bicubic; what is no batch of images, or has that size, is left alone.

    Args:
        x: (B, C, H, W).
        side: Height and width afterwards.

    Returns:
        (B, C, side, side).
    """
    if x.dim() != 4 or x.shape[-2:] == (side, side):
        return x
    return F.interpolate(
        x, (side, side), mode="bicubic", align_corners=False, antialias=side < max(x.shape[-2:])
    )


def resized(values: Any, side: int) -> Any:
    """Arguments with images of another size.

    Args:
        values: Tensors, those of rank 4 images, in any containers.
        side: Height and width afterwards.
    """
    return pytree.tree_map_only(Tensor, lambda x: resize(x, side), values)


class Resize(nn.Module):
    """`resize` as the first layer of a network that was cut out at another resolution.

    Args:
        side: Height and width of what it gives.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, side, side)."""
        return resize(x, self.side)
