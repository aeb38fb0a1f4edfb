"""An ONNX graph as a list of steps, with its constants known and its weights apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from netwright.errors import ModelError

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

#: A value while a graph runs: data, or an array that is known beforehand (sizes and what is computed of
#: them), or a sequence of these, or nothing (an optional input that is not there).
Value = Any
#: Positions of inputs that are settings rather than data: a float array there is no weight.
SETTINGS: Mapping[str, tuple[int, ...]] = {
    "Resize": (1, 2, 3), "Upsample": (1,), "Clip": (1, 2), "Pad": (1, 2, 3), "Dropout": (1, 2),
    "OneHot": (1, 2), "Range": (0, 1, 2), "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2),
}  # fmt: skip
#: Positions of inputs that are statistics, not trained: buffers.
STATISTICS: Mapping[str, tuple[int, ...]] = {"BatchNormalization": (3, 4)}
#: Operators for which even a single number is a weight, at these positions.
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2), "GroupNormalization": (1, 2),
    "LSTM": (1, 2, 3), "GRU": (1, 2, 3), "RNN": (1, 2, 3), "PRelu": (1,),
}  # fmt: skip
#: The domain of classical machine learning, whose operators stand around a network.
CLASSICAL = "ai.onnx.ml"
#: Those that run before it; any other ends it: what feeds it is a result, and it stays in the file as it is.
_BEFORE = ("Scaler", "Normalizer")
#: Floating-point element types by their number in ONNX.
FLOATS = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Step:
    """One node of a graph.

    Attributes:
        name: The node's name, made unique.
        op: The operator, after its domain unless that is the standard one.
        version: Opset version.
        inputs: Names of its inputs, "" for one that is left out.
        outputs: Names of its outputs, "" for one that nobody wants.
        attributes: Its attributes, as Python values and arrays.
        node: The node itself.
        bodies: Attribute -> the graph it holds.
    """

    name: str
    op: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    node: NodeProto
    bodies: Mapping[str, Body] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Step:
        return self  # nothing changes it

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or a default."""
        return self.attributes.get(name, default)

    def wants(self, output: int) -> bool:
        """Whether somebody wants an output."""
        return output < len(self.outputs) and bool(self.outputs[output])


@dataclass(frozen=True, eq=False)
class Body:
    """A graph inside a node: the branch of an If.

    Attributes:
        steps: Its nodes.
        outputs: Names of its outputs.
        constants: Arrays by name.
    """

    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray[Any, Any]]

    def __deepcopy__(self, memo: dict[int, Any]) -> Body:
        return self


@dataclass(frozen=True, eq=False)
class Program:
    """A graph that can run: everything but the weights.

    Attributes:
        model: The file's content, its weights taken out.
        steps: The nodes in order.
        inputs: Name of every input -> (element type, sizes: a number, a symbol or None).
        outputs: Names of the results: the outputs, and what feeds nodes behind the network (labels, maps).
        constants: Arrays by name: sizes, indices, settings.
        weights: Names of the weights, in the order of the file.
        buffers: Weights that are statistics.
        last: For each step, the values that nobody reads after it.
    """

    model: ModelProto
    steps: tuple[Step, ...]
    inputs: Mapping[str, tuple[torch.dtype, tuple[int | str | None, ...]]]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray[Any, Any]]
    weights: tuple[str, ...]
    buffers: frozenset[str]
    last: Sequence[tuple[str, ...]]

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self  # nothing changes it

    @property
    def version(self) -> int:
        """Opset version of the standard operators."""
        return versions(self.model)[""]


def versions(model: ModelProto) -> dict[str, int]:
    """Domain -> opset version; the standard domain is ""."""
    found = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    return {"": 1, **found}


def compile_program(model: ModelProto) -> tuple[Program, dict[str, Tensor]]:
    """Read a graph's nodes and take its weights out.

    Args:
        model: The content of a file; its weights are taken out of it.

    Returns:
        The program, and the weights by name: floating-point initializers and constants, but for settings.

    Raises:
        ModelError: if it holds an element type or an attribute that is not understood.
    """
    graph = model.graph
    named = versions(model)
    used_names: set[str] = set()
    steps = _wanted(_in_order(list(_steps(graph, named, used_names))), {o.name for o in graph.output})
    stored = {t.name: t for t in graph.initializer}
    for step in steps:
        if step.op == "Constant" and isinstance(step.get("value"), _Held):
            stored[step.outputs[0]] = step.get("value").tensor
    weights, statistics = _weights(steps, stored)
    constants = {name: array(t) for name, t in stored.items() if name not in weights}
    tensors = {name: to_torch(stored[name]) for name in stored if name in weights}
    for step in steps:
        if step.op == "Constant" and step.outputs[0] not in stored:
            constants[step.outputs[0]] = _constant(step)
    for name in tensors:
        _empty(stored[name])
    running, outputs = _without_tail([s for s in steps if s.op != "Constant"], [o.name for o in graph.output])
    inputs = {i.name: _typed(i) for i in graph.input if i.name not in stored}
    last = _last_uses(running, {*outputs, *stored, *constants})
    return Program(
        model, running, inputs, outputs, constants, tuple(tensors), frozenset(statistics), last
    ), tensors


