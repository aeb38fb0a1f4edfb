"""Sizes of tensors that no unit describes but that take the size of what they meet.

Constants made by zeros or ones, and dimensions that were expanded, carry no labels. Their sizes after a
surgery follow backwards from the operators that read them.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from netwright.structure.cost import VIEWS
from netwright.structure.labels import Traced
from netwright.structure.layers import Shape, factor
from netwright.structure.record import Node

_POINTWISE = frozenset(
    "copy clone _to_copy where masked_fill native_dropout fill lerp addcmul addcdiv".split()
)


class Wanted:
    """The shapes after a surgery, completed.

    Args:
        traced: The labelled recording of the dense network.
        predicted: Shape of every tensor after the surgery, as the labels say.
        times: (units,) how often each unit is there afterwards.
    """

    def __init__(self, traced: Traced, predicted: list[Shape], times: Tensor) -> None:
        self._traced = traced
        self._recording = traced.recording
        self._old = traced.recording.shapes
        self._new = [list(shape) for shape in predicted]
        self._times = times
        self._free: dict[int, set[int]] = {}

    def shapes(self) -> list[Shape]:
        """Shape of every tensor after the surgery."""
        for number, shape in enumerate(self._old):
            dims = set(range(len(shape))) if number in self._traced.uniform else set()
            dims |= self._recording.broadcast.get(number, frozenset())
            dims = {d for d in dims if shape[d] > 1 and self._new[number][d] == shape[d]}
            if dims:
                self._free[number] = dims
        if self._free:
            for node in reversed(self._recording.nodes):
                self._visit(node)
        return [tuple(shape) for shape in self._new]

    def _want(self, number: int, dim: int, size: int) -> None:
        if dim in self._free.get(number, ()):
            self._new[number][dim] = size

    def _visit(self, node: Node) -> None:
        if not any(i in self._free for i in node.inputs) or not node.outputs or node.outputs[0] < 0:
            return
        if node.op in ("cat", "stack"):
            self._joined(node)
        elif node.op in ("mm", "addmm", "bmm", "baddbmm"):
            self._product(node)
        elif node.op in VIEWS or node.op == "repeat":
            self._moved(node)
        elif node.op in _POINTWISE or torch.Tag.pointwise in getattr(node.target, "tags", ()):
            for number in node.inputs:
                self._aligned(number, node.outputs[0])

    def _aligned(self, number: int, out: int) -> None:
        """Dimensions that broadcasting matches take the size of the result."""
        shift = len(self._old[out]) - len(self._old[number])
        for d in self._free.get(number, ()):
            if d + shift >= 0 and self._old[number][d] == self._old[out][d + shift]:
                self._want(number, d, self._new[out][d + shift])

    def _joined(self, node: Node) -> None:
        out = node.outputs[0]
        rank = len(self._old[out])
        dim = (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % rank
        start = 0
        for ref in node.args[0]:
            number = ref.id
            size = 1 if node.op == "stack" else self._old[number][dim]
            for d in self._free.get(number, set()).copy():
                at = d + (node.op == "stack" and d >= dim)
                if at != dim:
                    self._want(number, d, self._new[out][at])
                    continue
                for layer in self._traced.table[out]:
                    if layer.shape[dim] > 1:
                        slot = layer.narrow(dim, start, size)
                        row = slot.movedim(dim, -1).reshape(-1, size)[0]
                        self._want(number, d, int(self._times[row].sum()))
            start += size

    def _product(self, node: Node) -> None:
        *added, a, b = node.inputs[:3] if node.op in ("addmm", "baddbmm") else node.inputs[:2]
        out = node.outputs[0]
        rank = len(self._old[a])
        for number, inner, outer, other, its in ((a, -1, -2, b, -2), (b, -2, -1, a, -1)):
            self._want(number, rank + inner, self._new[other][its])
            self._want(number, rank + outer, self._new[out][outer])
            for d in range(rank - 2):
                self._want(number, d, self._new[out][d])
        for number in added:
            self._aligned(number, out)

    def _moved(self, node: Node) -> None:
        source = node.inputs[0]
        old, rank = self._old[source], len(self._old[source])
        for out in node.outputs:
            new, their = self._new[out], self._old[out]
            if node.op in ("t", "transpose", "permute", "numpy_T", "swapaxes"):
                for d, at in enumerate(_permutation(node, rank)):
                    self._want(source, at, new[d])
            elif node.op in (
                "expand",
                "broadcast_to",
                "expand_as",
                "alias",
                "detach",
                "contiguous",
                "repeat",
            ):
                self._aligned(source, out)
            elif node.op in ("slice", "narrow", "split", "split_with_sizes", "unsafe_split", "chunk"):
                for d in range(rank):
                    if their[d] == old[d]:
                        self._want(source, d, new[d])
            elif node.op in ("select", "unbind"):
                dim = (node.args[1] if len(node.args) > 1 else 0) % rank
                for d in range(rank):
                    if d != dim:
                        self._want(source, d, new[d - (d > dim)])
            elif prod(old) == prod(their):
                self._reshaped(source, out)

    def _reshaped(self, source: int, out: int) -> None:
        old = self._old[source]
        for mine, theirs in factor(old, self._old[out]):
            live = [d for d in mine if old[d] > 1]
            size = prod(self._new[out][d] for d in theirs)
            if not live or size == prod(old[d] for d in mine):
                continue
            *others, inner = live
            rest = prod(self._new[source][d] for d in others)
            if size % rest == 0:
                self._want(source, inner, size // rest)


def _permutation(node: Node, rank: int) -> list[int]:
    """Source dimension of every dimension of the result."""
    dims: list[Any] = list(range(rank))
    if node.op == "permute":
        return [d % rank for d in node.args[1]]
    if node.op in ("t", "numpy_T"):
        return dims[::-1]
    a, b = node.args[1] % rank, node.args[2] % rank
    dims[a], dims[b] = dims[b], dims[a]
    return dims
