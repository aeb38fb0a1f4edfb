"""Small networks of the three families of the PreCrop paper, for grey images of 14x14 pixels."""

from __future__ import annotations

from torch import Tensor, nn

from netwright.models import ResNetCifar


class _Shuffle(nn.Module):
    """ShuffleNet's unit: grouped 1x1, channel shuffle, depthwise 3x3, grouped 1x1, around a shortcut.

    X. Zhang, X. Zhou, M. Lin and J. Sun, ShuffleNet, CVPR 2018, figure 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.reduce = nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.depthwise = nn.Conv2d(outputs, outputs, 3, stride, 1, groups=outputs, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.expand = nn.Conv2d(outputs, outputs, 1, groups=groups, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride > 1:
            # ShuffleNet concatenates here, which fixes the widths of what grouped layers read afterwards.
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(3, stride, 1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = self.relu(self.norm1(self.reduce(x)))
        y = y.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)  # groups in turn
        y = self.norm3(self.expand(self.norm2(self.depthwise(y))))
        return self.relu(self.shortcut(x) + y)


class _Inverted(nn.Module):
    """MobileNetV2's unit: 1x1 that widens, depthwise 3x3, 1x1 that narrows, around a shortcut.

    M. Sandler, A. Howard, M. Zhu, A. Zhmoginov and L.-C. Chen, MobileNetV2, CVPR 2018, figure 4.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, widen: int) -> None:
        super().__init__()
        inner = inputs * widen
        self.adds = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return x + self.layers(x) if self.adds else self.layers(x)


def resnet(channels: int, classes: int, quick: bool = False) -> nn.Module:
    """ResNet-20 of width 8 (ResNet-8 in a quick run)."""
    return ResNetCifar(8 if quick else 20, classes, channels, (8, 16, 32))


def shufflenet(channels: int, classes: int) -> nn.Module:
    """Seven ShuffleNet units in three stages of 24, 48 and 96 channels, two groups."""
    units: list[nn.Module] = [_Shuffle(24, 24, 1, 2)]
    for inputs, outputs in ((24, 48), (48, 96)):
        units += [_Shuffle(inputs, outputs, 2, 2), *(_Shuffle(outputs, outputs, 1, 2) for _ in range(2))]
    return _around(channels, classes, 24, 96, units)


def mobilenet(channels: int, classes: int) -> nn.Module:
    """Six inverted units in three stages of 12, 20 and 32 channels, widened four times."""
    units: list[nn.Module] = [_Inverted(12, 12, 1, 4), _Inverted(12, 12, 1, 4)]
    for inputs, outputs in ((12, 20), (20, 32)):
        units += [_Inverted(inputs, outputs, 2, 4), _Inverted(outputs, outputs, 1, 4)]
    return _around(channels, classes, 12, 32, units)


def _around(channels: int, classes: int, first: int, last: int, units: list[nn.Module]) -> nn.Module:
    stem = [nn.Conv2d(channels, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)]
    return nn.Sequential(*stem, *units, *head)
