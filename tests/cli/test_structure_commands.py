"""`netwright inspect` and `netwright prune`, as they are typed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.shaping.browser import Browser, chromium

import netwright as nw
from netwright import models
from netwright.cli import main

SMALL = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 32)
        self.inner = nn.Linear(32, 24)
        self.last = nn.Linear(24, 6, bias=False)

    def forward(self, x):
        return self.last(torch.relu(self.inner(torch.relu(self.first(x)))))

def build():
    return Tied()

def number():
    return 3

def broken():
    raise KeyError("width")

def unprunable():
    return nn.Linear(6, 3)

SIZE = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    path = folder / "small.py"
    path.write_text(SMALL)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused; returns its one line."""
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("netwright: ")
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    return said.err


def test_inspect_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "resnet8") == 0
    out, err = capsys.readouterr()
    assert out.startswith("ResNetCifar: 12.5 M MACs, 78.0 K parameters")
    assert "6 of 8 axes can shrink; traced with 2×3×32×32" in out
    assert "fc (10): it is an output of the network" in out
    assert err == ""
    assert run("inspect", "resnet8", "--all", "--input-shape", "1,16,16", "--num-classes", 5) == 0
    out = capsys.readouterr().out
    assert "traced with 2×1×16×16" in out
    assert "layer1.0.bn1.running_var:0" in out


def test_inspect_json_is_complete(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "inspect", f"{file}:build", "--input-shape", "6")
    assert found["name"] == "build"
    assert found["example"] == [[2, 6]]
    assert found["macs"] == 6 * 32 + 32 * 24 + 24 * 6
    sizes = {a["name"]: a["units"] for a in found["axes"] if a["prunable"]}
    assert sizes == {"first": 32, "inner": 24}
    assert all(a["reason"] for a in found["axes"] if not a["prunable"])
    found = document(capsys, "inspect", f"{file}:build", "--input-shape", "6", "--exclude", "inner")
    reasons = {a["name"]: a.get("reason") for a in found["axes"]}
    assert reasons["inner"] == "excluded by 'inner'"


def test_inspect_draws(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "resnet8", "--html", out / "net.html") == 0
    assert capsys.readouterr().out.endswith(f"drawn: {out / 'net.html'}\n")
    assert [p.name for p in out.iterdir()] == ["net.html"]
    if chromium() is not None:
        with Browser() as browser:
            browser.open(out / "net.html", width=1280)
            assert browser.run("document.querySelector('h1').textContent") == "resnet8"
            assert browser.complaints() == browser.requests() == []
    found = document(capsys, "inspect", "resnet8", "--html", out / "net.html")
    assert found["model"] == "ResNetCifar"


