"""Residual networks whose poolings sit in front of any of their layers.

M. J. Roshtkhari, M. Toews and M. Pedersoli, Balanced Mixture of SuperNets for Learning the CNN Pooling
Architecture, AutoML 2023. Blocks and the three networks on CIFAR as in the authors' repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import ModelError


@dataclass(frozen=True)
class PoolingSpace:
    """Which network it is whose poolings move.

    Args:
        widths: Channels that every layer puts out: of the stem, then of each block.
        pools: How many poolings there are.
        default: Where the usual network has them.
        bottleneck: Whether blocks are bottlenecks, with a quarter of their channels inside.
        pooling: "max", a 2x2 max pooling before a block, or "stride", a stride of 2 inside it.
    """

    widths: tuple[int, ...]
    pools: int
    default: tuple[int, ...]
    bottleneck: bool = False
    pooling: str = "max"

    @property
    def positions(self) -> list[tuple[int, ...]]:
        """All choices of layers that a pooling goes in front of."""
        return pool_positions(len(self.widths), self.pools)


#: Name -> space: three of the paper, on CIFAR, and a small one for exhaustive tables.
POOLING_SPACES: Mapping[str, PoolingSpace] = {
    "resnet20": PoolingSpace((16,) * 4 + (32,) * 3 + (64,) * 3, 2, (4, 7)),
    "resnet18": PoolingSpace(
        (64,) * 3 + (128,) * 2 + (256,) * 2 + (512,) * 2, 3, (3, 5, 7), pooling="stride"
    ),
    "resnet50": PoolingSpace(
        (64,) + (256,) * 3 + (512,) * 4 + (1024,) * 6 + (2048,) * 3, 3, (4, 8, 14), True, "stride"
    ),
    "pool-15": PoolingSpace((16,) * 7, 2, (3, 5)),
}


def pool_positions(layers: int, pools: int) -> list[tuple[int, ...]]:
    """All ways to put poolings in front of layers: never the first, and one at most before each.

    Args:
        layers: Number of layers, the stem included.
        pools: Number of poolings.

    Returns:
        Ascending positions, 1 to layers - 1, in lexicographic order: layers - 1 choose pools.
    """
    return list(combinations(range(1, layers), pools))


def resolutions_of(positions: Sequence[int], layers: int) -> list[int]:
    """How many layers there are at each resolution: the paper writes (4, 7) of 10 as [4, 3, 3]."""
    return [b - a for a, b in pairwise([0, *positions, layers])]


def positions_of(resolutions: Sequence[int]) -> tuple[int, ...]:
    """The inverse of `resolutions_of`."""
    return tuple(sum(resolutions[: k + 1]) for k in range(len(resolutions) - 1))


class PooledBlock(nn.Module):
    """A residual block, with a 1x1 convolution as the shortcut where the number of channels changes.

    Parameters have the same names and shapes wherever the poolings are.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        pooling: "max" for a 2x2 max pooling in front, "stride" for a stride of 2 inside, None for neither; a
            shortcut without convolution takes every second pixel of a stride.
        bottleneck: Whether it is 1x1, 3x3 and 1x1 with a quarter of the channels inside, else two 3x3.
        norm: Settings of the batch normalisations.
    """

    def __init__(
        self, inputs: int, outputs: int, pooling: str | None, bottleneck: bool, norm: Mapping[str, bool]
    ) -> None:
        super().__init__()
        stride = 2 if pooling == "stride" else 1
        self.pool = nn.MaxPool2d(2) if pooling == "max" else nn.Identity()
        inner = outputs // 4 if bottleneck else outputs
        sizes = [(inputs, inner, 3, stride), (inner, outputs, 3, 1)]
        if bottleneck:
            sizes = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
        layers: list[nn.Module] = []
        for a, b, kernel, step in sizes:
            conv = nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(b, **norm), nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs, **norm))
        elif stride > 1:
            self.shortcut = nn.MaxPool2d(1, stride)  # of one pixel each: every second one
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), H and W halved where there is a pooling."""
        x = self.pool(x)
        return self.relu(self.branch(x) + self.shortcut(x))


class PooledResNet(nn.Module):
    """A 3x3 convolution and residual blocks, some behind a pooling, the mean over the image, a linear head.

    Batch normalisation has neither factors nor running statistics by default, so that weights can be shared
    between resolutions: batches are normalised by themselves when evaluating, too.

    Args:
        positions: Numbers of the layers that a pooling goes in front of, 1 to len(widths) - 1.
        widths: Channels of every layer; the first is the convolution.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        bottleneck: Whether blocks are bottlenecks.
        pooling: "max" or "stride", see `PoolingSpace`.
        affine: Whether batch normalisations have factors and terms.
        running_statistics: Whether they have running statistics.

    Raises:
        ModelError: if a position is not one of a layer that may have a pooling, or comes twice.
    """

    def __init__(
        self,
        positions: Sequence[int],
        widths: Sequence[int],
        num_classes: int = 10,
        in_channels: int = 3,
        bottleneck: bool = False,
        pooling: str = "max",
        affine: bool = False,
        running_statistics: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in ("max", "stride"):
            raise ModelError(f"there is no pooling {pooling!r}", "choose from max, stride")
        if len(set(positions)) < len(positions) or not set(positions) <= set(range(1, len(widths))):
            raise ModelError(
                f"poolings cannot be before layers {list(positions)} of {len(widths)}",
                f"give different numbers from 1 to {len(widths) - 1}",
            )
        norm = {"affine": affine, "track_running_stats": running_statistics}
        first = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(widths[0], **norm), nn.ReLU())
        layers = [
            PooledBlock(inputs, outputs, pooling if number in positions else None, bottleneck, norm)
            for number, (inputs, outputs) in enumerate(pairwise(widths), start=1)
        ]
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        return self.fc(torch.mean(self.layers(self.stem(x)), (2, 3)))


def pooled_resnet(
    positions: Sequence[int] | None = None,
    layers: int | str = 10,
    widths: Sequence[int] | None = None,
    num_classes: int = 10,
    in_channels: int = 3,
    **options: Any,
) -> PooledResNet:
    """Build a residual network with its poolings in front of given layers.

    Args:
        positions: Numbers of those layers; None is where the usual network has them (after equal thirds of
            the layers, for widths of one's own).
        layers: A name of `POOLING_SPACES`, or a number of layers: 10 is the paper's ResNet-20, 7 is
            "pool-15".
        widths: Channels of every layer; None are those of the named space.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        options: Others of `PooledResNet`: ``bottleneck``, ``pooling``, ``affine``, ``running_statistics``.

    Raises:
        ModelError: if there is no such network, or a pooling cannot be where it should.
    """
    name = {10: "resnet20", 7: "pool-15"}.get(layers, "") if isinstance(layers, int) else layers
    if widths is None:
        if name not in POOLING_SPACES:
            raise ModelError(
                f"there are no widths for {layers!r}", f"give widths, or one of {', '.join(POOLING_SPACES)}"
            )
        space = POOLING_SPACES[name]
        options = {"bottleneck": space.bottleneck, "pooling": space.pooling} | options
        widths, default = space.widths, space.default
    else:
        if isinstance(layers, int) and layers not in (10, len(widths)):
            raise ModelError(f"{len(widths)} widths are not of {layers} layers", "give one width a layer")
        default = positions_of(_thirds(len(widths)))
    at = default if positions is None else positions
    return PooledResNet(at, tuple(widths), num_classes, in_channels, **options)


def _thirds(layers: int) -> list[int]:
    """Layers of three resolutions, as equal as can be, more first."""
    return [layers // 3 + (k < layers % 3) for k in range(3)]
