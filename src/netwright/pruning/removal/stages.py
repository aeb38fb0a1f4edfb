"""Removal in stages: remove a part, train, remove more; in the end it is told as a single removal.

Every stage traces the network that the last one left. Which units of the first network are alive follows from
the labels of the parameters before and after a removal, so that the result can be saved, replayed and checked
like that of a single one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from netwright import structure
from netwright.errors import StructureError, UsageError
from netwright.pruning.allocations.allocation import parse_budget
from netwright.pruning.allocations.limits import Limits, check_budget
from netwright.pruning.allocations.widths import Widths
from netwright.pruning.removal.result import Pruned
from netwright.pruning.schedules.cycles import Cycles
from netwright.structure import Budget, Limit, Structure
from netwright.structure.sizes import take

Remove = Callable[[nn.Module, Any, str], Pruned]
Train = Callable[[nn.Module], tuple[nn.Module, list[dict[str, Any]]]]


def in_stages(
    model: nn.Module,
    example: Any,
    budget: Budget | str | float | None,
    plan: Cycles,
    remove: Remove,
    train: Train,
    *,
    exclude: Iterable[str] = (),
    heads: str = "auto",
) -> Pruned:
    """Remove and train in turn until the budget is met.

    The limits fall by the same factor in every stage.

    Args:
        model: The network.
        example: Its input.
        budget: What is met in the end: limits on keep, macs, params or size.
        plan: How many stages, or what share goes in each.
        remove: (network, budget, heads) -> a smaller network.
        train: Network -> the trained one and its history.
        exclude: What is left alone.
        heads: As for `prune`.

    Returns:
        The last network, told as one removal from the given one.

    Raises:
        UsageError: if the budget is measured, or there is none.
        StructureError: if the stages do not add up to one removal.
    """
    if budget is None:
        raise UsageError(
            "densities without a budget are met at once", 'give a budget, or schedule="one-shot"'
        )
    budget = parse_budget(budget)
    check_budget(budget)
    if budget.latency is not None:
        raise UsageError(
            "a latency is measured, and does not fall in even steps",
            'give a budget of macs, or schedule="one-shot"',
        )
    net = structure.trace(model, example, exclude=exclude, heads="whole" if heads == "auto" else heads)
    targets = _targets(model, net, budget, plan)
    current, alive = model, torch.arange(net.count)  # (count,) class in the present network, or -1
    stages: list[Pruned] = []
    history: list[dict[str, Any]] = []
    for number, target in enumerate(targets):
        if stages and "keep" in target:
            target = {**target, "keep": _share(target["keep"], net, alive, current, example, exclude, heads)}
        done = remove(current, Budget(**{n: _limit(n, v) for n, v in target.items()}), heads)  # type: ignore[arg-type]
        if not stages:
            net, heads = done.net, done.net.heads  # how heads shrink is settled now
            alive = torch.arange(net.count)
        previous, (current, records) = current, train(done.model)
        history += [{**record, "stage": number} for record in records]
        stages.append(done)
        alive = _onward(
            alive, done, previous, structure.trace(current, example, exclude=exclude, heads=heads)
        )
    return _told_as_one(model, net, alive >= 0, current, stages, history)


def _limit(name: str, value: float) -> Limit:
    return Limit(value, relative=name == "keep")


def _targets(model: nn.Module, net: Structure, budget: Budget, plan: Cycles) -> list[dict[str, float]]:
    """The limits of every stage: shares of units, or counts."""
    sizes = [(p.numel(), p.element_size()) for p in model.parameters()]
    item = sum(n * s for n, s in sizes) / max(1, sum(n for n, _ in sizes))
    limits = Limits(Widths(net, torch.zeros(net.count)), budget, item)
    shares = (limits.ceilings / limits.dense).clamp(max=1.0)
    least = float(shares.min())
    rounds = plan.rounds or max(math.ceil(math.log(least) / math.log(1 - plan.fraction) - 1e-9), 1)
    return [
        {
            name: float(dense * share ** (k / rounds))
            for name, dense, share in zip(limits.names, limits.dense, shares, strict=True)
        }
        for k in range(1, rounds + 1)
    ]


def _share(
    target: float,
    net: Structure,
    alive: Tensor,
    current: nn.Module,
    example: Any,
    exclude: Iterable[str],
    heads: str,
) -> float:
    """The share of the present network's units at which a share of the given network's units is left."""
    present = structure.trace(current, example, exclude=exclude, heads=heads)
    units = sum(axis.total for axis in present.prunable)
    left = sum(int((alive[axis.cells] >= 0).sum()) for axis in net.prunable)
    whole = sum(axis.total for axis in net.prunable)
    return min(max((target * whole - (left - units)) / max(units, 1), 1e-9), 1.0)


def _onward(alive: Tensor, done: Pruned, model: nn.Module, after: Structure) -> Tensor:
    """Follow the classes of the given network through one more removal, (count,).

    Args:
        alive: (count,) class in the network before the removal, or -1.
        done: The removal.
        model: The network before it.
        after: Structure of the network after it.
    """
    before = done.net
    tensors = dict(model.named_parameters(remove_duplicate=False))
    shapes = {n: t.shape for n, t in (*tensors.items(), *model.named_buffers(remove_duplicate=False))}
    onward = torch.full((before.count,), -1)
    onward[0] = 0
    for name, dims in before.layers.items():
        kept = dict(done.kept.get(name, {}))
        for dim, labels in dims.items():
            now = after.layers.get(name, {}).get(dim)
            if now is None:
                continue
            small = take(labels.expand(shapes[name]), kept)
            onward[small.reshape(-1)] = now.expand(small.shape).reshape(-1)
    # A class without a place of its own afterwards (of a table that is frozen now) stays if its mask says so.
    onward = torch.where(done.keep & (onward < 0), 0, onward)
    onward = torch.where(done.keep, onward, -1)
    return torch.where(alive >= 0, onward[alive.clamp(min=0)], -1)


def _told_as_one(
    model: nn.Module,
    net: Structure,
    keep: Tensor,
    trained: nn.Module,
    stages: list[Pruned],
    history: list[dict[str, Any]],
) -> Pruned:
    """One removal that makes the last network of the given one, with the trained weights."""
    last = stages[-1]
    try:
        shrunk = structure.shrink(model, net, keep, how="graph" if last.how == "graph" else "auto")
        shrunk.model.load_state_dict(trained.state_dict())
    except (RuntimeError, UsageError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise StructureError(
            f"the stages do not add up to one removal: {reason}", 'take schedule="one-shot"'
        ) from error
    shrunk.model.train(model.training)
    notes = list(dict.fromkeys([*net.notes, *(note for stage in stages for note in stage.notes)]))
    return dataclasses.replace(
        last,
        model=shrunk.model,
        kept=shrunk.kept,
        before=net.dense,
        after=net.cost(keep),
        frozen=stages[0].frozen,
        net=net,
        keep=keep,
        how=shrunk.how,
        attributes=shrunk.attributes,
        adopted=shrunk.adopted,
        notes=[*notes, f"removed in {len(stages)} stages"],
        scales=shrunk.scales,
        history=history,
    )
