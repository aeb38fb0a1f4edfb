"""What to say about a structure, as values: what lies on each axis, what it saves, why others stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from netwright.structure.sources import lines, place, unknown, why

if TYPE_CHECKING:
    from netwright.structure.record import Node
    from netwright.structure.solve import Axis
    from netwright.structure.tracing import Structure

#: Elements of keep masks that are priced at once.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Use:
    """One dimension of a parameter or buffer that lies on an axis.

    Args:
        name: Parameter or buffer.
        dim: Its dimension.
        count: Indices of that dimension that lie on the axis (the most of any block of a grouped weight).
        size: Indices of that dimension.
    """

    name: str
    dim: int
    count: int
    size: int

    def __str__(self) -> str:
        part = "" if self.count == self.size else f" ({self.count} of {self.size})"
        return f"{self.name}:{self.dim}{part}"


@dataclass(frozen=True)
class FrozenGroup:
    """Axes that cannot shrink for the same reason.

    Args:
        axes: The axes.
        reason: Why.
        where: The operators that freeze them, each as "operator in module, file:line"; empty where none does.
    """

    axes: list[Axis]
    reason: str
    where: list[str]


def uses(net: Structure) -> list[list[Use]]:
    """What lies on every axis, in the order of ``net.axes``.

    Args:
        net: The structure.
    """
    owner = torch.full((net.count,), -1, dtype=torch.int64)
    for i, axis in enumerate(net.axes):
        owner[axis.cells.reshape(-1)] = i
    found: list[list[Use]] = [[] for _ in net.axes]
    for name, dims in net.layers.items():
        for dim, layer in sorted(dims.items()):
            on = owner[layer]
            for i in torch.unique(on).tolist():
                if i >= 0:
                    count = int((on == i).sum(dim=dim).max())
                    found[i].append(Use(name, dim, count, layer.shape[dim]))
    return found


def width(net: Structure, axis: Axis, on: Sequence[Use]) -> int:
    """Indices that one unit of an axis takes, in the layer where it takes the fewest: 64 for a head of 64.

    Args:
        net: The structure.
        axis: One of its axes.
        on: What lies on it.
    """
    layers = {(c.name, dim) for c in net.consumers for dim in (c.dim_in, c.dim_out)}
    counts = [use.count // axis.total for use in on if (use.name, use.dim) in layers]
    return max(1, min(counts, default=1))


def savings(net: Structure) -> Tensor:
    """What keeping half of one axis saves, for every axis that can shrink.

    Args:
        net: The structure.

    Returns:
        (axes that can shrink, 2): shares of the multiply-accumulates and of the parameters.
    """
    axes = net.prunable
    parts = [torch.zeros(0, 2, dtype=torch.float64)]
    step = max(1, _CHUNK // max(net.count, 1))
    dense = torch.tensor([net.macs, net.params], dtype=torch.float64).clamp(min=1)
    for first in range(0, len(axes), step):
        some = axes[first : first + step]
        keep = net.everything.repeat(len(some), 1)
        for row, axis in zip(keep, some, strict=True):
            for part, count in zip(axis.parts, axis.counts((axis.size + 1) // 2).tolist(), strict=True):
                row[part[count:]] = False
        parts.append(1 - net.costs(keep)[:, :2] / dense)
    return torch.cat(parts)


def frozen(net: Structure) -> list[FrozenGroup]:
    """The axes that cannot shrink, those of one reason together.

    Args:
        net: The structure.
    """
    groups: dict[tuple[str, str], list[Axis]] = {}
    for axis in sorted(net.axes, key=lambda a: int(a.cells.min())):
        if not axis.prunable:
            groups.setdefault((axis.reason, axis.node.op if axis.node else ""), []).append(axis)
    return [
        FrozenGroup(axes, reason, lines(a.node for a in axes if a.node is not None))
        for (reason, _), axes in groups.items()
    ]


def describe(net: Structure) -> dict[str, Any]:
    """Everything that the table shows, and all that it leaves out, as values that JSON knows.

    Args:
        net: The structure.
    """
    saved = iter(savings(net).tolist())
    axes = []
    for axis, on in zip(net.axes, uses(net), strict=True):
        entry: dict[str, Any] = {"name": axis.name, "units": axis.size, "cells": len(axis.cells)}
        entry |= {"width": width(net, axis, on), "prunable": axis.prunable}
        if axis.prunable:
            macs, params = next(saved)
            entry["half_saves"] = {"macs": round(macs, 6), "params": round(params, 6)}
        else:
            entry["reason"] = axis.reason
            if axis.node is not None:
                entry |= call(axis.node)
        entry["members"] = [{"name": u.name, "dim": u.dim, "indices": u.count, "size": u.size} for u in on]
        axes.append(entry)
    return {
        "model": net.name,
        "example": [list(x.shape) for x in net.inputs.tensors()],
        "macs": net.macs,
        "params": net.params,
        "activation_bytes": net.activation_bytes,
        "operators": [
            {
                "module": o.module,
                "kind": o.kind,
                "macs": o.macs,
                "params": o.params,
                "activation_bytes": o.activation_bytes,
                "shape": list(o.shape),
            }
            for o in net.operators
        ],
        "axes": axes,
        "unknown": {op: sorted(set(modules)) for op, modules in net.labels.unknown.items()},
        "unknown_calls": [call(node) for node in unknown(net)],
        "notes": list(net.notes),
    }


def call(node: Node) -> dict[str, Any]:
    """An operator call as values that JSON knows: operator, module and, where it is known, its line.

    Args:
        node: Of a recording.
    """
    found = place(node)
    values: dict[str, Any] = {"operator": node.op, "module": node.module}
    if found is not None:
        values |= {"file": found.file, "line": found.line, "text": found.text}
    return values


def obstacles(net: Structure, most: int = 2) -> str:
    """What keeps the largest part of a network from shrinking, in words; empty where nothing does.

    Outputs of the network, which nobody asks to shrink, and what the user excluded are left out.

    Args:
        net: The structure.
        most: Reasons to name.
    """
    given = {axis.name: sum(use.size for use in on) for axis, on in zip(net.axes, uses(net), strict=True)}
    held = [axis for axis in net.axes if not axis.prunable and not _meant(axis)]
    held.sort(key=lambda axis: -given[axis.name] * axis.total)
    named = [f"{axis.name} ({axis.total}) stays: {why(axis)}" for axis in held]
    return "; ".join(list(dict.fromkeys(named))[:most])


def _meant(axis: Axis) -> bool:
    return axis.reason.startswith(("it is an output", "excluded by", "it has a single member"))
