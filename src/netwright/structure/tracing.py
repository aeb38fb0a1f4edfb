"""`trace`: from a model and an example to its tied axes and costs, and what cannot shrink and why."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import ModelError, UsageError
from netwright.structure.collecting import uncollected
from netwright.structure.consumers import Consumer, consumers
from netwright.structure.cost import Cost, CostModel, Operator
from netwright.structure.heads import whole_rows, without_product
from netwright.structure.inputs import Inputs
from netwright.structure.labels import Freeze, Labels, Traced
from netwright.structure.layers import varying
from netwright.structure.record import Node, Recording, record
from netwright.structure.sizes import Sizes, parameter_layers
from netwright.structure.solve import Axis, Partition, Solver

HEADS = ("whole", "width")


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter that lies on an axis.

    Args:
        name: Parameter or buffer.
        dim: Its dimension.
        index: (size,) position of every index in ``axis.cells.flatten()``, or -1 for indices on other axes;
            where the blocks of dimension 0 lie on different units, the index map of the first block.
    """

    name: str
    dim: int
    index: Tensor


class Structure:
    """A network's operators, tied axes and costs. Made by `trace`.

    Attributes:
        name: Class of the model.
        inputs: The example.
        count: Number of classes; a class is a set of tied units, class 0 the frozen ones.
        frozen: (count,) bool, True where a class must stay.
        axes: Tied axes, those that can shrink first.
        layers: Parameter or buffer -> {dimension: class labels}. Labels have the parameter's rank and size 1
            along every dimension where they are constant; an element stays iff its class stays in every
            layer.
        notes: What a reader should know, one line each.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        runs: list[Traced],
        labels: Labels,
        partition: Partition,
        notes: list[str],
    ) -> None:
        self.name = type(model).__name__
        self.inputs = inputs
        self.runs = runs
        self.labels = labels
        self.partition = partition
        self.notes = notes
        self.count = partition.count
        self.frozen = torch.from_numpy(partition.frozen)
        self.axes = partition.axes
        self.sizes = Sizes(partition)
        self.layers = parameter_layers(labels.parameters, self.sizes)
        self.heads = labels.heads
        self.leading = labels.leading
        self.memory: dict[str, Any] = {}  # what took long to find and is good for the next surgery, too

    @property
    def prunable(self) -> list[Axis]:
        """The axes that can shrink."""
        return [axis for axis in self.axes if axis.prunable]

    @cached_property
    def filled(self) -> list[tuple[int, int]]:
        """(narrow, wide) positions of axes: members of the first are added to those of the second at their
        places, so that both keep leading members, the second as many or more.
        """
        found = []
        for before, after in self.labels.filled:
            pair = [self.sizes.classes(layer).reshape(-1) for layer in (before, after)]
            held = [{i for i, a in enumerate(self.axes) if bool(torch.isin(a.cells, p).any())} for p in pair]
            found += [(i, j) for i in sorted(held[0]) for j in sorted(held[1]) if i != j]
        return list(dict.fromkeys(found))

    @property
    def recording(self) -> Recording:
        """The forward pass in eval mode."""
        return self.runs[0].recording

    @property
    def batch(self) -> int:
        """Number of examples in the example: the leading size that all its tensors share, else 1."""
        leading = {x.shape[0] for x in self.inputs.tensors() if x.dim() > 0}
        return leading.pop() if len(leading) == 1 else 1

    @cached_property
    def _costs(self) -> CostModel:
        return CostModel(self.runs[0].recording, self.runs[0].table, self.sizes, self.batch)

    @cached_property
    def operators(self) -> list[Operator]:
        """Every operator that computes, with its costs for one example."""
        return self._costs.operators(self.everything)

    @property
    def everything(self) -> Tensor:
        """The keep mask (count,) under which nothing goes."""
        return torch.ones(self.count, dtype=torch.bool)

    @cached_property
    def dense(self) -> Cost:
        """Costs of the network as it is."""
        return self._costs.total(self.everything)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""
        return self.dense.macs

    @property
    def params(self) -> int:
        """Elements of the parameters that the forward pass reads."""
        return self.dense.params

    @property
    def activation_bytes(self) -> int:
        """Bytes that the operators write for one example."""
        return self.dense.activation_bytes

    def cost(self, keep: Tensor) -> Cost:
        """Costs of the network when only some classes stay, without building it.

        Args:
            keep: (count,) bool.
        """
        return self._costs.total(keep)

    def costs(self, keep: Tensor) -> Tensor:
        """Costs of many choices.

        Args:
            keep: (settings, count) bool.

        Returns:
            (settings, 3): multiply-accumulates, parameters, activation bytes.
        """
        return torch.from_numpy(self._costs.totals(keep))

    def operator_costs(self, keep: Tensor) -> tuple[list[Node], Tensor]:
        """The operators that compute, and what each costs for the whole example under many choices.

        Args:
            keep: (settings, count) bool.

        Returns:
            The operators in order of execution, and (settings, operators, 3) int64: multiply-accumulates,
            parameters (of what an operator is the first to read), activation bytes.
        """
        return self._costs.nodes, torch.from_numpy(self._costs.tables(keep))

    def operators_at(self, keep: Tensor) -> list[Operator]:
        """The operators with their costs when only some classes stay (in the order of `operators`).

        Args:
            keep: (count,) bool.
        """
        return self._costs.operators(keep)

    def members(self, axis: Axis) -> list[Member]:
        """The parameters' dimensions that lie on an axis, with their index maps."""
        position = torch.full((self.count,), -1, dtype=torch.int64)
        flat = axis.cells.reshape(-1)
        position[flat] = torch.arange(flat.numel())
        found = []
        for name, dims in self.layers.items():
            for dim, layer in dims.items():
                for d in varying(layer):
                    if d != dim:
                        layer = layer.narrow(d, 0, 1)
                index = position[layer.reshape(-1)]
                if bool((index >= 0).any()):
                    found.append(Member(name, dim, index))
        return found

    @cached_property
    def consumers(self) -> list[Consumer]:
        """The contractions whose weight is a parameter, in order of execution."""
        return list(consumers(self.runs[0].recording))

    def __str__(self) -> str:
        from netwright.structure.draw import table

        return table(self)

    def __repr__(self) -> str:
        cost = self.dense
        return (
            f"<Structure of {self.name}: {cost.macs:,} macs, {cost.params:,} parameters, "
            f"{len(self.prunable)} of {len(self.axes)} axes prunable>"
        )


