"""Networks of mixed blocks, small enough to search on a processor: for classes, for pixels, for key points.

After HR-NAS (M. Ding et al., CVPR 2021), the supernet of SuperTickets (ECCV 2022): branches of several
resolutions side by side that exchange what they know after every stage. Its transformer path is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from netwright.models.blocks import MixedBlock


class MixedNet(nn.Module):
    """A classifier: a stem, a row of mixed blocks, the mean over the image, a linear head.

    Args:
        num_classes: Classes.
        in_channels: Channels of the image.
        width: Channels between the blocks; doubled where the image is halved.
        hidden: Hidden channels of every kernel of a block, doubled likewise.
        strides: One number a block.
        kernels: Depthwise kernels of every block.
        stem_stride: Stride of the first convolution.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        width: int = 12,
        hidden: int = 8,
        strides: Sequence[int] = (1, 1, 2, 1),
        kernels: Sequence[int] = (3, 5, 7),
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks, inputs = [], width
        for stride in strides:
            outputs = inputs * stride
            hidden = hidden * stride
            blocks.append(MixedBlock(inputs, outputs, kernels, hidden, stride))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, num_classes)."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class MultiResolution(nn.Module):
    """Mixed blocks at several resolutions side by side, and a head that reads all of them.

    Args:
        head: Takes the features, fine to coarse, [(B, widths[i], H / 2^(i+1), W / 2^(i+1))], and the size
            (H, W) of the image.
        in_channels: Channels of the image.
        widths: Channels of every resolution; the first is half that of the image, each one after it half the
            one before.
        stages: Rows of blocks; resolutions exchange after each.
        hidden: Hidden channels of every kernel of a block.
        kernels: Depthwise kernels.
    """

    def __init__(
        self,
        head: nn.Module,
        in_channels: int = 1,
        widths: Sequence[int] = (8, 16),
        stages: int = 2,
        hidden: int = 8,
        kernels: Sequence[int] = (3, 5, 7),
    ) -> None:
        super().__init__()
        self.stem = _conv(in_channels, widths[0], 2)
        self.down = nn.ModuleList(_conv(a, b, 2) for a, b in pairwise(widths))
        self.stages = nn.ModuleList(_Stage(widths, hidden, kernels) for _ in range(stages))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> what the head makes of it."""
        features = [self.stem(x)]
        for down in self.down:
            features.append(down(features[-1]))
        for stage in self.stages:
            features = stage(features)
        answer: Tensor = self.head(features, x.shape[2:])
        return answer


class _Stage(nn.Module):
    """One block at each resolution, then every resolution takes in all the others."""

    def __init__(self, widths: Sequence[int], hidden: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MixedBlock(w, w, kernels, hidden) for w in widths)
        self.exchange = nn.ModuleDict(
            {
                _name(source, to): _pass(a, b, to - source)
                for source, a in enumerate(widths)
                for to, b in enumerate(widths)
                if source != to
            }
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        features = [block(x) for block, x in zip(self.blocks, features, strict=True)]
        out = []
        for to, here in enumerate(features):
            parts = [self.exchange[_name(source, to)](x) for source, x in enumerate(features) if source != to]
            parts = [p if p.shape[2:] == here.shape[2:] else _to(p, here.shape[2:]) for p in parts]
            out.append(torch.relu(reduce(torch.add, parts, here)))
        return out


def _name(source: int, to: int) -> str:
    return f"from_{source}_to_{to}"


def _pass(inputs: int, outputs: int, halvings: int) -> nn.Module:
    """From one resolution to one that is so many halvings coarser, or finer where that is negative."""
    if halvings < 0:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
    steps = [_conv(inputs, inputs, 2) for _ in range(halvings - 1)]
    last = nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(*steps, *last)


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _to(x: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(x, size=size, mode="nearest")


class ClassHead(nn.Module):
    """The means of all resolutions, and a linear map.

    Args:
        widths: Channels of every resolution.
        num_classes: Classes.
    """

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(sum(widths), num_classes)

    def forward(self, features: list[Tensor], size: torch.Size) -> Tensor:
        """Features of all resolutions -> (B, num_classes)."""
        return self.linear(torch.cat([x.mean((2, 3)) for x in features], 1))


class SegmentationHead(nn.Module):
    """All resolutions at the finest one, a convolution, enlarged to the image.

    Args:
        widths: Channels of every resolution.
        num_classes: Classes of every pixel.
    """

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(sum(widths), num_classes, 1)

    def forward(self, features: list[Tensor], size: torch.Size) -> Tensor:
        """Features of all resolutions -> (B, num_classes, H, W) of the image."""
        answer = self.conv(_joined(features))
        return functional.interpolate(answer, size=size, mode="bilinear", align_corners=False)


class KeypointHead(nn.Module):
    """One heat map a key point, at the finest resolution.

    Args:
        widths: Channels of every resolution.
        points: Key points.
    """

    def __init__(self, widths: Sequence[int], points: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(sum(widths), points, 1)

    def forward(self, features: list[Tensor], size: torch.Size) -> Tensor:
        """Features of all resolutions -> (B, points, H / 2, W / 2), rounded up."""
        return self.conv(_joined(features))


def _joined(features: list[Tensor]) -> Tensor:
    finest = features[0].shape[2:]
    return torch.cat([features[0], *(_to(x, finest) for x in features[1:])], 1)
