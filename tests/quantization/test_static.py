from __future__ import annotations

import collections
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from netwright.data import Splits, load
from netwright.errors import ArtefactError, DataError, UsageError
from netwright.metrics import agreement, onnx_accuracy, onnx_logits, open_session, run_padded
from netwright.quantization import export_onnx, quantize_onnx
from netwright.train import Recipe, fit, recalibrate_


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load("digits")


@pytest.fixture(scope="module")
def source(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual network of 75 000 parameters, trained for a few seconds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            *(Block(32) for _ in range(4)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )
    fitted = fit(model, digits, Recipe(epochs=3, batch_size=64, lr=0.1, schedule="one-cycle"), device="cpu")
    return export_onnx(fitted.model, digits.example(), tmp_path_factory.mktemp("fp32") / "net.onnx").path


@pytest.mark.parametrize("calibrate", ["minmax", "percentile", "entropy"])
def test_integer_network_agrees_and_is_a_quarter(
    source: Path, digits: Splits, tmp_path: Path, calibrate: str
) -> None:
    target = quantize_onnx(
        source,
        tmp_path / "int8.onnx",
        digits.train.batches(50, limit=130),
        calibrate=calibrate,  # type: ignore[arg-type]
    )
    same = agreement(onnx_logits(source, digits.test), onnx_logits(target, digits.test))
    assert same.top1 > 0.98
    assert same.relative_error < (0.2 if calibrate == "entropy" else 0.06)
    difference = onnx_accuracy(source, digits.test).accuracy - onnx_accuracy(target, digits.test).accuracy
    assert abs(difference) < 0.02
    assert target.stat().st_size < 0.35 * source.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]


def test_weights_have_a_scale_a_channel_or_one_in_all(source: Path, digits: Splits, tmp_path: Path) -> None:
    for per_channel in (True, False):
        target = quantize_onnx(
            source, tmp_path / "q.onnx", digits.train.batches(32, limit=32), per_channel=per_channel
        )
        graph = onnx.load(target).graph
        scales = {i.name: list(i.dims) for i in graph.initializer if i.name.endswith("_scale")}
        kinds = {i.name: i.data_type for i in graph.initializer if i.name.endswith("_quantized")}
        weights = [k for k, kind in kinds.items() if kind == onnx.TensorProto.INT8]
        assert len(weights) == 10  # nine convolutions and the classifier
        widths = collections.Counter(tuple(scales[w.replace("_quantized", "_scale")]) for w in weights)
        assert widths == ({(32,): 9, (10,): 1} if per_channel else {(): 10})


def test_same_examples_same_bytes_however_they_are_batched(
    source: Path, digits: Splits, tmp_path: Path
) -> None:
    x = torch.cat([x for x, _ in digits.train.batches(40, limit=40)])
    first = quantize_onnx(source, tmp_path / "a.onnx", [x]).read_bytes()
    assert first == quantize_onnx(source, tmp_path / "b.onnx", [x[:7], x[7:]]).read_bytes()
    symmetric = quantize_onnx(source, tmp_path / "c.onnx", [x], activations="int8")
    assert symmetric.read_bytes() != first


def test_fixed_batch_size_is_calibrated_in_its_own_pieces(digits: Splits, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    path = export_onnx(model, digits.example(3), tmp_path / "net.onnx", dynamic_batch=False).path
    target = quantize_onnx(path, tmp_path / "int8.onnx", digits.train.batches(10, limit=10))
    part = digits.test.head(10)
    assert agreement(onnx_logits(path, part), onnx_logits(target, part)).relative_error < 0.1


def test_input_that_cannot_be_quantised_writes_nothing(
    source: Path, digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    bad, target = tmp_path / "bad.onnx", tmp_path / "out.onnx"
    bad.write_text("no network")
    x = digits.example(4)
    with pytest.raises(ArtefactError, match=r"bad\.onnx"):
        quantize_onnx(bad, target, [x])
    with pytest.raises(DataError, match="examples"):
        quantize_onnx(source, target, [])
    with pytest.raises(DataError, match="4x3x8x8"):
        quantize_onnx(source, target, [x.expand(-1, 3, -1, -1)])
    with pytest.raises(UsageError, match="magic"):
        quantize_onnx(source, target, [x], calibrate="magic")  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.onnx", "scratch"]
    assert list(scratch.iterdir()) == []


def test_quantising_is_quiet(
    source: Path,
    digits: Splits,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    quantize_onnx(source, tmp_path / "q.onnx", [digits.example(8)])
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def _images(count: int) -> Iterator[Tensor]:
    """Smooth random images: white noise has no range that a network is made for."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, 12, 12, generator=g)
    yield from nn.functional.interpolate(x, size=96, mode="bicubic").split(8)


@pytest.mark.parametrize(("name", "error"), [("resnet18", 0.1), ("mobilenet_v2", 0.6)])
def test_torchvision_networks(name: str, error: float, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(models, name)(weights=None)
    recalibrate_(model, _images(16))
    source = export_onnx(model, next(_images(2)), tmp_path / "net.onnx").path
    target = quantize_onnx(source, tmp_path / "int8.onnx", _images(16))
    a, b = (torch.cat([run_padded(open_session(p), x) for x in _images(16)]) for p in (source, target))
    # Untrained, 52 layers deep and without margins, MobileNet adds up far more noise than a trained one.
    assert agreement(a, b).relative_error < error
    assert target.stat().st_size < 0.3 * source.stat().st_size
