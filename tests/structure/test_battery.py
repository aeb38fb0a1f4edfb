"""A part of the coverage battery that takes seconds: half of the channels goes, exactly, in place."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.battery import SETS, battery
from benchmarks.battery.case import Case
from benchmarks.battery.judge import judge
from tests.structure.nets import Net, conv, pair
from torch import nn

ROOT = Path(__file__).parents[2]
NEEDS = {"graph-": "torch_geometric", "huggingface/": "transformers", "classification/": "torchvision"}
SMALL = ("classification/resnet18", "classification/shufflenet_v2_x0_5", "classification/mnasnet0_5")
#: One of each kind: encoder, decoder with grouped queries and rotary tables, encoder-decoder, vision, scan.
TRANSFORMERS = tuple(f"huggingface/{n}" for n in ("albert", "llama", "bart", "swin", "mamba"))


def _chosen() -> list[Case]:
    wanted = [c for c in battery(["others"]) if c.name != "lstm-bidirectional-stacked"]
    wanted += [c for c in battery(["classification", "huggingface"]) if c.id in SMALL + TRANSFORMERS]
    return wanted


@pytest.mark.parametrize("case", _chosen(), ids=lambda c: c.id)
def test_half_of_the_channels_goes_in_place(case: Case) -> None:
    for part, package in NEEDS.items():
        if part in case.id and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    row = judge(case, "auto", 60.0)
    assert row["ok"], row.get("traceback", row["why"])
    assert row["how"] == "in place" and row["precision"] == "float64"
    assert row["kept"] <= 0.75 and row["error"] <= 1e-10 < row["change"]


def test_the_battery_has_the_sizes_it_says() -> None:
    pytest.importorskip("torchvision")
    counts = {name: len(battery([name])) for name in SETS}
    assert counts == {
        "classification": 80,
        "segmentation": 6,
        "detection": 12,
        "video": 9,
        "flow": 2,
        "timm": 98,
        "timm-larger": 20,
        "huggingface": 27,
        "others": 21,
    }


def _judged(model: nn.Module, *shape: int) -> dict[str, object]:
    return judge(Case("one", lambda: (model, torch.randn(shape)), "test"), "auto", 60.0)


def test_the_judge_says_what_is_wrong() -> None:
    image = (2, 3, 6, 6)
    assert _judged(pair(lambda m, x: x), *image)["ok"]
    frozen = _judged(nn.Conv2d(3, 5, 1), *image)
    assert (frozen["ok"], frozen["kind"]) == (False, "refused") and "no axis" in str(frozen["why"])
    large = Net(lambda m, x: m.b(m.a(x)), a=conv(3, 4), b=conv(4, 40, 3))
    large.register_parameter("rest", nn.Parameter(torch.randn(5000)))
    assert _judged(large, *image)["kind"] == "kept"
    vacuous = Net(lambda m, x: m.b(0 * m.a(x)), a=conv(3, 8), b=conv(8, 5))
    assert _judged(vacuous, *image)["kind"] == "vacuous"
    crash = judge(Case("one", lambda: 1 / 0, "test"), "auto", 60.0)  # type: ignore[arg-type,return-value]
    assert crash["kind"] == "crash" and "ZeroDivisionError" in str(crash["why"])
    slow = judge(Case("one", lambda: (pair(lambda m, x: x), torch.randn(image)), "test"), "auto", 1e-6)
    assert slow["kind"] == "time"


def test_a_run_is_resumed_from_its_file(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    file = tmp_path / "results.json"
    earlier = {"id": "others/gru", "set": "others", "name": "gru", "ok": True, "kept": 0.123}
    file.write_text(json.dumps({"networks": [earlier]}))
    command = [sys.executable, "benchmarks/coverage.py", "--set", "others", "--only", "others/[gl][rs]*[um]"]
    done = subprocess.run(
        [*command, "--json", str(file), "--resume"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(file.read_text())["networks"]}
    assert set(rows) == {"gru", "lstm"} and rows["gru"]["kept"] == 0.123 and rows["lstm"]["ok"]
    assert "2/2" in done.stdout.splitlines()[-1]
