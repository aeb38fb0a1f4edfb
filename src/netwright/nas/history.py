"""What a strategy knows when it proposes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from netwright.nas.choice import Choice
from netwright.nas.space import SearchSpace


@dataclass(frozen=True)
class Judged:
    """A choice and what it is worth.

    Attributes:
        choice: What was judged.
        values: Of the objectives; smaller is better.
        violation: By how much constraints are broken in all; 0 where none is.
    """

    choice: Choice
    values: tuple[float, ...]
    violation: float = 0.0

    def beats(self, other: Judged) -> bool:
        """Whether it is nowhere worse and somewhere better; breaking constraints less comes first."""
        if self.violation != other.violation:
            return self.violation < other.violation
        pairs = list(zip(self.values, other.values, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@dataclass(frozen=True)
class History:
    """All proposals so far.

    Attributes:
        space: What is searched.
        judged: In the order in which they were finished.
        number: Of proposals before this one, those that failed or are not judged yet included.
        seen: Choices that are judged or being judged.
        rng: Of this proposal: depends on the seed and ``number`` alone.
    """

    space: SearchSpace
    judged: Sequence[Judged]
    number: int
    seen: Collection[Choice]
    rng: np.random.Generator

    def unseen(self, draw: Callable[[], Choice], tries: int = 100) -> Choice:
        """The first new choice of as many draws, else of as many samples of the space, else the last."""
        for source in (draw, lambda: self.space.sample(self.rng)):
            for _ in range(tries):
                if (choice := source()) not in self.seen:
                    return choice
        return choice


def best_first(judged: Sequence[Judged]) -> list[Judged]:
    """Judged choices by what they are worth, of equal ones the earlier first.

    Those that break constraints come last. Of several objectives those that nothing beats come first, the
    most lonely ones before others, then those that only they beat, and so on (K. Deb, A. Pratap, S. Agarwal
    and T. Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II, 2002).
    """
    feasible = [j for j in judged if not j.violation]
    broken = sorted((j for j in judged if j.violation), key=lambda j: (j.violation, j.values))
    if not feasible or len(feasible[0].values) == 1:
        return sorted(feasible, key=lambda j: j.values) + broken
    values = np.array([j.values for j in feasible])
    ordered: list[int] = []
    left = np.arange(len(values))
    while len(left):
        rows = values[left]
        no_better = np.all(rows[:, None] >= rows[None], axis=-1)
        worse = no_better & np.any(rows[:, None] > rows[None], axis=-1)
        beaten = np.any(worse, axis=1)
        front = left[~beaten]
        lonely = np.argsort(-crowding(values[front]), kind="stable")
        ordered += front[lonely].tolist()
        left = left[beaten]
    return [feasible[i] for i in ordered] + broken


def crowding(values: np.ndarray) -> np.ndarray:
    """How lonely points are: the sum over objectives of the distance between both neighbours.

    Args:
        values: (points, objectives).

    Returns:
        (points,), infinite at the ends of every objective.
    """
    lonely = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        lonely[order[[0, -1]]] = np.inf
        if len(order) > 2 and np.isfinite(span) and span > 0:
            lonely[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return lonely
