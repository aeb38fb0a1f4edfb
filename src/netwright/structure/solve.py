"""From ties, freezes and blocks to axes: the sets of units that can be removed together, and in what numbers.

A *class* is a set of tied units. Blocks cut the classes that lie on the same parameter axes into *cells*,
whose members are alike: any of them may go in place of another. Cells of one size that keep one common count
are bundled to an `Axis`; where blocks relate cells of different sizes, or sums of cells, the axis has a
`Coupling` (see `blocks`), whose levels take the place of the common count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.structure.blocks import Coupling
from netwright.structure.cells import Cells, Rows, couple
from netwright.structure.labels import Freeze, Labels
from netwright.structure.layers import compress, varying
from netwright.structure.record import Node

Ints = NDArray[np.int64]
_UNLIKE = "the parts it is split into cannot shrink alike"


@dataclass
class Axis:
    """Tied units that one count decides.

    Attributes:
        name: The parameter that produces it, without ".weight".
        cells: (cells, size) class ids; every cell keeps the same count. Where the parts of an axis shrink
            each in its own way, (1, total): all parts, one after another.
        prunable: Whether it may shrink.
        reason: Why not, if not.
        node: The operator call that freezes it, if any.
        coupling: How the counts of the parts follow from one level, where they are not all the same.
    """

    name: str
    cells: Tensor
    prunable: bool = True
    reason: str = ""
    node: Node | None = None
    coupling: Coupling | None = None

    @property
    def size(self) -> int:
        """The largest count: members of one cell, or levels."""
        return int(self.cells.shape[1]) if self.coupling is None else self.coupling.levels

    @property
    def lengths(self) -> Tensor:
        """(parts,) members of every part."""
        if self.coupling is None:
            return torch.full((self.cells.shape[0],), self.cells.shape[1], dtype=torch.int64)
        return torch.from_numpy(self.coupling.sizes)

    @property
    def parts(self) -> list[Tensor]:
        """The cells, (members,) class ids each; within a cell members are alike."""
        return list(self.cells.reshape(-1).split(self.lengths.tolist()))

    def counts(self, level: int) -> Tensor:
        """How many members of every part stay, (parts,).

        Args:
            level: From 1 to `size`; the common count of all cells where they have one.
        """
        if self.coupling is None:
            return torch.full((self.cells.shape[0],), level, dtype=torch.int64)
        return torch.from_numpy(self.coupling.at(level))

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
        ragged: Layers whose rows do not lie along the innermost dimension, by id (see `Labels`).
        shuffled: (classes,) whether they are interleaved with others, and may lie in a new order thereafter.
    """

    classes: Tensor
    count: int
    frozen: NDArray[np.bool_]
    axes: list[Axis] = field(default_factory=list)
    reasons: dict[int, Freeze] = field(default_factory=dict)
    ragged: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    shuffled: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    _flat: dict[int, tuple[Tensor, Ints]] = field(default_factory=dict, repr=False)

    def flat(self, layer: Tensor) -> Ints:
        """The classes of a layer of units, (n,).

        Args:
            layer: Of any shape; what was found is kept with it.
        """
        known = self._flat.get(id(layer))
        if known is None or known[0] is not layer:  # the layer is held, so that its id stays its own
            units: Ints = layer.numpy().ravel()
            known = self._flat[id(layer)] = (layer, self._array[units])
        return known[1]

    @cached_property
    def _array(self) -> Ints:
        array: Ints = self.classes.numpy()
        return array