def reads(step: Step) -> Iterator[str]:
    """Names that a node reads, those read inside its bodies too."""
    yield from (name for name in step.inputs if name)
    for body in step.bodies.values():
        yield from body.outputs
        for inner in body.steps:
            yield from reads(inner)


def _last_uses(steps: Sequence[Step], held: set[str]) -> list[tuple[str, ...]]:
    last: list[tuple[str, ...]] = []
    seen = set(held)
    for step in reversed(steps):
        fresh = [name for name in dict.fromkeys([*reads(step), *step.outputs]) if name and name not in seen]
        seen.update(fresh)
        last.append(tuple(fresh))
    return last[::-1]


def _in_order(steps: list[Step]) -> tuple[Step, ...]:
    """The steps so that each comes after those it reads: some converters leave them in another order.

    Raises:
        ModelError: if they go round in a circle.
    """
    made = {name for step in steps for name in step.outputs if name}
    done: set[str] = set()
    out: list[Step] = []
    while steps:
        waiting = []
        for step in steps:
            if all(name in done or name not in made for name in reads(step)):
                out.append(step)
                done.update(step.outputs)
            else:
                waiting.append(step)
        if len(waiting) == len(steps):
            raise ModelError(f"the graph reads in a circle at node {steps[0].name}", "export it again")
        steps = waiting
    return tuple(out)


def _wanted(steps: tuple[Step, ...], outputs: set[str]) -> tuple[Step, ...]:
    """The steps without the names of outputs that nobody reads, but for their first."""
    read = outputs.union(*(reads(step) for step in steps))
    return tuple(
        replace(step, outputs=(*step.outputs[:1], *(o if o in read else "" for o in step.outputs[1:])))
        if len(step.outputs) > 1
        else step
        for step in steps
    )


def _without_tail(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """The steps up to those that make labels and maps of a network's results, and the results."""
    behind: set[str] = set()
    before: list[Step] = []
    results = []
    for step in steps:
        domain, _, op = step.op.rpartition(".")
        if (domain == CLASSICAL and op not in _BEFORE) or behind & set(reads(step)):
            behind |= set(step.outputs)
            results += [name for name in reads(step) if name not in behind]
        else:
            before.append(step)
    made = {name for step in before for name in step.outputs}
    found = [name for name in outputs if name not in behind] + [name for name in results if name in made]
    return tuple(before), tuple(dict.fromkeys(found))


def named_nodes(graph: GraphProto, used: set[str]) -> Iterator[tuple[str, NodeProto]]:
    """The nodes of a graph under unique names; what a node holds inside is left to the caller.

    Args:
        graph: The graph.
        used: Names that are taken; those given are added.
    """
    for index, node in enumerate(graph.node):
        base = node.name or f"{node.op_type}_{index}"
        name, count = base, 1
        while name in used:
            name, count = f"{base}_{count}", count + 1
        used.add(name)
        yield name, node


def _steps(graph: GraphProto, named: dict[str, int], used: set[str]) -> Iterator[Step]:
    for name, node in named_nodes(graph, used):
        attributes = {a.name: _attribute(a, name) for a in node.attribute if not a.HasField("g")}
        bodies = {a.name: _body(a.g, named, used) for a in node.attribute if a.HasField("g")}
        domain = "" if node.domain == "ai.onnx" else node.domain
        op = f"{domain}.{node.op_type}" if domain else node.op_type
        yield Step(
            name, op, named.get(domain, 1), tuple(node.input), tuple(node.output), attributes,
            node, bodies,
        )  # fmt: skip


def _body(graph: GraphProto, named: dict[str, int], used: set[str]) -> Body:
    steps = tuple(_steps(graph, named, used))
    constants = {t.name: array(t) for t in graph.initializer}
    constants |= {s.outputs[0]: _constant(s) for s in steps if s.op == "Constant"}
    return Body(tuple(s for s in steps if s.op != "Constant"), tuple(o.name for o in graph.output), constants)


def _weights(steps: Sequence[Step], stored: Mapping[str, TensorProto]) -> tuple[set[str], set[str]]:
    """Names of the stored tensors that are weights, and of those among them that are statistics."""
    weights: set[str] = set()
    statistics: set[str] = set()
    settings: set[str] = set()
    reshaped = {name for step in steps if step.op == "Reshape" for name in step.outputs}

    def look(step: Step) -> None:
        if step.op == "InstanceNormalization" and step.inputs[0] in reshaped:
            plain = [_plain(stored.get(step.inputs[i]), n) for i, n in ((1, 1), (2, 0))]
            if all(plain):  # a group normalisation: the numbers of its groups are no weights
                settings.update(step.inputs[1:3])
                return
        for position, name in enumerate(step.inputs):
            tensor = stored.get(name)
            if tensor is None or tensor.data_type not in FLOATS:
                continue
            size = int(np.prod(tensor.dims, dtype=np.int64))
            if position in SETTINGS.get(step.op, ()):
                settings.add(name)
            elif (size > 1 or position in _WEIGHTS.get(step.op, ())) and len(tensor.dims):
                weights.add(name)
            if position in STATISTICS.get(step.op, ()):
                weights.add(name)
                statistics.add(name)
        for body in step.bodies.values():
            for inner in body.steps:
                look(inner)

    for step in steps:
        look(step)
    return weights - settings, statistics - settings


def _plain(tensor: TensorProto | None, number: float) -> bool:
    return tensor is not None and bool((array(tensor) == number).all())


@dataclass(frozen=True)
class _Held:
    """A tensor attribute that has not been decoded."""

    tensor: TensorProto


def _attribute(attribute: AttributeProto, node: str) -> Any:
    from onnx import AttributeProto, helper

    if attribute.type == AttributeProto.TENSOR:
        return _Held(attribute.t)
    try:
        value = helper.get_attribute_value(attribute)
    except ValueError as error:
        raise ModelError(f"node {node} has an attribute {attribute.name} that cannot be read") from error
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], bytes):
        return [v.decode("utf-8", "replace") for v in value]
    return list(value) if not isinstance(value, (int, float, str)) and hasattr(value, "__iter__") else value