@uncollected
def trace(
    model: nn.Module,
    example: Any,
    *,
    exclude: Iterable[str] = (),
    heads: str = "whole",
    leading: bool = False,
    extra: list[Freeze] | None = None,
    like: Structure | None = None,
) -> Structure:
    """Find the structure of a network from one forward pass on shapes alone; the model is not touched.

    Args:
        model: Any module.
        example: A tensor, a tuple of arguments, a dict of keyword arguments or an `Inputs`.
        exclude: Names of modules or parameters (or patterns such as ``"*.attn"``) whose axes are left alone.
        heads: "whole" removes attention heads whole, "width" narrows every head alike.
        leading: Only leading members will stay of any axis, as in a supernet. A shortcut that is filled up
            with zeros ties nothing then: what is added to it keeps a width of its own, that is not smaller
            (`Structure.filled`).
        extra: Further units to freeze.
        like: A structure of the same model and example: its recordings are used again.

    Raises:
        ModelError: if the model rejects the example.
        UsageError: if a name in `exclude` matches nothing.
    """
    if heads not in HEADS:
        raise UsageError(f"heads={heads!r} is not known", 'choose "whole" or "width"')
    inputs = Inputs.of(example)
    if like is not None:
        recordings, notes = [run.recording for run in like.runs], list(like.notes)
    else:
        recordings, notes = _recorded(model, inputs)
    labels, runs, partition = _labelled(recordings, Labels(heads=heads, leading=leading), exclude, extra)
    whole = whole_rows(labels, partition)
    while whole:
        labels = Labels(heads=heads, whole_at=whole, leading=leading)
        labels, runs, partition = _labelled(recordings, labels, exclude, extra)
        wrong = without_product(labels, partition)
        if not wrong:
            break
        whole -= wrong
        if not whole:
            labels = Labels(heads=heads, leading=leading)
            labels, runs, partition = _labelled(recordings, labels, exclude, extra)
    return Structure(model, inputs, runs, labels, partition, notes)


