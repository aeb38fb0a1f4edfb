"""A small encoder and decoder for dense answers.

O. Ronneberger, P. Fischer and T. Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation,
MICCAI 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """An encoder that halves the image, and a decoder that joins each level's features on the way back.

    Args:
        num_classes: Classes of each pixel.
        in_channels: Channels of the image.
        width: Channels of the first level; each level below doubles them.
        levels: How often the image is halved.
    """

    def __init__(self, num_classes: int = 2, in_channels: int = 3, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.encoders = nn.ModuleList(
            _double(a, b) for a, b in zip([in_channels, *widths[:-2]], widths[:-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottom = _double(widths[-2], widths[-1])
        self.decoders = nn.ModuleList(
            _double(below + level, level) for below, level in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes, H, W); H and W are at least 2 ** levels."""
        kept = []
        for encoder in self.encoders:
            x = encoder(x)
            kept.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for decoder in self.decoders:
            beside = kept.pop()
            # To the size of the other side: halving an odd size rounds down.
            x = functional.interpolate(x, size=beside.shape[2:], mode="nearest")
            x = decoder(torch.cat((beside, x), dim=1))
        return self.head(x)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
