"""The second way to a smaller network: rewrite the sizes in its exported graph.

Taken where the network's own Python code hard-wires sizes. The graph of the dense network is recorded and
labelled with the classes of its structure, its sizes are rewritten, the parameters are sliced by the same
index maps as in place, and the small graph is recorded again and proved against the dense one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import ModelError, StructureError
from netwright.structure.attributes import Attributes, typed_attributes
from netwright.structure.following import bar_to_graphs, settle, with_followers
from netwright.structure.graph import GraphNetwork, Program, build
from netwright.structure.graph_rewrite import Resized, Unwritable, rewrite
from netwright.structure.graph_wanted import Wanted
from netwright.structure.labels import Labels, Traced
from netwright.structure.layers import varying
from netwright.structure.layout import arrange
from netwright.structure.proof import Mismatch, Order, prove
from netwright.structure.record import Recording, record
from netwright.structure.sizes import Sizes, parameter_layers, shapes_of, take
from netwright.structure.solve import Partition

if TYPE_CHECKING:
    from netwright.structure.surgery import Change
    from netwright.structure.tracing import Structure
from netwright.structure.graph_passes import passes_of

Kept = dict[str, dict[int, Tensor]]


@dataclass(frozen=True)
class Outcome:
    """What the graph path made.

    Attributes:
        model: The smaller network.
        kept: What stays, in the order in which the network has it.
        notes: What a reader should know, one line each.
    """

    model: GraphNetwork
    kept: Kept
    notes: list[str]


@dataclass(frozen=True)
class _Seen:
    """A dense graph, labelled with the classes of the network's structure: what `prove` needs to know.

    Attributes:
        traced: Its recording and the layers of its tensors.
        layers: Class labels of everything it starts from.
        sizes: Counts.
        partition: Its classes.
        count: Number of classes, those that the graph adds included.
        heads: As in `trace`.
        leading: As in `trace`.
        times: (count,) how often each class is there after the surgery.
        order: As in `Change`.
        shapes: Shape of every tensor after the surgery.
        kept: What stays of everything it starts from.
    """

    traced: Traced
    layers: dict[str, dict[int, Tensor]]
    sizes: Sizes
    partition: Partition
    count: int
    heads: str
    leading: bool
    times: Tensor
    order: Order | None
    shapes: list[tuple[int, ...]]
    kept: Kept


def by_graph(
    model: nn.Module, net: Structure, change: Change, failure: Mismatch | None
) -> tuple[nn.Module, Kept, Attributes, list[str], str, list[str]]:
    """The arguments of `Shrunk`, for a surgery on the graph.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        change: What becomes of every parameter.
        failure: Why it could not be done in place, if that was tried.

    Raises:
        StructureError: if the graph cannot take the new sizes either; names operator and module.
    """
    tried = f"{net.name} cannot be shrunk in place: {failure}" if failure else ""
    try:
        made = through_graph(model, net, change.kept, change.times, change.order, change.factors)
    except (Unwritable, StructureError, ModelError) as error:
        reason = error.message if isinstance(error, (StructureError, ModelError)) else str(error)
        where = failure.module if failure else ""
        raise StructureError(
            f"{tried}; nor as a graph: {reason}"
            if tried
            else f"{net.name} cannot be shrunk as a graph: {reason}",
            f"leave that part alone with exclude=[{where!r}]" if where else None,
        ) from error
    why = f"its code cannot hold the new sizes: {failure}" if failure else "as asked"
    return made.model, made.kept, {}, [], "graph", [f"the network is a graph now ({why})", *made.notes]


def through_graph(
    model: nn.Module,
    net: Structure,
    kept: Kept,
    times: Tensor,
    order: Order | None = None,
    factors: Mapping[str, Mapping[int, Tensor]] | None = None,
) -> Outcome:
    """Carry out a surgery on the exported graph, and prove it.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        kept: As in `Change`.
        times: As in `Change`.
        order: As in `Change`.
        factors: As in `Change`.

    Raises:
        StructureError: if the forward pass cannot be exported; says what `torch.export` said.
        Unwritable: if its sizes cannot be rewritten, or are found wrong; names operator and module.
    """
    bar = bar_to_graphs(model)
    if bar:
        raise StructureError(bar)
    kind = type(model).__name__
    both = passes_of(model, net)
    inputs, notes = both.inputs, list(both.notes)
    constants: dict[str, Tensor] = {}
    programs: dict[str, Program] = {}
    proofs = []
    for name, found in both.passes.items():
        if found.recording is None:
            found.recording = record(found.network(model), inputs, training=name != "program")
        seen = _see(found.recording, net, times, order)
        _agrees(seen, net, kept)
        small = rewrite(found.program.graph, Resized(seen.traced, seen.shapes, seen.times, seen.order))
        programs[name] = found.program.with_graph(small)
        for key, value in found.constants.items():
            constants[key] = take(value, seen.kept[key]) if key in seen.kept else value.clone()
        proofs.append((seen, name != "program"))

    def built(cut: Kept) -> GraphNetwork:
        return build(
            model,
            kind,
            programs["program"],
            programs.get("training_program"),
            _sliced(model, with_followers(model, cut), factors or {}),
            dict(typed_attributes(model, cut)),
            constants,
        )

    network = built(kept)
    if net.partition.shuffled.any() and order is None:
        again = [record(network, inputs, training=t, real=s.traced.recording.real) for s, t in proofs]
        kept = arrange(net, kept, again)
        network = built(kept)
    for seen, training in proofs:
        failure = prove(
            cast("Structure", seen),
            seen.traced,
            record(network, inputs, training=training, real=seen.traced.recording.real),
            seen.shapes,
            seen.times,
            {**seen.kept, **kept},
            seen.order,
        )
        if failure is not None:
            raise Unwritable(failure)
    settle(network)
    return Outcome(network, kept, notes)


def _see(recording: Recording, net: Structure, times: Tensor, order: Order | None) -> _Seen:
    """Label the recording of a dense graph.

    Raises:
        Unwritable: if the graph ties or freezes what the surgery takes apart.
    """
    labels = Labels(heads=net.heads, given=net.layers, units=net.count, leading=net.leading)
    traced = labels.walk(recording)
    classes, all_times = _components(labels, net, times)
    none = np.zeros(labels.units, np.bool_)
    shuffled = np.concatenate([net.partition.shuffled, none[len(net.partition.shuffled) :]])
    partition = Partition(classes, labels.units, none, ragged=labels.ragged, shuffled=shuffled)
    sizes = Sizes(partition)
    predicted = shapes_of(recording, traced.table, sizes, all_times)
    whole = traced_as(traced, classes)
    shapes = Wanted(whole, predicted, all_times).shapes()
    layers = parameter_layers(labels.parameters, sizes)
    ours = None if order is None else lambda row: order(torch.where(row < net.count, row, 0))
    return _Seen(
        whole,
        layers,
        sizes,
        partition,
        labels.units,
        net.heads,
        net.leading,
        all_times,
        ours,
        shapes,
        _maps(layers, all_times, ours, net),
    )


def traced_as(traced: Traced, classes: Tensor) -> Traced:
    """The same tensors, labelled by classes."""
    known: dict[int, Tensor] = {}

    def mapped(layer: Tensor) -> Tensor:
        found = known.get(id(layer))
        if found is None:
            found = known[id(layer)] = classes[layer]
        return found

    return Traced(
        traced.recording, [[mapped(la) for la in layers] for layers in traced.table], traced.uniform
    )


def _components(labels: Labels, net: Structure, times: Tensor) -> tuple[Tensor, Tensor]:
    """Class of every unit of the walk, and how often it is there; units made anew follow what they meet."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = labels.units
    counts = torch.cat([times.to(torch.int64), torch.ones(n - net.count, dtype=torch.int64)])
    for freeze in labels.freezes:
        if bool((counts[freeze.units] != 1).any()):
            op, module = (freeze.node.op, freeze.node.module) if freeze.node else ("", "")
            raise Unwritable(Mismatch(f"in the graph it must stay: {freeze.reason}", op, module))
    left = np.concatenate([np.zeros(0, np.int64), *[a.numpy() for a, _, _ in labels.ties]])
    right = np.concatenate([np.zeros(0, np.int64), *[b.numpy() for _, b, _ in labels.ties]])
    live = (left != 0) & (right != 0)
    graph = coo_array((np.ones(int(live.sum()), np.bool_), (left[live], right[live])), shape=(n, n))
    number, component = connected_components(graph, directed=False)
    first = np.full(number, n, np.int64)
    np.minimum.at(first, component, np.arange(n))
    classes = torch.from_numpy(first[component])
    same = counts[classes]
    known = torch.arange(n) < net.count
    if bool((counts[known] != same[known]).any()):
        raise Unwritable(_unequal(labels, counts, net.count))
    frozen = torch.from_numpy(np.where(left == 0, right, left)[~live])
    if bool((same[frozen] != 1).any()):
        raise Unwritable(Mismatch("in the graph it meets a slot that nothing describes", "", ""))
    return classes, same.to(times.dtype)


