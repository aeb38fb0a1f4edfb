"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCHEDULES = ("cosine", "step", "one-cycle", "exponential", "constant")

#: Where ``step`` falls, and to what share each time, unless a recipe says otherwise.
MILESTONES = (0.5, 0.75)
GAMMA = 0.1
_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1e-4


def factor(
    schedule: str,
    step: int,
    steps: int,
    warmup: int = 0,
    milestones: Sequence[float] = MILESTONES,
    gamma: float = GAMMA,
    period: float = 1.0,
    floor: float = 0.0,
) -> float:
    """Return the share of the peak learning rate at one step.

    Args:
        schedule: One of `SCHEDULES`. ``cosine`` falls to 0; ``step`` multiplies by `gamma` at each milestone;
            ``one-cycle`` rises from 1/25 over the first 30 % and falls to 1e-4, both as cosines;
            ``exponential`` is multiplied by `gamma` every `period` steps, smoothly, down to `floor`.
        step: The step, 0 <= step < steps.
        steps: Steps of the whole training.
        warmup: First steps, over which the factor rises linearly to 1; the schedule spans the rest.
        milestones: Of ``step``, as shares of the schedule.
        gamma: Of ``step`` and ``exponential``.
        period: Of ``exponential``, in steps.
        floor: Of ``exponential``.

    Returns:
        A factor in (0, 1].
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    # Half a step in, so that neither the first step of a rise nor the last of a fall is wasted at zero.
    progress = (step - warmup + 0.5) / max(steps - warmup, 1)
    if schedule == "cosine":
        return _cosine(1.0, 0.0, progress)
    if schedule == "step":
        return gamma ** sum(progress >= milestone for milestone in milestones)
    if schedule == "one-cycle":
        if progress < _ONE_CYCLE_RISE:
            return _cosine(_ONE_CYCLE_START, 1.0, progress / _ONE_CYCLE_RISE)
        return _cosine(1.0, _ONE_CYCLE_END, (progress - _ONE_CYCLE_RISE) / (1 - _ONE_CYCLE_RISE))
    if schedule == "exponential":
        return max(floor, float(gamma ** ((step - warmup) / period)))
    if schedule == "constant":
        return 1.0
    raise ValueError(f"unknown schedule {schedule!r}")


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
