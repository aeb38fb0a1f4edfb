"""Residual networks for small images.

K. He, X. Zhang, S. Ren and J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from netwright.errors import ModelError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Of the first convolution and of the shortcut.
        inner: Channels between the two convolutions; as many as go out where None.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, inner: int | None = None) -> None:
        super().__init__()
        inner = outputs if inner is None else inner
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNetCifar(nn.Module):
    """A residual network of 6n + 2 layers: a 3x3 stem and three stages of n blocks, 16, 32 and 64 wide.

    Shortcuts that change the shape are 1x1 convolutions with batch normalisation (option B of the paper);
    the padding of option A cannot be sliced, so it could not be pruned.

    Args:
        depth: 6n + 2.
        num_classes: Classes of the answer.
        in_channels: Channels of the images, of any size.
        widths: Channels of the three stages.

    Raises:
        ModelError: if the depth is not 6n + 2.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: tuple[int, int, int] = (16, 32, 64),
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ModelError(
                f"a residual network for small images cannot have {depth} layers", "6n + 2: 8, 20, 32"
            )
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(widths[0], widths[0], blocks, 1)
        self.layer2 = _stage(widths[0], widths[1], blocks, 2)
        self.layer3 = _stage(widths[1], widths[2], blocks, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        _draw(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class ShapedResNet(ResNetCifar):
    """A residual network of the same kind whose every convolution has a width of its own.

    A shortcut is a 1x1 convolution where the stride is 2 or the widths at both ends differ, as in the shapes
    of X. Dong and Y. Yang, Network Pruning via Transformable Architecture Search, NeurIPS 2019.

    Args:
        stem: Channels of the first convolution.
        stages: Three lists of (inner, outer) channels of the blocks.
        num_classes: Classes of the answer.
        in_channels: Channels of the images, of any size.

    Raises:
        ModelError: if there are not three stages of at least one block.
    """

    def __init__(
        self,
        stem: int,
        stages: Sequence[Sequence[tuple[int, int]]],
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super(ResNetCifar, self).__init__()
        if len(stages) != 3 or not all(stages):
            raise ModelError(
                f"{[len(s) for s in stages]} blocks are no residual network", "give three stages"
            )
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        inputs, built = stem, []
        for number, blocks in enumerate(stages):
            layers = []
            for k, (inner, outer) in enumerate(blocks):
                layers.append(BasicBlock(inputs, outer, 2 if number and not k else 1, inner))
                inputs = outer
            built.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3 = built
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        _draw(self)


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
