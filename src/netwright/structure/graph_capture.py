"""Capture a forward pass as a graph, and give it back what an exported module lacks.

Exported graphs are fixed to a mode, a device, a dtype and, by default, a batch size. Here flags of training
are read from the module that made the call, devices from the input, dtypes that follow the model's from its
parameters (found by exporting in a second dtype), and the leading dimension of the inputs stays free.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from netwright.errors import ModelError, StructureError
from netwright.structure.attention import adopt_attention
from netwright.structure.copying import clone
from netwright.structure.graph import LAYERS, PATH, GraphNetwork, Program, build, is_layer
from netwright.structure.graph_export import (
    attribute,
    drop_objects,
    export,
    free_shape,
    op_name,
    plain_graph,
    twin_of,
)
from netwright.structure.graph_tracing import Untraceable, trace_calls
from netwright.structure.inputs import Inputs, to_meta
from netwright.structure.proof import computing
from netwright.structure.record import Recording, record

_TRAINING_FLAGS = frozenset({"train", "training", "use_input_stats"})


@dataclass
class Captured:
    """A forward pass as a graph.

    Attributes:
        program: The graph of the dense network.
        constants: Name -> tensor that the graph reads beside parameters and buffers.
        dropped: Classes of results that the graph returns None for.
        recording: One of the dense graph, where there is one already.
    """

    program: Program
    constants: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    recording: Recording | None = None

    def network(self, model: nn.Module) -> GraphNetwork:
        """The dense graph around the model's own parameters."""
        return build(model, type(model).__name__, self.program, None, {}, {}, self.constants)


def calls(recording: Recording) -> list[tuple[Any, ...]]:
    """The operators that compute, with their numbers and the shapes of their results."""
    return [
        (
            n.op,
            [a for a in n.args if isinstance(a, float)],
            [recording.shapes[o] for o in n.outputs[:1] if o >= 0],
        )
        for n in computing(recording)
    ]


def capture(model: nn.Module, inputs: Inputs, theirs: Recording, *, training: bool = False) -> Captured:
    """Capture one forward pass: traced where that gives what the network itself runs, exported otherwise.

    Args:
        model: The network; it is not touched.
        inputs: The example; a leading dimension of two or more that all tensors share stays free.
        theirs: The network's own recording of that pass.
        training: Capture the pass in training mode.

    Raises:
        StructureError: if `torch.export` cannot follow the forward pass; says what it said.
    """
    try:
        found = _traced(model, inputs, training)
        found.recording = record(found.network(model), inputs, training=training)
        if calls(found.recording) == calls(theirs):
            return found
    except (Untraceable, ModelError):
        pass
    return _exported(model, inputs, training)


def _traced(model: nn.Module, inputs: Inputs, training: bool) -> Captured:
    found = trace_calls(model, inputs, training=training, dtype=_dtype_of(model))
    _follow_device(found.graph)
    _call_layers(found.graph, twin_of(model, training), training)
    _sweep(found.graph)
    program = _program(model, inputs, found.graph, found.inputs, found.outputs, found.shapes)
    return Captured(program, found.constants, found.dropped)


def _exported(model: nn.Module, inputs: Inputs, training: bool) -> Captured:
    twin = twin_of(model, training)
    dropped = drop_objects(twin)
    exported = export(twin, inputs)
    module = exported.module(check_guards=False)
    graph = plain_graph(module)
    _follow_dtype(graph, model, inputs, training)
    _follow_device(graph)
    _call_layers(graph, twin, training)
    constants = _name_constants(graph, module, twin)
    _sweep(graph)
    leaves, _ = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
    shapes = tuple([free_shape(exported, i, x) for i, x in enumerate(leaves)])
    program = _program(model, inputs, graph, exported.call_spec.in_spec, exported.call_spec.out_spec, shapes)
    return Captured(program, constants, sorted(dropped))


