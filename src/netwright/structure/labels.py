"""Walk a recording and label every tensor; collect the ties, freezes and blocks on the way.

The walk knows nothing of modules. What each operator does to labels is the business of `rules`; the
vocabulary the rules speak is here: `layers_of`, `tie`, `freeze`, `collapse`, `block`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from netwright.structure.cost import VIEWS
from netwright.structure.layers import varying
from netwright.structure.record import Node, Recording, Ref

Layers = list[Tensor]


@dataclass(frozen=True)
class Freeze:
    """Units that may not be removed, and why.

    Attributes:
        units: Unit ids.
        reason: What freezes them.
        node: The operator call (the one that made it, for an output of the network), or None where the user
            did it.
    """

    units: Tensor
    reason: str
    node: Node | None


@dataclass(frozen=True)
class Block:
    """Rows of units that must keep equally many members each.

    Attributes:
        labels: Labels; `ragged` is the dimension within a row, the other varying ones count the rows.
        ragged: The innermost varying dimension.
        kind: What made it: "view", or "split" and "groups", whose parts lie along dimension 0; "shuffle"
            when the rows, which then lie along the outer dimension, are interleaved.
        node: The operator call.
    """

    labels: Tensor
    ragged: int
    kind: str
    node: Node


@dataclass(frozen=True)
class Traced:
    """A recording and the layers of its tensors.

    Attributes:
        recording: The operators.
        table: Layers of units of every tensor, by number, as they were when the tensor was made
            (in-place writes update them).
        uniform: Tensors with the same value everywhere: they take the size of what they meet.
    """

    recording: Recording
    table: list[Layers]
    uniform: set[int]


@dataclass
class Labels:
    """The state of a walk over one or several recordings of one network.

    Args:
        heads: "whole" ties the units of each attention head, so heads go whole; "width" narrows every
            head alike.
        given: Parameter name -> {dimension: layer}; instead of fresh units (used to prove a surgery).
        whole_at: Operator calls, by id, at which tables of one head's width stay (see `heads`).
        leading: Only leading members will stay, so that what is filled up with zeros has units of its own
            (see `filled`).
    """

    heads: str = "whole"
    given: dict[str, dict[int, Tensor]] | None = None
    units: int = 1
    ties: list[tuple[Tensor, Tensor, Node | None]] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    parameters: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    #: Parameter -> the dimension that labels what it makes, where that is not the first.
    outgoing: dict[str, int] = field(default_factory=dict)
    #: By id, layers whose rows do not lie along the innermost varying dimension, and the one they do.
    ragged: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    whole_at: frozenset[int] = frozenset()
    leading: bool = False
    #: What was filled up with zeros, before and after, where members must only stay from the first on.
    filled: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    #: Where layers of rows meet something that spans a row but not the rows.
    broad: list[tuple[Node, Tensor]] = field(default_factory=list)
    #: Layers whose rows a product made whole.
    heads_met: list[Tensor] = field(default_factory=list)

    def walk(self, recording: Recording) -> Traced:
        """Label every tensor of a recording.

        Args:
            recording: The operators.
        """
        walk = Walk(self, recording)
        return Traced(recording, walk.run(), walk.uniform)

    def fresh(self, size: int) -> Tensor:
        """A range of new unit ids (size,)."""
        first, self.units = self.units, self.units + size
        return torch.arange(first, first + size)


class Walk:
    """One recording being labelled; the rules receive this object."""

    def __init__(self, labels: Labels, recording: Recording) -> None:
        from netwright.structure.rules.conv import kernels

        self.labels = labels
        self.recording = recording
        self.kernels = kernels(recording)
        self.shapes = recording.shapes
        self.table: list[Layers | None] = [None] * len(recording.shapes)
        self.names: dict[int, str] = {}
        for name, number in recording.parameters.items():
            self.names.setdefault(number, name)
        self.uniform: set[int] = set()
        self.copies = {n.outputs[0]: n.inputs[0] for n in recording.nodes if n.op == "clone"}
        # View -> what it is a part of, and whether slices made it.
        self.parts: dict[int, tuple[int, bool]] = {}
        # (uniform tensor, dimension from the end) -> the first layer that it took its size from.
        self.adopted: dict[tuple[int, int], Tensor] = {}
        self.rows = torch.zeros(0, dtype=torch.int64)
        self._tied: dict[
            tuple[int, int], tuple[Tensor, Tensor]
        ] = {}  # by id, held so that ids stay their own
        self._live: dict[int, Tensor] = {}  # by id, layers that are known not to be frozen as a whole
        self.node: Node = Node("input", None, (), {}, [], [], "")

    def run(self) -> list[Layers]:
        """Label every tensor; returns the layers by number."""
        from netwright.structure.rules import rule_for

        for node in self.recording.nodes:
            self.node = node
            rule = rule_for(node)
            if rule is None:
                self._unknown(node)
                continue
            results = rule(self, node)
            self._note_parts(node)
            for number, layers in zip(node.outputs, results, strict=False):
                if number >= 0:
                    self.table[number] = self.tidy(layers, number)
            for number in node.outputs[len(results) :]:
                if number >= 0:
                    self.table[number] = []
        made = {number: node for node in self.recording.nodes for number in node.outputs}
        for number in self.recording.outputs:
            for layer in self.layers_of(number):
                freeze = Freeze(layer.flatten(), "it is an output of the network", made.get(number))
                self.labels.freezes.append(freeze)
        return [layers or [] for layers in self.table]

    def _unknown(self, node: Node) -> None:
        self.labels.unknown.setdefault(node.op, []).append(node.module)
        for number in node.inputs:
            for layer in self.layers_of(number):
                self.freeze(layer, f"operator {node.op} has no rule")
        self.overwritten(node)
        for number in node.outputs:
            if number >= 0:
                self.table[number] = []

    def _note_parts(self, node: Node) -> None:
        if node.op not in VIEWS or not node.inputs:
            return
        whole, sliced = self.parts.get(node.inputs[0], (node.inputs[0], True))
        for number in node.outputs:
            if number != node.inputs[0]:
                self.parts[number] = (whole, sliced and node.op in ("slice", "narrow", "alias", "detach"))

    def write(self, number: int, layers: Layers) -> None:
        """Something was written into a tensor in place: what it is a part of is uniform no longer.

        Args:
            number: The tensor that was written.
            layers: Its layers now. The whole adopts them where it was uniform and the part spans it
                along them.
        """
        whole, sliced = self.parts.get(number, (number, True))
        if whole == number or whole not in self.uniform:
            return
        if number in self.uniform and self.shape(number) == self.shape(whole):
            return  # one value everywhere, as before
        adopted = []
        for layer in layers:
            if sliced and all(self.shape(number)[d] == self.shape(whole)[d] for d in varying(layer)):
                adopted.append(layer)
            else:
                self.freeze(layer, "it is written into a part of another tensor")
        self.table[whole] = adopted
        self.uniform.discard(whole)
        for other, (root, _) in self.parts.items():
            if root == whole and other != number:  # what was read through another view is uniform no longer
                self.uniform.discard(other)
                if self.shape(other) == self.shape(whole):
                    self.table[other] = adopted

    def overwritten(self, node: Node) -> None:
        """An operator wrote, in place, what nothing is known of: what it wrote into is uniform no longer."""
        for number in node.outputs:
            if number in node.inputs:
                self.uniform.discard(number)
                self.write(number, [])

    def shape(self, ref: Ref | int) -> tuple[int, ...]:
        """Shape of a tensor of the recording."""
        return self.shapes[ref.id if isinstance(ref, Ref) else ref]

    def parameter_of(self, number: int) -> str | None:
        """The parameter or buffer of which a tensor is a view, or a copy of a view."""
        while True:
            root = self.parts.get(number, (number, True))[0]
            if root not in self.copies:
                return self.names.get(root)
            number = self.copies[root]

    def is_parameter(self, ref: Ref | int) -> bool:
        """Whether a tensor is a parameter or buffer itself."""
        return (ref.id if isinstance(ref, Ref) else ref) in self.names

    def layers_of(self, ref: Ref | int) -> Layers:
        """Layers of a tensor; a floating-point parameter gets units along all dimensions when first met."""
        number = ref.id if isinstance(ref, Ref) else ref
        found = self.table[number]
        if found is not None:
            return found
        name = self.names.get(number)
        if name is None or not self.recording.dtypes[number].is_floating_point:
            self.table[number] = []
            return []
        for dim, size in enumerate(self.shape(number)[: self.kernels.get(number)]):
            if size > 1:
                self.axis(number, dim)
        return self.table[number] or []

    def axis(self, number: int, dim: int, adopt: Tensor | None = None) -> Tensor:
        """The layer of a parameter along one dimension, made when first asked for.

        Args:
            number: The parameter's number.
            dim: The dimension.
            adopt: Units (size,) to use when the parameter has none there yet, instead of fresh ones and ties.
        """
        name = self.names[number]
        known = self.labels.parameters.setdefault(name, {})
        shape = self.shape(number)
        if dim not in known:
            given = self.given(name, dim)
            if given is not None and given.shape[dim] == shape[dim]:
                known[dim] = given
            elif adopt is not None and self.labels.given is None:
                known[dim] = _laid(adopt, shape, dim)
                adopt = None
            else:
                known[dim] = self.labels.fresh(shape[dim]).reshape(_along(shape, dim))
                if given is not None and given.numel() == 1:  # one class all along: it says so by its size
                    self.tie(known[dim], given)
        if adopt is not None:
            self.tie(known[dim], _laid(adopt, shape, dim))
        self.table[number] = list(known.values())
        return known[dim]

    def given(self, name: str, dim: int) -> Tensor | None:
        """The layer that was given for a parameter's dimension, if any."""
        return None if self.labels.given is None else self.labels.given.get(name, {}).get(dim)

    def set_axis(self, number: int, dim: int, layer: Tensor) -> None:
        """Describe a parameter's dimension by a layer that varies along others too (grouped weights)."""
        name = self.names[number]
        known = self.labels.parameters.setdefault(name, {})
        given = self.given(name, dim)
        if dim not in known and given is not None:
            known[dim] = given
        if dim in known:
            self.tie(known[dim], layer)
        else:
            known[dim] = layer
        self.table[number] = list(known.values())

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Tie two layers elementwise, by broadcast."""
        if a is b or (id(a), id(b)) in self._tied:
            return
        self._tied[id(a), id(b)] = (a, b)
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)
        if a.dim() > 1:
            a, b = a.reshape(-1), b.reshape(-1)
        self.labels.ties.append((a, b, self.node))

    def freeze(self, layer: Tensor, reason: str) -> None:
        """Freeze all units of a layer."""
        self.labels.freezes.append(Freeze(layer.reshape(-1), reason, self.node))

    def collapse(self, layer: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Tie a layer with its first slice along some dimensions, which become size 1."""
        for d in dims:
            if layer.shape[d] > 1:
                first = layer.narrow(d, 0, 1)
                self.tie(layer.narrow(d, 1, layer.shape[d] - 1), first)
                layer = first
        return layer

    def block(self, layer: Tensor, kind: str) -> None:
        """Record that the rows of a layer must keep equal counts."""
        dims = varying(layer)
        self.labels.blocks.append(Block(layer, dims[-1], kind, self.node))
        need = self.labels.units - len(self.rows)
        if need > 0:
            self.rows = torch.cat([self.rows, torch.zeros(need, dtype=torch.int64)])
        count = layer.numel() // layer.shape[dims[-1]]
        base = (len(self.labels.blocks)) * 1_000_003
        rows = torch.arange(base, base + count)
        shape = [1 if d == dims[-1] else n for d, n in enumerate(layer.shape)]
        self.rows[layer.reshape(-1)] = rows.reshape(shape).expand(layer.shape).reshape(-1)

    def adopt(self, number: int, layer: Tensor) -> None:
        """A uniform tensor takes the size of a layer; all that it meets must then keep equally many.

        One tensor of zeros stands for the position bias of every cross-attention of T5.
        """
        dims = varying(layer)
        if len(dims) != 1:
            return
        first = self.adopted.setdefault((number, dims[0] - layer.dim()), layer)
        if first is not layer and first.numel() == layer.numel():
            rows = torch.stack([first.reshape(-1), layer.reshape(-1)])
            if not torch.equal(rows[0], rows[1]):
                self.labels.blocks.append(Block(rows, 1, "view", self.node))

    def ragged(self, layer: Tensor) -> int:
        """The dimension along which the rows of a layer lie: the innermost varying one unless moved."""
        known = self.labels.ragged.get(id(layer))
        return known[1] if known is not None else varying(layer)[-1]

    def moved(self, layer: Tensor, dim: int) -> Tensor:
        """Note that the rows of a layer lie along a dimension now; returns the layer."""
        if len(varying(layer)) > 1 and dim != varying(layer)[-1]:
            self.labels.ragged[id(layer)] = (layer, dim)
        return layer

    def crossing(self, layer: Tensor) -> bool:
        """Whether a merge would interleave the rows of a block (not constant along the innermost)."""
        dims = varying(layer)
        if len(dims) < 2 or not len(self.rows):
            return False
        known = layer.clamp(max=len(self.rows) - 1)
        rows = torch.where(layer < len(self.rows), self.rows[known], 0)
        d = dims[-1]
        return bool((rows != rows.narrow(d, 0, 1)).any())

    def shuffle(self, layer: Tensor) -> bool:
        """Record that the rows of a layer are interleaved by a merge of its two varying dimensions.

        Returns:
            Whether it could be recorded: not unless the rows lie along the outer dimension.
        """
        dims = varying(layer)
        if len(dims) != 2 or self.ragged(layer) != dims[0]:
            return False
        self.labels.blocks.append(Block(layer, dims[0], "shuffle", self.node))
        return True

    def tidy(self, layers: Layers, number: int) -> Layers:
        """Drop what says nothing: layers of one unit (frozen) and layers that are frozen as a whole."""
        kept = []
        for layer in layers:
            if layer.numel() == 1:
                self.freeze(layer, "one unit spans a whole tensor")
            elif id(layer) in self._live or _live(layer):
                self._live[id(layer)] = layer  # many operators pass a layer on as it is
                kept.append(layer)
        return kept


def _live(layer: Tensor) -> bool:
    """Whether any unit of a layer is not frozen."""
    array = layer.numpy()
    return bool(array.size and (array.item(0) != 0 or array.any()))  # most tell by their first


def _laid(units: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """Units (size,) as a layer along a dimension; the same object where that says it already."""
    return units if len(shape) == 1 and units.dim() == 1 else units.reshape(_along(shape, dim))


def _along(shape: tuple[int, ...], dim: int) -> list[int]:
    return [n if d == dim else 1 for d, n in enumerate(shape)]
