"""From ties, freezes and blocks to axes: the sets of units that can be removed together, and in what numbers.

A *class* is a set of tied units. Classes produced by the same parameter axes form a group; blocks cut groups
into *cells* that must keep equally many members. An `Axis` is a bundle of cells of one size that keep one
common count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.structure.labels import Freeze, Labels
from netwright.structure.layers import compress, varying
from netwright.structure.record import Node

Ints = NDArray[np.int64]


@dataclass
class Axis:
    """Tied units that one count decides.

    Attributes:
        name: The parameter that produces it, without ".weight".
        cells: (cells, size) class ids; every cell keeps the same count.
        prunable: Whether it may shrink.
        reason: Why not, if not.
        node: The operator call that freezes it, if any.
    """

    name: str
    cells: Tensor
    prunable: bool = True
    reason: str = ""
    node: Node | None = None

    @property
    def size(self) -> int:
        """Members of one cell: the largest count."""
        return int(self.cells.shape[1])

    @property
    def total(self) -> int:
        """Classes in all cells."""
        return int(self.cells.numel())


@dataclass
class Partition:
    """The units of a network, solved.

    Attributes:
        classes: (units,) class of every unit; class 0 holds unit 0.
        count: Number of classes.
        frozen: (classes,) bool.
        axes: Prunable axes first, then the frozen ones.
        reasons: Class -> what freezes it.
    """

    classes: Tensor
    count: int
    frozen: NDArray[np.bool_]
    axes: list[Axis] = field(default_factory=list)
    reasons: dict[int, Freeze] = field(default_factory=dict)


class Solver:
    """Solve the ties of a walk; `extra` freezes further units (excluded by the user, say)."""

    def __init__(self, labels: Labels, extra: list[Freeze] | None = None) -> None:
        self.labels = labels
        self.freezes = [*labels.freezes, *(extra or [])]
        self.pairs: list[tuple[Ints, Ints]] = []
        self.rng = np.random.default_rng(20260101)
        self.produced: set[int] = set()  # classes that are the outputs of some parameter
        for a, b, node in labels.ties:
            left, right = a.numpy(), b.numpy()
            live = (left != 0) & (right != 0)
            if not live.all():
                fixed = np.where(left == 0, right, left)[~live]
                if fixed.any():
                    reason = "it meets a slot that nothing describes (padding, or a part without units)"
                    self.freezes.append(Freeze(torch.from_numpy(fixed[fixed != 0]), reason, node))
                left, right = left[live], right[live]
            self.pairs.append((left, right))

    def solve(self) -> Partition:
        """Components, blocks to cells, cells to axes; repeats where a block adds ties or freezes."""
        while True:
            partition = self._components()
            changed, rows = self._blocks(partition)
            if changed:
                continue
            if self._axes(partition, rows):
                return partition

    def _components(self) -> Partition:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        n = self.labels.units
        left = np.concatenate([p[0] for p in self.pairs]) if self.pairs else np.zeros(0, np.int64)
        right = np.concatenate([p[1] for p in self.pairs]) if self.pairs else np.zeros(0, np.int64)
        self.pairs = [(left, right)]
        graph = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(n, n))
        count, classes = connected_components(graph, directed=False)
        classes = classes.astype(np.int64)
        if classes[0] != 0:  # unit 0 is class 0
            classes = np.where(classes == 0, classes[0], np.where(classes == classes[0], 0, classes))
        frozen = np.zeros(count, np.bool_)
        frozen[0] = True
        reasons: dict[int, Freeze] = {}
        for freeze in self.freezes:
            found = np.unique(classes[freeze.units.numpy()])
            for c in found[~frozen[found]].tolist():
                reasons[c] = freeze
            frozen[found] = True
        return Partition(torch.from_numpy(classes), count, frozen, [], reasons)

    def _blocks(self, partition: Partition) -> tuple[bool, list[Ints]]:
        """Rows of classes of every block that still constrains; True if a tie or freeze was added."""
        rows: list[Ints] = []
        changed = False
        for block in self.labels.blocks:
            mapped = compress(partition.classes[block.labels])
            dims = varying(mapped)
            if len(dims) < 2:
                # Ties left one unit a row: where the number of rows is fixed, nothing of it can go.
                whole = dims and dims[0] != block.ragged and block.kind in ("groups", "split")
                if whole and not partition.frozen[mapped.numpy()].all():
                    reason = "only whole parts of a split could go, and their number is fixed"
                    self._freeze(partition, mapped.numpy(), reason, block.node)
                    changed = True
                continue
            matrix = mapped.reshape(-1, mapped.shape[dims[-1]]).numpy()
            if (matrix == matrix[0]).all():
                continue
            matrix = np.unique(matrix, axis=0) if not _distinct(matrix) else matrix
            if not _distinct(matrix) and self._overlap(matrix):
                self._tie_columns(partition, matrix)
                changed = True
                continue
            held = partition.frozen[matrix]
            per_row = held.sum(axis=1)
            if per_row.any():
                if not held.all() and (per_row != per_row[0]).any():
                    self._freeze(
                        partition, matrix[~held], "another part of the same split is frozen", block.node
                    )
                    changed = True
                    continue
                if held.all():
                    continue
            rows.append(matrix)
        return changed, rows

    def _overlap(self, matrix: Ints) -> bool:
        """Whether different rows share classes (each row's classes are made unique first)."""
        sets = [np.unique(row) for row in matrix]
        return len(np.unique(np.concatenate(sets))) < sum(len(s) for s in sets)

    def _tie_columns(self, partition: Partition, matrix: Ints) -> None:
        unit = self._unit_of_class(partition)
        first = np.broadcast_to(matrix[0], matrix.shape)
        self.pairs.append((unit[first.reshape(-1)], unit[matrix.reshape(-1)]))

    def _unit_of_class(self, partition: Partition) -> Ints:
        classes = partition.classes.numpy()
        unit = np.zeros(partition.count, np.int64)
        unit[classes[::-1]] = np.arange(len(classes))[::-1]
        return unit

    def _freeze(self, partition: Partition, classes: Ints, reason: str, node: Node | None) -> None:
        units = self._unit_of_class(partition)[np.unique(classes)]
        self.freezes.append(Freeze(torch.from_numpy(units), reason, node))

    def _axes(self, partition: Partition, rows: list[Ints]) -> bool:
        """Group, cut into cells, bundle; False (after a freeze) when a block cannot be kept in step."""
        signature, owner = self._signatures(partition)
        cell_key = signature.copy()
        tokens = self.rng
        for matrix in rows:
            for row in matrix:
                found, times = np.unique(row, return_counts=True)
                cell_key[found] += times * tokens.integers(-(2**62), 2**62)  # members of a cell count alike
        live = np.flatnonzero(~partition.frozen & (signature != 0))
        _, cell = np.unique(cell_key[live], return_inverse=True)
        cell_of = np.full(partition.count, -1, np.int64)
        cell_of[live] = cell
        sizes = np.bincount(cell) if len(cell) else np.zeros(0, np.int64)
        parent = list(range(len(sizes)))

        def find(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        first_class = np.full(len(sizes), -1, np.int64)
        first_class[cell[::-1]] = live[::-1]
        for matrix in rows:
            linked = self._link(matrix, partition, cell_of, sizes, signature[first_class])
            if linked is None:
                held = partition.frozen[matrix]
                self._freeze(partition, matrix[~held], "the parts it is split into cannot shrink alike", None)
                return False
            for a, b in linked:
                parent[find(a)] = find(b)
        bundles: dict[int, list[int]] = {}
        for i in range(len(sizes)):
            bundles.setdefault(find(i), []).append(i)
        members = np.split(live[np.argsort(cell, kind="stable")], np.cumsum(sizes)[:-1]) if len(sizes) else []
        unit = self._unit_of_class(partition)
        axes = []
        for cells in bundles.values():
            table = np.stack([members[i][np.argsort(unit[members[i]])] for i in cells])
            table = table[np.argsort(unit[table[:, 0]])]
            axes.append(Axis(owner[int(table[0, 0])], torch.from_numpy(table)))
        axes.sort(key=lambda axis: int(unit[int(axis.cells[0, 0])]))
        for axis in axes:
            if axis.size < 2 and axis.total < 2:
                axis.prunable, axis.reason = False, "it has a single member"
        partition.axes = sorted(axes, key=lambda a: not a.prunable) + self._frozen_axes(
            partition, signature, owner
        )
        _unique_names(partition.axes)
        return True

    def _link(
        self, matrix: Ints, partition: Partition, cell_of: Ints, sizes: Ints, group: Ints
    ) -> list[tuple[int, int]] | None:
        """Pair the cells of a block's rows, equal sizes with equal sizes; None when they do not pair up."""
        table = []
        for row in matrix:
            cells, entries = np.unique(cell_of[row[~partition.frozen[row]]], return_counts=True)
            if (cells < 0).any():
                return None
            table.append(
                sorted(
                    (int(sizes[c]), int(k), int(group[c]), int(c))
                    for c, k in zip(cells, entries, strict=True)
                )
            )
        shape = [(s, k) for s, k, _, _ in table[0]]
        links = []
        for row in table[1:]:
            if [(s, k) for s, k, _, _ in row] != shape:
                return None
            links += [(a[3], b[3]) for a, b in zip(table[0], row, strict=True)]
        return links

    def _signatures(self, partition: Partition) -> tuple[Ints, dict[int, str]]:
        """A hash of the multiset of parameter axes that each class lies on, and the producer's name."""
        signature = np.zeros(partition.count, np.int64)
        owner: dict[int, str] = {}
        classes = partition.classes.numpy()
        better: dict[int, int] = {}
        for name, dims in self.labels.parameters.items():
            stem = name.rpartition(".")[0] if name.endswith((".weight", ".bias")) else name
            for dim, layer in dims.items():
                found = classes[layer.reshape(-1).numpy()]
                np.add.at(signature, found, self.rng.integers(-(2**62), 2**62))
                rank = 0 if dim == 0 and layer.dim() > 1 else 1
                for c in np.unique(found).tolist() if rank == 0 else found[:1].tolist():
                    if better.get(c, 2) > rank:
                        better[c], owner[c] = rank, stem
        for c in range(partition.count):
            owner.setdefault(c, "?")
        self.produced = {c for c, rank in better.items() if rank == 0}
        return signature, owner

    def _frozen_axes(self, partition: Partition, signature: Ints, owner: dict[int, str]) -> list[Axis]:
        """Frozen classes, grouped like the others, for the report."""
        held = np.flatnonzero(partition.frozen & (signature != 0))
        if not len(held):
            return []
        _, group = np.unique(signature[held], return_inverse=True)
        axes = []
        for members in np.split(held[np.argsort(group, kind="stable")], np.cumsum(np.bincount(group))[:-1]):
            freeze = partition.reasons.get(int(members[0]))
            if members[0] == 0:
                continue
            reason = freeze.reason if freeze else "frozen"
            node = freeze.node if freeze else None
            axes.append(Axis(owner[int(members[0])], torch.from_numpy(members)[None], False, reason, node))
        # A parameter's outputs come before its inputs, so that they have its plain name.
        return sorted(axes, key=lambda axis: int(axis.cells[0, 0]) not in self.produced)


def _distinct(matrix: Ints) -> bool:
    """Whether all entries differ (the common case, without sorting twice)."""
    return len(np.unique(matrix)) == matrix.size


def _unique_names(axes: list[Axis]) -> None:
    seen: dict[str, int] = {}
    for axis in axes:
        count = seen[axis.name] = seen.get(axis.name, 0) + 1
        if count > 1:
            axis.name = f"{axis.name}#{count}"
