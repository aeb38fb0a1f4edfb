"""Stability of a subnetwork's training: how far two results lie from each other, and in which directions.

J. Frankle, G. K. Dziugaite, D. M. Roy and M. Carbin, Stabilizing the Lottery Ticket Hypothesis, 2019,
section 4. *To pruning*: between the full network's result and that of the subnetwork, trained with the same
data in the same order, on the weights that the subnetwork has. *To the order of the data*: between two
results of the subnetwork, trained in two orders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.masks.selection import Masks

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stability:
    """How two results of training lie to each other.

    Attributes:
        distance: Euclidean distance of their weights.
        angle: Angle between their ways from the common beginning, in degrees; NaN where one did not move.
    """

    distance: float
    angle: float


def stability(one: nn.Module | State, other: nn.Module | State, start: State, masks: Masks) -> Stability:
    """Compare two results of training on the weights that masks keep.

    Args:
        one: A trained network or its state.
        other: Another, of the same shapes.
        start: State of the network where both began, or parted.
        masks: Weight -> mask; only weights with a mask count, and of these only what stays.

    Raises:
        UsageError: if a weight is missing in one of them.
    """
    first, second = (_state(m) for m in (one, other))
    vectors = []
    for state in (first, second, start):
        missing = [n for n in masks if n not in state]
        if missing:
            raise UsageError(f"one of the networks has no {missing[0]}", "give networks of the same shapes")
        vectors.append(
            torch.cat([(state[n].detach().cpu().double() * m.cpu()).reshape(-1) for n, m in masks.items()])
        )
    a, b, origin = vectors
    return Stability(float(torch.linalg.vector_norm(a - b)), _degrees(a - origin, b - origin))


def _state(network: nn.Module | State) -> State:
    return network.state_dict() if isinstance(network, nn.Module) else network


def _degrees(a: Tensor, b: Tensor) -> float:
    lengths = torch.linalg.vector_norm(a), torch.linalg.vector_norm(b)
    if not float(lengths[0]) or not float(lengths[1]):
        return math.nan
    # By half angles, which keep their digits where the arc cosine loses them: for ways nearly alike.
    u, v = a / lengths[0], b / lengths[1]
    half = torch.atan2(torch.linalg.vector_norm(u - v), torch.linalg.vector_norm(u + v))
    return float(torch.rad2deg(2 * half))
