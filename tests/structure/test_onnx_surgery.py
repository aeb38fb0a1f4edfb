"""A pruned ONNX file answers, in ONNX Runtime, as the dense network with what went held at zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.structure.onnx_networks import Graph, by_dynamo, by_torchscript, distinct, jax, keras
from torch import Tensor, nn

import netwright as nw
from netwright import structure
from netwright.errors import BudgetError, StructureError, UsageError
from netwright.structure.maps import draw_permutation
from netwright.structure.onnx import OnnxNetwork, read_onnx
from netwright.structure.onnx.checking import RuntimeNetwork, check_file
from netwright.structure.onnx.writing import write


def _halved(source: Any, shape: Any = None, **options: Any) -> tuple[OnnxNetwork, nw.Pruned, bytes]:
    """Prune by half, and hold what must hold: exact in float64, equal in the runtime, any batch, checked."""
    network = read_onnx(source)
    pruned = nw.prune(network, network.example(shape=shape), "keep=0.5", allocation="uniform", **options)
    small = pruned.model
    assert isinstance(small, OnnxNetwork)
    model = small.proto()
    onnx.checker.check_model(model, full_check=True)
    exact = structure.check(network, pruned.net, pruned.keep, small)
    assert exact.error < 1e-11
    assert exact.change > 1e-4  # a check that could not fail would have 0 here
    content = model.SerializeToString()
    assert check_file(network, pruned.net, pruned.keep, content).error < 1e-5
    if network.open_batch:
        for batch in (1, 5):
            example = network.example(batch, shape=shape)
            want, got = example.call(small), example.call(RuntimeNetwork(content, network.program.outputs))
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    return network, pruned, content


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 32)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)
        self.table = nn.Parameter(torch.zeros(1, 6, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.table
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1) @ v
        return self.head(x + self.out(y.transpose(1, 2).reshape(b, n, 32)))


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 16, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(32, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(x)[0])[0][:, -1])


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1, groups=16),
        nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 32, 1, groups=2), nn.PixelShuffle(2), nn.PReLU(8),
        nn.ConvTranspose2d(8, 12, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.InstanceNorm2d(12, affine=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


NETWORKS = {
    "convolutions": (_convolutions, (3, 8, 8)),
    "attention": (_Attention, (6, 10)),
    "recurrent": (_Recurrent, (5, 6)),
}


@pytest.mark.parametrize(
    ("name", "export"),
    [(name, by_torchscript) for name in NETWORKS] + [("convolutions", by_dynamo), ("attention", by_dynamo)],
)
def test_exports_of_pytorch_shrink_exactly(name: str, export: Any) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = distinct(build())
    content = export(model, torch.randn(2, *shape))
    _, pruned, small = _halved(content, shape if network_is_open(content) else None)
    assert pruned.after.params < 0.65 * pruned.before.params
    before, after = onnx.load_from_string(content), onnx.load_from_string(small)
    assert list(after.opset_import) == list(before.opset_import)
    assert after.producer_name == before.producer_name
    kept = [n.name for n in after.graph.node if not n.name.endswith(("_size", "_size_times"))]
    assert set(kept) <= {n.name for n in before.graph.node}
    # What lost nothing is stored as it was, under its name.
    was = {t.name: t for t in before.graph.initializer}
    for tensor in after.graph.initializer:
        if (
            tensor.name in was
            and tensor.name not in pruned.kept
            and list(tensor.dims) == list(was[tensor.name].dims)
        ):
            same = onnx.numpy_helper.to_array(tensor) == onnx.numpy_helper.to_array(was[tensor.name])
            assert same.all() or tensor.data_type == onnx.TensorProto.INT64


def network_is_open(content: bytes) -> bool:
    return bool(read_onnx(content).open_sizes)


@pytest.mark.parametrize("build", [keras, jax])
def test_graphs_of_other_exporters_shrink_exactly(build: Any) -> None:
    _, pruned, _ = _halved(build())
    assert pruned.after.params < 0.6 * pruned.before.params


@pytest.mark.parametrize("heads", ["whole", "width"])
def test_heads_go_whole_or_become_narrower(heads: str) -> None:
    torch.manual_seed(0)
    model = distinct(_Attention())
    _, pruned, _ = _halved(by_torchscript(model, torch.randn(2, 6, 10)), heads=heads)
    assert pruned.after.params < 0.5 * pruned.before.params


@pytest.mark.parametrize("opset", [11, 13, 18, 28])
def test_sizes_are_rewritten_where_each_version_has_them(opset: int) -> None:
    """Split, Squeeze, Unsqueeze, reductions and Clip have their settings as attributes or as inputs."""
    old = opset < 13
    g = Graph({"x": ["batch", 3, 6, 6]}, opset=opset)

    def listed(name: str, values: list[int]) -> tuple[list[str], dict[str, Any]]:
        return ([], {name: values}) if old else ([g.sizes(f"{name}_{len(g.stored)}", *values)], {})

    x = g.node("Conv", ["x", g.weight("first", 24, 3, 3, 3)], "conv", pads=[1, 1, 1, 1])
    x = g.node("Clip", [x, g.store("low", np.float32(-1)), g.store("high", np.float32(1))], "clipped")
    inputs, settings = listed("split", [8, 16])
    g.node("Split", [x, *inputs], ["few", "many"], axis=1, **settings)
    y = g.node("Conv", ["many", g.weight("second", 8, 16, 1, 1)], "squeezed_in")
    x = g.node("Add", ["few", y], "sum")
    shape = g.node("Shape", [x], "shape")
    batch = g.node("Slice", [shape, g.sizes("from", 0), g.sizes("to", 1)], "batch_size")
    wanted = g.node("Concat", [batch, g.sizes("rest", 2, 4, 36)], "wanted", axis=0)
    x = g.node("Reshape", [x, wanted], "grouped")  # two groups of four channels
    inputs, settings = listed("axes", [4])
    x = g.node("Unsqueeze", [x, *inputs], "unsqueezed", **settings)
    x = g.node("Tanh", [x], "tanh")
    inputs, settings = listed("axes", [4])
    x = g.node("Squeeze", [x, *inputs], "resqueezed", **settings)
    x = g.node("Reshape", [x, g.sizes("back", 0, 8, 6, 6)], "ungrouped")
    axes = {"axes": [2, 3]} if opset < 18 else {}
    inputs = [] if opset < 18 else [g.sizes("spatial", 2, 3)]
    x = g.node("ReduceMean", [x, *inputs], "mean", keepdims=0, **axes)
    ones = g.node("ConstantOfShape", [g.node("Shape", [x], "mean_shape")], "ones",
                  value=onnx.helper.make_tensor("one", 1, [1], [1.0]))  # fmt: skip
    x = g.node("Add", [x, ones], "plus_one")
    x = g.node("Expand", [x, g.sizes("same", 1, 8)], "expanded")
    model = g.model(g.node("Gemm", [x, g.weight("last", 5, 8), g.weight("bias", 5)], "out", transB=1))
    _, pruned, small = _halved(model)
    assert onnx.load_from_string(small).opset_import[0].version == opset
    assert pruned.after.params < 0.5 * pruned.before.params


def test_sizes_computed_of_an_open_batch_stay_computed() -> None:
    """`batch * heads` is one number in the target of a reshape: its heads shrink, its batch stays open."""
    g = Graph({"x": ["batch", 5, 12]})
    x = g.node("MatMul", ["x", g.weight("query", 12, 32)], "q")
    batch = g.node(
        "Gather", [g.node("Shape", [x], "shape"), g.store("zero", np.array(0, np.int64))], "batch_size"
    )
    many = g.node("Mul", [batch, g.store("heads", np.array(4, np.int64))], "batch_heads")
    many = g.node("Unsqueeze", [many, g.sizes("axis", 0)], "batch_heads_1d")
    x = g.node("Transpose", [x], "turned", perm=[1, 0, 2])
    x = g.node(
        "Reshape",
        [x, g.node("Concat", [g.sizes("tokens", 5), many, g.sizes("width", 8)], "s", axis=0)],
        "split",
    )
    x = g.node("Transpose", [x], "by_head", perm=[1, 0, 2])
    scores = g.node("MatMul", [x, g.node("Transpose", [x], "keys", perm=[0, 2, 1])], "scores")
    x = g.node("MatMul", [g.node("Softmax", [scores], "weights", axis=-1), x], "mixed")
    x = g.node("Transpose", [x], "by_token", perm=[1, 0, 2])
    single = g.node("Unsqueeze", [batch, g.sizes("axis2", 0)], "batch_1d")
    target = g.node("Concat", [g.sizes("tokens2", 5), single, g.sizes("joined", 32)], "t", axis=0)
    x = g.node("Reshape", [x, target], "merged")
    model = g.model(g.node("MatMul", [x, g.weight("out", 32, 4)], "answer"))
    _, pruned, _ = _halved(model)
    assert (2, 4) in pruned.widths.values(), pruned.widths


def test_labels_and_maps_behind_a_classifier_stay() -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    import onnxruntime
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    y = np.array(["low", "middle", "high"])[np.digitize(x[:, 0], [-0.5, 0.5])]
    network = MLPClassifier(hidden_layer_sizes=(32, 16), max_iter=20, random_state=0)
    fitted = make_pipeline(StandardScaler(), network).fit(x, y)
    model = skl2onnx.to_onnx(fitted, x[:1])
    _, pruned, small = _halved(model.SerializeToString())
    assert pruned.after.params < 0.55 * pruned.before.params
    labels, probabilities = onnxruntime.InferenceSession(small).run(None, {"X": x})
    assert set(labels) <= {"low", "middle", "high"} and len(probabilities) == 200


def test_any_order_of_the_units_is_the_same_function() -> None:
    torch.manual_seed(0)
    network = read_onnx(by_dynamo(distinct(_Attention()), torch.randn(2, 6, 10)))
    example = network.example()
    net = structure.trace(network, example)
    turned = structure.remap(network, net, draw_permutation(net)).model
    assert isinstance(turned, OnnxNetwork)
    other = example.call(RuntimeNetwork(turned.proto().SerializeToString()))
    torch.testing.assert_close(other, example.call(network), rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), turned.parameters(), strict=True))


def test_half_precision_is_kept() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(keras())
    from onnxruntime.transformers.float16 import convert_float_to_float16

    network = read_onnx(convert_float_to_float16(model, keep_io_types=True))
    pruned = nw.prune(network, network.example(), "keep=0.5")
    small = pruned.model
    assert isinstance(small, OnnxNetwork)
    content = small.proto().SerializeToString()
    stored = {t.name: t.data_type for t in onnx.load_from_string(content).graph.initializer}
    assert stored["dense/kernel"] == onnx.TensorProto.FLOAT16
    assert check_file(network, pruned.net, pruned.keep, content).error < 1e-2


def test_large_weights_go_into_a_second_file(tmp_path: Path) -> None:
    network = read_onnx(keras())
    write(network, tmp_path / "big.onnx", inline_bytes=1)
    assert (tmp_path / "big.onnx.data").stat().st_size > 20_000
    again = read_onnx(tmp_path / "big.onnx")
    example = network.example()
    torch.testing.assert_close(example.call(again), example.call(network))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]


def test_the_verb_on_files_writes_a_smaller_one(tmp_path: Path) -> None:
    onnx.save(keras(), tmp_path / "net.onnx")
    pruned = nw.prune_onnx(tmp_path / "net.onnx", "params=0.5", tmp_path / "small.onnx", check=True)
    assert pruned.error is not None and pruned.error < 1e-5
    assert pruned.after.params <= 0.5 * pruned.before.params
    assert (tmp_path / "small.onnx").stat().st_size < 0.6 * (tmp_path / "net.onnx").stat().st_size
    net = nw.read_onnx(tmp_path / "small.onnx")
    assert nw.trace(net, net.example()).params == pruned.after.params


def test_a_graph_is_exported_as_it_is_and_not_saved_as_a_recipe(tmp_path: Path) -> None:
    pruned = nw.prune_onnx(keras(), "keep=0.5")
    exported = nw.export(pruned.model, torch.randn(3, 17, 17, 3), tmp_path / "small.onnx")
    assert exported.max_abs_diff is not None and exported.max_abs_diff < 1e-5
    assert exported.opset == keras().opset_import[0].version
    with pytest.raises(UsageError, match="no architecture to be replayed on"):
        nw.save(pruned, tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def test_data_choose_and_mend() -> None:
    torch.manual_seed(0)
    data = torch.randn(64, 17, 17, 3)
    dense = read_onnx(keras())
    errors = {}
    for repair in ("none", "obs"):
        small = nw.prune_onnx(keras(), "keep=0.5", data=data, importance="obs", repair=repair).model
        with torch.no_grad():
            errors[repair] = float((small(data) - dense(data)).abs().mean())
    assert errors["obs"] < errors["none"]


def test_a_latency_is_measured_on_the_graph_itself() -> None:
    pruned = nw.prune_onnx(keras(), "latency=1000ms")
    assert pruned.latency is not None and pruned.latency["after"] > 0


def test_what_cannot_be_asked_is_said() -> None:
    with pytest.raises(UsageError, match="no name of an ONNX file"):
        nw.prune_onnx(keras(), 0.5, "small.pt")
    with pytest.raises(UsageError, match="keep their statistics"):
        nw.prune_onnx(keras(), 0.5, repair="bn", data=torch.randn(8, 17, 17, 3))
    with pytest.raises(BudgetError):
        nw.prune_onnx(keras(), "params=0.0001")
    with pytest.raises(UsageError, match="has 3 sizes besides the batch, 2 were given"):
        nw.prune_onnx(keras(), 0.5, input_shape=(17, 17))
    g = Graph({"x": ["batch", 6]})
    with pytest.raises(StructureError, match="no axis"):
        nw.prune_onnx(g.model(g.node("MatMul", ["x", g.weight("w", 6, 3)], "out")), 0.5)
