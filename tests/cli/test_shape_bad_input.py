"""What is wrong with the input of `netwright shape`: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netwright.cli import main
from netwright.shaping.answers import Answers


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused; returns its one line."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    said = capsys.readouterr()
    assert caught.value.code == 2, said.err
    lines = [line for line in said.err.splitlines() if line.strip()]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("netwright: ")
    assert "Traceback" not in said.err
    return lines[0]


def shape(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> str:
    """`netwright shape`, quickly, where it must be refused before anything is written."""
    line = refused(capsys, "shape", *arguments, "--out", out, "--quiet", "--trials", 2)
    assert not out.exists() or not any(out.iterdir()), sorted(out.rglob("*"))
    return line


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def model_file(folder: Path, body: str) -> Path:
    path = folder / "model.py"
    path.write_text(f"import torch\nfrom torch import nn\n\n{body}\n")
    return path


def pictures(folder: Path, classes: int, each: int = 12) -> Path:
    for c in range(classes):
        (folder / f"c{c}").mkdir(parents=True)
        for i in range(each):
            values = np.full((12, 12, 3), 40 * c + i, np.uint8)
            Image.fromarray(values).save(folder / f"c{c}" / f"{i}.png")
    return folder


def test_unknown_model(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "resnet21" in shape(capsys, out, "resnet21")


def test_model_file_without_the_callable(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_file(tmp_path, "def other():\n    return nn.Identity()")
    assert "build" in shape(capsys, out, f"{path}:build")


def test_callable_that_returns_no_module(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_file(tmp_path, "def build():\n    return 3")
    assert "int" in shape(capsys, out, f"{path}:build")


def test_missing_data(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in shape(capsys, out, "resnet8", "--data", tmp_path / "nowhere")


def test_empty_data_folder(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in shape(capsys, out, "resnet8", "--data", tmp_path / "empty")


def test_corrupt_data_file(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(b"PK\x03\x04 not really")
    assert "data.npz" in shape(capsys, out, "resnet8", "--data", path)


def test_one_class(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "photos", 1)
    assert "class" in shape(capsys, out, "resnet8", "--data", folder)


def test_unreadable_image(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "photos", 2)
    (folder / "c1" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert "3.png" in shape(capsys, out, "resnet8", "--data", folder, "--image-size", 12)


def test_batch_that_the_model_rejects(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model_file(tmp_path, "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(7, 10))")
    assert "(2, 1, 8, 8)" in shape(capsys, out, f"{path}:build", "--data", "digits")


def test_budget_that_cannot_be_met(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = shape(capsys, out, "resnet8", "--budget", "macs=100")
    assert "smallest" in line
    assert "macs=" in line


def test_latency_that_cannot_be_met(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = shape(capsys, out, "resnet8", "--budget", "latency=0.0001ms")
    assert "latency=" in line


def test_malformed_budget(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "fast" in shape(capsys, out, "resnet8", "--budget", "fast please")


def test_pickled_weights(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"a": os.getcwd}))
    assert "--trust" in shape(capsys, out, "resnet8", "--weights", path)


def test_other_options(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "workers" in shape(capsys, out, "resnet8", "--workers", 0)
    assert "sampler" in shape(capsys, out, "resnet8", "--sampler", "magic")


def test_onnx_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a network")
    assert "net.onnx" in refused(capsys, "measure", path)


DIVIDES_BY_ZERO = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        y = self.fc(x.flatten(1))
        return y / 0 * 0 if self.training else y


def build():
    return Net()
"""


def test_loss_that_is_not_finite(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = DIVIDES_BY_ZERO
    line = refused(
        capsys, "shape", f"{model_file(tmp_path, body)}:build", "--out", out, "--quiet", "--epochs", 1
    )
    assert "loss" in line
    assert not (out / "front.json").exists()


def test_folder_of_something_else(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert "not empty" in refused(capsys, "shape", "--out", out, "--quiet")
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that ran to its end."""
    out = tmp_path_factory.mktemp("finished") / "study"
    arguments = "shape resnet8 --data digits --epochs 2 --recovery 1 --trials 4 --quiet --out".split()
    with pytest.raises(SystemExit) as caught:
        main([*arguments, str(out)])
    assert caught.value.code == 0
    return out


QUICK = "shape resnet8 --data digits --epochs 2 --recovery 1 --trials 4 --quiet --out".split()


def test_folder_of_another_study(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "front.json").read_bytes()
    line = refused(capsys, *QUICK, finished, "--seed", 9)
    assert "another study" in line
    assert "seed" in line
    assert (finished / "front.json").read_bytes() == before


def test_corrupt_study_file(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "study.db").write_bytes(b"this is no database at all" * 40)
    assert "study.db" in refused(capsys, *QUICK, copy)


def test_truncated_checkpoint(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    dense = copy / "cache" / "dense"
    whole = (dense / "model.safetensors").read_bytes()
    (dense / "model.safetensors").unlink()
    (dense / "training.pt").write_bytes(whole[: len(whole) // 2])
    assert "training.pt" in refused(capsys, *QUICK, copy)


def test_truncated_weights(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    weights = copy / "cache" / "dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors" in refused(capsys, *QUICK, copy)


def test_finished_study_is_read_again(finished: Path) -> None:
    import netwright as nw

    front = nw.read_front(finished)
    assert len(front) >= 1
    for network in front.networks:
        model = front.model(network.name)
        assert sum(p.numel() for p in model.parameters()) == network.outcome.params
        with torch.no_grad():
            assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
        answers = Answers.load(
            finished / "cache" / network.candidate.key / f"answers-{network.candidate.bits}.safetensors"
        )
        assert answers is not None
        assert answers.quality == pytest.approx(1 - network.outcome.error)
        assert network.change is not None
        assert network.change.low <= 0 <= network.change.high or not network.candidate.dense


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let a test mount a small disk")
    try:
        command = [sys.executable, "-c", "from netwright.cli import main; main()", *QUICK, str(disk / "out")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        left = [p for p in disk.rglob("*.json") if not p.name.startswith(".")]
        texts = [p.read_text() for p in left]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert "space" in lines[0]
    assert all(text.endswith("}\n") for text in texts)
