"""One cut: a network, an example and a budget in; a smaller network out. The verb is in `structured`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from netwright import structure
from netwright.errors import StructureError, UsageError
from netwright.pruning.allocations.allocation import allocate, parse_budget
from netwright.pruning.allocations.density_allocation import (
    ByDensity,
    ChannelAllocations,
    check_allocation,
    resolve,
)
from netwright.pruning.allocations.latency import within_latency
from netwright.pruning.allocations.limits import Limits, check_budget
from netwright.pruning.allocations.widths import Widths, check_round_to
from netwright.pruning.importances.importance import Importance, find_importance, require_data
from netwright.pruning.importances.members import score_channels
from netwright.pruning.masks.granularity import Channel
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.masks.masked import bare, carry_masks, masked_repair
from netwright.pruning.removal.repair import check_repair, repair_
from netwright.pruning.removal.result import Pruned
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Budget, Structure
from netwright.structure.collecting import uncollected

#: Largest relative difference of the small network from the masked dense one, in float64.
_TOLERANCE = 1e-6
#: What is tried one after another: how heads shrink, and how the surgery is done.
_WAYS = {"auto": (("whole", "in place"), ("width", "in place"), ("whole", "auto"), ("width", "auto"))}


def remove_channels(
    model: nn.Module,
    example: Any,
    budget: Budget | str | float | None,
    *,
    importance: str | Importance = "magnitude",
    channel: Channel | None = None,
    allocation: ChannelAllocations = "global",
    repair: str = "auto",
    data: Any = None,
    seed: int = 0,
    exclude: Iterable[str] = (),
    round_to: int | None = None,
    heads: str = "auto",
    check: bool = False,
) -> Pruned:
    """Remove the least important channels, heads and features of a network until it fits a budget.

    The result is a new module of the same class with really smaller weights. It never exceeds the budget.
    A network with masks (see `MaskState`) is cut as the network that it computes, and keeps its masks, cut
    like the weights.

    Args:
        model: Any module; it is not touched.
        example: A tensor, a tuple of arguments or a dict of keyword arguments for the model.
        budget: Limits on ``macs``, ``params``, ``size``, ``latency`` or ``keep``, as a `Budget` or as text
            such as ``"macs=0.5"``. ``keep`` is a share of all units of the axes that can shrink. A bare
            number is a ``keep``. A latency is measured in ONNX Runtime on this machine, with one thread. None
            where densities are given that say it all.
        importance: Which units stay: a name (see `list_importances`) or a function of (structure, model,
            examples) that returns one score for every class.
        channel: How scores are aggregated and made comparable; None for `Channel()`.
        allocation: "global" sets one threshold over all axes, "uniform" keeps the same share of each; more in
            `netwright.pruning.allocations.density_allocation`.
        repair: "none", "bn", "obs" or "auto" (see `netwright.pruning.removal.repair`).
        data: Examples for importances and repairs: a tensor (N, ...), a `netwright.data.Part`, a `DataLoader`
            another iterable of batches, or "gaussian" or "uniform" noise, which ``repair="obs"`` takes where
            there are none. At most 1024 examples are looked at. Labels matter to importances that take
            gradients only.
        seed: Of what draws at random.
        exclude: Names of modules or parameters, or patterns, that are left alone.
        round_to: Counts are multiples of this on axes of at least four times it; None takes 8 on axes of at
            least 32 where the budget allows; 1 takes any count.
        heads: "whole" removes attention heads whole, "width" narrows all of them alike, "auto" does what the
            network's own code can hold: whole heads where possible, else narrower ones, else it rewrites the
            graph.
        check: Also compare the small network, before it is repaired, with the masked dense one in float64.

    Returns:
        The smaller network and what was done.

    Raises:
        UsageError: if an argument is not understood, or data are missing that it needs.
        BudgetError: if the budget is malformed or cannot be met; names the smallest that can.
        StructureError: if nothing can shrink, or the network's code cannot take other sizes.
        ModelError: if the model rejects the example or the data.
    """
    if isinstance(model, nn.Module) and MaskState.of(model) is not None:
        found = remove_channels(
            bare(model),
            example,
            budget,
            importance=importance,
            channel=channel,
            allocation=allocation,
            repair=masked_repair(repair, data),
            data=data,
            seed=seed,
            exclude=exclude,
            round_to=round_to,
            heads=heads,
            check=check,
        )
        carry_masks(model, found.model, found.kept, found.scales)
        return found
    if budget is not None or not isinstance(allocation, Mapping):
        budget = parse_budget(budget)  # type: ignore[arg-type]
        check_budget(budget)
    check_round_to(round_to)
    check_allocation(allocation)
    find_importance(importance)
    # Refitting without data takes noise: the products of weights decide then, not those of the data.
    examples = Examples("gaussian" if data is None and repair == "obs" else data, example, seed=seed)
    repair = check_repair(repair, examples)
    require_data(importance, examples)
    if isinstance(exclude, str):
        raise UsageError("exclude is a list of names", f"write exclude=[{exclude!r}]")
    exclude = tuple(exclude)
    # Where nothing is measured or looked at it takes a moment, in which the collector would find nothing.
    timed = budget is not None and budget.latency is not None
    remove = _removed if timed or examples else uncollected(_removed)
    return remove(
        model,
        example,
        budget,
        importance,
        channel,
        allocation,
        repair,
        examples,
        exclude,
        round_to,
        heads,
        check,
    )


def _removed(
    model: nn.Module,
    example: Any,
    budget: Budget | None,
    importance: str | Importance,
    channel: Channel | None,
    allocation: ChannelAllocations,
    repair: str,
    examples: Examples,
    exclude: tuple[str, ...],
    round_to: int | None,
    heads: str,
    check: bool,
) -> Pruned:
    """`remove_channels` with arguments that are understood."""
    begun = time.perf_counter()
    failures: list[StructureError] = []
    net: Structure | None = None
    for mode, how in _WAYS.get(heads, ((heads, "auto"),)):
        net = structure.trace(model, example, exclude=exclude, heads=mode, like=net)
        try:
            keep, shrunk, latency = _shrunk(
                model, net, importance, channel, examples, budget, allocation, round_to, how
            )
        except StructureError as failure:
            failures.append(failure)
            continue
        if failures and mode == "width":
            shrunk.notes.append(f"heads are narrowed alike, since with fewer heads {failures[0].message}")
        break
    else:
        raise failures[-1]
    error = _checked(model, net, keep, shrunk) if check else None
    notes = [
        *net.notes,
        *shrunk.notes,
        *repair_(shrunk.model, repair, net, model, keep, examples, shrunk.adopted),
    ]
    seconds = time.perf_counter() - begun
    return Pruned.of(net, keep, shrunk, notes=notes, seconds=seconds, latency=latency, error=error)


def _shrunk(
    model: nn.Module,
    net: Structure,
    importance: str | Importance,
    channel: Channel | None,
    examples: Examples,
    budget: Budget | None,
    allocation: ChannelAllocations,
    round_to: int | None,
    how: str,
) -> tuple[Tensor, structure.Shrunk, dict[str, float] | None]:
    """What stays, the smaller network, and its latency where the budget asks for one."""
    widths = Widths(net, score_channels(net, model, importance, examples, channel))
    spread = resolve(allocation, net, model, importance, examples, budget)
    if budget is None:
        assert isinstance(spread, ByDensity)
        keep = widths.mask(spread.exact(widths))
        return keep, structure.shrink(model, net, keep, how=how), None
    limits = Limits(widths, budget, _item_bytes(model))
    if budget.latency is not None:
        return within_latency(model, widths, limits, budget.latency, spread, round_to, how)
    keep = widths.mask(allocate(widths, limits, spread, round_to=round_to))
    return keep, structure.shrink(model, net, keep, how=how), None


def _checked(model: nn.Module, net: Structure, keep: Tensor, shrunk: structure.Shrunk) -> float:
    """The numeric error of a surgery.

    Raises:
        StructureError: if it is more than rounding.
    """
    error = structure.check(model, net, keep, shrunk.model, scales=shrunk.scales, kept=shrunk.kept).error
    if not error <= _TOLERANCE:
        raise StructureError(
            f"the smaller {net.name} differs from the masked dense network by {error:.2g}",
            "please report this",
        )
    return error


def _item_bytes(model: nn.Module) -> float:
    """Mean bytes of a parameter."""
    sizes = [(p.numel(), p.element_size()) for p in model.parameters()]
    return sum(n * s for n, s in sizes) / max(1, sum(n for n, _ in sizes))
