"""Index maps on tied axes: what stays, what repeats, and in which order.

Every structural change of a width is one table an axis: position `j` of a cell afterwards holds the member
that was at position ``table[cell, j]``. To *keep* is an increasing table, to *permute* a bijective one, to
*repeat* one with repetitions, and tables compose. How a table acts on a dimension of a tensor follows from
its class labels alone (`Layout`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.errors import StructureError, UsageError
from netwright.structure.layers import varying
from netwright.structure.sources import why

if TYPE_CHECKING:
    from netwright.structure.solve import Axis
    from netwright.structure.tracing import Structure

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class IndexMap:
    """What the members of some axes become; the other axes stay as they are.

    Attributes:
        tables: Axis name -> (cells, new size) positions in the rows of ``axis.cells``.
    """

    tables: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, table in self.tables.items():
            if table.dim() != 2 or table.dtype.is_floating_point or table.dtype == torch.bool:
                raise UsageError(
                    f"the table of {name} has shape {tuple(table.shape)} and type {table.dtype}",
                    "give positions as integers of shape (cells, new size)",
                )
            if table.shape[1] == 0:
                raise UsageError(f"nothing would stay of {name}", "keep at least one of every cell")

    @staticmethod
    def of_keep(net: Structure, keep: Tensor) -> IndexMap:
        """The map that keeps what a mask keeps.

        Args:
            net: The structure.
            keep: (count,) bool, True where a class stays.

        Raises:
            UsageError: if the cells of an axis would keep unequally many.
        """
        tables = {}
        for axis in net.axes:
            stays = keep[axis.cells]
            counts = stays.sum(dim=1)
            if int(counts.min()) != int(counts.max()):
                raise UsageError(
                    f"the parts of {axis.name} would keep {int(counts.min())} to {int(counts.max())}",
                    "keep equally many of every cell",
                )
            if not bool(stays.all()):
                tables[axis.name] = stays.nonzero()[:, 1].reshape(len(stays), -1)
        return IndexMap(tables)

    def keep(self, net: Structure) -> Tensor:
        """The mask (count,) of the classes that are there afterwards, however often and wherever."""
        return self.times(net) > 0

    def times(self, net: Structure) -> Tensor:
        """How often each class is there afterwards (count,)."""
        times = torch.ones(net.count, dtype=torch.int64)
        for axis, table in self._on(net):
            rows = torch.zeros(axis.cells.shape, dtype=torch.int64)
            times[axis.cells] = rows.scatter_add(1, table, torch.ones_like(table))
        return times

    def after(self, first: IndexMap) -> IndexMap:
        """One map that does what `first` does and then what this one does.

        The two maps one after the other give the same parameters, unless `first` repeats members: copies then
        carry shares of a member's weight, and to keep one of two copies is to lose a share.

        Args:
            first: Done first; this map's positions count what it leaves.

        Raises:
            UsageError: if this map names positions that `first` does not leave.
        """
        tables = dict(first.tables)
        for name, table in self.tables.items():
            below = first.tables.get(name)
            if below is not None:
                if len(below) != len(table) or int(table.max()) >= below.shape[1]:
                    raise UsageError(
                        f"the maps of {name} do not follow each other: the first leaves "
                        f"{tuple(below.shape)}, the second picks up to {int(table.max())} in "
                        f"{len(table)} cells"
                    )
                table = below.gather(1, table)
            tables[name] = table
        return IndexMap(tables)

    @property
    def inverse(self) -> IndexMap:
        """The map that undoes a permutation.

        Raises:
            UsageError: if an axis is not permuted but loses or repeats members.
        """
        for name, table in self.tables.items():
            if not _bijective(table):
                raise UsageError(f"the map of {name} is no permutation, so nothing undoes it")
        return IndexMap({name: torch.argsort(table, dim=1) for name, table in self.tables.items()})

    @property
    def permutes(self) -> bool:
        """Whether no axis loses or repeats a member (every table is a bijection on its own positions)."""
        return all(_bijective(table) for table in self.tables.values())

    def sizes(self) -> dict[str, int]:
        """New size of every axis that the map names."""
        return {name: table.shape[1] for name, table in self.tables.items()}

    def to_json(self) -> dict[str, list[list[int]]]:
        """Tables as nested lists."""
        return {name: table.tolist() for name, table in self.tables.items()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> IndexMap:
        """The map that `to_json` wrote."""
        return IndexMap({str(name): torch.tensor(rows, dtype=torch.int64) for name, rows in value.items()})

    def validate(self, net: Structure) -> None:
        """Refuse what the network cannot do.

        Raises:
            UsageError: if the map names an axis that is not there or cannot change, or a position that it
                does not have.
        """
        axes = {axis.name: axis for axis in net.axes}
        for name, table in self.tables.items():
            axis = axes.get(name)
            if axis is None:
                raise UsageError(
                    f"the network has no axis {name!r}", "see `netwright inspect` for the names of its axes"
                )
            if len(table) != len(axis.cells) or int(table.min()) < 0 or int(table.max()) >= width(axis):
                raise UsageError(
                    f"{name} has {len(axis.cells)} cells of {width(axis)}, the map has {len(table)} rows of "
                    f"positions {int(table.min())} to {int(table.max())}"
                )
            if not axis.prunable and not _identity(table, width(axis)):
                raise UsageError(f"{name} is frozen and cannot change: {why(axis)}")

    def _on(self, net: Structure) -> Iterable[tuple[Axis, Tensor]]:
        """The axes that change, with their tables."""
        for axis in net.axes:
            table = self.tables.get(axis.name)
            if table is not None and not _identity(table, width(axis)):
                yield axis, table


def width(axis: Axis) -> int:
    """Positions that a table of an axis may name: members of a cell, or of all parts that shrink together."""
    return int(axis.cells.shape[1])


def _bijective(table: Tensor) -> bool:
    return torch.equal(table.sort(dim=1).values, torch.arange(table.shape[1]).expand(table.shape))


def _identity(table: Tensor, size: int) -> bool:
    return table.shape[1] == size and torch.equal(table, torch.arange(size).expand(table.shape))


class Layout:
    """How a map rearranges every dimension whose class labels are known.

    The *copies* of a cell are its members after the map in their old order, each as often as it is there;
    the map says which copy each one's place gets. Along a dimension, equal neighbours go together: a run of
    equal labels (the 49 pixels of a channel that was flattened, the features of a head) is repeated or
    removed whole, and the k-th occurrence of a member takes the place of the k-th occurrence of another.

    Args:
        net: The structure.
        change: The map; it has been validated.
    """

    def __init__(self, net: Structure, change: IndexMap) -> None:
        self.times: Ints = np.ones(net.count, np.int64)
        self._first: Ints = np.full(net.count, -1, np.int64)
        wanted: list[Ints] = []
        source: list[Ints] = []
        base = 0
        self.moves = False
        for axis, table in change._on(net):
            cells, rows = axis.cells.numpy(), table.numpy()
            size = cells.shape[1]
            for cell, row in zip(cells, rows, strict=True):
                ranked = np.argsort(row, kind="stable")
                times = np.bincount(row, minlength=size)
                self.times[cell] = times
                self._first[cell] = base + np.cumsum(times) - times
                rank = np.empty(len(row), np.int64)
                rank[ranked] = np.arange(len(row))
                self.moves = self.moves or bool((ranked != np.arange(len(row))).any())
                wanted.append(base + rank)
                source.append(cell[row])
                base += len(row)
        none = np.zeros(0, np.int64)
        self._wanted = np.concatenate([none, *wanted])
        #: (copies,) the class that is at each place afterwards.
        self.source = np.concatenate([none, *source])
        self._cache: dict[bytes, tuple[Ints, Ints]] = {}

    def place(self, labels: Ints) -> tuple[Ints, Ints]:
        """Rearrange one dimension.

        Args:
            labels: (n,) its class labels.

        Returns:
            (m,) the index that every new slot comes from, and (m,) the place it is, -1 where nothing changes.

        Raises:
            StructureError: if members that should change places do not occur equally often.
        """
        key = labels.tobytes()
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._place(labels)
        return found

    def order(self, labels: Tensor) -> Tensor:
        """The first half of `place`, on tensors."""
        return torch.from_numpy(self.place(labels.reshape(-1).numpy())[0])

    def _place(self, labels: Ints) -> tuple[Ints, Ints]:
        index, copy = self._spread(labels)
        first = self._first[labels[index]]
        slot = np.where(first >= 0, first + copy, -1)
        live = np.flatnonzero(slot >= 0)
        if not len(live) or not self.moves:
            return index, slot
        ids = slot[live]
        ranked = np.argsort(ids, kind="stable")
        counts = np.bincount(ids, minlength=len(self._wanted))
        starts = np.cumsum(counts) - counts
        occurrence = np.empty(len(ids), np.int64)
        occurrence[ranked] = np.arange(len(ids)) - starts[ids[ranked]]
        want = self._wanted[ids]
        if (counts[want] != counts[ids]).any():
            raise StructureError(
                "members that should change places do not occur equally often everywhere",
                "reorder only members that `interchangeable` calls alike",
            )
        out = index.copy()
        out[live] = index[live[ranked[starts[want] + occurrence]]]
        return out, slot

    def _spread(self, labels: Ints) -> tuple[Ints, Ints]:
        """Repeat or remove runs of equal labels; (m,) old indices and (m,) which copy of the run it is."""
        n = len(labels)
        times = self.times[labels]
        if (times == 1).all():
            return np.arange(n), np.zeros(n, np.int64)
        starts = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]]))
        lengths = np.diff(np.concatenate([starts, [n]]))
        wide = lengths * times[starts]
        run = np.repeat(np.arange(len(starts)), wide)
        offset = np.arange(int(wide.sum())) - np.repeat(np.cumsum(wide) - wide, wide)
        return starts[run] + offset % lengths[run], offset // lengths[run]

    def parameter(self, layer: Tensor, dim: int) -> tuple[Tensor, Tensor] | None:
        """Rearrange a parameter along one dimension.

        Args:
            layer: Its class labels there, varying along `dim` and possibly in blocks along dimension 0.
            dim: The dimension.

        Returns:
            Indices and places, (n,) or (blocks, n) each; None when nothing changes.
        """
        labels = layer.numpy()
        if not (self._first[labels] >= 0).any():
            return None
        vary = varying(layer)
        if dim not in vary:
            raise StructureError("members that are whole groups of a parameter would change")
        if len(vary) == 1:
            index, slot = self.place(labels.reshape(-1))
        else:
            if set(vary) != {0, dim}:
                raise StructureError(f"labels vary along dimensions {vary} of a parameter at once")
            rows = _blocks(labels.reshape(labels.shape[0], labels.shape[dim]))
            placed = [self.place(np.ascontiguousarray(row)) for row in rows]
            if len({len(i) for i, _ in placed}) > 1:
                raise StructureError("the blocks of a grouped parameter would get different sizes")
            index, slot = np.stack([i for i, _ in placed]), np.stack([s for _, s in placed])
        size = labels.shape[dim]
        if index.shape[-1] == size and (index == np.arange(size)).all():
            return None
        return torch.from_numpy(index), torch.from_numpy(slot)

    @cached_property
    def shares(self) -> Ints:
        """(copies,) how many copies of the same member there are."""
        return self.times[self.source]


def _blocks(rows: Ints) -> Ints:
    """One row of every block of equal rows; all blocks have the same number of rows."""
    change = np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1
    length = int(np.gcd.reduce([len(rows), *change.tolist()]))
    return rows[::length]


def interchangeable(net: Structure) -> Tensor:
    """Which members of a cell may change places: those that occur in the same tensors equally often.

    What lies in the first half of a tensor that a slice cuts can change places within that half only.

    Args:
        net: The structure.

    Returns:
        (count,) int64; members of a cell may change places iff they have the same number here.
    """
    rng = np.random.default_rng(20261125)
    signature = np.zeros(net.count, np.int64)
    seen: dict[int, Tensor] = {}
    for run in net.runs:
        for layers in run.table:
            for layer in layers:
                if id(layer) not in seen:
                    seen[id(layer)] = layer
                    flat = net.sizes.classes(layer).reshape(-1).numpy()
                    np.add.at(signature, flat, rng.integers(-(2**62), 2**62))
    for axis in net.axes:
        if axis.coupling is not None:  # its parts lie in one row of the table
            for part in axis.parts:
                signature[part.numpy()] += rng.integers(-(2**62), 2**62)
    return torch.from_numpy(signature)


def sort_by(net: Structure, scores: Tensor, axes: Iterable[str] | None = None) -> IndexMap:
    """The permutation that puts the most important members of every cell first.

    Afterwards the first k members of an axis are its k best: what an elastic width keeps. Members that
    cannot change places are sorted among their like.

    Args:
        net: The structure.
        scores: (count,) a score for every class; larger is more important.
        axes: Names of the axes to sort; all that can change when None.
    """
    if scores.shape != (net.count,):
        raise UsageError(f"the scores have shape {tuple(scores.shape)}, the network has {net.count} classes")
    kinds = interchangeable(net)
    wanted = None if axes is None else set(axes)
    tables = {}
    for axis in net.prunable:
        if wanted is None or axis.name in wanted:
            table = torch.stack([_sorted(scores[cell], kinds[cell]) for cell in axis.cells])
            if not _identity(table, width(axis)):
                tables[axis.name] = table
    missing = set() if wanted is None else wanted - {axis.name for axis in net.prunable}
    if missing:
        raise UsageError(f"no axis that can change is called {sorted(missing)[0]!r}")
    return IndexMap(tables)


def _sorted(scores: Tensor, kinds: Tensor) -> Tensor:
    best = torch.argsort(scores, descending=True, stable=True)
    if bool((kinds == kinds[0]).all()):
        return best
    table = torch.empty_like(best)
    for kind in kinds.unique():
        table[(kinds == kind).nonzero().reshape(-1)] = best[kinds[best] == kind]
    return table


def draw_permutation(net: Structure, seed: int = 0) -> IndexMap:
    """A random permutation of every axis that can change.

    Args:
        net: The structure.
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    return sort_by(net, torch.rand(net.count, generator=generator))