def test_prune_to_onnx_meets_the_budget(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = out / "small.onnx"
    found = document(capsys, "prune", "resnet8", "--budget", "macs=0.5", "-o", target)
    assert 0.4 < found["after"]["macs"] / found["before"]["macs"] <= 0.5
    assert found["bytes"] == target.stat().st_size
    assert all(0 < w["after"] <= w["before"] for w in found["axes"].values())
    assert {f["axis"] for f in found["frozen"]} == {"fc", "conv1#2"}
    session = onnxruntime.InferenceSession(target)
    answer = session.run(None, {session.get_inputs()[0].name: torch.zeros(3, 3, 32, 32).numpy()})
    assert answer[0].shape == (3, 10)


def test_prune_to_a_folder_that_loads_again(
    file: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    dense = models.load(f"{file}:build").model
    save_file(dense.state_dict(), file.parent / "dense.safetensors")
    command = ["prune", f"{file}:build", "--input-shape", 6, "--weights", file.parent / "dense.safetensors"]
    found = document(capsys, *command, "--keep", 0.5, "-o", out / "small")
    assert sorted(p.name for p in (out / "small").iterdir()) == ["kept.json", "model.safetensors"]
    small = nw.load(out / "small", dense)
    assert sum(p.numel() for p in small.parameters()) == found["after"]["params"]
    expected = nw.prune(dense, torch.zeros(2, 6), nw.Budget(keep=0.5)).model
    x = torch.randn(5, 6)
    assert torch.equal(small(x), expected(x))


def test_prune_to_weights_alone_and_its_table(
    file: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = out / "small.safetensors"
    command = ["prune", f"{file}:build", "--input-shape", 6, "--budget", "params<=60%", "-o", target]
    assert run(*command, "--exclude", "first", "--round-to", 4) == 0
    printed = capsys.readouterr().out
    weights = load_file(target)
    assert len(weights["first.weight"]) == 32
    assert len(weights["inner.weight"]) < 24
    assert len(weights["inner.weight"]) % 4 == 0
    for word in ("MACs", "parameters", "activations", "before", "after", "share", "left alone:"):
        assert word in printed
    assert "first (32): excluded by 'first'" in printed
    assert f"{target}: " in printed
    lines = [line for line in printed.splitlines() if str(target) not in line]  # a path is as long as it is
    assert max(map(len, lines)) <= 120


def test_prune_with_data_and_the_same_seed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", "resnet8", "--data", "digits", "--importance", "taylor", "--keep", 0.6]
    for name in ("a", "b"):
        found = document(capsys, *command, "--allocation", "uniform", "-o", out / f"{name}.safetensors")
        assert found["model"] == "resnet8"
        assert any("refitted" in note for note in found["notes"])
    first, second = load_file(out / "a.safetensors"), load_file(out / "b.safetensors")
    assert first["conv1.weight"].shape[1] == 1  # digits are grey
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_attention_loses_whole_heads(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    command = ["prune", "test_vit", "--budget", "macs=0.6"]
    found = document(capsys, *command, "-o", out / "vit.safetensors")
    heads = found["axes"]["blocks.0.attn.qkv"]
    assert heads["before"] == 2
    assert found["after"]["macs"] <= 0.6 * found["before"]["macs"]


BAD = {
    "unknown model": (("MODEL", "resnt8"), "there is no model named 'resnt8' — did you mean"),
    "no such file": (("MODEL", "none.py:build"), "there is no file none.py"),
    "no callable": (("MODEL", "FILE:bild"), "has no callable 'bild' — it has build"),
    "callable forgotten": (("MODEL", "FILE"), "does not name a callable"),
    "not callable": (("MODEL", "FILE:SIZE"), "cannot be called: 'SIZE'"),
    "no module": (("MODEL", "FILE:number"), "returned int, not a torch.nn.Module"),
    "fails": (("MODEL", "FILE:broken"), "KeyError: 'width'"),
    "malformed shape": (("--input-shape", "6;6"), "input shape '6;6' is not understood"),
    "wrong shape": (("--input-shape", "7"), "Tied rejects the example input of shape (2, 7)"),
    "shape not given": (("--input-shape", None), "say the shape of one example with --input-shape"),
    "unknown heads": (("--heads", "half"), "heads='half' is not known"),
    "exclude matches nothing": (("--exclude", "nothing"), "exclude='nothing' matches no parameter"),
    "no weights file": (("--weights", "none.safetensors"), "there is no weights file none.safetensors"),
    "pickle": (("--weights", "PICKLE"), "which can run code; refused unless --trust"),
    "corrupt": (("--weights", "CORRUPT"), "is cut off or damaged"),
    "other weights": (("--weights", "OTHER"), "first.weight"),
}
BAD_PRUNE = {
    "no budget": (("--keep", None), "how small is not said"),
    "both": (("--budget", "macs=0.5"), "both --budget and --keep are given"),
    "malformed budget": (("--keep", None, "--budget", "macs=half"), "half"),
    "unknown metric": (("--keep", None, "--budget", "speed=2"), "there is no metric 'speed'"),
    "accuracy": (("--keep", None, "--budget", "accuracy>=-1%"), "an accuracy cannot be promised"),
    "keep of nothing": (("--keep", "0"), "keep"),
    "keep no number": (("--keep", "half"), "keep"),
    "unmet": (("--keep", None, "--budget", "params=0.001"), "cannot be met: the smallest network has"),
    "importance": (("--importance", "luck"), "there is no importance 'luck'"),
    "importance without data": (("--importance", "taylor"), "taylor"),
    "allocation": (("--allocation", "luck"), "there is no allocation 'luck'"),
    "repair": (("--repair", "luck"), "there is no repair 'luck'"),
    "repair without data": (("--repair", "bn"), "looks at data"),
    "unknown data": (("--data", "dgits", "--input-shape", None), "dgits"),
    "data and shape": (("--data", "digits"), "--data and --input-shape are both given"),
    "data of another shape": (("--data", "digits", "--input-shape", None), "rejects"),
    "round to nothing": (("--round-to", "0"), "round_to"),
    "nothing to shrink": (
        ("MODEL", "FILE:unprunable", "--keep", None, "--budget", "macs=0.5"),
        "no axis of the network can shrink",
    ),
    "no weights in the zoo": (("--pretrained",), "no pretrained weights for"),
    "output inside a file": (("-o", "FILE/small.onnx"), "is not a folder"),
    "output is a file": (("-o", "PLAIN"), "is a file"),
    "output is a folder": (("-o", "FOLDER.onnx"), "is a folder"),
    "output of another kind": (("-o", "small.pt"), "a .pt file is not written"),
    "output where nothing can be written": (("-o", "/proc/none/small.safetensors"), "/proc/none"),
    "output is the input": (("--weights", "OTHER", "-o", "OTHER"), "is the input"),
}


def _arguments(file: Path, changes: tuple[str | None, ...], command: str) -> list[str]:
    """A command that works, with some of its arguments changed: option and value, None to leave it out."""
    given: dict[str, list[str]] = {"MODEL": [f"{file}:build"], "--input-shape": ["6"]}
    if command == "prune":
        given |= {"--keep": ["0.5"], "-o": ["small.safetensors"]}
    left = list(changes)
    while left:
        name = left.pop(0)
        assert name is not None
        value = left.pop(0) if left and name != "--pretrained" else ""
        if value is None:
            given.pop(name)
        else:
            given[name] = [_place(file, value)] if value else []
    model = given.pop("MODEL")
    return [command, *model, *[word for name, values in given.items() for word in (name, *values)]]


def _place(file: Path, value: str) -> str:
    names = {"PICKLE": "p.pt", "CORRUPT": "c.safetensors", "OTHER": "o.safetensors", "PLAIN": "plain"}
    if value in names:
        return str(file.parent / names[value])
    return value.replace("FILE", str(file)).replace("FOLDER", str(file.parent / "folder"))


@pytest.fixture
def clutter(file: Path) -> None:
    """Files that are offered as weights or as places to write to."""
    folder = file.parent
    (folder / "p.pt").write_bytes(pickle.dumps({"first.weight": Path("x")}, protocol=2))
    (folder / "o.safetensors").write_bytes(b"")
    save_file({"first.weight": torch.zeros(3, 3)}, folder / "o.safetensors")
    whole = (folder / "o.safetensors").read_bytes()
    (folder / "c.safetensors").write_bytes(whole[:-5])
    (folder / "plain").write_text("text")
    (folder / "folder.onnx").mkdir()


@pytest.mark.usefixtures("clutter")
@pytest.mark.parametrize(
    ("command", "case"), [("inspect", c) for c in BAD] + [("prune", c) for c in [*BAD, *BAD_PRUNE]]
)
def test_bad_input_is_one_line_and_writes_nothing(
    command: str,
    case: str,
    file: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(out)
    changes, expected = {**BAD, **BAD_PRUNE}[case]
    before = {p: p.read_bytes() for p in file.parent.iterdir() if p.is_file()}
    assert expected in refused(capsys, *_arguments(file, changes, command))
    assert list(out.iterdir()) == []
    assert {p: p.read_bytes() for p in file.parent.iterdir() if p.is_file()} == before


def test_the_smallest_possible_is_named_and_can_be_had(
    file: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prune", f"{file}:build", "--input-shape", 6, "-o", out / "a.safetensors", "--budget"]
    line = refused(capsys, *command, "params=0.001")
    share = line.rpartition("params=")[2].split()[0]
    found = document(capsys, *command, f"params={share}")
    assert found["after"]["params"] <= float(share) * found["before"]["params"]


def test_pictures_go_where_they_can(file: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["inspect", f"{file}:build", "--input-shape", 6, "--html"]
    assert "is not a folder" in refused(capsys, *command, file / "net.html")
    assert "is a folder" in refused(capsys, *command, out)
    assert list(out.iterdir()) == []


def test_the_program_itself(file: Path, out: Path) -> None:
    """In a process of its own: stdout has JSON and nothing else, errors go to stderr."""
    program = "from netwright.cli import main; main()"
    base = [sys.executable, "-c", program, "prune", f"{file}:build", "--input-shape", "6"]
    good = subprocess.run(
        [*base, "--keep", "0.5", "-o", out / "s.onnx", "--json"], capture_output=True, text=True, check=False
    )
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["bytes"] == (out / "s.onnx").stat().st_size
    assert good.stderr == ""
    bad = subprocess.run(
        [*base, "--budget", "macs=0.5", "--keep", "0.5", "-o", out / "t.onnx"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.count("\n") == 1
    assert not (out / "t.onnx").exists()
