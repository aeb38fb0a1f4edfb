"""Convolutional networks that make images larger.

B. Lim, S. Son, H. Kim, S. Nah and K. M. Lee, Enhanced Deep Residual Networks for Single Image
Super-Resolution, CVPR Workshops 2017 (EDSR). Y. Zhang, K. Li, K. Li, L. Wang, B. Zhong and Y. Fu, Image
Super-Resolution Using Very Deep Residual Channel Attention Networks, ECCV 2018 (RCAN).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from netwright.errors import ModelError

#: Mean colour of DIV2K, subtracted on the way in and added on the way out.
MEAN = (0.4488, 0.4371, 0.4040)


class Recoloured(nn.Module, ABC):
    """A network that works on images without their mean colour.

    Args:
        channels: 3, or 1, whose mean is that of the three.
    """

    mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        values = MEAN if channels == 3 else (sum(MEAN) / 3,) * channels
        self.register_buffer("mean", torch.tensor(values).reshape(1, channels, 1, 1), persistent=False)

    @abstractmethod
    def enlarge(self, x: Tensor) -> Tensor:
        """(B, C, H, W) around zero -> (B, C, scale H, scale W) around zero."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in 0..1 -> (B, C, scale H, scale W)."""
        return self.enlarge(x - self.mean) + self.mean


class _Block(nn.Module):
    """Two convolutions without normalisation around a shortcut, scaled."""

    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu(self.conv1(x))) * self.share


class _Attended(nn.Module):
    """RCAN's block: as `_Block`, with every channel weighted by what its mean says."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // squeeze, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // squeeze, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.conv1(x)))
        return x + y * self.attention(y)


class _Group(nn.Module):
    """Blocks and a convolution around a shortcut."""

    def __init__(self, blocks: list[nn.Module], width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.blocks(x))


def upsampler(width: int, scale: int) -> nn.Sequential:
    """Convolutions and pixel shuffles: twice as large again and again, or three times at once.

    Raises:
        ModelError: if the scale is neither 3 nor a power of two.
    """
    if scale == 3:
        return nn.Sequential(nn.Conv2d(width, 9 * width, 3, padding=1), nn.PixelShuffle(3))
    times = int(math.log2(scale)) if scale > 0 else -1
    if scale < 1 or 2**times != scale:
        raise ModelError(f"images cannot be made {scale} times larger", "give 2, 3, 4 or 8")
    parts: list[nn.Module] = []
    for _ in range(times):
        parts += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*parts)


class EDSR(Recoloured):
    """Residual blocks without normalisation; the defaults are the published large network.

    Args:
        scale: How many times larger the answer is: 2, 3, 4 or 8.
        in_channels: Of the images.
        width: Channels.
        blocks: Residual blocks.
        share: What the blocks' answers are multiplied by.
    """

    def __init__(
        self, scale: int = 2, in_channels: int = 3, width: int = 256, blocks: int = 32, share: float = 0.1
    ) -> None:
        super().__init__(in_channels)
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        self.body = _Group([_Block(width, share) for _ in range(blocks)], width)
        self.upsample = upsampler(width, scale)
        self.tail = nn.Conv2d(width, in_channels, 3, padding=1)

    def enlarge(self, x: Tensor) -> Tensor:
        """See `Recoloured.enlarge`."""
        return self.tail(self.upsample(self.body(self.head(x))))


class RCAN(Recoloured):
    """Groups of residual blocks with channel attention; the defaults are the published network.

    Args:
        scale: How many times larger the answer is: 2, 3, 4 or 8.
        in_channels: Of the images.
        width: Channels.
        groups: Groups of blocks.
        blocks: Blocks of a group.
        squeeze: By how much the attention narrows.
    """

    def __init__(
        self,
        scale: int = 2,
        in_channels: int = 3,
        width: int = 64,
        groups: int = 10,
        blocks: int = 20,
        squeeze: int = 16,
    ) -> None:
        super().__init__(in_channels)
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        inner: list[nn.Module] = [
            _Group([_Attended(width, squeeze) for _ in range(blocks)], width) for _ in range(groups)
        ]
        self.body = _Group(inner, width)
        self.upsample = upsampler(width, scale)
        self.tail = nn.Conv2d(width, in_channels, 3, padding=1)

    def enlarge(self, x: Tensor) -> Tensor:
        """See `Recoloured.enlarge`."""
        return self.tail(self.upsample(self.body(self.head(x))))
