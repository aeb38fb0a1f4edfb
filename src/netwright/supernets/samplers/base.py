"""What a step trains, and what chooses it: one draw, and the protocol of path samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.space import SearchSpace
from netwright.supernets.network.elastic import Elastic
from netwright.train import Callback, Step


@dataclass(frozen=True)
class Draw:
    """One forward and backward pass of a step.

    Attributes:
        choices: The sub-network; several where the examples of the batch are divided among them.
        role: "max", "min" or "random": what a loss rule tells apart.
        weight: What its gradients are multiplied by.
    """

    choices: tuple[Choice, ...]
    role: str = "random"
    weight: float = 1.0

    @property
    def choice(self) -> Choice:
        """The sub-network, where there is one."""
        return self.choices[0]

    def apply(self, sup: Elastic, batch: int, device: Any = None) -> None:
        """Set a supernet to it; example j of several sub-networks has number j modulo their count.

        Args:
            sup: The supernet.
            batch: Number of examples.
            device: Where the examples are.
        """
        if len(self.choices) == 1:
            sup.set(self.choices[0])
        else:
            sup.set_many(self.choices, torch.arange(batch, device=device) % len(self.choices))


class Sampler(Callback, ABC):
    """Chooses what each step trains, may learn from what it sees, and is saved with the training.

    As a callback it is called around every step, with the gradients of the step in `before_step`.

    Args:
        seed: Of its draws; they depend on the seed and the step alone where nothing is learned.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.space: SearchSpace | None = None

    def attach(self, sup: Elastic) -> None:
        """Before the first step.

        Args:
            sup: The supernet that is trained.
        """
        self.space = sup.space

    def rng(self, step: int) -> np.random.Generator:
        """The generator of one step, so that a training may begin at any.

        Args:
            step: Its number.
        """
        return np.random.default_rng((self.seed, step))

    @abstractmethod
    def draw(self, step: int) -> list[Draw]:
        """What a step trains, in order.

        Args:
            step: Its number.
        """

    def correction(self, choice: Mapping[str, Any]) -> float:
        """What a choice's gradient is multiplied by so that all choices count alike in expectation.

        Args:
            choice: A canonical choice.
        """
        return 1.0

    def observe(self, draw: Draw, seen: Step, loss: Tensor) -> None:
        """After the backward pass of a draw.

        Args:
            draw: The draw.
            seen: Inputs, logits and targets of the pass.
            loss: Its loss, detached.
        """


def space_of(sampler: Sampler) -> SearchSpace:
    """The space of an attached sampler.

    Args:
        sampler: The sampler.

    Raises:
        UsageError: if it is attached to nothing.
    """
    if sampler.space is None:
        raise UsageError("the sampler is not attached to a supernet", "call sampler.attach(sup)")
    return sampler.space
