"""Surgery: the user's own module with its parameters sliced and the attributes that repeat a size rewritten.

The parameters are sliced first and the module is copied around them, so the dense weights are never
duplicated. Nothing is believed: the small network is recorded again and compared with what the labels predict
(`proof`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from netwright.errors import StructureError, UsageError
from netwright.structure.attention import adopt_attention
from netwright.structure.attributes import Attributes, typed_attributes
from netwright.structure.collecting import uncollected
from netwright.structure.copying import clone, deep_copy, hollow
from netwright.structure.fitting import fit
from netwright.structure.following import settle, with_followers
from netwright.structure.graph import GraphNetwork
from netwright.structure.graph_surgery import by_graph
from netwright.structure.modules import named_modules, named_tensors
from netwright.structure.proof import Mismatch, Order, progress, prove
from netwright.structure.record import try_record
from netwright.structure.scales import Scales, fit_scales, multiply_scales
from netwright.structure.sizes import index_maps, scale, shapes_of, take
from netwright.structure.solve import Axis
from netwright.structure.sources import why
from netwright.structure.tracing import Structure

Kept = dict[str, dict[int, Tensor]]
#: How a surgery may be done.
HOW = ("auto", "in place", "graph")


@dataclass(frozen=True)
class Shrunk:
    """A smaller network and how it was made.

    Attributes:
        model: The new module; the mode (train or eval) is that of the original.
        kept: Parameter or buffer -> {dimension: indices that stayed (n,)}, or (blocks, n) where the blocks of
            dimension 0 keep different ones.
        attributes: Module path -> {attribute: value} that were rewritten.
        adopted: Paths of `nn.MultiheadAttention` modules that became `ShapedAttention`.
        how: "in place": the user's own classes; "graph": a `GraphNetwork` with the same parameter names.
        notes: What a reader should know, one line each.
        scales: Parameter -> {dimension: factors of the dense network's indices}: what undoes numbers that
            the code computes from a size (see `netwright.structure.scales`).
    """

    model: nn.Module
    kept: Kept
    attributes: Attributes = field(default_factory=dict)
    adopted: list[str] = field(default_factory=list)
    how: str = "in place"
    notes: list[str] = field(default_factory=list)
    scales: Scales = field(default_factory=dict)


@uncollected
def shrink(model: nn.Module, net: Structure, keep: Tensor, *, how: str = "auto") -> Shrunk:
    """Remove what does not stay.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        keep: (count,) bool, True where a class stays.
        how: "in place" keeps the user's own classes; "graph" rewrites the exported graph; "auto" takes the
            graph where the user's code cannot hold the new sizes.

    Raises:
        UsageError: if the mask has another length, or drops a frozen class or a whole axis.
        StructureError: if neither the module's Python code nor its graph can take the new sizes; names
            operator and module.
    """
    _check_mask(net, keep)
    return carry_out(model, net, Change(index_maps(net.layers, keep), keep), how)


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


@runtime_checkable
class Rebuilds(Protocol):
    """A model that is no Python code but a graph, and knows itself how to take other sizes."""

    def carry_out(self, net: Structure, change: Change) -> Shrunk:
        """As the function of that name."""


@uncollected
def carry_out(model: nn.Module, net: Structure, change: Change, how: str = "auto") -> Shrunk:
    """Rebuild a module around changed parameters, and prove it.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        change: What becomes of every parameter.
        how: As in `shrink`.

    Raises:
        UsageError: if `how` is not known.
        StructureError: if neither the module's Python code nor its graph can take the new sizes; names
            operator and module.
    """
    if how not in HOW:
        raise UsageError(f"how={how!r} is not known", f"choose from {', '.join(HOW)}")
    if isinstance(model, Rebuilds):
        return model.carry_out(net, change)
    kept, keep = change.kept, change.times
    if not kept:
        return Shrunk(deep_copy(model), {})
    if how == "graph" or (how == "auto" and isinstance(model, GraphNetwork)):
        return Shrunk(*by_graph(model, net, change, None))
    adopted = attention_touched(model, kept)
    typed = dict(typed_attributes(model, kept))
    predicted = [shapes_of(run.recording, run.table, net.sizes, keep) for run in net.runs]
    empty = not net.recording.real  # weights are cut when it is known that the code takes them

    def twin() -> nn.Module:
        return _rebuild(model, kept, typed, adopted, change.factors, empty=empty)

    fitted = fit(model, twin, net, change, predicted, typed)
    if isinstance(fitted, Mismatch):
        if how == "auto":
            return Shrunk(*by_graph(model, net, change, fitted))
        raise StructureError(
            f"{net.name} cannot be shrunk in place: {fitted}",
            f"leave that part alone with exclude=[{fitted.module!r}]" if fitted.module else None,
        )
    kept = fitted.change.kept
    factors = multiply_scales(change.factors, fit_scales(fitted.scales, kept))
    small = _rebuild(model, kept, fitted.attributes, adopted, factors)
    notes = [f"{len(adopted)} attention modules take any inner width now"] if adopted else []
    if fitted.scales:
        notes.append(f"{len(fitted.scales)} parameters hold a factor that the code computes from a size")
    return Shrunk(small, kept, fitted.attributes, adopted, "in place", notes, fitted.scales)


@uncollected
def holds(
    model: nn.Module, net: Structure, keep: Tensor, attributes: Attributes, adopted: list[str]
) -> Mismatch | None:
    """Whether a network shrunk with given attributes is what the labels predict; the first difference if not.

    Args:
        model: The model that was traced; it is not touched.
        net: Its structure.
        keep: (count,) bool, True where a class stays.
        attributes: As in `Shrunk`.
        adopted: As in `Shrunk`.
    """
    kept = index_maps(net.layers, keep)
    empty = not net.recording.real
    twin = _rebuild(model, kept, attributes, adopted, empty=empty)
    for run in net.runs:
        shapes = shapes_of(run.recording, run.table, net.sizes, keep)
        real, training = run.recording.real, run.recording.training
        attempt = try_record(twin, net.inputs, training=training, real=real, twin=twin)
        if attempt.error is not None:
            return Mismatch(attempt.error.message, "", attempt.module)
        found = progress(run, attempt.recording, shapes, whole=True)
        found = found or prove(net, run, attempt.recording, shapes, keep, kept, ran=True)
        if found is not None:
            return found
    return None


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
    parameters, buffers = named_tensors(model)
    named: dict[str, Tensor] = {**dict(parameters), **dict(buffers)}
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
        axis = next((a for a in net.axes if bool((a.cells == lost).any())), None)
        if axis is None:
            raise UsageError("class 0 holds what is frozen and cannot go", "set its entry to True")
        raise UsageError(
            f"{axis.name} is frozen and cannot lose anything: {why(axis)}",
            "leave its members in the mask, or see `netwright inspect`",
        )
    for axis in net.axes:
        if axis.coupling is not None:
            _check_coupled(axis, keep)
            continue
        counts = keep[axis.cells].sum(dim=1)
        if int(counts.min()) == 0:
            raise UsageError(f"nothing would stay of {axis.name}", "keep at least one of every cell")
        if int(counts.min()) != int(counts.max()):
            raise UsageError(
                f"the parts of {axis.name} would keep {int(counts.min())} to {int(counts.max())}",
                "keep equally many of every cell",
            )


def _check_coupled(axis: Axis, keep: Tensor) -> None:
    assert axis.coupling is not None
    counts = torch.stack([keep[part].sum() for part in axis.parts]).numpy()
    if axis.coupling.empty(counts):
        raise UsageError(f"nothing would stay of a part of {axis.name}", "take the counts of `axis.counts`")
    wrong = axis.coupling.broken(counts)
    if wrong is not None:
        raise UsageError(
            f"the parts of {axis.name} would keep {', '.join(map(str, counts.tolist()))}, which do not fit "
            f"together: {wrong}",
            "take the counts of `axis.counts`",
        )


def attention_touched(model: nn.Module, kept: Kept) -> list[str]:
    """Paths of the plain `nn.MultiheadAttention` modules whose parameters shrink.

    Args:
        model: The network.
        kept: As in `Shrunk`.
    """
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
    *,
    empty: bool = False,
) -> nn.Module:
    """Copy a module around sliced parameters and set attributes; an empty copy has no values."""
    memo: dict[int, Any] = {}
    factors, kept = factors or {}, with_followers(model, kept)
    parameters, buffers = named_tensors(model)
    with torch.no_grad():
        for name, tensor in (*parameters, *buffers):
            if (name not in kept and name not in factors) or id(tensor) in memo:
                continue
            cut = kept.get(name, {})
            if empty:
                shape = tuple([cut[d].shape[-1] if d in cut else n for d, n in enumerate(tensor.shape)])
                memo[id(tensor)] = hollow(tensor, "meta", shape)
                continue
            new = take(tensor.detach(), cut)
            if name in factors:
                new = scale(new, factors[name], cut.get(0), len(tensor))
            memo[id(tensor)] = (
                nn.Parameter(new, requires_grad=tensor.requires_grad)
                if isinstance(tensor, nn.Parameter)
                else new
            )
    small = clone(model, "meta", memo) if empty else deep_copy(model, memo)
    modules = dict(named_modules(small))
    if adopted:
        adopt_attention(small, adopted)
    for path, values in attributes.items():
        for name, value in values.items():
            setattr(modules[path], name, value)
    for module in modules.values():
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, n) for n in module._flat_weights_names]
    _forget(small)
    if not empty:
        settle(small)
    return small


def _forget(model: nn.Module) -> None:
    """Let modules drop results of past forward passes, of the old sizes, as they do when training begins."""
    modules = [module for _, module in named_modules(model)]
    if any(_holds_results(module) for module in modules):
        modes = [module.training for module in modules]
        model.train()
        model.train(modes[0])
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _holds_results(module: nn.Module) -> bool:
    for name, value in module.__dict__.items():
        if type(value) is dict and value and name not in ("_parameters", "_buffers", "_modules"):
            if any(isinstance(x, Tensor) for x in value.values()):
                return True
    return False
