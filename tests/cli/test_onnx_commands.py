"""`netwright inspect` and `netwright prune` on ONNX files, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from tests.structure.onnx_networks import Graph, keras

from netwright.cli import main


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(keras(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused; returns its one line."""
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("netwright: ") and said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    return said.err


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_inspect_shows_nodes_and_axes(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", net, "--all") == 0
    out = capsys.readouterr().out
    assert "node_conv" in out and "traced with 2×17×17×3" in out
    found = document(capsys, "inspect", net)
    assert found["name"] == "net.onnx"
    prunable = {a["name"]: a["units"] for a in found["axes"] if a["prunable"]}
    assert prunable == {"conv/kernel": 16, "dense/kernel": 20}
    assert {o["module"] for o in found["operators"]} <= {n.name for n in keras().graph.node}


def test_inspect_draws(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", net, "--html", tmp_path / "net.html") == 0
    assert capsys.readouterr().out.endswith(f"drawn: {tmp_path / 'net.html'}\n")
    assert "node_depthwise" in (tmp_path / "net.html").read_text()


def test_prune_writes_a_file_that_meets_the_budget(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.onnx"
    found = document(capsys, "prune", net, "--budget", "macs=0.5", "-o", small)
    assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]
    assert found["bytes"] == small.stat().st_size < net.stat().st_size
    onnx.checker.check_model(onnx.load(small), full_check=True)
    session = onnxruntime.InferenceSession(small)
    for batch in (1, 7):
        (answer,) = session.run(None, {"image": torch.randn(batch, 17, 17, 3).numpy()})
        assert answer.shape == (batch, 4)
    assert document(capsys, "inspect", small)["params"] == found["after"]["params"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "small.onnx"]


def test_sizes_that_a_file_leaves_open_are_given_or_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = Graph({"x": ["batch", 3, "height", "width"]})
    x = g.node("Conv", ["x", g.weight("first", 32, 3, 3, 3)], "conv")
    x = g.node("Conv", [g.node("Relu", [x], "relu"), g.weight("second", 4, 32, 1, 1)], "out")
    onnx.save(g.model(x), tmp_path / "net.onnx")
    command = ["prune", tmp_path / "net.onnx", "--keep", "0.5", "-o", tmp_path / "small.onnx"]
    found = document(capsys, *command)
    assert "sizes that the file leaves open were assumed: x:2, x:3" in found["notes"]
    found = document(capsys, *command, "--input-shape", "3,20,10")
    assert not any("assumed" in note for note in found["notes"])
    assert document(capsys, "inspect", tmp_path / "net.onnx", "--input-shape", "3,20,10")["example"] == [
        [2, 3, 20, 10]
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("NET", "-o", "small.safetensors"), "what comes of an ONNX graph is one"),
        (("NET", "-o", "NET"), "is the input"),
        (("NET", "-o", "s.onnx", "--pretrained"), "--pretrained is no option for an ONNX graph"),
        (("NET", "-o", "s.onnx", "--num-classes", "3"), "--num-classes is no option for an ONNX graph"),
        (("NET", "-o", "s.onnx", "--input-shape", "9,9,3"), "has size 17 where 9 was given"),
        (("NET", "-o", "s.onnx", "--exclude", "nothing"), "matches no parameter"),
        (("none.onnx", "-o", "s.onnx"), "there is no file none.onnx"),
        (("TEXT", "-o", "s.onnx"), "is no ONNX file"),
        (("LOOP", "-o", "s.onnx"), "node node_scaled is a Loop"),
        (("CUSTOM", "-o", "s.onnx"), "is an operator Swish of com.example"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    for name, op, domain in (("loop", "Loop", ""), ("custom", "Swish", "com.example")):
        model = keras()
        model.graph.node[3].op_type, model.graph.node[3].domain = op, domain
        onnx.save(model, tmp_path / f"{name}.onnx")
    places = {"NET": net, **{n: tmp_path / f"{n.lower()}.onnx" for n in ("TEXT", "LOOP", "CUSTOM")}}
    before = sorted(p.name for p in tmp_path.iterdir())
    given = [places.get(a, a) for a in arguments]
    assert words in refused(capsys, "prune", *given, "--keep", "0.5")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
