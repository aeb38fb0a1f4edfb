"""Images of the side that a sub-network was chosen for."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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
