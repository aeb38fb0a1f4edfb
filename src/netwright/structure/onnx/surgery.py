"""Surgery on an ONNX graph: its weights sliced, and the constants that repeat a size rewritten.

Nothing is believed: the graph that is written is read again and recorded, and every shape, every number and
every label is compared with what the dense network predicts (`netwright.structure.proof`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import StructureError
from netwright.structure.copying import clone, deep_copy
from netwright.structure.inputs import to_meta
from netwright.structure.layers import varying
from netwright.structure.layout import arrange
from netwright.structure.onnx.editing import apply_edits
from netwright.structure.onnx.network import OnnxNetwork, execute
from netwright.structure.onnx.program import Step, Value, compile_program
from netwright.structure.onnx.resizing import Adaptation, Edit, Shape
from netwright.structure.proof import prove
from netwright.structure.record import Recording, record
from netwright.structure.sizes import scale, shapes_of, take
from netwright.structure.surgery import Change, Shrunk

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure


def carry_out(network: OnnxNetwork, net: Structure, change: Change) -> Shrunk:
    """Rebuild a graph around changed weights, and prove it.

    Args:
        network: The network that was traced; it is not touched.
        net: Its structure.
        change: What becomes of every weight.

    Raises:
        StructureError: if the graph cannot take the new sizes; names the node.
    """
    if not change.kept:
        return Shrunk(deep_copy(network), {})
    shapes = [shapes_of(r.recording, r.table, net.sizes, change.times) for r in net.runs]
    cut = _cut(network, change)
    edits = _edits(network, cut, net, change, shapes[0])
    small = _written(cut, edits)
    if net.partition.shuffled.any() and change.order is None:
        change = replace(change, kept=arrange(net, change.kept, list(_records(small, net))))
        small = _written(_cut(network, change), edits)
    for run, again, predicted in zip(net.runs, _records(small, net), shapes, strict=True):
        found = prove(net, run, again, predicted, change.times, change.kept, change.order)
        if found is not None:
            raise StructureError(f"{net.name} cannot be changed: {found}", "leave it alone with exclude=")
    changed = {name: edit.attributes for name, edit in edits.items() if edit.attributes}
    return Shrunk(small, change.kept, changed, [], "in the graph")


def _written(cut: OnnxNetwork, edits: Mapping[str, Edit]) -> OnnxNetwork:
    """The graph with its nodes changed, as it is read again."""
    model = cut.proto()
    apply_edits(model, edits)
    small = OnnxNetwork(*compile_program(model)).train(cut.training)
    like = next(cut.parameters(), None)
    if like is None:
        return small
    wide = like.dtype if like.dtype == torch.float64 else None  # the whole network was moved to it
    return small.to(like.device, wide)


def _records(small: OnnxNetwork, net: Structure) -> Iterator[Recording]:
    """The recordings that answer to those of the dense network."""
    for run in net.runs:
        yield record(small, net.inputs, training=run.recording.training, real=run.recording.real)


def _cut(network: OnnxNetwork, change: Change) -> OnnxNetwork:
    """The same graph around changed weights; its constants are still those of the dense one."""
    memo: dict[int, Any] = {}
    for store in (network._parameters, network._buffers):
        for name, tensor in store.items():
            if name not in change.kept or tensor is None:
                continue
            cut = change.kept[name]
            with torch.no_grad():
                new = take(tensor.detach(), cut)
                new = scale(new, change.factors.get(name, {}), cut.get(0), len(tensor))
            memo[id(tensor)] = (
                nn.Parameter(new, requires_grad=tensor.requires_grad)
                if isinstance(tensor, nn.Parameter)
                else new
            )
    small = deep_copy(network, memo)
    assert isinstance(small, OnnxNetwork)
    return small


@dataclass(frozen=True)
class _Labelled:
    """What the labels of a recording say of the values of a graph."""

    net: Structure
    change: Change
    shapes: list[Shape]
    inputs: Mapping[str, tuple[Any, ...]]

    def known(self, step: Step) -> tuple[Any, ...]:
        return self.inputs[step.name]

    def _number(self, name: str) -> int | None:
        return self.net.runs[0].recording.named.get(name)

    def shape(self, name: str) -> Shape | None:
        number = self._number(name)
        return None if number is None or number in self.net.runs[0].uniform else self.shapes[number]

    def free(self, name: str) -> frozenset[int]:
        number = self._number(name)
        return frozenset() if number is None else self.net.recording.broadcast.get(number, frozenset())

    def dense(self, name: str) -> Shape:
        recording = self.net.recording
        number = self._number(name)
        return recording.shapes[recording.parameters[name] if number is None else number]

    def before(self, name: str, dim: int, position: int) -> int:
        recording = self.net.recording
        number = self._number(name)
        number = recording.parameters[name] if number is None else number
        for layer in self.net.runs[0].table[number]:
            if dim not in dict(self.net.sizes.dims([layer])):
                continue  # it does not vary along it, or all rows of it stay
            labels = self.net.sizes.classes(layer)
            for d in varying(labels):
                labels = labels.narrow(d, 0, 1) if d != dim else labels
            return int(self.change.times[labels.reshape(-1)[:position]].sum())
        return position


def _edits(
    network: OnnxNetwork, cut: OnnxNetwork, net: Structure, change: Change, shapes: list[Shape]
) -> Mapping[str, Edit]:
    """What has to change in the nodes, found by running the cut graph once."""
    known: dict[str, tuple[Any, ...]] = {}

    def look(step: Step, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        known[step.name] = tuple(v if isinstance(v, np.ndarray) else None for v in inputs)
        return execute(step, inputs)

    real = net.recording.real
    adaptation = Adaptation(_Labelled(net, change, shapes, known))
    inputs = net.inputs if real else to_meta(net.inputs)
    with torch.no_grad():
        for graph, call in ((network, look), (cut, adaptation)):
            twin = clone(graph, None if real else "meta").eval()
            assert isinstance(twin, OnnxNetwork)
            values: list[Tensor] = list(inputs.args)
            twin.run(values, dict(inputs.kwargs), call)
    return adaptation.edits
