"""Exact costs, dense and for any choice of what stays: multiply-accumulates, parameters, activation memory.

Every figure is a sum of products of sizes, and a size is a constant or a count of kept classes, so thousands
of choices are priced at once without building a network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netwright.structure.collecting import uncollected
from netwright.structure.record import Node, Recording
from netwright.structure.relayout import Relayout, Relayouts
from netwright.structure.sizes import Sizes

if TYPE_CHECKING:
    from netwright.structure.labels import Layers

Ints = NDArray[np.int64]

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
#: Products with a vector -> which input has an element for every multiply-accumulate.
VECTORS = {"mv": 0, "addmv": 1, "dot": 0, "vdot": 0}
CONVOLUTIONS = ("convolution", "convolution_overrideable", "_convolution", "mkldnn_convolution")
#: Operators whose output is a view of their input or has no memory of its own.
VIEWS = frozenset(
    "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten view_as expand_as permute"
    " transpose swapaxes t numpy_T expand broadcast_to alias detach lift_fresh contiguous view_of as_strided"
    " slice narrow select unbind split split_with_sizes unsafe_split chunk unsafe_chunk tensor_split movedim"
    " diagonal unfold".split()
)
#: Operators that make a tensor out of nothing but a shape.
FACTORIES = frozenset(
    f"{prefix}{kind}{suffix}"
    for kind in ("zeros", "ones", "full", "empty", "rand", "randn", "randint", "empty_strided")
    for prefix, suffix in (("", ""), ("new_", ""), ("", "_like"))
)
_DEFORMED = "deform_conv2d"
_ATTENTION = "_scaled_dot_product_"
_RECURRENT = "mkldnn_rnn_layer"
#: Choices that are priced at once: their products stay in the processor's cache.
_CHUNK = 512


@dataclass(frozen=True)
class Cost:
    """What a network costs for one example.

    Every figure is an exact integer; figures of a batch are divided by its size and rounded up.

    Args:
        macs: Multiply-accumulates of convolutions and of matrix products, written out or inside attention
            and recurrent operators. Element-wise operators, normalisations, pooling and interpolation have
            none, nor has the addition of a bias.
        params: Elements of the parameters that the forward pass reads; a shared one counts once.
        activation_bytes: Bytes of every tensor that an operator of the forward pass allocates for an output,
            those beside the first (a pooling's indices, a normalisation's statistics) included: what memory
            would hold if nothing were freed. Not counted are views of other tensors, operators that write in
            place, and tensors made out of nothing but a shape (zeros, random numbers).
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
        activation_bytes: Bytes that it allocates for its outputs; see `Cost`.
        shape: Shape of its first output, as recorded.
        node: The call itself.
    """

    module: str
    kind: str
    macs: int
    params: int
    activation_bytes: int
    shape: tuple[int, ...]
    node: Node = field(repr=False, compare=False)


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

    @uncollected
    def __init__(self, recording: Recording, table: list[Layers], sizes: Sizes, batch: int) -> None:
        self._recording, self._table, self._sizes = recording, table, sizes
        self._batch = max(batch, 1)
        self._nodes: list[tuple[Node, tuple[int, ...]]] = []
        self._terms: list[_Term] = []
        self._copies: list[tuple[int, Relayout, dict[int, int]]] = []
        self._collect()
        self._relayouts = Relayouts(self._copies)
        width = max((len(t.rows) for t in self._terms), default=0)
        one = -1
        self._rows = np.array(
            [[*t.rows, *[one] * (width - len(t.rows))] for t in self._terms], dtype=np.int64
        )
        self._rows = self._rows.reshape(len(self._terms), width)
        self._factors = np.array([t.factor for t in self._terms], dtype=np.int64)
        self._owner = np.array([t.operator for t in self._terms], dtype=np.int64)
        self._figure = np.array([t.figure for t in self._terms], dtype=np.int64)
        self._columns = [np.flatnonzero(self._figure == f) for f in range(3)]

    def operators(self, keep: Tensor, whole: bool = False) -> list[Operator]:
        """Every operator that computes, with its costs.

        Args:
            keep: (classes,) bool.
            whole: Of the whole recorded batch, instead of one example.
        """
        batch = 1 if whole else self._batch
        values = self._values(keep.numpy()[None])[0]
        table = np.zeros((len(self._nodes), 3), dtype=np.int64)
        np.add.at(table, (self._owner, self._figure), values)
        return [
            Operator(node.module, node.op, -(-m // batch), p, -(-b // batch), shape, node)
            for (node, shape), (m, p, b) in zip(self._nodes, table.tolist(), strict=True)
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
        mask = keep.numpy()
        out = np.zeros((len(mask), 3), dtype=np.int64)
        for first in range(0, len(mask), _CHUNK):
            values = self._values(mask[first : first + _CHUNK])
            for f, columns in enumerate(self._columns):
                values[:, columns].sum(axis=1, out=out[first : first + _CHUNK, f])
        for f in (0, 2):
            out[:, f] = -(-out[:, f] // self._batch)
        return out

    def tables(self, keep: Tensor) -> Ints:
        """Costs of every operator for many choices, of the whole recorded batch.

        Args:
            keep: (settings, classes) bool.

        Returns:
            (settings, operators, 3): multiply-accumulates, parameters, activation bytes; the operators are
            those of `nodes`.
        """
        mask = keep.numpy()
        out = np.zeros((len(mask), len(self._nodes), 3), dtype=np.int64)
        for first in range(0, len(mask), _CHUNK):
            values = self._values(mask[first : first + _CHUNK])
            where: Any = (slice(None), self._owner, self._figure)
            np.add.at(out[first : first + _CHUNK], where, values)
        return out

    @property
    def nodes(self) -> list[Node]:
        """The operators that compute, in order of execution."""
        return [node for node, _ in self._nodes]

    def _values(self, keep: NDArray[np.bool_]) -> Ints:
        counts = self._sizes.counts(keep)
        counts = np.concatenate(
            [counts, np.ones((len(counts), 1), np.int64)], axis=1
        )  # row -1 is the constant 1
        out = np.broadcast_to(self._factors, (len(counts), len(self._factors))).copy()
        for column in self._rows.T:
            out *= counts[:, column]
        for term, gone in self._relayouts.vanished(counts):
            out[gone, term] = 0
        return out

    def _collect(self) -> None:
        recording = self._recording
        root: dict[int, int] = {number: number for number in recording.parameters.values()}
        counted: set[int] = set()
        for node, then in zip(recording.nodes, [*recording.nodes[1:], None], strict=True):
            if node.op in VIEWS:
                if node.inputs and node.inputs[0] in root:
                    for number in node.outputs:
                        root[number] = root[node.inputs[0]]
                continue
            fresh = {root[i] for i in node.inputs if i in root} - counted
            if not any(o >= 0 for o in node.outputs) or (not fresh and not node.inputs):
                continue
            counted |= fresh
            index = len(self._nodes)
            first = next(o for o in node.outputs if o >= 0)
            self._nodes.append((node, recording.shapes[first]))
            self._macs(node, index)
            for number in sorted(fresh):
                if number not in recording.buffers:
                    self._term(index, 1, self._all(number), 1)
            if node.op in FACTORIES:
                continue
            copy = Relayout.of(recording, node, then)
            if copy is not None:
                self._copies.append((len(self._terms), copy, self._known(node.inputs[0])))
            for number in allocated(node):
                self._term(index, 2, self._all(number, like=first), recording.dtypes[number].itemsize)

    def _all(self, number: int, like: int | None = None) -> list[tuple[int, int]]:
        """The dimensions of a tensor; without layers of its own it has those of another that it matches."""
        shape = self._recording.shapes[number]
        if like is not None and like != number and not self._table[number]:
            other = self._recording.shapes[like]
            if len(other) == len(shape):
                return [(like if other[d] == n else number, d) for d, n in enumerate(shape)]
        return [(number, d) for d in range(len(shape))]

    def _macs(self, node: Node, index: int) -> None:
        shapes = self._recording.shapes
        if node.op in CONVOLUTIONS or node.op == _DEFORMED:
            x, w = node.inputs[0], node.inputs[1]
            out = node.outputs[0]
            transposed = node.op not in (_DEFORMED, "mkldnn_convolution") and bool(node.args[6])
            self._term(index, 0, [*self._all(x if transposed else out), (w, 1)], prod(shapes[w][2:]))
        elif node.op in PRODUCTS:
            a, b = node.inputs[-2:] if node.op in ("mm", "bmm") else node.inputs[1:3]
            inner = len(shapes[a]) - 1
            dims = [*self._all(a), (b, inner)]
            if inner not in self._known(a):  # a state of zeros takes its width from the weight
                dims[inner] = (b, inner - 1)
            self._term(index, 0, dims, 1)
        elif node.op in VECTORS:
            self._term(index, 0, self._all(node.inputs[VECTORS[node.op]]), 1)
        elif node.op.startswith(_ATTENTION):
            q, k, v = node.inputs[:3]
            for t in (k, v):  # queries by keys, weights by values
                self._term(
                    index, 0, [*self._all(q)[:-1], (k, len(shapes[k]) - 2), (t, len(shapes[t]) - 1)], 1
                )
        elif node.op == _RECURRENT:
            for w in node.inputs[1:3]:
                self._term(index, 0, [*self._all(node.inputs[0])[:-1], *self._all(w)], 1)

    def _known(self, number: int) -> dict[int, int]:
        return dict(self._sizes.dims(self._table[number]))

    def _term(self, operator: int, figure: int, dims: list[tuple[int, int]], factor: int) -> None:
        rows: list[int] = []
        for number, d in dims:
            known = self._known(number)
            if d in known:
                rows.append(known[d])
            else:
                factor *= self._recording.shapes[number][d]
        self._terms.append(_Term(operator, figure, factor, tuple(rows)))


def allocated(node: Node) -> list[int]:
    """Numbers of the outputs that have memory of their own: no views, nothing written in place.

    Args:
        node: An operator call of a recording.
    """
    if node.op in VIEWS:
        return []
    if "batch_norm" in node.op and len(node.outputs) > 1:  # on meta it has statistics that no device makes
        return node.outputs[:1]
    schema = getattr(node.target, "_schema", None)
    returns: list[Any] = list(schema.returns) if schema is not None else []
    if len(returns) == 1:  # one tensor, or a list of them
        return [] if returns[0].alias_info is not None else [o for o in node.outputs if o >= 0]
    if len(returns) == len(node.outputs):
        return [o for o, r in zip(node.outputs, returns, strict=True) if o >= 0 and r.alias_info is None]
    return [o for o in node.outputs if o >= 0 and o not in node.inputs]
