"""Shapes after pruning, from the labels alone: every dimension is a constant or a count of kept classes.

All counts a network needs are rows of one sparse matrix, so the sizes for any choice of what stays are one
product with the keep vector, and no network is rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.structure.layers import compress, varying

if TYPE_CHECKING:
    from netwright.structure.labels import Layers
    from netwright.structure.record import Recording
    from netwright.structure.solve import Partition

Ints = NDArray[np.int64]
#: A dimension: its size in the dense network, or the row of the count that decides it.
Dims = list[tuple[int, int]]


class Sizes:
    """Sizes of the tensors of a recording for any choice of what stays.

    Args:
        partition: Classes of the units.
    """

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._count = partition.count
        self._frozen = partition.frozen
        self._ragged = partition.ragged
        self._rows: dict[bytes, int] = {}
        self._labels: list[Ints] = []
        self._mapped: dict[int, tuple[Tensor, Tensor]] = {}
        self._same: dict[tuple[tuple[int, ...], bytes], Tensor] = {}
        self._dims: dict[int, list[tuple[int, int]]] = {}
        self._matrix: object | None = None
        self._pooled: tuple[object, tuple[Ints, Ints, object]] | None = None

    def classes(self, layer: Tensor) -> Tensor:
        """A layer of units as a layer of classes, compressed."""
        known = self._mapped.get(id(layer))
        if known is None or known[0] is not layer:  # the layer is held, so that its id stays its own
            array = self._partition.flat(layer)
            key = (layer.shape, array.tobytes())  # what follows one axis looks the same all along: one object
            same = self._same.get(key)
            if same is None:
                same = self._same[key] = compress(torch.from_numpy(array).reshape(layer.shape))
            known = self._mapped[id(layer)] = (layer, same)
        return known[1]

    def row(self, labels: Tensor) -> int:
        """The number of the count of the kept ones among some classes.

        Args:
            labels: (n,) class ids.
        """
        flat = np.ascontiguousarray(labels.reshape(-1).numpy())
        key = flat.tobytes()
        found = self._rows.get(key)
        if found is None:
            found = self._rows[key] = len(self._labels)
            self._labels.append(flat)
            self._matrix = None
        return found

    def dims(self, layers: Layers) -> list[tuple[int, int]]:
        """(dimension, count row) of every labelled dimension of a tensor.

        Along the dimension of its rows, the innermost varying one unless they were moved, every row of a
        layer keeps equally many, so the first is counted; along another one all rows stay, and the size is
        the dense one.

        Args:
            layers: Layers of units.
        """
        if len(layers) == 1:
            return self._dims_of(layers[0])
        found: dict[int, int] = {}
        for layer in layers:
            for d, r in self._dims_of(layer):
                if d not in found or self._fixed(found[d]):  # of two units there, the one that can go
                    found[d] = r
        return list(found.items())

    def _dims_of(self, layer: Tensor) -> list[tuple[int, int]]:
        known = self._dims.get(id(layer))
        if known is None:
            known = []
            mapped = self.classes(layer)
            vary = varying(mapped)
            if vary:
                moved = self._ragged.get(id(layer))
                inner = moved[1] if moved is not None and moved[1] in vary else vary[-1]
                first = mapped
                for d in vary:
                    first = first if d == inner else first.narrow(d, 0, 1)
                known = [(inner, self.row(first))]
            self._dims[id(layer)] = known
        return known

    def _fixed(self, row: int) -> bool:
        return bool(self._frozen[self._labels[row]].all())

    def counts(self, keep: NDArray[np.bool_]) -> Ints:
        """How many stay, for every count.

        Args:
            keep: (classes,) or (settings, classes), True where a class stays.

        Returns:
            (rows,) or (settings, rows).
        """
        keep = np.asarray(keep)
        if keep.ndim == 2 and len(keep) > 1 and keep.dtype == np.bool_ and self._labels:
            order, starts, pooled = self._pools()
            sums = np.add.reduceat(keep[:, order].view(np.int8), starts, axis=1, dtype=np.int64)
            return np.asarray((pooled @ sums.T).T)  # type: ignore[operator]
        matrix = self._sparse()
        wide = np.asarray(keep, dtype=np.int64)
        return np.asarray((matrix @ wide.T).T)  # type: ignore[operator]

    def _pools(self) -> tuple[Ints, Ints, object]:
        """Classes that lie in the same counts are summed first, which thousands of settings are priced by.

        Returns:
            The classes sorted by pool, where each pool begins, and the counts as sums over pools.
        """
        if self._pooled is None or self._pooled[0] is not self._sparse():
            matrix: Any = self._sparse()
            tokens = np.random.default_rng(0).integers(-(2**62), 2**62, matrix.shape[0])
            _, first, pool = np.unique(matrix.T @ tokens, return_index=True, return_inverse=True)
            order = np.argsort(pool, kind="stable")
            starts = np.searchsorted(pool[order], np.arange(len(first)))
            self._pooled = (matrix, (order, starts, matrix[:, first]))
        return self._pooled[1]

    def _sparse(self) -> object:
        if self._matrix is None:
            from scipy.sparse import csr_array

            lengths = np.array([len(x) for x in self._labels], dtype=np.int64)
            starts = np.concatenate([[0], np.cumsum(lengths)])
            columns = np.concatenate(self._labels) if self._labels else np.zeros(0, np.int64)
            values = np.ones(len(columns), dtype=np.int64)
            self._matrix = csr_array((values, columns, starts), shape=(len(self._labels), self._count))
        return self._matrix


def shapes_of(recording: Recording, table: list[Layers], sizes: Sizes, keep: Tensor) -> list[tuple[int, ...]]:
    """The shape of every tensor of a recording when only some classes stay.

    Args:
        recording: The dense network's recording.
        table: Layers of units of every tensor, by number.
        sizes: Counts of the same network.
        keep: (classes,) bool.
    """
    described = [sizes.dims(layers) if layers else [] for layers in table]
    counts = sizes.counts(keep.numpy()).tolist()
    out = []
    for shape, dims in zip(recording.shapes, described, strict=True):
        if dims:
            new = list(shape)
            for d, r in dims:
                new[d] = counts[r]
            shape = tuple(new)
        out.append(shape)
    return out


def parameter_layers(layers: dict[str, dict[int, Tensor]], sizes: Sizes) -> dict[str, dict[int, Tensor]]:
    """Class labels of every parameter, by name and dimension.

    Args:
        layers: Units of every parameter, by name and dimension.
        sizes: Counts of the same network.

    Returns:
        Labels of the parameter's rank, size 1 along every dimension where they are constant.
    """
    return {name: {d: sizes.classes(la) for d, la in dims.items()} for name, dims in layers.items()}


def index_maps(layers: dict[str, dict[int, Tensor]], keep: Tensor) -> dict[str, dict[int, Tensor]]:
    """Which indices stay, for every parameter that shrinks.

    Args:
        layers: Class labels (see `parameter_layers`).
        keep: (classes,) bool.

    Returns:
        Parameter or buffer name -> {dimension: indices that stayed (n,)}, or (blocks, n) where the blocks of
        dimension 0 keep different ones.
    """
    kept: dict[str, dict[int, Tensor]] = {}
    stays = keep.numpy()
    known: dict[tuple[bytes, int], Tensor | None] = {}  # most parameters follow an axis that others follow
    seen: dict[tuple[int, int], Tensor | None] = {}  # by id, what is looked at already
    for name, dims in layers.items():
        for dim, layer in dims.items():
            if (id(layer), dim) in seen:
                index = seen[id(layer), dim]
                if index is not None:
                    kept.setdefault(name, {})[dim] = index
                continue
            plain = len(varying(layer)) < 2
            flat = layer.numpy().ravel()
            key = (flat.tobytes(), -1 if plain else id(layer))
            if key not in known:
                mask = stays[flat]
                if mask.all():
                    known[key] = None
                elif plain:
                    known[key] = torch.from_numpy(np.flatnonzero(mask))
                else:
                    known[key] = _blocked(layer, torch.from_numpy(mask).reshape(layer.shape), dim)
            index = seen[id(layer), dim] = known[key]
            if index is not None:
                kept.setdefault(name, {})[dim] = index
    return kept


def _blocked(layer: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Kept indices (blocks, n) of a layer that varies along dimension 0 in equal runs, and along `dim`."""
    rows, size = layer.shape[0], layer.shape[dim]
    flat = layer.reshape(rows, size)
    change = (flat[1:] != flat[:-1]).any(dim=1).nonzero().reshape(-1) + 1
    length = int(change[0]) if len(change) else rows
    for step in change.tolist():
        length = _gcd(length, step)
    table = mask.reshape(rows, size)[::length]
    width = int(table[0].sum())
    order = torch.argsort(~table, dim=1, stable=True)[:, :width]
    return order.sort(dim=1).values


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def take(tensor: Tensor, kept: dict[int, Tensor]) -> Tensor:
    """Slice a parameter.

    Args:
        tensor: The dense parameter.
        kept: Dimension -> indices (n,), or (blocks, n) for blocks of dimension 0.

    Returns:
        A new tensor.
    """
    if not kept:
        return tensor.clone()
    rows = kept.get(0)
    size = tensor.shape[0]
    out = tensor.index_select(0, rows.to(tensor.device)) if rows is not None else tensor
    if len(kept) == 1 and rows is not None:
        return out
    for dim, index in sorted(kept.items()):
        index = index.to(tensor.device)
        if dim == 0:
            continue
        if index.dim() == 1:
            out = out.index_select(dim, index)
            continue
        out = out.gather(dim, _spread(index, rows, size, dim, out.shape))
    return out if out is not tensor else tensor.clone()


