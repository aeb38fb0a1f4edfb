"""Small ONNX graphs: exported from PyTorch, and built by hand in the manner of other exporters."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn


def distinct(model: nn.Module) -> nn.Module:
    """The model with values of its own in every tensor, so that none is equal to another by accident."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                noise = 0.1 * torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return model.eval()


def by_torchscript(model: nn.Module, example: Tensor, opset: int = 13) -> bytes:
    """A file of the exporter by tracing, with an open batch."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (example,), file, opset_version=opset, dynamo=False, input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    return file.getvalue()


def by_dynamo(model: nn.Module, example: Tensor, opset: int = 23) -> bytes:
    """A file of the exporter by torch.export, with an open batch."""
    quiet = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (example,), dynamo=True, opset_version=opset, verbose=False,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )  # fmt: skip
    return program.model_proto.SerializeToString()


class Graph:
    """Builds a graph node by node.

    Args:
        inputs: Name -> sizes (numbers or symbols).
        opset: Version of the operators.
        seed: Of the weights.
    """

    def __init__(self, inputs: dict[str, list[int | str]], opset: int = 17, seed: int = 0) -> None:
        self.inputs, self.opset = inputs, opset
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.random = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int) -> str:
        """A random weight."""
        return self.store(name, self.random.normal(size=shape).astype(np.float32) * 0.3)

    def store(self, name: str, value: Any) -> str:
        """A constant."""
        self.stored.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def sizes(self, name: str, *values: int) -> str:
        """A constant of integers."""
        return self.store(name, np.array(values, np.int64))

    def node(self, op: str, inputs: list[str], output: str | list[str], **attributes: Any) -> str:
        """A node; returns its first output."""
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"node_{outputs[0]}", **attributes))
        return outputs[0]

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The graph with the given outputs, checked."""
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.inputs.items()],
            [onnx.ValueInfoProto(name=n) for n in outputs],
            self.stored,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8, producer_name="tests"
        )
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
        return model


def keras() -> onnx.ModelProto:
    """A CNN as Keras exports it: channels last outside, transposed around convolutions, uneven padding."""
    g = Graph({"image": ["batch", 17, 17, 3]})
    x = g.node("Transpose", ["image"], "nchw", perm=[0, 3, 1, 2])
    first = [g.weight("conv/kernel", 16, 3, 3, 3), g.weight("conv/bias", 16)]
    x = g.node("Conv", [x, *first], "conv", strides=[2, 2], pads=[0, 0, 1, 1])
    x = g.node("Transpose", [x], "nhwc", perm=[0, 2, 3, 1])
    x = g.node("Mul", [x, g.weight("norm/scale", 16)], "scaled")
    x = g.node("Add", [x, g.weight("norm/offset", 16)], "shifted")
    x = g.node("Clip", [x, g.store("low", np.float32(0)), g.store("high", np.float32(6))], "relu6")
    x = g.node("Transpose", [x], "again", perm=[0, 3, 1, 2])
    x = g.node(
        "Conv", [x, g.weight("depthwise/kernel", 16, 1, 3, 3)], "depthwise", group=16, auto_pad="SAME_UPPER"
    )
    x = g.node("Transpose", [x], "back", perm=[0, 2, 3, 1])
    x = g.node("Reshape", [x, g.sizes("flat", -1, 16 * 8 * 8)], "flattened")
    x = g.node("MatMul", [x, g.weight("dense/kernel", 16 * 8 * 8, 20)], "product")
    x = g.node("Add", [x, g.weight("dense/bias", 20)], "dense")
    x = g.node("Tanh", [x], "tanh")
    x = g.node("MatMul", [x, g.weight("logits/kernel", 20, 4)], "logits")
    return g.model(g.node("Softmax", [x], "probabilities", axis=-1))


def jax() -> onnx.ModelProto:
    """An attention block in the manner of JAX exports: einsum, broadcast sizes, a GLU cut by slices."""
    g = Graph({"tokens": ["batch", 6, 10]})
    x = g.node("MatMul", ["tokens", g.weight("embed", 10, 24)], "x")
    parts = []
    for name in ("query", "key", "value"):
        y = g.node("MatMul", [x, g.weight(name, 24, 24)], f"{name}_flat")
        parts.append(g.node("Reshape", [y, g.sizes(f"{name}_shape", -1, 6, 4, 6)], f"{name}_heads"))
    scores = g.node("Einsum", parts[:2], "scores", equation="bqhd,bkhd->bhqk")
    scores = g.node("Mul", [scores, g.store("temperature", np.float32(6**-0.5))], "tempered")
    weights = g.node("Softmax", [scores], "weights", axis=-1)
    y = g.node("Einsum", [weights, parts[2]], "mixed", equation="bhqk,bkhd->bqhd")
    y = g.node("Reshape", [y, g.sizes("merged_shape", -1, 6, 24)], "merged")
    y = g.node("MatMul", [y, g.weight("out", 24, 24)], "out_product")
    x = g.node("Add", [x, y], "residual")
    wide = g.node("MatMul", [x, g.weight("glu", 24, 40)], "wide")
    a = g.node("Slice", [wide, g.sizes("s0", 0), g.sizes("e0", 20), g.sizes("axis0", 2)], "first_half")
    b = g.node("Slice", [wide, g.sizes("s1", 20), g.sizes("e1", 40), g.sizes("axis1", 2)], "second_half")
    y = g.node("Mul", [a, g.node("Sigmoid", [b], "gate")], "gated")
    y = g.node("MatMul", [y, g.weight("down", 20, 24)], "down_product")
    x = g.node("Add", [x, y], "last_residual")
    return g.model(g.node("MatMul", [x, g.weight("head", 24, 5)], "answer"))
