"""The shapes for CIFAR that were published with Transformable Architecture Search."""

from __future__ import annotations

from dataclasses import dataclass

from netwright.models.zoo.resnet_cifar import ShapedResNet


@dataclass(frozen=True)
class Published:
    """One published shape.

    Attributes:
        classes: Of the data.
        blocks: Blocks that each stage keeps.
        channels: Stem, then inner and outer channels of every block of the unpruned depth.
        millions: Multiply-accumulates as published, in millions, for images of 3x32x32; see `counted`.
    """

    classes: int
    blocks: tuple[int, int, int]
    channels: tuple[int, ...]
    millions: float


PUBLISHED = {
    "C010-ResNet20": Published(
        10, (3, 3, 3), (16, 6, 4, 4, 4, 4, 4, 32, 32, 12, 19, 32, 28, 64, 64, 64, 64, 64, 44), 22.444472
    ),
    "C010-ResNet32": Published(
        10,
        (5, 5, 5),
        (
            16,
            6,
            4,
            12,
            4,
            4,
            16,
            9,
            9,
            6,
            14,
            32,
            32,
            9,
            19,
            28,
            9,
            32,
            19,
            32,
            9,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            32,
            38,
            32,
        ),
        34.945344,
    ),
    "C010-ResNet56": Published(
        10,
        (5, 5, 5),
        (
            16,
            16,
            16,
            14,
            11,
            9,
            16,
            12,
            16,
            6,
            16,
            4,
            8,
            4,
            14,
            6,
            4,
            4,
            4,
            32,
            32,
            32,
            32,
            32,
            32,
            22,
            28,
            32,
            32,
            19,
            9,
            19,
            16,
            9,
            25,
            16,
            9,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            51,
            19,
            19,
            32,
            19,
            19,
            32,
            19,
            25,
        ),
        57.93305,
    ),
    "C010-ResNet110": Published(
        10,
        (11, 11, 9),
        (
            16,
            14,
            16,
            14,
            16,
            16,
            16,
            16,
            16,
            14,
            16,
            16,
            16,
            12,
            16,
            16,
            16,
            9,
            16,
            8,
            16,
            4,
            16,
            4,
            4,
            4,
            16,
            4,
            4,
            4,
            4,
            6,
            6,
            4,
            6,
            11,
            4,
            32,
            32,
            32,
            32,
            32,
            32,
            32,
            32,
            28,
            32,
            32,
            28,
            22,
            22,
            22,
            32,
            32,
            25,
            28,
            9,
            9,
            28,
            12,
            9,
            12,
            32,
            9,
            9,
            22,
            12,
            16,
            9,
            12,
            9,
            9,
            9,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            38,
            64,
            25,
            19,
            19,
            19,
            19,
            19,
            25,
            32,
            19,
            19,
            25,
            25,
            19,
            19,
            38,
            38,
            19,
            19,
            51,
        ),
        117.498238,
    ),
    "C100-ResNet56": Published(
        100,
        (5, 5, 7),
        (
            16,
            16,
            9,
            14,
            16,
            14,
            16,
            8,
            16,
            8,
            14,
            4,
            4,
            4,
            8,
            4,
            6,
            4,
            4,
            32,
            32,
            32,
            28,
            32,
            32,
            32,
            22,
            32,
            32,
            32,
            9,
            25,
            19,
            25,
            12,
            9,
            9,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            64,
            51,
            19,
            19,
            19,
            19,
            25,
            38,
            19,
            19,
        ),
        59.472556,
    ),
}

#: Depth -> millions of multiply-accumulates of the unpruned network for CIFAR-10, as published.
UNPRUNED = {20: 40.81318, 32: 69.12474, 56: 125.74784, 110: 253.14982}


def counted(name: str) -> int:
    """Multiply-accumulates of a published shape as its authors count them.

    What follows a stage is taken to read the outer width of the stage's last block even where that block was
    left out; the network as it is built reads that of the last block which is there. The two agree where no
    block was left out (ResNet-20 and ResNet-32); else the built network costs 1.5 to 3.3 % more.

    Args:
        name: One of `PUBLISHED`.
    """
    shape = PUBLISHED[name]
    each = (len(shape.channels) - 1) // 6
    widths, side = iter(shape.channels), 32
    outer = next(widths)
    total = 3 * outer * 9 * side**2
    for stage in range(3):
        for block in range(each):
            inputs, inner, outer = outer, next(widths), next(widths)
            if block >= shape.blocks[stage]:
                continue
            stride = 2 if stage and not block else 1
            side //= stride
            projected = inputs * outer if stride == 2 or inputs != outer else 0
            total += side**2 * (9 * (inputs * inner + inner * outer) + projected)
    return total + outer * shape.classes


def published(name: str) -> ShapedResNet:
    """The network of a published shape, with fresh weights.

    Args:
        name: One of `PUBLISHED`.
    """
    shape = PUBLISHED[name]
    stem, *rest = shape.channels
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    each = len(pairs) // 3
    stages = [pairs[s * each :][: shape.blocks[s]] for s in range(3)]
    return ShapedResNet(stem, stages, shape.classes)
