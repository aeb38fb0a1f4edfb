"""The optimiser of a recipe, and what an optimiser must not change."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from netwright.train.lars import LARS
from netwright.train.recipe import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over what needs a gradient; norms and biases are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=recipe.lr, alpha=recipe.beta2, momentum=recipe.momentum)
    if recipe.optimizer == "lars":
        scaled = [{**g, "scaled": g["params"][0].dim() > 1} for g in groups]
        return LARS(scaled, lr=recipe.lr, momentum=recipe.momentum)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, recipe.beta2))
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


@runtime_checkable
class Holding(Protocol):
    """A part of a network that keeps true what an optimiser would change: masks."""

    def hold_after_steps(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> object:
        """Do so after every step of an optimiser, unless a callback does."""
