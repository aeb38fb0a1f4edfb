"""Local search: a climb over neighbours, and another from elsewhere."""

from __future__ import annotations

import itertools

from netwright.nas.choice import Choice
from netwright.nas.history import History, Judged
from netwright.nas.space import SearchSpace
from netwright.nas.strategies.base import Strategy


class LocalSearch(Strategy):
    """Judge the neighbours of a choice in random order, go on from the first that beats it; where none is
    left, begin again from a random choice.

    Args:
        most: Neighbours of a choice that are looked at.
    """

    def __init__(self, most: int = 10_000) -> None:
        self.most = most

    def begin(self, space: SearchSpace) -> None:
        """Prepare to search a space."""
        super().begin(space)
        self._top: Judged | None = None
        self._near: list[Choice] = []
        self._met: set[Choice] = set()

    def propose(self, history: History) -> Choice:
        """A new neighbour of the top of the climb, else a random choice."""
        options = [choice for choice in self._near if choice not in history.seen]
        if options:
            return options[int(history.rng.integers(len(options)))]
        return history.unseen(lambda: history.space.sample(history.rng))

    def observe(self, judged: Judged) -> None:
        """Go on from a choice that is better, or that is no neighbour: with it a climb begins."""
        begins = judged.choice not in self._met
        if self._top and not begins and not judged.beats(self._top):
            return
        self._top = judged
        self._near = list(itertools.islice(self.space.neighbours(judged.choice), self.most))
        self._met = (set() if begins else self._met) | set(self._near) | {judged.choice}
