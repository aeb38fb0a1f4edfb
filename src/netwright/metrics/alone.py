"""One operator by itself in ONNX Runtime, at any widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from netwright.errors import ArtefactError
from netwright.metrics.operators import Array, Kind, Size, Value, open_as_is


class Single:
    """One operator alone, several times over with weights of its own each, ready to run.

    Args:
        kind: The operator.
        widths: Of its slots.
        threads: Threads inside an operator.
        seed: Of the contents.
    """

    #: Copies in one graph, so that calling it costs little beside; fewer where weights are large.
    COPIES = 4
    _MOST_BYTES = 1 << 26

    def __init__(self, kind: Kind, widths: Sequence[int], threads: int, seed: int = 0) -> None:
        import onnx

        rng = np.random.default_rng(seed)
        weights = [(i, v) for i, v in enumerate(kind.inputs) if v.kind in ("weight", "numbers")]
        held = sum(4 * math.prod(s.at(widths) for s in v.shape) for _, v in weights)
        self.copies = max(1, min(self.COPIES, self._MOST_BYTES // max(held, 1)))
        given = {a: _plain(v, widths) for a, v in kind.attributes}
        nodes, initializers, outputs = [], [], []
        inputs, self.feed = [], {}
        for i, v in enumerate(kind.inputs):
            if v.kind == "activation":
                array = _random(rng, v, widths)
                self.feed[f"x{i}"] = array
                element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(onnx.helper.make_tensor_value_info(f"x{i}", element, array.shape))
        for copy in range(self.copies):
            names = ["" if v.kind == "none" else f"x{i}" for i, v in enumerate(kind.inputs)]
            for i, v in weights:
                names[i] = f"w{copy}_{i}"
                array = _numbers(v, widths) if v.kind == "numbers" else _random(rng, v, widths)
                initializers.append(onnx.numpy_helper.from_array(array, names[i]))
            made = [f"y{copy}_{o}" for o in range(kind.outputs)]
            outputs += [onnx.ValueInfoProto(name=n) for n in made]
            nodes.append(onnx.helper.make_node(kind.op, names, made, domain=kind.domain, **given))
        graph = onnx.helper.make_graph(nodes, "one", inputs, outputs, initializers)
        opset = onnx.helper.make_opsetid(kind.domain, kind.version)
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
        self.session = open_as_is(model, threads)

    def run(self) -> None:
        """Run it."""
        try:
            self.session.run(None, self.feed)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtefactError(f"ONNX Runtime cannot run an operator alone ({reason})") from error


class Nothing:
    """A graph of operators that do nothing: what calling ONNX Runtime and them costs.

    Args:
        threads: Threads inside an operator.
        copies: How many operators, each with an output.
    """

    def __init__(self, threads: int, copies: int) -> None:
        from onnx import TensorProto, helper

        made = [f"y{i}" for i in range(copies)]
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", *made)]
        nodes = [helper.make_node("Identity", ["x"], [name]) for name in made]
        graph = helper.make_graph(nodes, "none", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        self._session = open_as_is(model, threads)
        self._feed = {"x": np.zeros(1, np.float32)}

    def run(self) -> None:
        """Run it."""
        self._session.run(None, self._feed)


def _plain(value: Any, widths: Sequence[int]) -> Any:
    if isinstance(value, Size):
        return value.at(widths)
    if isinstance(value, tuple):
        return [_plain(v, widths) for v in value]
    return value


def _numbers(value: Value, widths: Sequence[int]) -> Array:
    shape = [s.at(widths) for s in value.shape]
    return np.array([n.at(widths) for n in value.numbers], dtype=value.dtype).reshape(shape)


def _random(rng: np.random.Generator, value: Value, widths: Sequence[int]) -> Array:
    """Contents that any operator takes: small positive numbers, zeros where they may be indices."""
    shape = [s.at(widths) for s in value.shape]
    dtype = np.dtype(value.dtype)
    if dtype.kind == "f":
        return (rng.random(shape, dtype=np.float32) * 0.1 + 0.01).astype(dtype)
    return np.zeros(shape, dtype=dtype)
