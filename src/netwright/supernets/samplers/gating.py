"""A policy laid over the full network as gates: what it leaves out is zeroed, gradients reach all values.

A policy over widths times the matrix of their prefixes is a gate a channel (ShiftNAS' mapping matrix). Each
gate acts once on the way from what makes a channel to what reads it: gates that met twice would have no
gradient where they are 0. With one-hot policies the output is the slice's; the gradient says what each value
would have done, so that a loss trains whatever made the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.binding import Places, Plan
from netwright.supernets.network.blueprint import Blueprint
from netwright.supernets.network.dims import Depth, OneOf, Presence
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.factors import memberships, middle_factor
from netwright.supernets.network.labelled import Site, Sites, spread
from netwright.supernets.network.masking import override_forward
from netwright.supernets.network.mixing import Mixing, _summed
from netwright.supernets.samplers.base import Draw


class Gating:
    """Runs gated networks of one supernet.

    Args:
        sup: The supernet.

    Raises:
        UsageError: if every choice is a graph of its own, or a normalisation over channels is not known.
    """

    def __init__(self, sup: Elastic) -> None:
        self.blueprint: Blueprint = sup.blueprint
        self._mixing = Mixing(sup.network, sup.blueprint, sup.places)
        sites = Sites(sup.network, sup.blueprint.structure, ~sup.blueprint.least).found
        self._sites = [s for s in sites if s.takes is not None and _reads(s, sup.places.modules[s.path])]
        for site in self._sites:
            module = sup.places.modules[site.path]
            if site.kind == "norm" and not isinstance(module, nn.LayerNorm):
                raise UsageError(
                    f"gates do not know {type(module).__name__} at {site.path}",
                    "use batch or layer normalisation, or draw without gates",
                )

    @contextmanager
    def laid(self, places: Places, policies: Mapping[str, Tensor]) -> Iterator[None]:
        """Let a network run gated.

        Args:
            places: Of the network.
            policies: Name of a dim -> (values,) weights; dims that are left out are as large as they can be.
        """
        given = self._mixing.check(policies)
        gates = self._gates(given)
        undo: list[Callable[[], None]] = []
        tensors = {}
        try:
            for site in self._sites:
                module = places.modules[site.path]
                gate = spread(gates, site.takes, 1) if site.takes is not None else gates
                override_forward(module, _gated(site, module, gate), undo)
            for depth in self.blueprint.depths:
                for path, keeps in _keeping(depth, given[depth.name]):
                    override_forward(places.modules[path], _skippable(places, path, keeps), undo)
            for operation in self.blueprint.operations:
                place = places.modules[operation.path]
                assert isinstance(place, OneOf)
                override_forward(place, _summed(place, operation, given[operation.name]), undo)
            for kernel in self.blueprint.kernels:
                weight = places.read(f"{kernel.path}.weight")
                middle = middle_factor(kernel, given[kernel.name], weight.dim() - 2)
                tensors[f"{kernel.path}.weight"] = weight * middle.to(weight)
            with places.laid(Plan(), tensors):
                yield
        finally:
            for back in reversed(undo):
                back()

    def _gates(self, policies: Mapping[str, Tensor]) -> Tensor:
        """(count,) the gate of every class of channels."""
        net = self.blueprint.structure
        gates = torch.ones(net.count)
        for axis, factor in memberships(self.blueprint, policies).items():
            gates = gates.to(factor.device, factor.dtype)
            for part in net.axes[axis].parts:
                gates = gates.index_put((part.to(factor.device),), factor[: len(part)])
        return gates


@dataclass(frozen=True)
class Gated(Draw):
    """A pass through the full network with the gates of a policy.

    Attributes:
        chosen: The sub-network that the gates leave; `choices` holds what is computed, the full network.
        policies: Name of a dim -> (values,) one-hot weights with the gradient of what made them.
        gating: Lays them.
    """

    chosen: Choice | None = None
    policies: Mapping[str, Tensor] = field(default_factory=dict)
    gating: Gating | None = None

    def apply(self, sup: Elastic, batch: int, device: Any = None) -> None:
        """Set a supernet to it."""
        assert self.gating is not None
        gating, policies = self.gating, self.policies
        sup.lay(self.choice, lambda: gating.laid(sup.places, policies))


def _reads(site: Site, module: nn.Module) -> bool:
    """Whether a module mixes the channels that it takes; others leave each to itself."""
    if site.kind == "batch norm":
        return False
    if site.kind == "norm" or getattr(module, "groups", 1) == 1:
        return True
    assert site.takes is not None
    return site.gives is None or not torch.equal(site.takes.reshape(-1), site.gives.reshape(-1))


def _gated(site: Site, module: nn.Module, gate: Tensor) -> Callable[..., Any]:
    inner = type(module).forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        g = gate.to(x.device, x.dtype)
        if site.kind == "norm":
            assert isinstance(module, nn.LayerNorm)
            return gated_layer_norm(x, g, module.weight, module.bias, module.eps)
        return inner(module, x * g, *args, **kwargs)

    return forward


def gated_layer_norm(
    x: Tensor, gate: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Layer normalisation whose statistics weigh channels by gates; its output is not gated.

    Args:
        x: (..., C).
        gate: Broadcasts to `x`.
        weight: (C,) or None.
        bias: (C,) or None.
        eps: Added to the variance.

    Returns:
        As `x`.
    """
    total = gate.sum(dim=-1, keepdim=True)
    mean = (x * gate).sum(dim=-1, keepdim=True) / total
    variance = ((x - mean).square() * gate).sum(dim=-1, keepdim=True) / total
    out = (x - mean) * torch.rsqrt(variance + eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _keeping(depth: Depth | Presence, policy: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Blocks that can be skipped, and how much of each runs."""
    if isinstance(depth, Presence):
        yield depth.block, policy[1]
        return
    for position, path in enumerate(depth.stage.blocks):
        runs = [value > depth.stage.fixed + position for value in depth.values]
        if not all(runs):
            yield path, (policy * torch.tensor(runs, device=policy.device)).sum()


def _skippable(places: Places, path: str, keeps: Tensor) -> Callable[..., Any]:
    module, skip = places.modules[path], places.skips[path]
    inner = type(module).forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        def mixed(new: Any, old: Any) -> Any:
            if not isinstance(new, Tensor) or not new.is_floating_point():
                return new
            return keeps.to(new) * new + (1 - keeps.to(new)) * old

        return pytree.tree_map(mixed, inner(module, *args, **kwargs), skip(*args, **kwargs))

    return forward
