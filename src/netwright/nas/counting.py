"""Counting choices, and drawing them with exact probabilities, by dynamic programming.

Dims are placed one after the other; a state is what later dims have to know of those before: of a dim that
only conditions read, which of them hold. For every state the counts of what can still follow are kept by
cost, so a choice inside a window of costs is drawn by its number, and all are as likely.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.conditions import Predicate
from netwright.nas.dim import Dim, Finite
from netwright.nas.dims import Tied

if TYPE_CHECKING:
    from netwright.nas.space import SearchSpace

#: More states of a dim than this are refused, and more different sums of costs.
MOST_STATES = 100_000
MOST_COSTS = 200_000
#: The class of a dim that does not matter.
_INACTIVE = -1
#: Class of every dim that later dims have to know, in the order of the dims.
State = tuple[int, ...]


class TooManyCosts(UsageError):  # noqa: N818 - it is one
    """The costs have more different sums than can be kept."""


@dataclass(frozen=True)
class Factor:
    """A term of a cost; it counts where all of its dims matter.

    Attributes:
        names: Of the dims.
        cost: Their values -> a whole number.
    """

    names: tuple[str, ...]
    cost: Callable[[tuple[Any, ...]], int]


@dataclass(frozen=True)
class _Run:
    """Values of a dim that follow each other and that nothing tells apart: their class and cost."""

    first: int
    number: int
    kind: int
    cost: int


@dataclass(frozen=True)
class _Move:
    """A run of a dim, or nothing where it does not matter, and where that leads."""

    run: _Run | None
    number: int
    cost: int
    then: State


@dataclass(frozen=True)
class _Tail:
    """What can follow: rising costs, and how many choices have one of the first i of them."""

    costs: Sequence[int] | np.ndarray
    below: Sequence[int] | np.ndarray

    def within(self, lo: float, hi: float) -> int:
        """How many cost from lo to hi."""
        return int(self.below[bisect_right(self.costs, hi)]) - int(self.below[bisect_left(self.costs, lo)])


def random_below(rng: np.random.Generator, bound: int) -> int:
    """A whole number from 0 to ``bound - 1``, however large, all as likely."""
    if bound < 2**63:
        return int(rng.integers(bound))
    size = (bound - 1).bit_length()
    while True:
        number = int.from_bytes(rng.bytes((size + 7) // 8), "big") >> (-size % 8)
        if number < bound:
            return number


def elimination_order(
    depends: Mapping[str, Sequence[str]], together: Iterable[Sequence[str]]
) -> tuple[str, ...]:
    """Names in an order that keeps few dims open: after what they depend on, next to what they go with.

    Args:
        depends: Name -> names that come before it.
        together: Groups of names that are priced together.
    """
    users: dict[str, set[str]] = {name: set() for name in depends}
    for name, parents in depends.items():
        for parent in parents:
            users[parent].add(name)
    for group in together:
        for name in group:
            users[name] |= set(group) - {name}
    placed: dict[str, None] = {}
    waiting = list(depends)
    while waiting:

        def opened(name: str) -> int:
            closed = sum(users[other] == {name} for other in placed)
            return bool(users[name] - placed.keys()) - closed

        ready = (n for n in waiting if all(parent in placed for parent in depends[n]))
        name = min(ready, key=opened)
        waiting.remove(name)
        for other in placed:
            users[other].discard(name)
        users[name] -= placed.keys()
        placed[name] = None
    return tuple(placed)


class Counter:
    """Numbers the canonical choices of a space, all or those inside a window of costs.

    Args:
        space: Whose.
        factors: Terms of the cost.
        lo: No choice of a lower cost will be asked for.
        hi: No choice of a higher cost will be asked for.
        ends_only: Whether only the least and the greatest cost will be asked for.

    Raises:
        UsageError: if a dim cannot be counted, or too many dims are entangled.
        TooManyCosts: if the costs have too many different sums.
    """

    def __init__(
        self,
        space: SearchSpace,
        factors: Sequence[Factor],
        lo: float = -math.inf,
        hi: float = math.inf,
        *,
        ends_only: bool = False,
    ) -> None:
        for dim in space.free:
            if dim.count is None:
                raise UsageError(
                    f"the choices cannot be counted: {dim.name!r} is a Float", "use Ordinal or Int"
                )
        self._space, self._lo, self._hi = space, lo, hi
        several = [f for f in factors if len(f.names) > 1 or isinstance(space.dim(f.names[0]), Tied)]
        singles = [f for f in factors if f not in several]
        names = elimination_order(space.depends, [f.names for f in several])
        self._dims = [space.dim(name) for name in names]
        self._runs = self._grouped(several, singles)
        level = {name: i for i, name in enumerate(names)}
        self._due: list[list[Factor]] = [[] for _ in names]
        for factor in several:
            self._due[max(level[name] for name in factor.names)].append(factor)
        self._open = self._opened(names, level, several)
        self._moves, self._reach = self._forward()
        if not ends_only:
            self._tails = self._backward()

    # What later dims have to know.

    def _grouped(self, several: Sequence[Factor], singles: Sequence[Factor]) -> dict[str, list[_Run]]:
        space = self._space
        told_apart = {name for factor in several for name in factor.names}
        for dim in space.dims:
            if isinstance(dim, Tied):
                told_apart.add(dim.to)
            if isinstance(dim.condition, Predicate):
                told_apart.update(space.depends[dim.name])
        atoms = [atom for dim in space.dims if dim.condition for atom in dim.condition.atoms()]
        runs: dict[str, list[_Run]] = {}
        for dim in space.free:
            assert isinstance(dim, Finite)
            read = [atom for atom in atoms if atom.dim == dim.name]
            prices = [f for f in singles if f.names == (dim.name,)]
            if not read and not prices and dim.name not in told_apart:
                runs[dim.name] = [_Run(0, dim.count, 0, 0)]
                continue
            if dim.count > MOST_STATES:
                raise UsageError(f"{dim.name!r} has {dim.count} values, too many to look at each one")
            runs[dim.name] = []
            kinds: dict[Any, int] = {}
            for index in range(dim.count):
                value = dim.at(index)
                sign = index if dim.name in told_apart else tuple(atom.admits(value) for atom in read)
                kind = kinds.setdefault(sign, len(kinds))
                cost = sum(f.cost((value,)) for f in prices)
                last = runs[dim.name][-1] if runs[dim.name] else None
                if last and (last.kind, last.cost) == (kind, cost):
                    runs[dim.name][-1] = _Run(last.first, last.number + 1, kind, cost)
                else:
                    runs[dim.name].append(_Run(index, 1, kind, cost))
        return runs

    def _opened(
        self, names: Sequence[str], level: Mapping[str, int], several: Sequence[Factor]
    ) -> list[list[str]]:
        """Before every level, the names that it or a later one has to know."""
        last = dict.fromkeys(names, -1)
        for name in names:
            for parent in self._space.depends[name]:
                last[parent] = max(last[parent], level[name])
        for factor in several:
            due = max(level[name] for name in factor.names)
            for name in factor.names:
                last[name] = max(last[name], due if level[name] < due else -1)
        return [[n for n in names[:i] if last[n] >= i] for i in range(len(names) + 1)]

    def _known(self, i: int, state: State) -> tuple[dict[str, Any], set[str]]:
        """Values, one for each class, and names of the active dims of a state."""
        values: dict[str, Any] = {}
        active = set()
        for name, kind in zip(self._open[i], state, strict=True):
            values[name] = self._value(name, kind)
            if kind != _INACTIVE:
                active.add(name)
        return values, active

    def _value(self, name: str, kind: int) -> Any:
        dim = self._space.dim(name)
        while isinstance(dim, Tied):
            dim = self._space.dim(dim.to)
        assert isinstance(dim, Finite)
        if kind == _INACTIVE:
            return dim.default
        return dim.at(next(run.first for run in self._runs[dim.name] if run.kind == kind))

    # Which states follow each other.

    def _forward(self) -> tuple[list[dict[State, list[_Move]]], list[dict[State, tuple[int, int]]]]:
        moves: list[dict[State, list[_Move]]] = []
        reach: list[dict[State, tuple[int, int]]] = [{(): (0, 0)}]
        for i, dim in enumerate(self._dims):
            here: dict[State, list[_Move]] = {}
            then: dict[State, tuple[int, int]] = {}
            for state, (least, most) in reach[i].items():
                here[state] = self._moves_from(i, dim, state)
                for move in here[state]:
                    a, b = then.get(move.then, (least + move.cost, most + move.cost))
                    then[move.then] = (min(a, least + move.cost), max(b, most + move.cost))
            if len(then) > MOST_STATES:
                raise UsageError(
                    f"too many dims have to be known at once to count choices ({len(then)} states)",
                    "write conditions as data, not functions, and costs of fewer dims at a time",
                )
            moves.append(here)
            reach.append(then)
        return moves, reach

    def _moves_from(self, i: int, dim: Dim, state: State) -> list[_Move]:
        values, active = self._known(i, state)
        kinds = dict(zip(self._open[i], state, strict=True))
        options: list[tuple[_Run | None, int]]
        if not self._space.matters(dim, values, active):
            options = [(None, _INACTIVE)]
        elif isinstance(dim, Tied):
            options = [(None, kinds[dim.to])]
        else:
            options = [(run, run.kind) for run in self._runs[dim.name]]
        moves = []
        for run, kind in options:
            kinds[dim.name], values[dim.name] = kind, self._value(dim.name, kind)
            cost = run.cost if run else 0
            for factor in self._due[i]:
                if all(kinds[name] != _INACTIVE for name in factor.names):
                    cost += factor.cost(tuple(values[name] for name in factor.names))
            then = tuple(kinds[name] for name in self._open[i + 1])
            moves.append(_Move(run, run.number if run else 1, cost, then))
        return moves

    def _backward(self) -> list[dict[State, _Tail]]:
        exact = math.prod(dim.count or 1 for dim in self._dims) >= 2**62
        kind = object if exact else np.int64
        one = np.ones(1, dtype=kind)
        counts: dict[State, tuple[np.ndarray, np.ndarray]] = {(): (np.zeros(1, dtype=np.int64), one)}
        tails: list[dict[State, _Tail]] = [{(): _Tail([0], [0, 1])}]
        for i in reversed(range(len(self._dims))):
            before = {}
            for state, moves in self._moves[i].items():
                least, most = self._reach[i][state]
                parts = [(counts[m.then][0] + m.cost, counts[m.then][1] * m.number) for m in moves]
                before[state] = _merged(parts, self._lo - most, self._hi - least)
            counts = before
            if sum(len(costs) for costs, _ in counts.values()) > MOST_COSTS:
                raise TooManyCosts("the costs have too many different sums", "give them in a coarser unit")
            tails.append({s: _tail(*pair) for s, pair in counts.items()})
        return tails[::-1]

    # Numbers and choices.

    def costs(self) -> tuple[int, int]:
        """The least and the greatest cost in the space."""
        return self._reach[-1][()]

    @property
    def kept(self) -> Sequence[int] | np.ndarray:
        """The costs from lo to hi that choices have, rising."""
        return self._tails[0][()].costs

    def count(self, lo: float = -math.inf, hi: float = math.inf) -> int:
        """How many choices cost from lo to hi."""
        return self._tails[0][()].within(lo, hi)

    def at(self, number: int, lo: float = -math.inf, hi: float = math.inf) -> Choice:
        """One of the choices inside a window of costs.

        Args:
            number: Which, from 0 to ``count(lo, hi) - 1``, in lexicographic order.
            lo: The least cost.
            hi: The greatest cost.

        Raises:
            UsageError: if there are not so many.
        """
        if not 0 <= number < (total := self.count(lo, hi)):
            raise UsageError(f"there is no choice {number}", f"there are {total}")
        picked: dict[str, Any] = {}
        state: State = ()
        for i, dim in enumerate(self._dims):
            for move in self._moves[i][state]:
                each = self._tails[i + 1][move.then].within(lo - move.cost, hi - move.cost)
                if number < each * move.number:
                    break
                number -= each * move.number
            index, number = divmod(number, each)
            if move.run:
                assert isinstance(dim, Finite)
                picked[dim.name] = dim.at(move.run.first + index)
            lo, hi, state = lo - move.cost, hi - move.cost, move.then
        return self._space.build(lambda dim: picked[dim.name])

    def sample(self, rng: np.random.Generator, lo: float = -math.inf, hi: float = math.inf) -> Choice:
        """One of the choices inside a window of costs, all as likely."""
        return self.at(random_below(rng, self.count(lo, hi)), lo, hi)


def _merged(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], lo: float, hi: float
) -> tuple[np.ndarray, np.ndarray]:
    """Costs, rising, each once, from lo to hi, and their counts."""
    costs, counts = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    inside = (costs >= lo) & (costs <= hi)
    costs, counts = costs[inside], counts[inside]
    if not len(costs):
        return costs, counts
    order = np.argsort(costs, kind="stable")
    costs = costs[order]
    starts = np.flatnonzero(np.diff(costs, prepend=costs[0] - 1))
    return costs[starts], np.add.reduceat(counts[order], starts)


def _tail(costs: np.ndarray, counts: np.ndarray) -> _Tail:
    if len(costs) < 1000:
        return _Tail(costs.tolist(), [0, *itertools.accumulate(counts.tolist())])
    return _Tail(costs, np.concatenate([np.zeros(1, dtype=counts.dtype), np.cumsum(counts)]))
