"""Networks of inverted residuals, of any width, depth, kernel and expansion: BigNAS's space.

J. Yu, P. Jin, H. Liu et al., BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models, ECCV
2020, section 3 and the search space of table 1. The authors released no code; where the paper leaves details
open (a squeeze of a quarter of the expanded channels, convolutions without norm at the transitions) this
follows the public re-implementation xfey/pytorch-BigNAS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import ModelError
from netwright.models.zoo.drop_path import DropPath
from netwright.models.zoo.squeeze import SqueezeExcitation


@dataclass(frozen=True)
class MBStage:
    """Inverted residuals of one width.

    Args:
        width: Channels that go out.
        depth: Number of blocks.
        kernel: Side of the depthwise kernels, odd; one for all blocks or one for each.
        expansion: Inner channels by those that come in.
        stride: Of the first block.
        se: Whether the blocks have squeeze and excitation.

    Raises:
        ModelError: if a size is not positive, or the kernels are not odd or not of as many blocks.
    """

    width: int
    depth: int
    kernel: int | tuple[int, ...] = 3
    expansion: float = 6
    stride: int = 1
    se: bool = True

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.stride) < 1 or self.expansion <= 0:
            raise ModelError(f"{self} has a size that is not positive", "give sizes of at least 1")
        if len(self.kernels) != self.depth or any(k % 2 == 0 for k in self.kernels):
            raise ModelError(
                f"kernels {self.kernel} are none for {self.depth} blocks", "give an odd side, or one for each"
            )

    @property
    def kernels(self) -> tuple[int, ...]:
        """The side of the kernel of every block."""
        return (self.kernel,) * self.depth if isinstance(self.kernel, int) else tuple(self.kernel)


def _stages(widths: Sequence[int], depths: Sequence[int], kernels: Sequence[int]) -> tuple[MBStage, ...]:
    expansions, strides = (1, 6, 6, 6, 6, 6, 6), (1, 2, 2, 2, 1, 2, 1)
    sizes = zip(widths, depths, kernels, expansions, strides, strict=True)
    return tuple(MBStage(w, d, k, e, s) for w, d, k, e, s in sizes)


_LARGE = _stages((24, 32, 48, 88, 128, 216, 352), (2, 3, 3, 4, 6, 6, 2), (3, 3, 5, 5, 5, 5, 5))
_SMALL = _stages((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 2, 2, 2, 1), (3,) * 7)
#: Both ends of the space on ImageNet: stem, stages, head, resolution.
LARGEST = (40, _LARGE, 1408, 320)
SMALLEST = (32, _SMALL, 1280, 192)


def divisible(width: float, divisor: int = 8) -> int:
    """The multiple of a divisor that is nearest to a width, at least one and never below nine tenths of it.

    Args:
        width: Channels, any positive number.
        divisor: What the answer is a multiple of.
    """
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


class InvertedResidual(nn.Module):
    """1x1, depthwise and 1x1 convolutions, with a shortcut around them that fits.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        inner: Channels between; as many as come in leave out the first convolution.
        kernel: Side of the depthwise kernel, odd.
        stride: Of the depthwise convolution.
        squeezed: Squeezed channels of the squeeze and excitation; none where None.
        transition_skip: Whether there is a shortcut (means of the pixels, a 1x1 convolution) where the shape
            changes.
        drop_path: Rate at which examples skip the block while training.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        inner: int,
        kernel: int,
        stride: int = 1,
        squeezed: int | None = None,
        transition_skip: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.expand = _conv(inputs, inner, 1) if inner != inputs else None
        self.depthwise = _conv(inner, inner, kernel, stride, groups=inner)
        self.se = None if squeezed is None else SqueezeExcitation(inner, squeezed, nn.Hardsigmoid())
        self.project = nn.Conv2d(inner, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.drop_path = DropPath(drop_path)
        same = stride == 1 and inputs == outputs
        self.shortcut = _shortcut(inputs, outputs, stride) if same or transition_skip else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = self.depthwise(x if self.expand is None else self.expand(x))
        y = self.norm(self.project(y if self.se is None else self.se(y)))
        return y if self.shortcut is None else self.shortcut(x) + self.drop_path(y)


class BigNas(nn.Module):
    """A stem, stages of inverted residuals, a 1x1 convolution, the mean over the image, a linear head.

    Args:
        stages: Widths, depths, kernels, expansions and strides.
        stem: Channels of the first convolution.
        head: Channels of the last one.
        resolution: Height and width of the images that the network is meant for, kept as ``image_size``; it
            takes any, and resizing them is left to who gives them.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        stem_stride: Stride of the first convolution.
        se_from: Squeezed channels are a quarter of the "expanded" ones, rounded to 8, or of the "input" ones
            of the block, as in EfficientNet.
        zero_last_gamma: Whether the last norm of every block with a shortcut begins at 0, so that the block
            begins as its shortcut.
        transition_skip: Whether blocks that change the shape have a shortcut, too.
        dropout: Of the features before the linear head.
        drop_path: Rate of stochastic depth, rising linearly over the blocks, in the last two stages and in
            blocks that keep the shape.

    Raises:
        ModelError: if there is no stage, or `se_from` is none of the two.
    """

    def __init__(
        self,
        stages: Sequence[MBStage] = LARGEST[1],
        stem: int = 40,
        head: int = 1408,
        resolution: int | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem_stride: int = 2,
        se_from: str = "expanded",
        zero_last_gamma: bool = True,
        transition_skip: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not stages:
            raise ModelError("a network needs a stage", "give MBStage(...) at least once")
        if se_from not in ("expanded", "input"):
            raise ModelError(f"channels are not squeezed from {se_from!r}", "choose from expanded, input")
        self.image_size = resolution
        self.stem = _conv(in_channels, stem, 3, stem_stride)
        blocks: list[nn.Module] = []
        inputs, total = stem, sum(stage.depth for stage in stages)
        for number, stage in enumerate(stages):
            for k, kernel in enumerate(stage.kernels):
                stride = 1 if k else stage.stride
                inner = inputs if stage.expansion == 1 else divisible(round(inputs * stage.expansion))
                squeezed = divisible(inner // 4) if se_from == "expanded" else max(1, inputs // 4)
                dropped = number >= len(stages) - 2 and stride == 1 and inputs == stage.width
                blocks.append(
                    InvertedResidual(
                        inputs,
                        stage.width,
                        inner,
                        kernel,
                        stride,
                        squeezed if stage.se else None,
                        transition_skip,
                        drop_path * len(blocks) / total if dropped else 0.0,
                    )
                )
                inputs = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(inputs, head, 1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(head, num_classes)
        _draw(self, zero_last_gamma)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(self.dropout(torch.mean(x, (2, 3))))


def bignas(
    size: str | Sequence[MBStage] = "largest",
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    se_from: str = "expanded",
    **options: Any,
) -> BigNas:
    """Build a network of BigNAS's space: an end of the one on ImageNet, or of any stages.

    Args:
        size: "largest", "smallest", or stages.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        se_from: "expanded" or "input", see `BigNas`.
        options: Others of `BigNas`; they go before those of the named size.

    Raises:
        ModelError: if there is no such size, or an option makes no sense.
    """
    ends = {"largest": LARGEST, "smallest": SMALLEST}
    named: dict[str, Any] = {"stages": size}
    if isinstance(size, str):
        if size not in ends:
            raise ModelError(f"there is no BigNAS network {size!r}", f"choose from {', '.join(ends)}")
        named = dict(zip(("stem", "stages", "head", "resolution"), ends[size], strict=True))
    fixed = {"num_classes": num_classes, "in_channels": in_channels, "se_from": se_from}
    return BigNas(**(named | fixed | options))


def stages_of(
    stages: Sequence[MBStage],
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    kernels: Sequence[int | tuple[int, ...]] | None = None,
    expansions: Sequence[float] | None = None,
) -> tuple[MBStage, ...]:
    """Stages with other sizes in them, one number a stage each; None leaves those that are there.

    Args:
        stages: What the rest is taken from.
        widths: Channels that go out.
        depths: Numbers of blocks.
        kernels: Sides of the depthwise kernels; a tuple has one for each block.
        expansions: Inner channels by those that come in.

    Raises:
        ModelError: if there are not as many numbers as stages, or a size is not positive.
    """
    given: dict[str, Sequence[Any] | None] = {
        "width": widths,
        "depth": depths,
        "kernel": kernels,
        "expansion": expansions,
    }
    changes: list[dict[str, Any]] = [{} for _ in stages]
    for name, values in given.items():
        if values is not None and len(values) != len(stages):
            raise ModelError(f"{len(values)} numbers of {name} for {len(stages)} stages", "give one a stage")
        for change, value in zip(changes, values or (), strict=False):
            change[name] = value
    return tuple(replace(stage, **change) for stage, change in zip(stages, changes, strict=True))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU())


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Means of the pixels and a 1x1 convolution, as far as the shape changes; without either the identity."""
    layers: list[nn.Module] = []
    if stride > 1:
        layers.append(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
    if inputs != outputs:
        layers.append(nn.Conv2d(inputs, outputs, 1, bias=False))
    return nn.Sequential(*layers)


def _draw(model: BigNas, zero_last_gamma: bool) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            deviation = math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels))
            nn.init.normal_(module.weight, std=deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, InvertedResidual) and module.shortcut is not None and zero_last_gamma:
            nn.init.zeros_(module.norm.weight)
    bound = 1 / math.sqrt(model.fc.in_features)
    nn.init.uniform_(model.fc.weight, -bound, bound)
    nn.init.zeros_(model.fc.bias)
