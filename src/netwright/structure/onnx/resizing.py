"""Where an ONNX node hides a size, and what it has to be after a surgery.

The smaller graph is run once on shapes, node by node. Before each node that hides a size, what it says is
compared with the shapes that the labels predict, and changed where it differs; what is computed from the
sizes of tensors is right by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import prod
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from netwright.errors import NetwrightError, StructureError
from netwright.structure.onnx.network import execute
from netwright.structure.onnx.operators.attention import temperature
from netwright.structure.onnx.operators.elementwise import BINARY
from netwright.structure.onnx.operators.move import slices, split_sizes, target_shape
from netwright.structure.onnx.program import Step, Value

Shape = tuple[int, ...]


@dataclass
class Edit:
    """What changes in one node.

    Attributes:
        attributes: Attribute -> new value.
        operands: Position of an input -> (array it is in the smaller graph, array it has to be); the first is
            None where it is replaced whatever it is, the second where it is left out.
        op: Another operator that the node becomes.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    operands: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    op: str = ""

    def __bool__(self) -> bool:
        return bool(self.attributes or self.operands)


class Prediction(Protocol):
    """What the labels say of the values of a graph."""

    def shape(self, name: str) -> Shape | None:
        """Shape of a value after the surgery; None where it is not labelled."""

    def free(self, name: str) -> frozenset[int]:
        """Dimensions whose size follows what the value meets."""

    def before(self, name: str, dim: int, position: int) -> int:
        """How many of the first `position` indices of a dimension are there after the surgery."""

    def dense(self, name: str) -> Shape:
        """Shape of a value before the surgery."""

    def known(self, step: Step) -> tuple[Any, ...]:
        """Inputs of a node before the surgery, where they are arrays; None elsewhere."""


Resizer = Callable[[Step, tuple[Value, ...], Prediction], Edit]
_RESIZERS: dict[str, Resizer] = {}


def resizer(*names: str) -> Callable[[Resizer], Resizer]:
    """Register what keeps an operator's sizes right."""

    def register(function: Resizer) -> Resizer:
        _RESIZERS.update(dict.fromkeys(names, function))
        return function

    return register


