"""Schedules: when a training prunes, to what share, and what else happens to the masks.

A schedule is a pure function of the step. It says what happens, `netwright.pruning.Sparsity` does it.
Schedules of several trainings, with rewinding in between, are in `netwright.pruning.schedules.cycles`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from netwright.errors import UsageError
from netwright.pruning.schedules.kinds import (
    LEAST_RATE,
    Custom,
    Event,
    Gradual,
    Growth,
    Penalise,
    Rounds,
    Schedule,
    Shrink,
    Steps,
    When,
    steps_at,
)

__all__ = [
    "LEAST_RATE",
    "Custom",
    "Event",
    "Gradual",
    "Growth",
    "Penalise",
    "Rounds",
    "Schedule",
    "Shrink",
    "Steps",
    "When",
    "cubic",
    "explain_schedule",
    "exponential",
    "find_schedule",
    "granet",
    "linear",
    "list_schedules",
    "one_shot",
    "penalise",
    "rigl",
    "shrink",
    "sparse_evolution",
    "static",
    "steps_at",
]


def one_shot(at: When = 0.0) -> Schedule:
    """Prune once."""
    return Schedule(at)


def cubic(**settings: Any) -> Gradual:
    """Gradual magnitude pruning: M. Zhu and S. Gupta, To prune, or not to prune, 2017."""
    return Gradual(**settings)


def linear(**settings: Any) -> Gradual:
    """As `cubic`, along a straight line."""
    return Gradual(curve="linear", **settings)


def exponential(**settings: Any) -> Gradual:
    """As `cubic`, by the same factor each time."""
    return Gradual(curve="exponential", **settings)


def granet(initial: float = 0.5, rate: float = 0.5, **settings: Any) -> Gradual:
    """Gradual pruning with regrowth: S. Liu et al., Sparse Training via Boosting Pruning Plasticity, 2021.

    Args:
        initial: Share that stays at the beginning; 1 is dense-to-sparse.
        rate: Share of each layer that is exchanged at the first event.
        **settings: Of `Gradual`.
    """
    return Gradual(initial=initial, rate=rate, **settings)


def rigl(rate: float = 0.3, **settings: Any) -> Gradual:
    """Sparse from the start, weights exchanged by gradient: U. Evci et al., Rigging the Lottery, 2020."""
    return Gradual(initial=None, rate=rate, **settings)


def sparse_evolution(rate: float = 0.3, **settings: Any) -> Gradual:
    """SET: as `rigl`, but growing at random."""
    return replace(rigl(rate, **settings), by="random")


def static(**settings: Any) -> Gradual:
    """Random masks fixed before training, the layers' shares by ERK."""
    return Gradual(initial=None, rate=0.0, **settings)


def shrink(alpha: float = 0.95, until: When = 0.6, sample: float = 1.0) -> Shrink:
    """Iterative soft shrinkage; see `Shrink`."""
    return Shrink(alpha=alpha, until=until, sample=sample)


def penalise(**settings: Any) -> Penalise:
    """Growing regularisation; see `Penalise`."""
    return Penalise(**settings)


_NAMED: dict[str, Any] = {
    "one-shot": one_shot,
    "cubic": cubic,
    "linear": linear,
    "exponential": exponential,
    "granet": granet,
    "rigl": rigl,
    "set": sparse_evolution,
    "static": static,
    "shrink": shrink,
    "penalise": penalise,
    "steps": Steps,
    "rounds": Rounds,
}


def list_schedules() -> list[str]:
    """Names of all schedules of one training, in alphabetical order."""
    return sorted(_NAMED)


def explain_schedule(name: str) -> str:
    """One line on a schedule of that name."""
    return (_NAMED[name].__doc__ or "").partition("\n")[0]


def find_schedule(schedule: str | Schedule) -> Schedule:
    """Look a schedule up.

    Raises:
        UsageError: if there is none of that name.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if schedule not in _NAMED:
        raise UsageError(f"there is no schedule {schedule!r}", f"choose from {', '.join(list_schedules())}")
    found = _NAMED[schedule]()
    assert isinstance(found, Schedule)
    return found