def _program(
    model: nn.Module,
    inputs: Inputs,
    graph: fx.Graph,
    given: Any,
    returned: Any,
    shapes: tuple[tuple[int | None, ...] | None, ...],
) -> Program:
    leaves, _ = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
    values = {i: x for i, x in enumerate(leaves) if not isinstance(x, Tensor)}
    return Program(graph, given, returned, shapes, values, inspect.signature(model.forward))


def _dtype_of(model: nn.Module) -> torch.dtype:
    found = [t.dtype for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]
    return found[0] if found else torch.get_default_dtype()


def _names_dtype(node: fx.Node, dtype: torch.dtype) -> bool:
    """Whether a call names a dtype, or its lowest number."""
    if node.op != "call_function":
        return False
    leaves = pytree.tree_leaves((list(node.args), dict(node.kwargs)))
    return any(x is dtype or (isinstance(x, float) and x == torch.finfo(dtype).min) for x in leaves)


class _Dtypes:
    """Nodes that read the model's dtype, and its lowest number, from a parameter.

    Args:
        graph: The graph they are put in.
        parameter: Name of a floating-point parameter.
    """

    def __init__(self, graph: fx.Graph, parameter: str) -> None:
        self._graph = graph
        self._parameter = parameter
        self._made: dict[str, fx.Node] = {}

    def get(self, what: str) -> fx.Node:
        """The node: "dtype" or "min"."""
        if what not in self._made:
            dtype = self.get("dtype") if what != "dtype" else None
            with self._graph.inserting_before(next(iter(self._graph.nodes)) if dtype is None else dtype.next):
                if dtype is None:
                    weight = self._graph.create_node("get_attr", self._parameter, (), {})
                    self._made[what] = self._graph.call_function(getattr, (weight, "dtype"))
                else:
                    info = self._graph.call_function(torch.finfo, (dtype,))
                    self._made[what] = self._graph.call_function(getattr, (info, what))
        return self._made[what]


def _follow_dtype(graph: fx.Graph, model: nn.Module, inputs: Inputs, training: bool) -> None:
    """Let the dtypes (and lowest numbers) that follow the model's be read from a parameter.

    Constants of one value do: their values are the same in any dtype. Whether `to(float32)` means "the dtype
    of the model" shows in a second export, in another dtype.
    """
    dtype = _dtype_of(model)
    name = next((n for n, p in model.named_parameters() if p.dtype == dtype), None)
    named = [n for n in graph.nodes if _names_dtype(n, dtype)]
    if name is None or not named:
        return
    nodes = _Dtypes(graph, name)
    first = [n for n in graph.nodes if n.op == "call_function"]
    if all(_constant(n) for n in named):
        for node in named:
            node.kwargs = {k: nodes.get("dtype") if v is dtype else v for k, v in node.kwargs.items()}
        return
    other = torch.float64 if dtype != torch.float64 else torch.float32
    second = _in_dtype(model, inputs, other, training)
    if second is None or [n.target for n in first] != [n.target for n in second]:
        return
    for node, twin in zip(first, second, strict=True):
        mine, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
        theirs = pytree.tree_leaves((twin.args, dict(twin.kwargs)))
        changed = list(mine)
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            if a is dtype and b is other:
                changed[i] = nodes.get("dtype")
            elif a == torch.finfo(dtype).min and b == torch.finfo(other).min:
                changed[i] = nodes.get("min")
        if any(a is not b for a, b in zip(mine, changed, strict=True)):
            node.args, node.kwargs = pytree.tree_unflatten(changed, spec)


