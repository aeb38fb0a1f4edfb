"""Export a forward pass with `torch.export` and flatten what comes out to one plain graph."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import operator
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from netwright.errors import StructureError
from netwright.structure.attention import adopt_attention
from netwright.structure.copying import deep_copy
from netwright.structure.graph import PATH
from netwright.structure.inputs import Inputs

_ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range",
               "sym_constrain_range_for_size")  # fmt: skip


def twin_of(model: nn.Module, training: bool) -> nn.Module:
    """A copy of the modules around the same tensors: what the forward stores stays out of the user's model.

    Args:
        model: The network.
        training: Its mode.
    """
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = tensor
    twin = deep_copy(model, memo).train(training)
    adopt_attention(twin)
    return twin


def drop_objects(twin: nn.Module) -> set[str]:
    """Have a forward pass return None where it returns an object that a graph cannot make, such as a cache.

    Returns:
        A set that receives the names of their classes when the pass runs.
    """
    forward = twin.forward
    dropped: set[str] = set()

    def plain(value: Any) -> Any:
        if value is None or isinstance(
            value, (Tensor, int, float, str, torch.SymInt, torch.SymFloat, torch.SymBool)
        ):
            return value
        dropped.add(type(value).__name__)
        return None

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return pytree.tree_map(plain, forward(*args, **kwargs))

    twin.forward = wrapped  # type: ignore[method-assign]
    return dropped


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Capture without warnings and fused kernels, and without drawing from the global generator."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.fx", "torch._export")]
    levels = [logger.level for logger in loggers]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):  # a failed export prints its whole graph
                yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)


def export(twin: nn.Module, inputs: Inputs) -> Any:
    """The exported program, with free leading dimensions where the network allows it.

    Args:
        twin: The network.
        inputs: The example.

    Raises:
        StructureError: if `torch.export` cannot follow the forward pass.
    """
    from torch.export import Dim

    def free(x: Any) -> Any:
        return {0: Dim.AUTO} if isinstance(x, Tensor) and x.dim() and x.shape[0] > 1 else None

    args, kwargs = inputs.args, dict(inputs.kwargs)
    shapes = _shape_spec(twin, pytree.tree_map(free, args), pytree.tree_map(free, kwargs))
    failure: Exception | None = None
    for spec in (shapes, None):
        try:
            with quiet():
                return torch.export.export(twin, args, kwargs, dynamic_shapes=spec, strict=False)
        except Exception as error:
            failure = failure or error
    reason = " ".join(str(failure).split())[:300]
    raise StructureError(f"its forward pass cannot be exported: {reason}") from failure


def _shape_spec(twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.export` wants the dynamic shapes by the names of the arguments, as the signature binds them."""
    try:
        bound = inspect.signature(twin.forward).bind(*args, **kwargs)
    except TypeError:
        return None
    return dict(bound.arguments)


def plain_graph(module: fx.GraphModule) -> fx.Graph:
    """The graph with flat arguments and results, sub-graphs inlined, assertions dropped.

    Args:
        module: An exported program's module.

    Raises:
        StructureError: if it holds a sub-graph that does more than set a mode.
    """
    graph = fx.Graph()
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            leaves = pytree.tree_map_only(fx.Node, lambda n: values[n], node.args[0])
            graph.output(tuple(pytree.tree_leaves(leaves)))
        else:
            _copy_node(module, node, graph, values)
    return graph


def _copy_node(module: nn.Module, node: fx.Node, graph: fx.Graph, values: dict[fx.Node, Any]) -> None:
    if isinstance(node.target, torch._ops.OpOverload) and op_name(node) in _ASSERTIONS:
        return
    if node.op == "get_attr" and isinstance(attribute(module, str(node.target)), fx.GraphModule):
        values[node] = attribute(module, str(node.target))
        return
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        values[node] = _inline(node, graph, values)
        return
    if node.op == "call_function" and node.target is operator.getitem:
        source = values[node.args[0]]  # type: ignore[index]
        if not isinstance(source, fx.Node):  # a part of an inlined sub-graph's result
            values[node] = source[node.args[1]]
            return
    copied = graph.node_copy(node, lambda n: values[n])
    copied.meta = {PATH: _path(node), "stack_trace": node.meta.get("stack_trace")}
    if node.op == "placeholder":
        copied.args = ()
    values[node] = copied


def _inline(node: fx.Node, graph: fx.Graph, values: dict[fx.Node, Any]) -> list[Any]:
    """Copy the nodes of a sub-graph that only sets a mode; results are detached where gradients were off."""
    kind = str(node.target)
    args = [values[a] if isinstance(a, fx.Node) else a for a in node.args]
    at = next((i for i, a in enumerate(args) if isinstance(a, fx.GraphModule)), None)
    part: Any = None if at is None else args[at]
    mode = args[:at] if at is not None else []
    grad, cast = kind == "wrap_with_set_grad_enabled", kind == "wrap_with_autocast" and mode[2] is False
    if at is None or not (grad or cast):
        raise StructureError(
            f"the forward pass contains {kind}, which cannot be rewritten (in {_path(node)})"
        )
    inner: dict[fx.Node, Any] = {}
    given = iter(args[at + 1 :])
    out: list[Any] = []
    for child in part.graph.nodes:
        if child.op == "placeholder":
            inner[child] = next(given)
        elif child.op == "output":
            out = [inner[x] if isinstance(x, fx.Node) else x for x in pytree.tree_leaves(child.args[0])]
        else:
            _copy_node(part, child, graph, inner)
    if grad and mode[0] is False:
        out = [graph.call_function(torch.ops.aten.detach.default, (x,)) if _is_tensor(x) else x for x in out]
    return out


def _is_tensor(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.target, torch._ops.OpOverload)


def attribute(module: nn.Module, target: str) -> Any:
    """What a dotted path leads to."""
    found: Any = module
    for part in target.split("."):
        found = getattr(found, part)
    return found


def _path(node: fx.Node) -> str:
    """Dotted path of the module that made a call; a module that is called twice has one path."""
    stack = [v[0] for v in (node.meta.get("nn_module_stack") or {}).values()]
    path = stack[-1] if stack and not stack[-1].startswith("_empty") else ""
    return re.sub(r"@\d+", "", path)


def free_shape(exported: Any, position: int, leaf: Any) -> tuple[int | None, ...] | None:
    """The shape that an exported program takes at a position, None along what is free.

    Args:
        exported: The program.
        position: Among the leaves of the arguments.
        leaf: The example there; None is returned for what is no tensor.
    """
    if not isinstance(leaf, Tensor):
        return None
    names = exported.graph_signature.user_inputs
    placeholders = {n.name: n for n in exported.graph.nodes if n.op == "placeholder"}
    value = placeholders[names[position]].meta["val"]
    return tuple([n if isinstance(n, int) else None for n in value.shape])


def op_name(node: fx.Node) -> str:
    """Name of an operator call, without overload and without the underscore of in-place variants."""
    name = node.target._schema.name.partition("::")[2]  # type: ignore[union-attr]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name
