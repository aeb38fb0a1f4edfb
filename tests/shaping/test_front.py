from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.shaping.standin import SPACE, outcome

from netwright.errors import ArtefactError, BudgetError
from netwright.shaping import final, report
from netwright.shaping.answers import Answers
from netwright.shaping.dominance import front_of, nondominated
from netwright.shaping.front import Front
from netwright.shaping.propose import Record
from netwright.shaping.reading import read_front
from netwright.shaping.state import Folder
from netwright.structure.budget import Budget

INFO: dict[str, Any] = {
    "netwright": "0",
    "study": "abc",
    "model": "net",
    "data": "set",
    "shape": [1, 8, 8],
    "quality": "test accuracy",
    "metric": "latency",
    "space": "3 of 4 axes can shrink",
    "identity": {},
    "baseline": {"trained": True, "seconds": 1.0, "validation_accuracy": 0.92},
    "environment": {"command": "netwright shape", "processor": "cpu", "cores": 2, "threads": 1, "seed": 0},
    "seconds": 12.0,
}


def records(folder: Path) -> list[Record]:
    found = []
    for slot, candidate in enumerate(SPACE.ladder()):
        record = Record(slot, candidate, outcome(candidate))
        path = folder / outcome(candidate).file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{candidate.key}{candidate.bits}".encode())
        (path.parent / "model.safetensors").write_bytes(b"w")
        found.append(record)
    return found


class Bench:
    """Times and tests by arithmetic; counts how often it is asked."""

    def __init__(self, done: list[Record], folder: Path) -> None:
        self.by_file = {str(folder / r.outcome.file): r.outcome for r in done if r.outcome}
        self.measured = self.tested = 0

    def measure(self, files: Any, baseline: str) -> dict[str, dict[str, Any]]:
        self.measured += 1
        result = {}
        for name, path in files.items():
            time = 0.1 + self.by_file[str(path)].cost
            result[name] = {"median_ms": time, "q1_ms": time, "q3_ms": time, "runs": 30, "ratio": time / 1.1}
        return result

    def test(self, path: Path) -> dict[str, Any]:
        self.tested += 1
        found = self.by_file[str(path)]
        change = {"difference": 0.08 - found.error, "low": 0.05 - found.error, "high": 0.11 - found.error}
        return {"accuracy": 1 - found.error, "agreement": found.agreement, "count": 100, "change": change}

    def answers(self, record: Record) -> Answers:
        """As few validation examples as the dense network gets one or two of wrong; surer where dearer."""
        assert record.outcome is not None
        right = torch.arange(20) >= round(20 * record.outcome.error)
        return Answers(right, 1.0 - record.outcome.cost + 0.01 * torch.sin(torch.arange(20.0)))


def finish(folder: Path, budget: str, *, noisy: bool = False) -> tuple[Front, Bench]:
    done = records(folder)
    bench = Bench(done, folder)
    result = final.finish(
        Folder(folder),
        done,
        Budget.parse(budget),
        INFO,
        measure=bench.measure,
        test=bench.test,
        answers=bench.answers if noisy else lambda _: None,
    )
    return result, bench


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20)


@given(points)
def test_nondominated_is_what_the_definition_says(pairs: list[tuple[int, int]]) -> None:
    kept = [pairs[i] for i in nondominated([tuple(map(float, p)) for p in pairs])]
    naive = {p for p in pairs if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in pairs)}
    assert set(kept) == naive
    assert len(kept) == len(naive)


def test_the_front_is_sorted_and_holds_no_failed_trial(tmp_path: Path) -> None:
    done = [*records(tmp_path), Record(99, SPACE.ladder()[3], None, failure="no")]
    front = front_of(done)
    costs = [r.outcome.cost for r in front if r.outcome]
    assert len(costs) == len(front) >= 5
    assert costs == sorted(costs)
    errors = [r.outcome.error for r in front if r.outcome]
    assert errors == sorted(errors, reverse=True)


