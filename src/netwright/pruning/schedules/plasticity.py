"""Pruning plasticity: how well a network recovers from being pruned at a point of its training.

S. Liu et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, NeurIPS 2021,
section 3: take the network as it is after t steps, prune it, train it for a short fixed time, and compare its
accuracy with that before pruning.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.pruning.allocations.choosing import Allocations
from netwright.pruning.schedules.schedule import Custom, Event, Growth
from netwright.pruning.schedules.sparsity import Sparsity
from netwright.train import Callback, Recipe, State, evaluate, fit


@dataclass(frozen=True)
class Plasticity:
    """What pruning at one point did.

    Attributes:
        step: Steps of training before.
        before: Accuracy at that point, not pruned.
        after: Accuracy when it was pruned and trained on.
    """

    step: int
    before: float
    after: float

    @property
    def gain(self) -> float:
        """The plasticity: accuracy gained since, below 0 where it did not recover."""
        return self.after - self.before


def plasticity(
    model: nn.Module,
    checkpoints: Mapping[int, Mapping[str, Tensor]],
    data: Splits,
    recipe: Recipe,
    *,
    prune: float = 0.5,
    steps: int = 100,
    regenerate: float | Literal["all"] = 0.0,
    by: Growth = "gradient",
    importance: Any = "magnitude",
    allocation: Allocations = "global",
    lr: float | None = None,
    exclude: Sequence[str] = (),
    optimizers: Mapping[int, Mapping[str, Any]] | None = None,
    judge: Part | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> list[Plasticity]:
    """Prune a network at some points of its training and train each for a short time.

    Pruning happens after the first of these steps, so that there is a gradient to regenerate by.

    Args:
        model: A network of the right shapes.
        checkpoints: Step -> state of the network there, as `netwright.train.Snapshots` takes them.
        data: Trained on, in the order that the whole training has at these steps.
        recipe: Of the whole training; its learning rates are gone on with.
        prune: Share of the weights that goes.
        steps: How long each is trained.
        regenerate: Share of each layer's remaining weights that is dropped and grown anew at once; with
            "all", as many grow as were pruned, as in the paper's experiment: of a dense network every weight
            that was pruned begins anew at zero, one step later.
        by: What decides where to grow.
        importance: What goes first.
        allocation: How the share is spread.
        lr: A constant learning rate instead of the recipe's.
        exclude: Weights left alone.
        optimizers: Step -> state of the optimiser there; it begins afresh where None.
        judge: What accuracy is measured on, the validation split where None.
        seed: Of what is drawn at random.
        device: Where to train.

    Returns:
        One record a checkpoint, in the order of their steps.

    Raises:
        UsageError: if nothing or everything would be pruned, or the training ends before.
    """
    if not 0 < prune < 1:
        raise UsageError(f"a share of {prune:g} cannot be pruned", "give a share between 0 and 1")
    part = data.val if judge is None else judge
    found, model = [], copy.deepcopy(model)
    for step in sorted(checkpoints):
        model.load_state_dict(checkpoints[step])
        events = {step + 1: Event(1 - prune, 0.0 if regenerate == "all" else regenerate, by)}
        if regenerate == "all":
            events[step + 2] = Event(restore=True)
        sparse = Sparsity(
            1 - prune,
            importance=importance,
            allocation=allocation,
            schedule=Custom(events=events),
            exclude=exclude,
            seed=seed,
        )
        callbacks: list[Callback] = [sparse] if lr is None else [ConstantRate(lr), sparse]
        fitted = fit(
            model,
            data,
            recipe,
            device=device,
            callbacks=callbacks,
            start=step,
            stop=step + steps,
            optimizer=(optimizers or {}).get(step),
        )
        if not sparse.changes:
            raise UsageError(
                f"the training has ended by step {step}", f"give checkpoints before, {steps} steps apart"
            )
        before, after = (
            evaluate(m, part, device=device, precision=recipe.precision).accuracy
            for m in (model, fitted.model)
        )
        found.append(Plasticity(step, before, after))
    return found


class ConstantRate(Callback):
    """Trains with one learning rate, whatever the recipe's schedule says.

    Args:
        lr: The learning rate.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def before_step(self, state: State) -> None:
        """Set it."""
        for group in state.optimizer.param_groups:
            group["lr"] = self.lr
