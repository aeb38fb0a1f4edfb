"""Surgery: the user's own module with its parameters sliced and the attributes that repeat a size rewritten.

The parameters are sliced first and the module is copied around them, so the dense weights are never
duplicated. Nothing is believed: the small network is recorded again and compared with what the labels predict
(`proof`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import ModelError, StructureError, UsageError
from netwright.structure.attention import adopt_attention
from netwright.structure.attributes import Attributes, generic_attributes, merge_attributes, typed_attributes
from netwright.structure.proof import Mismatch, Order, prove
from netwright.structure.record import deep_copy, record
from netwright.structure.sizes import index_maps, scale, shapes_of, take
from netwright.structure.tracing import Structure

Kept = dict[str, dict[int, Tensor]]


@dataclass(frozen=True)
class Shrunk:
    """A smaller network and how it was made.

    Attributes:
        model: The new module; the mode (train or eval) is that of the original.
        kept: Parameter or buffer -> {dimension: indices that stayed (n,)}, or (blocks, n) where the blocks of
            dimension 0 keep different ones.
        attributes: Module path -> {attribute: value} that were rewritten.
        adopted: Paths of `nn.MultiheadAttention` modules that became `ShapedAttention`.
        how: "in place": the user's own classes.
        notes: What a reader should know, one line each.
    """

    model: nn.Module
    kept: Kept
    attributes: Attributes = field(default_factory=dict)
    adopted: list[str] = field(default_factory=list)
    how: str = "in place"
    notes: list[str] = field(default_factory=list)


def shrink(model: nn.Module, net: Structure, keep: Tensor) -> Shrunk:
    """Remove what does not stay.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        keep: (count,) bool, True where a class stays.

    Raises:
        UsageError: if the mask has another length, or drops a frozen class or a whole axis.
        StructureError: if the module's Python code cannot take the new sizes; names operator and module.
    """
    _check_mask(net, keep)
    return carry_out(model, net, Change(index_maps(net.layers, keep), keep))


@dataclass(frozen=True)
class Change:
    """What a surgery does to every parameter.

    Attributes:
        kept: Parameter or buffer -> {dimension: indices (n,) or (blocks, n)}, in any order, also repeated.
        times: (count,) how often each class is there afterwards: a mask of what stays, or counts.
        order: Indices of the slots that a dimension with the given class labels (n,) has afterwards; those
            that stay, when None.
        factors: Parameter -> {dimension: factors that fit its `kept`}.
    """

    kept: Kept
    times: Tensor
    order: Order | None = None
    factors: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)


def carry_out(model: nn.Module, net: Structure, change: Change) -> Shrunk:
    """Rebuild a module around changed parameters, and prove it.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        change: What becomes of every parameter.

    Raises:
        StructureError: if the module's Python code cannot take the new sizes; names operator and module.
    """
    kept, keep = change.kept, change.times
    if not kept:
        return Shrunk(deep_copy(model), {})
    adopted = _attention_touched(model, kept)
    typed = dict(typed_attributes(model, kept))
    predicted = [shapes_of(run.recording, run.table, net.sizes, keep) for run in net.runs]
    failure: Mismatch | None = None
    tried: list[Attributes] = []
    for variant in ("unambiguous", "all", "none"):
        attributes = merge_attributes(
            typed, {} if variant == "none" else generic_attributes(model, net, predicted[0], variant)
        )
        if attributes in tried:
            continue
        tried.append(attributes)
        small = _rebuild(model, kept, attributes, adopted, change.factors)
        try:
            failure = _differs(small, net, change, predicted)
        except ModelError as error:
            failure = failure or Mismatch(error.message, "", "")
            continue
        if failure is None:
            notes = [f"{len(adopted)} attention modules take any inner width now"] if adopted else []
            return Shrunk(small, kept, attributes, adopted, "in place", notes)
    assert failure is not None
    raise StructureError(
        f"{net.name} cannot be shrunk in place: {failure}",
        f"leave that part alone with exclude=[{failure.module!r}]" if failure.module else None,
    )


def replay(
    model: nn.Module,
    kept: Mapping[str, Mapping[int, Tensor]],
    attributes: Attributes,
    adopted: list[str],
    factors: Mapping[str, Mapping[int, Tensor]] | None = None,
) -> nn.Module:
    """Do a surgery again on another copy of the same architecture.

    Args:
        model: The dense network; it is not touched.
        kept: As in `Shrunk`.
        attributes: As in `Shrunk`.
        adopted: As in `Shrunk`.
        factors: Parameter -> {dimension: factors that fit `kept`}.

    Raises:
        StructureError: if the model lacks a parameter or module, or its sizes do not fit.
    """
    named = dict(_named_tensors(model))
    modules = dict(model.named_modules())
    for name, dims in kept.items():
        if name not in named:
            raise StructureError(
                f"the model has no parameter {name}", "give the architecture that was pruned"
            )
        for dim, index in dims.items():
            size = named[name].shape[dim] if dim < named[name].dim() else 0
            if index.numel() and int(index.max()) >= size:
                raise StructureError(
                    f"{name} has {size} indices along dimension {dim}, index {int(index.max())} was kept",
                    "give the architecture that was pruned",
                )
    for name in [*attributes, *adopted]:
        if name not in modules:
            raise StructureError(f"the model has no module {name}", "give the architecture that was pruned")
    return _rebuild(model, {n: dict(d) for n, d in kept.items()}, attributes, adopted, factors)


def _check_mask(net: Structure, keep: Tensor) -> None:
    if keep.shape != (net.count,):
        raise UsageError(f"the keep mask has shape {tuple(keep.shape)}, the network has {net.count} classes")
    if not bool(keep[net.frozen].all()):
        lost = int((net.frozen & ~keep).nonzero()[0])
        name = next((a.name for a in net.axes if bool((a.cells == lost).any())), "a frozen axis")
        raise UsageError(
            f"{name} is frozen and cannot lose anything", "see `netwright inspect` for the reason"
        )
    for axis in net.axes:
        counts = keep[axis.cells].sum(dim=1)
        if int(counts.min()) == 0:
            raise UsageError(f"nothing would stay of {axis.name}", "keep at least one of every cell")
        if int(counts.min()) != int(counts.max()):
            raise UsageError(
                f"the parts of {axis.name} would keep {int(counts.min())} to {int(counts.max())}",
                "keep equally many of every cell",
            )


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _attention_touched(model: nn.Module, kept: Kept) -> list[str]:
    paths = {name.rpartition(".")[0] for name in kept}
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.MultiheadAttention and (name in paths or f"{name}.out_proj" in paths)
    ]


def _rebuild(
    model: nn.Module,
    kept: Kept,
    attributes: Attributes,
    adopted: list[str],
    factors: Mapping[str, Mapping[int, Tensor]] | None = None,
) -> nn.Module:
    """Copy a module around sliced parameters and set attributes."""
    memo: dict[int, Any] = {}
    for name, tensor in _named_tensors(model):
        if name not in kept or id(tensor) in memo:
            continue
        with torch.no_grad():
            cut = kept[name]
            new = scale(take(tensor.detach(), cut), (factors or {}).get(name, {}), cut.get(0), len(tensor))
        memo[id(tensor)] = (
            nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
        )
    small = deep_copy(model, memo)
    modules = dict(small.named_modules())
    if adopted:
        adopt_attention(small, adopted)
    for path, values in attributes.items():
        for name, value in values.items():
            setattr(modules[path], name, value)
    for module in modules.values():
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, n) for n in module._flat_weights_names]
    return small


def _differs(
    small: nn.Module, net: Structure, change: Change, predicted: list[list[tuple[int, ...]]]
) -> Mismatch | None:
    """The first difference between the small network and what the labels say, over all recordings."""
    for run, shapes in zip(net.runs, predicted, strict=True):
        again = record(small, net.inputs, training=run.recording.training, real=run.recording.real)
        found = prove(net, run, again, shapes, change.times, change.kept, change.order)
        if found is not None:
            return found
    return None
