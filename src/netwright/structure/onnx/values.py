"""What is known before the network runs: sizes, and everything computed of sizes and constants alone.

Exporters compute the target of a Reshape, the start of a Slice or a softmax temperature by a dozen nodes on
the sizes of tensors. These nodes are computed here, on NumPy arrays: a size is a number while the network is
recorded, so the operators that take it see what they will see.
"""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from typing import Any

import numpy as np

from netwright.errors import ModelError
from netwright.structure.onnx.operators.move import slices, split_sizes, target_shape
from netwright.structure.onnx.operators.registry import integers
from netwright.structure.onnx.program import Step, array

Known = Any
_BINARY: dict[str, Callable[[Known, Known], Known]] = {
    "Add": python.add, "Sub": python.sub, "Mul": python.mul, "Equal": python.eq, "Greater": python.gt,
    "Less": python.lt, "GreaterOrEqual": python.ge, "LessOrEqual": python.le, "And": np.logical_and,
    "Or": np.logical_or, "Max": np.maximum, "Min": np.minimum, "Pow": python.pow,
}  # fmt: skip
_UNARY: dict[str, Callable[[Known], Known]] = {
    "Identity": lambda x: x, "Sqrt": np.sqrt, "Neg": np.negative, "Not": np.logical_not, "Floor": np.floor,
    "Ceil": np.ceil, "Abs": np.abs, "Reciprocal": lambda x: (1 / x).astype(x.dtype), "Exp": np.exp,
    "Cos": np.cos, "Sin": np.sin, "Log": np.log,
}  # fmt: skip


def evaluate(step: Step, inputs: tuple[Known, ...]) -> tuple[Known, ...]:
    """Compute a node whose inputs are all known.

    Args:
        step: The node.
        inputs: Arrays, or None for one that is left out.

    Raises:
        ModelError: if it cannot be computed; names the node.
    """
    try:
        if step.op in _UNARY:
            return (np.asarray(_UNARY[step.op](inputs[0])),)
        if step.op in _BINARY and len(inputs) == 2:
            a, b = inputs
            out = np.asarray(_BINARY[step.op](a, b))
            return (out.astype(a.dtype) if step.op == "Pow" else out,)
        if step.op in _OTHERS:
            found = _OTHERS[step.op](step, inputs)
            return found if isinstance(found, tuple) else (np.asarray(found),)
        return _by_reference(step, inputs)
    except ModelError:
        raise
    except Exception as error:  # whatever a library raises of a malformed node
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"node {step.name} ({step.op}) cannot be computed: {reason}") from error


def _div(step: Step, inputs: tuple[Known, ...]) -> Known:
    a, b = inputs
    if np.issubdtype(a.dtype, np.integer):
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)  # towards zero
    return a / b


def _cast(step: Step, inputs: tuple[Known, ...]) -> Known:
    from onnx import helper

    kind = int(step.get("to"))
    return inputs[0].astype(np.float32 if kind == 16 else helper.tensor_dtype_to_np_dtype(kind))


def _slice(step: Step, inputs: tuple[Known, ...]) -> Known:
    x = inputs[0]
    for axis, low, high, by, _ in slices(step, inputs, x.shape):
        stop = None if by < 0 and high < 0 else high
        x = x[(slice(None),) * axis + (slice(low, stop, by),)]
    return x


def _unsqueeze(step: Step, inputs: tuple[Known, ...]) -> Known:
    x = inputs[0]
    axes = integers(step, inputs, 1, "axes") or []
    return np.expand_dims(x, tuple(a % (x.ndim + len(axes)) for a in axes))


def _squeeze(step: Step, inputs: tuple[Known, ...]) -> Known:
    axes = integers(step, inputs, 1, "axes")
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


def _split(step: Step, inputs: tuple[Known, ...]) -> tuple[Known, ...]:
    x, axis = inputs[0], step.get("axis", 0)
    return tuple(np.split(x, np.cumsum(split_sizes(step, inputs, x.shape[axis]))[:-1], axis))


def _filled(step: Step, inputs: tuple[Known, ...]) -> Known:
    value = step.get("value")
    one = np.zeros(1, np.float32) if value is None else array(value)
    return np.full([int(n) for n in inputs[0]], one.reshape(-1)[0], dtype=one.dtype)


def _shape(step: Step, inputs: tuple[Known, ...]) -> Known:
    sizes = np.array(inputs[0].shape, dtype=np.int64)
    return sizes[slice(step.get("start", 0), step.get("end", None))]


def _range(step: Step, inputs: tuple[Known, ...]) -> Known:
    start, stop, by = (x.item() for x in inputs)
    return np.arange(start, stop, by, dtype=inputs[0].dtype)


def _product(step: Step, inputs: tuple[Known, ...]) -> Known:
    axes = integers(step, inputs, 1, "axes")
    keep = bool(step.get("keepdims", 1))
    return np.prod(inputs[0], axis=tuple(axes) if axes else None, keepdims=keep).astype(inputs[0].dtype)


_OTHERS: dict[str, Callable[[Step, tuple[Known, ...]], Known]] = {
    "Div": _div,
    "Cast": _cast,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Split": _split,
    "ConstantOfShape": _filled,
    "Shape": _shape,
    "Size": lambda step, inputs: np.array(inputs[0].size, np.int64),
    "Range": _range,
    "ReduceProd": _product,
    "Concat": lambda step, inputs: np.concatenate([np.asarray(x) for x in inputs], step.get("axis")),
    "Gather": lambda step, inputs: np.take(inputs[0], inputs[1].astype(np.int64), step.get("axis", 0)),
    "Where": lambda step, inputs: np.where(*inputs),
    "Reshape": lambda step, inputs: inputs[0].reshape(
        target_shape(step, inputs[0].shape, [int(n) for n in inputs[1]])
    ),
    "Expand": lambda step, inputs: np.broadcast_to(
        inputs[0], np.broadcast_shapes(inputs[0].shape, tuple(int(n) for n in inputs[1]))
    ),
    "Transpose": lambda step, inputs: np.transpose(inputs[0], step.get("perm")),
    "Tile": lambda step, inputs: np.tile(inputs[0], [int(n) for n in inputs[1]]),
    "CastLike": lambda step, inputs: inputs[0].astype(inputs[1].dtype),
}


def _by_reference(step: Step, inputs: tuple[Known, ...]) -> tuple[Known, ...]:
    """Any other operator, by the reference implementation that comes with onnx."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [n for n in step.inputs if n]
    graph = helper.make_graph(
        [step.node],
        "one",
        [helper.make_value_info(n, helper.make_tensor_type_proto(0, None)) for n in dict.fromkeys(names)],
        [helper.make_value_info(n, helper.make_tensor_type_proto(0, None)) for n in step.outputs if n],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(step.node.domain, step.version)])
    feed = {name: value for name, value in zip(step.inputs, inputs, strict=False) if name}
    found = iter(ReferenceEvaluator(model).run(None, feed))
    return tuple(np.asarray(next(found)) if name else None for name in step.outputs)
