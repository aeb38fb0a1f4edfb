"""Constraints of trials, where Optuna keeps them, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netwright.errors import UsageError

#: A candidate of the space -> a number that must not be above 0: what it costs less what it may cost.
Constraint = Callable[[Any], float]
_ATTR = "netwright:constraints"


def named(constraint: Constraint | Mapping[str, Constraint] | None) -> dict[str, Constraint]:
    """Constraints by name; of a single one its own."""
    if constraint is None:
        return {}
    if isinstance(constraint, Mapping):
        return dict(constraint)
    if not callable(constraint):
        raise UsageError(
            f"constraint={constraint!r} is none", "give a function of a candidate, or a dict of them"
        )
    return {getattr(constraint, "__name__", "constraint"): constraint}


def record(trial: Any, constraints: Mapping[str, Constraint], candidate: Any) -> None:
    """Write into a trial by how much a candidate breaks each constraint.

    Raises:
        UsageError: if a constraint gives no number.
    """
    values = {}
    for name, constraint in constraints.items():
        values[name] = float(constraint(candidate))
        if math.isnan(values[name]):
            raise UsageError(f"the constraint {name} gave {values[name]} for {candidate}")
        if hasattr(trial, "set_constraint"):  # Optuna 5; older samplers are handed `stored`
            trial.set_constraint(name, values[name])
    if values:
        trial.set_user_attr(_ATTR, values)


def stored(trial: Any) -> Sequence[float]:
    """The values of the constraints of a finished trial; those that are not above 0 hold."""
    values: Mapping[str, float] = trial.user_attrs.get(_ATTR) or getattr(trial, "constraints", {})
    return list(values.values())


def violation(values: Sequence[float]) -> float:
    """By how much constraints are broken in all."""
    return sum(max(value, 0.0) for value in values)
