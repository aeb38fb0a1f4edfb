"""MaskSparsity: a mask first, then training that makes only what it removes sparse, then removal.

N. Jiang, Z. Zhao, C. Liu et al., Pruning-aware Sparse Regularization for Network Pruning, 2022. The stages
are functions of their own, so that each can be left out or replaced; `mask_sparsity` runs all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from netwright.data import Splits
from netwright.pruning.removal.cut import cut
from netwright.pruning.removal.result import Pruned
from netwright.pruning.removal.scale_masks import mask_from, removed_scales
from netwright.pruning.schedules.penalties import L1, Penalty, ScalePenalty
from netwright.structure import Budget, Structure, trace
from netwright.train import Fitted, Recipe, fit


def sparse_train(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    penalty: Penalty | None = None,
    on: Mapping[str, Tensor] | str = "all",
    device: str | torch.device = "auto",
) -> Fitted:
    """Train on with a penalty on scales.

    Args:
        model: The network; a copy is trained.
        data: Trained on.
        recipe: How.
        penalty: `L1` of strength 5e-4 where None.
        on: Scale -> (C,) bool, which channels are penalised, or "all".
        device: Where.
    """
    return fit(model, data, recipe, device=device, callbacks=[ScalePenalty(on, penalty)])


def mask_sparsity(
    model: nn.Module,
    example: Any,
    budget: Budget | str | float | None,
    data: Splits,
    recipe: Recipe,
    *,
    penalty: Penalty | None = None,
    rule: str = "budget",
    importance: str = "bn-scale",
    tune: Recipe | None = None,
    repair: str = "absorb",
    device: str | torch.device = "auto",
    seed: int = 0,
    exclude: tuple[str, ...] = (),
) -> Pruned:
    """Stages 2 to 6 of MaskSparsity on a trained network.

    Args:
        model: The trained network.
        example: Its input.
        budget: What the mask must meet, where `rule` is "budget".
        data: Trained on.
        recipe: Of each of the two sparse trainings.
        penalty: `L1` of strength 5e-4 where None.
        rule: Where the mask comes from: "budget", "threshold" or "energy"; see `mask_from`.
        importance: With a budget: which; "bn-scale" looks at the globally sparse network, every other one at
            the given network, without a global sparse training.
        tune: Recipe of the fine-tuning after removal; None leaves it out.
        repair: Of the removal.
        device: Where.
        seed: Of what is drawn at random.
        exclude: Names of modules or parameters that are left alone.

    Returns:
        The smaller network and what was done.
    """
    penalty = penalty or L1()
    net = trace(model, example, exclude=exclude)
    source = model
    if rule != "budget" or importance == "bn-scale":
        source = sparse_train(model, data, recipe, penalty, device=device).model.cpu()
    keep = mask_from(net, source, rule, budget=budget, importance=importance, data=data.train, seed=seed)
    return after_mask(
        net, model, keep, data, recipe, penalty=penalty, tune=tune, repair=repair, device=device
    )


def after_mask(
    net: Structure,
    model: nn.Module,
    keep: Tensor,
    data: Splits,
    recipe: Recipe,
    *,
    penalty: Penalty | None = None,
    tune: Recipe | None = None,
    repair: str = "absorb",
    device: str | torch.device = "auto",
) -> Pruned:
    """Stages 4 to 6: penalise what the mask removes, starting from the given weights; remove it; fine-tune.

    Args:
        net: The structure of the network.
        model: The trained network.
        keep: (count,) bool, the classes that stay.
        data: Trained on.
        recipe: Of the sparse training.
        penalty: `L1` of strength 5e-4 where None.
        tune: Recipe of the fine-tuning; None leaves it out.
        repair: Of the removal.
        device: Where.
    """
    on = removed_scales(net, model, keep)
    sparse = sparse_train(model, data, recipe, penalty, on, device).model.cpu()
    pruned = cut(net, sparse, keep, repair=repair, data=data.train)
    if tune is None:
        return pruned
    tuned = fit(pruned.model, data, tune, device=device).model.cpu()
    return dataclasses.replace(
        pruned, model=tuned, notes=[*pruned.notes, f"fine-tuned for {tune.epochs} epochs"]
    )
