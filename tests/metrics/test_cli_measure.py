from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from netwright.cli import main
from netwright.cli.measure import format_bytes, parse_shape
from netwright.data import load
from netwright.errors import UsageError
from netwright.quantization import export_onnx


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    return export_onnx(model, load("digits").example(), tmp_path_factory.mktemp("onnx") / "net.onnx").path


def _main(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def _json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert _main(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_measure_two_files_with_data(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "measure", file, "--against", file, "--data", "digits")["networks"]
    assert len(found) == 2
    assert 0.5 < found[0]["latency"]["ratio"] < 2
    assert found[0]["bytes"] == file.stat().st_size
    assert found[0]["memory"]["bytes"] > 0
    accuracy = found[0]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert found[0]["agreement"]["top1"] == 1


def test_quantize_compares_the_two_files(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "int8.onnx"
    found = _json(capsys, "quantize", file, "--data", "digits", "-o", target, "--calibration", 64)
    assert found["output"] == str(target)
    first, second = found["networks"]
    assert first["bytes"] == target.stat().st_size < second["bytes"]
    assert first["agreement"]["top1"] > 0.9
    assert abs(first["accuracy"]["value"] - second["accuracy"]["value"]) < 0.1
    assert _main("quantize", file, "--data", "digits", "-o", target, "--calibration", 32) == 0
    assert "same first answer" in capsys.readouterr().out


def test_export_and_measure_a_model_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "net.onnx"
    done = _json(capsys, "export", "resnet8", "-o", target, "--input-shape", "1,8,8", "--num-classes", 5)
    assert done["bytes"] == target.stat().st_size
    assert done["max_abs_diff"] < 1e-4
    found = _json(capsys, "measure", "resnet8", "--runtime", "torch", "--input-shape", "1,8,8")["networks"]
    assert found[0]["latency"]["runtime"] == "torch"


@pytest.mark.parametrize(
    "arguments",
    [
        ("measure", "none.onnx"),
        ("measure", "FILE", "--input-shape", "3;4"),
        ("measure", "FILE", "--input-shape", "3,8,8"),
        ("measure", "FILE", "--runtime", "torch"),
        ("measure", "FILE", "--runtime", "tvm"),
        ("quantize", "none.onnx", "--data", "digits", "-o", "out.onnx"),
        ("quantize", "FILE", "--data", "digits", "--method", "magic", "-o", "out.onnx"),
        ("quantize", "FILE", "--data", "digits", "-o", "FILE"),
        ("export", "FILE", "-o", "out.onnx"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: tuple[str, ...],
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = file.read_bytes()
    assert _main(*(str(file) if a == "FILE" else a for a in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("netwright: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert file.read_bytes() == before


def test_shapes_and_sizes_as_text() -> None:
    assert parse_shape("3,224,224") == parse_shape("3x224x224") == (3, 224, 224)
    assert parse_shape(None) is None
    for text in ("", "3,", "0,1", "a"):
        with pytest.raises(UsageError, match="input shape"):
            parse_shape(text)
    assert [format_bytes(n) for n in (12, 1500, 46_700_000, 5e9)] == ["12 B", "1.5 kB", "46.7 MB", "5 GB"]