def test_outputs_and_the_network_to_take(tmp_path: Path) -> None:
    front, _ = finish(tmp_path, "latency<=0.5, accuracy>=-2%")
    assert front.met
    pick = front.recommended
    assert pick is not None
    assert pick.ratio <= 0.5
    assert pick.outcome.error <= front.dense.outcome.error + 0.02
    better = [n for n in front if not n.misses and n.outcome.error < pick.outcome.error]
    assert better == []
    for network in front:
        assert network.onnx.read_bytes()
        assert network.weights.exists()
    rows = list(csv.DictReader((tmp_path / "front.csv").open()))
    assert {r["name"] for r in rows} == {n.name for n in front.networks}
    document = json.loads((tmp_path / "front.json").read_text())
    assert document["recommended"] == pick.name
    assert len(document["front"]) == len(front)
    assert (tmp_path / "models" / "README.md").read_text().count(".onnx") >= 1
    assert not list(tmp_path.rglob(".*tmp*"))


def test_noise_is_shown_and_read_again(tmp_path: Path) -> None:
    plain, _ = finish(tmp_path / "plain", "none")
    front, _ = finish(tmp_path / "noisy", "none", noisy=True)
    assert {n.slot for n in plain} < {n.slot for n in front}
    kept = {n.name: n.reasons for n in front if n.slot not in {m.slot for m in plain}}
    assert kept == {n.name: n.reasons for n in front if n.reasons}
    assert any(n.like for n in front)
    assert all(front[n.like].outcome.cost < n.outcome.cost for n in front if n.like)
    report.write(Folder(tmp_path / "noisy"), front)
    again = read_front(tmp_path / "noisy")
    assert [(n.name, n.reasons, n.like, n.change) for n in again.networks] == [
        (n.name, n.reasons, n.like, n.change) for n in front.networks
    ]
    text = (tmp_path / "noisy" / "report.html").read_text()
    for network in front:
        assert report.remark(network) in text
    assert report.legend(front) in text
    assert "Change<br>from dense" in text
    assert report.legend(plain) == ""


def test_nothing_is_measured_or_tested_twice(tmp_path: Path) -> None:
    first, bench = finish(tmp_path, "none")
    assert bench.measured == 1
    assert bench.tested == len(first.networks)
    again, bench = finish(tmp_path, "none")
    assert bench.measured == bench.tested == 0
    assert again.to_json() == first.to_json()


def test_a_budget_that_nothing_meets(tmp_path: Path) -> None:
    front, _ = finish(tmp_path, "latency<=0.15, accuracy>=+0%")
    assert not front.met
    assert front.nearest in list(front)
    assert front.nearest.misses
    assert json.loads((tmp_path / "front.json").read_text())["met"] is False


def test_best_within_other_limits(tmp_path: Path) -> None:
    front, _ = finish(tmp_path, "none")
    assert front.best(latency="0.4 ms").latency_ms <= 0.4
    assert front.best(macs=0.3).outcome.macs <= 0.3 * front.dense.outcome.macs
    assert front.best(macs=0.3).outcome.error >= front.best(macs=0.6).outcome.error
    with pytest.raises(BudgetError, match="nearest"):
        front.best(latency="0.001 ms")


def test_models_of_an_earlier_front_are_removed(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "t99-old.onnx").write_bytes(b"old")
    front, _ = finish(tmp_path, "none")
    names = {p.stem for p in (tmp_path / "models").glob("*.onnx")}
    assert names == {n.name for n in front.networks}


def test_a_folder_belongs_to_one_study(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    assert folder.check({"model": "a", "seed": 0}) is False
    assert not (tmp_path / "out").exists()
    assert folder.claim({"model": "a", "seed": 0}, {}) is False
    assert folder.claim({"model": "a", "seed": 0}, {}) is True
    with pytest.raises(ArtefactError, match=r"another study \(its seed differs\)"):
        folder.claim({"model": "a", "seed": 1}, {})
    (tmp_path / "out" / "run.json").write_text("{")
    with pytest.raises(ArtefactError, match="corrupt"):
        folder.claim({"model": "a", "seed": 0}, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(ArtefactError, match="not empty"):
        Folder(tmp_path / "other").check({"model": "a"})
    with pytest.raises(ArtefactError, match="is a file"):
        Folder(tmp_path / "other" / "thesis.tex").check({"model": "a"})


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with Folder(tmp_path).lock(), pytest.raises(ArtefactError, match="another run"), Folder(tmp_path).lock():
        pass
    with Folder(tmp_path).lock():
        pass
