"""Exact costs, dense and for any choice of what stays: multiply-accumulates, parameters, activation memory.

Every figure is a sum of products of sizes, and a size is a constant or a count of kept classes, so thousands
of choices are priced at once without building a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netwright.structure.record import Node, Recording
from netwright.structure.sizes import Sizes

if TYPE_CHECKING:
    from netwright.structure.labels import Layers

Ints = NDArray[np.int64]

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
CONVOLUTIONS = ("convolution", "convolution_overrideable", "_convolution", "mkldnn_convolution")
#: Operators whose output is a view of their input or has no memory of its own.
VIEWS = frozenset(
    "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten view_as expand_as permute"
    " transpose swapaxes t numpy_T expand broadcast_to alias detach lift_fresh contiguous view_of as_strided"
    " slice narrow select unbind split split_with_sizes unsafe_split chunk unsafe_chunk tensor_split movedim"
    " diagonal unfold".split()
)


@dataclass(frozen=True)
class Cost:
    """What a network costs for one example.

    Args:
        macs: Multiply-accumulates of convolutions and matrix products.
        params: Elements of the parameters that the forward pass reads.
        activation_bytes: Bytes of everything the operators write (views write nothing).
    """

    macs: int
    params: int
    activation_bytes: int


@dataclass(frozen=True)
class Operator:
    """One operator that computes, and what it costs for one example.

    Args:
        module: Dotted path of the module that called it.
        kind: Name of the ATen operator.
        macs: Multiply-accumulates.
        params: Elements of the parameters that it is the first to read.
        activation_bytes: Bytes of its outputs.
        shape: Shape of its first output, as recorded.
    """

    module: str
    kind: str
    macs: int
    params: int
    activation_bytes: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Term:
    """One product of sizes: a constant times counts, for one operator and one figure."""

    operator: int
    figure: int  # 0 macs, 1 params, 2 bytes
    factor: int
    rows: tuple[int, ...]


class CostModel:
    """Prices of a recording.

    Args:
        recording: The dense network's.
        table: Layers of units of every tensor.
        sizes: Counts.
        batch: Number of examples in the recording.
    """

    def __init__(self, recording: Recording, table: list[Layers], sizes: Sizes, batch: int) -> None:
        self._recording, self._table, self._sizes = recording, table, sizes
        self._batch = max(batch, 1)
        self._labels: list[tuple[str, str, tuple[int, ...]]] = []
        self._terms: list[_Term] = []
        self._collect()
        width = max((len(t.rows) for t in self._terms), default=0)
        one = -1
        self._rows = np.array(
            [[*t.rows, *[one] * (width - len(t.rows))] for t in self._terms], dtype=np.int64
        )
        self._rows = self._rows.reshape(len(self._terms), width)
        self._factors = np.array([t.factor for t in self._terms], dtype=np.int64)
        self._owner = np.array([t.operator for t in self._terms], dtype=np.int64)
        self._figure = np.array([t.figure for t in self._terms], dtype=np.int64)

    def operators(self, keep: Tensor) -> list[Operator]:
        """Every operator that computes, with its costs.

        Args:
            keep: (classes,) bool.
        """
        values = self._values(keep.numpy()[None])[0]
        table = np.zeros((len(self._labels), 3), dtype=np.int64)
        np.add.at(table, (self._owner, self._figure), values)
        return [
            Operator(module, kind, self._per_example(m), p, self._per_example(b), shape)
            for (module, kind, shape), (m, p, b) in zip(self._labels, table.tolist(), strict=True)
        ]

    def total(self, keep: Tensor) -> Cost:
        """The whole network's cost.

        Args:
            keep: (classes,) bool.
        """
        (row,) = self.totals(keep[None]).tolist()
        return Cost(*row)

    def totals(self, keep: Tensor) -> Ints:
        """Costs of many choices at once.

        Args:
            keep: (settings, classes) bool.

        Returns:
            (settings, 3): multiply-accumulates, parameters, activation bytes.
        """
        values = self._values(keep.numpy())
        out = np.stack([values[:, self._figure == f].sum(axis=1) for f in range(3)], axis=1)
        for f in (0, 2):
            out[:, f] = -(-out[:, f] // self._batch)
        return out

    def _per_example(self, value: int) -> int:
        return -(-value // self._batch)

    def _values(self, keep: NDArray[np.bool_]) -> Ints:
        counts = self._sizes.counts(keep)
        counts = np.concatenate(
            [counts, np.ones((len(counts), 1), np.int64)], axis=1
        )  # row -1 is the constant 1
        out = np.broadcast_to(self._factors, (len(counts), len(self._factors))).copy()
        for column in self._rows.T:
            out *= counts[:, column]
        return out

    def _collect(self) -> None:
        recording = self._recording
        root: dict[int, int] = {number: number for number in recording.parameters.values()}
        counted: set[int] = set()
        for node in recording.nodes:
            if node.op in VIEWS:
                if node.inputs and node.inputs[0] in root:
                    for number in node.outputs:
                        root[number] = root[node.inputs[0]]
                continue
            fresh = {root[i] for i in node.inputs if i in root} - counted
            outputs = [o for o in node.outputs[:1] if o >= 0]
            if not outputs or (not fresh and not node.inputs):
                continue
            counted |= fresh
            index = len(self._labels)
            self._labels.append((node.module, node.op, recording.shapes[outputs[0]]))
            self._macs(node, index)
            for number in sorted(fresh):
                if number in recording.buffers:
                    continue
                self._term(index, 1, [(number, d) for d in range(len(recording.shapes[number]))], 1)
            if node.op not in CONVOLUTIONS + PRODUCTS and node.inputs[:1] == outputs:
                continue  # in place
            for number in outputs:
                dims = [(number, d) for d in range(len(recording.shapes[number]))]
                self._term(index, 2, dims, recording.dtypes[number].itemsize)

    def _macs(self, node: Node, index: int) -> None:
        shapes = self._recording.shapes
        if node.op in CONVOLUTIONS:
            x, w = node.inputs[0], node.inputs[1]
            out = node.outputs[0]
            transposed = node.op != "mkldnn_convolution" and bool(node.args[6])
            base = x if transposed else out
            dims = [(base, d) for d in range(len(shapes[base]))] + [(w, 1)]
            self._term(index, 0, dims, prod(shapes[w][2:]))
        elif node.op in PRODUCTS:
            a, b = node.inputs[-2:] if node.op in ("mm", "bmm") else node.inputs[1:3]
            dims = [(a, d) for d in range(len(shapes[a]))] + [(b, len(shapes[b]) - 1)]
            inner = len(shapes[a]) - 1
            if inner not in dict(
                self._sizes.dims(self._table[a])
            ):  # a state of zeros takes its width from the weight
                dims[inner] = (b, len(shapes[b]) - 2)
            self._term(index, 0, dims, 1)

    def _term(self, operator: int, figure: int, dims: list[tuple[int, int]], factor: int) -> None:
        rows: list[int] = []
        for number, d in dims:
            known = dict(self._sizes.dims(self._table[number]))
            if d in known:
                rows.append(known[d])
            else:
                factor *= self._recording.shapes[number][d]
        self._terms.append(_Term(operator, figure, factor, tuple(rows)))
