"""What a choice costs, without cutting it out: the dense network's operators, priced at the kept sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.structure import Cost, Structure
from netwright.structure.cost import CONVOLUTIONS
from netwright.structure.record import Node
from netwright.supernets.network.blueprint import Blueprint
from netwright.supernets.network.dims import Depth

Ints = NDArray[np.int64]
#: Choices priced at once.
_CHUNK = 256


def costs(blueprint: Blueprint, choices: Sequence[Mapping[str, Any]]) -> Ints:
    """Costs of choices for one example, (choices, 3): multiply-accumulates, parameters, activation bytes.

    They equal those of the extracted networks, to the last unit.

    Args:
        blueprint: Of the supernet.
        choices: Choices of its space.
    """
    out = np.zeros((len(choices), 3), np.int64)
    by_structure: dict[int, list[int]] = {}
    for i, choice in enumerate(choices):
        by_structure.setdefault(id(blueprint.at_resolution(choice)), []).append(i)
    for indices in by_structure.values():
        net = blueprint.at_resolution(choices[indices[0]])
        for first in range(0, len(indices), _CHUNK):
            some = indices[first : first + _CHUNK]
            out[some] = _priced(blueprint, net, [choices[i] for i in some])
    return out


def cost(blueprint: Blueprint, choice: Mapping[str, Any]) -> Cost:
    """What one choice costs; see `costs`.

    Args:
        blueprint: Of the supernet.
        choice: A choice of its space.
    """
    macs, params, activation_bytes = costs(blueprint, [choice])[0].tolist()
    return Cost(macs, params, activation_bytes)


def _priced(blueprint: Blueprint, net: Structure, choices: Sequence[Mapping[str, Any]]) -> Ints:
    total: Ints = operators(blueprint, net, choices).sum(axis=1)
    for figure in (0, 2):
        total[:, figure] = -(-total[:, figure] // max(net.batch, 1))
    return total


def operators(blueprint: Blueprint, net: Structure, choices: Sequence[Mapping[str, Any]]) -> Ints:
    """Costs of every operator, (choices, operators, 3) as `costs`, of all examples of the traced batch.

    Args:
        blueprint: Of the supernet.
        net: Its structure at the choices' resolution.
        choices: Choices of its space, which need not be canonical.
    """
    keep = torch.stack([blueprint.keep(choice) for choice in choices])
    nodes, found = net.operator_costs(keep)
    table: Ints = found.numpy()  # (choices, operators, 3)
    paths = [node.module for node in nodes]
    for kernel in blueprint.kernels:
        sizes = np.array([choice[kernel.name] for choice in choices], np.int64)
        for index, node in enumerate(nodes):
            if node.module == kernel.path and node.op in CONVOLUTIONS:
                _crop(table, index, node, net, (kernel.full, sizes), keep)
    for depth in blueprint.depths:
        blocks = depth.stage.blocks if isinstance(depth, Depth) else (depth.block,)
        gone = [set(blueprint.skipped(choice)) for choice in choices]
        for block in blocks:
            skipped = np.array([block in g for g in gone])
            _drop(table, _within(paths, block), skipped)
    for operation in blueprint.operations:
        table[:, [i for i, p in enumerate(paths) if p == operation.path]] = 0  # sums that only tracing runs
        for name in operation.values:
            idle = np.array([choice[operation.name] != name for choice in choices])
            _drop(table, _within(paths, f"{operation.path}.candidates.{name}"), idle)
    return table


def _within(paths: list[str], block: str) -> list[int]:
    return [i for i, path in enumerate(paths) if path == block or path.startswith(f"{block}.")]


def _drop(table: Ints, operators: list[int], where: NDArray[np.bool_]) -> None:
    if where.any() and operators:
        table[np.flatnonzero(where)[:, None], np.array(operators)[None]] = 0


def _crop(
    table: Ints, index: int, node: Node, net: Structure, kernel: tuple[int, Ints], keep: Tensor
) -> None:
    """A convolution's figures with a smaller kernel: all its multiply-accumulates, and its weight."""
    full, sizes = kernel
    rank = len(net.recording.shapes[node.inputs[1]]) - 2
    area, whole = sizes**rank, full**rank
    table[:, index, 0] = table[:, index, 0] // whole * area
    weights = table[:, index, 1]
    bias = node.inputs[2] if len(node.inputs) > 2 and node.args[2] is not None else None
    out = _kept(net, bias, keep) if bias is not None and weights.any() else np.zeros(len(table), np.int64)
    table[:, index, 1] = (weights - out) // whole * area + out


def _kept(net: Structure, number: int, keep: Tensor) -> Ints:
    """Elements of a bias under every choice, (choices,)."""
    name = next(n for n, other in net.recording.parameters.items() if other == number)
    layer = net.layers.get(name, {}).get(0)
    if layer is None:
        return np.full(len(keep), net.recording.shapes[number][0], np.int64)
    found: Ints = keep[:, layer.reshape(-1)].sum(dim=1).numpy()
    return found
