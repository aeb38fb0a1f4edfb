"""Parts of an axis that must shrink together though not alike: integer counts under linear constraints.

Blocks (equal splits, groups, shuffles) relate the counts of the parts of an axis: n(row i) = n(row j), where
a row may consist of several parts. The parts then have no common count. What users choose is still one
number, a *level*: level k of L keeps of every part as near to the share k / L as whole numbers under the
constraints can be, and of every dimension no more than level k + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from netwright.structure.solve import Axis

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass
class Coupling:
    """Counts n of P parts with low <= A n <= high, 0 <= n <= sizes, and sums of `groups` not below `floor`.

    Attributes:
        sizes: (P,) members of every part; n = sizes meets the constraints.
        matrix: (R, P) A.
        low: (R,) bounds; equal to `high` for an equation.
        high: (R,) bounds.
        groups: (G, P) parts that lie together on one dimension.
        floor: (G,) how many of them must stay.
        levels: Number of levels L.
    """

    sizes: Ints
    matrix: Ints
    low: Ints
    high: Ints
    groups: NDArray[np.bool_]
    floor: Ints
    levels: int
    _solved: dict[int, Ints] = field(default_factory=dict, repr=False)

    @cached_property
    def least(self) -> Ints:
        """(P,) the smallest admissible counts, or the full ones when nothing can go."""
        p = len(self.sizes)
        found = self._solve(np.ones(p), np.zeros((0, p)), np.zeros(0), np.zeros(0))
        return self.sizes if found is None else found

    def at(self, level: int) -> Ints:
        """(P,) counts of a level; level `levels` is full.

        Levels are solved for when asked, each between two that lie half as far apart as the next ones, so
        that the answer does not depend on what was asked before.

        Args:
            level: From 0 to `levels`.
        """
        if not self._solved:
            self._solved |= {0: self.least, self.levels: self.sizes}
        low, high = 0, self.levels
        while level not in self._solved:
            middle = (low + high) // 2
            if middle not in self._solved:
                self._solved[middle] = self._between(middle, self._solved[low], self._solved[high])
            low, high = (middle, high) if middle <= level else (low, middle)
        return self._solved[level]

    def table(self) -> Ints:
        """(L, P) counts of all levels from 1; row k - 1 is level k."""
        return np.stack([self.at(k) for k in range(1, self.levels + 1)])

    def _between(self, level: int, least: Ints, most: Ints) -> Ints:
        """The counts nearest to a level's share, with dimensions between those of `least` and `most`."""
        if (least == most).all():
            return least
        p, share = len(self.sizes), level / self.levels
        sums = self.groups.astype(np.float64)
        bottom, top, full = sums @ least, sums @ most, sums @ self.sizes
        if self._tight:  # the size of one dimension settles all but remainders
            widest = int(full.argmax())
            low, high = bottom.copy(), top.copy()
            fixed = np.floor(share * full[widest] + 0.5)
            low[widest] = high[widest] = min(max(fixed, bottom[widest]), top[widest])
            found = self._solve(np.zeros(p), sums, low, high)
            if found is not None:
                return found
        # |n - wanted| for every part and |sum - wanted| for every dimension, as variables d >= ±(...)
        wide = np.vstack([np.eye(p), sums])
        wanted = share * (wide @ self.sizes)
        extra = len(wide)
        own = np.eye(extra)
        system = np.block([[sums, np.zeros((len(sums), extra))], [wide, -own], [wide, own]])
        cost = np.concatenate([np.zeros(p), np.ones(p), np.full(extra - p, 2.0)])
        free = np.full(extra, np.inf)
        found = self._solve(
            cost, system, np.concatenate([bottom, -free, wanted]), np.concatenate([top, wanted, free])
        )
        return least if found is None else found

    @cached_property
    def _tight(self) -> bool:
        return int(np.linalg.matrix_rank(self.matrix)) + 1 >= len(self.sizes)

    def _solve(self, cost: Floats, system: Floats, low: Floats, high: Floats) -> Ints | None:
        """Minimise cost @ (n, d) under the constraints and low <= system @ (n, d) <= high, d >= 0."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csc_array

        p, extra = len(self.sizes), len(cost) - len(self.sizes)
        own = np.vstack([self.matrix, self.groups])
        rows = np.vstack([np.hstack([own, np.zeros((len(own), extra))]), system])
        lower = np.concatenate([self.low, self.floor, low])
        upper = np.concatenate([self.high, np.full(len(self.groups), np.inf), high])
        result = milp(
            cost,
            integrality=np.concatenate([np.ones(p), np.zeros(extra)]),
            bounds=Bounds(np.zeros(p + extra), np.concatenate([self.sizes, np.full(extra, np.inf)])),
            constraints=LinearConstraint(csc_array(rows), lower, upper),
            options={"mip_rel_gap": 0.0},
        )
        return None if result.x is None else np.rint(result.x[:p]).astype(np.int64)

    def broken(self, counts: Ints) -> str | None:
        """The first constraint that counts (P,) do not meet, in words; None when they meet all."""
        values = self.matrix @ counts
        wrong = np.flatnonzero((values < self.low) | (values > self.high))
        if not len(wrong):
            return None
        r = int(wrong[0])
        left, right = np.flatnonzero(self.matrix[r] > 0), np.flatnonzero(self.matrix[r] < 0)
        sides = [_sum(np.abs(self.matrix[r, side]), side, counts) for side in (left, right)]
        low, high = int(self.low[r]), int(self.high[r])
        words = f"differ by {low}" if low == high else f"differ by {low} to {high}"
        return f"{sides[0]} and {sides[1]} should " + ("be equal" if low == high == 0 else words)

    def empty(self, counts: Ints) -> bool:
        """Whether too few would stay of some dimension under counts (P,)."""
        return bool((self.groups @ counts < self.floor).any())


def _sum(factors: Ints, parts: Ints, counts: Ints) -> str:
    """A sum of counts in words, such as "29 of part 3 + 2 x 7 of part 4"."""
    terms = [
        f"{f} x {counts[p]} of part {p}" if f > 1 else f"{counts[p]} of part {p}"
        for f, p in zip(factors.tolist(), parts.tolist(), strict=True)
    ]
    more = " + ..." if len(terms) > 3 else ""
    return (" + ".join(terms[:3]) or "0") + more


class Parts:
    """The parts of several axes, and how many members of each stay at given levels.

    Args:
        axes: A of them.

    Attributes:
        classes: (T,) the members of all parts, axis by axis and part by part.
        part: (T,) the part of each.
        axis: (P,) the axis of each part.
        sizes: (P,) members of each part.
        levels: (A,) levels of each axis.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        lengths = [axis.lengths for axis in axes]
        none = torch.zeros(0, dtype=torch.int64)
        self.classes = torch.cat([none, *[axis.cells.reshape(-1) for axis in axes]])
        self.sizes = torch.cat([none, *lengths])
        self.part = torch.arange(len(self.sizes)).repeat_interleave(self.sizes)
        several = torch.tensor([len(n) for n in lengths], dtype=torch.int64)
        self.axis = torch.arange(len(axes)).repeat_interleave(several)
        self.levels = torch.tensor([axis.size for axis in axes], dtype=torch.int64)
        first = (several.cumsum(0) - several).tolist()
        #: Number, first part and coupling of the axes whose parts differ.
        self.coupled = [
            (a, first[a], axis.coupling) for a, axis in enumerate(axes) if axis.coupling is not None
        ]

    def counts(self, levels: Tensor) -> Tensor:
        """Members of every part that stay.

        Args:
            levels: (..., A), each from 1.

        Returns:
            (..., P).
        """
        out = levels[..., self.axis]
        for a, first, coupling in self.coupled:
            asked, place = levels[..., a].unique(return_inverse=True)
            table = torch.from_numpy(np.stack([coupling.at(k) for k in asked.tolist()]))
            out[..., first : first + table.shape[1]] = table[place]
        return out

    def first(self, levels: Tensor, count: int) -> Tensor:
        """Keep the first members of every part.

        Args:
            levels: (..., A), each from 1.
            count: Classes of the network.

        Returns:
            (..., count) bool; what lies on none of the axes stays.
        """
        place = torch.arange(len(self.classes)) - (self.sizes.cumsum(0) - self.sizes)[self.part]
        keep = torch.ones((*levels.shape[:-1], count), dtype=torch.bool)
        keep[..., self.classes] = place < self.counts(levels)[..., self.part]
        return keep
