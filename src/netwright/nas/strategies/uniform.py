"""Random search and exhaustive search."""

from __future__ import annotations

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.history import History
from netwright.nas.space import Uniform
from netwright.nas.strategies.base import Strategy


class Random(Strategy):
    """Independent draws: the baseline of every other strategy.

    Args:
        uniform: What is as likely, see `SearchSpace.sample`.
        unique: Whether a choice that was proposed before is drawn again.
    """

    def __init__(self, uniform: Uniform | None = None, unique: bool = False) -> None:
        self.uniform, self.unique = uniform, unique

    def propose(self, history: History) -> Choice:
        """A draw."""
        if self.unique:
            return history.unseen(lambda: self._draw(history))
        return self._draw(history)

    def _draw(self, history: History) -> Choice:
        return history.space.sample(history.rng, self.uniform)


class Exhaustive(Strategy):
    """Every choice once, in the order of the space."""

    def propose(self, history: History) -> Choice:
        """The choice of the number of the proposal."""
        if history.number >= self.total():
            raise UsageError(f"all {self.total()} choices of the space were proposed", "ask for fewer trials")
        return history.space.at(history.number)

    def total(self) -> int:
        """The size of the space."""
        return self.space.size()