def _spread(index: Tensor, rows: Tensor | None, size: int, dim: int, shape: torch.Size) -> Tensor:
    """Values (blocks, n) along `dim`, for every element of a tensor whose rows came from `size` in blocks."""
    origin = rows.to(index.device) if rows is not None else torch.arange(size, device=index.device)
    per_row = index[origin // (size // len(index))]  # (rows, n)
    narrow = [shape[0] if d == 0 else index.shape[1] if d == dim else 1 for d in range(len(shape))]
    return per_row.reshape(narrow).expand([index.shape[1] if d == dim else n for d, n in enumerate(shape)])


def scale(
    tensor: Tensor, factors: Mapping[int, Tensor], rows: Tensor | None = None, size: int | None = None
) -> Tensor:
    """Multiply a parameter that was taken along its dimensions.

    Args:
        tensor: The parameter after `take`.
        factors: Dimension -> factors (n,), or (blocks, n) for blocks of dimension 0.
        rows: What was taken of dimension 0, where blocks have their own factors.
        size: Of dimension 0 before that.
    """
    for dim, factor in factors.items():
        factor = factor.to(tensor.device, tensor.dtype)
        if factor.dim() == 1:
            tensor = tensor * factor.reshape([-1 if d == dim else 1 for d in range(tensor.dim())])
        else:
            dense = size if size is not None else tensor.shape[0]
            tensor = tensor * _spread(factor, rows, dense, dim, tensor.shape)
    return tensor
