"""Evolution: children of the best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.history import History, Judged, best_first
from netwright.nas.strategies.base import Strategy


class Evolution(Strategy):
    """A random population, then rounds of children of the best of all that was judged before the round.

    As settled, the evolution of ViT-ResNAS (Y.-L. Liao, S. Karaman and V. Sze, Searching for Efficient
    Multi-Stage Vision Transformers, 2021): every round 75 mutations, then 75 uniform crossovers of two
    different parents. Children that were proposed before are drawn again. A budget is a constrained space:
    ``space.constrained(macs, 0.975 * budget, budget)``.

    Args:
        initial: Random choices before the first round.
        parents: How many of the best have children; all where None.
        mutations: Children of a round that are mutations.
        crossovers: Children of a round that are crossovers.
        p: Probability that a mutation changes a dim.
        mix: Probability that a crossover takes a dim from its second parent.
        window: Only as many of the last judged can be parents, however good others were; all where None.
        tournament: A parent is the best of as many drawn from the parents; one where None.
        start: Draws a choice of the first population, for instance ``ConstrainedSpace.shrunk``; a sample of
            the space where None.

    Raises:
        UsageError: if there would be no population or no children.
    """

    def __init__(
        self,
        initial: int = 500,
        parents: int | None = 75,
        mutations: int = 75,
        crossovers: int = 75,
        p: float = 0.3,
        mix: float = 0.5,
        *,
        window: int | None = None,
        tournament: int | None = None,
        start: Callable[[Any, np.random.Generator], Choice] | None = None,
    ) -> None:
        least = {"initial": initial, "parents": parents, "window": window, "tournament": tournament}
        for name, number in least.items():
            if number is not None and number < 1:
                raise UsageError(f"evolution with {name}={number} has no parents", "give 1 or more")
        if mutations < 0 or crossovers < 0 or not mutations + crossovers:
            raise UsageError(f"evolution with {mutations} mutations, {crossovers} crossovers has no children")
        self.initial, self.parents = initial, parents
        self.mutations, self.crossovers = mutations, crossovers
        self.p, self.mix = p, mix
        self.window, self.tournament, self.start = window, tournament, start
        self._pool: tuple[int, list[Judged]] = (0, [])

    @classmethod
    def regularised(cls, population: int = 100, tournament: int = 25, p: float = 0.1) -> Evolution:
        """Evolution in which the oldest dies (E. Real, A. Aggarwal, Y. Huang and Q. V. Le, 2019).

        Args:
            population: How many are alive.
            tournament: The best of as many of them is mutated.
            p: Probability that a mutation changes a dim.
        """
        return cls(population, None, 1, 0, p, window=population, tournament=tournament)

    def propose(self, history: History) -> Choice:
        """A random choice of the first population, a mutation or a crossover."""
        space, rng = history.space, history.rng
        children = self.mutations + self.crossovers
        past, place = divmod(history.number - self.initial, children)
        pool = self._best(history, self.initial + past * children) if past >= 0 else []
        if not pool:
            return history.unseen(lambda: self.start(space, rng) if self.start else space.sample(rng))
        choices = {j.choice for j in pool}
        if place < self.mutations or len(choices) < 2:
            return history.unseen(lambda: space.mutate(self._parent(pool, history), rng, self.p))

        def cross() -> Choice:
            a = self._parent(pool, history)
            b = self._parent([j for j in pool if j.choice != a], history)
            return space.crossover(a, b, rng, self.mix)

        return history.unseen(cross)

    def _best(self, history: History, before: int) -> list[Judged]:
        """The parents of the round after as many proposals, the best first."""
        if before == self._pool[0] and len(history.judged) >= before:
            return self._pool[1]
        alive = history.judged[:before]
        pool = best_first(alive[-self.window :] if self.window else alive)[: self.parents]
        if len(history.judged) >= before:
            self._pool = (before, pool)
        return pool

    def _parent(self, pool: list[Judged], history: History) -> Choice:
        """A parent: any, or the best of a tournament."""
        count = min(self.tournament or 1, len(pool))
        return pool[int(history.rng.choice(len(pool), count, replace=False).min())].choice
