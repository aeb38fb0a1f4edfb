"""A recording as values and the operators between them, and which module call took and gave what.

A tensor that is written in place becomes a new value, as do its views, so that "what reads what" has one
answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netwright.errors import ModelError
from netwright.structure.copying import clone
from netwright.structure.cost import CONVOLUTIONS, PRODUCTS, VIEWS
from netwright.structure.inputs import Inputs
from netwright.structure.record import Node, Recording, note, record, recording_now

_PATH = "_recorded_path"
_WRITES = ("copy", "fill", "zero")


@dataclass
class Call:
    """One call of a module.

    Attributes:
        path: Its dotted path.
        args: Numbers of the tensors given by position, and None for what is no tensor.
        kwargs: Numbers of the tensors given by keyword.
        outputs: Numbers of the tensors returned, in order.
        tree: What was returned, with positions in `outputs` in place of the tensors.
        alone: Whether one argument was given, by position, and nothing else, be it a tensor or not.
    """

    path: str
    args: list[int | None] = field(default_factory=list)
    kwargs: dict[str, int] = field(default_factory=dict)
    outputs: list[int] = field(default_factory=list)
    tree: Any = None
    alone: bool = False


@dataclass(frozen=True)
class Leaf:
    """The place of a tensor in what a module returned.

    Attributes:
        index: Which of its tensors.
    """

    index: int


def record_calls(model: nn.Module, inputs: Inputs) -> tuple[Recording, dict[str, list[Call]]]:
    """Record one forward pass in eval mode, and every module's calls.

    Args:
        model: The model; it is not touched.
        inputs: The example inputs.

    Raises:
        ModelError: if the model rejects the example.
    """
    try:
        return _recorded(clone(model), inputs, real=False)
    except ModelError:
        return _recorded(clone(model, None), inputs, real=True)


def _recorded(twin: nn.Module, inputs: Inputs, real: bool) -> tuple[Recording, dict[str, list[Call]]]:
    for path, module in twin.named_modules():
        module.__dict__[_PATH] = path  # a copy of the twin is what runs, and it carries this along
    calls: list[tuple[Call, list[str], dict[str, str], list[str]]] = []
    with _watched(calls):
        recording = record(twin, inputs, real=real)
    found: dict[str, list[Call]] = {}
    for call, args, kwargs, outputs in calls:
        call.args = [recording.named[a] if a else None for a in args]
        call.kwargs = {k: recording.named[v] for k, v in kwargs.items()}
        call.outputs = [recording.named[o] for o in outputs]
        found.setdefault(call.path, []).append(call)
    return recording, found


@contextmanager
def _watched(calls: list[Any]) -> Iterator[None]:
    counter = iter(range(10**9))

    def name(value: Any) -> str:
        if not isinstance(value, Tensor):
            return ""
        key = f"call {next(counter)}"
        note(key, value)
        return key

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path = module.__dict__.get(_PATH)
        if path is None or not recording_now():
            return
        leaves, spec = pytree.tree_flatten(output)
        outputs = [name(x) for x in leaves if isinstance(x, Tensor)]
        places = iter(range(len(outputs)))
        tree = pytree.tree_unflatten(
            [Leaf(next(places)) if isinstance(x, Tensor) else x for x in leaves], spec
        )
        keys = {k: name(v) for k, v in kwargs.items() if isinstance(v, Tensor)}
        calls.append(
            (
                Call(path, tree=tree, alone=len(args) == 1 and not kwargs),
                [name(a) for a in args],
                keys,
                outputs,
            )
        )

    handle = nn.modules.module.register_module_forward_hook(leave, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class Flow:
    """Values and operators of a recording.

    Attributes:
        reads: Node -> values it reads.
        writes: Node -> values it makes.
        maker: Value -> the node that makes it, -1 for parameters, inputs and constants.
        number: Value -> tensor number.
        readers: Value -> nodes that read it; the network's outputs are read by node -1.
        live: Value -> whether it depends on an input of the network.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.nodes = recording.nodes
        self.reads: list[list[int]] = []
        self.writes: list[list[int]] = []
        self.maker: list[int] = []
        self.number: list[int] = []
        self.readers: list[list[int]] = []
        self.live: list[bool] = []
        self._history: dict[int, list[tuple[int, int]]] = {}
        self._whole: dict[int, int] = {}
        self._parts: dict[int, set[int]] = {}
        inputs = set(recording.inputs)
        for index, node in enumerate(self.nodes):
            reads = [self._now(number, inputs) for number in node.inputs]
            written = [n for n in dict.fromkeys(node.outputs) if n >= 0]
            for n in written:
                if n in node.inputs:  # in place: what shares its memory changes, too
                    written += [p for p in self._sharing(n) if p not in written]
            reads += [self._now(n, inputs) for n in written if n in self._history and n not in node.inputs]
            self.reads.append(reads)
            for value in reads:
                self.readers[value].append(index)
            live = any(self.live[v] for v in reads) and not node.op.startswith(
                ("new_", "zeros", "ones", "empty")
            )
            self.writes.append([self._new(n, index, live) for n in written])
            if node.op in VIEWS and node.inputs:
                whole = self._whole.get(node.inputs[0], node.inputs[0])
                for n in written:
                    self._whole[n] = whole
                    self._parts.setdefault(whole, {whole}).add(n)
        for number in recording.outputs:
            self.readers[self._now(number, inputs)].append(-1)

    def _sharing(self, number: int) -> set[int]:
        return {p for p in self._parts.get(self._whole.get(number, number), set()) if p in self._history}

    def _new(self, number: int, maker: int, live: bool) -> int:
        value = len(self.number)
        self.number.append(number)
        self.maker.append(maker)
        self.readers.append([])
        self.live.append(live)
        self._history.setdefault(number, []).append((maker, value))
        return value

    def _now(self, number: int, inputs: set[int]) -> int:
        if number not in self._history:
            self._new(number, -1, number in inputs)
        return self._history[number][-1][1]

    def value(self, number: int, before: int) -> int | None:
        """The value of a tensor just before a node runs."""
        found = None
        for maker, value in self._history.get(number, []):
            if maker < before:
                found = value
        return found

    def shape(self, value: int) -> tuple[int, ...]:
        """Shape of a value."""
        return self.recording.shapes[self.number[value]]

    def node(self, value: int) -> Node | None:
        """The operator that makes a value, if any."""
        return self.nodes[self.maker[value]] if self.maker[value] >= 0 else None

    def inputs(self, value: int) -> list[int]:
        """The values from which a value is made."""
        return self.reads[self.maker[value]] if self.maker[value] >= 0 else []

    def after(self, values: set[int]) -> set[int]:
        """Some values and all that are computed from them."""
        found = set(values)
        first = min((r for v in values for r in self.readers[v] if r >= 0), default=len(self.nodes))
        for index in range(first, len(self.nodes)):
            if any(v in found for v in self.reads[index]):
                found.update(self.writes[index])
        return found

    def exclusive(self, value: int, reader: int) -> set[int]:
        """The nodes that run for one value alone.

        Args:
            value: The value.
            reader: The only node that may read it.
        """
        region: set[int] = set()
        pending = {self.maker[value]}
        while pending:
            index = max(pending)
            pending.discard(index)
            if index < 0:
                continue
            allowed = region | ({reader} if value in self.writes[index] else set())
            users = {r for w in self.writes[index] for r in self.readers[w]}
            if users and users <= allowed:
                region.add(index)
                pending.update(self.maker[v] for v in self.reads[index])
        return region

    def macs(self, nodes: set[int] | None = None) -> int:
        """Multiply-accumulates of some nodes, all when None, for the whole example."""
        shapes, total = self.recording.shapes, 0
        for index, node in enumerate(self.nodes):
            if nodes is not None and index not in nodes:
                continue
            if node.op in CONVOLUTIONS:
                weight = shapes[node.inputs[1]]
                transposed = node.op != "mkldnn_convolution" and bool(node.args[6])
                base = shapes[node.inputs[0] if transposed else node.outputs[0]]
                total += prod(base) * prod(weight[1:])
            elif node.op in PRODUCTS:
                a, b = node.inputs[-2:] if node.op in ("mm", "bmm") else node.inputs[1:3]
                total += prod(shapes[a]) * shapes[b][-1]
        return total
