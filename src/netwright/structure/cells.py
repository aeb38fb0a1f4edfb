"""Cells: classes that all blocks treat alike, and what the blocks say of the numbers that stay of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netwright.structure.blocks import Coupling

if TYPE_CHECKING:
    from netwright.structure.record import Node
    from netwright.structure.solve import Partition

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """A block in terms of classes.

    Attributes:
        matrix: (rows, n) classes. The rows keep equally many.
        node: The operator call that made the block.
        shuffled: The rows are interleaved, first of each, second of each, and so on: of every prefix of what
            results, the rows keep equally many up to the remainder, the first rows one more.
    """

    matrix: Ints
    node: Node | None
    shuffled: bool = False


@dataclass(frozen=True)
class Row:
    """low <= sum of coefficient * count over some cells <= high.

    Attributes:
        terms: Cell -> coefficient.
        low: Bound.
        high: Bound.
        size: Members of the block's row, frozen ones included.
        fixed: Whether frozen members take part.
        node: The operator call.
        sides: What it compares: cells of either side, none of which may lose all.
        shuffled: Whether the block interleaves.
    """

    terms: dict[int, int]
    low: int
    high: int
    size: int
    fixed: bool
    node: Node | None
    sides: tuple[tuple[int, ...], ...] = ()
    shuffled: bool = False


class Cells:
    """The cells of a partition.

    Args:
        partition: The classes, and which of them are frozen.
        blocks: What constrains them, in the order in which the network comes by.
        signature: (classes,) hash of the parameter axes that each lies on, 0 for none.
        rng: Where the random hashes come from.

    Attributes:
        sizes: (cells,) members.
    """

    def __init__(
        self, partition: Partition, blocks: list[Rows], signature: Ints, rng: np.random.Generator
    ) -> None:
        self._frozen, self._rng = partition.frozen, rng
        key = signature.copy()
        later = np.zeros_like(key)  # a hash of what becomes of a class after the present block
        cuts: dict[int, Ints] = {}
        for number in reversed(range(len(blocks))):
            block = blocks[number]
            matrix = block.matrix
            if block.shuffled:
                merged = matrix.T.reshape(-1)
                change = np.flatnonzero(np.diff(later[merged])) + 1
                cuts[number] = change
                stretch = np.searchsorted(change, np.arange(len(merged)), side="right")
                row = np.tile(np.arange(len(matrix)), matrix.shape[1])
                tokens = self._tokens((len(change) + 1) * len(matrix))
                np.add.at(key, merged, tokens[stretch * len(matrix) + row])
                continue
            tokens = np.repeat(self._tokens(len(matrix)), matrix.shape[1])
            for target in (key, later):
                np.add.at(target, matrix.reshape(-1), tokens)
        live = np.flatnonzero(~partition.frozen & (signature != 0))
        _, cell = np.unique(key[live], return_inverse=True)
        self.sizes: Ints = np.bincount(cell) if len(cell) else np.zeros(0, np.int64)
        self._of = np.full(partition.count, -1, np.int64)
        self._of[live] = cell
        self._group = np.zeros(len(self.sizes), np.int64)
        self._group[cell[::-1]] = signature[live[::-1]]
        ordered = live[np.argsort(cell, kind="stable")]
        self._members = np.split(ordered, np.cumsum(self.sizes)[:-1]) if len(self.sizes) else []
        self._rows: list[Row] = []
        self._pairs: list[list[tuple[int, int]] | None] = []  # for every row; None where cells do not pair up
        for number, block in enumerate(blocks):
            if block.shuffled:
                self._interleaved(block, cuts[number])
            else:
                self._equal(block)

    def members(self, cell: int, unit: Ints) -> Ints:
        """The classes of a cell in the order of their units.

        Args:
            cell: Its number.
            unit: (classes,) first unit of every class.
        """
        found = self._members[cell]
        return found[np.argsort(unit[found])]

    def bundles(self) -> Iterator[tuple[list[int], list[Row]]]:
        """Cells whose counts depend on one another, and how; no rows where all keep the same count."""
        whole = _Sets(len(self.sizes))
        for row in self._rows:
            whole.join(list(row.terms))
        rows: dict[int, list[Row]] = {}
        for row, pairs in zip(self._rows, self._pairs, strict=True):
            if pairs is None:
                rows[whole.find(next(iter(row.terms)))] = []
        alike = _Sets(len(self.sizes))
        for row, pairs in zip(self._rows, self._pairs, strict=True):
            root = whole.find(next(iter(row.terms)))
            if root in rows:
                rows[root].append(row)
                alike.join(list(row.terms))
            else:
                for pair in pairs or []:
                    alike.join(list(pair))
        bundles: dict[int, list[int]] = {}
        for i in range(len(self.sizes)):
            bundles.setdefault(alike.find(i), []).append(i)
        for bundle in bundles.values():
            yield bundle, rows.get(whole.find(bundle[0]), [])

    def _tokens(self, count: int) -> Ints:
        return self._rng.integers(-(2**62), 2**62, count)

    def _count(self, classes: Ints) -> tuple[dict[int, int], int]:
        """Of some classes, each maybe several times: coefficient of every cell in the number that stays, and
        a constant.
        """
        free = classes[~self._frozen[classes]]
        cells, entries = np.unique(self._of[free], return_counts=True)
        lost = int(entries[cells < 0].sum())  # classes on no parameter always stay
        terms = {int(c): int(k) // int(self.sizes[c]) for c, k in zip(cells, entries, strict=True) if c >= 0}
        return terms, len(classes) - len(free) + lost

    def _counts(self, matrix: Ints) -> list[tuple[dict[int, int], int]]:
        """`_count` of every row."""
        free, cell = ~self._frozen[matrix], self._of[matrix]
        lost = free & (cell < 0)
        constants = (~free | lost).sum(axis=1).tolist()
        cells = len(self.sizes)
        place = cell + np.arange(len(matrix))[:, None] * cells
        found, entries = np.unique(place[free & ~lost], return_counts=True)
        terms: list[dict[int, int]] = [{} for _ in matrix]
        row, own = np.divmod(found, max(cells, 1))
        for r, c, k in zip(row.tolist(), own.tolist(), (entries // self.sizes[own]).tolist(), strict=True):
            terms[r][c] = k
        return list(zip(terms, constants, strict=True))

    def _equal(self, block: Rows) -> None:
        (first, constant), *rest = self._counts(block.matrix)
        size = block.matrix.shape[1]
        for terms, more in rest:
            left, right = _apart(first, terms)
            if not left and not right:
                continue
            bound = more - constant
            difference = left | {c: -k for c, k in right.items()}
            sides = tuple(tuple(s) for s, k in ((first, constant), (terms, more)) if not k)
            self._rows.append(Row(difference, bound, bound, size, bool(constant or more), block.node, sides))
            self._pairs.append(self._paired(left, right) if constant == more else None)

    def _paired(self, left: dict[int, int], right: dict[int, int]) -> list[tuple[int, int]] | None:
        """The cells of two rows in pairs, equal sizes with equal sizes; None when they do not pair up."""
        a = sorted((int(self.sizes[c]), k, int(self._group[c]), c) for c, k in left.items())
        b = sorted((int(self.sizes[c]), k, int(self._group[c]), c) for c, k in right.items())
        if [x[:2] for x in a] != [x[:2] for x in b]:
            return None
        return [(x[3], y[3]) for x, y in zip(a, b, strict=True)]

    def _interleaved(self, block: Rows, cuts: Ints) -> None:
        """At every cut of the merged sequence the rows gave equally many, or the first rows one more."""
        rows, n = block.matrix.shape
        for cut in [*cuts.tolist(), rows * n]:
            more = int(cut < rows * n)
            ends = [(cut - j + rows - 1) // rows for j in range(rows)]
            counts = [self._count(block.matrix[j, : ends[j]]) for j in range(rows)]
            pairs = [(j, j + 1) for j in range(rows - 1)] + ([(0, rows - 1)] if rows > 2 else [])
            for a, b in pairs:
                left, right = _apart(counts[a][0], counts[b][0])
                bound = counts[b][1] - counts[a][1]
                if left or right:
                    fixed = bool(counts[a][1] or counts[b][1])
                    terms = left | {c: -k for c, k in right.items()}
                    self._rows.append(Row(terms, bound, bound + more, n, fixed, block.node, shuffled=True))
                    self._pairs.append(None)


class _Sets:
    """Disjoint sets of numbers."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, members: list[int]) -> None:
        for i in members[1:]:
            self._parent[self.find(i)] = self.find(members[0])


