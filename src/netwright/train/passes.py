"""What runs forward and backward in one optimiser step: one pass, or several whose gradients add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from netwright.train.callbacks import State
from netwright.train.losses import Objective, Step


@dataclass(frozen=True)
class Batch:
    """The examples of one step, on the device.

    Attributes:
        inputs: (B, ...).
        targets: (B, ...), see `losses.Step`.
        other: Labels of the examples mixed in, or None.
        share: Weight of `targets` against `other`.
        teacher: The teacher's logits, or None.
        positions: (B,) of the examples in the training part, on the CPU, where an order of its own chose
            them, or None.
        weights: (B,) what their losses are multiplied by, or None.
    """

    inputs: Tensor
    targets: Tensor
    other: Tensor | None = None
    share: float = 1.0
    teacher: Tensor | None = None
    positions: Tensor | None = None
    weights: Tensor | None = None


class Pass(Protocol):
    """One forward and backward pass; gradients add up until the optimiser's step."""

    def __call__(
        self, batch: Batch, objective: Objective | None = None, weight: float = 1.0
    ) -> tuple[Step, Tensor]:
        """Run one.

        Args:
            batch: The examples.
            objective: The loss; the training's own when None.
            weight: What the gradients are multiplied by.

        Returns:
            What the objective saw, and the loss, detached.
        """
        ...


class Passes(Protocol):
    """What a step consists of."""

    def __call__(self, run: Pass, batch: Batch, model: nn.Module, state: State) -> Tensor:
        """Run the passes of one step.

        Args:
            run: Runs one.
            batch: The examples of the step.
            model: The network being trained.
            state: Where the training stands.

        Returns:
            The loss to report, detached.
        """
        ...
