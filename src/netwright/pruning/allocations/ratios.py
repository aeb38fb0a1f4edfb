"""The layer-wise ratios of another importance, without its choice of weights: "SNIP ratio", "GraSP ratio"."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from netwright.pruning.allocations.layerwise import LayerAllocation, from_scores
from netwright.pruning.importances.elements import Context, scores_of
from netwright.pruning.importances.importance import find_elements
from netwright.pruning.statistics.examples import Examples


def ratios(
    importance: Any,
    model: nn.Module,
    names: Sequence[str],
    examples: Examples | None = None,
    *,
    xavier: bool = True,
    seed: int = 0,
) -> LayerAllocation:
    """An allocation: the shares that an importance would leave of each layer under one threshold.

    S. Liu et al., The Unreasonable Effectiveness of Random Pruning, ICLR 2022, section 3: the scores are
    those of fresh weights, and only the counts of the layers are kept of them.

    Args:
        importance: A name, such as "snip" or "grasp", or an `ElementImportance`.
        model: The network; it is not changed.
        names: Weights, as of `prunable_weights`.
        examples: What the importance looks at.
        xavier: Score weights drawn anew from Xavier's normal distribution, as the paper's code does, instead
            of those that there are.
        seed: Of that draw.
    """
    scored = copy.deepcopy(model)
    if xavier:
        parameters = dict(scored.named_parameters())
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name in names:
                fresh = torch.empty(parameters[name].shape)
                nn.init.xavier_normal_(fresh, generator=generator)
                parameters[name].copy_(fresh)
    return from_scores(scores_of(find_elements(importance), scored, names, Context(examples, seed=seed)))