def _apart(left: dict[int, int], right: dict[int, int]) -> tuple[dict[int, int], dict[int, int]]:
    """What is left over on either side of left = right."""
    over = {c: k - right.get(c, 0) for c, k in left.items()} | {
        c: -k for c, k in right.items() if c not in left
    }
    return {c: k for c, k in over.items() if k > 0}, {c: -k for c, k in over.items() if k < 0}


def couple(bundle: list[int], sizes: Ints, rows: list[Row], together: list[NDArray[np.bool_]]) -> Coupling:
    """The constraints of some cells as arrays.

    Args:
        bundle: Cells, in the order of the parts.
        sizes: (cells,) members of all cells.
        rows: What relates them.
        together: Parts (P,) that lie on one dimension of a parameter.
    """
    place = {c: i for i, c in enumerate(bundle)}
    distinct: dict[Any, Row] = {(tuple(sorted(r.terms.items())), r.low, r.high): r for r in rows}
    kept = list(distinct.values())
    matrix = np.zeros((len(kept), len(bundle)), np.int64)
    for i, row in enumerate(kept):
        for c, k in row.terms.items():
            matrix[i, place[c]] = k
    low = np.array([r.low for r in kept], np.int64)
    high = np.array([r.high for r in kept], np.int64)
    own = sizes[bundle]
    levels = max(1, min(max(r.size for r in kept), int(own.sum())))
    groups = {g.tobytes(): g for g in together}
    for side in {side for row in rows for side in row.sides}:
        here = np.zeros(len(bundle), np.bool_)
        here[[place[c] for c in side]] = True
        groups[here.tobytes()] = here
    lines = np.array(list(groups.values()), np.bool_).reshape(-1, len(bundle))
    # A dimension of size 1 has no units, and what has no units cannot be told apart when it is interleaved.
    floor = np.minimum(lines @ own, 2 if any(row.shuffled for row in rows) else 1)
    return Coupling(own, matrix, low, high, lines, floor, levels)
