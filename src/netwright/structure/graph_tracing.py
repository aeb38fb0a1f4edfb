"""Capture a forward pass as a graph without symbolic sizes, several times as fast as `torch.export` does.

The calls of PyTorch's operators are noted while the pass runs on tensors without values, before anything is
decomposed: the same calls that `torch.export` gives. It runs twice, with another number of examples and in
another dtype; what follows either shows in the difference. Whatever does not fit this scheme (a size that is
no multiple of the batch, a mode that the forward pass sets, a branch on values) is refused, and
`torch.export` has to tell.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from netwright.structure.attention import adopt_attention
from netwright.structure.copying import clone
from netwright.structure.cost import FACTORIES
from netwright.structure.graph import PATH
from netwright.structure.graph_export import drop_objects, quiet
from netwright.structure.inputs import Inputs, to_meta
from netwright.structure.record import Ref

#: Added to the number of examples for the second run; no size that both runs have follows the batch.
_MORE = 3
#: Calls that change how operators run instead of computing anything.
_MODES = frozenset({torch._C._set_grad_enabled, torch.set_grad_enabled})
aten = torch.ops.aten
_RENAMED = {
    aten.lift_fresh.default: aten.clone.default,
    aten.lift_fresh_copy.default: aten.clone.default,
    aten.detach_.default: aten.detach.default,
}


class Untraceable(Exception):  # noqa: N818 - control flow inside the capture
    """The pass does not fit the scheme."""


@dataclass(frozen=True)
class _Call:
    """One operator call: tensors among its arguments are a `Ref` to the position where they were made."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[int]
    several: bool
    path: str


@dataclass
class _Pass:
    """What one run did.

    Attributes:
        calls: In order.
        attributes: Number of a tensor -> name of the parameter or buffer it is.
        constants: Number of a tensor -> a tensor that the code made from values.
        leaves: Numbers of the example's leaves, or None for what is no tensor.
        results: What was returned, flat, with a `Ref` for every tensor.
        spec: How it is made of leaves.
        dropped: Classes of results that are None now.
    """

    calls: list[_Call] = field(default_factory=list)
    attributes: dict[int, str] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)
    leaves: list[int | None] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    spec: Any = None
    dropped: set[str] = field(default_factory=set)


class _Calls:
    """Notes the calls of a run."""

    def __init__(self) -> None:
        self.found = _Pass()
        self.ids: dict[int, int] = {}
        self.held: list[Tensor] = []  # Python reuses the id of a dead object
        self.fresh: dict[int, Tensor] = {}  # by storage: tensors made of nothing but a shape
        self.copies: list[Tensor] = []
        self.path: list[str] = [""]

    def number(self, tensor: Tensor) -> int:
        known = self.ids.get(id(tensor))
        if known is None:
            known = self.ids[id(tensor)] = len(self.held)
            self.held.append(tensor)
        return known

    def refer(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self.ids:
                self._meet(value)
            return Ref(self.ids[id(value)])
        if isinstance(value, (list, tuple)):
            return type(value)([self.refer(v) for v in value])
        return value

    def _meet(self, value: Tensor) -> None:
        """Number a tensor that no noted call has returned."""
        if not value.is_meta:
            self.found.constants[self.number(value)] = value
            return
        made = self.fresh.get(value.untyped_storage()._cdata)
        if made is None or (made.shape, made.stride(), made.dtype) != (
            value.shape,
            value.stride(),
            value.dtype,
        ):
            raise Untraceable("it reads a tensor that is neither a parameter nor a buffer")
        self.ids[id(value)] = self.ids[id(made)]  # PyTorch wraps what a factory returns once more
        self.copies.append(value)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], call: Any) -> Any:
        """Call an operator through `call`, and note it."""
        if not isinstance(func, torch._ops.OpOverload):
            raise Untraceable(f"it calls {func}")
        if func.namespace == "prim":
            return call(func, args, kwargs)
        if torch.is_autocast_enabled("cpu"):
            raise Untraceable("it sets a mode")
        held = tuple([self.refer(a) for a in args])
        named = {k: self.refer(v) for k, v in kwargs.items()}
        out = call(func, args, kwargs)
        several = isinstance(out, (list, tuple))
        parts = list(out) if several else [out]
        if not all(isinstance(x, Tensor) for x in parts):
            if any(isinstance(x, Tensor) for x in parts):
                raise Untraceable(f"{func} returns more than tensors")
            return out  # a number, which the code computes with
        outputs = [self.number(x) for x in parts]
        if func._schema.name.partition("::")[2] in FACTORIES or not any(
            isinstance(x, Tensor) for x in pytree.tree_leaves((args, kwargs))
        ):
            self.fresh.update({x.untyped_storage()._cdata: x for x in parts if x.is_meta})
        self.found.calls.append(_Call(func, held, named, outputs, several, self.path[-1]))
        return out


