"""Rewrite the sizes in a graph: every number in an operator's arguments that counts units.

Sizes come from the labels of the graph's own recording. What is left as it is: -1, sizes that are computed at
run time (the batch), and whatever counts no units. What the table below does not know is found by the proof
that follows.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx

from netwright.structure.graph import PATH
from netwright.structure.graph_export import op_name
from netwright.structure.labels import Traced
from netwright.structure.layers import Shape, varying
from netwright.structure.proof import Mismatch, Order


class Unwritable(Exception):  # noqa: N818 - control flow inside the surgery
    """A node whose sizes cannot be rewritten.

    Args:
        mismatch: Which, and why.
    """

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(str(mismatch))
        self.mismatch = mismatch


@dataclass(frozen=True)
class Resized:
    """A dense graph's tensors, and their shapes after a surgery.

    Attributes:
        traced: Labelled recording of the dense graph.
        shapes: Shape of every tensor after the surgery, by number.
        times: (units,) how often each unit is there afterwards.
        order: Indices of the slots that a dimension with the given unit labels (n,) has afterwards; those
            that stay, when None.
    """

    traced: Traced
    shapes: list[Shape]
    times: Tensor
    order: Order | None = None

    def number(self, node: Any, part: int | None = None) -> int | None:
        """Number of a node's tensor, or of one part of its result."""
        if not isinstance(node, fx.Node):
            return None
        return self.traced.recording.named.get(node.name if part is None else f"{node.name}#{part}")

    def of(self, node: Any, part: int | None = None) -> tuple[Shape, Shape] | None:
        """Shape before and after, or None for what is no tensor."""
        number = self.number(node, part)
        return None if number is None else (self.traced.recording.shapes[number], self.shapes[number])

    def slots(self, node: fx.Node, dim: int) -> Tensor | None:
        """Where the slots of a dimension come from: (rows, n) dense indices; None if all stay."""
        number = self.number(node)
        if number is None:
            return None
        layers = [la for la in self.traced.table[number] if la.shape[dim] > 1]
        same = self.traced.recording.shapes[number][dim] == self.shapes[number][dim]
        if not layers or (same and (self.order is None or any(varying(la)[-1] != dim for la in layers))):
            return None  # along an outer dimension all rows stay
        shape = torch.broadcast_shapes(*[la.shape for la in layers])
        rows = [la.expand(shape).movedim(dim, -1).reshape(-1, shape[dim]) for la in layers]
        if self.order is not None:
            return torch.stack([self.order(row) for row in rows[0]])
        stays = torch.stack([self.times[r] > 0 for r in rows]).all(dim=0)
        counts = stays.sum(dim=1)
        if bool((counts != counts[0]).any()):
            raise Unwritable(_mismatch(node, "its rows keep different numbers"))
        return stays.nonzero()[:, 1].reshape(len(stays), -1)


def rewrite(graph: fx.Graph, resized: Resized) -> fx.Graph:
    """A copy of a graph with its sizes rewritten.

    Args:
        graph: The dense graph.
        resized: Its tensors and their shapes afterwards.

    Raises:
        Unwritable: if a node cannot be rewritten.
    """
    values: dict[fx.Node, fx.Node] = {}
    copy = fx.Graph()
    for node in graph.nodes:
        new = copy.node_copy(node, lambda n: values[n])
        values[node] = new
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            rule = _TABLE.get(op_name(node))
            if rule is not None:
                rule(_Pen(copy, node, new, resized))
    return copy


def _mismatch(node: fx.Node, what: str) -> Mismatch:
    return Mismatch(what, op_name(node), node.meta.get(PATH, ""))


