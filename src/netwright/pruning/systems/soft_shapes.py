"""Shapes of a soft network at a given cost: the probable ones brought to it, or drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch

from netwright.errors import BudgetError
from netwright.pruning.systems.soft_network import Shape, SoftNetwork
from netwright.structure import Budget

_TRIES = 50_000


def target_of(soft: SoftNetwork, budget: Budget | str) -> float:
    """A budget in multiply-accumulates.

    Raises:
        BudgetError: if it is another one, or below the smallest candidates.
    """
    budget = Budget.parse(budget)
    if budget.macs is None or len(budget.limits) != 1:
        raise BudgetError(
            "widths and depths are searched for a limit of macs, no other", 'give budget="macs=0.5"'
        )
    target = float(budget.macs.against(soft.net.macs))
    least = soft.macs([0] * len(soft.candidates))
    if least > target:
        raise BudgetError(
            f"macs of at most {target:,.0f} cannot be met: the smallest candidates have {least:,}",
            f"ask for macs={math.ceil(1000 * least / soft.net.macs) / 1000:g} or more",
        )
    return target


def at_budget(soft: SoftNetwork, index: Iterable[int], target: float) -> tuple[int, ...]:
    """Candidates within a budget and close to it, near to given ones: a greedy knapsack over the choices.

    While they cost too much, the choice goes to its next smaller candidate that loses least log probability
    for what that saves; savings beyond the budget count for nothing, so that a small overshoot is not paid
    with a whole block. Then, where there is room, the choice goes to its next larger candidate that loses
    least (or gains most) for what that costs, until no single one fits any more. What is found costs at most
    the budget, and nothing that is one candidate larger does.

    Args:
        soft: The network, whose probabilities decide.
        index: Candidates to begin with, as in `Shape`; the most probable ones, for instance.
        target: Multiply-accumulates.

    Returns:
        Candidates, as in `Shape`.

    Raises:
        BudgetError: if the smallest candidates cost more.
    """
    found, logs = list(index), [row.tolist() for row in soft.log_probabilities()]
    now = soft.macs(found)

    def steps(by: int) -> Iterator[tuple[float, int, int]]:
        """Log probability lost, number of the choice, and cost after it, of every single step."""
        for k, j in enumerate(found):
            if 0 <= j + by < len(logs[k]):
                other = soft.macs([*found[:k], j + by, *found[k + 1 :]])
                if (other - now) * by > 0:  # a width of a block that is not there costs nothing
                    yield logs[k][j] - logs[k][j + by], k, other

    while now > target:
        smaller = [(lost / min(now - cost, now - target), k, cost) for lost, k, cost in steps(-1)]
        if not smaller:
            raise BudgetError(
                f"macs of at most {target:,.0f} cannot be met", f"the smallest candidates have {now:,}"
            )
        _, k, now = min(smaller)
        found[k] -= 1
    while larger := [(lost / (cost - now), k, cost) for lost, k, cost in steps(1) if cost <= target]:
        _, k, now = min(larger)
        found[k] += 1
    return tuple(found)


def random_shape(soft: SoftNetwork, target: float, generator: torch.Generator, within: float = 0.02) -> Shape:
    """A shape drawn evenly from the candidates among those at most a share below a cost.

    Args:
        soft: The network.
        target: Multiply-accumulates.
        generator: Of the draw.
        within: How far below the target it may cost.

    Raises:
        BudgetError: if none was found in many draws.
    """
    counts = torch.tensor([len(c) for c in soft.candidates])
    for _ in range(_TRIES):
        index = (torch.rand(len(counts), generator=generator) * counts).long().tolist()
        if (1 - within) * target <= soft.macs(index) <= target:
            return soft.shape(index)
    raise BudgetError(
        f"no shape of about {target:,.0f} macs was drawn in {_TRIES:,} times", "allow more within="
    )
