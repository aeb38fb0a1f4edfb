"""Two levels in turn: architecture parameters on examples of their own, then the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netwright.data import Part
from netwright.errors import UsageError
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.gradient import GradientAlpha
from netwright.supernets.training.paths import Paths
from netwright.train import Batch, Pass, State


@dataclass
class Bilevel(Paths):
    """Alternates: a step of the architecture parameters on other examples, then one of the weights.

    Attributes:
        held: The examples that the architecture parameters learn from.
        seed: Of their order.
    """

    held: Part | None = None
    seed: int = 0

    def __call__(self, run: Pass, batch: Batch, model: nn.Module, state: State) -> Tensor:
        """Run both steps; returns the loss of the second."""
        assert isinstance(model, Elastic)
        sampler = self.sampler
        if isinstance(sampler, GradientAlpha) and sampler.learns:
            if self.held is None or not len(self.held):
                raise UsageError("architecture parameters need examples of their own", "give held=")
            device = batch.inputs.device
            x, y = held_batch(self.held, len(batch.inputs), state.step, self.seed)
            draw = sampler.to_learn(state.step)
            draw.apply(model, len(x), device)
            self._count(model, draw, len(x))
            run(Batch(x.to(device), y.to(device)))
            model.zero_grad(set_to_none=True)  # only the architecture parameters learn from these
            sampler.learn()
        return super().__call__(run, batch, model, state)


def held_batch(part: Part, size: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
    """The examples of one step, all of a part in a new order again and again.

    Args:
        part: The examples.
        size: How many; no more than there are.
        step: Its number.
        seed: Of the orders.

    Returns:
        Inputs and targets.
    """
    size = min(size, len(part))
    turn, place = divmod(step, max(len(part) // size, 1))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
    order: Sequence[int] = torch.randperm(len(part), generator=generator)[place * size : (place + 1) * size]  # type: ignore[assignment]
    return next(iter(part.subset(order).batches(size)))
