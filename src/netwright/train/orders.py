"""Which examples an epoch sees, in which order, where that is not simply a shuffle of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class Order(Protocol):
    """Chooses the examples of every epoch, may learn from the answers, and is saved with the training."""

    def draw(self, epoch: int, count: int, generator: torch.Generator) -> Tensor:
        """Positions of the examples in the training part, (n,) int64; an example may come several times.

        Args:
            epoch: From 0.
            count: Examples of the training part.
            generator: Of the epoch.
        """
        ...

    def weights(self, positions: Tensor) -> Tensor | None:
        """What the losses of examples are multiplied by, (B,) float32; None is 1.

        Args:
            positions: (B,) int64.
        """
        ...

    def observe(self, positions: Tensor, logits: Tensor, targets: Tensor) -> None:
        """After every backward pass.

        Args:
            positions: (B,) int64.
            logits: (B, K), detached.
            targets: (B,) classes.
        """
        ...

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """After the last step of an epoch.

        Args:
            epoch: From 0.
            epochs: Of the whole training.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must be saved in a checkpoint: tensors, numbers, strings, lists and dicts."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...
