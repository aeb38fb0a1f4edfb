"""Claims and the verdict: what a paper says, what is expected here, whether the measured value holds it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from netwright.errors import UsageError

_NUMBER = r"([-+]?\d[\d,_]*(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+)\s*(%|x)?"
_COMPARISON = re.compile(rf"(>=|<=|>|<)\s*{_NUMBER}$")
_WITHIN = re.compile(rf"within\s+{_NUMBER}\s+of\s+{_NUMBER}$")
_BETWEEN = re.compile(rf"between\s+{_NUMBER}\s+and\s+{_NUMBER}$")


#: Scope of the claims that only ``--all`` measures: arms of a paper beyond its headline.
FURTHER = "all"


class Verdict(StrEnum):
    """What came of trying to reproduce a paper."""

    REPRODUCED = "reproduced"
    PARTLY = "partly reproduced"
    NOT = "not reproduced"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Expectation:
    """The values that hold a claim: an interval, open or closed at either end.

    Attributes:
        low: Lower end.
        high: Upper end.
        strict: Whether the ends themselves are outside.
    """

    low: float
    high: float
    strict: bool = False

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """Read ``>= 50``, ``> 0``, ``<= 2%``, ``< 1``, ``within 0.03 of 0.376`` or ``between 0.8 and 1.2``.

        A number may end in ``x`` (a ratio) or ``%`` (a hundredth).

        Raises:
            UsageError: if the text is none of these.
        """
        text = text.strip()
        if found := _COMPARISON.match(text):
            sign, value = found[1], _number(found[2], found[3])
            ends = (value, math.inf) if sign[0] == ">" else (-math.inf, value)
            return cls(*ends, strict="=" not in sign)
        if found := _WITHIN.match(text):
            distance, centre = _number(found[1], found[2]), _number(found[3], found[4])
            if distance >= 0:
                return cls(centre - distance, centre + distance)
        if found := _BETWEEN.match(text):
            low, high = _number(found[1], found[2]), _number(found[3], found[4])
            if low <= high:
                return cls(low, high)
        raise UsageError(
            f"{text!r} is no expectation",
            "write '>= 50', '<= 0.02', 'within 0.03 of 0.376' or 'between 0.8 and 1.2'",
        )

    def contains(self, value: float) -> bool:
        """Whether a value holds the claim."""
        if self.strict:
            return self.low < value < self.high
        return self.low <= value <= self.high

    def holds(self, value: float, spread: float = 0.0) -> bool | None:
        """Whether the claim holds for all, none or (None) some of the values within `spread` of `value`."""
        low, high = value - spread, value + spread
        if self.contains(low) and self.contains(high):
            return True
        outside = high <= self.low or low >= self.high if self.strict else high < self.low or low > self.high
        return False if outside else None


def _number(digits: str, suffix: str | None) -> float:
    return float(digits.replace(",", "").replace("_", "")) / (100 if suffix == "%" else 1)


@dataclass(frozen=True)
class Claim:
    """One checkable statement of a paper.

    Attributes:
        name: What is measured, in a few words; a recipe measures a claim by this name.
        published: The paper's figure, in its own words.
        expect: What is expected at the scale of the recipe, written before measuring; see
            `Expectation.parse`.
        scope: Which runs can measure it: ``""`` for the ordinary run, else the name of the data that `--data`
            must give, or `FURTHER` for arms that ``--all`` runs besides. A claim of another scope than the
            run's is shown as such and does not count.
    """

    name: str
    published: str
    expect: str
    scope: str = ""

    def __post_init__(self) -> None:
        Expectation.parse(self.expect)

    @property
    def expectation(self) -> Expectation:
        """The parsed expectation."""
        return Expectation.parse(self.expect)


@dataclass(frozen=True)
class Measured:
    """A measured value of a claim.

    Attributes:
        value: The value.
        spread: Half width of what noise leaves open (seeds, confidence interval); 0 if there is none.
        note: How it was measured, where that needs saying.
    """

    value: float
    spread: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """A claim with what was measured of it.

    Attributes:
        claim: The claim.
        measured: The measured value, or None.
        counts: Whether the claim belongs to the scope of the run.
    """

    claim: Claim
    measured: Measured | None
    counts: bool

    @property
    def holds(self) -> bool | None:
        """True, False, or None where it was not measured or noise spans the threshold."""
        if self.measured is None:
            return None
        return self.claim.expectation.holds(self.measured.value, self.measured.spread)

    @property
    def state(self) -> str:
        """One phrase for tables."""
        if not self.counts:
            if self.claim.scope == FURTHER:
                return "with --all only"
            return "full scale only" if self.claim.scope else "without --data only"
        if self.measured is None:
            return "not measured"
        return {True: "holds", False: "does not hold", None: "within the noise"}[self.holds]


def verdict(outcomes: Iterable[Outcome]) -> Verdict:
    """The verdict that the counting claims allow.

    All hold: reproduced. None holds: not reproduced. Some do: partly reproduced. An undecided claim (not
    measured, or its noise spans the threshold) makes it inconclusive, unless the others already make it
    partly reproduced whichever way the undecided ones fall.
    """
    states = [outcome.holds for outcome in outcomes if outcome.counts]
    if True in states and False in states:
        return Verdict.PARTLY
    if not states or None in states:
        return Verdict.INCONCLUSIVE
    return Verdict.REPRODUCED if states[0] else Verdict.NOT
