"""The forward passes of a network as graphs: exported once, and remembered with its structure."""

from __future__ import annotations

import dataclasses
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netwright.errors import ModelError, StructureError
from netwright.structure.graph import GraphNetwork
from netwright.structure.graph_capture import Captured, calls, capture, export_free
from netwright.structure.inputs import Inputs
from netwright.structure.record import Recording, record

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure


@dataclass(frozen=True)
class Passes:
    """The forward passes of a network as graphs.

    Attributes:
        inputs: The example they were exported with.
        passes: "program", and "training_program" where training differs in more than flags.
        notes: What a reader should know, one line each.
    """

    inputs: Inputs
    passes: dict[str, Captured]
    notes: list[str]


def passes_of(model: nn.Module, net: Structure) -> Passes:
    """The graphs of a network; exporting takes most of the time, so the structure remembers them."""
    first = next(iter([*model.parameters(), *model.buffers()]), torch.empty(0))
    key = (first.device, first.dtype)
    held = net.memory.get("graphs")
    if held is not None and held[0]() is model and held[1] == key:
        return cast("Passes", held[2])
    inputs = export_free(net.inputs, model)
    theirs = _recorded(model, net, inputs, training=False)
    captured = _capture(model, inputs, theirs, training=False)
    captured, notes = _batches(model, inputs, captured)
    if captured.dropped:
        notes.append(f"it returns None where the network returned a {' or '.join(captured.dropped)}")
    passes = {"program": captured}
    try:
        other = _training_pass(model, net, inputs, captured)
        if other is not None:
            passes["training_program"] = other
    except (StructureError, ModelError) as error:
        notes.append(
            f"in training mode it runs as in eval mode, dropout and batch norms apart: {error.message}"
        )
    made = Passes(inputs, passes, notes)
    net.memory["graphs"] = (weakref.ref(model), key, made)
    return made


def _recorded(model: nn.Module, net: Structure, inputs: Inputs, *, training: bool) -> Recording:
    """A recording of the network itself; one of those that its structure has, where that is the same."""
    for run in net.runs if inputs is net.inputs else ():
        if run.recording.training is training and not run.recording.real:
            return run.recording
    return record(model, inputs, training=training)


def _batches(model: nn.Module, inputs: Inputs, captured: Captured) -> tuple[Captured, list[str]]:
    """Make sure that the network runs a single example through the operators of many, or fix the batch."""
    program = captured.program
    leaves, spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
    single = [x[:1] if s and s[0] is None else x for x, s in zip(leaves, program.shapes, strict=True)]
    if any(a is not b for a, b in zip(leaves, single, strict=True)):
        one = Inputs(*pytree.tree_unflatten(single, spec))
        try:
            if calls(record(model, one)) == calls(record(captured.network(model), one)):
                return captured, []
        except ModelError:
            pass
    shapes = tuple([tuple(x.shape) if isinstance(x, Tensor) else None for x in leaves])
    count = next((s[0] for s in shapes if s), 0)
    fixed = dataclasses.replace(captured, program=dataclasses.replace(program, shapes=shapes))
    return fixed, [f"its batch size is fixed at {count}"]


def _capture(model: nn.Module, inputs: Inputs, theirs: Recording, *, training: bool) -> Captured:
    if isinstance(model, GraphNetwork):
        other = model.training_program if training else None
        return Captured(model.program if other is None else other)
    return capture(model, inputs, theirs, training=training)


def _training_pass(model: nn.Module, net: Structure, inputs: Inputs, captured: Captured) -> Captured | None:
    """The pass in training mode, where more differs than the flags that the graph of the eval pass reads."""
    theirs = _recorded(model, net, inputs, training=True)
    if isinstance(model, GraphNetwork):
        has = model.training_program is not None
        return _capture(model, inputs, theirs, training=True) if has else None
    if calls(record(captured.network(model), inputs, training=True)) == calls(theirs):
        return None
    found = capture(model, inputs, theirs, training=True)
    renamed = {name: name.replace("_constant", "_training_constant") for name in found.constants}
    for node in found.program.graph.nodes:
        if node.op == "get_attr" and node.target in renamed:
            node.target = renamed[node.target]
    program = found.program.with_graph(found.program.graph)
    return Captured(program, {renamed[name]: value for name, value in found.constants.items()})
