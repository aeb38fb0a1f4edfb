"""Masks of weights: chosen from scores, shuffled within a layer, held while training, put into weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netwright.errors import UsageError

Masks = dict[str, Tensor]


def top_masks(scores: Mapping[str, Tensor], count: int) -> Masks:
    """Keep exactly the `count` highest of all scores together; of equal ones the first in order stays.

    Args:
        scores: Layer's weight -> finite scores of its shape.
        count: How many stay.

    Raises:
        UsageError: if there are fewer scores than that, or one is not a number.
    """
    flat = torch.cat([s.detach().reshape(-1) for s in scores.values()])
    if not 0 < count <= len(flat):
        raise UsageError(f"{count} of {len(flat)} weights cannot be kept", "keep at least one, at most all")
    if bool(torch.isnan(flat).any()):
        raise UsageError("a score is not a number", "are the weights finite?")
    # The threshold alone would keep too many or too few where scores are equal.
    threshold = torch.kthvalue(flat, len(flat) - count + 1).values
    chosen = flat > threshold
    ties = (flat == threshold).nonzero().reshape(-1)
    chosen[ties[: count - int(chosen.sum())]] = True
    parts = chosen.split([s.numel() for s in scores.values()])
    return {name: part.reshape(s.shape) for (name, s), part in zip(scores.items(), parts, strict=True)}


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


class _Masked(nn.Module):
    """Multiplies a weight by its mask, so that neither forward nor backward sees what is masked."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def mask(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network whose masked weights are zero, and stay so whatever trains it.

    Args:
        model: The network.
        masks: Parameter -> bool mask of its shape.

    Returns:
        The copy. `bake` turns it into an ordinary network.

    Raises:
        UsageError: if a name or a shape does not fit the network.
    """
    parameters = dict(model.named_parameters())
    for name, given in masks.items():
        if name not in parameters or parameters[name].shape != given.shape:
            raise UsageError(
                f"the mask of {name!r} has shape {tuple(given.shape)}, which fits no parameter of that name"
            )
    masked = copy.deepcopy(model)
    for name, given in masks.items():
        owner, _, attribute = name.rpartition(".")
        module, parameter = masked.get_submodule(owner), parameters[name]
        held = _Masked(given.to(parameter.device, parameter.dtype))
        parametrize.register_parametrization(module, attribute, held)
    return masked


def bake(model: nn.Module) -> nn.Module:
    """A copy of a masked network with the zeros in its weights, without masks.

    Raises:
        UsageError: if a masked weight is made in another way as well, for instance by weight normalisation.
    """
    baked = copy.deepcopy(model)
    for name, module in list(baked.named_modules()):
        held = getattr(module, "parametrizations", None)
        if not isinstance(held, nn.ModuleDict) or not any(map(_is_mask, held.values())):
            continue
        if not all(map(_is_mask, held.values())):
            raise UsageError(f"{name} has other parametrizations beside its masks", "remove those first")
        weights = {attribute: getattr(module, attribute).detach() for attribute in held}
        # PyTorch's own removal deletes the attribute from a class that the masked original shares.
        del module.parametrizations
        module.__class__ = type(module).__mro__[1]
        for attribute, weight in weights.items():
            module.register_parameter(attribute, nn.Parameter(weight))
    return baked


def _is_mask(parts: nn.Module) -> bool:
    """Whether a list of parametrizations is one mask."""
    return [type(part) for part in parts.children()] == [_Masked]
