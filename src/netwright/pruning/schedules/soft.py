"""Soft pruning: what would be pruned is shrunk or penalised a little, and chosen anew after every step.

J. Wang, H. Wang, Y. Zhang, Y. Fu and Z. Tao, Iterative Soft Shrinkage Learning for Efficient Image
Super-Resolution, ICCV 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.allocations.choosing import Allocations
from netwright.pruning.allocations.layerwise import Layers, layer_counts
from netwright.pruning.importances.elements import Context, scores_of
from netwright.pruning.importances.importance import find_elements
from netwright.pruning.masks.existing import existing
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.masks.selection import Masks


@torch.no_grad()
def shrink_(masks: MaskState, chosen: Mapping[str, Tensor], alpha: float) -> None:
    """Multiply what is not chosen by `alpha`: a fixed share of each weight's own size goes.

    Args:
        masks: Of the network.
        chosen: Weight -> bool mask of what stays as it is.
        alpha: 0 makes zeros, 1 changes nothing.
    """
    for name, stays in chosen.items():
        weight = masks.parameter(name)
        weight.copy_(torch.where(stays, weight, weight * alpha))


class GrowingPenalty:
    """A quadratic penalty that grows on what would be pruned.

    Attributes:
        factors: Weight -> factor of every element; the gradient gets the factor times the weight.
    """

    def __init__(self) -> None:
        self.factors: dict[str, Tensor] = {}

    def grow(self, chosen: Mapping[str, Tensor], step: float, limit: float) -> None:
        """Add `step` to the factors of what is not chosen, up to `limit`."""
        for name, stays in chosen.items():
            present = self.factors.get(name)
            if present is None:
                present = torch.zeros(stays.shape, device=stays.device)
            self.factors[name] = (present.to(stays.device) + step * ~stays).clamp_(max=limit)

    @torch.no_grad()
    def add_(self, masks: MaskState) -> None:
        """Add the penalty's gradient to the gradients."""
        for name, factor in self.factors.items():
            weight = masks.parameter(name)
            if weight.grad is not None:
                weight.grad.add_(factor.to(weight.dtype) * weight)


def sampled_masks(
    model: nn.Module,
    names: Sequence[str],
    keep: float,
    share: float,
    *,
    importance: Any = "magnitude",
    allocation: Allocations = "uniform",
    context: Context | None = None,
) -> Masks:
    """Choose what stays by a threshold a layer, taken from a random share of its scores.

    The counts are those of the allocation up to the error of the sample; a full sort is exact, see `choose`.

    Args:
        model: The network.
        names: Weights, as of `prunable_weights`.
        keep: Share of all that stays.
        share: Share of each layer's weights that is looked at, at least one.
        importance: A name or an `ElementImportance`.
        allocation: One that looks at no scores.
        context: Seed and more for the importance.

    Raises:
        UsageError: if the share is none, or the allocation is "global".
    """
    if not 0 < share <= 1:
        raise UsageError(f"a share of {share:g} gives no thresholds", "give a share above 0, at most 1")
    if allocation == "global":
        raise UsageError("one threshold over all layers is not sampled", 'take allocation="uniform"')
    context = context or Context(keep=keep)
    scores = scores_of(find_elements(importance), model, names, context)
    there = existing(model, names)
    sizes = {n: int(m.sum()) for n, m in there.items()}
    counts = layer_counts(Layers({n: s.shape for n, s in scores.items()}, counts=sizes), keep, allocation)
    generator = torch.Generator().manual_seed(context.seed)
    found = {}
    for name, one in scores.items():
        flat, kept = one[there[name]] if name in there else one.reshape(-1), counts[name]
        seen = max(math.ceil(share * len(flat)), 1)
        picked = flat[torch.randint(len(flat), (seen,), generator=generator).to(flat.device)]
        goes = round(seen * (1 - kept / len(flat)))
        limit = torch.kthvalue(picked, goes).values if goes else picked.min() - 1
        found[name] = one > limit if name not in there else (one > limit) & there[name]
    return found
