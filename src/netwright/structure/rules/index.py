"""Indexing and embeddings: what is indexed keeps its order and size, the rest passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from netwright.structure.record import Ref
from netwright.structure.rules._base import rule

if TYPE_CHECKING:
    from netwright.structure.labels import Walk
    from netwright.structure.record import Node


@rule("embedding")
def embedding(walk: Walk, node: Node) -> list[list[Tensor]]:
    """The vocabulary is frozen, the width passes."""
    out = []
    rank = len(walk.shape(node.outputs[0]))
    for layer in walk.layers_of(node.inputs[0]):
        if layer.shape[0] > 1:
            walk.freeze(layer, "an embedding table is looked up by number")
        else:
            out.append(layer.reshape([1] * (rank - 1) + [-1]))
    return [out]


@rule("index_select")
def index_select(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Layers on the indexed dimension are frozen."""
    dim = node.args[1] % len(walk.shape(node.inputs[0]))
    return [_frozen_on(walk, node, (dim,))]


@rule("gather", "take_along_dim", "scatter", "scatter_add", "index_add", "index_copy", "index_fill")
def gather(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Layers on the indexed dimension are frozen; others must not be indexed differently along them."""
    for number in node.inputs:
        for layer in walk.layers_of(number):
            walk.freeze(layer, f"{node.op} picks its elements by number")
    walk.overwritten(node)
    return [[]]


@rule("index", "_unsafe_index")
def index(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Layers on indexed dimensions are frozen; the others move as the operator moves them."""
    indices = list(node.args[1])
    numbers = [i for i in indices if isinstance(i, Ref)]
    if any(walk.recording.dtypes[i.id] == torch.bool for i in numbers):
        return [_frozen_on(walk, node, tuple(range(len(walk.shape(node.inputs[0])))))]
    dims = tuple(d for d, i in enumerate(indices) if i is not None)
    out = []
    for layer in _frozen_on(walk, node, dims):
        zeros = [None if i is None else torch.zeros(walk.shape(i), dtype=torch.int64) for i in indices]
        moved = layer[tuple(slice(None) if z is None else z for z in zeros)]
        for d in range(moved.dim()):
            first = moved.narrow(d, 0, 1)
            if moved.shape[d] > 1 and bool((moved == first).all()):
                moved = first
        out.append(moved)
    return [out]


def _frozen_on(walk: Walk, node: Node, dims: tuple[int, ...]) -> list[Tensor]:
    free = []
    for layer in walk.layers_of(node.inputs[0]):
        if any(layer.shape[d] > 1 for d in dims):
            walk.freeze(layer, f"{node.op} picks its elements by number")
        else:
            free.append(layer)
    return free