@dataclass
class _Pen:
    """One node being rewritten.

    Attributes:
        graph: The new graph.
        dense: The node of the dense graph.
        node: Its copy.
        resized: All shapes.
    """

    graph: fx.Graph
    dense: fx.Node
    node: fx.Node
    resized: Resized

    def argument(self, name: str) -> Any:
        """The value of an argument, by its name in the schema; None where it is not given."""
        for i, argument in enumerate(self.dense.target._schema.arguments):  # type: ignore[union-attr]
            if argument.name == name:
                if i < len(self.dense.args):
                    return self.dense.args[i]
                return self.dense.kwargs.get(name, argument.default_value)
        return None

    def write(self, name: str, value: Any) -> None:
        """Set an argument by its name in the schema."""
        for i, argument in enumerate(self.dense.target._schema.arguments):  # type: ignore[union-attr]
            if argument.name == name and i < len(self.node.args):
                self.node.update_arg(i, value)
                return
        self.node.update_kwarg(name, value)

    def given(self, name: str) -> Any:
        """The argument of the new node."""
        for i, argument in enumerate(self.node.target._schema.arguments):  # type: ignore[union-attr]
            if argument.name == name:
                return self.node.args[i] if i < len(self.node.args) else self.node.kwargs.get(name)
        return None

    def refuse(self, what: str) -> NoReturn:
        """Give up on this node."""
        raise Unwritable(_mismatch(self.dense, what))

    def sizes(self, name: str, old: Shape, new: Shape) -> None:
        """Rewrite a list of sizes that describes the dimensions (old, new)."""
        if old == new:
            return
        given = list(self.given(name))
        free = any(type(x) is int and x == -1 for x in given)
        for i, (value, a, b) in enumerate(zip(given, old, new, strict=True)):
            if a == b or (type(value) is int and (value == -1 or value != a)):
                continue
            if not isinstance(value, fx.Node):
                given[i] = b
            elif not free:
                given[i], free = -1, True
            else:
                given[i] = self._scaled(value, a, b)
        self.write(name, given)

    def _scaled(self, value: fx.Node, a: int, b: int) -> fx.Node:
        """A computed size (a multiple of the batch) that shrinks from `a` to `b`."""
        divisor = math.gcd(a, b)
        with self.graph.inserting_before(self.node):
            wide = self.graph.call_function(operator.mul, (value, b // divisor))
            return self.graph.call_function(operator.floordiv, (wide, a // divisor))


def _reshape(pen: _Pen) -> None:
    name = "shape" if pen.argument("shape") is not None else "size"
    found = pen.resized.of(pen.dense)
    if found is not None and isinstance(pen.argument(name), (list, tuple)):
        pen.sizes(name, *found)


def _unflatten(pen: _Pen) -> None:
    found = pen.resized.of(pen.dense)
    if found is None:
        return
    count = len(pen.argument("sizes"))
    dim = pen.argument("dim") % (len(found[0]) - count + 1)
    pen.sizes("sizes", found[0][dim : dim + count], found[1][dim : dim + count])


def _repeat(pen: _Pen) -> None:
    found, source = pen.resized.of(pen.dense), pen.resized.of(pen.dense.args[0])
    name = "repeats" if pen.argument("repeats") is not None else "dims"
    if found is None or source is None or (found[0] == found[1] and source[0] == source[1]):
        return
    given = list(pen.given(name))
    for i in range(1, min(len(source[0]), len(given)) + 1):  # `tile` may leave leading dimensions out
        if isinstance(given[-i], fx.Node) or source[0][-i] == 0:
            continue
        times, rest = divmod(found[1][-i], max(1, source[1][-i]))
        if rest:
            pen.refuse("it repeats a dimension that does not shrink in proportion")
        given[-i] = times
    pen.write(name, given)


def _repeat_interleave(pen: _Pen) -> None:
    found = pen.resized.of(pen.dense)
    dim = pen.argument("dim")
    if found is not None and dim is not None and type(pen.argument("output_size")) is int:
        pen.write("output_size", found[1][dim])


def _split(pen: _Pen) -> None:
    source = pen.resized.of(pen.dense.args[0])
    parts: list[tuple[Shape, Shape]] = []
    while (part := pen.resized.of(pen.dense, len(parts))) is not None:
        parts.append(part)
    if source is None or not parts:
        return
    dim = (pen.argument("dim") or 0) % len(source[0])
    if all(old[dim] == new[dim] for old, new in parts):
        return
    pen.node.target = torch.ops.aten.split_with_sizes.default
    pen.node.args = (pen.node.args[0], [new[dim] for _, new in parts], dim)
    pen.node.kwargs = {}


def _unbind(pen: _Pen) -> None:
    source = pen.resized.of(pen.dense.args[0])
    dim = pen.argument("dim") or 0
    if source is not None and source[0][dim] != source[1][dim]:
        pen.refuse("the number of its parts changes")


def _slice(pen: _Pen) -> None:
    source = pen.resized.of(pen.dense.args[0])
    if source is None:
        return
    dim = (pen.argument("dim") or 0) % len(source[0])
    size = source[0][dim]
    named = ("start", "length") if op_name(pen.dense) == "narrow" else ("start", "end")
    bounds: list[Any] = [pen.argument(name) for name in named]
    step = pen.argument("step") or 1
    if source[0][dim] == source[1][dim] and pen.resized.order is None:
        return
    slots = pen.resized.slots(pen.dense.args[0], dim)  # type: ignore[arg-type]
    if any(isinstance(b, fx.Node) for b in bounds):
        pen.refuse("a computed bound cuts a dimension that shrinks")
    if named[1] == "length":
        bounds[1] = bounds[0] + bounds[1]
    taken = torch.zeros(size, dtype=torch.bool)
    taken[slice(bounds[0], bounds[1], step)] = True
    if slots is None or bool(taken.all()):
        found = pen.resized.of(pen.dense)
        if bool(taken.all()) or found is None or found[0][dim] == found[1][dim]:
            return
        pen.refuse("it cuts a dimension that takes the size of what it meets")
    where = taken[slots]  # (rows, n)
    if bool((where != where[0]).any()):
        pen.refuse("its rows are cut at different places")
    chosen = where[0].nonzero().reshape(-1)
    _write_range(pen, named, chosen, int(slots.shape[1]), step)


def _write_range(pen: _Pen, named: tuple[str, str], chosen: Tensor, size: int, step: int) -> None:
    if not len(chosen):
        pen.refuse("nothing stays of it")
    gaps = set((chosen[1:] - chosen[:-1]).tolist())
    if len(gaps) > 1 or (step == 1 and gaps - {1}):
        pen.refuse("what stays of it is no range")
    stride = gaps.pop() if gaps else 1
    start, end = int(chosen[0]), int(chosen[-1]) + 1
    pen.write("start", start)
    pen.write(named[1], end - start if named[1] == "length" else (size if end + stride > size else end))
    if stride != step:
        pen.write("step", stride)


def _select(pen: _Pen) -> None:
    source = pen.resized.of(pen.dense.args[0])
    if source is None:
        return
    dim, index = pen.argument("dim") % len(source[0]), pen.argument("index")
    slots = pen.resized.slots(pen.dense.args[0], dim)  # type: ignore[arg-type]
    if slots is None or isinstance(index, fx.Node):
        return
    found = (slots == index % source[0][dim]).nonzero()
    if len(found) != len(slots) or bool((found[:, 1] != found[0, 1]).any()):
        pen.refuse("what it selects is gone")
    pen.write("index", int(found[0, 1]))


def _roll(pen: _Pen) -> None:
    source = pen.resized.of(pen.dense.args[0])
    if source is None or source[0] == source[1]:
        return
    dims, shifts = list(pen.argument("dims") or []), list(pen.argument("shifts"))
    if not dims:
        pen.refuse("it rotates a flattened tensor")
    for i, d in enumerate(dims):
        slots = pen.resized.slots(pen.dense.args[0], d % len(source[0]))  # type: ignore[arg-type]
        if slots is None:
            continue
        size = source[0][d]
        counts = (slots >= size - shifts[i] % size).sum(dim=1)
        if bool((counts != counts[0]).any()):
            pen.refuse("its rows are cut at different places")
        shifts[i] = int(counts[0])
    pen.write("shifts", shifts)


def _normalised(pen: _Pen) -> None:
    source = pen.resized.of(pen.dense.args[0])
    if source is not None:
        count = len(pen.argument("normalized_shape"))
        pen.write("normalized_shape", list(source[1][-count:]))


def _convolution(pen: _Pen) -> None:
    source, groups = pen.resized.of(pen.dense.args[0]), pen.argument("groups")
    if source is None or not isinstance(groups, int):
        return
    batched = len(source[0]) - len(pen.resized.of(pen.dense.args[1])[0]) == 0  # type: ignore[index]
    channel = 1 if batched else 0
    if groups > 1 and groups == source[0][channel] and source[1][channel] != groups:
        pen.write("groups", source[1][channel])


def _attention(pen: _Pen) -> None:
    query = pen.resized.of(pen.dense.args[0])
    if query is not None and pen.argument("scale") is None and query[0][-1] != query[1][-1]:
        pen.write("scale", 1.0 / math.sqrt(query[0][-1]))


_TABLE: dict[str, Callable[[_Pen], None]] = {
    **dict.fromkeys(
        "view reshape _unsafe_view expand broadcast_to zeros ones full empty rand randn new_zeros new_ones"
        " new_full new_empty sum_to_size".split(),
        _reshape,
    ),
    "unflatten": _unflatten,
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "repeat_interleave": _repeat_interleave,
    **dict.fromkeys(
        "split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk unsafe_split_with_sizes".split(),
        _split,
    ),
    "unbind": _unbind,
    **dict.fromkeys(("slice", "narrow"), _slice),
    "select": _select,
    "roll": _roll,
    **dict.fromkeys("layer_norm rms_norm native_layer_norm _fused_rms_norm".split(), _normalised),
    **dict.fromkeys(
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution".split(),
        _convolution,
    ),
    "scaled_dot_product_attention": _attention,
}
