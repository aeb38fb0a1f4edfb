"""What can be repeated: a verdict for every axis, from what counts its copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from netwright.structure.labels import Block
from netwright.structure.multiplicity import COUPLED, INTERLEAVED, Demand, multiplicities
from netwright.structure.record import Node

if TYPE_CHECKING:
    from netwright.structure.solve import Axis
    from netwright.structure.tracing import Structure

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Repeatable:
    """How the members of an axis can be repeated.

    Attributes:
        axis: Its name.
        kind: "any" number of times each, "alike" (all equally often), or "once".
        reason: Why not freely, "" otherwise.
        node: The operator call that decides it.
        together: Names of the other axes that must be repeated equally often.
    """

    axis: str
    kind: str
    reason: str = ""
    node: Node | None = None
    together: tuple[str, ...] = ()


def repeatable(net: Structure) -> list[Repeatable]:
    """How the members of every axis that can change can be repeated, and why not freely.

    Args:
        net: The structure.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    demands = multiplicities(net).demands
    alike = [d for d in demands if d.alike]
    left = np.concatenate(
        [np.zeros(0, np.int64), *[np.broadcast_to(d.rows[:, :1], d.rows.shape).ravel() for d in alike]]
    )
    right = np.concatenate([np.zeros(0, np.int64), *[d.rows.ravel() for d in alike]])
    graph = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(net.count, net.count))
    _, component = connected_components(graph, directed=False)
    averaged: dict[int, Demand] = {}
    for demand in alike:
        for c in np.unique(demand.rows).tolist():
            averaged.setdefault(c, demand)
    held = net.frozen.numpy().copy()
    for axis in net.axes:
        held[axis.cells.numpy()] |= not axis.prunable
    once: dict[int, Demand | None] = {int(component[c]): None for c in np.flatnonzero(held)}
    for demand in demands:
        if not demand.alike:
            for c in np.unique(demand.rows).tolist():
                if c:
                    once[int(component[c])] = demand
    return [_verdict(net, axis, component, averaged, once) for axis in net.prunable]


def _verdict(
    net: Structure, axis: Axis, component: Ints, averaged: dict[int, Demand], once: dict[int, Demand | None]
) -> Repeatable:
    if interleaved(net, axis):
        node = next((b.node for b in _blocks(net, axis) if b.kind == "shuffle"), None)
        return Repeatable(axis.name, "once", INTERLEAVED, node)
    cut = uneven(net, axis) if axis.coupling is not None else None
    if cut is not None:
        return Repeatable(axis.name, "once", COUPLED, cut)
    classes = axis.cells.reshape(-1).numpy()
    mine = np.unique(component[classes])
    for c in mine.tolist():
        if c in once:
            hit = once[c]
            if hit is not None:
                return Repeatable(axis.name, "once", hit.reason, hit.node)
            demand = averaged[int(classes[component[classes] == c][0])]
            return Repeatable(
                axis.name, "once", f"{demand.reason}, together with frozen members", demand.node
            )
    demands = [averaged[c] for c in classes.tolist() if c in averaged]
    if not demands and axis.coupling is not None:
        return Repeatable(axis.name, "alike", COUPLED, next((b.node for b in _blocks(net, axis)), None))
    if not demands:
        return Repeatable(axis.name, "any")
    others = [
        other.name
        for other in net.prunable
        if other is not axis and np.isin(component[other.cells.reshape(-1).numpy()], mine).any()
    ]
    return Repeatable(axis.name, "alike", demands[0].reason, demands[0].node, tuple(others))


def interleaved(net: Structure, axis: Axis) -> bool:
    """Whether a shuffle interleaves the parts of an axis.

    Args:
        net: The structure.
        axis: One of its axes.
    """
    return axis.coupling is not None and bool(net.partition.shuffled[axis.cells.numpy()].any())


def _blocks(net: Structure, axis: Axis) -> Iterator[Block]:
    """The operator calls that cut an axis into parts that must fit each other."""
    cells = axis.cells.numpy()
    for block in net.labels.blocks:
        if np.isin(net.partition.classes[block.labels].reshape(-1).numpy(), cells).any():
            yield block


def uneven(net: Structure, axis: Axis) -> Node | None:
    """Where parts would no longer fit each other if all members were there twice; None if they would.

    Args:
        net: The structure.
        axis: One of its axes.
    """
    times = torch.ones(net.count, dtype=torch.int64)
    times[axis.cells.reshape(-1)] = 2
    for block in _blocks(net, axis):
        there = times[net.partition.classes[block.labels]].sum(dim=block.ragged)
        if block.kind != "shuffle" and bool((there != there.reshape(-1)[0]).any()):
            return block.node
    return None
