"""How layers on one stream agree which of its channels go: the conservative vote of MaskSparsity.

A channel goes if at least i layers ask for it, with i the largest number for which as many channels go as the
most modest layer asks for: N.-F. Jiang, X. Zhao, C.-Y. Zhao, Y.-Q. An, M. Tang and J.-Q. Wang, Pruning-aware
Sparse Regularization for Network Pruning (MaskSparsity), 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor


def agree(asked: Tensor) -> Tensor:
    """The channels that the layers give up together.

    Args:
        asked: (L, C) bool, what each layer asks to remove.

    Returns:
        (C,) bool.
    """
    return conceded_at((~asked).double()) == 0


def conceded_at(scores: Tensor) -> Tensor:
    """The threshold at which the layers of a stream first agree to remove a channel, (C,).

    At a threshold t every layer asks for the removal of what is not above it, and they `agree`.

    Args:
        scores: (L, C) what each layer gives each channel.

    Returns:
        (C,) for the scores of a single layer, these scores.
    """
    layers = len(scores)
    ranked = scores.sort(dim=0).values  # (L, C): the i-th row is what i layers do not exceed
    times = scores.reshape(-1).unique()  # (T,) ascending
    asked = torch.searchsorted(scores.sort(dim=1).values, times.expand(layers, -1).contiguous(), right=True)
    gone = torch.searchsorted(ranked.sort(dim=1).values, times.expand(layers, -1).contiguous(), right=True)
    enough = gone >= asked.min(dim=0).values  # (L, T); true in the first row, falls with i
    needed = enough.sum(dim=0) - 1  # (T,) row of the votes that are needed
    first = torch.full_like(scores[0], torch.inf)
    for i in range(layers):
        when = times[needed == i]
        at = torch.searchsorted(when, ranked[i].contiguous())  # the first such time that is not below
        reached = at < len(when)
        if len(when):
            first = torch.where(reached, torch.minimum(first, when[at.clamp(max=len(when) - 1)]), first)
    return first