@contextmanager
def _noting(calls: _Calls) -> Iterator[None]:
    """Note calls before they are decomposed.

    That is done with parts of PyTorch that are not public; of a version without them `torch.export` is asked.
    """
    from torch._dispatch.python import enable_python_dispatcher, no_python_dispatcher
    from torch._subclasses.schema_check_mode import SchemaCheckMode
    from torch.utils._python_dispatch import TorchDispatchMode

    def call(func: Any, args: Any, kwargs: Any) -> Any:
        with no_python_dispatcher():
            return func(*args, **kwargs)

    class Noting(SchemaCheckMode):  # modes of few classes may stand before decomposition
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return calls.run(func, args, kwargs or {}, call)

    mode = Noting()
    TorchDispatchMode.__init__(mode, torch._C.DispatchKey.PreDispatch)
    with enable_python_dispatcher(), mode:
        yield


class _NoModes(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MODES:
            raise Untraceable("it sets a mode")
        return func(*args, **(kwargs or {}))


@contextmanager
def _paths(twin: nn.Module, calls: _Calls) -> Iterator[None]:
    names = {id(module): name for name, module in twin.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        calls.path.append(names.get(id(module), calls.path[-1]))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        calls.path.pop()

    handles = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, inputs: Inputs, training: bool, dtype: torch.dtype | None) -> _Pass:
    twin = clone(model, "meta").train(training)
    given = to_meta(inputs)
    if dtype is not None:
        twin = twin.to(dtype)
        given = given.map(lambda x: x.to(dtype) if x.is_floating_point() else x)
    adopt_attention(twin)
    calls = _Calls()
    calls.found.dropped = drop_objects(twin)
    named = [*twin.named_parameters(), *twin.named_buffers()]
    calls.found.attributes = {calls.number(tensor): name for name, tensor in reversed(named)}
    leaves, _ = pytree.tree_flatten((given.args, dict(given.kwargs)))
    calls.found.leaves = [calls.number(x) if isinstance(x, Tensor) else None for x in leaves]
    with quiet(), torch.enable_grad(), _paths(twin, calls), _NoModes(), _noting(calls):
        output = given.call(twin)
    results, calls.found.spec = pytree.tree_flatten(output)
    calls.found.results = [calls.refer(x) for x in results]
    return calls.found


@dataclass(frozen=True)
class Trace:
    """A forward pass as a graph.

    Attributes:
        graph: Placeholders are the leaves of the arguments, the output is the tuple of all leaves.
        inputs: How the arguments are made of leaves.
        outputs: How the result is made of leaves.
        shapes: As in `Program`.
        constants: Name -> tensor that the graph reads beside parameters and buffers.
        dropped: Classes of results that the graph returns None for.
    """

    graph: fx.Graph
    inputs: Any
    outputs: Any
    shapes: tuple[tuple[int | None, ...] | None, ...]
    constants: dict[str, Tensor]
    dropped: list[str]


def trace_calls(model: nn.Module, inputs: Inputs, *, training: bool, dtype: torch.dtype) -> Trace:
    """Capture one forward pass.

    Args:
        model: The network; it is not touched.
        inputs: The example, with as many examples along every leading dimension.
        training: The mode.
        dtype: The network's.

    Raises:
        Untraceable: if the pass does not fit the scheme.
    """
    leading = {x.shape[0] for x in inputs.tensors() if x.dim()}
    if len(leading) != 1 or leading == {1}:
        raise Untraceable("its inputs have no number of examples in common")
    batch = leading.pop()
    more = inputs.map(lambda x: torch.cat([x, x[:1].expand(_MORE, *x.shape[1:])]) if x.dim() else x)
    other = torch.float64 if dtype != torch.float64 else torch.float32
    try:
        first = _run(model, inputs, training, None)
        second = _run(model, more, training, other)
    except Untraceable:
        raise
    except Exception as error:  # whatever the network's code makes of tensors without values
        raise Untraceable(str(error)) from error
    if not first.calls:
        raise Untraceable("it computes nothing")
    return _Writer(first, second, batch, (dtype, other), model).write(inputs)


class _Writer:
    """From two runs to a graph."""

    def __init__(
        self,
        first: _Pass,
        second: _Pass,
        batch: int,
        dtypes: tuple[torch.dtype, torch.dtype],
        model: nn.Module,
    ) -> None:
        self.first, self.second = first, second
        self.batch, self.dtypes = batch, dtypes
        self.graph = fx.Graph()
        # By run and number of a tensor, the nodes that give it: beside the call that made it those that
        # returned it as it was, or wrote into it.
        self.nodes: tuple[dict[int, list[fx.Node]], dict[int, list[fx.Node]]] = ({}, {})
        self.made: dict[Any, fx.Node] = {}
        self.constants: dict[str, Tensor] = {}
        self.parameter = next((n for n, p in model.named_parameters() if p.dtype == dtypes[0]), None)
        self.start: fx.Node | None = None  # what is computed once goes after it

    def write(self, inputs: Inputs) -> Trace:
        leaves, spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
        self._begin(leaves)
        calls = self.first.calls
        if len(calls) != len(self.second.calls):
            raise Untraceable("the number of operators follows the batch or the dtype")
        for a, b in zip(calls, self.second.calls, strict=True):
            if a.target is not b.target or len(a.outputs) != len(b.outputs):
                raise Untraceable(f"{a.target} follows the batch or the dtype")
            self._call(a, b)
        if self.first.spec != self.second.spec:
            raise Untraceable("the result follows the batch or the dtype")
        results = [self._value(x, y) for x, y in zip(self.first.results, self.second.results, strict=True)]
        self.graph.output(tuple(results))
        shapes = tuple(
            [((None, *x.shape[1:]) if x.dim() else ()) if isinstance(x, Tensor) else None for x in leaves]
        )
        return Trace(self.graph, spec, self.first.spec, shapes, self.constants, sorted(self.first.dropped))

    def _begin(self, leaves: list[Any]) -> None:
        """Placeholders, and the number of examples."""
        anchor = None
        numbers = zip(self.first.leaves, self.second.leaves, leaves, strict=True)
        for position, (number, again, leaf) in enumerate(numbers):
            node = self.graph.placeholder(f"leaf_{position}")
            node.meta = {PATH: ""}
            if number is not None and again is not None:
                self._gives(node, number, again)
                anchor = node if anchor is None and leaf.dim() else anchor
        self.made["batch"] = self.graph.call_function(aten.sym_size.int, (anchor, 0))
        self.made["batch"].meta = {PATH: ""}

    def _call(self, a: _Call, b: _Call) -> None:
        args, kwargs = self._value(a.args, b.args), self._value(a.kwargs, b.kwargs)
        node = self.graph.call_function(_RENAMED.get(a.target, a.target), args, kwargs)
        node.meta = {PATH: a.path}
        if not a.several:
            self._gives(node, a.outputs[0], b.outputs[0])
            return
        for i, (number, again) in enumerate(zip(a.outputs, b.outputs, strict=True)):
            part = self.graph.call_function(operator.getitem, (node, i))
            part.meta = {PATH: a.path}
            self._gives(part, number, again)

    def _gives(self, node: fx.Node, a: int, b: int) -> None:
        for nodes, number in zip(self.nodes, (a, b), strict=True):
            nodes.setdefault(number, []).append(node)

    def _value(self, a: Any, b: Any) -> Any:
        """An argument, of which both runs had a value."""
        if type(a) is not type(b):
            raise Untraceable("the kind of an argument follows the batch or the dtype")
        if isinstance(a, Ref):
            return self._tensor(a.id, b.id)
        if isinstance(a, dict):
            if a.keys() != b.keys():
                raise Untraceable("the arguments follow the batch or the dtype")
            return {k: self._value(v, b[k]) for k, v in a.items()}
        if isinstance(a, (list, tuple)):
            if len(a) != len(b):
                raise Untraceable("the number of arguments follows the batch or the dtype")
            return type(a)([self._value(x, y) for x, y in zip(a, b, strict=True)])
        if a is b or a == b or (a != a and b != b):
            return a
        return self._following(a, b)

    def _following(self, a: Any, b: Any) -> fx.Node:
        """What follows the number of examples or the dtype, computed from it."""
        if type(a) is int:
            times, rest = divmod(a, self.batch)
            if rest == 0 and times * (self.batch + _MORE) == b:
                return self._once(times)
        elif (a, b) == self.dtypes:
            return self._once("dtype")
        elif isinstance(a, float) and (a, b) == tuple(torch.finfo(d).min for d in self.dtypes):
            return self._once("min")
        raise Untraceable(f"{a} follows the batch or the dtype")

    def _once(self, what: int | str) -> fx.Node:
        """A multiple of the number of examples, the model's dtype or its lowest number."""
        if what == 1:
            return self.made["batch"]
        if what not in self.made:
            if isinstance(what, int):
                node = self.graph.call_function(operator.mul, (self.made["batch"], what))
            elif self.parameter is None:
                raise Untraceable("no parameter has the dtype that it names")
            elif what == "dtype":
                weight = self.graph.get_attr(self.parameter)
                weight.meta = {PATH: ""}
                node = self.graph.call_function(getattr, (weight, "dtype"))
            else:
                info = self.graph.call_function(torch.finfo, (self._once("dtype"),))
                node = self.graph.call_function(getattr, (info, what))
            node.meta = {PATH: ""}
            self.made[what] = node
        return self.made[what]

    def _tensor(self, a: int, b: int) -> fx.Node:
        """The node that gives a tensor in both runs."""
        ours, theirs = self.nodes[0].get(a), self.nodes[1].get(b)
        if ours is not None and theirs is not None:
            common = [node for node in ours if node in theirs]
            if not common:
                raise Untraceable("what meets what follows the batch or the dtype")
            return common[-1]
        name = self.first.attributes.get(a)
        if name is None:
            name = self._constant(a, b)
        if (ours is None) != (theirs is None) or name != self.second.attributes.get(b, name):
            raise Untraceable("what meets what follows the batch or the dtype")
        node = self.graph.get_attr(name)
        node.meta = {PATH: ""}
        self._gives(node, a, b)
        return node

    def _constant(self, a: int, b: int) -> str:
        one, other = self.first.constants.get(a), self.second.constants.get(b)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            raise Untraceable("a constant follows the batch or the dtype")
        if not torch.equal(one, other):
            raise Untraceable("a constant follows the batch or the dtype")
        name = f"_constant_{len(self.constants)}"
        self.constants[name] = one.detach().clone()
        return name
