"""The order in which what stays lies where parts are interleaved.

A channel shuffle takes the first member of every part, then the second of each. Of parts that keep different
members, those that come to lie side by side were not neighbours in the order of the dense network, and
whatever reads the result has to be put in the new order. That order is read off the small network itself:
labelled afresh, it says which index of which parameter meets which.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from netwright.structure.labels import Labels
from netwright.structure.layers import varying
from netwright.structure.record import Recording
from netwright.structure.sizes import take
from netwright.structure.solve import Solver

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure

Kept = dict[str, dict[int, Tensor]]


def arrange(net: Structure, kept: Kept, small: Iterable[Recording]) -> Kept:
    """Put what stays in the order in which the small network comes by it.

    The parameter that a class is first met at keeps its order; others follow.

    Args:
        net: The dense network's structure.
        kept: What stays of every parameter, in the order of the dense network.
        small: Recordings of a network that has the right sizes, whatever its weights.

    Returns:
        The same indices in their new order. What cannot be told from the recordings is left as it was.
    """
    given, first_guess = _numbered(net, kept)
    labels = Labels(heads=net.heads, given=given, units=len(first_guess), leading=net.leading)
    for recording in small:
        labels.walk(recording)
    _tie_same(labels, first_guess)
    met_with = Solver(labels).components().classes
    class_of = torch.full((int(met_with.max()) + 1,), -1, dtype=torch.int64)
    met = torch.zeros(net.count, dtype=torch.bool)
    out: Kept = {}
    for name, dims in net.layers.items():
        for dim, layer in dims.items():
            index = kept.get(name, {}).get(dim)
            dense, here = _rows(layer, dim, index), met_with[_rows(given[name][dim], dim, index, True)]
            if dense.shape != here.shape:  # nothing goes along this dimension of a grouped weight
                continue
            first = ~met[dense]
            class_of[here[first]] = dense[first]
            met[layer.reshape(-1)] = True
            if index is not None:
                out.setdefault(name, {})[dim] = _ordered(index, dense, class_of[here])
    return out


def _tie_same(labels: Labels, classes: Tensor) -> None:
    """Tie interleaved rows that keep the same classes: position by position, as in the dense network.

    Args:
        labels: A walk.
        classes: (units,) the class of each, within a dimension perhaps in another order.
    """
    for block in labels.blocks:
        if block.kind == "shuffle" and int(block.labels.max()) < len(classes):
            rows = block.labels.reshape(-1, block.labels.shape[varying(block.labels)[-1]])  # (n, rows)
            there = classes[rows].sort(dim=0).values
            if bool((there == there[:, :1]).all()):
                first = rows[:, :1].expand_as(rows)
                labels.ties.append((first.reshape(-1), rows.reshape(-1), None))


def _numbered(net: Structure, kept: Kept) -> tuple[dict[str, dict[int, Tensor]], Tensor]:
    """A unit of its own for every index that stays: layers of the small parameters, and classes (units,)."""
    units = 1
    classes = [torch.zeros(1, dtype=torch.int64)]
    given: dict[str, dict[int, Tensor]] = {}
    for name, dims in net.layers.items():
        cut = kept.get(name, {})
        for dim, layer in dims.items():
            small = take(layer, {d: cut[d] for d in varying(layer) if d in cut}) if cut else layer
            index = cut.get(dim)
            blocks = 1 if index is None or index.dim() == 1 else len(index)
            if len(varying(layer)) == 1 or blocks == 1:
                own = torch.arange(units, units + small.numel()).reshape(small.shape)
            else:  # the rows of a block share theirs
                rows, width = small.shape[0], small.shape[dim]
                own = torch.arange(units, units + blocks * width).reshape(blocks, 1, width)
                own = own.expand(blocks, rows // blocks, width).reshape(small.shape)
            fresh = int(own.max()) + 1 - units
            known = torch.zeros(fresh, dtype=torch.int64)
            known[own.reshape(-1) - units] = small.reshape(-1)
            classes.append(known)
            units += fresh
            given.setdefault(name, {})[dim] = own
    return given, torch.cat(classes)


def _rows(layer: Tensor, dim: int, index: Tensor | None, small: bool = False) -> Tensor:
    """Labels along a dimension, one row for every block that has its own: (blocks, n).

    Args:
        layer: Labels of a parameter.
        dim: The dimension.
        index: What stays of it; all when None.
        small: Whether the layer is what stays already.
    """
    if index is None:
        return layer.reshape(1, -1)
    if index.dim() == 1:
        return (layer.reshape(-1) if small else layer.reshape(-1)[index])[None]
    table = layer.reshape(layer.shape[0], layer.shape[dim])[:: layer.shape[0] // len(index)]
    return table if small else table.gather(1, index)


def _ordered(index: Tensor, dense: Tensor, wanted: Tensor) -> Tensor:
    """Indices sorted so that the classes `dense` (blocks, n) appear as `wanted`, where those are the same.

    A dimension of size 1 has no units: what comes from there is unknown (-1) in `wanted`, and is taken for
    what is missing, in the dense order.
    """
    rows, goal = index.reshape(dense.shape).clone(), wanted.clone()
    for row in (goal < 0).any(dim=1).nonzero().reshape(-1).tolist():
        missing = dense[row][~torch.isin(dense[row], goal[row])]
        unknown = goal[row] < 0
        if len(missing) == int(unknown.sum()):
            goal[row, unknown] = missing
    a, b = dense.sort(dim=1, stable=True), goal.sort(dim=1, stable=True)
    same = (a.values == b.values).all(dim=1)
    moved = torch.empty_like(rows).scatter_(1, b.indices, rows.gather(1, a.indices))
    rows[same] = moved[same]
    return rows.reshape(index.shape)
