"""`kill -9` at random moments: nothing is lost, repeated or half-written, and the front is the same."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KILLS = 10
COMMAND = "shape resnet8 --data digits --trials 8 --epochs 4 --recovery 1 --seed 5 --quiet".split()
pytestmark = pytest.mark.slow


def start(out: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-c", "from netwright.cli import main; main()", *COMMAND, "--out", str(out)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def decided(out: Path) -> list[dict[str, Any]]:
    """What the search decided and what the test examples said; times differ from run to run."""
    document = json.loads((out / "front.json").read_text())
    timed = {"latency", "recommended", "misses"}
    return [{k: v for k, v in row.items() if k not in timed} for row in document["front"]]


def finished(out: Path) -> dict[int, tuple[float, ...]]:
    """Number -> values of every finished trial of the study."""
    if not (out / "study.db").exists():
        return {}
    with sqlite3.connect(f"file:{out / 'study.db'}?mode=ro", uri=True, timeout=30) as base:
        try:
            rows = base.execute(
                "select t.number, v.value from trials t join trial_values v on t.trial_id = v.trial_id "
                "where t.state = 'COMPLETE' order by t.number, v.objective"
            ).fetchall()
        except sqlite3.OperationalError:  # killed before the tables were made
            return {}
    found: dict[int, tuple[float, ...]] = {}
    for number, value in rows:
        found[number] = (*found.get(number, ()), value)
    return found


def whole(out: Path) -> None:
    """Every file with its final name can be read."""
    for path in out.rglob("*.json"):
        if not path.name.startswith("."):
            json.loads(path.read_text())
    for path in out.rglob("*.safetensors"):
        if not path.name.startswith("."):
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                assert list(file.keys())
    for path in out.rglob("*.onnx"):
        if not path.name.startswith("."):
            import onnx

            onnx.checker.check_model(onnx.load(path))


def test_killed_runs_resume_to_the_same_front(tmp_path: Path) -> None:
    straight = tmp_path / "straight"
    process = start(straight)
    _, errors = process.communicate(timeout=600)
    assert process.returncode in (0, 3), errors.decode()
    out, draw, kills = tmp_path / "killed", random.Random(7), 0
    known: dict[int, tuple[float, ...]] = {}
    for _ in range(60):
        process = start(out)
        try:
            _, errors = process.communicate(timeout=draw.uniform(3, 14) if kills < KILLS else 600)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            whole(out)
            now = finished(out)
            assert {n: now.get(n) for n in known} == known, "a finished trial was lost or repeated"
            known = now
            continue
        assert process.returncode in (0, 3), errors.decode()
        if kills >= KILLS:
            break
        # It finished before enough kills: begin again beside it.
        whole(out)
        assert decided(out) == decided(straight)
        out, known = tmp_path / f"killed-{kills}", {}
    assert kills >= KILLS
    assert decided(out) == decided(straight)
    assert not [p for p in out.rglob(".*") if p.is_file()], "temporary files were left"
    assert len(finished(out)) == len(finished(straight))
