"""What a strategy is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from netwright.nas.choice import Choice
from netwright.nas.history import History, Judged
from netwright.nas.space import SearchSpace


class Strategy(ABC):
    """Which choice next: knows choices and numbers alone.

    What it remembers beside the history it learns in `observe`, which is called with every finished choice
    in the order in which they were finished, again from the first where a study is resumed.
    """

    space: SearchSpace

    def begin(self, space: SearchSpace) -> None:
        """Prepare to search a space; called once, before anything else."""
        self.space = space

    @abstractmethod
    def propose(self, history: History) -> Choice:
        """The next choice to judge."""

    def observe(self, judged: Judged) -> None:  # noqa: B027 - most need not
        """Learn of a finished choice."""

    def total(self) -> int | None:
        """After how many proposals there is nothing left to propose; None where that is never."""
        return None
