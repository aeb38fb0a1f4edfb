"""Capture a forward pass as a graph without symbolic sizes, several times as fast as `torch.export` does.

The calls of PyTorch's operators are noted while the pass runs on tensors without values, before anything is
decomposed: the same calls that `torch.export` gives. It runs twice, with another number of examples and in
another dtype; what follows either shows in the difference. Whatever does not fit this scheme (a size that is
no multiple of the batch, a mode that the forward pass sets, a branch on values) is refused, and
`torch.export` has to tell.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from netwright.structure.graph import PATH
from netwright.structure.graph_calls import (
    Call,
    Pass,
    Untraceable,
    run_pass,
)
from netwright.structure.inputs import Inputs
from netwright.structure.record import Ref

__all__ = ["Trace", "Untraceable", "trace_calls"]

#: Added to the number of examples for the second run; no size that both runs have follows the batch.
_MORE = 3
aten = torch.ops.aten
_RENAMED = {
    aten.lift_fresh.default: aten.clone.default,
    aten.lift_fresh_copy.default: aten.clone.default,
    aten.detach_.default: aten.detach.default,
}


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
        first = run_pass(model, inputs, training, None)
        second = run_pass(model, more, training, other)
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
        first: Pass,
        second: Pass,
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

    def _call(self, a: Call, b: Call) -> None:
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
