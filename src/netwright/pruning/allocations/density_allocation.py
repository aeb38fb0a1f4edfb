"""Allocations of channels by the densities of layers: ER, ERK, other scores' ratios, the convex programme.

A density is realised by the widths at both ends of a layer (see `crop_widths`). One parameter, the share of
all weights or a common factor, makes a family of widths, of which the largest that fits the budget is taken;
so they meet budgets of any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import BudgetError, UsageError
from netwright.pruning.allocations.allocation import Allocation, list_allocations
from netwright.pruning.allocations.choosing import FROM
from netwright.pruning.allocations.crop_widths import convex_widths, widths_of_densities
from netwright.pruning.allocations.layerwise import (
    Layers,
    find_layer_allocation,
    layer_counts,
    list_layer_allocations,
)
from netwright.pruning.allocations.widths import Widths
from netwright.pruning.importances.densities import layer_names, synflow_densities
from netwright.pruning.importances.elements import Context, scores_of
from netwright.pruning.importances.importance import find_elements
from netwright.pruning.masks.selection import top_masks
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Budget, Structure

_HALVINGS = 24
#: What `prune(allocation=...)` takes: a name, densities of the weights, or a function as it is registered.
ChannelAllocations = str | Mapping[str, float] | Allocation


@dataclass(frozen=True)
class ByDensity:
    """The largest widths of a family that fit, as an `Allocation`.

    Attributes:
        name: For messages.
        wanted: Setting -> widths (A,) in 0..1, growing with the setting; raises BudgetError below the
            smallest it can do.
        highest: The setting at which the family ends.
    """

    name: str
    wanted: Callable[[float], Tensor]
    highest: float = 1.0

    def __call__(
        self, widths: Widths, steps: Tensor, least: Tensor, fits: Callable[[Tensor], bool]
    ) -> Tensor:
        """Counts (A,) that fit.

        Raises:
            BudgetError: if no member of the family does.
        """
        low, high, best = 0.0, self.highest, None
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            try:
                counts = self.at(middle, widths, steps, least)
            except BudgetError:
                low = middle
                continue
            if fits(counts):
                low, best = middle, counts
            else:
                high = middle
        if best is None:
            raise BudgetError(
                f"the smallest network that allocation {self.name!r} makes is larger than the budget",
                'take allocation="uniform" or "global"',
            )
        return best

    def at(self, setting: float, widths: Widths, steps: Tensor, least: Tensor) -> Tensor:
        """Counts (A,) at a setting."""
        return widths.rounded(widths.sizes * self.wanted(setting), steps, least)

    def exact(self, widths: Widths) -> Tensor:
        """Counts (A,) of the widths themselves, where there is no budget besides."""
        one = torch.ones_like(widths.sizes)
        return self.at(1.0, widths, one, one)


def names() -> list[str]:
    """Names of all allocations of channels, in alphabetical order."""
    layers = [n for n in list_layer_allocations() if n not in list_allocations()]
    return sorted([*list_allocations(), *layers, "convex", FROM + "scores"])


def check_allocation(allocation: ChannelAllocations) -> None:
    """Refuse what is no allocation of channels.

    Raises:
        UsageError: saying which there are.
    """
    if isinstance(allocation, Mapping) or callable(allocation):
        return
    if isinstance(allocation, str):
        if allocation in names():
            return
        if allocation.startswith(FROM):
            find_elements(allocation.removeprefix(FROM))
            return
    raise UsageError(
        f"there is no allocation {allocation!r}",
        f'choose from {", ".join(names())}, "from-snip" and the like, or give the densities of the weights',
    )


def resolve(
    allocation: ChannelAllocations,
    net: Structure,
    model: nn.Module,
    importance: Any,
    examples: Examples,
    budget: Budget | None,
) -> str | Allocation:
    """The allocation of one network: a registered name, or a function.

    Args:
        allocation: As `prune` takes it.
        net: The structure.
        model: The network.
        importance: The run's, whose densities ``from-scores`` takes.
        examples: Data for it.
        budget: The limits, which the convex programme looks at.

    Raises:
        UsageError: if the densities or the budget do not suit the allocation.
    """
    if isinstance(allocation, str) and allocation in list_allocations():
        return allocation
    if isinstance(allocation, Mapping):
        unknown = set(allocation) - set(layer_names(net))
        if unknown:
            raise UsageError(
                f"{sorted(unknown)[0]!r} is no weight of a layer", f"these are: {layer_names(net)[:4]} ..."
            )
        shares = {n: float(allocation.get(n, 1.0)) for n in layer_names(net)}
        return _scaled("the given densities", net, widths_of_densities(net, shares))
    if not isinstance(allocation, str):
        return allocation
    if allocation == "convex":
        if budget is None or set(budget.limits) - {"params", "macs"}:
            raise UsageError(
                "the convex programme has limits of params and macs, no others",
                'give budget="params=0.25", or take allocation="erk"',
            )
        return _scaled("convex", net, convex_widths(net, model, budget).widths)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shapes = {n: parameters[n].shape for n in layer_names(net)}
    if not allocation.startswith(FROM):
        layers, family = Layers(shapes), find_layer_allocation(allocation)
        return ByDensity(allocation, _at_share(net, layers, lambda p: layer_counts(layers, p, family)))
    source = importance if allocation == FROM + "scores" else allocation.removeprefix(FROM)
    if source == "synflow":
        # In its many rounds, since a single one would remove whole layers; so once, for the budget's share.
        densities = synflow_densities(net, model, _share(net, budget))
        return _scaled(allocation, net, widths_of_densities(net, densities))
    counts = _counts_of(source, net, model, list(shapes), examples)
    return ByDensity(allocation, _at_share(net, Layers(shapes), counts))


def _at_share(
    net: Structure, layers: Layers, counts: Callable[[float], Mapping[str, int]]
) -> Callable[[float], Tensor]:
    """Widths (A,) as a function of the share of all weights that stays."""
    sizes = dict(zip(layers.names, layers.sizes, strict=True))
    total = sum(layers.sizes)

    def wanted(share: float) -> Tensor:
        found = counts(max(share, 1 / total))
        return _on_axes(net, widths_of_densities(net, {n: found[n] / sizes[n] for n in sizes}))

    return wanted


def _counts_of(
    importance: Any, net: Structure, model: nn.Module, names: list[str], examples: Examples
) -> Callable[[float], Mapping[str, int]]:
    """How many single weights of each layer one threshold of an importance leaves, by the share of all."""
    elements = find_elements(importance)
    if elements.needs != "nothing" and not examples:
        raise UsageError(f"importance {elements.name!r} looks at data", "give data=")
    scores = scores_of(elements, model, names, Context(examples, seed=examples.seed))
    total = sum(s.numel() for s in scores.values())

    def threshold(share: float) -> dict[str, int]:
        masks = top_masks(scores, max(round(share * total), 1))
        return {n: int(m.sum()) for n, m in masks.items()}

    return threshold


def _share(net: Structure, budget: Budget | None) -> float:
    """About the share of all weights that a budget leaves; a share of units counts at both ends."""
    shares = []
    for name, limit in (budget.limits if budget is not None else {}).items():
        dense = float(getattr(net, name)) if name in ("params", "macs") else 1.0
        share = limit.value if limit.relative else limit.value / dense if dense > 1 else 1.0
        shares.append(share**2 if name == "keep" else share)
    return min([s for s in shares if 0 < s < 1], default=0.5)


def _scaled(name: str, net: Structure, widths: Mapping[str, float]) -> ByDensity:
    """Given widths, all multiplied by the setting."""
    base = _on_axes(net, widths)
    highest = float(1 / base.min()) if len(base) else 1.0
    return ByDensity(name, lambda factor: (base * factor).clamp(max=1.0), highest)


def _on_axes(net: Structure, widths: Mapping[str, float]) -> Tensor:
    return torch.tensor([widths[axis.name] for axis in net.prunable], dtype=torch.float64)
