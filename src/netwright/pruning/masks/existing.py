"""Weights of which some elements do not exist: a network may be wired more sparsely than its tensors are.

A module whose parameters hold such elements says so in a method ``existing_weights()``: name of the parameter
-> bool mask of its shape. What does not exist is never kept, never grown, and not counted.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from netwright.pruning.masks.selection import Masks


def existing(model: nn.Module, names: Iterable[str]) -> Masks:
    """The elements that exist, of those weights of which some do not.

    Args:
        model: The network.
        names: Names of weights, as in ``model.named_parameters()`` without masks.
    """
    found: Masks = {}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if hasattr(type(module), "existing_weights"):
            mask: Tensor | None = module.existing_weights().get(leaf)  # type: ignore[operator]
            if mask is not None and not bool(mask.all()):
                found[name] = mask
    return found
