from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from netwright.errors import ArtefactError, ModelError
from netwright.metrics import latency, open_session
from netwright.quantization import export_onnx


class Shuffle(nn.Module):
    """Channel shuffle: traced naively it leaves shape arithmetic in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.fc(x.mean(dim=(2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.rnn = kind(6, 8, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.rnn(self.embed(tokens))[0][:, -1])


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"sum": self.fc(a) + b, "product": self.fc(a) * b}


def _run(path: Path, **inputs: Tensor) -> list[np.ndarray]:
    return open_session(path).run(None, {k: v.numpy() for k, v in inputs.items()})


def test_file_answers_like_the_network_at_every_batch_size(tmp_path: Path) -> None:
    model = Shuffle().train()
    done = export_onnx(model, torch.randn(1, 3, 6, 6), tmp_path / "net.onnx")
    assert model.training
    assert done.exporter == "torchscript"
    assert done.max_abs_diff is not None
    assert done.max_abs_diff < 1e-5
    assert done.bytes == done.path.stat().st_size
    model.eval()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 6, 6)
        with torch.no_grad():
            np.testing.assert_allclose(_run(done.path, input=x)[0], model(x).numpy(), atol=1e-5)


def test_file_is_clean(tmp_path: Path) -> None:
    done = export_onnx(Shuffle(), torch.randn(1, 3, 6, 6), tmp_path / "net.onnx")
    file = onnx.load(done.path)
    onnx.checker.check_model(file, full_check=True)
    kinds = {node.op_type for node in file.graph.node}
    assert not kinds & {"Identity", "Constant", "Shape", "Gather", "BatchNormalization"}
    assert done.opset == next(o.version for o in file.opset_import if o.domain == "")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_network_on_tokens(kind: type[nn.RNNBase], tmp_path: Path) -> None:
    model = Recurrent(kind).eval()
    path = export_onnx(model, torch.randint(0, 20, (2, 7)), tmp_path / "net.onnx").path
    tokens = torch.randint(0, 20, (5, 7))
    with torch.no_grad():
        np.testing.assert_allclose(_run(path, input=tokens)[0], model(tokens).numpy(), atol=1e-5)


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_several_inputs_and_outputs(as_dict: bool, exporter: str, tmp_path: Path) -> None:
    model = TwoInputs().eval()
    example = {"a": torch.randn(1, 4), "b": torch.randn(1, 3)}
    given = example if as_dict else tuple(example.values())
    path = export_onnx(model, given, tmp_path / "net.onnx", exporter=exporter).path  # type: ignore[arg-type]
    names = [i.name for i in open_session(path).get_inputs()]
    assert names == (["a", "b"] if as_dict else ["input_0", "input_1"])
    a, b = torch.randn(3, 4), torch.randn(3, 3)
    answers = _run(path, **dict(zip(names, (a, b), strict=True)))
    with torch.no_grad():
        for got, want in zip(answers, model(a, b).values(), strict=True):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


def test_both_exporters_give_equally_fast_files(tmp_path: Path) -> None:
    model, x = Shuffle(), torch.randn(1, 3, 64, 64)
    first = export_onnx(model, x, tmp_path / "a.onnx", exporter="torchscript").path
    second = export_onnx(model, x, tmp_path / "b.onnx", exporter="dynamo").path
    ratio = latency(first, x, against=second, min_seconds=0.1).ratio
    assert ratio is not None
    assert ratio < 1.3


def test_fixed_batch_size(tmp_path: Path) -> None:
    path = export_onnx(Shuffle(), torch.randn(1, 3, 6, 6), tmp_path / "net.onnx", dynamic_batch=False).path
    assert open_session(path).get_inputs()[0].shape == [1, 3, 6, 6]


def test_what_tracing_cannot_see_falls_back_or_fails(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 12)

    with pytest.raises(ModelError, match="rejects an input of shape"):
        export_onnx(Fixed(), torch.randn(2, 3, 4), tmp_path / "net.onnx")

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if len(x) > 2 else x * 3

    with pytest.raises(ModelError, match="cannot be exported"):
        export_onnx(Branch(), torch.randn(2, 3), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_export_is_quiet_and_leaves_no_other_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for exporter in ("torchscript", "dynamo"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            export_onnx(
                TwoInputs(), (torch.randn(2, 4), torch.randn(2, 3)), tmp_path / "n.onnx", exporter=exporter
            )  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")
    assert [p.name for p in tmp_path.iterdir()] == ["n.onnx"]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="writing"):
        export_onnx(nn.Linear(2, 2), torch.randn(1, 2), tmp_path / "file" / "net.onnx")
