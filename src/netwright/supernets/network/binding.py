"""One choice laid over a network for a forward pass: slices of its own parameters, sizes, skipped blocks.

The network keeps its parameters; while a pass runs, its modules hold views of their leading parts instead, so
that gradients reach the parameters and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.structure.sizes import index_maps, take
from netwright.supernets.network.blueprint import Blueprint
from netwright.supernets.network.dims import Kernel
from netwright.supernets.network.pooling import put as put_pooling

#: What stays along one dimension: that many leading indices, or indices (n,) or (blocks, n).
Part = int | Tensor
#: What stays of a tensor, by dimension.
Cut = tuple[tuple[int, Part], ...]


@dataclass(frozen=True)
class Plan:
    """What a choice does to a network.

    Attributes:
        cuts: Parameter or buffer -> what stays of it.
        crops: Parameter -> size of the middle of its kernel.
        attributes: (module, attribute, value) that the widths decide.
        resized: Likewise, that the sizes of kernels decide.
        skips: Paths of blocks that do not run.
        active: Path of a `OneOf` -> candidate.
        pools: Paths of the layers that a pooling stands in front of.
    """

    cuts: Mapping[str, Cut] = field(default_factory=dict)
    crops: Mapping[str, int] = field(default_factory=dict)
    attributes: tuple[tuple[str, str, Any], ...] = ()
    resized: tuple[tuple[str, str, Any], ...] = ()
    skips: tuple[str, ...] = ()
    active: Mapping[str, str] = field(default_factory=dict)
    pools: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the network runs as it is."""
        changes = (self.cuts, self.crops, self.attributes, self.resized, self.skips, self.active, self.pools)
        return not any(changes)


class Planner:
    """From choices to plans; what many choices have in common is worked out once.

    Args:
        blueprint: Of the supernet.
        convolutions: Path of every convolution with an elastic kernel -> (padding, dilation).
    """

    def __init__(
        self, blueprint: Blueprint, convolutions: Mapping[str, tuple[Any, tuple[int, ...]]] | None = None
    ) -> None:
        self.blueprint = blueprint
        self._convolutions = dict(convolutions or {})
        self._known: dict[tuple[int, int, tuple[int, ...]], Part | None] = {}
        self._layers = self._elastic_layers()

    @classmethod
    def of(cls, network: nn.Module, blueprint: Blueprint) -> Planner:
        """A planner that knows the convolutions of a network.

        Args:
            network: The full network.
            blueprint: Of the supernet.
        """
        found: dict[str, tuple[Any, tuple[int, ...]]] = {}
        for kernel in blueprint.kernels:
            module = network.get_submodule(kernel.path)
            assert isinstance(module, nn.modules.conv._ConvNd)
            found[kernel.path] = (module.padding, module.dilation)
        return cls(blueprint, found)

    def __deepcopy__(self, memo: dict[int, Any]) -> Planner:
        return self

    def _elastic_layers(self) -> list[tuple[str, int, Tensor, tuple[int, ...]]]:
        """(parameter, dimension, its labels, positions of the axes it lies on) for all that may shrink."""
        blueprint = self.blueprint
        net = blueprint.structure
        axis_of = np.full(net.count, -1, np.int64)
        for position, axis in enumerate(blueprint.elastic_axes):
            axis_of[net.axes[axis].cells.numpy().ravel()] = position
        met: dict[int, tuple[int, ...]] = {}
        found = []
        for name, dims in net.layers.items():
            for dim, layer in dims.items():
                if id(layer) not in met:
                    met[id(layer)] = tuple(
                        int(a) for a in np.unique(axis_of[layer.numpy().ravel()]) if a >= 0
                    )
                if met[id(layer)]:
                    found.append((name, dim, layer, met[id(layer)]))
        return found

    def plan(self, choice: Mapping[str, Any]) -> Plan:
        """What a choice does.

        Args:
            choice: A choice of the blueprint's space.
        """
        blueprint = self.blueprint
        levels = blueprint.levels(choice)
        cuts = self._cuts(levels)
        attributes: list[tuple[str, str, Any]] = []
        if cuts and blueprint.rules:
            keep = blueprint.kept(levels)
            counts = blueprint.structure.sizes.counts(keep.numpy())
            attributes += [(rule.path, rule.name, rule.at(counts)) for rule in blueprint.rules]
        crops: dict[str, int] = {}
        resized: list[tuple[str, str, Any]] = []
        for kernel, size in blueprint.cropped(choice):
            crops[f"{kernel.path}.weight"] = size
            resized += self._resized(kernel, size)
        active = {o.path: choice[o.name] for o in blueprint.operations}
        skips, pools = tuple(blueprint.skipped(choice)), blueprint.pooled(choice)
        return Plan(cuts, crops, tuple(attributes), tuple(resized), skips, active, pools)

    def _cuts(self, levels: tuple[int, ...]) -> dict[str, Cut]:
        keep: Tensor | None = None
        cuts: dict[str, Cut] = {}
        for name, dim, layer, axes in self._layers:
            key = (id(layer), dim, tuple([levels[a] for a in axes]))
            if key not in self._known:
                keep = self.blueprint.kept(levels) if keep is None else keep
                self._known[key] = _part(layer, dim, keep)
            part = self._known[key]
            if part is not None:
                cuts[name] = (*cuts.get(name, ()), (dim, part))
        return cuts

    def _resized(self, kernel: Kernel, size: int) -> Iterator[tuple[str, str, Any]]:
        padding, dilation = self._convolutions[kernel.path]
        yield kernel.path, "kernel_size", (size,) * len(dilation)
        if not isinstance(padding, str):
            less = (kernel.full - size) // 2
            yield kernel.path, "padding", tuple(p - d * less for p, d in zip(padding, dilation, strict=True))


