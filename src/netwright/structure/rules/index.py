"""Indexing and embeddings: what is indexed keeps its order and size, the rest passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from netwright.structure.layers import align, compress
from netwright.structure.rules._base import rule
from netwright.structure.rules.elementwise import meet_all

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


@rule("gather", "take_along_dim")
def gather(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Layers pass along the dimensions along which the index is expanded; elsewhere they are frozen."""
    x, index = node.inputs[0], node.inputs[1]
    dim = (node.args[1] if isinstance(node.args[1], int) else node.args[2]) % max(1, len(walk.shape(x)))
    return [_constant_along(walk, node, x, index, dim)]


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Along dimensions along which the index is expanded, what is written ties with where it is written."""
    x, index, *source = node.inputs
    dim = node.args[1] % max(1, len(walk.shape(x)))
    described = [_described(walk, node, n, index, dim) for n in (x, *source)]
    return [_written(walk, node, meet_all(walk, described))]


@rule("index_add", "index_copy", "index_fill")
def index_add(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Rows are written by number: the indexed dimension is frozen, the others tie."""
    x, _, *source = node.inputs
    dim = node.args[1] % max(1, len(walk.shape(x)))
    described = []
    for number in (x, *source):
        size = tuple(1 if d == dim else n for d, n in enumerate(walk.shape(number)))
        described.append((number, size, _frozen_on(walk, node, (dim,), number)))
    return [_written(walk, node, meet_all(walk, described))]


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Elements are written by number: indexed dimensions are frozen, the others tie with the values."""
    x, values = node.inputs[0], node.args[2].id
    indices, dims = _indices(walk, node)
    kept = _frozen_on(walk, node, dims)
    moved = [_move(layer, indices) for layer in kept]
    size = tuple(torch.empty(walk.shape(x), device="meta")[_on_meta(indices)].shape)
    given = walk.shape(values)
    met = meet_all(
        walk,
        [
            (x, size, moved),
            (
                values,
                (1,) * (len(size) - len(given)) + given,
                [align(la, len(size)) for la in walk.layers_of(values)],
            ),
        ],
    )
    if x in walk.uniform:  # it has no layers that say where the written ones lie
        for layer in met:
            walk.freeze(layer, f"{node.op} writes it by number into what has no units")
    return [_written(walk, node, [la for la, m in zip(kept, moved, strict=True) if any(m is g for g in met)])]


def _on_meta(indices: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(i.to("meta") if isinstance(i, Tensor) else i for i in indices)


@rule("nonzero", "masked_select", "bincount", "unique_consecutive", "_unique2", "bucketize", "searchsorted",
      "isin", "unique_dim", "histc")  # fmt: skip
def positions(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Values decide about positions: what they are read from is frozen."""
    for number in node.inputs:
        for layer in walk.layers_of(number):
            walk.freeze(layer, f"{node.op} depends on every value")
    return [[] for _ in node.outputs]


@rule("_pack_padded_sequence")
def pack(walk: Walk, node: Node) -> list[list[Tensor]]:
    """`(B, N, ...)` to `(sum of lengths, ...)`: features pass."""
    layers = _frozen_on(walk, node, (0, 1))
    return [[layer.squeeze(0) for layer in layers], []]


@rule("_pad_packed_sequence")
def unpack(walk: Walk, node: Node) -> list[list[Tensor]]:
    """The reverse."""
    layers = _frozen_on(walk, node, (0,))
    return [[layer.unsqueeze(0) for layer in layers], []]


def _constant_along(walk: Walk, node: Node, number: int, index: int, dim: int) -> list[Tensor]:
    """Layers of a tensor that do not vary where an index picks differently; others are frozen."""
    free = walk.recording.broadcast.get(index, frozenset())
    shape, picked = walk.shape(number), walk.shape(index)
    if len(shape) != len(picked):
        return _frozen_on(walk, node, tuple(range(len(shape))), number)
    fixed = [d for d, n in enumerate(shape) if d == dim or d not in free or picked[d] != n]
    return _frozen_on(walk, node, tuple(fixed), number)


def _described(
    walk: Walk, node: Node, number: int, index: int, dim: int
) -> tuple[int, tuple[int, ...], list[Tensor]]:
    """A tensor for `meet_all`: the dimension that is indexed does not count."""
    layers = _constant_along(walk, node, number, index, dim)
    return number, tuple(1 if d == dim else n for d, n in enumerate(walk.shape(number))), layers


def _written(walk: Walk, node: Node, layers: list[Tensor]) -> list[Tensor]:
    """Layers of a tensor into which something was written, in place or not."""
    out = node.outputs[0]
    walk.uniform.discard(out)
    if out in node.inputs:
        walk.write(out, layers)
    return layers


@rule("index", "_unsafe_index")
def index(walk: Walk, node: Node) -> list[list[Tensor]]:
    """Layers on indexed dimensions are frozen; the others move as the operator moves them."""
    indices, dims = _indices(walk, node)
    return [[_move(layer, indices) for layer in _frozen_on(walk, node, dims)]]


def _indices(walk: Walk, node: Node) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Indices of the same shapes with zeros as values, and the dimensions that they index.

    A boolean index of rank r stands for r integer ones, which pick (count,) elements.
    """
    zeros: list[Any] = []
    dims: list[int] = []
    for i in node.args[1]:
        if i is None:
            zeros.append(slice(None))
            continue
        shape = walk.shape(i)
        if walk.recording.dtypes[i.id] not in (torch.bool, torch.uint8):
            dims.append(len(zeros))
            zeros.append(torch.zeros(shape, dtype=torch.int64))
            continue
        for _ in shape:
            dims.append(len(zeros))
            zeros.append(torch.zeros(2, dtype=torch.int64))  # any count: labels are constant along it
    return tuple(zeros), tuple(dims)


def _move(layer: Tensor, indices: tuple[Any, ...]) -> Tensor:
    return compress(layer[indices])


def _frozen_on(walk: Walk, node: Node, dims: tuple[int, ...], number: int | None = None) -> list[Tensor]:
    free = []
    for layer in walk.layers_of(node.inputs[0] if number is None else number):
        if any(layer.shape[d] > 1 for d in dims):
            walk.freeze(layer, f"{node.op} picks its elements by number")
        else:
            free.append(layer)
    return free
