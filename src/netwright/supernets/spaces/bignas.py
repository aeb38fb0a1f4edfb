"""BigNAS's space on ImageNet as a supernet.

J. Yu, P. Jin, H. Liu et al., BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models, ECCV
2020, table 1: a stem, seven stages of inverted residuals, a last convolution, and the size of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from netwright.models.zoo.bignas import LARGEST, SMALLEST, MBStage, bignas
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.making import elastic

#: Widths are multiples of it.
STEP = 8
#: Sides of the images.
SIDES = (192, 224, 288, 320)


def bignas_supernet(sides: Sequence[int] = SIDES, **options: Any) -> Elastic:
    """The supernet of the space: the largest network with fresh weights.

    A stage has one width ("width:stage 3"; "width:stem" and "width:head" are the others). The channels inside
    the blocks that take it in follow it, six times as many, and so does what squeezes them. Its depth
    ("depth:blocks.6") and the kernel of every block ("kernel:blocks.6.depthwise.0") are chosen by themselves.

    Args:
        sides: Sides of the images that can be chosen.
        options: Others of `models.bignas`: ``num_classes``, ``in_channels``, ``dropout``, ``drop_path``, ...

    Raises:
        ModelError: if an option makes no sense.
        UsageError: if a side is none.
    """
    stem, stages, head, _ = LARGEST
    least_stem, least, least_head, _ = SMALLEST
    model = bignas("largest", **options)
    share = {"stem": ["stem.0"], **_followers(stages), "head": ["head.0"]}
    ends = [(least_stem, stem), *((a.width, b.width) for a, b in zip(least, stages, strict=True))]
    width: dict[str, Sequence[float]] = {}
    for patterns, (low, high) in zip(share.values(), [*ends, (least_head, head)], strict=True):
        shares = [size / high for size in range(low, high + 1, STEP)]
        width |= dict.fromkeys(patterns, shares)
    return elastic(
        model,
        torch.zeros(1, options.get("in_channels", 3), max(sides), max(sides)),
        width=width | {"blocks.0.se.reduce": [8, 16]},
        depth=_depths(least, stages),
        kernel={"blocks.*.depthwise.0": [3, 5]},
        resolution=sides,
        unit=STEP,
        share=share,
    )


def _followers(stages: Sequence[MBStage]) -> dict[str, list[str]]:
    """Name of a stage's width -> the axes that go by it: its own, and those inside the blocks it enters."""
    found: dict[str, list[str]] = {}
    first = 0
    for number, stage in enumerate(stages, 1):
        last = first + stage.depth
        inside = [*range(first + 1, last), *([last] if number < len(stages) else [])]
        expanded = [f"blocks.{i}.expand.0" for i in inside if number > 1 or i == last]
        squeezed = [f"blocks.{i}.se.reduce" for i in inside if number > 1 or i == last]
        found[f"stage {number}"] = [f"blocks.{first}.project", *expanded, *squeezed]
        first = last
    return found


def _depths(least: Sequence[MBStage], most: Sequence[MBStage]) -> dict[str, list[int]]:
    """First block of a stage that can be skipped -> how many blocks the stage can have."""
    found: dict[str, list[int]] = {}
    first = 0
    for low, high in zip(least, most, strict=True):
        found[f"blocks.{first + 1}"] = list(range(low.depth, high.depth + 1))
        first += high.depth
    return found
