"""A convex combination of networks that pool at different places, for search by gradient.

A network is a way through a grid: so many layers on, so many poolings behind. Networks that meet at a point
of the grid share all layers behind it, so a layer runs once for each number of poolings that may lie before
it, on the mean of what comes from the point with as many poolings and, pooled, from that with one less, each
weighted by the networks that go that way. With all weight on one network this is that network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.errors import UsageError
from netwright.supernets.network.masking import override_forward
from netwright.supernets.network.pooling import Poolings


class Grid:
    """One row of the grid on its way to the next layer: number of poolings -> image.

    Args:
        images: (B, C, H, W) each.
    """

    def __init__(self, images: dict[int, Tensor]) -> None:
        self.images = images

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Nothing but the next layer takes it.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "poolings are mixed where layers follow one another directly",
            "put what lies between them into modules",
        )


def flows(
    weights: Tensor, positions: Sequence[Sequence[int]], layers: int
) -> list[dict[int, tuple[Tensor, Tensor]]]:
    """How the weight of all networks flows through the grid; differentiable.

    Args:
        weights: (networks,) that sum to 1.
        positions: Of every network the layers that a pooling is in front of.
        layers: How many layers a pooling can be in front of.

    Returns:
        Of every layer: number of poolings before it -> the weight that comes without a pooling here, and that
        which comes with one. Points that no network goes through are left out.
    """
    found: list[dict[int, tuple[Tensor, Tensor]]] = []
    for layer in range(layers):
        depth = torch.tensor([sum(p <= layer for p in some) for some in positions], device=weights.device)
        here = torch.tensor([layer in some for some in positions], device=weights.device)
        row = {}
        for number in sorted(set(depth.tolist())):
            at = (depth == number).to(weights)
            row[number] = ((weights * at * ~here).sum(), (weights * at * here).sum())
        found.append(row)
    return found


def mix(
    network: nn.Module,
    poolings: Poolings,
    positions: Sequence[Sequence[int]],
    weights: Tensor,
    undo: list[Callable[[], None]],
) -> None:
    """Let a network run as the mixture of all places of its poolings until it is undone.

    Args:
        network: Without poolings.
        poolings: Where they can stand.
        positions: Of every network.
        weights: (networks,) that sum to 1; gradients reach them.
        undo: Takes what undoes it.
    """
    rows = flows(weights, positions, len(poolings.paths))
    for number, (path, row) in enumerate(zip(poolings.paths, rows, strict=True)):
        module = network.get_submodule(path)
        last = number + 1 == len(rows)
        override_forward(module, _layer(module, row, first=not number, last=last), undo)


def _layer(
    module: nn.Module, row: dict[int, tuple[Tensor, Tensor]], first: bool, last: bool
) -> Callable[..., Any]:
    inner = type(module).forward

    def forward(x: Any) -> Any:
        if first is not isinstance(x, Tensor):
            raise UsageError(
                "poolings are mixed where layers follow one another directly",
                "put what lies between them into modules",
            )
        given = {0: x} if first else x.images
        made = {}
        for number, (stay, pool) in row.items():
            total = float((stay + pool).detach())
            if total > 0:
                made[number] = inner(module, _met(given, number, stay, pool))
        return made[max(row)] if last else Grid(made)

    return forward


def _met(given: dict[int, Tensor], number: int, stay: Tensor, pool: Tensor) -> Tensor:
    """The mean of what meets at a point."""
    parts = []
    if number in given and float(stay.detach()) > 0:
        parts.append((stay, given[number]))
    if number - 1 in given and float(pool.detach()) > 0:
        parts.append((pool, F.max_pool2d(given[number - 1], 2)))
    total = stay + pool
    mixed = torch.stack([(w / total).to(h) * h for w, h in parts]).sum(dim=0)
    return mixed