@dataclass
class Adaptation:
    """Runs the nodes of a smaller graph, and notes what has to change in them.

    Attributes:
        prediction: What the labels say.
        edits: Node -> what changes.
    """

    prediction: Prediction
    edits: dict[str, Edit] = field(default_factory=dict)

    def __call__(self, step: Step, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """Run a node, changed where it has to be."""
        edit = _RESIZERS[step.op](step, inputs, self.prediction) if step.op in _RESIZERS else Edit()
        self._constants(step, inputs, edit)
        if edit:
            self.edits[step.name] = edit
            given = {k: v for k, v in {**step.attributes, **edit.attributes}.items() if v is not None}
            step = replace(step, attributes=given, op=edit.op or step.op)
            inputs = tuple(edit.operands[i][1] if i in edit.operands else v for i, v in enumerate(inputs))
        try:
            outputs = execute(step, inputs)
        except NetwrightError as error:
            raise StructureError(f"the smaller graph does not run: {error.message}", error.hint) from error
        for name, value in zip(step.outputs, outputs, strict=False):
            want = self.prediction.shape(name) if name else None
            if want is None or not isinstance(value, Tensor):
                continue
            free, got = self.prediction.free(name), tuple(value.shape)
            if len(want) != len(got) or any(
                m != n for d, (m, n) in enumerate(zip(want, got, strict=True)) if d not in free
            ):
                raise StructureError(f"node {step.name} ({step.op}) makes shape {got} where {want} is right")
        return outputs

    def _constants(self, step: Step, inputs: tuple[Value, ...], edit: Edit) -> None:
        """Numbers computed of sizes stay what they were: a softmax temperature must not follow the width."""
        for i, (value, was) in enumerate(zip(inputs, self.prediction.known(step), strict=True)):
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or i in edit.operands:
                continue
            if (
                was is not None
                and was.shape == value.shape
                and not np.array_equal(was, value, equal_nan=True)
            ):
                edit.operands[i] = (value, was)


def _want(step: Step, prediction: Prediction, output: int = 0) -> Shape | None:
    return prediction.shape(step.outputs[output]) if step.outputs[output] else None


def _integers(step: Step, inputs: tuple[Value, ...], position: int, attribute: str, new: list[int]) -> Edit:
    """Change integers, wherever this version of the operator has them."""
    if attribute in step.attributes:
        return Edit(attributes={attribute: new})
    old = inputs[position] if position < len(inputs) else None
    if old is not None and not isinstance(old, np.ndarray):
        raise StructureError(f"node {step.name} ({step.op}) takes a size that depends on the data")
    kind = np.int64 if old is None else old.dtype
    return Edit(operands={position: (old, np.array(new, dtype=kind))})


@resizer("Reshape")
def _reshape(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    want = _want(step, prediction)
    given = step.get("shape") if step.get("shape") is not None else inputs[1]
    if want is None or isinstance(given, Tensor):
        return Edit()
    old = [int(n) for n in np.asarray(given).reshape(-1)]
    shape = tuple(inputs[0].shape)
    if _resolves(step, shape, old, want):
        return Edit()
    copies = not step.get("allowzero", 0)
    new = [
        n if n == -1 or (n == 0 and copies and d < len(shape) and shape[d] == want[d]) else want[d]
        for d, n in enumerate(old)
    ]
    return _integers(step, inputs, 1, "shape", new if _resolves(step, shape, new, want) else list(want))


def _resolves(step: Step, shape: Shape, sizes: list[int], want: Shape) -> bool:
    made = target_shape(step, shape, sizes)
    return tuple(made) == tuple(want) and prod(made) == prod(shape)


@resizer("Expand")
def _expand(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    """Sizes of 1 broadcast; others follow the prediction, or what is expanded."""
    want = _want(step, prediction)
    given = inputs[1]
    if want is None or isinstance(given, Tensor):
        return Edit()
    old = [int(n) for n in given]
    lead = len(want) - len(old)
    shape = (1,) * (len(want) - inputs[0].dim()) + tuple(inputs[0].shape)
    new = [
        n if n == 1 else shape[lead + d] if shape[lead + d] > 1 else want[lead + d] for d, n in enumerate(old)
    ]
    return Edit() if new == old else _integers(step, inputs, 1, "shape", new)


@resizer("Split")
def _split(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    name, axis = step.inputs[0], step.get("axis", 0) % inputs[0].dim()
    old = split_sizes(step, inputs, inputs[0].shape[axis])
    dense = split_sizes(step, prediction.known(step), prediction.dense(name)[axis])
    ends = [prediction.before(name, axis, end) for end in accumulate(dense, initial=0)]
    new = [b - a for a, b in pairwise(ends)]
    if new == old:
        return Edit()
    edit = _integers(step, inputs, 1, "split", new)
    if edit.operands and "num_outputs" in step.attributes:
        edit.attributes["num_outputs"] = None  # the sizes are given instead
    elif edit.operands and step.version < 13:
        edit = Edit(attributes={"split": new})
    return edit


@resizer("Slice")
def _slice(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    name = step.inputs[0]
    dense = prediction.dense(name)
    now = tuple(inputs[0].shape)
    if now == dense:
        return Edit()
    if any(isinstance(v, Tensor) for v in inputs[1:]):
        raise StructureError(f"node {step.name} (Slice) takes a bound that depends on the data")
    wanted, have = slices(step, prediction.known(step), dense), slices(step, inputs, now)
    starts = _numbers(step, inputs, 1, "starts")
    ends = _numbers(step, inputs, 2, "ends")
    new_starts, new_ends = list(starts), list(ends)
    for (axis, low, high, by, i), (_, low2, high2, _, _) in zip(wanted, have, strict=True):
        if dense[axis] == now[axis]:
            continue
        if by != 1:
            raise StructureError(f"node {step.name} (Slice) takes every other index of an axis that shrinks")
        begin, end = prediction.before(name, axis, low), prediction.before(name, axis, high)
        if (begin, end) != (low2, high2):
            new_starts[i], new_ends[i] = begin, end
    edit = Edit()
    for position, attribute, old, new in ((1, "starts", starts, new_starts), (2, "ends", ends, new_ends)):
        if old != new:
            part = _integers(step, inputs, position, attribute, new)
            edit.attributes |= part.attributes
            edit.operands |= part.operands
    return edit


def _numbers(step: Step, inputs: tuple[Value, ...], position: int, attribute: str) -> list[int]:
    found = step.get(attribute) if step.get(attribute) is not None else inputs[position]
    return [int(v) for v in np.asarray(found).reshape(-1)]


@resizer("Gather")
def _gather(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    """A range of indices is a slice; any other selection is frozen."""
    index = inputs[1]
    if not isinstance(inputs[0], Tensor) or not isinstance(index, np.ndarray) or not index.size:
        return Edit()
    if index.ndim != 1:
        return _strided(step, inputs, prediction)
    name = step.inputs[0]
    dense, axis = prediction.dense(name), step.get("axis", 0)
    axis %= len(dense)
    if dense[axis] == inputs[0].shape[axis]:
        return Edit()
    flat = prediction.known(step)[1] % dense[axis]
    begin = prediction.before(name, axis, int(flat[0]))
    end = prediction.before(name, axis, int(flat[-1]) + 1)
    return Edit(operands={1: (index, np.arange(begin, end, dtype=index.dtype))})


def _strided(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    """All elements in their order, by computed positions, as `as_strided` is exported: a reshape."""
    was, want = prediction.known(step)[1], _want(step, prediction)
    whole = prediction.dense(step.inputs[0]) == (was.size,) and np.array_equal(
        was.reshape(-1), np.arange(was.size)
    )
    if not whole or want is None or inputs[0].shape[0] == was.size:
        return Edit()
    shape = np.array([-1, *want[1:]], dtype=np.int64)
    return Edit({"axis": None}, {1: (None, shape)}, "Reshape")


@resizer("Conv", "ConvTranspose")
def _conv(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    """The groups of a depthwise convolution are its channels."""
    group = step.get("group", 1)
    if group == 1:
        return Edit()
    channels, weight = inputs[0].shape[1], inputs[1].shape
    new = channels // weight[1] if step.op == "Conv" else group
    if step.op == "ConvTranspose" and group == prediction.dense(step.inputs[0])[1]:
        new = channels
    return Edit() if new == group else Edit(attributes={"group": int(new)})


@resizer("LSTM", "GRU", "RNN")
def _recurrent(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    edit = Edit()
    r = inputs[2]
    hidden = int((r[0] if isinstance(r, list) else r).shape[-1])
    if step.get("hidden_size", hidden) != hidden:
        edit.attributes["hidden_size"] = hidden
    for position in (5, 6):  # an initial state of zeros is what an absent one means
        state = inputs[position] if position < len(inputs) else None
        if isinstance(state, np.ndarray) and state.shape[-1] != hidden:
            if state.any():
                raise StructureError(f"node {step.name} ({step.op}) starts from a state that cannot shrink")
            edit.operands[position] = (state, None)
    return edit


@resizer("Resize")
def _resize(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    """Target sizes name the channels, too."""
    sizes = inputs[3] if len(inputs) > 3 else None
    want = _want(step, prediction)
    if not isinstance(sizes, np.ndarray) or not sizes.size or want is None:
        return Edit()
    axes = [a % len(want) for a in step.get("axes") or range(len(want))]
    new = [want[a] for a in axes]
    return Edit() if new == sizes.tolist() else Edit(operands={3: (sizes, np.array(new, dtype=sizes.dtype))})


@resizer("Attention")
def _attention(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    """Flat queries and keys: as many heads as before, or as whole heads stay; the temperature stays."""
    edit = Edit()
    if len(prediction.dense(step.inputs[0])) == 3:
        for position, attribute in ((0, "q_num_heads"), (1, "kv_num_heads")):
            heads = step.get(attribute)
            per = prediction.dense(step.inputs[position])[-1] // heads
            now = inputs[position].shape[-1]
            if now != per * heads and now % per == 0:
                edit.attributes[attribute] = now // per
    dense = prediction.dense(step.inputs[0])
    width = dense[-1] if len(dense) == 4 else dense[-1] // step.get("q_num_heads")
    if not step.get("scale"):
        now = inputs[0].shape[-1]
        now = now if len(dense) == 4 else now // edit.attributes.get("q_num_heads", step.get("q_num_heads"))
        if now != width:
            edit.attributes["scale"] = temperature(width)
    return edit


@resizer(*BINARY, "Div", "Pow", "Where", "Max", "Min", "Sum")
def _meeting(step: Step, inputs: tuple[Value, ...], prediction: Prediction) -> Edit:
    """An array of one value, made of sizes, that no longer fits what it meets becomes a single number."""
    want = _want(step, prediction)
    if want is None:
        return Edit()
    edit = Edit()
    others = [tuple(v.shape) for v in inputs if isinstance(v, Tensor)]
    for i, value in enumerate(inputs):
        if not isinstance(value, np.ndarray) or value.size < 2 or _fits(value.shape, want):
            continue
        if bool((value == value.flat[0]).all()) and tuple(np.broadcast_shapes(*others)) == tuple(want):
            edit.operands[i] = (value, np.full((1,) * value.ndim, value.flat[0], dtype=value.dtype))
    return edit


def _fits(shape: Shape, want: Shape) -> bool:
    return len(shape) <= len(want) and all(
        n in (1, m) for n, m in zip(reversed(shape), reversed(want), strict=False)
    )
