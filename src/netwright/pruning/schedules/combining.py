"""What schedules, patterns, importances and allocations cannot do with each other, with the reasons."""

from __future__ import annotations

from typing import Any

from netwright.errors import UsageError
from netwright.pruning.masks.granularity import NM, WEIGHT, Granularity
from netwright.pruning.schedules.schedule import Gradual, Rounds, Schedule, Shrink, Steps


def check_schedule(plan: Schedule, pattern: Granularity, importance: Any, allocation: Any) -> None:
    """Refuse a schedule that an importance, a granularity or an allocation makes no sense with.

    Args:
        plan: The schedule.
        pattern: The granularity.
        importance: A name or an object.
        allocation: A name, a function or shares.

    Raises:
        UsageError: with the reason.
    """
    if isinstance(plan, (Gradual, Steps, Rounds)):
        check_gradual(pattern)
    if isinstance(plan, Gradual) and plan.rate and pattern != WEIGHT:
        raise UsageError(
            f"growing single weights would break the pattern {pattern.name}",
            'take schedule="one-shot", "cubic" or "shrink"',
        )
    if isinstance(plan, Gradual) and plan.initial is None and importance not in ("magnitude", "random"):
        raise UsageError(
            "masks that are drawn at random before training leave an importance nothing to choose",
            'take schedule="one-shot", or leave importance out',
        )
    if isinstance(plan, Shrink) and plan.sample < 1 and pattern != WEIGHT:
        raise UsageError(
            f"thresholds of a sample are of single weights, not of the pattern {pattern.name}",
            "leave sample= out",
        )


def check_gradual(pattern: Granularity) -> None:
    """Refuse to reach a pattern bit by bit that holds from its first pruning on.

    Raises:
        UsageError: for n:m patterns.
    """
    if isinstance(pattern, NM):
        raise UsageError(
            f"{pattern.name} is complete after its first pruning: there is nothing to do bit by bit",
            'take schedule="one-shot" or "shrink"',
        )
