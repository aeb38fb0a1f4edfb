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
from netwright.structure.cost import VIEWS
from netwright.structure.proof import Mismatch, prove
from netwright.structure.record import deep_copy, record
from netwright.structure.sizes import index_maps, shapes_of, take
from netwright.structure.tracing import Structure

Kept = dict[str, dict[int, Tensor]]
Attributes = dict[str, dict[str, Any]]
#: Attributes that are sizes of something else than an axis.
_SKIP = frozenset(
    "kernel_size stride padding dilation output_padding num_groups num_layers training eps momentum".split()
)


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
    kept = index_maps(net.layers, keep)
    if not kept:
        return Shrunk(deep_copy(model), {})
    adopted = _attention_touched(model, kept)
    typed = dict(_typed_attributes(model, kept))
    predicted = [shapes_of(run.recording, run.table, net.sizes, keep) for run in net.runs]
    failure: Mismatch | None = None
    tried: list[Attributes] = []
    for variant in ("unambiguous", "all", "none"):
        attributes = _merge(typed, {} if variant == "none" else _generic(model, net, predicted[0], variant))
        if attributes in tried:
            continue
        tried.append(attributes)
        small = _rebuild(model, kept, attributes, adopted)
        try:
            failure = _differs(small, net, keep, kept, predicted)
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
    model: nn.Module, kept: Mapping[str, Mapping[int, Tensor]], attributes: Attributes, adopted: list[str]
) -> nn.Module:
    """Do a surgery again on another copy of the same architecture.

    Args:
        model: The dense network; it is not touched.
        kept: As in `Shrunk`.
        attributes: As in `Shrunk`.
        adopted: As in `Shrunk`.

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
    return _rebuild(model, {n: dict(d) for n, d in kept.items()}, attributes, adopted)


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


def _rebuild(model: nn.Module, kept: Kept, attributes: Attributes, adopted: list[str]) -> nn.Module:
    """Copy a module around sliced parameters and set attributes."""
    memo: dict[int, Any] = {}
    for name, tensor in _named_tensors(model):
        if name not in kept or id(tensor) in memo:
            continue
        with torch.no_grad():
            new = take(tensor.detach(), kept[name])
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


def _typed_attributes(model: nn.Module, kept: Kept) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sizes of standard layers, which their own parameters decide."""

    def size(path: str, name: str, dim: int) -> int:
        full = f"{path}.{name}" if path else name
        tensor = getattr(modules[path], name)
        return kept[full][dim].shape[-1] if dim in kept.get(full, {}) else tensor.shape[dim]

    modules = dict(model.named_modules())
    for path, module in modules.items():
        values: dict[str, Any] = {}
        if isinstance(module, nn.modules.conv._ConvNd):
            values = _convolution(module, size(path, "weight", 0), size(path, "weight", 1))
        elif isinstance(module, nn.Linear):
            values = {"out_features": size(path, "weight", 0), "in_features": size(path, "weight", 1)}
        elif isinstance(module, nn.modules.batchnorm._NormBase) and module.num_features:
            name = next((n for n in ("weight", "running_mean") if getattr(module, n, None) is not None), None)
            values = {"num_features": size(path, name, 0)} if name else {}
        elif isinstance(module, nn.LayerNorm) and module.weight is not None:
            values = {"normalized_shape": tuple(size(path, "weight", d) for d in range(module.weight.dim()))}
        elif isinstance(module, nn.GroupNorm) and module.weight is not None:
            values = {"num_channels": size(path, "weight", 0)}
        elif isinstance(module, nn.Embedding):
            values = {"embedding_dim": size(path, "weight", 1)}
        elif isinstance(module, nn.RNNBase):
            values = {
                "input_size": size(path, "weight_ih_l0", 1),
                "hidden_size": size(path, "weight_hh_l0", 0) // _gates(module),
            }
        changed = {k: v for k, v in values.items() if getattr(module, k) != v}
        if changed:
            yield path, changed


def _gates(module: Any) -> int:
    return int(module.weight_hh_l0.shape[0]) // int(module.hidden_size)


def _convolution(module: Any, first: int, second: int) -> dict[str, Any]:
    groups, weight = module.groups, module.weight
    if module.transposed:
        if groups > 1 and groups == module.in_channels:
            groups = first
        return {"in_channels": first, "out_channels": second * groups, "groups": groups}
    if groups > 1 and groups == module.in_channels:
        groups = first // (weight.shape[0] // groups)
    return {"in_channels": second * groups, "out_channels": first, "groups": groups}


def _generic(model: nn.Module, net: Structure, predicted: list[tuple[int, ...]], variant: str) -> Attributes:
    """Integers, and tuples of them, that hold an old size of the tensors a module handles."""
    pairs: dict[str, dict[int, set[int]]] = {}
    recording = net.recording
    splits: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {}
    for node in net.recording.nodes:
        if node.op == "split_with_sizes":
            dim = node.args[2] if len(node.args) > 2 else 0
            widths = tuple([predicted[number][dim] for number in node.outputs])
            splits.setdefault(node.module, {})[tuple(node.args[1])] = widths
        found = pairs.setdefault(node.module, {})
        for number in node.outputs if node.op in VIEWS else node.outputs[:1]:  # a split has many
            if number >= 0:
                for old, new in zip(recording.shapes[number], predicted[number], strict=True):
                    found.setdefault(old, set()).add(new)
    for name, number in recording.parameters.items():
        found = pairs.setdefault(name.rpartition(".")[0], {})
        for old, new in zip(recording.shapes[number], predicted[number], strict=True):
            found.setdefault(old, set()).add(new)
    out: Attributes = {}
    for path, module in model.named_modules():
        sizes = pairs.get(path, {})
        change = {
            old: next(iter(new - {old}))
            for old, new in sizes.items()
            if old > 1 and len(new - {old}) == 1 and (variant == "all" or len(new) == 1)
        }
        parts = splits.get(path, {})
        if not change and not parts:
            continue
        values = {}
        for name, value in vars(module).items():
            if name in _SKIP or name.startswith("_") or not isinstance(value, (int, list, tuple)):
                continue
            now = _changed(value, change, parts)
            if now != value:
                values[name] = now
        if values:
            out[path] = values
    return out


def _changed(value: Any, change: dict[int, int], parts: dict[tuple[int, ...], tuple[int, ...]]) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return change.get(value, value)
    if isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
        if type(value) not in (list, tuple):
            return value
        return type(value)(parts.get(tuple(value), [change.get(v, v) for v in value]))
    return value


def _merge(typed: Attributes, generic: Attributes) -> Attributes:
    """Typed sizes win over guesses; attributes of typed modules that are no size of theirs are left alone."""
    out = {path: dict(values) for path, values in generic.items()}
    for path, values in typed.items():
        out[path] = {**out.get(path, {}), **values}
    return out


def _differs(
    small: nn.Module, net: Structure, keep: Tensor, kept: Kept, predicted: list[list[tuple[int, ...]]]
) -> Mismatch | None:
    """The first difference between the small network and what the labels say, over all recordings."""
    for run, shapes in zip(net.runs, predicted, strict=True):
        again = record(small, net.inputs, training=run.recording.training, real=run.recording.real)
        found = prove(net, run, again, shapes, keep, kept)
        if found is not None:
            return found
    return None
