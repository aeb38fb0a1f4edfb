"""Which finished trials are worth having, where accuracies are known only up to the noise of few examples.

Plainly, a trial is worth having if no other is at least as accurate and as cheap: the Pareto front of
validation error and predicted cost. With few validation examples this front is partly luck: one example
decides that a network is beaten by a cheaper one, however much smaller its file is, or however much surer its
answers are. So a trial that is plainly beaten stays all the same if, against every trial that stays and beats
it plainly,

- the validation examples cannot tell the two accuracies apart (a paired interval, see
  `netwright.shaping.noise`), and
- something that is known better speaks for it: a file or an amount of arithmetic (multiply-accumulates times
  bits) smaller by `NOTICEABLE` or more, which are exact, or a validation loss that is lower beyond its own
  paired noise.

The plain front is always part of what stays; every trial that goes is beaten by one that stays; and without
noise (exact accuracies, or no answers to compare) the plain front is all that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netwright.shaping.answers import Answers
from netwright.shaping.candidate import Outcome
from netwright.shaping.noise import CONFIDENCE, mean_difference, share_difference
from netwright.shaping.propose import Record

#: A file or an amount of arithmetic that is smaller by less than this share is no reason to choose.
NOTICEABLE = 0.05
#: What can speak for a trial, in the order in which it is told.
REASONS = ("smaller file", "less arithmetic", "lower loss")

AnswersOf = Callable[[Record], Answers | None]


@dataclass(frozen=True)
class Member:
    """A trial that is worth having.

    Args:
        record: The trial.
        reasons: Why it stays although others beat it plainly (of `REASONS`):
            what holds against all of them, or where nothing does, against some; empty for a trial of the
            plain front.
        like: The cheapest trial that stays, is cheaper, and cannot be told less accurate; None if there is
            none.
    """

    record: Record
    reasons: tuple[str, ...] = ()
    like: Record | None = None


def nondominated(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Indices of the points that no other one beats in every coordinate (all are minimised).

    Of equal points only the first is kept.
    """
    kept = []
    for i, p in enumerate(points):
        beaten = any(
            all(b <= a for a, b in zip(p, q, strict=True)) and (q != p or j < i)
            for j, q in enumerate(points)
            if j != i
        )
        if not beaten:
            kept.append(i)
    return kept


def front_of(records: Sequence[Record]) -> list[Record]:
    """The plain front: trials that no other beats in both error and predicted cost, cheapest first."""
    done = [(r, r.outcome) for r in sorted(records, key=lambda r: r.slot) if r.outcome is not None]
    chosen = [done[i] for i in nondominated([(o.error, o.cost) for _, o in done])]
    return [record for record, _ in sorted(chosen, key=lambda pair: pair[1].cost)]


def worth_having(
    records: Sequence[Record], answers: AnswersOf = lambda _: None, *, confidence: float = CONFIDENCE
) -> list[Member]:
    """The trials worth having, cheapest first.

    Args:
        records: Trials; those without an outcome are left out.
        answers: A trial's answers to the validation examples, or None where they are not known; its accuracy
            is then taken as exact.
        confidence: Level of every comparison; at 0 the accuracies are taken as exact.
    """
    noise = _Noise(answers, confidence)
    done = [(r, r.outcome) for r in records if r.outcome is not None]
    # Whatever beats a trial plainly comes before it.
    done.sort(key=lambda pair: (pair[1].cost, pair[1].error, pair[0].slot))
    stay: list[tuple[Record, Outcome, tuple[str, ...]]] = []
    for record, outcome in done:
        some: set[str] = set()
        every, beaten = set(REASONS), False
        for other, its, _ in stay:
            if its.error > outcome.error:
                continue
            speaks = noise.reasons(record, outcome, other, its)
            beaten = beaten or not speaks
            some, every = some | speaks, every & speaks
        if not beaten:
            told = some & every or some
            stay.append((record, outcome, tuple(r for r in REASONS if r in told)))
    return [
        Member(record, reasons, noise.like(record, [r for r, o, _ in stay[:i] if o.cost < outcome.cost]))
        for i, (record, outcome, reasons) in enumerate(stay)
    ]


@dataclass(frozen=True)
class _Noise:
    """Compares trials by their answers."""

    answers: AnswersOf
    confidence: float

    def reasons(self, record: Record, mine: Outcome, other: Record, its: Outcome) -> set[str]:
        """What speaks for a trial against one that beats it plainly; nothing if their accuracies differ."""
        a, b = self.answers(record), self.answers(other)
        if a is None or b is None or not self._alike(a, b):
            return set()
        arithmetic = mine.macs * record.candidate.bits, its.macs * other.candidate.bits
        better = (
            mine.size < its.size * (1 - NOTICEABLE),
            arithmetic[0] < arithmetic[1] * (1 - NOTICEABLE),
            mean_difference(a.loss, b.loss, confidence=self.confidence).high < 0,
        )
        return {reason for reason, holds in zip(REASONS, better, strict=True) if holds}

    def like(self, record: Record, cheaper: Sequence[Record]) -> Record | None:
        """The first trial that the examples cannot tell to be less accurate."""
        mine = self.answers(record)
        if mine is None:
            return None
        for other in cheaper:
            its = self.answers(other)
            if (
                its is not None
                and share_difference(mine.right, its.right, confidence=self.confidence).low <= 0
            ):
                return other
        return None

    def _alike(self, a: Answers, b: Answers) -> bool:
        found = share_difference(a.right, b.right, confidence=self.confidence)
        return found.low < 0 < found.high