class Solver:
    """Solve the ties of a walk; `extra` freezes further units (excluded by the user, say)."""

    def __init__(self, labels: Labels, extra: list[Freeze] | None = None) -> None:
        self.labels = labels
        self.freezes = [*labels.freezes, *(extra or [])]
        self.pairs: list[tuple[Ints, Ints]] = []
        self.rng = np.random.default_rng(20260101)
        self.produced = np.zeros(0, np.bool_)  # (classes,) whether they are the outputs of some parameter
        none = np.zeros(0, np.int64)
        lefts = np.concatenate([none, *[a.numpy() for a, _, _ in labels.ties]])
        rights = np.concatenate([none, *[b.numpy() for _, b, _ in labels.ties]])
        if lefts.all() and rights.all():
            self.pairs.append((lefts, rights))
            return
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
            partition = self.components()
            changed, blocks = self._blocks(partition)
            if changed:
                continue
            if self._axes(partition, blocks):
                return partition

    def components(self) -> Partition:
        """The classes alone, without axes."""
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
        return Partition(torch.from_numpy(classes), count, frozen, [], reasons, self.labels.ragged)

    def _blocks(self, partition: Partition) -> tuple[bool, list[Rows]]:
        """The blocks that still constrain, as rows of classes; True if a freeze was added."""
        blocks: list[Rows] = []
        changed = False
        for block in self.labels.blocks:
            mapped = compress(partition.classes[block.labels])
            dims = varying(mapped)
            if len(dims) < 2:
                # Ties left one unit a row: where the number of rows is fixed, nothing of it can go.
                whole = dims and dims[0] == 0 != block.ragged and block.kind in ("groups", "split")
                if whole and not partition.frozen[mapped.numpy()].all():
                    reason = "only whole parts of a split could go, and their number is fixed"
                    self._freeze(partition, mapped.numpy(), reason, block.node)
                    changed = True
                continue
            matrix = mapped.reshape(-1, mapped.shape[dims[-1]]).numpy()
            if block.kind == "shuffle":
                matrix = matrix.T
                if not _distinct(matrix):  # what is interleaved meets itself: position by position, then
                    if not (matrix == matrix[0]).all():
                        self._tie_columns(partition, matrix)
                        changed = True
                elif not partition.frozen[matrix].all():
                    blocks.append(Rows(matrix, block.node, shuffled=True))
                continue
            if (matrix == matrix[0]).all():
                continue
            matrix = np.unique(matrix, axis=0) if not _distinct(matrix) else matrix
            held = partition.frozen[matrix]
            full = held.all(axis=1)
            if full.any():
                if not full.all():
                    reason = "another part of the same split is frozen"
                    self._freeze(partition, matrix[~held], reason, block.node)
                    changed = True
                continue
            blocks.append(Rows(matrix, block.node))
        return changed, blocks

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

    def _axes(self, partition: Partition, blocks: list[Rows]) -> bool:
        """Cut into cells and bundle them; False (after a freeze) where what a block couples cannot shrink."""
        signature, owner = self._signatures(partition)
        system = Cells(partition, blocks, signature, self.rng)
        unit = self._unit_of_class(partition)
        axes, stuck = [], False
        for bundle, rows in system.bundles():
            members = [system.members(i, unit) for i in bundle]
            if not rows:
                table = np.stack(members)
                table = table[np.argsort(unit[table[:, 0]])]
                axes.append(Axis(owner[int(table[0, 0])], torch.from_numpy(table)))
                continue
            order = sorted(range(len(bundle)), key=lambda i: int(unit[members[i][0]]))
            members = [members[i] for i in order]
            flat = np.concatenate(members)
            bundle = [bundle[i] for i in order]
            coupling = couple(bundle, system.sizes, rows, self._together(partition, members, flat))
            if (coupling.least == coupling.sizes).all():
                fixed = any(row.fixed for row in rows)
                reason = "another part of the same split is frozen" if fixed else _UNLIKE
                self._freeze(partition, flat, reason, rows[0].node)
                stuck = True
                continue
            axes.append(Axis(owner[int(flat[0])], torch.from_numpy(flat)[None], coupling=coupling))
        if stuck:
            return False
        axes.sort(key=lambda axis: int(unit[int(axis.cells[0, 0])]))
        for axis in axes:
            if axis.size < 2 and axis.total < 2:
                axis.prunable, axis.reason = False, "it has a single member"
        partition.axes = sorted(axes, key=lambda a: not a.prunable) + self._frozen_axes(
            partition, signature, owner
        )
        partition.shuffled = np.zeros(partition.count, np.bool_)
        for block in blocks:
            partition.shuffled[block.matrix if block.shuffled else []] = True
        _unique_names(partition.axes)
        return True

    def _together(self, partition: Partition, members: list[Ints], flat: Ints) -> list[NDArray[np.bool_]]:
        """Which parts (P,) lie together on a dimension of a parameter, for every such dimension."""
        part = np.full(partition.count, -1, np.int64)
        part[flat] = np.repeat(np.arange(len(members)), [len(m) for m in members])
        found: dict[bytes, NDArray[np.bool_]] = {}
        for dims in self.labels.parameters.values():
            for layer in dims.values():
                on = part[partition.flat(layer)]
                if (on >= 0).any():
                    here = np.zeros(len(members), np.bool_)
                    here[on[on >= 0]] = True
                    found[here.tobytes()] = here
        return list(found.values())

    def _signatures(self, partition: Partition) -> tuple[Ints, Owners]:
        """A hash of the multiset of parameter axes that each class lies on, and the producer's name."""
        signature = np.zeros(partition.count, np.int64)
        names = ["?"]
        makers: list[tuple[Ints, int]] = []  # classes, and the number of the parameter that makes them
        others: list[tuple[Ints, int]] = []
        lying: list[Ints] = []
        for name, dims in self.labels.parameters.items():
            names.append(name.rpartition(".")[0] if name.endswith((".weight", ".bias")) else name)
            for dim, layer in dims.items():
                found = partition.flat(layer)
                lying.append(found)
                makes = dim == self.labels.outgoing.get(name, 0) and layer.dim() > 1
                (makers if makes else others).append((found if makes else found[:1], len(names) - 1))
        if lying:
            tokens = self.rng.integers(-(2**62), 2**62, len(lying))
            np.add.at(signature, np.concatenate(lying), np.repeat(tokens, [len(found) for found in lying]))
        owner, self.produced = np.zeros(partition.count, np.int64), np.zeros(partition.count, np.bool_)
        for found, number in [*reversed(others), *reversed(makers)]:  # the first maker has the last word
            owner[found] = number
        if makers:
            self.produced[np.concatenate([found for found, _ in makers])] = True
        return signature, Owners(names, owner)

    def _frozen_axes(self, partition: Partition, signature: Ints, owner: Owners) -> list[Axis]:
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
        return sorted(axes, key=lambda axis: not self.produced[int(axis.cells[0, 0])])


@dataclass(frozen=True)
class Owners:
    """The parameter that makes each class.

    Attributes:
        names: Names of parameters, without ".weight"; the first for what none makes.
        number: (classes,) which of them.
    """

    names: list[str]
    number: Ints

    def __getitem__(self, number: int) -> str:
        return self.names[int(self.number[number])]


def _distinct(matrix: Ints) -> bool:
    """Whether all entries differ (the common case, without sorting twice)."""
    return len(np.unique(matrix)) == matrix.size


def _unique_names(axes: list[Axis]) -> None:
    seen: dict[str, int] = {}
    for axis in axes:
        count = seen[axis.name] = seen.get(axis.name, 0) + 1
        if count > 1:
            axis.name = f"{axis.name}#{count}"
