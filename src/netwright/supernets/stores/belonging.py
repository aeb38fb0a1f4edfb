"""Which parameters belong to a value of a dim: what the other values of that dim do not use alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from netwright.structure.thinning import middle
from netwright.supernets.network.binding import cut
from netwright.supernets.network.dims import Depth, Presence
from netwright.supernets.network.elastic import Elastic


@dataclass(frozen=True)
class Belongings:
    """For every dim of a supernet, the parameters that a choice of it decides about.

    A candidate module owns its parameters; a width the parameters that lie on its axes; a kernel the weight
    of its convolution; a depth those of its blocks.

    Args:
        sup: The supernet.
    """

    sup: Elastic

    @cached_property
    def parameters(self) -> dict[str, frozenset[str]]:
        """Name of a dim -> names of all parameters that it decides about."""
        names = [name for name, _ in self.sup.network.named_parameters()]
        blueprint, net = self.sup.blueprint, self.sup.blueprint.structure
        found: dict[str, set[str]] = {dim.name: set() for dim in self.sup.space.free}
        for operation in blueprint.operations:
            found[operation.name] |= _inside(names, f"{operation.path}.candidates")
        for width in blueprint.widths:
            cells = torch.zeros(net.count, dtype=torch.bool)
            for axis in width.axes:
                cells[net.axes[axis].cells.reshape(-1)] = True
            found[width.name] |= {
                name
                for name, dims in net.layers.items()
                if any(bool(cells[layer.reshape(-1)].any()) for layer in dims.values())
            } & set(names)
        for kernel in blueprint.kernels:
            found[kernel.name].add(f"{kernel.path}.weight")
        for depth in blueprint.depths:
            blocks = depth.stage.blocks if isinstance(depth, Depth) else (depth.block,)
            for block in blocks:
                found[depth.name] |= _inside(names, block)
        return {name: frozenset(of) for name, of in found.items()}

    def used(self, dim: str, choice: Mapping[str, Any]) -> frozenset[str]:
        """Names of the parameters of a dim that a choice uses.

        Args:
            dim: Name of the dim.
            choice: A canonical choice of the supernet's space.
        """
        key = (dim, choice[dim])
        if key not in self._used:
            self._used[key] = self._of_value(dim, choice[dim])
        return self._used[key]

    @cached_property
    def _used(self) -> dict[tuple[str, Any], frozenset[str]]:
        return {}

    def _of_value(self, dim: str, value: Any) -> frozenset[str]:
        names = self.parameters[dim]
        for operation in self.sup.blueprint.operations:
            if operation.name == dim:
                paths = [o.path for o in self.sup.blueprint.operations if o.name == dim]
                return frozenset().union(*(_inside(names, f"{p}.candidates.{value}") for p in paths))
        for depth in self.sup.blueprint.depths:
            if depth.name == dim:
                gone = _skipped(depth, value)
                return names - frozenset().union(*(_inside(names, block) for block in gone))
        return names

    def numbers(self, dim: str, choice: Mapping[str, Any]) -> int:
        """How many numbers the parameters of `used` have in the choice's slices.

        Args:
            dim: Name of the dim.
            choice: A canonical choice.
        """
        return sum(t.numel() for t in self.slices(self.used(dim, choice), choice).values())

    def slices(self, names: frozenset[str], choice: Mapping[str, Any]) -> dict[str, Tensor]:
        """The parts of parameters that a choice uses, detached views.

        Args:
            names: Of parameters.
            choice: A canonical choice.
        """
        of = {name: p.detach() for name, p in self.sup.network.named_parameters() if name in names}
        return sliced(self.sup, of, choice)


def sliced(sup: Elastic, tensors: Mapping[str, Tensor], choice: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parts of tensors, of parameters' shapes, that a choice uses: views.

    Args:
        sup: The supernet.
        tensors: Name of a parameter -> tensor of its shape.
        choice: A choice of the supernet's space.
    """
    plan = sup._plan(sup.complete(choice))
    found = {}
    for name, tensor in tensors.items():
        part = cut(tensor, plan.cuts[name]) if name in plan.cuts else tensor
        found[name] = middle(part, plan.crops[name]) if name in plan.crops else part
    return found


def _inside(names: Any, path: str) -> frozenset[str]:
    return frozenset(name for name in names if name.startswith(f"{path}."))


def _skipped(depth: Depth | Presence, value: Any) -> tuple[str, ...]:
    if isinstance(depth, Depth):
        return depth.skipped(value)
    return () if value else (depth.block,)
