"""Bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netwright.errors import UsageError


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    Attributes:
        value: The statistic on the whole sample.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """The larger distance from the value to an end."""
        return max(self.high - self.value, self.value - self.low)


def bootstrap_ci(
    values: ArrayLike,
    unit: ArrayLike | None = None,
    *,
    statistic: Callable[[NDArray[np.float64]], float] = np.mean,
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a statistic.

    Args:
        values: The sample, (n,) or (n, columns).
        unit: Name of the unit that each row belongs to, (n,): whole units are resampled, because rows of one
            unit are not independent. Every row is its own unit if None.
        statistic: Maps rows to a number.
        level: Share of the distribution inside the interval.
        rounds: Resamples.
        seed: Seed of the resamples.

    Raises:
        UsageError: if the sample is empty or `level` is not between 0 and 1.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not len(sample) or not 0 < level < 1:
        raise UsageError(
            f"no interval of level {level} from {len(sample)} values", "give values and 0 < level < 1"
        )
    rng = np.random.default_rng(seed)
    groups = np.arange(len(sample)) if unit is None else np.unique(np.asarray(unit), return_inverse=True)[1]
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    draws = [
        statistic(sample[np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])])
        for _ in range(rounds)
    ]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(sample)), float(low), float(high))
