"""Allocations: from one budget to a count for every axis, never above it and as close below as steps allow.

An allocation is a family of widths that grows with one parameter; bisection finds the largest member that
fits, and what rounding leaves is given back step by step, the best first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from netwright.errors import StructureError, UsageError
from netwright.pruning.allocations.limits import Limits, check_budget
from netwright.pruning.allocations.widths import Widths, check_round_to
from netwright.structure import Budget, Structure
from netwright.structure.facts import obstacles

#: Under a global threshold no axis falls below this share, unless the budget cannot be met otherwise.
FLOOR = 0.1
_TOLERANCE = 1e-3

#: (widths, steps (A,), smallest counts (A,), whether counts fit) -> counts (A,) that fit.
Allocation = Callable[[Widths, Tensor, Tensor, Callable[[Tensor], bool]], Tensor]
_REGISTRY: dict[str, Allocation] = {}


def register_allocation(name: str) -> Callable[[Allocation], Allocation]:
    """Register an allocation under a kebab-case name.

    Args:
        name: The name that ``prune(allocation=...)`` takes.

    Raises:
        UsageError: if the name is taken.
    """

    def enter(function: Allocation) -> Allocation:
        if name in _REGISTRY:
            raise UsageError(f"there is an allocation {name!r} already", "choose another name")
        _REGISTRY[name] = function
        return function

    return enter


def list_allocations() -> list[str]:
    """Names of all allocations, in alphabetical order."""
    return sorted(_REGISTRY)


def find_allocation(name: str | Allocation) -> Allocation:
    """Look an allocation up; a function is returned as it is.

    Raises:
        UsageError: if there is none of that name.
    """
    if callable(name):
        return name
    if name not in _REGISTRY:
        raise UsageError(f"there is no allocation {name!r}", f"choose from {', '.join(list_allocations())}")
    return _REGISTRY[name]


@register_allocation("uniform")
def uniform(widths: Widths, steps: Tensor, least: Tensor, fits: Callable[[Tensor], bool]) -> Tensor:
    """The same share of every axis."""

    def at(share: float) -> Tensor:
        return widths.rounded(widths.sizes * share, steps, least)

    return _bisect_share(at, fits, 0.0, 1.0)


@register_allocation("global")
def global_threshold(widths: Widths, steps: Tensor, least: Tensor, fits: Callable[[Tensor], bool]) -> Tensor:
    """What lies above one threshold of the scores, but of every axis at least a tenth.

    Where the budget asks for less than a tenth of everything, all axes shrink alike below it.
    """
    return _threshold(widths.curve, widths, steps, least, fits)


@register_allocation("cost-aware")
def cost_aware(widths: Widths, steps: Tensor, least: Tensor, fits: Callable[[Tensor], bool]) -> Tensor:
    """As "global", with every score divided by the multiply-accumulates that a unit of its axis costs.

    Units are priced by what the dense network saves without one of them; where none saves any, by their
    parameters.
    """
    settings = torch.cat([widths.sizes[None], widths.sizes - torch.eye(len(widths.sizes)).long()])
    cost = widths.net.costs(widths.mask(settings.clamp(min=1))).double()  # (1 + A, 3)
    price = (cost[:1] - cost[1:])[:, :2]  # (A, 2)
    price = price[:, 0] if bool((price[:, 0] > 0).any()) else price[:, 1]
    price = price.clamp(min=float(price[price > 0].min()) if bool((price > 0).any()) else 1.0)
    return _threshold(widths.curve / price[widths.slot_axis], widths, steps, least, fits)


def _threshold(
    curve: Tensor, widths: Widths, steps: Tensor, least: Tensor, fits: Callable[[Tensor], bool]
) -> Tensor:
    """What lies above one threshold of a curve (S,), but of every axis at least `FLOOR`."""
    floor = widths.rounded(widths.sizes * FLOOR, steps, least)
    if not fits(floor):
        return _bisect_share(lambda s: widths.rounded(widths.sizes * s, steps, least), fits, 0.0, FLOOR)
    order = torch.argsort(curve, descending=True, stable=True)
    owner = widths.slot_axis[order]

    def at(slots: int) -> Tensor:
        counts = torch.bincount(owner[:slots], minlength=len(widths.sizes))
        return widths.rounded(counts.double(), steps, floor)

    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(at(middle)) else (low, middle)
    return at(low)


def allocate(
    widths: Widths, limits: Limits, allocation: str | Allocation = "global", *, round_to: int | None = None
) -> Tensor:
    """Choose the count of every axis.

    Args:
        widths: The ranked axes.
        limits: The budget.
        allocation: A registered name, or a function like those.
        round_to: Counts are multiples of this on every axis of at least four times it; None takes 8 on axes
            of at least 32, or nothing where that cannot meet the budget; 1 takes any count.

    Returns:
        (A,) counts.

    Raises:
        BudgetError: if not even the smallest network fits; names it.
        StructureError: if the network has no axis that can shrink.
        UsageError: if an argument is not understood.
    """
    check_round_to(round_to)
    family = find_allocation(allocation)
    if not len(widths.sizes):
        reasons = obstacles(widths.net) or "only its outputs and what was excluded have axes"
        raise StructureError("no axis of the network can shrink", f"{reasons} (see `netwright inspect`)")
    if bool(limits.fits(widths.sizes[None])[0]):
        return widths.sizes.clone()
    one = torch.ones_like(widths.sizes)
    steps = widths.steps(round_to)
    if round_to is None and not bool(limits.fits(steps[None])[0]):
        steps = one
    least = torch.minimum(steps, widths.sizes)
    if not bool(limits.fits(least[None])[0]):
        hint = "or take round_to=1" if bool((steps > 1).any()) else None
        raise limits.unmet(least, hint)
    counts = family(widths, steps, least, lambda c: bool(limits.fits(c[None])[0]))
    return _give_back(widths, limits, counts, steps, even=allocation == "uniform")


def select(
    net: Structure,
    scores: Tensor,
    budget: Budget | str | float,
    allocation: str = "global",
    round_to: int | None = None,
) -> Tensor:
    """Choose what stays under a budget.

    Args:
        net: The structure.
        scores: (count,), larger stays.
        budget: Limits on keep, macs, params or size.
        allocation: "global" or "uniform".
        round_to: See `allocate`.

    Returns:
        The keep mask, (count,) bool.

    Raises:
        BudgetError: if the budget cannot be met; names the smallest possible.
        UsageError: if an argument is not understood.
    """
    budget = parse_budget(budget)
    if budget.latency is not None:
        raise UsageError("a latency has to be measured", "use netwright.pruning.prune, which does")
    check_budget(budget)
    widths = Widths(net, scores)
    limits = Limits(widths, budget)
    return widths.mask(allocate(widths, limits, allocation, round_to=round_to))


def parse_budget(budget: Budget | str | float) -> Budget:
    """Read a budget; a bare number is a share of every axis, as in ``keep=0.5``."""
    if isinstance(budget, (int, float)) and not isinstance(budget, bool):
        return Budget(keep=float(budget))
    if not isinstance(budget, (str, Budget)):
        raise UsageError(
            f"a budget of type {type(budget).__name__} is not understood",
            'give nw.Budget(macs=0.5) or "macs=0.5"',
        )
    return Budget.parse(budget)


def _bisect_share(
    at: Callable[[float], Tensor], fits: Callable[[Tensor], bool], low: float, high: float
) -> Tensor:
    best = at(low)
    for _ in range(24):
        middle = (low + high) / 2
        counts = at(middle)
        if fits(counts):
            low, best = middle, counts
        else:
            high = middle
    return best


def _give_back(widths: Widths, limits: Limits, counts: Tensor, steps: Tensor, *, even: bool) -> Tensor:
    """Spend what rounding left: add steps to axes, the most wanted first, until no step fits.

    Costs only grow, so an axis whose step does not fit now is not tried again.
    """
    live = torch.ones(len(counts), dtype=torch.bool)
    while limits.spent(counts) <= 1 - _TOLERANCE:
        live &= counts < widths.sizes
        axes = live.nonzero().reshape(-1)
        if not len(axes):
            break
        wanted = (
            -counts[axes] / widths.sizes[axes] if even else widths.curve[widths.starts[axes] + counts[axes]]
        )
        axes = axes[torch.argsort(wanted, descending=True, stable=True)]
        counts, taken = _longest(widths, limits, counts, steps, axes)
        live[axes[taken : taken + 1]] = False
    return counts


def _longest(
    widths: Widths, limits: Limits, counts: Tensor, steps: Tensor, axes: Tensor
) -> tuple[Tensor, int]:
    """One step on as many of the first of `axes` as fit together; returns the counts and how many."""

    def at(n: int) -> Tensor:
        more = counts.clone()
        more[axes[:n]] = torch.minimum(counts[axes[:n]] + steps[axes[:n]], widths.sizes[axes[:n]])
        return more

    low, high, span = 0, len(axes) + 1, 1
    while high - low > 1:
        middle = min(low + span, (low + high) // 2 if high <= len(axes) else len(axes))
        if bool(limits.fits(at(middle)[None])[0]):
            low, span = middle, 2 * span
        else:
            high, span = middle, max(1, (middle - low) // 2)
    return at(low), low
