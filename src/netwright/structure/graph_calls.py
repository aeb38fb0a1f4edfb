"""One forward pass on tensors without values: every call of an operator, and what it was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from netwright.structure.attention import adopt_attention
from netwright.structure.copying import clone
from netwright.structure.cost import FACTORIES
from netwright.structure.graph_export import drop_objects, quiet
from netwright.structure.inputs import Inputs, to_meta
from netwright.structure.record import Ref

#: Calls that change how operators run instead of computing anything.
_MODES = frozenset({torch._C._set_grad_enabled, torch.set_grad_enabled})


class Untraceable(Exception):  # noqa: N818 - control flow inside the capture
    """The pass does not fit the scheme."""


@dataclass(frozen=True)
class Call:
    """One operator call: tensors among its arguments are a `Ref` to the position where they were made."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[int]
    several: bool
    path: str


@dataclass
class Pass:
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

    calls: list[Call] = field(default_factory=list)
    attributes: dict[int, str] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)
    leaves: list[int | None] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    spec: Any = None
    dropped: set[str] = field(default_factory=set)


class Calls:
    """Notes the calls of a run."""

    def __init__(self) -> None:
        self.found = Pass()
        self.ids: dict[int, int] = {}
        self.held: list[Tensor] = []  # Python reuses the id of a dead object
        self.fresh: dict[int, Tensor] = {}  # by storage: tensors made of nothing but a shape
        self.copies: list[Tensor] = []
        self.path: list[str] = [""]

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor; a new one where it has none yet."""
        known = self.ids.get(id(tensor))
        if known is None:
            known = self.ids[id(tensor)] = len(self.held)
            self.held.append(tensor)
        return known

    def refer(self, value: Any) -> Any:
        """An argument with a `Ref` in place of a tensor."""
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
        self.found.calls.append(Call(func, held, named, outputs, several, self.path[-1]))
        return out


@contextmanager
def _noting(calls: Calls) -> Iterator[None]:
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
def _paths(twin: nn.Module, calls: Calls) -> Iterator[None]:
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


def run_pass(model: nn.Module, inputs: Inputs, training: bool, dtype: torch.dtype | None) -> Pass:
    """Run a network once on tensors without values, in a mode and with floating-point numbers of a dtype.

    Args:
        model: The network; it is not touched.
        inputs: The example.
        training: The mode.
        dtype: Of parameters and inputs; their own where None.
    """
    twin = clone(model, "meta").train(training)
    given = to_meta(inputs)
    if dtype is not None:
        twin = twin.to(dtype)
        given = given.map(lambda x: x.to(dtype) if x.is_floating_point() else x)
    adopt_attention(twin)
    calls = Calls()
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
