"""Coarse-to-fine selection: a grid of network-wide settings, then mutations of the best of it."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.dim import Dim, Finite
from netwright.nas.dims import Float
from netwright.nas.history import History, Judged, best_first
from netwright.nas.space import SearchSpace
from netwright.nas.strategies.base import Strategy

#: Draws of a mutation, and then of any choice, that may be known or too expensive.
_TRIES = 1000
#: Pattern of names, or several -> shares of the range of each of those dims, from 0 to 1.
Grid = Mapping[str | tuple[str, ...], Sequence[float]]


class CoarseToFine(Strategy):
    """First a coarse grid in which all dims of a kind move together, then mutations of its best points.

    J. Yu, P. Jin, H. Liu et al., BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models,
    2020, section 4: few resolutions, a handful of network-wide multipliers; then every gene of the best
    skeleton of a budget is mutated with a small probability.

    Args:
        grid: Which dims move together, and where to: 0 is the first value of each, 1 the last. Every dim
            belongs to the first pattern that fits; what none fits stays at the first value. None: dims whose
            names differ in numbers alone move together, over (0, 0.5, 1).
        most: Points of the grid; more are drawn from.
        skeletons: How many of the best points are mutated, in turn; one of each budget where there are some.
        p: Probability that a mutation changes a dim.
        cost: Of a choice, for the budgets.
        budgets: For each the best point that costs no more is mutated, into choices that cost no more.
        seed: Of the draw of points.
    """

    def __init__(
        self,
        grid: Grid | None = None,
        *,
        most: int = 1000,
        skeletons: int = 1,
        p: float = 0.1,
        cost: Callable[[Choice], float] | None = None,
        budgets: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        if most < 1 or skeletons < 1:
            raise UsageError(f"most={most}, skeletons={skeletons} leave nothing to mutate", "give 1 or more")
        if bool(budgets) != (cost is not None):
            raise UsageError("budgets and their cost go together", "give both, or neither")
        self.grid, self.most, self.skeletons, self.p = grid, most, skeletons, p
        self.cost, self.budgets, self.seed = cost, tuple(budgets), seed

    def begin(self, space: SearchSpace) -> None:
        """Lay the grid over a space."""
        super().begin(space)
        self.coarse = self._points(space)

    def _points(self, space: SearchSpace) -> list[Choice]:
        grid = _families(space) if self.grid is None else self.grid
        groups = [((names,) if isinstance(names, str) else names, shares) for names, shares in grid.items()]
        belongs = {
            dim.name: next((i for i, (names, _) in enumerate(groups) if _fits(dim.name, names)), None)
            for dim in space.free
        }
        for i, (names, shares) in enumerate(groups):
            if i not in belongs.values() or not shares or not all(0 <= s <= 1 for s in shares):
                raise UsageError(f"the grid of {names} fits nothing", "give names of dims, and shares 0 to 1")
        size = math.prod(len(shares) for _, shares in groups)
        picked = np.random.default_rng(self.seed).permutation(size) if size > self.most else range(size)
        points: dict[Choice, None] = {}
        for number in picked:
            at = np.unravel_index(int(number), [len(shares) for _, shares in groups]) if groups else ()
            shares = [group[1][int(k)] for group, k in zip(groups, at, strict=True)]

            def pick(dim: Dim, shares: Sequence[float] = shares) -> Any:
                group = belongs[dim.name]
                return dim.default if group is None else _at_share(dim, shares[group])

            if (choice := space.build(pick)) in space:
                points[choice] = None
            if len(points) == self.most:
                break
        return list(points)

    def propose(self, history: History) -> Choice:
        """A point of the grid or, after the last, a mutation of one of the best."""
        if history.number < len(self.coarse):
            return self.coarse[history.number]
        skeletons = self._skeletons(history.judged[: len(self.coarse)])
        if not skeletons:
            return history.unseen(lambda: history.space.sample(history.rng))
        skeleton, budget = skeletons[(history.number - len(self.coarse)) % len(skeletons)]

        space, rng = history.space, history.rng
        for draw in (lambda: space.mutate(skeleton, rng, self.p), lambda: space.sample(rng)):
            for _ in range(_TRIES):
                choice = draw()
                if choice not in history.seen and (self.cost is None or self.cost(choice) <= budget):
                    return choice
        return skeleton

    def _skeletons(self, judged: Sequence[Judged]) -> list[tuple[Choice, float]]:
        """What is mutated, each with the most it may cost."""
        ordered = best_first(judged)
        if self.cost is None:
            return [(j.choice, math.inf) for j in ordered[: self.skeletons]]
        costs = [self.cost(j.choice) for j in ordered]
        found = []
        for budget in self.budgets:
            inside = [j for j, cost in zip(ordered, costs, strict=True) if cost <= budget]
            found += [(j.choice, budget) for j in inside[: self.skeletons]]
        return found


def _families(space: SearchSpace) -> Grid:
    """Names that differ in numbers alone, each with a low, a middle and a high setting."""
    kinds = dict.fromkeys(_kind(d.name) for d in space.free)
    return {tuple(d.name for d in space.free if _kind(d.name) == kind): (0, 0.5, 1) for kind in kinds}


def _kind(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(name == p or fnmatch.fnmatchcase(name, p) for p in patterns)


def _at_share(dim: Dim, share: float) -> Any:
    """The value at a share of the range."""
    if isinstance(dim, Float):
        return dim.at_unit(share)
    assert isinstance(dim, Finite)
    return dim.at(round(share * (dim.count - 1)))
