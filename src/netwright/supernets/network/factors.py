"""What a mixture's weights make of the members of axes and the elements of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from netwright.errors import UsageError
from netwright.structure import Structure
from netwright.supernets.network.binding import Plan
from netwright.supernets.network.blueprint import Blueprint
from netwright.supernets.network.dims import Kernel, Width

#: Name of a dim -> (values,) weights that sum to 1, in the order of its values.
Weights = Mapping[str, Tensor]


def memberships(blueprint: Blueprint, weights: Weights) -> dict[int, Tensor]:
    """How much of all sizes hold each member of the elastic axes; differentiable.

    Args:
        blueprint: Of the supernet.
        weights: Of every width: name -> (values,).

    Returns:
        Position of an axis -> (members,).

    Raises:
        UsageError: if the parts of an axis shrink unlike each other.
    """
    found = {}
    net = blueprint.structure
    for width in blueprint.widths:
        given = weights[width.name]
        for k, axis in enumerate(width.axes):
            most = int(net.axes[axis].lengths.max())
            counts = torch.stack([net.axes[axis].counts(row[k]) for row in width.levels])  # (values, parts)
            if not bool((counts == counts[:, :1]).all()):
                raise UsageError(
                    f"the parts of {net.axes[axis].name} shrink unlike each other", "leave it out"
                )
            holds = torch.arange(most, device=given.device) < counts[:, :1].to(given.device)
            found[axis] = given @ holds.to(given.dtype)
    return found


def scales(
    blueprint: Blueprint, plan: Plan, choice: Mapping[str, Any], weights: Weights
) -> dict[str, Tensor]:
    """Parameter -> what a slice of it is multiplied by, where the weights are one-hot: gradients reach them.

    Args:
        blueprint: Of the supernet.
        plan: What the choice does.
        choice: The values with weight one.
        weights: One-hot weights, with the gradient of whatever they were drawn from.
    """
    net = blueprint.structure
    axis_of, _ = members(net, blueprint.widths)
    owner = {a: w for w in blueprint.widths for a in w.axes}
    found: dict[str, Tensor] = {}
    for name, dims in net.layers.items():
        decisions = {
            owner[int(a)].name
            for labels in dims.values()
            for a in axis_of[labels].unique()
            if int(a) in owner
        }
        for decision in sorted(decisions):
            width = next(w for w in blueprint.widths if w.name == decision)
            one = weights[decision][width.values.index(choice[decision])]
            found[name] = one if name not in found else found[name] * one
    for kernel in blueprint.kernels:
        one = weights[kernel.name][kernel.values.index(choice[kernel.name])]
        name = f"{kernel.path}.weight"
        found[name] = one if name not in found else found[name] * one
    return found


def members(net: Structure, widths: tuple[Width, ...]) -> tuple[Tensor, Tensor]:
    """(count,) axis of every class, -1 for those that no width chooses, and its position in its part.

    Args:
        net: The structure.
        widths: Those that can be chosen.
    """
    axis = torch.full((net.count,), -1, dtype=torch.int64)
    position = torch.zeros(net.count, dtype=torch.int64)
    for width in widths:
        for a in width.axes:
            for part in net.axes[a].parts:
                axis[part], position[part] = a, torch.arange(len(part))
    return axis, position


def middle_factor(kernel: Kernel, weights: Tensor, rank: int) -> Tensor:
    """(1, 1, k, ...) weight of all sizes whose middle holds an element.

    Args:
        kernel: What can be chosen.
        weights: (values,) of its sizes.
        rank: Spatial dimensions.
    """
    distance = (torch.arange(kernel.full) - kernel.full // 2).abs()
    far = distance
    for _ in range(rank - 1):
        far = torch.maximum(far[..., None], distance)
    holds = torch.stack([far <= size // 2 for size in kernel.values])
    mixed = torch.tensordot(weights, holds.to(weights), dims=1)
    return mixed[None, None]


def one_hot(blueprint: Blueprint, weights: Weights) -> dict[str, Any] | None:
    """The choice that has all the weight, if one has.

    Args:
        blueprint: Of the supernet.
        weights: Name of every dim -> (values,).
    """
    chosen: dict[str, Any] = {}
    for name, given in weights.items():
        values = given.detach()
        best = int(values.argmax())
        if float(values[best]) != 1.0 or int((values != 0).sum()) != 1:
            return None
        dim = blueprint.space.dim(name)
        chosen[name] = list(dim.each())[best]
    return chosen
