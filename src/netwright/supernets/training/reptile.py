"""Paths that learn by themselves for a few steps, and a supernet that moves towards where they went.

H. Ha, J.-H. Kim, S. Park and B. Zhang, SUMNAS: Supernet with Unbiased Meta-Features for Neural Architecture
Search, ICLR 2022: a step of Reptile (A. Nichol, J. Achiam and J. Schulman, 2018) whose tasks are the paths.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.training.paths import Paths
from netwright.train import Batch, Pass, State


@dataclass
class Reptile(Paths):
    """Every path of a step takes inner steps from the same weights; the gradient is the way back from there.

    What the optimiser of the training gets is the mean over the paths of the weights before less those after
    the inner steps: with plain SGD of learning rate 1 the supernet moves to the mean of the paths' weights.

    Attributes:
        inner_steps: Of every path, on the batch of the step.
        inner_lr: Their learning rate.
        inner_momentum: Their momentum.
        clip_norm: Largest norm of their gradients, or None.
        keep: Whether the momentum lives on from path to path and step to step, as in the code of PA&DA's
            authors; a checkpoint does not hold it.

    Raises:
        UsageError: if there is no inner step.
    """

    inner_steps: int = 2
    inner_lr: float = 0.05
    inner_momentum: float = 0.9
    clip_norm: float | None = 5.0
    keep: bool = False
    _kept: torch.optim.Optimizer | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_steps < 1:
            raise UsageError(f"inner_steps={self.inner_steps} move nothing", "give 1 or more")

    def __call__(self, run: Pass, batch: Batch, model: nn.Module, state: State) -> Tensor:
        """Run the paths of one step; returns the mean loss of all their inner steps."""
        assert isinstance(model, Elastic)
        parameters = [p for p in model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in parameters]
        back = [torch.zeros_like(p) for p in before]
        draws = self.sampler.draw(state.step)
        whole = sum(draw.weight for draw in draws)
        losses = []
        for draw in draws:
            draw.apply(model, len(batch.inputs), batch.inputs.device)
            inner = self._inner(parameters)
            for _ in range(self.inner_steps):
                inner.zero_grad(set_to_none=True)
                self._count(model, draw, len(batch.inputs))
                seen, loss = run(batch, self.rule.objective(draw, None))
                if self.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
                inner.step()
                losses.append(loss)
            self.sampler.observe(draw, seen, loss)
            _return(parameters, before, back, draw.weight / whole)
        for parameter, way in zip(parameters, back, strict=True):
            parameter.grad = way
        model.set(model.blueprint.full)
        return torch.stack(losses).mean()

    def _inner(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of a path's inner steps."""
        known = self._kept
        if known is None or known.param_groups[0]["params"][0] is not parameters[0]:
            known = torch.optim.SGD(parameters, lr=self.inner_lr, momentum=self.inner_momentum)
        self._kept = known if self.keep else None
        return known


@torch.no_grad()
def _return(parameters: list[nn.Parameter], before: list[Tensor], back: list[Tensor], share: float) -> None:
    """Note the way back, times a share, and go it."""
    for parameter, start, way in zip(parameters, before, back, strict=True):
        way.add_(start - parameter, alpha=share)
        parameter.copy_(start)
