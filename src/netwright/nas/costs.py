"""Costs that are sums over dims, so that choices can be counted by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from netwright.errors import UsageError
from netwright.nas.choice import Choice, plain
from netwright.nas.counting import Factor

#: Values of a factor's dims -> cost: a table, or a function of as many arguments.
Table = Mapping[Any, float] | Callable[..., float]


@dataclass(frozen=True)
class Additive:
    """A sum of terms, each of the values of one dim or a few: a layer costs what comes in by what goes out.

    A term counts where all its dims matter: of a block that is left out it costs nothing.

    Attributes:
        terms: Name or tuple of names -> table of costs. The keys of a table are values of the dim, or tuples
            of values of the dims; a function takes them as arguments. Costs are whole numbers.
        base: What everything costs.
    """

    terms: Mapping[str | tuple[str, ...], Table]
    base: int = 0

    @cached_property
    def factors(self) -> list[Factor]:
        """The terms as the counter takes them.

        Raises:
            UsageError: if a term has no dims.
        """
        return [self._factor(names, table) for names, table in self.terms.items()]

    def _factor(self, names: str | tuple[str, ...], table: Table) -> Factor:
        names = (names,) if isinstance(names, str) else tuple(names)
        if not names or len(set(names)) < len(names):
            raise UsageError(f"a cost of the dims {names} means nothing", "name each dim once")
        if callable(table):
            return Factor(names, lambda values: _whole(table(*values), names, values))
        costs = {plain(k): v for k, v in table.items()}

        def look_up(values: tuple[Any, ...]) -> int:
            entry = values if len(names) > 1 else values[0]
            if entry not in costs:
                raise UsageError(f"there is no cost of {', '.join(names)} = {entry!r}", "add it to the table")
            return _whole(costs[entry], names, values)

        return Factor(names, look_up)

    def of(self, choice: Choice, active: tuple[str, ...]) -> int:
        """The cost of a choice.

        Args:
            choice: Canonical.
            active: The dims that matter in it.
        """
        matters = set(active)
        return int(self.base) + sum(
            factor.cost(tuple(choice[name] for name in factor.names))
            for factor in self.factors
            if matters.issuperset(factor.names)
        )

    def to_data(self) -> dict[str, Any]:
        """What JSON can hold of it.

        Raises:
            UsageError: if a term is a function.
        """
        terms = []
        for names, table in self.terms.items():
            if callable(table):
                raise UsageError(f"the cost of {names} is a function, which JSON cannot hold", "give a table")
            terms.append([[names] if isinstance(names, str) else list(names), list(table.items())])
        return {"terms": terms, "base": self.base}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Additive:
        """The cost of what `to_data` gave."""
        terms: dict[str | tuple[str, ...], Table] = {}
        for names, table in data["terms"]:
            terms[names[0] if len(names) == 1 else tuple(names)] = {plain(k): v for k, v in table}
        return cls(terms, data["base"])


def _whole(cost: float, names: tuple[str, ...], values: tuple[Any, ...]) -> int:
    if int(cost) != cost:
        raise UsageError(f"the cost {cost} of {names} = {values} is no whole number", "give a finer unit")
    return int(cost)
