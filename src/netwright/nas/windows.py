"""Choices inside a window of an additive cost: counted, numbered and drawn, all as likely."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from netwright.errors import BudgetError, UsageError
from netwright.nas.choice import Choice
from netwright.nas.costs import Additive
from netwright.nas.counting import Counter, Factor, TooManyCosts

if TYPE_CHECKING:
    from netwright.nas.space import SearchSpace

#: Sums of costs that are told apart where there are too many different ones.
_BINS = 4000
#: Draws of a rounded window before it counts as empty.
_DRAWS = 20_000


class Window:
    """The choices whose cost is from ``lo`` to ``hi``.

    Where the costs have too many different sums to keep, sums of rounded costs are kept instead, choices are
    drawn from a window that is wide enough for the rounding, and those outside the true one are drawn again:
    the rest are as likely as before, but cannot be counted.

    Args:
        space: Whose.
        cost: A sum over dims.
        lo: The least cost.
        hi: The greatest cost.

    Raises:
        BudgetError: if no choice is inside, where choices can be counted.
    """

    def __init__(self, space: SearchSpace, cost: Additive, lo: float, hi: float) -> None:
        self._space, self._cost, self._lo, self._hi = space, cost, lo, hi
        self._low, self._high = lo - cost.base, hi - cost.base
        self.exact = True
        try:
            self._counter = Counter(space, cost.factors, self._low, self._high)
        except TooManyCosts:
            self.exact = False
            self._counter = self._rounded_counter(self._low, self._high)
        if not self._counter.count(self._low, self._high):
            raise self._empty()

    def _rounded_counter(self, lo: float, hi: float) -> Counter:
        """Counts costs that are rounded down, as little as can be kept."""
        factors, (least, most) = self._cost.factors, self._range
        bins = _BINS
        while True:
            unit = max(-(-(most - least) // bins), 1)
            lost = len(factors) * (unit - 1)
            self._low = math.floor((lo - lost) / unit) if math.isfinite(lo) else lo
            self._high = math.floor(hi / unit) if math.isfinite(hi) else hi
            try:
                return Counter(self._space, [_rounded(f, unit) for f in factors], self._low, self._high)
            except TooManyCosts:
                bins //= 4
                if not bins:
                    raise

    @cached_property
    def _range(self) -> tuple[int, int]:
        """The least and the greatest cost in the space, without the base."""
        return Counter(self._space, self._cost.factors, ends_only=True).costs()

    def _empty(self) -> BudgetError:
        least, most = self._range
        return BudgetError(
            f"no choice costs from {self._lo:g} to {self._hi:g}",
            f"costs are from {least + self._cost.base} to {most + self._cost.base}",
        )

    def count(self) -> int:
        """How many choices are inside.

        Raises:
            UsageError: if the costs have too many different sums.
        """
        if not self.exact:
            raise UsageError(
                "the costs have too many different sums to count choices", "give them in a coarser unit"
            )
        return self._counter.count(self._low, self._high)

    def at(self, number: int) -> Choice:
        """The choice of a number from 0 to ``count() - 1``.

        Raises:
            UsageError: if there are not so many, or they cannot be counted.
        """
        if not 0 <= number < (count := self.count()):
            raise UsageError(f"there is no choice {number}", f"there are {count}")
        return self._counter.at(number, self._low, self._high)

    def sample(self, rng: np.random.Generator) -> Choice:
        """Draw a choice, all as likely.

        Raises:
            BudgetError: if none was found.
        """
        return self._first(self._counter.sample(rng, self._low, self._high) for _ in range(_DRAWS))

    def end(self, *, greatest: bool) -> Choice:
        """A choice of the least or the greatest cost inside; nearly, where choices cannot be counted."""
        costs = self._counter.kept
        ends = [int(costs[-1 - i if greatest else i]) for i in range(1 if self.exact else len(costs))]
        return self._first(self._counter.at(0, cost, cost) for cost in ends)

    def _first(self, choices: Iterable[Choice]) -> Choice:
        """The first that is inside the true window."""
        for choice in choices:
            if self.exact or self._lo <= self._cost.of(choice, self._space.active(choice)) <= self._hi:
                return choice
        raise self._empty()


def _rounded(factor: Factor, unit: int) -> Factor:
    return Factor(factor.names, lambda values: factor.cost(values) // unit)
