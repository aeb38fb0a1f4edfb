"""Shapes of a soft network at a given cost: made smaller until they fit, or drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterable

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


def lowered(soft: SoftNetwork, index: Iterable[int], target: float) -> tuple[int, ...]:
    """Candidates within a budget: the next smaller one, where probability suffers least for what it saves.

    When it fits, what was made smaller is made larger again where that still fits.

    Args:
        soft: The network.
        index: Candidates to begin with.
        target: Multiply-accumulates.
    """
    wanted = list(index)
    index = list(wanted)
    logs = soft.log_probabilities()
    now = soft.macs(index)
    while now > target:
        options = []
        for k, j in enumerate(index):
            if j:
                other = soft.macs([*index[:k], j - 1, *index[k + 1 :]])
                if other < now:
                    options.append((float(logs[k][j] - logs[k][j - 1]) / (now - other), k, other))
        if not options:
            raise BudgetError(f"macs of at most {target:,.0f} cannot be met")
        _, k, now = min(options)
        index[k] -= 1
    while True:
        again = []
        for k, j in enumerate(index):
            if j < wanted[k] and soft.macs([*index[:k], j + 1, *index[k + 1 :]]) <= target:
                again.append((float(logs[k][j] - logs[k][j + 1]), k))
        if not again:
            return tuple(index)
        index[min(again)[1]] += 1


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