def _constant(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and op_name(node).removeprefix("new_").removesuffix(
        "_like"
    ) in ("zeros", "ones", "full", "empty", "rand", "randn")


def _in_dtype(model: nn.Module, inputs: Inputs, dtype: torch.dtype, training: bool) -> list[fx.Node] | None:
    """The operator calls of the same pass in another dtype; without values where that is possible."""
    for device in ("meta", None):
        twin = clone(model, device).train(training).to(dtype)
        adopt_attention(twin)
        drop_objects(twin)
        given = (to_meta(inputs) if device else inputs).map(
            lambda x: x.to(dtype) if x.is_floating_point() else x
        )
        try:
            graph = plain_graph(export(twin, given).module(check_guards=False))
        except StructureError:
            continue
        return [n for n in graph.nodes if n.op == "call_function"]
    return None


def _follow_device(graph: fx.Graph) -> None:
    """Let every device be that of the first input (of a parameter, where no input is a tensor)."""
    device: fx.Node | None = None
    anchor = next((n for n in graph.nodes if n.op == "placeholder"), None)
    anchor = next((n for n in graph.nodes if n.op == "get_attr"), None) if anchor is None else anchor
    last = [n for n in graph.nodes if n.op == "placeholder"][-1:]
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
        if not any(isinstance(x, torch.device) for x in leaves) or anchor is None:
            continue
        if device is None:
            with graph.inserting_after(last[0] if last else anchor):
                device = graph.call_function(getattr, (anchor, "device"))
        args, kwargs = pytree.tree_unflatten(
            [device if isinstance(x, torch.device) else x for x in leaves], spec
        )
        node.args, node.kwargs = args, kwargs


def _call_layers(graph: fx.Graph, twin: nn.Module, training: bool) -> None:
    """Call the standard layers themselves, and read the other flags of training from the calling module."""
    modules = dict(twin.named_modules())
    layers = {path: LAYERS[type(m)] for path, m in modules.items() if path and is_layer(m)}
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        path, op = node.meta.get(PATH, ""), op_name(node)
        if op in layers.get(path, ()):
            with graph.inserting_before(node):
                call = graph.create_node("call_module", path, (_activation(node, op),), {})
            call.meta = dict(node.meta)
            node.replace_all_uses_with(call)
            graph.erase_node(node)
        elif path in layers and op == "add" and layers[path] == ("batch_norm",):
            graph.erase_node(node)  # the counter of batches, which the layer counts itself
        else:
            _read_flag(graph, node, path, training)


def _activation(node: fx.Node, op: str) -> Any:
    return node.args[1] if op == "embedding" else node.args[0]


def _read_flag(graph: fx.Graph, node: fx.Node, path: str, training: bool) -> None:
    for i, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name not in _TRAINING_FLAGS:
            continue
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
        if value is not training:
            continue  # a constant of the user's, such as dropout at test time
        target = f"{path}.training" if path else "training"
        with graph.inserting_before(node):
            flag = graph.create_node("get_attr", target, (), {})
        if i < len(node.args):
            node.update_arg(i, flag)
        else:
            node.update_kwarg(argument.name, flag)


def _name_constants(graph: fx.Graph, module: nn.Module, twin: nn.Module) -> dict[str, Tensor]:
    """Tensors of the graph that are neither parameters nor buffers of the network, renamed and copied."""
    known = {n for n, _ in twin.named_parameters(remove_duplicate=False)}
    known |= {n for n, _ in twin.named_buffers(remove_duplicate=False)}
    names: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr" and node.target not in known and not str(node.target).endswith("training"):
            value = attribute(module, str(node.target))
            name = names.setdefault(str(node.target), f"_constant_{len(names)}")
            node.target = name
            constants[name] = value.detach().clone()
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            if op_name(node) == "lift_fresh_copy":
                node.target = torch.ops.aten.clone.default
            elif node.target is torch.ops.aten.detach_.default:
                node.target = torch.ops.aten.detach.default
    return constants


def _sweep(graph: fx.Graph) -> None:
    """Erase what computes nothing that is read; what writes in place stays."""
    for node in reversed(list(graph.nodes)):
        if node.users or node.op in ("placeholder", "output", "call_module"):
            continue
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            continue
        graph.erase_node(node)


def export_free(inputs: Inputs, model: nn.Module) -> Inputs:
    """The example with two examples where it has one, so that the graph does not fix the number.

    Args:
        inputs: The example.
        model: The network, which must take two examples.
    """
    tensors = [x for x in inputs.tensors() if x.dim()]
    if not tensors or any(x.shape[0] != 1 for x in tensors):
        return inputs
    double = inputs.map(lambda x: torch.cat([x, x]) if x.dim() else x)
    try:
        record(model, double)
    except ModelError:
        return inputs
    return double