def _recorded(model: nn.Module, inputs: Inputs) -> tuple[list[Recording], list[str]]:
    """The forward pass, once more in training mode where that runs other branches; and what to know of it."""
    recording = record(model, inputs)
    recordings, notes = [recording], []
    unseen = _unseen(recording)
    if unseen:
        try:
            second = record(model, inputs, training=True)
        except ModelError as error:
            second = None
            notes.append(f"branches that run only in training could not be recorded: {error.message}")
        if second is not None and set(unseen) - set(_unseen(second)):
            recordings.append(second)
            unseen = sorted(set(unseen) & set(_unseen(second)))
            notes.append("branches that run only in training were recorded too")
    if unseen:
        shown = ", ".join(unseen[:3]) + (" …" if len(unseen) > 3 else "")
        notes.append(f"{len(unseen)} parameters are not used by the forward pass: {shown}")
    return recordings, notes


def _labelled(
    recordings: list[Recording], labels: Labels, exclude: Iterable[str], extra: list[Freeze] | None
) -> tuple[Labels, list[Traced], Partition]:
    """Walk the recordings of one network and solve what was found."""
    runs = [labels.walk(recording) for recording in recordings]
    freezes = [*(extra or []), *_excluded(labels, list(recordings[0].parameters), exclude)]
    partition = Solver(labels, freezes).solve()
    data = _unmade(labels, partition, recordings[0])
    if data is not None:
        partition = Solver(labels, [*freezes, data]).solve()
    return labels, runs, partition


def _unmade(labels: Labels, partition: Partition, recording: Recording) -> Freeze | None:
    """Units that no parameter makes, only a table of constants (a buffer) that weights read."""
    read = {(c.name, c.dim_in) for c in consumers(recording)}
    names = {number: name for name, number in recording.parameters.items()}
    buffers = {names[number] for number in recording.buffers}
    made, stored = np.zeros(partition.count, np.bool_), np.zeros(partition.count, np.bool_)
    for name, dims in labels.parameters.items():
        for dim, layer in dims.items():
            if name in buffers:
                stored[partition.flat(layer)] = True
            elif (name, dim) not in read:
                made[partition.flat(layer)] = True
    lost = stored & ~made & ~partition.frozen
    if not lost.any():
        return None
    units = torch.from_numpy(np.flatnonzero(lost[partition.classes.numpy()]))
    return Freeze(units, "no parameter makes it, only a table of constants", None)


def _unseen(recording: Recording) -> list[str]:
    """Floating-point parameters that no operator reads."""
    used = recording.used()
    return sorted(
        name
        for name, number in recording.parameters.items()
        if number not in used
        and number not in recording.buffers
        and recording.dtypes[number].is_floating_point
    )


def _excluded(labels: Labels, names: list[str], exclude: Iterable[str]) -> list[Freeze]:
    freezes = []
    for pattern in exclude:
        matching = [
            n for n in names if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(n, f"{pattern}.*")
        ]
        if not matching:
            raise UsageError(
                f"exclude={pattern!r} matches no parameter or module", "see `netwright inspect` for the names"
            )
        for name in matching:
            for layer in labels.parameters.get(name, {}).values():
                freezes.append(Freeze(layer.reshape(-1), f"excluded by {pattern!r}", None))
    return freezes
