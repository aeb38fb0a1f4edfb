"""Networks of stacked cells, each a small graph with an operation on every edge.

X. Dong and Y. Yang, NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020,
section 2.1; and a smaller one of the same kind, of three edges, for exhaustive tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import ModelError

#: Operations of the small cell and of NAS-Bench-201.
CELL_OPS: tuple[str, ...] = ("skip", "conv1x1", "conv3x3", "avgpool")
NB201_OPS: tuple[str, ...] = ("none", *CELL_OPS)


class Zero(nn.Module):
    """Nothing: the input times 0, so that an edge without operation is still one."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, the same back."""
        return x * 0


def _conv(width: int, kernel: int, norm: Mapping[str, bool]) -> nn.Module:
    conv = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(width, **norm))


_OPS: Mapping[str, Callable[[int, Mapping[str, bool]], nn.Module]] = {
    "none": lambda width, norm: Zero(),
    "skip": lambda width, norm: nn.Identity(),
    "conv1x1": lambda width, norm: _conv(width, 1, norm),
    "conv3x3": lambda width, norm: _conv(width, 3, norm),
    "avgpool": lambda width, norm: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
}


def cell_op(name: str, width: int, affine: bool = False, running_statistics: bool = False) -> nn.Module:
    """One operation of an edge, which keeps the shape: what an edge holds or may hold instead.

    Args:
        name: One of `NB201_OPS`; convolutions are ReLU, convolution and batch normalisation.
        width: Channels.
        affine: Whether the batch normalisation has factors and terms.
        running_statistics: Whether it has running statistics.

    Raises:
        ModelError: if there is no such operation.
    """
    if name not in _OPS:
        raise ModelError(f"a cell has no operation {name!r}", f"choose from {', '.join(_OPS)}")
    return _OPS[name](width, {"affine": affine, "track_running_stats": running_statistics})


def cell_edges(nodes: int) -> list[tuple[int, int]]:
    """Edges (from, to) of the complete directed graph of a cell, those into node 1 first."""
    return [(source, target) for target in range(1, nodes) for source in range(target)]


def cell_paths(ops: Sequence[str] = CELL_OPS, nodes: int = 3) -> list[tuple[str, ...]]:
    """All choices of an operation for every edge: 64 for the small cell, 15 625 for NAS-Bench-201."""
    return list(product(ops, repeat=len(cell_edges(nodes))))


class Cell(nn.Module):
    """Nodes that add up what the operations of their edges make of earlier nodes; the last goes out.

    Args:
        ops: Names of the operations in the order of `cell_edges`.
        nodes: Nodes, the input included.
        width: Channels.
        affine: Whether batch normalisations have factors and terms.
        running_statistics: Whether they have running statistics.
    """

    def __init__(
        self, ops: Sequence[str], nodes: int, width: int, affine: bool, running_statistics: bool
    ) -> None:
        super().__init__()
        self.sources = [source for source, _ in cell_edges(nodes)]
        self.targets = [target for _, target in cell_edges(nodes)]
        self.edges = nn.ModuleList(cell_op(op, width, affine, running_statistics) for op in ops)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W), the same back."""
        nodes = [x]
        for source, target, edge in zip(self.sources, self.targets, self.edges, strict=True):
            y = edge(nodes[source])
            if target == len(nodes):
                nodes.append(y)
            else:
                nodes[target] = nodes[target] + y
        return nodes[-1]


class Reduction(nn.Module):
    """The residual block between stages: half the resolution, other channels.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        norm: Settings of the batch normalisations.
    """

    def __init__(self, inputs: int, outputs: int, norm: Mapping[str, bool]) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outputs, **norm),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs, **norm),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / 2, W / 2), H and W even."""
        return self.branch(x) + self.shortcut(x)


class CellNet(nn.Module):
    """A stem, stages of equal cells with a residual block of stride 2 between them, a linear head.

    Args:
        ops: Names of the operations of a cell in the order of `cell_edges`; all cells share them.
        nodes: Nodes of a cell, the input included.
        cells: Cells of a stage.
        stages: How many; each has twice the channels of the one before.
        width: Channels of the first stage.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        affine: Whether batch normalisations in cells have factors and terms.
        running_statistics: Whether batch normalisations have running statistics; without, batches are
            normalised by themselves when evaluating, too.

    Raises:
        ModelError: if there is no such operation, or not one for every edge.
    """

    def __init__(
        self,
        ops: Sequence[str],
        nodes: int = 3,
        cells: int = 3,
        stages: int = 1,
        width: int = 16,
        num_classes: int = 10,
        in_channels: int = 3,
        affine: bool = False,
        running_statistics: bool = False,
    ) -> None:
        super().__init__()
        edges = len(cell_edges(nodes))
        if isinstance(ops, str) or len(ops) != edges:
            raise ModelError(f"{ops!r} are not operations of {edges} edges", f"give {edges} names")
        outside = {"affine": True, "track_running_stats": running_statistics}
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width, **outside)
        )
        layers: list[nn.Module] = []
        for number in range(stages):
            if number:
                layers.append(Reduction(width, 2 * width, outside))
                width *= 2
            layers += [Cell(ops, nodes, width, affine, running_statistics) for _ in range(cells)]
        self.cells = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.BatchNorm2d(width, **outside), nn.ReLU())
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        return self.fc(torch.mean(self.last(self.cells(self.stem(x))), (2, 3)))


def cell_net(
    ops: Sequence[str] | None = None,
    kind: str = "cell-64",
    num_classes: int = 10,
    in_channels: int = 3,
    **options: Any,
) -> CellNet:
    """Build the small network of cells (three edges) or that of NAS-Bench-201 (six).

    Args:
        ops: Names of the operations, see `cell_edges` for their order; 3x3 convolutions where None.
        kind: "cell-64": 3 nodes, 3 cells, 16 channels; "nb201": 4 nodes, 3 stages of 5 cells, 16 channels.
        num_classes: Classes of the answer.
        in_channels: Channels of the images.
        options: Others of `CellNet`: ``nodes``, ``cells``, ``stages``, ``width``, ``affine``,
            ``running_statistics``.

    Raises:
        ModelError: if there is no such network or operation, or not one for every edge.
    """
    kinds = {"cell-64": {"nodes": 3, "cells": 3}, "nb201": {"nodes": 4, "cells": 5, "stages": 3}}
    if kind not in kinds:
        raise ModelError(f"there is no network of cells {kind!r}", f"choose from {', '.join(kinds)}")
    settings: dict[str, Any] = {**kinds[kind], **options}
    nodes = settings["nodes"]
    assert isinstance(nodes, int)
    chosen = ("conv3x3",) * len(cell_edges(nodes)) if ops is None else ops
    return CellNet(chosen, num_classes=num_classes, in_channels=in_channels, **settings)
