"""What would decide a claim that noise leaves open."""

from __future__ import annotations

import pytest

from netwright.papers.undecided import undecided


def document(*claims: tuple[str, float, float, str]) -> dict[str, object]:
    return {
        "claims": [
            {"name": f"claim {i}", "expected": e, "measured": m, "spread": s, "state": state}
            for i, (e, m, s, state) in enumerate(claims)
        ]
    }


def test_only_open_claims_are_told() -> None:
    found = document((">= 0", 1.0, 0.5, "holds"), (">= 0", -1.0, 0.5, "does not hold"))
    assert undecided(found) == []


@pytest.mark.parametrize(
    ("expected", "value", "spread", "times"),
    [(">= 0", 0.1, 0.3, 9), ("< 1", 0.5, 1.0, 4), ("within 0.01 of 0", 0.02, 0.02, 4), ("> 0", 0.1, 0.1, 1)],
)
def test_repetitions_that_would_decide(expected: str, value: float, spread: float, times: int) -> None:
    (line,) = undecided(document((expected, value, spread, "within the noise")))
    assert f" {times} times the repetitions" in line


def test_a_mean_on_the_bound_is_never_decided() -> None:
    (line,) = undecided(document((">= 0", 0.0, 0.2, "within the noise")))
    assert "would not decide" in line and "reaches over 0" in line
