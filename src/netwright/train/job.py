"""What one training is about, how far it has come, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from netwright.train.averaging import Average
from netwright.train.callbacks import Callback
from netwright.train.losses import Objective
from netwright.train.orders import Order
from netwright.train.passes import Passes
from netwright.train.recipe import Recipe

if TYPE_CHECKING:
    from netwright.data import Splits


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Args:
        epoch: Present epoch, from 1.
        epochs: Epochs in all.
        step: Steps of this epoch that are done.
        steps: Steps of one epoch.
        loss: Mean loss of this epoch so far.
        accuracy: Latest validation accuracy, in 0..1, or None.
        lr: Present learning rate.
        seconds: Time spent so far.
        eta_seconds: Estimate of the time that is left.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float | None
    lr: float
    seconds: float
    eta_seconds: float


@dataclass(frozen=True)
class Fitted:
    """A trained network.

    Args:
        model: The network after the last epoch (its moving average where the recipe asks for one), on the
            device it was trained on (the CPU after several devices), in the mode that the given one had.
        history: One record an epoch: epoch, loss, accuracy (validation, or None), lr, seconds.
        seconds: Time spent, earlier runs of a resumed training included.
        best_accuracy: Highest validation accuracy of an epoch, or None where the split has no labels.
    """

    model: nn.Module
    history: list[dict[str, Any]]
    seconds: float
    best_accuracy: float | None

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy of `model`."""
        return self.history[-1]["accuracy"] if self.history else None


@dataclass(frozen=True)
class Job:
    """What one training is about; see `netwright.train.fit`."""

    model: nn.Module
    data: Splits
    recipe: Recipe
    teacher: nn.Module | None
    checkpoint: Path | None
    trainable: frozenset[str] | None
    objective: Objective
    callbacks: tuple[Callback, ...] = ()
    start: int = 0
    stop: int | None = None
    optimizer: Mapping[str, Any] | None = None
    average: Average | None = None
    passes: Passes | None = None
    order: Order | None = None
