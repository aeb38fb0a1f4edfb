"""`sparsify`: masks under a budget, at once or while training; the shapes stay."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netwright.data import Splits
from netwright.errors import BudgetError, UsageError
from netwright.pruning.allocations.allocation import parse_budget
from netwright.pruning.allocations.choosing import Allocations, check_together, choose, prunable_weights
from netwright.pruning.importances.densities import layer_macs
from netwright.pruning.importances.elements import Context
from netwright.pruning.masks.existing import existing
from netwright.pruning.masks.granularity import NM, Granularity, find_granularity
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.schedules.combining import check_gradual, check_schedule
from netwright.pruning.schedules.cycles import CycleRun, Cycles, Ticket, find_cycles
from netwright.pruning.schedules.schedule import Event, Schedule, find_schedule
from netwright.pruning.schedules.sparse_result import Layer, Sparse
from netwright.pruning.schedules.sparsity import Sparsity
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Budget, Structure, trace
from netwright.train import Recipe, fit

#: What every result says: nothing was measured yet.
NO_FASTER = (
    "zeros alone make nothing faster on dense kernels: measure sparse ones with "
    "netwright.pruning.accelerate_sparse(model, example=...)"
)

#: The share of the loss that follows the dense network, where the recipe does not say.
DISTILL = 0.5


def sparsify(
    model: nn.Module,
    example: Any = None,
    budget: Budget | str | float | None = None,
    *,
    keep: float | None = None,
    importance: Any = "magnitude",
    granularity: str | Granularity = "weight",
    allocation: Allocations = "global",
    schedule: str | Schedule | Cycles = "one-shot",
    data: Any = None,
    select: str | Sequence[str] | None = None,
    exclude: Iterable[str] = (),
    recipe: Recipe | None = None,
    distill: bool = False,
    seed: int = 0,
    device: str | torch.device = "auto",
    checkpoint: Path | None = None,
) -> Sparse:
    """Mask what a network can do without; its shapes stay, and so does the given network.

    Zeros alone make no network faster on dense kernels: see `netwright.pruning.prune` for that, or
    ``granularity="2:4"`` on devices with kernels for it.

    Args:
        model: The network.
        example: Its input; needed for budgets of multiply-accumulates, and for the table to have them.
        budget: ``keep`` (a share of the prunable weights), ``params`` (of all parameters) or ``macs``
            (counting weights that are not zero), as a `Budget`, as text, or a number, which is a ``keep``.
        keep: The same as ``budget=keep``.
        importance: What goes first: a name (see ``list_importances("weight")``) or an object.
        granularity: What goes as one piece: ``weight``, ``row``, ``column``, ``kernel``, ``block:4x4``, an
            n:m pattern such as ``2:4``, or an object.
        allocation: How the share is spread over the layers: a name (see `list_layer_allocations`), the share
            of every layer, or a function.
        schedule: When: ``one-shot`` prunes at once, ``rounds`` too but scoring anew many times, the others
            while training; ``lottery`` and ``iterative`` train several times. A name or an object of
            `netwright.pruning.schedules.schedule` or `netwright.pruning.schedules.cycles`.
        data: Examples for importances that look at some; `netwright.data.Splits` where a schedule trains.
        select: Only these weights: patterns of names; ``i2h`` and ``h2h`` of recurrent layers.
        exclude: Weights that are left alone.
        recipe: How to train; ``one-shot`` trains only where one is given.
        distill: Follow the dense network's answers in that training.
        seed: Of what is drawn at random.
        device: Where to train.
        checkpoint: File to resume the training from; a folder of them where a schedule trains several times.

    Returns:
        The network with its masks, and what was done.

    Raises:
        UsageError: if the parts do not fit together, or data are missing that they need.
        BudgetError: if the budget is malformed or cannot be met.
    """
    begun = time.perf_counter()
    check_together(importance, granularity, allocation)
    pattern, cycles = find_granularity(granularity), find_cycles(schedule)
    if cycles is not None:
        check_gradual(pattern)
        plan = Schedule()
    else:
        plan = find_schedule(schedule)  # type: ignore[arg-type]
        check_schedule(plan, pattern, importance, allocation)
    names = prunable_weights(model, select=select, exclude=exclude)
    net = trace(model, example) if example is not None else None
    share = _share(model, names, net, budget, keep, pattern)
    trains = recipe is not None or plan.trains or cycles is not None or distill
    if distill and cycles is not None:
        raise UsageError(
            "the dense network is one of the levels: there is no teacher before it is trained",
            "leave distill out, or take a schedule of one training",
        )
    if trains and not isinstance(data, Splits):
        raise UsageError(
            f"schedule {schedule!r} trains, and there are no data to train on",
            'give data=netwright.data.load("..."), or use netwright.pruning.Sparsity in your own loop',
        )
    examples = _examples(data, example, seed)
    sparse = copy.deepcopy(model)
    if MaskState.of(sparse) is not None:
        raise UsageError("the network has masks already", "remove them first: MaskState.of(model).remove()")
    changes, history, levels = [], [], []
    ticket: Ticket | None = None
    if cycles is not None:
        run = CycleRun(
            sparse,
            data,
            recipe or Recipe(seed=seed),
            cycles,
            keep=share,
            importance=importance,
            granularity=pattern,
            allocation=allocation,
            select=select,
            exclude=exclude,
            seed=seed,
            device=device,
            folder=checkpoint,
        )
        levels = list(run)
        sparse, ticket = levels[-1].model, run.ticket(levels[-1].masks)
        history = [{**record, "level": level.level} for level in levels for record in level.history]
    elif trains:
        callback = Sparsity(
            share,
            importance=importance,
            granularity=pattern,
            allocation=allocation,
            schedule=plan,
            select=select,
            exclude=exclude,
            data=examples,
            seed=seed,
        )
        recipe = following(recipe or Recipe(seed=seed), distill)
        teacher = model if distill else None
        fitted = fit(
            sparse, data, recipe, teacher=teacher, device=device, checkpoint=checkpoint, callbacks=[callback]
        )
        sparse, history, changes = fitted.model, fitted.history, callback.changes
    else:
        for stays in Event(share, rounds=plan.rounds).shares:
            state = MaskState.of(sparse)
            present = {} if state is None else state.masks
            masks = choose(
                sparse,
                names,
                stays,
                importance=importance,
                granularity=pattern,
                allocation=allocation,
                context=Context(examples, present, {}, stays, seed),
                eligible=present or None,
            )
            if state is None:
                MaskState(sparse, masks)
            else:
                state.set_(masks)
    return Sparse(
        sparse,
        share,
        _layers(sparse, net),
        [(n, "no weight of a layer") for n, _ in model.named_parameters() if n not in set(names)],
        net.dense if net else None,
        changes,
        history,
        _notes(sparse, pattern),
        time.perf_counter() - begun,
        levels,
        ticket,
    )


def following(recipe: Recipe, distill: bool) -> Recipe:
    """The recipe, with a share for the teacher where there is one and the recipe names none."""
    return (
        dataclasses.replace(recipe, distill_weight=DISTILL)
        if distill and not recipe.distill_weight
        else recipe
    )


def _examples(data: Any, example: Any, seed: int) -> Examples | None:
    """The data that importances look at."""
    if data is None:
        return None if example is None else Examples(None, example, seed=seed)
    if isinstance(data, Splits):
        like = data.example() if example is None else example
        return Examples(data.train, like, seed=seed)
    if example is None:
        raise UsageError("data need an example, to tell inputs from labels", "give example=")
    return Examples(data, example, seed=seed)


def _share(
    model: nn.Module,
    names: Sequence[str],
    net: Structure | None,
    budget: Budget | str | float | None,
    keep: float | None,
    pattern: Granularity,
) -> float:
    """The share of the prunable weights that a budget leaves."""
    if (budget is None) == (keep is None):
        if budget is None and isinstance(pattern, NM):
            return pattern.n / pattern.m
        raise UsageError("say how much stays, once", 'keep=0.1, or budget="params=0.2"')
    limits = parse_budget(budget if budget is not None else keep)  # type: ignore[arg-type]
    named = [name for name in ("keep", "params", "macs") if name in limits.limits]
    if len(named) != 1 or len(limits.limits) != 1:
        raise BudgetError(f"{limits} is no budget of masks", "give one of keep, params or macs")
    parameters = dict(model.named_parameters())
    absent = sum(int((~mask).sum()) for mask in existing(model, names).values())
    weights = sum(parameters[n].numel() for n in names) - absent
    if named == ["keep"]:
        assert limits.keep is not None
        share = limits.keep.value
    elif named == ["params"]:
        assert limits.params is not None
        total = sum(p.numel() for p in parameters.values()) - absent
        share = (limits.params.against(total) - (total - weights)) / weights
    else:
        assert limits.macs is not None
        if net is None:
            raise UsageError("a budget of multiply-accumulates needs an example", "give example=")
        macs = layer_macs(net)
        masked = sum(macs.get(n, 0) for n in names)
        share = (limits.macs.against(net.macs) - (net.macs - masked)) / max(masked, 1)
    if share <= 0:
        raise BudgetError(
            f"{limits} cannot be met by masks", "what has no mask costs more than that by itself"
        )
    if isinstance(pattern, NM) and abs(share - pattern.n / pattern.m) > 1e-9:
        raise BudgetError(
            f"{pattern.name} keeps {pattern.n / pattern.m:g} of every layer, not {share:g}",
            "leave the budget out, or choose another pattern",
        )
    return min(share, 1.0)


def _layers(model: nn.Module, net: Structure | None) -> list[Layer]:
    state = MaskState.of(model)
    assert state is not None
    sizes = state.sizes
    macs = layer_macs(net) if net is not None else None
    return [
        Layer(name, sizes[name], int(mask.sum()), None if macs is None else macs.get(name, 0))
        for name, mask in state.masks.items()
    ]


def _notes(model: nn.Module, pattern: Granularity) -> list[str]:
    notes = []
    state = MaskState.of(model)
    assert state is not None
    if isinstance(pattern, NM):
        whole = [n for n, m in state.masks.items() if not pattern.fits(m)]
        if whole:
            listed = ", ".join(whole[:3])
            notes.append(f"{len(whole)} weights are no multiple of {pattern.m} wide and stay whole: {listed}")
    empty = [n for n, kept in state.kept.items() if not kept]
    if empty:
        notes.append(f"nothing is left of {', '.join(empty[:3])}: the network may not learn any more")
    return [*notes, NO_FASTER]
