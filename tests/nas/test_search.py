"""Searches as ordinary Optuna studies: prefixes, resuming, fronts, refusals."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from netwright.errors import UsageError
from netwright.nas import search


class Line:
    """Numbers from 0 to 1."""

    def suggest(self, trial: Any) -> float:
        return trial.suggest_float("x", 0, 1)


def test_a_longer_random_search_begins_with_the_shorter_one() -> None:
    short, long = (search(Line(), [abs], trials=n, seed=3) for n in (5, 20))
    assert [t.candidate for t in short.trials] == [t.candidate for t in long.trials[:5]]
    assert [t.candidate for t in search(Line(), [abs], trials=5, seed=4).trials] != [
        t.candidate for t in short.trials
    ]


def test_the_best_so_far_never_rises_and_ends_at_the_best() -> None:
    found = search(Line(), [lambda x: (x - 0.4) ** 2], trials=30)
    curve = found.best_so_far
    assert all(a >= b for a, b in itertools.pairwise(curve))
    assert curve[0] == found.trials[0].values[0] and curve[-1] == found.best.values[0]
    assert found.best.candidate == min((t.candidate for t in found.trials), key=lambda x: (x - 0.4) ** 2)


def test_a_search_goes_on_where_it_ended(tmp_path: Path) -> None:
    whole = search(Line(), [abs], trials=12, seed=1)
    seen: list[float] = []

    def spied(x: float) -> float:
        seen.append(x)
        return x

    search(Line(), [spied], trials=5, seed=1, storage=tmp_path / "study.db")
    resumed = search(Line(), [spied], trials=12, seed=1, storage=tmp_path / "study.db")
    assert [t.candidate for t in resumed.trials] == [t.candidate for t in whole.trials]
    assert len(seen) == 12, "nothing is judged twice"


@pytest.mark.parametrize("strategy", ["random", "tpe", "nsga2"])
def test_the_front_holds_what_nothing_beats(strategy: str) -> None:
    found = search(Line(), [lambda x: x, lambda x: (1 - x) ** 2], strategy=strategy, trials=15)
    chosen = {t.number for t in found.front}
    for trial in found.trials:
        beaten = any(
            other.values != trial.values
            and all(a <= b for a, b in zip(other.values, trial.values, strict=True))
            for other in found.trials
        )
        assert (trial.number in chosen) == (not beaten)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError):
        search(Line(), [])
    with pytest.raises(UsageError):
        search(Line(), [abs], trials=0)
    with pytest.raises(UsageError, match="strategy"):
        search(Line(), [abs], strategy="oracle")
    with pytest.raises(UsageError, match="nan"):
        search(Line(), [lambda x: float("nan")], trials=1)