def _part(layer: Tensor, dim: int, keep: Tensor) -> Part | None:
    """What stays along a dimension, a length where it is a prefix; None where everything stays."""
    index = index_maps({"": {dim: layer}}, keep).get("", {}).get(dim)
    if index is None:
        return None
    if index.dim() == 1 and int(index[-1]) == len(index) - 1:
        return len(index)
    return index


def cut(tensor: Tensor, dims: Cut) -> Tensor:
    """The part of a tensor that stays: a view where it is a prefix.

    Args:
        tensor: A parameter or buffer.
        dims: What stays, by dimension.
    """
    if any(not isinstance(part, int) and part.dim() == 2 for _, part in dims):
        whole = {d: torch.arange(p) if isinstance(p, int) else p for d, p in dims}
        return take(tensor, whole)
    for dim, part in dims:
        if isinstance(part, int):
            tensor = tensor.narrow(dim, 0, part)
        else:
            tensor = tensor.index_select(dim, part.to(tensor.device))
    return tensor


class Places:
    """Where a network holds its tensors, attributes and blocks, so that others can stand there for a while.

    Args:
        network: The supernet's network.
        skips: Path of a block -> what takes its place.
    """

    def __init__(self, network: nn.Module, skips: Mapping[str, nn.Module]) -> None:
        self.modules = dict(network.named_modules())
        self.skips = skips
        self.tensors: dict[str, list[tuple[nn.Module, str, str]]] = {}
        by_tensor: dict[int, list[tuple[nn.Module, str, str]]] = {}
        for path, module in network.named_modules():
            for table in ("_parameters", "_buffers"):
                for key, tensor in getattr(module, table).items():
                    if tensor is not None:
                        places = by_tensor.setdefault(id(tensor), [])
                        places.append((module, table, key))
                        self.tensors[f"{path}.{key}" if path else key] = places
        self.recurrent = [m for m in self.modules.values() if isinstance(m, nn.RNNBase)]

    def read(self, name: str) -> Tensor:
        """The tensor that lies at a name now.

        Args:
            name: Of a parameter or buffer.
        """
        module, table, key = self.tensors[name][0]
        found: Tensor = getattr(module, table)[key]
        return found

    @contextmanager
    def laid(self, plan: Plan, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the network run as a plan says.

        Args:
            plan: What changes.
            tensors: Parameter or buffer -> what stands in its place.
        """
        undo: list[Callable[[], None]] = []
        try:
            for name, tensor in tensors.items():
                for module, table, key in self.tensors[name]:
                    _put(getattr(module, table), key, tensor, undo)
            for module in self.recurrent if tensors else ():
                _put(
                    module.__dict__,
                    "_flat_weights",
                    [getattr(module, n) for n in module._flat_weights_names],
                    undo,
                )
            for path, name, value in (*plan.attributes, *plan.resized):
                _put(self.modules[path].__dict__, name, value, undo)
            for path, candidate in plan.active.items():
                _put(self.modules[path].__dict__, "active", candidate, undo)
            for path in plan.skips:
                parent, _, key = path.rpartition(".")
                _put(self.modules[parent]._modules, key, self.skips[path], undo)
            for path in plan.pools:
                put_pooling(self.modules[path], undo)
            yield
        finally:
            for back in reversed(undo):
                back()


def places_of(network: nn.Module, blueprint: Blueprint) -> Places:
    """The places of a supernet's network, with what stands in for the blocks that can be skipped.

    Args:
        network: The full network.
        blueprint: Of the supernet.
    """
    skips: dict[str, nn.Module] = {}
    for depth in blueprint.depths:
        skips.update(depth.stage.skips)
    return Places(network, skips)


_MISSING = object()


def _put(table: dict[str, Any], key: str, value: Any, undo: list[Callable[[], None]]) -> None:
    before = table.get(key, _MISSING)
    table[key] = value

    def back() -> None:
        if before is _MISSING:
            del table[key]
        else:
            table[key] = before

    undo.append(back)
