"""What an optimiser remembers of each weight, by the weight's name: so that it can be cut as the weight is.

A surgery makes new parameters, which an optimiser does not know. Its slots (momentum, moments) are taken by
name, cut along the same indices, and put into an optimiser of the new parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from netwright.pruning.masks.soft_masks import plain_name
from netwright.structure.sizes import take

#: Weight -> what an optimiser remembers of it.
Slots = dict[str, dict[str, Any]]


def slots_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> Slots:
    """What an optimiser remembers, under the names that the weights have without masks; on the processor.

    Args:
        optimizer: Of the network's parameters.
        model: The network.
    """
    return {
        plain_name(name): {
            key: value.detach().cpu().clone() if isinstance(value, Tensor) else value
            for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def cut_slots(
    slots: Mapping[str, Mapping[str, Any]],
    before: nn.Module,
    after: nn.Module,
    kept: Mapping[str, Mapping[int, Tensor]],
) -> Slots:
    """The slots after a surgery: those of the shape of their weight are cut like it, others stay.

    Args:
        slots: Before.
        before: The network before it, without masks.
        after: The network after it, without masks; slots of weights that it lacks go.
        kept: Weight -> {dimension: indices that stayed}.
    """
    shapes = {name: p.shape for name, p in before.named_parameters()}
    left = {name for name, _ in after.named_parameters()}
    return {
        name: {
            key: take(value, dict(kept.get(name, {})))
            if isinstance(value, Tensor) and value.shape == shapes[name] and value.dim()
            else value
            for key, value in held.items()
        }
        for name, held in slots.items()
        if name in left
    }


def put_slots_(
    optimizer: torch.optim.Optimizer, model: nn.Module, slots: Mapping[str, Mapping[str, Any]]
) -> None:
    """Have an optimiser remember slots, in place.

    Args:
        optimizer: Of the network's parameters.
        model: The network.
        slots: As of `slots_of`, of the network's shapes.
    """
    for name, parameter in model.named_parameters():
        if plain_name(name) in slots:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if isinstance(value, Tensor) and value.dim() else value
                for key, value in slots[plain_name(name)].items()
            }
