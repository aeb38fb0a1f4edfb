from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.shaping.standin import SPACE, Make, StandIn, outcome

from netwright.errors import ArtefactError, StructureError, UsageError
from netwright.shaping.candidate import Candidate, Outcome, Space
from netwright.shaping.dominance import front_of
from netwright.shaping.propose import Record, propose
from netwright.shaping.study import Study, run
from netwright.shaping.workers import Inline, Processes, pool

TRIALS = 26


def fill(
    folder: Path, trials: int = TRIALS, *, sampler: str = "tpe", stop: int | None = None
) -> list[Record]:
    """Run a study with one worker; with `stop`, leave it after so many evaluations."""
    study = Study(folder / "study.db", "test", SPACE)
    count = 0

    def started(slot: int, candidate: Candidate) -> None:
        nonlocal count
        count += 1
        if stop is not None and count > stop:
            raise KeyboardInterrupt

    try:
        return run(study, Inline(StandIn(folder / "log")), trials, seed=3, sampler=sampler, started=started)
    except KeyboardInterrupt:
        return study.finished()


def facts(records: list[Record]) -> list[tuple[object, ...]]:
    return [(r.slot, r.candidate, r.outcome, r.failure) for r in records]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_study_stopped_anywhere_and_resumed_is_the_same(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = fill(tmp_path / "whole", sampler=sampler)
    for stop in (1, 4, 0, 9, 5, 3):
        fill(tmp_path / "parts", sampler=sampler, stop=stop)
    parts = fill(tmp_path / "parts", sampler=sampler)
    assert facts(parts) == facts(whole)
    assert front_of(parts) == front_of(whole)
    lines = (tmp_path / "parts" / "log").read_text().split()
    assert len(lines) == TRIALS, "no finished trial is repeated"


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.shaping.standin import SPACE, StandIn
from netwright.shaping.study import Study, run
from netwright.shaping.workers import Inline
folder = Path({folder!r})
study = Study(folder / "study.db", "test", SPACE)
run(study, Inline(StandIn(folder / "log", seconds=0.02)), {trials}, seed=3)
"""


def test_a_study_killed_at_random_moments_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = fill(tmp_path / "whole", 14)
    root = str(Path(__file__).parents[2])
    script = SCRIPT.format(root=root, folder=str(tmp_path / "killed"), trials=14)
    for tenths in (9, 11, 13):
        process = subprocess.Popen([sys.executable, "-c", script])
        time.sleep(tenths / 4)
        process.kill()
        process.wait()
    killed = fill(tmp_path / "killed", 14)
    assert facts(killed) == facts(whole)


def test_proposals_are_a_pure_function(tmp_path: Path) -> None:
    records = [Record(i, c, outcome(c)) for i, c in enumerate(SPACE.ladder())]
    first = [propose(SPACE, records, [], slot, seed=1) for slot in range(20, 26)]
    again = [propose(SPACE, records, [], slot, seed=1) for slot in range(20, 26)]
    other = [propose(SPACE, records, [], slot, seed=2) for slot in range(20, 26)]
    assert first == again
    assert first != other
    for proposal in first:
        assert SPACE.share[0] <= proposal.candidate.share <= SPACE.share[1]
        assert not proposal.candidate.dense
    with pytest.raises(UsageError, match="no sampler"):
        propose(SPACE, records, [], 20, seed=1, sampler="guess")


def test_the_ladder_begins_with_the_dense_network_in_every_precision() -> None:
    ladder = SPACE.ladder()
    assert [(c.dense, c.bits) for c in ladder[:2]] == [(True, 32), (True, 8)]
    assert len({c.key for c in ladder}) == len(ladder) / 2
    assert all(Candidate.from_json(c.to_json()) == c for c in ladder)


def test_a_candidate_that_fails_is_kept_as_failed_and_not_repeated(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", "test", SPACE)
    evaluator = StandIn(tmp_path / "log", fail_below=0.2)
    records = run(study, Inline(evaluator), 14, seed=0)
    failed = [r for r in records if r.outcome is None]
    assert failed
    assert all("too small" in (r.failure or "") for r in failed)
    assert run(study, Inline(StandIn(tmp_path / "again")), 14, seed=0) == records
    assert not (tmp_path / "again").exists()


def test_a_dense_network_that_fails_ends_the_study(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", "test", SPACE)
    with pytest.raises(StructureError, match="too small"):
        run(study, Inline(StandIn(tmp_path / "log", fail_below=2.0)), 14, seed=0)
    assert study.finished() == []


def test_more_trials_continue_a_study(tmp_path: Path) -> None:
    first = fill(tmp_path, 16)
    more = fill(tmp_path, 20)
    assert more[:16] == first
    assert len(more) == 20


def test_a_full_disk_ends_the_study_and_keeps_what_is_done(tmp_path: Path) -> None:
    class Full:
        calls = 0

        def __call__(self, candidate: Candidate) -> Outcome:
            self.calls += 1
            if self.calls > 5:
                raise ArtefactError("no space left on the disk while writing x")
            return outcome(candidate)

    study = Study(tmp_path / "study.db", "test", SPACE)
    with pytest.raises(ArtefactError, match="no space"):
        run(study, Inline(Full()), 14, seed=0)
    assert len(study.finished()) == 5


@pytest.mark.parametrize(
    "content", [b"this is not a database" * 100, b"\x00" * 4096, b"SQLite format 3\x00" + b"x" * 5000]
)
def test_a_corrupt_study_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"study\.db is not a readable study"):
        Study(tmp_path / "study.db", "test", SPACE).finished()


def test_a_truncated_study_is_one_clear_line(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    whole = (tmp_path / "study.db").read_bytes()
    (tmp_path / "study.db").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match="not a readable study"):
        Study(tmp_path / "study.db", "test", SPACE).finished()


def test_the_study_is_an_ordinary_optuna_study(tmp_path: Path) -> None:
    import optuna

    fill(tmp_path, 16)
    study = optuna.load_study(study_name="test", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(study.trials) == 16
    assert study.directions == [optuna.study.StudyDirection.MINIMIZE] * 2
    assert study.best_trials
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_storage_that_cannot_be_reached_is_one_clear_line() -> None:
    with pytest.raises(ArtefactError) as caught:
        Study("sqlite:////no/such/folder/study.db", "test", SPACE)
    assert "\n" not in str(caught.value)


def test_several_workers_evaluate_every_slot_once(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", "test", SPACE)
    with pool(Make(StandIn(tmp_path / "log")), 2) as crew:
        records = run(study, crew, 16, seed=0)
    assert [r.slot for r in records] == list(range(16))
    ladder = SPACE.ladder()
    assert [r.candidate for r in records[: len(ladder)]] == ladder
    assert len((tmp_path / "log").read_text().split()) == 16


def test_a_worker_that_dies_loses_nothing(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", "test", SPACE)
    with pool(Make(StandIn(tmp_path / "log", die_once=True)), 2) as crew:
        assert isinstance(crew, Processes)
        records = run(study, crew, 8, seed=0)
    assert [r.slot for r in records] == list(range(8))
    assert all(r.outcome is not None for r in records)
    assert (tmp_path / "log.died").exists() or (tmp_path / "log").with_suffix(".died").exists()


@pytest.mark.slow
def test_a_local_ray_evaluates_every_slot_once(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    study = Study(tmp_path / "study.db", "test", SPACE)
    with pool(Make(StandIn(tmp_path / "log")), 2, ray="local") as crew:
        records = run(study, crew, 8, seed=0)
    assert [r.slot for r in records] == list(range(8))
    assert all(r.outcome is not None for r in records)


def test_a_space_without_rungs_is_the_dense_network_alone() -> None:
    assert [c.dense for c in Space(rungs=()).ladder()] == [True, True]
