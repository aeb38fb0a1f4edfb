"""Fixed three-way splits: stratified where there are classes, the same for the same seed everywhere."""

from __future__ import annotations

import torch
from torch import Tensor


def hold_out(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Divide examples into the rest and `count` held out, every class by its share.

    A class of two or more examples keeps at least one in the rest.

    Args:
        labels: (N,); examples without a class all have the same number. Other than one number an example
            (dense labels) is not stratified.
        count: How many to hold out, at most N.
        seed: Of the draw.

    Returns:
        Positions (N - count,) and (count,), each in a random order.
    """
    generator = torch.Generator().manual_seed(seed)
    total = len(labels)
    count = min(max(count, 0), total)
    classes = labels if labels.dim() == 1 else torch.zeros(total, dtype=torch.long)
    _, inverse, sizes = classes.unique(return_inverse=True, return_counts=True)
    quota = sizes.double() * count / max(total, 1)
    take = torch.minimum(quota.floor().long(), (sizes - 1).clamp_min(0)) if count < total else sizes.clone()
    # What rounding down left over goes to the classes with the largest remainders that can spare one.
    while int(take.sum()) < count:
        spare = sizes - take - (1 if bool((sizes - take > 1).any()) else 0)
        lacking = torch.where(spare > 0, quota - take, torch.full_like(quota, -torch.inf))
        take[int(lacking.argmax())] += 1
    order = torch.randperm(total, generator=generator)
    by_class = order[inverse[order].argsort(stable=True)]
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty(total, dtype=torch.long)
    rank[by_class] = torch.arange(total) - starts[inverse[by_class]]
    held = rank[order] < take[inverse[order]]
    return order[~held], order[held]


def three_way(labels: Tensor, fractions: tuple[float, float], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Divide examples into train, validation and test.

    Args:
        labels: (N,).
        fractions: Shares of validation and test.
        seed: Of the draw.

    Returns:
        Positions of the three.
    """
    rest, test = hold_out(labels, share(len(labels), fractions[1]), seed)
    train, val = hold_out(labels[rest], share(len(labels), fractions[0]), seed + 1)
    return rest[train], rest[val], test


def share(count: int, fraction: float) -> int:
    """Return a share of a number, at least one."""
    return max(1, round(count * fraction))
