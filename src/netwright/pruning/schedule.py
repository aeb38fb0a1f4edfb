"""Schedules: when a training prunes, to what share, and what else happens to the masks.

A schedule is a pure function of the step. It says what happens, `netwright.pruning.Sparsity` does it.
Schedules of several trainings, with rewinding in between, are in `netwright.pruning.cycles`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from netwright.errors import UsageError

Growth = Literal["gradient", "random", "momentum"]
#: A number of steps (int) or a share of the training (float).
When = int | float
#: Exchanges do not fall below this share: GraNet's cosine ends there.
LEAST_RATE = 0.005


@dataclass(frozen=True)
class Event:
    """What happens at one step, in this order.

    Attributes:
        keep: Prune to this share of all weights.
        rate: Exchange this share of each layer's remaining weights: drop the smallest, grow as many.
        by: What decides where to grow.
        shrink: Multiply what would be pruned by this instead of pruning it.
        restore: Put all masks back to one before pruning.
        importance: Score with this instead of the run's importance.
        allocation: Allocate with this instead of the run's allocation.
    """

    keep: float | None = None
    rate: float = 0.0
    by: Growth = "gradient"
    shrink: float | None = None
    restore: bool = False
    importance: Any = None
    allocation: Any = None


@dataclass(frozen=True)
class Schedule:
    """Prune once, before training: static masks. The base of the others.

    Attributes:
        at: When.
    """

    at: When = 0.0

    #: Whether masks act in the forward pass alone.
    soft = False

    def event(self, step: int, steps: int, keep: float) -> Event | None:
        """What happens after a step.

        Args:
            step: Steps done; 0 is before the first.
            steps: Steps of the whole training.
            keep: The share that is to stay in the end.

        Returns:
            The event, or None.
        """
        return Event(keep) if step == steps_at(self.at, steps) else None


def steps_at(when: When, steps: int) -> int:
    """A number of steps, or a share of the training, as a step."""
    if isinstance(when, bool) or not isinstance(when, (int, float)) or when < 0:
        raise UsageError(
            f"{when!r} is no point of a training", "give a share in 0..1, or a whole number of steps"
        )
    if isinstance(when, int):
        return min(when, steps)
    if when > 1:
        raise UsageError(f"{when!r} is no share of a training", "give 0..1, or a whole number of steps")
    return round(when * steps)


@dataclass(frozen=True)
class Gradual(Schedule):
    """Prune in steps from one share to another, and exchange weights as long as training goes on.

    One class for gradual magnitude pruning (rate 0), GraNet (rate above 0), and with `initial` equal to the
    final share for RigL (by gradient), SET (at random) and static sparse training (rate 0).

    Attributes:
        initial: Share that stays at the beginning; None is the final share: nothing is pruned later.
        begin: When pruning begins.
        end: When the final share is reached.
        every: Steps between two events.
        curve: How the share falls: "cubic", "linear" or "exponential".
        rate: Share of each layer exchanged at the first event; falls as a cosine to 0.005 at the end.
        by: What decides where to grow.
        until: When exchanging ends.
        initial_allocation: How an initial share below 1 is spread over the layers, at random within them.
    """

    initial: float | None = 1.0
    begin: When = 0.0
    end: When = 0.6
    every: When = 0.02
    curve: Literal["cubic", "linear", "exponential"] = "cubic"
    rate: float = 0.0
    by: Growth = "gradient"
    until: When = 1.0
    initial_allocation: Any = "erk"

    def event(self, step: int, steps: int, keep: float) -> Event | None:
        """See `Schedule.event`."""
        initial = keep if self.initial is None else max(self.initial, keep)
        if step == 0 and initial < 1:
            return Event(initial, importance="random", allocation=self.initial_allocation)
        begin, end = steps_at(self.begin, steps), steps_at(self.end, steps)
        every = max(steps_at(self.every, steps), 1)
        times = max((end - begin) // every, 1)
        done, rest = divmod(step - begin, every)
        if step < max(begin, 1) or rest or (done > times and not self.rate):
            return None
        rate = self.exchanged(step, steps) if step <= steps_at(self.until, steps) else 0.0
        if step == steps:
            rate = 0.0  # what grows now would stay at zero
        share = None if done > times else self.share(done / times, initial, keep)
        if initial <= keep:
            share = None
        return Event(share, rate, self.by) if share is not None or rate else None

    def share(self, progress: float, initial: float, keep: float) -> float:
        """The share that stays at a progress in 0..1."""
        if progress >= 1:
            return keep
        if self.curve == "cubic":
            return keep + (initial - keep) * (1 - progress) ** 3
        if self.curve == "linear":
            return initial + (keep - initial) * progress
        return initial * (keep / initial) ** progress

    def exchanged(self, step: int, steps: int) -> float:
        """The share exchanged at a step: a cosine over the whole training."""
        if not self.rate:
            return 0.0
        floor = min(LEAST_RATE, self.rate)
        return floor + (self.rate - floor) * (1 + math.cos(math.pi * step / max(steps, 1))) / 2


@dataclass(frozen=True)
class Shrink(Schedule):
    """Multiply the least important weights after every step, choose them anew each time, prune at the end.

    J. Wang et al., Iterative Soft Shrinkage Learning for Efficient Image Super-Resolution, ICCV 2023.

    Attributes:
        alpha: What they are multiplied by: 0 is iterative hard thresholding, 1 is dense training.
        until: When they are pruned for good.
    """

    alpha: float = 0.95
    until: When = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha={self.alpha:g} does not shrink", "give 0..1")

    def event(self, step: int, steps: int, keep: float) -> Event | None:
        """See `Schedule.event`."""
        end = steps_at(self.until, steps)
        if step > end or (step == 0 and end):
            return None
        return Event(keep) if step == end else Event(keep, shrink=self.alpha)


@dataclass(frozen=True)
class Steps(Schedule):
    """Prune a fixed share more at regular times; between them masked weights may train on.

    Attributes:
        every: Steps between two prunings.
        size: How much sparser each time, as a share of all weights.
        reactivate: Put the masks back to one after each pruning but the last (masks are soft then).
        retrain: Leave this share of the training for the final masks.
    """

    every: When = 0.1
    size: float = 0.1
    reactivate: bool = True
    retrain: When = 0.0

    @property
    def soft(self) -> bool:  # type: ignore[override]
        """Reactivated weights must have kept their values."""
        return self.reactivate

    def event(self, step: int, steps: int, keep: float) -> Event | None:
        """See `Schedule.event`."""
        every = max(steps_at(self.every, steps), 1)
        last = steps - steps_at(self.retrain, steps)
        if step == last:
            return Event(keep, restore=self.reactivate)
        if step > last or step == 0 or step % every:
            return None
        return Event(max(1 - self.size * (step // every), keep), restore=self.reactivate)


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


def shrink(alpha: float = 0.95, until: When = 0.6) -> Shrink:
    """Iterative soft shrinkage; see `Shrink`."""
    return Shrink(alpha=alpha, until=until)


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
    "steps": Steps,
}


@dataclass(frozen=True)
class Custom(Schedule):
    """Events at given steps.

    Attributes:
        events: Step -> event.
    """

    events: dict[int, Event] = field(default_factory=dict)

    def event(self, step: int, steps: int, keep: float) -> Event | None:
        """See `Schedule.event`."""
        return self.events.get(step)


def list_schedules() -> list[str]:
    """Names of all schedules of one training, in alphabetical order."""
    return sorted(_NAMED)


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
