"""The verb `prune`: what is chosen, when, and what is trained, around the removal of channels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from netwright.data import Splits
from netwright.errors import UsageError
from netwright.pruning.allocations.density_allocation import ChannelAllocations
from netwright.pruning.importances.importance import Importance
from netwright.pruning.masks.granularity import Channel, Granularity, find_granularity
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.removal.channels import remove_channels
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.removal.mask_sparsity import mask_sparsity
from netwright.pruning.removal.result import Pruned
from netwright.pruning.removal.stages import in_stages
from netwright.pruning.schedules.cycles import Cycles, find_cycles
from netwright.pruning.schedules.schedule import Schedule, list_schedules
from netwright.pruning.schedules.sparsity import Sparsity
from netwright.pruning.sparsify import following
from netwright.pruning.systems.tas import Tas, tas
from netwright.structure import Budget
from netwright.structure.onnx import OnnxNetwork
from netwright.train import Recipe, fit

#: How a pruned network is trained on where no recipe is given.
FINE_TUNE = Recipe(epochs=5, lr=0.01)


def prune(
    model: nn.Module,
    example: Any,
    budget: Budget | str | float | None = None,
    *,
    keep: float | None = None,
    importance: str | Importance = "magnitude",
    granularity: str | Granularity = "channel",
    allocation: ChannelAllocations | Tas = "global",
    schedule: str | Cycles | Schedule = "one-shot",
    repair: str = "auto",
    data: Any = None,
    recipe: Recipe | None = None,
    distill: bool = False,
    reinit: bool = False,
    seed: int = 0,
    exclude: Iterable[str] = (),
    round_to: int | None = None,
    heads: str = "auto",
    check: bool = False,
    device: str | torch.device = "auto",
) -> Pruned:
    """Remove the least important channels, heads and features of a network until it fits a budget.

    The result is a new module of the same class with really smaller weights. It never exceeds the budget.

    Args:
        model: Any module; it is not touched.
        example: A tensor, a tuple of arguments or a dict of keyword arguments for the model.
        budget: Limits on ``macs``, ``params``, ``size``, ``latency`` or ``keep``, as a `Budget` or as text
            such as ``"macs=0.5"``. ``keep`` is a share of all units of the axes that can shrink. A bare
            number is a ``keep``. A latency is measured in ONNX Runtime on this machine, with one thread.
        keep: The same as ``budget=keep``.
        importance: Which units stay: a name (see `list_importances`) or a function of (structure, model,
            examples) that returns one score for every class.
        granularity: "channel", or a `Channel`, which says how the scores of tied parameters are aggregated
            and axes made comparable. Whatever is finer keeps the shapes: see `sparsify`.
        allocation: "global" sets one threshold over all axes, "cost-aware" over scores for their price in
            multiply-accumulates, "uniform" keeps the same share of each. "er",
            "erk", "uniform-plus" and the like, the densities of weights (a dict) or of another importance
            ("from-snip"; "from-scores" for the same one) are realised by the widths at both ends of the
            layers; "convex" are the widths that carry most of SynFlow's flow. "tas", or a `Tas` with its
            settings, searches widths and depths by gradient on the data and trains the shape from scratch.
        schedule: "one-shot"; "iterative" or `cycles.iterative(...)`, which removes in stages with fine-tuning
            after each; "mask-sparsity", which first makes sparse what will be removed.
        repair: "none", "bn", "absorb", "obs" or "auto" (see `netwright.pruning.removal.repair`), or
            "fine-tune", which trains instead.
        data: Examples for importances and repairs: a tensor (N, ...), a `netwright.data.Part`, a `DataLoader`
            or another iterable of batches, or "gaussian" or "uniform" noise, which ``repair="obs"`` takes
            where there are none. At most 1024 examples are looked at. Labels matter to importances that take
            gradients only. `netwright.data.Splits` where something is trained.
        recipe: Train the smaller network so, after the repair; in stages, after each.
        distill: Follow the dense network's answers in that training.
        reinit: Draw fresh weights for the smaller network: pruning before training.
        seed: Of what draws at random.
        exclude: Names of modules or parameters, or patterns, that are left alone.
        round_to: Counts are multiples of this on axes of at least four times it; None takes 8 on axes of at
            least 32 where the budget allows; 1 takes any count.
        heads: "whole" removes attention heads whole, "width" narrows all of them alike, "auto" does what the
            network's own code can hold: whole heads where possible, else narrower ones, else it rewrites the
            graph.
        check: Also compare the small network, before it is repaired, with the masked dense one in float64.
        device: Where to train.

    Returns:
        The smaller network and what was done.

    Raises:
        UsageError: if an argument is not understood, the parts do not fit together, or data are missing.
        BudgetError: if the budget is malformed or cannot be met; names the smallest that can.
        StructureError: if nothing can shrink, or the network's code cannot take other sizes.
        ModelError: if the model rejects the example or the data.
    """
    begun = time.perf_counter()
    if isinstance(exclude, str):
        raise UsageError("exclude is a list of names", f"write exclude=[{exclude!r}]")
    exclude = tuple(exclude)
    channel = _channel(granularity)
    limits = _limits(budget, keep, allocation)
    plan = _plan(schedule)
    trains = recipe is not None or distill or repair == "fine-tune" or plan != "one-shot"
    if allocation == "tas" or isinstance(allocation, Tas):
        given = {
            "importance": importance != "magnitude",
            "granularity": channel is not None,
            "schedule": plan != "one-shot",
            "repair": repair != "auto",
            "heads": heads != "auto",
            "round_to": round_to is not None,
            "check": check,
        }
        _check_unused("allocation tas", given)
        if not isinstance(data, Splits):
            raise UsageError("allocation tas searches on data", 'give data=netwright.data.load("...")')
        return tas(
            model,
            example,
            limits,
            data,
            allocation if isinstance(allocation, Tas) else None,
            recipe=recipe,
            distill=distill,
            exclude=exclude,
            seed=seed,
            device=device,
            trains=trains,
        )
    spread: ChannelAllocations = allocation
    _check_together(model, data, importance, repair, plan, trains, distill, reinit)
    if plan == "mask-sparsity":
        given = {
            "granularity": channel is not None,
            "allocation": allocation != "global",
            "repair": repair != "auto",
            "distill": distill,
            "an importance as an object": not isinstance(importance, str),
            "heads": heads != "auto",
            "round_to": round_to is not None,
            "check": check,
        }
        _check_mask_sparsity(given, recipe)
        assert recipe is not None and isinstance(importance, str)
        source = "bn-scale" if importance == "magnitude" else importance
        found = mask_sparsity(
            model,
            example,
            limits,
            data,
            recipe,
            importance=source,
            device=device,
            seed=seed,
            exclude=exclude,
        )
        return dataclasses.replace(found, notes=[*found.notes, f"the mask was chosen by {source}"])

    def remove(network: nn.Module, bound: Any, how_heads: str = heads) -> Pruned:
        return remove_channels(
            network,
            example,
            bound,
            importance=importance,
            channel=channel,
            allocation=spread,
            repair="none" if reinit or repair == "fine-tune" else repair,
            data=data.train if isinstance(data, Splits) else data,
            seed=seed,
            exclude=exclude,
            round_to=round_to,
            heads=how_heads,
            check=check,
        )

    if isinstance(plan, Cycles):
        train = _trainer(model, data, plan.retrain or recipe or FINE_TUNE, distill, device)
        staged = in_stages(model, example, limits, plan, remove, train, exclude=exclude, heads=heads)
        return dataclasses.replace(staged, seconds=time.perf_counter() - begun)
    pruned = remove(model, limits)
    if reinit:
        reinitialise_(pruned.model, seed)
        masks = MaskState.of(pruned.model)
        if masks is not None:
            masks.apply_()
        notes = [*pruned.notes, "its weights are fresh: it has to be trained"]
        pruned = dataclasses.replace(pruned, notes=notes if not trains else pruned.notes)
    if trains:
        train = _trainer(model, data, recipe or (Recipe() if reinit else FINE_TUNE), distill, device)
        network, history = train(pruned.model)
        pruned = dataclasses.replace(pruned, model=network, history=history)
    if trains or reinit:
        pruned = dataclasses.replace(pruned, seconds=time.perf_counter() - begun)
    return pruned


def _channel(granularity: str | Granularity) -> Channel | None:
    """The granularity, None for the default."""
    if granularity == "channel":
        return None
    found = find_granularity(granularity)
    if not isinstance(found, Channel):
        raise UsageError(
            f"granularity {found.name!r} keeps the shapes, and prune removes whole channels",
            f'use netwright.sparsify(..., granularity="{found.name}")',
        )
    return None if found == Channel() else found


def _check_unused(what: str, given: Mapping[str, bool]) -> None:
    """Refuse arguments that have no use.

    Args:
        what: Says who has none.
        given: Argument -> whether it was given.

    Raises:
        UsageError: naming the argument.
    """
    for name, there in given.items():
        if there:
            raise UsageError(f"{what} does not take {name}", "leave it out")


def _limits(budget: Any, keep: float | None, allocation: ChannelAllocations | Tas) -> Any:
    if budget is not None and keep is not None:
        raise UsageError("both a budget and keep= are given", "give one of them")
    if budget is None and keep is None and not isinstance(allocation, Mapping):
        raise UsageError("say how much stays", 'keep=0.5, or budget="macs=0.5"')
    return Budget(keep=keep) if keep is not None else budget


def _plan(schedule: str | Cycles | Schedule) -> str | Cycles:
    """When channels go: "one-shot", "mask-sparsity" or the cycles of removal and training.

    Raises:
        UsageError: for what changes masks while training, or rewinds.
    """
    if schedule in ("one-shot", "mask-sparsity"):
        return str(schedule)
    cycles = find_cycles(schedule)
    if cycles is not None:
        if cycles.what != "none":
            raise UsageError(
                "rewinding goes back to weights of the larger shapes, which removed channels have left",
                'take schedule="iterative", or netwright.sparsify(..., schedule="lottery")',
            )
        return cycles
    if isinstance(schedule, Schedule) or schedule in list_schedules():
        if type(schedule) is Schedule and schedule.at == 0:
            return "one-shot"
        name = schedule if isinstance(schedule, str) else type(schedule).__name__
        raise UsageError(
            f"schedule {name!r} changes masks at every few steps, and channels are removed for good",
            'take schedule="one-shot" or "iterative", or netwright.sparsify(..., granularity="row")',
        )
    raise UsageError(
        f"there is no schedule {schedule!r} for channels", "choose from one-shot, iterative, mask-sparsity"
    )


def _check_together(
    model: nn.Module,
    data: Any,
    importance: Any,
    repair: str,
    plan: str | Cycles,
    trains: bool,
    distill: bool,
    reinit: bool,
) -> None:
    """Refuse what makes no sense together.

    Raises:
        UsageError: with the reason.
    """
    if getattr(importance, "since_start", False):
        raise UsageError(
            f"importance {importance.name!r} compares with earlier weights of a training by masks",
            "use netwright.sparsify, or another importance",
        )
    if reinit and repair not in ("auto", "none"):
        raise UsageError(
            f"repair {repair!r} mends weights, and fresh ones take their place", "leave repair out"
        )
    if reinit and plan != "one-shot":
        raise UsageError(
            "fresh weights are drawn once, before any training", 'take schedule="one-shot" with reinit'
        )
    if isinstance(model, OnnxNetwork) and (trains or reinit):
        raise UsageError("an ONNX graph cannot be trained", "leave recipe, distill, reinit and schedule out")
    if trains and not isinstance(data, Splits):
        what = "distillation" if distill else "training"
        raise UsageError(
            f"{what} needs data to train on", 'give data=netwright.data.load("..."), or Splits of your own'
        )


def _check_mask_sparsity(given: Mapping[str, bool], recipe: Recipe | None) -> None:
    """Refuse what the stages of mask-sparsity have no use for.

    Args:
        given: Argument -> whether it was given.
        recipe: Of its trainings.

    Raises:
        UsageError: naming the argument.
    """
    _check_unused("schedule mask-sparsity", given)
    if recipe is None:
        raise UsageError("mask-sparsity trains before it removes", "give recipe=")


def _trainer(
    dense: nn.Module, data: Splits, recipe: Recipe, distill: bool, device: str | torch.device
) -> Callable[[nn.Module], tuple[nn.Module, list[dict[str, Any]]]]:
    """Trains a network: -> the trained one, where the dense one is, and its history."""
    recipe = following(recipe, distill)
    home = next((p.device for p in dense.parameters()), torch.device("cpu"))

    def train(network: nn.Module) -> tuple[nn.Module, list[dict[str, Any]]]:
        masked = MaskState.of(network) is not None
        fitted = fit(
            network,
            data,
            recipe,
            teacher=dense if distill else None,
            device=device,
            callbacks=[Sparsity(1.0, schedule="one-shot")] if masked else [],  # it holds the masks there are
        )
        return fitted.model.to(home), fitted.history

    return train
