"""How much the gradients of a supernet's steps vary with the paths and examples that are drawn."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from netwright.data import ImportanceSampler, Part
from netwright.errors import UsageError
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.base import Sampler
from netwright.train.losses import cross_entropy

#: Steps whose draws no training has made.
_FIRST_STEP = 2**31


@dataclass(frozen=True)
class GradientVariance:
    """Moments of the gradient of a step, all parameters as one vector.

    Attributes:
        variance: E|g - E g|^2, unbiased.
        square: E|g|^2.
        draws: Steps it was measured on.
    """

    variance: float
    square: float
    draws: int

    @property
    def relative(self) -> float:
        """The variance by the squared norm of the mean gradient; infinite where that is not above 0."""
        signal = self.square - self.variance
        return self.variance / signal if signal > 0 else float("inf")


def gradient_variance(
    sup: Elastic,
    sampler: Sampler,
    data: Part,
    *,
    n: int = 64,
    order: ImportanceSampler | None = None,
    batch_size: int = 100,
    weighted: bool = True,
    seed: int = 0,
) -> GradientVariance:
    """Variance of the gradient of a step, over the paths of a sampler and the examples of an order.

    Args:
        sup: The supernet; it is left alone.
        sampler: Chooses the paths as its state is now; attached to the supernet.
        data: Training examples, with classes.
        n: Steps to measure, 2 or more.
        order: Chooses the examples as its state is now; uniform when None.
        batch_size: Examples of a step.
        weighted: Divide gradients by how much likelier than all others a path and an example are, so that
            every sampler estimates the same gradient; else measure the step that the training makes.
        seed: Of the draws.

    Raises:
        UsageError: if there are fewer than two steps.
    """
    if n < 2:
        raise UsageError(f"n={n} steps have no variance", "give 2 or more")
    model = copy.deepcopy(sup).train()
    sampler.attach(model) if sampler.space is None else None
    parameters = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    square = 0.0
    for k in range(n):
        positions = _positions(data, order, batch_size, generator)
        weights = order.corrections(positions) if order is not None and weighted else None
        x, y = next(data.subset(positions).batches(batch_size))
        x, y = x.to(parameters[0].device), y.to(parameters[0].device)
        model.zero_grad(set_to_none=True)
        for draw in sampler.draw(_FIRST_STEP + seed * n + k):
            draw.apply(model, len(x), x.device)
            share = draw.weight * (sampler.correction(draw.choice) if weighted else 1.0)
            loss = cross_entropy(model(x), y, weights=None if weights is None else weights.to(x.device))
            (loss * share).backward()  # type: ignore[no-untyped-call]
        vector = _vector(parameters)
        total = vector if total is None else total + vector
        square += float(vector @ vector)
    assert total is not None
    square /= n
    mean = total / n
    return GradientVariance((square - float(mean @ mean)) * n / (n - 1), square, n)


def _positions(
    data: Part, order: ImportanceSampler | None, batch_size: int, generator: torch.Generator
) -> Tensor:
    if order is None:
        return torch.randperm(len(data), generator=generator)[:batch_size]
    return order.draw(0, len(data), generator)[:batch_size]


def _vector(parameters: list[torch.nn.Parameter]) -> Tensor:
    """All gradients as one vector of doubles; 0 where a parameter had none."""
    return torch.cat(
        [
            (p if p.grad is None else p.grad).detach().reshape(-1).double() * (p.grad is not None)
            for p in parameters
        ]
    )