def _unequal(labels: Labels, counts: Tensor, count: int) -> Mismatch:
    for a, b, node in labels.ties:
        both = (a < count) & (b < count)
        if node is not None and bool((counts[a[both]] != counts[b[both]]).any()):
            return Mismatch("in the graph, what stays meets what goes", node.op, node.module)
    return Mismatch("in the graph, what stays meets what goes", "", "")


def _maps(layers: dict[str, dict[int, Tensor]], times: Tensor, order: Order | None, net: Structure) -> Kept:
    """What stays of the tensors that the graph has beside the network's parameters and buffers."""
    kept: Kept = {}
    for name, dims in layers.items():
        if name in net.layers:
            continue
        for dim, layer in dims.items():
            if len(varying(layer)) == 1 and bool((times[layer] != 1).any()):
                row = layer.reshape(-1)
                index = order(row) if order is not None else (times[row] > 0).nonzero().reshape(-1)
                kept.setdefault(name, {})[dim] = index
    return kept


def _agrees(seen: _Seen, net: Structure, kept: Kept) -> None:
    """A parameter may shrink along the dimensions that the structure knows only.

    Raises:
        Unwritable: if the graph would have it shrink along another one.
    """
    for name, dims in seen.layers.items():
        for dim, layer in dims.items():
            if name in net.layers and dim not in net.layers[name] and bool((seen.times[layer] != 1).any()):
                raise Unwritable(Mismatch(f"in the graph {name} shrinks along dimension {dim}, too", "", ""))


def _sliced(model: nn.Module, kept: Kept, factors: Mapping[str, Mapping[int, Tensor]]) -> dict[int, Tensor]:
    """New tensors for all parameters and buffers, by the number of the old object."""
    from netwright.structure.sizes import scale

    tensors: dict[int, Tensor] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        if id(tensor) in tensors:
            continue
        with torch.no_grad():
            cut, new = kept.get(name, {}), tensor.detach().clone()
            if cut:
                new = scale(take(new, cut), factors.get(name, {}), cut.get(0), len(tensor))
        tensors[id(tensor)] = (
            nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
        )
    return tensors
