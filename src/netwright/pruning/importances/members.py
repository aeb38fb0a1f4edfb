"""From scores of parameters to scores of channels: aggregated over what is tied, made comparable over axes.

What a channel consists of are its *members*: the slices of all parameters that would go with it. Every
importance of single weights says something about each of them; `Channel` says how that becomes one number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.importances.elements import Context
from netwright.pruning.importances.importance import (
    Importance,
    find_elements,
    find_importance,
    list_importances,
    parameters_on_axes,
    reduced_dims,
    require_data,
    score,
)
from netwright.pruning.importances.magnitude import norm_scales
from netwright.pruning.importances.voting import conceded_at
from netwright.pruning.masks.granularity import Channel
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Structure


@dataclass(frozen=True)
class Members:
    """What every parameter says about its classes.

    Attributes:
        member: (E,) number of the parameter's dimension, in order of definition.
        classes: (E,) class of each entry; a member has one entry for a class at most.
        values: (E,) float64.
    """

    member: Tensor
    classes: Tensor
    values: Tensor


def score_channels(
    net: Structure,
    model: nn.Module,
    importance: str | Importance = "magnitude",
    examples: Examples | None = None,
    channel: Channel | None = None,
) -> Tensor:
    """Score every class of a network.

    Args:
        net: The structure.
        model: The model that was traced.
        importance: A name or a function.
        examples: Data for those that look at some.
        channel: How the scores of members are aggregated and axes are made comparable; by default as `score`
            does: what the importance itself makes of them, over the mean of the axis.

    Returns:
        (count,) float64.

    Raises:
        UsageError: as for `score`, or if the members of a channel have no scores of their own.
    """
    channel = channel or Channel()
    if channel == Channel():
        return score(net, model, importance, examples)
    examples = examples if examples is not None else Examples(None, net.inputs)
    require_data(importance, examples)
    if channel.aggregate == "sum":
        scores = _raw(net, model, importance, examples)
    elif channel.aggregate == "vote":
        scores = _voted(net, members(net, model, importance, examples))
    else:
        scores = aggregate(net, members(net, model, importance, examples), channel.aggregate)
    if not bool(scores.isfinite().all()):
        raise UsageError(f"{_label(importance)} gave scores that are not finite", "are the weights finite?")
    return normalised(net, scores, channel.normalise)


def members(net: Structure, model: nn.Module, importance: str | Importance, examples: Examples) -> Members:
    """The scores of all members of all classes.

    Raises:
        UsageError: if the importance scores whole channels only.
    """
    named = parameters_on_axes(net, model)
    if importance == "bn-scale":
        found = norm_scales(net, model)
    elif isinstance(importance, str) and importance not in list_importances("weight"):
        find_importance(importance)
        raise UsageError(
            f"importance {importance!r} scores whole channels: there are no members to aggregate",
            f'take aggregate="sum", or one of {", ".join(list_importances("weight"))}',
        )
    else:
        elements = find_elements(importance)
        context = Context(examples, seed=examples.seed)
        scores = elements.function(model, list(named), context)
        found = {n: {d: _sums(s, la) for d, la in net.layers[n].items()} for n, s in scores.items()}
    member: list[Tensor] = []
    classes: list[Tensor] = []
    values: list[Tensor] = []
    for name in named:
        for dim, per_label in found.get(name, {}).items():
            labels = net.layers[name][dim].reshape(-1)
            own, inverse = labels.unique(return_inverse=True)
            sums = torch.zeros(len(own), dtype=torch.float64)
            values.append(sums.index_add_(0, inverse, per_label.reshape(-1).to("cpu", torch.float64)))
            classes.append(own)
            member.append(torch.full_like(own, len(member)))
    if not values:
        raise UsageError(f"{_label(importance)} says nothing about any parameter of an axis")
    return Members(torch.cat(member), torch.cat(classes), torch.cat(values))


def aggregate(net: Structure, found: Members, how: str) -> Tensor:
    """One number for every class, (count,).

    Args:
        net: The structure.
        found: What the members say.
        how: "sum", "mean", "max", "first" or "prod". In products every member is divided by its mean over its
            classes first, so that they stay within the range of numbers.
    """
    index, values = found.classes, found.values
    zeros = torch.zeros(net.count, dtype=torch.float64)
    if how == "max":
        return zeros.scatter_reduce(0, index, values, "amax", include_self=False)
    if how == "first":
        # Of several writes to one place the last would win, in no order that is promised: choose it first.
        number = torch.arange(len(index))
        first = torch.full((net.count,), len(index)).scatter_reduce(0, index, number, "amin")
        there = first < len(index)
        return torch.where(there, values[first.clamp(max=len(index) - 1)], zeros)
    if how == "prod":
        count = int(found.member.max()) + 1
        means = torch.zeros(count, dtype=torch.float64).index_add_(0, found.member, values.abs())
        means /= torch.bincount(found.member, minlength=count)
        scaled = values / means[found.member].clamp_min(1e-300)
        return zeros.scatter_reduce(0, index, scaled, "prod", include_self=False)
    total = zeros.index_add(0, index, values)
    return total / torch.bincount(index, minlength=net.count).clamp(min=1) if how == "mean" else total


def normalised(net: Structure, scores: Tensor, how: str) -> Tensor:
    """Make the classes of all axes comparable, (count,).

    Args:
        net: The structure.
        scores: (count,).
        how: "mean", "sum", "max", "gaussian", "lamp" or "none"; see `Channel`.
    """
    scores = scores.clone()
    for axis in net.prunable if how != "none" else ():
        scores[axis.cells] = _NORMALISE[how](scores[axis.cells])
    return scores


def _voted(net: Structure, found: Members) -> Tensor:
    """`conceded_at` on every axis, (count,); what a layer says nothing about it never asks for."""
    total = torch.zeros(net.count, dtype=torch.float64)
    owner = torch.full((net.count,), -1)
    for k, axis in enumerate(net.prunable):
        owner[axis.cells.reshape(-1)] = k
    for k, axis in enumerate(net.prunable):
        classes = axis.cells.reshape(-1)
        place = torch.zeros(net.count, dtype=torch.int64)
        place[classes] = torch.arange(len(classes))
        here = owner[found.classes] == k
        rows, row = found.member[here].unique(return_inverse=True)
        if not len(rows):
            continue
        table = torch.full((len(rows), len(classes)), torch.inf, dtype=torch.float64)
        table[row, place[found.classes[here]]] = found.values[here]
        voted = conceded_at(table)
        finite = voted[voted.isfinite()]
        highest = float(finite.max()) if len(finite) else 0.0
        total[classes] = voted.nan_to_num(posinf=2 * abs(highest) + 1)
    return total


def _raw(net: Structure, model: nn.Module, importance: str | Importance, examples: Examples) -> Tensor:
    """What an importance says itself, checked."""
    function, _ = find_importance(importance)
    scores = function(net, model, examples)
    if not isinstance(scores, Tensor) or scores.shape != (net.count,):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise UsageError(
            f"{_label(importance)} returned {found}, not one score for each of the {net.count} classes"
        )
    return scores.detach().to("cpu", torch.float64)


def _label(importance: Any) -> str:
    return importance if isinstance(importance, str) else getattr(importance, "name", "the importance")


def _sums(elements: Tensor, labels: Tensor) -> Tensor:
    out = reduced_dims(labels)
    return elements.sum(dim=out) if out else elements


def _lamp(scores: Tensor) -> Tensor:
    flat = scores.reshape(-1)
    values, order = flat.sort(stable=True)
    above = values.flip(0).cumsum(0).flip(0)
    above = torch.where(above.abs() > 0, above, torch.ones_like(above))
    return torch.zeros_like(flat).scatter_(0, order, values / above).reshape(scores.shape)


def _over(value: Tensor, scores: Tensor) -> Tensor:
    return scores / value if float(value) > 0 else scores


_NORMALISE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda s: _over(s.abs().mean(), s),
    "sum": lambda s: _over(s.abs().sum(), s),
    "max": lambda s: _over(s.abs().max(), s),
    "gaussian": lambda s: _over(s.std(correction=0), s - s.mean()),
    "lamp": _lamp,
}
