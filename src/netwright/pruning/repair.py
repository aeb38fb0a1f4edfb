"""Repairs: how the weights that stay make up for those that went, without any training.

"none" leaves the slices as they are; "bn" recomputes the statistics of batch norms; "obs" refits every operator
that reads a pruned axis to the dense network's outputs, in the least-squares sense, and then recomputes the
statistics; "auto" is "obs" where there are data and "none" where there are not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.examples import Examples
from netwright.pruning.moments import Moments, gather_moments, matrix, unmatrix
from netwright.pruning.obs import columns_of, refit, varies
from netwright.pruning.statistics import recalibrate_
from netwright.structure import Consumer, Structure

REPAIRS = ("none", "bn", "obs", "auto")


def list_repairs() -> list[str]:
    """Names of all repairs."""
    return list(REPAIRS)


def check_repair(repair: str, examples: Examples) -> str:
    """The repair that will be made.

    Args:
        repair: A name.
        examples: The data.

    Returns:
        The name; "auto" is resolved.

    Raises:
        UsageError: if the name is unknown or its data are missing.
    """
    if repair not in REPAIRS:
        raise UsageError(f"there is no repair {repair!r}", f"choose from {', '.join(REPAIRS)}")
    if repair == "auto":
        return "obs" if examples else "none"
    if repair != "none" and not examples:
        raise UsageError(
            f"repair {repair!r} looks at data", "give data= a few hundred examples, without labels"
        )
    return repair


def repair_(
    small: nn.Module, repair: str, net: Structure, model: nn.Module, keep: Tensor, examples: Examples
) -> list[str]:
    """Repair a network that has just been cut, in place.

    Args:
        small: The small network.
        repair: "none", "bn" or "obs".
        net: The dense network's structure.
        model: The dense network.
        keep: (count,) bool, what stayed.
        examples: The data.

    Returns:
        What a reader should know, one line each.
    """
    notes: list[str] = []
    if repair == "obs":
        notes += update_(small, net, model, keep, examples)
    if repair in ("bn", "obs"):
        count = recalibrate_(small, examples)
        if count:
            notes.append(f"statistics of {count} batch norms were recomputed")
        elif repair == "bn":
            notes.append("the network has no batch norm, nothing was recomputed")
    return notes


def update_(
    small: nn.Module, net: Structure, model: nn.Module, keep: Tensor, examples: Examples
) -> list[str]:
    """Refit the weights that read a pruned axis to the dense network's outputs, in place.

    With a bias the fit is about the mean and the bias takes up the rest.

    Args:
        small: The small network.
        net: The dense network's structure.
        model: The dense network.
        keep: (count,) bool.
        examples: The data.

    Returns:
        One line on what was refitted and one for every operator that was not.
    """
    dense = dict(model.named_parameters(remove_duplicate=False))
    cut = {}
    for consumer in net.consumers:
        if varies(net, consumer):
            classes = columns_of(net.layers[consumer.name][consumer.dim_in], consumer, dense[consumer.name])
            stays = keep[classes]  # (G, D)
            if not bool(stays.all()):
                cut[consumer.name] = stays
    found, notes = gather_moments(net, model, examples, cut)
    here = dict(small.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, moments in found.items():
            _write(here, dense, name, moments, cut[name], _kept_rows(net, moments.consumer, keep))
    return [f"{len(found)} of {len(cut)} operators that read a pruned axis were refitted", *notes]


def _write(
    here: dict[str, nn.Parameter],
    dense: dict[str, nn.Parameter],
    name: str,
    moments: Moments,
    stays: Tensor,
    rows: Tensor | None,
) -> None:
    consumer, weight = moments.consumer, dense[name].detach()
    if rows is not None:
        weight = weight.index_select(consumer.dim_out, rows.to(weight.device))
    full = matrix(consumer, weight)  # (G, O, D)
    stay = stays.nonzero()[:, 1].reshape(len(stays), -1).to(weight.device)
    biased = moments.bias is not None and moments.bias in here
    second = moments.centred if biased else moments.second
    new = refit(full, second, stay)
    here[name].copy_(unmatrix(consumer, new, here[name]))
    if biased and moments.bias is not None:
        mean = moments.mean
        shift = (full.double() @ mean[:, :, None] - new.double() @ mean.gather(1, stay)[:, :, None]).reshape(
            -1
        )
        here[moments.bias].add_(shift.to(here[moments.bias].dtype))


def _kept_rows(net: Structure, consumer: Consumer, keep: Tensor) -> Tensor | None:
    """Outputs of an operator that stay, (n,), or None for all."""
    labels = net.layers[consumer.name].get(consumer.dim_out)
    if labels is None:
        return None
    stays = keep[labels]
    return None if bool(stays.all()) else stays.reshape(-1).nonzero().reshape(-1)
