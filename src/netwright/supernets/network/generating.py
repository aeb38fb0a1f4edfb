"""A sub-network for a budget without a search: what a generator says, changed where it misses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

from netwright.errors import UsageError
from netwright.nas.choice import Choice

if TYPE_CHECKING:  # the tables are made of an elastic network, which generates with them
    from netwright.supernets.network.cost_tables import CostTables


class Generator(Protocol):
    """Makes sub-networks of a requested cost."""

    tables: CostTables

    def choice(self, cost: float, rng: np.random.Generator) -> Choice:
        """A sub-network that costs about as much.

        Args:
            cost: The request.
            rng: Of the draw.
        """
        ...

    def likely(self, cost: float, rng: np.random.Generator) -> Choice:
        """The sub-network it makes for a request when one is to be used, not trained.

        Args:
            cost: The request.
            rng: Of the draw, where there is one.
        """
        ...


def generate(generator: Generator, cost: float, *, within: float = 0.02, seed: int = 0) -> Choice:
    """The sub-network of a budget, without a search.

    What the generator says is taken where its cost is near enough, else changed until it is (ShiftNAS,
    deployment).

    Args:
        generator: A trained one.
        cost: The budget, in the unit of its tables.
        within: How far from the budget, as a share of it.
        seed: Of draws and repairs.

    Raises:
        UsageError: if the budget is no positive number.
        BudgetError: if no choice is that near.
    """
    if not math.isfinite(cost) or cost <= 0:
        raise UsageError(f"{cost} is no budget", "give a positive cost")
    rng = np.random.default_rng(seed)
    choice = generator.likely(cost, rng)
    tables = generator.tables
    if abs(tables.of(choice) - cost) <= within * cost:
        return choice
    window = tables.space.constrained(tables.additive, cost * (1 - within), cost * (1 + within))
    near = window.repair(choice, rng)
    return near if window.fits(near) else window.sample(rng)
