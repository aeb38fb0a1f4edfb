"""Ranking quality: known values, ties, intervals, the ceiling that noise sets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.errors import UsageError
from netwright.nas import noise_ceiling, ranking_report
from netwright.nas.ranking import (
    bootstrap,
    kendall,
    pearson,
    precision_at_top_k,
    spearman,
    top_k_regret,
)

SCORES = st.lists(st.integers(0, 4), min_size=2, max_size=6)


def test_correlations_are_those_of_the_definitions() -> None:
    a, b = [1, 2, 2, 3, 5], [2, 1, 3, 3, 4]
    pairs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(5), 2)]
    agree = sum(x * y for x, y in pairs)
    assert kendall(a, b) == pytest.approx(
        agree / math.sqrt(sum(x != 0 for x, _ in pairs) * sum(y != 0 for _, y in pairs))
    )
    ranks = [1, 2.5, 2.5, 4, 5], [2, 1, 3.5, 3.5, 5]
    assert spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    for metric in (kendall, spearman, pearson):
        assert metric(a, a) == pytest.approx(1) and metric(a, [-v for v in a]) == pytest.approx(-1)
        assert math.isnan(metric([1, 1, 1], [1, 2, 3]))


@settings(max_examples=80)
@given(st.data())
def test_the_top_is_that_of_all_ways_to_break_ties(data: st.DataObject) -> None:
    truth = data.draw(SCORES)
    predicted = data.draw(st.lists(st.integers(0, 3), min_size=len(truth), max_size=len(truth)))
    k = data.draw(st.integers(1, len(truth)))

    def tops(scores: list[int]) -> list[set[int]]:
        orders = itertools.permutations(range(len(scores)))
        return [set(o[:k]) for o in orders if all(scores[a] >= scores[b] for a, b in itertools.pairwise(o))]

    mine, best = tops(predicted), tops(truth)
    regrets = [max(truth) - max(truth[i] for i in top) for top in mine]
    assert top_k_regret(predicted, truth, k) == pytest.approx(np.mean(regrets))
    shares = [len(a & b) / k for a in mine for b in best]
    assert precision_at_top_k(predicted, truth, k) == pytest.approx(np.mean(shares))


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        x = rng.normal(size=60)
        y = 0.6 * x + 0.8 * rng.normal(size=60)
        interval = bootstrap(lambda a, b: float(np.corrcoef(a, b)[0, 1]), x, y, resamples=200, seed=trial)
        assert interval.lo <= interval.value <= interval.hi
        covered += interval.lo <= 0.6 <= interval.hi
    assert 0.88 <= covered / 200 <= 0.99
    assert bootstrap(kendall, x, y, resamples=50) == bootstrap(kendall, x, y, resamples=50)


def test_the_ceiling_is_one_without_noise_and_none_without_signal() -> None:
    rng = np.random.default_rng(0)
    quality = rng.normal(size=(40, 1))
    assert noise_ceiling(np.repeat(quality, 4, axis=1)) == pytest.approx(1)
    assert abs(noise_ceiling(rng.normal(size=(40, 6)))) < 0.15
    ceilings = [noise_ceiling(quality + s * rng.normal(size=(40, 6))) for s in (0.1, 0.5, 2)]
    assert ceilings == sorted(ceilings, reverse=True)


def test_the_ceiling_takes_every_split_once() -> None:
    rng = np.random.default_rng(1)
    four = rng.normal(size=(20, 4))
    halves = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    by_hand = [kendall(four[:, list(a)].mean(1), four[:, list(b)].mean(1)) for a, b in halves]
    assert noise_ceiling(four) == pytest.approx(np.mean(by_hand))
    three = four[:, :3]
    by_hand = [kendall(three[:, a], three[:, b]) for a, b in itertools.combinations(range(3), 2)]
    assert noise_ceiling(three) == pytest.approx(np.mean(by_hand))
    many = rng.normal(size=(20, 12))
    assert noise_ceiling(many, splits=20) == noise_ceiling(many, splits=20)
    assert noise_ceiling(many, splits=20) != noise_ceiling(many, splits=20, seed=1)


def test_a_report_stands_beside_the_ceiling_and_the_costs() -> None:
    rng = np.random.default_rng(0)
    quality = rng.normal(size=50)
    table = quality[:, None] + 0.3 * rng.normal(size=(50, 6))
    noisy = quality + 0.4 * rng.normal(size=50)
    unrelated = rng.normal(size=50)
    report = ranking_report(noisy, table, unrelated, resamples=200)
    assert report.kendall.value == kendall(noisy, table.mean(1))
    assert report.ceiling == noise_ceiling(table) and report.conclusive and not report.too_good
    assert report.beats_macs and report.over_macs.value == pytest.approx(
        report.kendall.value - report.macs.value
    )
    assert "noise ceiling" in str(report) and "MACs alone" in str(report)
    by_cost = ranking_report(noisy, table, -noisy, resamples=200)
    assert by_cost.macs.value == by_cost.kendall.value and not by_cost.beats_macs
    noise = rng.normal(size=(50, 6))
    leak = ranking_report(noise.mean(1), noise, unrelated, resamples=200)
    assert leak.too_good and not leak.conclusive
    assert "inconclusive" in str(leak) and "leak" in str(leak)


@pytest.mark.parametrize(
    "make",
    [
        lambda: kendall([1, 2], [1, 2, 3]),
        lambda: kendall([1], [1]),
        lambda: kendall([1, math.nan], [1, 2]),
        lambda: top_k_regret([1, 2], [1, 2], 3),
        lambda: precision_at_top_k([1, 2], [1, 2], 0),
        lambda: bootstrap(kendall, [1, 2], [1, 2], level=1.5),
        lambda: noise_ceiling([[1], [2]]),
        lambda: ranking_report([1, 2, 3], [[1, 2], [2, 3]], [1, 2]),
    ],
)
def test_what_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(UsageError):
        make()
