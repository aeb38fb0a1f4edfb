"""Random channels instead of leading ones: what a nested order is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from netwright.structure.sizes import index_maps
from netwright.supernets.network.binding import Plan
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.base import Draw, Sampler


@dataclass(frozen=True)
class _Scattered(Draw):
    """A draw whose channels lie anywhere.

    Attributes:
        seed: Of the channels.
    """

    seed: int = 0

    def apply(self, sup: Elastic, batch: int, device: Any = None) -> None:
        """Set a supernet to as many channels as the choice says, drawn at random."""
        sup.set(self.choice)
        sup.scatter(_scattered(sup, self.seed))


class RandomSubsets(Sampler):
    """Sub-networks of random numbers of channels, which are drawn anew for every draw (no nested order).

    Args:
        draws: Sub-networks a step.
        seed: Of the draws.
    """

    def __init__(self, draws: int = 2, seed: int = 0) -> None:
        super().__init__(seed)
        self.draws = draws

    def draw(self, step: int) -> list[Draw]:
        """Independent draws."""
        assert self.space is not None
        rng, space = self.rng(step), self.space
        return [
            _Scattered((space.sample(rng),), weight=1.0 / self.draws, seed=int(rng.integers(2**31)))
            for _ in range(self.draws)
        ]


def _scattered(sup: Elastic, seed: int) -> Plan:
    """The plan of the present choice with other members of every part."""
    blueprint, generator = sup.blueprint, torch.Generator().manual_seed(seed)
    net, keep = blueprint.structure, blueprint.keep(sup.choice)
    for axis in {a for width in blueprint.widths for a in width.axes}:
        for part in net.axes[axis].parts:
            order: Tensor = torch.randperm(len(part), generator=generator)
            keep[part] = keep[part][order]
    cuts = {n: tuple(dims.items()) for n, dims in index_maps(net.layers, keep).items()}
    return replace(sup.plan, cuts=cuts)
