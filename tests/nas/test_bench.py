"""Tables of exhaustively trained spaces: what they hold, how they are read, what they refuse."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from netwright.errors import DataError, UsageError
from netwright.nas import BenchEntry, Categorical, Choice, Ordinal, SearchSpace, Subset, TabularBench, benches
from netwright.nas.ranking import LEAST_CEILING, kendall, noise_ceiling


def table():
    space = SearchSpace([Categorical("op", ("a", "b")), Ordinal("width", (4, 8)), Subset("pools", 3, 2)])
    rng = np.random.default_rng(0)
    entries = []
    for i, choice in enumerate(space.enumerate()):
        accuracies = tuple(np.round(0.5 + 0.02 * i + 0.005 * rng.normal(size=4), 6).tolist())
        entries.append(BenchEntry(choice, 100 - i, 10 + i, accuracies))
    return TabularBench("toy", space, (0, 1, 2, 3), tuple(entries), {"steps": 7})


def test_what_is_asked_of_a_table_is_what_was_measured():
    bench = table()
    assert len(bench) == 12 and bench.whole and bench.table.shape == (12, 4)
    for entry in bench.entries:
        assert bench[dict(entry.choice)] is entry
        assert entry.accuracy == pytest.approx(np.mean(entry.accuracies))
        assert bench.regret(entry.choice) == pytest.approx(bench.truth.max() - entry.accuracy)
    best = bench.choices[int(bench.truth.argmax())]
    assert bench.regret(best) == 0
    assert bench.ceiling == noise_ceiling(bench.table)
    assert bench.noise == pytest.approx(np.sqrt(np.mean([np.var(r, ddof=1) for r in bench.table])))


def test_members_of_a_choice_may_come_in_any_order():
    bench = table()
    assert bench.number({"op": "b", "width": 8, "pools": [2, 0]}) == bench.number(
        {"op": "b", "width": 8, "pools": (0, 2)}
    )


def test_scores_are_reported_beside_the_ceiling_and_the_costs():
    bench = table()
    report = bench.report(lambda choice: bench[choice].accuracies[0], k=3)
    assert report.kendall.value == pytest.approx(kendall(bench.table[:, 0], bench.truth))
    assert report.ceiling == bench.ceiling and report.networks == 12
    assert report.macs.value == pytest.approx(kendall(-bench.macs, bench.truth))
    assert bench.report(bench.truth).kendall.value == pytest.approx(1)


def test_a_table_comes_back_from_text_and_file(tmp_path):
    bench = table()
    again = TabularBench.from_json(bench.to_json())
    assert again == bench and again.settings == {"steps": 7}
    assert TabularBench.read(bench.write(tmp_path / "t.json")) == bench
    assert len(bench.to_json().splitlines()) == len(bench) + 9  # one network a line


def test_some_of_the_networks_are_a_table_too():
    bench = table()
    some = bench.restricted(bench.choices[:3])
    assert len(some) == 3 and not some.whole and some.entries == bench.entries[:3]
    with pytest.raises(UsageError, match="not whole"):
        some[bench.choices[5]]


def test_tables_that_contradict_themselves_are_refused(tmp_path):
    bench = table()
    with pytest.raises(DataError, match="comes twice"):
        dataclasses.replace(bench, entries=bench.entries + bench.entries[:1])
    with pytest.raises(DataError, match="3 accuracies for 4 seeds"):
        short = dataclasses.replace(bench.entries[0], accuracies=(0.1, 0.2, 0.3))
        dataclasses.replace(bench, entries=(short,))
    with pytest.raises(DataError, match="none of the space"):
        wrong = dataclasses.replace(bench.entries[0], choice=Choice({"op": "c", "width": 4, "pools": (0, 1)}))
        dataclasses.replace(bench, entries=(wrong,))
    data = json.loads(bench.to_json())
    for key in ("space", "entries", "seeds"):
        with pytest.raises(DataError, match="no table of a bench"):
            TabularBench.from_json(json.dumps({k: v for k, v in data.items() if k != key}))
    with pytest.raises(DataError, match="no table of a bench"):
        TabularBench.from_json("[")
    with pytest.raises(DataError, match="cannot be read"):
        TabularBench.read(tmp_path / "none.json")
    with pytest.raises(UsageError, match="no table 'cell-65'"):
        TabularBench.load("cell-65")


@pytest.mark.parametrize("name", benches())
def test_the_tables_that_come_along_are_whole(name):
    bench = TabularBench.load(name)
    assert bench.name == name and bench.whole and len(bench.seeds) >= 3
    assert bench.table.min() > 0.1 and bench.table.max() < 1
    assert len(set(bench.macs)) > 1


def test_every_table_ranks_itself_well_enough_to_judge_by():
    assert min(TabularBench.load(name).ceiling for name in benches()) >= LEAST_CEILING
