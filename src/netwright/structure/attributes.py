"""Attributes that repeat a size: found by what a module handles, not by a list of class names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product
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

#: Layers whose sizes their own parameters decide, and the attributes that hold those.
_STANDARD = (
    nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm,
    nn.Embedding, nn.RNNBase,
)  # fmt: skip
_TYPED = frozenset(
    "in_channels out_channels groups in_features out_features num_features normalized_shape num_channels"
    " embedding_dim num_embeddings input_size hidden_size".split()
)
#: What a parametrization computes a weight of its shape from; of two, the second (a direction, not a length).
_ORIGINALS = ("original", "original1")


def typed_attributes(model: nn.Module, kept: Kept) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sizes of standard layers, which their own parameters decide."""

    def size(path: str, name: str, dim: int) -> int:
        below = f"{path}." if path else ""
        for stored in (name, *(f"parametrizations.{name}.{original}" for original in _ORIGINALS)):
            if dim in kept.get(below + stored, {}):
                return int(kept[below + stored][dim].shape[-1])
        return int(getattr(modules[path], name).shape[dim])

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
            if module.num_groups == module.num_channels:
                values["num_groups"] = values["num_channels"]
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


class Choices:
    """What the attributes that may hold a size could hold in the smaller network.

    A module handles tensors; an integer attribute that equals one of their old sizes probably is that size.
    Where the same number is two sizes, or a size and something else, several values are possible: the first
    is taken until a trial run of the small network stops in that module, then the others are tried.

    Args:
        model: The dense network.
        net: Its structure.
        predicted: Shape of every tensor of the first recording after the surgery.
        typed: Sizes of standard layers, which are no guesses.
    """

    def __init__(
        self, model: nn.Module, net: Structure, predicted: list[tuple[int, ...]], typed: Attributes
    ) -> None:
        self.typed = typed
        self.kinds = {path: type(module) for path, module in model.named_modules()}
        self.options: dict[str, dict[str, list[Any]]] = {}
        self.chosen: dict[str, dict[str, int]] = {}
        self._tried: set[tuple[tuple[str, str, int], ...]] = set()
        sizes, splits = _handled(net, predicted)
        for path, module in model.named_modules():
            found = _options(module, sizes.get(path, {}), splits.get(path, {}), typed.get(path, {}))
            if found:
                self.options[path] = found
                self.chosen[path] = dict.fromkeys(found, 0)
        self._lent: dict[str, list[tuple[str, str]]] = {}
        for path, module in model.named_modules():
            self._lend(path, module, sizes.get(path, {}))

    def _lend(self, path: str, module: nn.Module, sizes: Sizes) -> None:
        """Sizes of a module's own tensors that are written in one of its parts: the last to be tried."""
        for name, part in module.named_children():
            inner = f"{path}.{name}" if path else name
            found = _options(part, sizes, {}, self.typed.get(inner, {}))
            for attribute, values in found.items():
                if attribute not in self.options.get(inner, {}) and type(values[-1]) is int:
                    self.options.setdefault(inner, {})[attribute] = values
                    self.chosen.setdefault(inner, {})[attribute] = len(values) - 1
                    self._lent.setdefault(path, []).append((inner, attribute))

    def attributes(self) -> Attributes:
        """The values chosen now, where they differ from those of the dense network."""
        out: Attributes = {}
        for path, options in self.options.items():
            for name, values in options.items():
                if values[self.chosen[path][name]] != values[-1]:  # the last is the dense value
                    out.setdefault(path, {})[name] = values[self.chosen[path][name]]
        for path, sizes in self.typed.items():
            out[path] = {**out.get(path, {}), **sizes}
        return out

    def alternatives(self, path: str) -> Iterator[dict[str, dict[str, int]]]:
        """Other choices for a module that failed, and for those that it is a part of.

        Modules of one class change together first, then the module alone; few changes come before many.

        Args:
            path: The module in which a trial run stopped.
        """
        while True:
            if path in self.options:
                for change in self._combinations(path):
                    alike = [p for p in self.options if self.kinds[p] is self.kinds[path]]
                    for group in (alike, [path]) if len(alike) > 1 else ([path],):
                        trial = self._with(group, change)
                        if self._new(trial):
                            yield trial
            for inner, attribute in self._lent.get(path, ()):
                for index in range(len(self.options[inner][attribute]) - 1):
                    trial = self._with([inner], {attribute: index})
                    if self._new(trial):
                        yield trial
            if not path:
                return
            path = path.rpartition(".")[0]

    def _new(self, trial: dict[str, dict[str, int]]) -> bool:
        """Whether a trial was not made before; notes it."""
        key = tuple((p, n, i) for p, names in trial.items() for n, i in names.items())
        new = key not in self._tried
        self._tried.add(key)
        return new

    def _combinations(self, path: str) -> Iterator[dict[str, int]]:
        options, chosen = self.options[path], self.chosen[path]
        lent = {attribute for pairs in self._lent.values() for inner, attribute in pairs if inner == path}
        names = [n for n in options if len(options[n]) > 1 and n not in lent]
        for count in range(1, min(3, len(names)) + 1):
            for picked in combinations(names, count):
                ranges = [[i for i in range(len(options[n])) if i != chosen[n]] for n in picked]
                for indices in product(*ranges):
                    yield dict(zip(picked, indices, strict=True))

    def _with(self, paths: list[str], change: dict[str, int]) -> dict[str, dict[str, int]]:
        trial = {p: dict(names) for p, names in self.chosen.items()}
        for path in paths:
            for name, index in change.items():
                if name in trial[path]:
                    trial[path][name] = min(index, len(self.options[path][name]) - 1)
        return trial