def _constant(step: Step) -> np.ndarray[Any, Any]:
    for name, kind in (("value_float", np.float32), ("value_int", np.int64)):
        for key in (name, f"{name}s"):
            if key in step.attributes:
                return np.array(step.attributes[key], dtype=kind)
    value = step.get("value")
    if isinstance(value, _Held):
        return array(value.tensor)
    raise ModelError(f"node {step.name} is a constant that is not understood", "only dense numbers are")


def array(tensor: TensorProto | _Held) -> np.ndarray[Any, Any]:
    """A stored tensor as an array (a new one)."""
    from onnx import numpy_helper

    tensor = tensor.tensor if isinstance(tensor, _Held) else tensor
    try:
        found = np.array(numpy_helper.to_array(tensor))
    except Exception as error:  # the library raises what its decoders do
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"the tensor {tensor.name or '(no name)'} cannot be read: {reason}") from error
    return found.astype(np.float32) if found.dtype.name == "bfloat16" else found


def to_torch(tensor: TensorProto) -> Tensor:
    """A stored floating-point tensor."""
    return torch.from_numpy(np.ascontiguousarray(array(tensor))).to(FLOATS[tensor.data_type])


def fill(holder: TensorProto, tensor: Tensor, shape: Sequence[int] | None = None) -> None:
    """Put values into a stored tensor, in its own element type.

    Args:
        holder: The stored tensor.
        tensor: The values.
        shape: Another shape of as many elements to store them with.
    """
    _empty(holder)
    values = tensor.detach().to("cpu", FLOATS[holder.data_type]).contiguous()
    holder.ClearField("dims")
    holder.dims.extend(shape if shape is not None else values.shape)
    holder.raw_data = values.view(torch.uint8).numpy().tobytes() if values.dim() else bytes(
        values.reshape(1).view(torch.uint8).numpy()
    )  # fmt: skip


def _empty(holder: TensorProto) -> None:
    for name in ("raw_data", "float_data", "double_data", "int32_data", "external_data", "data_location"):
        holder.ClearField(name)


def _typed(info: Any) -> tuple[torch.dtype, tuple[int | str | None, ...]]:
    from onnx import helper

    if not info.type.HasField("tensor_type"):
        raise ModelError(f"the input {info.name} is no tensor", "networks of tensors are understood")
    kind = info.type.tensor_type
    sizes: list[int | str | None] = []
    for d in kind.shape.dim:
        sizes.append(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or None)
    if kind.elem_type == 16:
        dtype = torch.bfloat16
    else:
        try:
            dtype = torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(kind.elem_type))).dtype
        except (KeyError, TypeError) as error:
            raise ModelError(f"the input {info.name} has an element type that is not understood") from error
    return dtype, tuple(sizes)
