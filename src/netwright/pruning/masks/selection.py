"""Choosing masks: exactly so many units, of equal ones the first in order; never by a bare threshold.

Scores that tie are common (zeros of dead units, constant initialisations); what compares with a threshold
then keeps too many or too few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from netwright.errors import BudgetError, UsageError

#: Parameter -> bool mask of its shape; True stays.
Masks = dict[str, Tensor]


def top_k(scores: Tensor, count: int) -> Tensor:
    """A mask of exactly the `count` highest scores; of equal ones the first in order stays.

    Args:
        scores: Any shape; -inf marks what can never stay before anything else.
        count: How many, 0 to all.

    Returns:
        Bool, of the scores' shape.

    Raises:
        UsageError: if there are fewer scores than that, or one is not a number.
    """
    flat = scores.detach().reshape(-1)
    if not 0 <= count <= len(flat):
        raise UsageError(f"{count} of {len(flat)} cannot be kept", "keep at least none, at most all")
    if bool(torch.isnan(flat).any()):
        raise UsageError("a score is not a number", "are the weights and the gradients finite?")
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = torch.kthvalue(flat, len(flat) - count + 1).values
    chosen = flat > threshold
    ties = (flat == threshold).nonzero().reshape(-1)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.reshape(scores.shape)


def top_masks(scores: Mapping[str, Tensor], count: int) -> Masks:
    """Keep exactly the `count` highest of all scores together; of equal ones the first in order stays.

    Args:
        scores: Layer's weight -> scores of its shape.
        count: How many stay.

    Raises:
        UsageError: if there are fewer scores than that, or one is not a number.
    """
    if count <= 0:
        raise UsageError(f"{count} weights cannot be kept", "keep at least one")
    chosen = top_k(torch.cat([s.detach().reshape(-1) for s in scores.values()]), count)
    parts = chosen.split([s.numel() for s in scores.values()])
    return {name: part.reshape(s.shape) for (name, s), part in zip(scores.items(), parts, strict=True)}


def layer_masks(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Masks:
    """Keep exactly so many of each layer, the highest scores."""
    return {name: top_k(s, counts[name]) for name, s in scores.items()}


def whole_counts(shares: Sequence[float], sizes: Sequence[int], total: int, *, least: int = 0) -> list[int]:
    """Whole numbers near ``share * size`` that sum to `total`, by largest remainders.

    Args:
        shares: The share of each layer, in 0..1.
        sizes: Units of each layer.
        total: What the counts sum to.
        least: No layer gets fewer than this, as far as its size and the total allow.

    Raises:
        BudgetError: if so many units do not exist.
    """
    if not 0 <= total <= sum(sizes):
        raise BudgetError(f"{total} of {sum(sizes)} weights cannot stay", "give a share above 0, at most 1")
    wanted = [
        min(max(share * size, min(least, size)), size) for share, size in zip(shares, sizes, strict=True)
    ]
    counts = [math.floor(w + 1e-9) for w in wanted]
    left = total - sum(counts)
    # The first round follows the remainders; further ones meet a total that the shares do not sum to.
    order = sorted(range(len(sizes)), key=lambda k: (counts[k] - wanted[k], k))
    while left:
        step = 1 if left > 0 else -1
        moved = 0
        for k in order if step > 0 else reversed(order):
            low = min(least, sizes[k]) if total >= sum(min(least, s) for s in sizes) else 0
            if left and low <= counts[k] + step <= sizes[k]:
                counts[k] += step
                left -= step
                moved += 1
        if not moved:
            break
    return counts


def densities_of(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of each layer that its mask keeps."""
    return {name: float(mask.double().mean()) for name, mask in masks.items()}


def shuffled(masks: Mapping[str, Tensor], seed: int = 0) -> Masks:
    """Put every mask's elements into a random order within its layer, so that only the counts are left.

    Args:
        masks: Layer's weight -> bool mask.
        seed: Of the order.

    Returns:
        New masks with the same counts.
    """
    generator = torch.Generator().manual_seed(seed)
    mixed = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
        mixed[name] = mask.reshape(-1)[order].reshape(mask.shape)
    return mixed
