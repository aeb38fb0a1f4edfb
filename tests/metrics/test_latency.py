from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from netwright.errors import ArtefactError, DataError, ModelError, UsageError
from netwright.metrics import latencies, latency, net_memory, peak_memory, quartiles
from netwright.quantization import export_onnx


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@pytest.fixture(scope="module")
def big() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.Linear(2048, 10))


@pytest.fixture(scope="module")
def files(small: nn.Module, big: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, x = tmp_path_factory.mktemp("onnx"), torch.randn(2, 64)
    return {n: export_onnx(m, x, folder / f"{n}.onnx").path for n, m in (("small", small), ("big", big))}


def test_smaller_network_is_faster_than_the_bigger_in_both_runtimes(
    small: nn.Module, big: nn.Module, files: dict[str, Path]
) -> None:
    x = torch.randn(1, 64)
    for first, second, runtime in ((small, big, "torch"), (files["small"], files["big"], "onnxruntime")):
        measured = latency(first, x, against=second, min_seconds=0.05)
        assert measured.ratio is not None
        assert measured.ratio < 0.8
        assert measured.speedup == pytest.approx(1 / measured.ratio)
        assert measured.q1_ms <= measured.median_ms <= measured.q3_ms
        assert measured.ratio_q1 <= measured.ratio <= measured.ratio_q3  # type: ignore[operator]
        assert (measured.runtime, measured.threads, measured.batch) == (runtime, 1, 1)
        assert json.loads(json.dumps(measured.to_dict()))["runs"] >= 30


def test_both_floors_of_the_number_of_runs_hold(files: dict[str, Path]) -> None:
    few = latency(files["small"], torch.randn(4, 64), min_runs=40, min_seconds=0)
    assert few.runs >= 40
    assert few.batch == 4
    assert few.ratio is None
    begun = time.perf_counter()
    long = latency(files["small"], torch.randn(1, 64), min_runs=1, min_seconds=0.05)
    # Whatever else runs on the machine, what was timed lies within the call.
    assert time.perf_counter() - begun >= 0.05
    assert long.runs > 1


def test_many_networks_refer_to_one_baseline(small: nn.Module, files: dict[str, Path]) -> None:
    measured = latencies({"torch": small, **files}, torch.randn(1, 64), baseline="big", min_seconds=0.02)
    assert list(measured) == ["torch", "small", "big"]
    assert measured["big"].ratio == 1
    with pytest.raises(UsageError, match="'huge'"):
        latencies(files, torch.randn(1, 64), baseline="huge")
    assert latencies({}, torch.randn(1, 64)) == {}


def test_nothing_of_the_process_is_changed(small: nn.Module) -> None:
    small.train()
    threads = torch.get_num_threads()
    latency(small, {"input": torch.randn(1, 64)}, threads=threads + 1, min_runs=3, min_seconds=0)
    assert torch.get_num_threads() == threads
    assert small.training
    assert small[0].training


def test_what_cannot_be_measured_is_refused(small: nn.Module, files: dict[str, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_text("x")
    with pytest.raises(ArtefactError, match=r"bad\.onnx"):
        latency(bad, torch.randn(1, 64))
    with pytest.raises(ModelError, match="1, 63"):
        latency(small, torch.randn(1, 63))
    with pytest.raises(DataError, match="1x63"):
        latency(files["small"], torch.randn(1, 63))
    with pytest.raises(UsageError, match="runs in torch"):
        latency(small, torch.randn(1, 64), runtime="onnxruntime")
    with pytest.raises(UsageError, match="threads=0"):
        latency(small, torch.randn(1, 64), threads=0)


def test_quartiles() -> None:
    assert quartiles([3.0]) == (3, 3, 3)
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2, 3, 4)


def test_peak_memory_sees_an_allocation() -> None:
    measured = peak_memory(bytearray, 200_000_000)
    assert 190_000_000 < measured.bytes < 300_000_000
    assert measured.process_bytes > measured.bytes


def test_memory_of_a_network_holds_its_weights(big: nn.Module, files: dict[str, Path]) -> None:
    weights = files["big"].stat().st_size
    x = torch.randn(1, 64)
    assert net_memory(files["big"], x).bytes > weights
    assert net_memory(big, x).bytes > weights
    with pytest.raises(DataError, match="1x63"):
        net_memory(files["big"], torch.randn(1, 63))
