"""Train a supernet: a sampler chooses the sub-networks of each step, a rule says what each learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from netwright.data import Splits
from netwright.errors import UsageError
from netwright.nas.space import SearchSpace
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.base import Draw, Sampler
from netwright.supernets.samplers.fixed import Sandwich
from netwright.train import (
    Batch,
    Callback,
    Fitted,
    Objective,
    Pass,
    Recipe,
    State,
    Step,
    distillation,
    fit,
)
from netwright.train.losses import cross_entropy


class Rule(Protocol):
    """What a draw learns from."""

    def objective(self, draw: Draw, first: Step | None) -> Objective | None:
        """The loss of a draw; None for that of the training.

        Args:
            draw: The draw.
            first: What the first draw of the step gave, for all but the first.
        """
        ...


@dataclass(frozen=True)
class HardLabels:
    """Every sub-network learns from the labels."""

    def objective(self, draw: Draw, first: Step | None) -> Objective | None:
        """The training's own."""
        return None


@dataclass(frozen=True)
class _Soft:
    """Cross entropy with another network's answers."""

    probabilities: Tensor

    def __call__(self, step: Step) -> Tensor:
        return cross_entropy(step.logits, self.probabilities)


@dataclass(frozen=True)
class InplaceDistill:
    """The largest sub-network learns from the labels, the others from its answers of the same step (BigNAS).

    Args:
        temperature: Softens the answers; at 1 the loss is the cross entropy with them.
    """

    temperature: float = 1.0

    def objective(self, draw: Draw, first: Step | None) -> Objective | None:
        """The largest's answers, detached, where the draw is not the largest itself.

        Raises:
            UsageError: if the step does not begin with the largest.
        """
        if draw.role == "max":
            return None
        if first is None:
            raise UsageError("in-place distillation needs the largest sub-network first", "use Sandwich()")
        teacher = first.logits.detach()
        if self.temperature == 1.0:
            return Objective(((1.0, _Soft(torch.softmax(teacher, dim=1))),))

        def follow(step: Step) -> Tensor:
            return distillation(step.logits, teacher, self.temperature)

        return Objective(((1.0, follow),))


@dataclass
class Paths:
    """The passes of a step: one for each draw; gradients add up.

    Attributes:
        sampler: Chooses the draws.
        rule: What they learn from.
        regularise: "all", or "max-only": dropout and stochastic depth act on the largest alone.
        macs: Multiply-accumulates of all forward passes so far, all examples together.
        passes: Forward and backward passes so far.
    """

    sampler: Sampler
    rule: Rule = field(default_factory=HardLabels)
    regularise: str = "all"
    macs: int = 0
    passes: int = 0

    def __post_init__(self) -> None:
        if self.regularise not in ("all", "max-only"):
            raise UsageError(f"regularise={self.regularise!r} is not known", 'choose "all" or "max-only"')

    def __call__(self, run: Pass, batch: Batch, model: nn.Module, state: State) -> Tensor:
        """Run the draws of one step; returns their mean loss."""
        assert isinstance(model, Elastic)
        losses, first = [], None
        for draw in self.sampler.draw(state.step):
            draw.apply(model, len(batch.inputs), batch.inputs.device)
            self._count(model, draw, len(batch.inputs))
            with _still(model, self.regularise == "max-only" and draw.role != "max"):
                seen, loss = run(batch, self.rule.objective(draw, first), draw.weight)
            first = seen if first is None else first
            self.sampler.observe(draw, seen, loss)
            losses.append(loss)
        model.set(model.blueprint.full)
        return torch.stack(losses).mean()

    def _count(self, sup: Elastic, draw: Draw, examples: int) -> None:
        self.passes += 1
        for choice in draw.choices:
            self.macs += sup.macs(choice) * examples // len(draw.choices)


@contextmanager
def _still(model: nn.Module, still: bool) -> Iterator[None]:
    """Let nothing be dropped while a pass runs."""
    dropping = [m for m in model.modules() if still and m.training and _drops(m)]
    try:
        for module in dropping:
            module.training = False
        yield
    finally:
        for module in dropping:
            module.training = True


def _drops(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return not module._modules and ("drop" in name or "stochasticdepth" in name)


def train(
    sup: Elastic,
    data: Splits,
    recipe: Recipe | None = None,
    *,
    sampler: Sampler | None = None,
    rule: Rule | None = None,
    regularise: str = "all",
    callbacks: Sequence[Callback] = (),
    paths: Paths | None = None,
    space: SearchSpace | None = None,
    **arguments: Any,
) -> Fitted:
    """Train a copy of a supernet.

    By default as BigNAS does: the largest, the smallest and two random sub-networks on every batch, the
    others taught by the largest; dropout acts on the largest alone.

    Args:
        sup: The supernet; it is copied.
        data: Splits.
        recipe: How to train.
        sampler: Chooses the sub-networks of each step.
        rule: What they learn from; in-place distillation for a sandwich, labels for others.
        regularise: "all" or "max-only"; see `Paths`.
        callbacks: Called around every step.
        paths: Sampler, rule and regularisation in one, with its counts of what was computed.
        space: What the sampler draws from, a part of the supernet's space; all of it when None.
        arguments: Further ones of `train.fit`.

    Returns:
        The trained supernet, set to its largest network, and what happened. The validation accuracies are the
        largest network's with the running statistics of all; `Elastic.calibrate` measures those of one.

    Raises:
        UsageError: if the rule and the sampler do not go together.
    """
    if paths is None:
        default = sampler is None
        sampler = Sandwich() if sampler is None else sampler
        if rule is None:
            rule = InplaceDistill() if isinstance(sampler, Sandwich) else HardLabels()
        paths = Paths(sampler, rule, "max-only" if default else regularise)
    paths.sampler.attach(sup)
    if space is not None:
        paths.sampler.space = space
    return fit(sup, data, recipe, callbacks=(paths.sampler, *callbacks), passes=paths, **arguments)
