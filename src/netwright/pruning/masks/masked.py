"""Structured removal of networks with masks: a mask is cut like the weight that it lies on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.models.blocks import without
from netwright.pruning.masks.mask_state import ROOT, MaskState, bake
from netwright.structure.scales import fit_scales
from netwright.structure.sizes import scale, take


def bare(model: nn.Module) -> nn.Module:
    """The network that a masked one computes, without masks.

    Args:
        model: Any network; it is not touched.

    Returns:
        Where masks are hard a module that shares all parts of the given one but the masks; where they are
        soft a copy with zeros in the weights; a network without masks itself.
    """
    state = MaskState.of(model)
    if state is None:
        return model
    if state.soft:
        return bake(state.model)
    twin = copy.copy(state.model)
    twin._modules = {name: module for name, module in twin._modules.items() if name != ROOT}
    return twin


def masked_repair(repair: str, data: object) -> str:
    """The repair of a masked network: one that leaves zeros alone.

    Args:
        repair: As asked for.
        data: As given.

    Raises:
        UsageError: if that repair fills zeros in.
    """
    if repair == "obs":
        raise UsageError(
            'repair "obs" refits all weights of a layer, and would fill in those that are masked',
            'take repair="bn", or remove the masks first: MaskState.of(model).remove()',
        )
    if repair == "auto":
        return "none" if data is None else "bn"
    return repair


def drop_branches(model: nn.Module, branches: Iterable[str]) -> nn.Module:
    """A copy of a network without some branches (see `netwright.models.blocks`), nor the masks in them.

    Args:
        model: The network, with or without masks.
        branches: Paths of the branches.

    Raises:
        ModelError: if a path is none of a branch.
    """
    branches = list(branches)
    twin = without(model, branches)
    root = twin._modules.get(ROOT)
    for path in branches if root is not None else ():
        owner, _, name = path.rpartition(".")
        root.get_submodule(owner)._modules.pop(name, None)  # type: ignore[union-attr]
    return twin


@torch.no_grad()
def carry_masks(
    dense: nn.Module,
    small: nn.Module,
    kept: Mapping[str, Mapping[int, Tensor]],
    scales: Mapping[str, Mapping[int, Tensor]] | None = None,
) -> MaskState:
    """Give a network that was cut from a masked one its masks, cut the same way.

    `netwright.prune` does this by itself, and a surgery of one's own on the masked network cuts its masks as
    well (`netwright.structure`); after one on the network without its masks::

        net = nw.trace(bare(dense), example)
        done = structure.shrink(bare(dense), net, keep)
        carry_masks(dense, done.model, done.kept, done.scales)

    Args:
        dense: The network with masks; it is not touched.
        small: What was cut from `bare(dense)`; it gets the masks.
        kept: Parameter -> {dimension: indices that stayed}, as of `netwright.structure.Shrunk`.
        scales: Parameter -> {dimension: factors}, as of the same.

    Returns:
        The masks of the small network, hard or soft as the dense one's.

    Raises:
        UsageError: if the dense network has no masks, or the small one other shapes.
    """
    state = MaskState.of(dense)
    if state is None:
        raise UsageError("the network has no masks to carry over")
    soft, masks = state.soft, {n: take(m, dict(kept.get(n, {}))) for n, m in state.masks.items()}
    if soft:  # the zeros that were baked in get their values back, to lie beneath the masks
        for name, mask in masks.items():
            cut = dict(kept.get(name, {}))
            beneath = take(state.parameter(name).detach(), cut)
            if scales and name in scales:
                only, cuts = {name: dict(scales[name])}, {name: dict(cut)}
                beneath = scale(beneath, fit_scales(only, cuts)[name], cut.get(0), len(state.masks[name]))
            weight = small.get_parameter(name)
            weight.copy_(torch.where(mask, weight, beneath))
    return MaskState(small, masks, soft=soft)
