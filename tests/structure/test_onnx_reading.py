"""ONNX graphs read as networks: the same answers, ties and costs, and clear words where that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from tests.structure.onnx_networks import Graph, by_dynamo, by_torchscript, distinct, jax, keras
from torch import Tensor, nn

from netwright import structure
from netwright.errors import ArtefactError, ModelError, NetwrightError
from netwright.structure.onnx import OnnxNetwork, read_onnx
from netwright.structure.onnx.checking import RuntimeNetwork
from netwright.structure.onnx.operators import known_operators

#: Cases of onnx's own conformance suite that have inputs other than arrays, or elements of a few bits.
_OTHER = ("sequence", "optional", "bfloat16", "bf16", "FLOAT8", "INT4", "INT2", "FLOAT4", "BFLOAT16", "E8M0")


@pytest.fixture(scope="module")
def conformance() -> list[Any]:
    import warnings

    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


def _runnable(cases: list[Any]) -> Iterator[Any]:
    known = set(known_operators())
    for case in cases:
        graph = case.model.graph
        arrays = all(isinstance(x, np.ndarray) for ins, outs in case.data_sets for x in [*ins, *outs])
        if {n.op_type for n in graph.node} <= known and arrays and not any(o in case.name for o in _OTHER):
            yield case


def test_every_operator_answers_as_the_standard_says(conformance: list[Any]) -> None:
    wrong, ran, refused = [], 0, []
    for case in _runnable(conformance):
        for inputs, outputs in case.data_sets:
            try:
                network = read_onnx(case.model)
                with torch.no_grad():
                    got = network(*(torch.from_numpy(np.array(x)) for x in inputs))
            except NetwrightError as error:
                refused.append(str(error))
                continue
            ran += 1
            got = [got] if isinstance(got, Tensor) else got
            for mine, theirs in zip(got, outputs, strict=True):
                mine = mine.double() if mine.is_floating_point() else mine
                if not np.allclose(mine.numpy(), theirs, rtol=2e-3, atol=1e-4, equal_nan=True):
                    wrong.append(case.name)
    assert not wrong
    reasons = ("the oldest that is read is 9", "element type", "is no tensor", "to have non-zero size")
    assert not [text for text in refused if not any(reason in text for reason in reasons)]
    assert ran > len(refused)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.outer = nn.Conv2d(16, 16, 1)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = x + self.outer(nn.functional.hardswish(self.inner(x)))
        return self.last(x.mean((2, 3)))


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    return distinct(_Block())


@pytest.mark.parametrize("export", [by_torchscript, by_dynamo])
def test_a_file_has_the_costs_axes_and_answers_of_its_module(block: nn.Module, export: Any) -> None:
    example = torch.randn(2, 3, 10, 10)
    network = read_onnx(export(block, example))
    with torch.no_grad():
        torch.testing.assert_close(network(example), block(example), rtol=1e-4, atol=1e-5)
    module, graph = (
        structure.trace(block, example),
        structure.trace(network, network.example(shape=(3, 10, 10))),
    )
    assert graph.macs == module.macs
    assert [(a.size, len(a.cells)) for a in graph.prunable] == [
        (a.size, len(a.cells)) for a in module.prunable
    ]


def test_the_weights_are_parameters_under_their_names_and_can_be_trained(block: nn.Module) -> None:
    example = torch.randn(2, 3, 10, 10)
    network = read_onnx(by_torchscript(block, example))
    names = {name for name, _ in network.named_parameters()}
    assert {"last.weight", "last.bias", "outer.weight"} <= names
    network(example).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    with torch.no_grad():
        network.get_parameter  # noqa: B018 - a module like any other
        dict(network.named_parameters())["last.bias"].fill_(7.0)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in network.proto().graph.initializer}
    assert (stored["last.bias"] == 7).all()


def test_statistics_of_a_batch_norm_are_buffers() -> None:
    g = Graph({"x": ["batch", 3, 8, 8]})
    x = g.node("Conv", ["x", g.weight("w", 8, 3, 3, 3)], "conv")
    norm = [g.weight(n, 8) for n in ("scale", "shift", "mean")]
    x = g.node("BatchNormalization", [x, *norm, g.store("var", np.ones(8, np.float32))], "norm")
    x = g.node("Conv", [x, g.weight("v", 4, 8, 1, 1)], "second")
    network = read_onnx(g.model(g.node("GlobalAveragePool", [x], "out")))
    assert set(dict(network.named_buffers())) == {"mean", "var"}
    net = structure.trace(network, network.example())
    assert net.params == 8 * 27 + 2 * 8 + 4 * 8


@pytest.mark.parametrize("build", [keras, jax])
def test_graphs_of_other_exporters_answer_as_in_the_runtime(build: Any) -> None:
    model = build()
    network = read_onnx(model)
    example = network.example()
    with torch.no_grad():
        mine = example.call(network)
    torch.testing.assert_close(
        mine, example.call(RuntimeNetwork(model.SerializeToString())), rtol=1e-4, atol=1e-5
    )


def test_what_is_unknown_is_named_and_freezes_what_it_touches() -> None:
    g = Graph({"x": ["batch", 6]})
    x = g.node("MatMul", ["x", g.weight("first", 6, 16)], "hidden")
    x = g.node("MatMul", [x, g.weight("second", 16, 12)], "inner")
    y = g.node("Unique", [x], ["unique"], axis=1)  # its size depends on the data
    network = read_onnx(g.model(g.node("ReduceSum", [y], "out")))
    net = structure.trace(network, network.example())
    assert net.labels.unknown == {"onnx_graph::Unique": ["node_unique"]}
    axes = {a.name: a for a in net.axes}
    assert axes["second"].reason == "operator onnx_graph::Unique has no rule" and not axes["second"].prunable
    assert axes["first"].prunable


def test_equal_vectors_that_an_exporter_stores_once_tie_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    for layer in (model[0], model[2], model[4]):
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type, union-attr]
    content = by_torchscript(model, torch.randn(2, 3, 4, 4))
    assert sum(len(t.dims) == 1 for t in onnx.load_from_string(content).graph.initializer) < 3
    network = read_onnx(content)
    assert len(structure.trace(network, network.example(shape=(3, 4, 4))).prunable) == 2


def test_a_branch_on_sizes_is_followed(tmp_path: Path) -> None:
    g = Graph({"x": ["batch", 6]})
    x = g.node("MatMul", ["x", g.weight("first", 6, 16)], "hidden")
    rank = g.node("Size", [g.node("Shape", [x], "shape")], "rank")
    condition = g.node("Equal", [rank, g.store("two", np.array(2, np.int64))], "condition")
    double = helper.make_graph(
        [helper.make_node("Add", [x, x], ["twice"])], "then", [], [onnx.ValueInfoProto(name="twice")]
    )
    same = helper.make_graph(
        [helper.make_node("Identity", [x], ["once"])], "else", [], [onnx.ValueInfoProto(name="once")]
    )
    y = g.node("If", [condition], "chosen", then_branch=double, else_branch=same)
    model = g.model(g.node("MatMul", [y, g.weight("last", 16, 3)], "out"))
    network = read_onnx(model)
    example = network.example()
    torch.testing.assert_close(example.call(network), example.call(RuntimeNetwork(model.SerializeToString())))
    assert len(structure.trace(network, example).prunable) == 1


def test_weights_in_a_file_beside_it_are_read(tmp_path: Path) -> None:
    model = keras()
    onnx.save_model(
        model, str(tmp_path / "net.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0
    )
    apart, whole = read_onnx(tmp_path / "net.onnx"), read_onnx(keras())
    example = whole.example()
    torch.testing.assert_close(example.call(apart), example.call(whole))
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ArtefactError, match=r"weights beside net\.onnx"):
        read_onnx(tmp_path / "net.onnx")


def _changed(change: Any) -> onnx.ModelProto:
    model = keras()
    change(model)
    return model


def _node(op: str, domain: str = "") -> Any:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[3].op_type, model.graph.node[3].domain = op, domain

    return change


def _opset(version: int) -> Any:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_node("Loop"), "node node_scaled is a Loop"),
        (_node("FusedMatMul", "com.microsoft"), "node_scaled is an operator FusedMatMul of com.microsoft"),
        (_node("QuantizeLinear"), "makes this an integer network"),
        (_opset(999), "opset 999"),
        (_opset(7), "the oldest that is read is 9"),
    ],
)
def test_what_is_not_understood_is_said_in_one_line(change: Any, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_onnx(_changed(change))
    assert words in str(caught.value) and "\n" not in str(caught.value) and caught.value.hint


def test_what_is_no_onnx_file_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no network")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes(keras().SerializeToString()[:300])
    for name in ("text.onnx", "empty.onnx", "cut.onnx", "none.onnx"):
        with pytest.raises(ArtefactError) as caught:
            read_onnx(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_inputs_of_another_number_or_size_are_refused() -> None:
    network = read_onnx(keras())
    assert isinstance(network, OnnxNetwork)
    with pytest.raises(ModelError, match=r"takes 1 inputs \(image\), 2 were given"):
        structure.trace(network, (torch.randn(2, 17, 17, 3), torch.randn(2)))
    with pytest.raises(ModelError, match="node_conv"):
        structure.trace(network, torch.randn(2, 17, 17, 5))