#: What the sizes of a split count for beside sizes that tensors merely have.
_WRITTEN = 1_000_000
Sizes = dict[int, Counter[int]]
Splits = dict[tuple[int, ...], tuple[int, ...]]


def _handled(net: Structure, predicted: list[tuple[int, ...]]) -> tuple[dict[str, Sizes], dict[str, Splits]]:
    """By module: what became of every size among its tensors, and of every list of split sizes."""
    recording = net.recording
    sizes: dict[str, Sizes] = {}
    splits: dict[str, Splits] = {}
    seen: dict[tuple[str, tuple[int, ...], tuple[int, ...]], int] = {}  # many tensors of a module are alike

    def note(path: str, number: int) -> None:
        key = (path, recording.shapes[number], predicted[number])
        seen[key] = seen.get(key, 0) + 1

    for node in recording.nodes:
        if node.op == "split_with_sizes":
            dim = node.args[2] if len(node.args) > 2 else 0
            widths = tuple([predicted[number][dim] for number in node.outputs])
            splits.setdefault(node.module, {})[tuple(node.args[1])] = widths
            for old, new in zip(node.args[1], widths, strict=True):  # its sizes are written somewhere
                sizes.setdefault(node.module, {}).setdefault(old, Counter())[new] += _WRITTEN
        for number in node.outputs if node.op in VIEWS else node.outputs[:1]:  # a split has many
            if number >= 0:
                note(node.module, number)
    for name, number in recording.parameters.items():
        note(name.rpartition(".")[0], number)
    for (path, before, after), count in seen.items():
        found = sizes.setdefault(path, {})
        for old, new in zip(before, after, strict=True):
            if old > 1:
                found.setdefault(old, Counter())[new] += count
    return sizes, splits


def _options(module: nn.Module, sizes: Sizes, splits: Splits, typed: dict[str, Any]) -> dict[str, list[Any]]:
    """Attribute -> values that it may hold in the smaller network: the likeliest first, its own last."""
    changing = {old for old, new in sizes.items() if len(new) > 1 or old not in new}
    standard = isinstance(module, _STANDARD) and getattr(module, "weight", 0) is not None
    if not changing and not splits:
        return {}
    found: dict[str, list[Any]] = {}
    for name, value in vars(module).items():
        kind = type(value)
        if kind is not int and kind is not tuple and kind is not list:
            continue
        if name in _SKIP or name.startswith("_") or name in typed or (standard and name in _TYPED):
            continue
        options: list[Any] = []
        if kind is int and value in changing:
            options = _ranked(sizes[value], value)
        elif kind is not int and value and all(type(v) is int for v in value):
            parts = splits.get(tuple(value))
            each = [_ranked(sizes[v], v) if v in changing else [v] for v in value]
            options = [list(parts)] if parts else []
            options += [
                [e[0] for e in each],
                [next((c for c in e if c != v), v) for e, v in zip(each, value, strict=True)],
            ]
            options = [type(value)(o) for o in options]
        if options and any(o != value for o in options):
            unique: list[Any] = []
            for option in [*options, value]:
                if option not in unique:
                    unique.append(option)
            if unique[0] == value:  # its own value comes last, and is what is tried first where it also stays
                found[name] = [value, *unique[1:], value]
            else:
                found[name] = unique
    return found


def _ranked(new: Counter[int], old: int) -> list[int]:
    """The values that a size became: its own first where something of that size stays."""
    written = [n for n, count in new.items() if count >= _WRITTEN]
    if len(written) == 1:
        return written + [n for n, _ in new.most_common() if n not in (written[0], old)] + [old]
    others = [n for n, _ in new.most_common() if n != old]
    return [old, *others] if old in new else [*others, old]
