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
    labels = Labels(heads=net.heads)
    for recording in small:
        labels.walk(recording)
    classes = Solver(labels).components().classes
    dense_of = torch.full((int(classes.max()) + 1,), -1, dtype=torch.int64)
    met = torch.zeros(net.count, dtype=torch.bool)
    out: Kept = {}
    for name, dims in net.layers.items():
        for dim, layer in dims.items():
            found = labels.parameters.get(name, {}).get(dim)
            index = kept.get(name, {}).get(dim)
            if index is None and len(varying(layer)) != 1:
                continue
            if found is None:
                if index is not None:
                    out.setdefault(name, {})[dim] = index
                continue
            dense, here = _rows(layer, dim, index), _small(classes[found], dim, index)
            if dense is None or here is None or dense.shape != here.shape:
                if index is not None:
                    out.setdefault(name, {})[dim] = index
                continue
            first = ~met[dense]
            dense_of[here[first]] = dense[first]
            met[layer.reshape(-1)] = True
            if index is not None:
                out.setdefault(name, {})[dim] = _ordered(index, dense, dense_of[here])
    return out


def _rows(layer: Tensor, dim: int, index: Tensor | None) -> Tensor | None:
    """Classes of what stays, (blocks, n) in the dense order."""
    if index is None:
        return layer.reshape(1, -1)
    if index.dim() == 1:
        return layer.reshape(-1)[index][None] if len(varying(layer)) == 1 else None
    table = layer.reshape(layer.shape[0], layer.shape[dim])
    return table[:: len(table) // len(index)].gather(1, index)


def _small(layer: Tensor, dim: int, index: Tensor | None) -> Tensor | None:
    """Classes of the small network along a dimension, (blocks, n)."""
    blocks = 1 if index is None or index.dim() == 1 else len(index)
    if blocks == 1:
        return layer.reshape(1, -1)
    table = layer.reshape(layer.shape[0], -1)
    return table[:: max(1, len(table) // blocks)]


def _ordered(index: Tensor, dense: Tensor, wanted: Tensor) -> Tensor:
    """Indices sorted so that the classes `dense` (blocks, n) appear as `wanted`, where those are the same."""
    a, b = dense.sort(dim=1, stable=True), wanted.sort(dim=1, stable=True)
    same = (a.values == b.values).all(dim=1)
    rows = index.reshape(dense.shape).clone()
    moved = torch.empty_like(rows).scatter_(1, b.indices, rows.gather(1, a.indices))
    rows[same] = moved[same]
    return rows.reshape(index.shape)
