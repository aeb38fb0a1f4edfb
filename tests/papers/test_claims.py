"""Expectations are parsed comparisons; the verdict follows from what was measured."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwright.errors import UsageError
from netwright.papers import Claim, Expectation, Measured, Outcome, Verdict, verdict

numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">= 50", (50, 51), (49.99,)),
        ("> 50", (50.01,), (50, 49)),
        ("<= 0.02", (0.02, -5), (0.021,)),
        ("< 2%", (0.019,), (0.02, 1)),
        (">= 4,000x", (4000,), (3999,)),
        (">= -1e-2", (-0.01, 0), (-0.011,)),
        ("within 0.03 of 0.376", (0.346, 0.376, 0.406), (0.345, 0.407)),
        ("within 0.03 of -.5", (-0.5,), (0.5,)),
        ("between 0.8 and 1.2", (0.8, 1.2), (0.79, 1.21)),
    ],
)
def test_expectations(text, inside, outside):
    expectation = Expectation.parse(text)
    assert all(expectation.holds(value) is True for value in inside)
    assert all(expectation.holds(value) is False for value in outside)


@pytest.mark.parametrize(
    "text",
    ["", "50", "about 50", ">= fifty", "within 0.1", "within -1 of 3", "between 2 and 1", ">= 50 or less"],
)
def test_what_is_no_expectation_is_refused(text):
    with pytest.raises(UsageError, match="no expectation"):
        Claim("c", "p", text)


@given(numbers, numbers, st.floats(0, 1e5), st.sampled_from([">=", ">", "<=", "<"]))
def test_noise_leaves_a_claim_open_exactly_when_it_spans_the_threshold(threshold, value, spread, sign):
    expectation = Expectation.parse(f"{sign} {threshold}")
    ends = {expectation.contains(value - spread), expectation.contains(value + spread)}
    assert expectation.holds(value, spread) is (ends.pop() if len(ends) == 1 else None)


def test_noise_wider_than_the_accepted_band_leaves_it_open():
    band = Expectation.parse("within 0.1 of 1")
    assert band.holds(1.0, 0.05) is True and band.holds(1.0, 0.5) is None and band.holds(2.0, 0.5) is False


def outcome(state, counts=True):
    value = {True: Measured(2.0), False: Measured(0.0), "noise": Measured(1.0, 0.5), None: None}[state]
    return Outcome(Claim("c", "p", ">= 1"), value, counts)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([True], Verdict.REPRODUCED),
        ([True, True, True], Verdict.REPRODUCED),
        ([False], Verdict.NOT),
        ([False, False], Verdict.NOT),
        ([True, False], Verdict.PARTLY),
        ([True, None], Verdict.INCONCLUSIVE),
        ([True, "noise"], Verdict.INCONCLUSIVE),
        ([False, "noise"], Verdict.INCONCLUSIVE),
        ([None], Verdict.INCONCLUSIVE),
        ([True, False, "noise"], Verdict.PARTLY),
        ([True, False, None], Verdict.PARTLY),
        ([], Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts(states, expected):
    assert verdict([outcome(state) for state in states]) is expected


def test_a_verdict_is_what_every_way_of_deciding_the_open_claims_gives():
    for states in itertools.product([True, False, "noise"], repeat=3):
        choices = [[True, False] if s == "noise" else [s] for s in states]
        ways = {verdict([outcome(s) for s in way]) for way in itertools.product(*choices)}
        expected = ways.pop() if len(ways) == 1 else Verdict.INCONCLUSIVE
        assert verdict([outcome(s) for s in states]) is expected


def test_claims_of_another_scope_do_not_count():
    outcomes = [outcome(True), outcome(None, counts=False), outcome(False, counts=False)]
    assert verdict(outcomes) is Verdict.REPRODUCED
    assert outcomes[1].state == "without --data only"
    assert Outcome(Claim("c", "p", "> 0", "imagenet"), None, False).state == "full scale only"
    assert [outcome(s).state for s in (True, False, "noise", None)] == [
        "holds",
        "does not hold",
        "within the noise",
        "not measured",
    ]
