"""Kinds of schedules: pure functions of the step, which say how much stays and what is exchanged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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
        penalty: Add this to the quadratic penalty of what would be pruned, instead of pruning it, up to
            `limit`.
        limit: Of the penalty.
        sample: Take the thresholds of shrinking and penalties from this share of each layer's weights.
        restore: Put all masks back to one before pruning.
        reactivate: Put them back to one after pruning, once they are recorded.
        importance: Score with this instead of the run's importance.
        allocation: Allocate with this instead of the run's allocation.
        rounds: Prune in so many rounds, the share falling by the same factor, scoring anew in each.
    """

    keep: float | None = None
    rate: float = 0.0
    by: Growth = "gradient"
    shrink: float | None = None
    penalty: float = 0.0
    limit: float = math.inf
    sample: float = 1.0
    restore: bool = False
    reactivate: bool = False
    importance: Any = None
    allocation: Any = None
    rounds: int = 1

    @property
    def shares(self) -> list[float]:
        """The share that stays after each round."""
        assert self.keep is not None
        return [self.keep ** (k / self.rounds) for k in range(1, self.rounds)] + [self.keep]

    @property
    def gentle(self) -> bool:
        """Whether nothing is pruned yet: what would be is shrunk or penalised."""
        return self.shrink is not None or self.penalty > 0


@dataclass(frozen=True)
class Schedule:
    """Prune once, before training: static masks. The base of the others.

    Attributes:
        at: When.
    """

    at: When = 0.0

    #: Whether masks act in the forward pass alone.
    soft = False
    #: Rounds of the pruning before training.
    rounds = 1

    @property
    def trains(self) -> bool:
        """Whether it does anything after the beginning of the training."""
        return type(self) is not Schedule or self.at != 0

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
        sample: Take each layer's threshold from this share of its weights, at random; 1 sorts them all.
    """

    alpha: float = 0.95
    until: When = 0.6
    sample: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha={self.alpha:g} does not shrink", "give 0..1")
        if not 0 < self.sample <= 1:
            raise UsageError(f"sample={self.sample:g} is no share", "give a share above 0, at most 1")

    def event(self, step: int, steps: int, keep: float) -> Event | None:
        """See `Schedule.event`."""
        end = steps_at(self.until, steps)
        if step > end or (step == 0 and end):
            return None
        return Event(keep) if step == end else Event(keep, shrink=self.alpha, sample=self.sample)


@dataclass(frozen=True)
class Penalise(Schedule):
    """Penalise the least important weights more and more, choose them anew each time, prune at the end.

    The regularised sibling of `Shrink`, after H. Wang, C. Qin, Y. Zhang and Y. Fu, Neural Pruning via Growing
    Regularization, ICLR 2021: what is added to a gradient is a factor of the weight's own, times the weight.

    Attributes:
        growth: What the factors of what would be pruned grow by at every event.
        every: Steps between two events.
        limit: They grow no further.
        until: When the weights are pruned for good.
    """

    growth: float = 1e-4
    every: When = 20
    limit: float = 0.5
    until: When = 0.6

    def __post_init__(self) -> None:
        if not self.growth > 0:
            raise UsageError(f"growth={self.growth:g} penalises nothing", "give more than 0")

    def event(self, step: int, steps: int, keep: float) -> Event | None:
        """See `Schedule.event`."""
        end = steps_at(self.until, steps)
        if step == end:
            return Event(keep)
        due = 0 < step < end and step % max(steps_at(self.every, steps), 1) == 0
        return Event(keep, penalty=self.growth, limit=self.limit) if due else None


@dataclass(frozen=True)
class Steps(Schedule):
    """Prune a fixed share more at regular times; between them masked weights may train on.

    Y. Fu et al., SuperTickets, ECCV 2022.

    Attributes:
        every: Steps between two prunings.
        size: How much sparser each time, as a share of all weights.
        reactivate: What becomes of pruned weights; the last masks stay in any case. True puts the masks back
            to one as soon as a pruning is recorded: the weights have their values and train on, and the
            training is that of a network without masks. "next" leaves them masked until the next pruning,
            which chooses among all weights: no gradient reaches these meanwhile. False never gives them back.
            Masks are soft unless it is False.
        retrain: Leave this share of the training for the final masks.
    """

    every: When = 0.1
    size: float = 0.1
    reactivate: bool | Literal["next"] = True
    retrain: When = 0.0

    @property
    def soft(self) -> bool:  # type: ignore[override]
        """Reactivated weights must have kept their values."""
        return bool(self.reactivate)

    def __post_init__(self) -> None:
        if self.reactivate not in (True, False, "next"):
            raise UsageError(f"reactivate={self.reactivate!r} is not known", 'give True, "next" or False')

    def event(self, step: int, steps: int, keep: float) -> Event | None:
        """See `Schedule.event`."""
        every = max(steps_at(self.every, steps), 1)
        last = steps - steps_at(self.retrain, steps)
        if step == last:
            return Event(keep, restore=self.soft)
        if step > last or step == 0 or step % every:
            return None
        share = max(round(1 - self.size * (step // every), 12), keep)
        return Event(share, restore=self.soft, reactivate=self.reactivate is True)


@dataclass(frozen=True)
class Rounds(Schedule):
    """Prune before training in many rounds, scoring what is left anew in each; nothing is trained between.

    What SynFlow needs, in 100 rounds: H. Tanaka et al., Pruning neural networks without any data by
    iteratively conserving synaptic flow, NeurIPS 2020; also iterative SNIP, S. Verdenius, M. Stol and P.
    Forre, Pruning via Iterative Ranking of Sensitivity Statistics, 2020.

    Attributes:
        rounds: How many.
    """

    at: When = field(default=0.0, init=False)
    rounds: int = 100  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"rounds={self.rounds} prune nothing", "give 1 or more")

    @property
    def trains(self) -> bool:
        """Everything is done before training."""
        return False

    def event(self, step: int, steps: int, keep: float) -> Event | None:
        """See `Schedule.event`."""
        return Event(keep, rounds=self.rounds) if step == 0 else None


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
