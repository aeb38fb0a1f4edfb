"""Attributes that repeat a size: found by what a module handles, not by a list of class names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from netwright.structure.cost import VIEWS
from netwright.structure.tracing import Structure

Kept = dict[str, dict[int, Any]]
#: Module path -> {attribute: value}.
Attributes = dict[str, dict[str, Any]]
#: Attributes that are sizes of something else than an axis.
_SKIP = frozenset(
    "kernel_size stride padding dilation output_padding num_groups num_layers training eps momentum".split()
)


def typed_attributes(model: nn.Module, kept: Kept) -> Iterator[tuple[str, dict[str, Any]]]:
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


def generic_attributes(
    model: nn.Module, net: Structure, predicted: list[tuple[int, ...]], variant: str
) -> Attributes:
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


def merge_attributes(typed: Attributes, generic: Attributes) -> Attributes:
    """Typed sizes win over guesses; attributes of typed modules that are no size of theirs are left alone."""
    out = {path: dict(values) for path, values in generic.items()}
    for path, values in typed.items():
        out[path] = {**out.get(path, {}), **values}
    return out
