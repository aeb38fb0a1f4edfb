"""What may act inside a training: called around every optimiser step, with the state of its own saved.

Sparse schedules, penalties and snapshots are callbacks. `fit` calls them; a loop of one's own does the same
with a `State` that it fills in.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class State:
    """Where a training stands, as its callbacks see it.

    Attributes:
        model: The network being trained, as the optimiser knows it.
        optimizer: The optimiser.
        steps: Optimiser steps of the whole training.
        steps_per_epoch: Optimiser steps of one epoch.
        step: Steps done: in `before_step` without the present one, in `after_step` with it.
        average: The moving average of the network, or None.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    steps_per_epoch: int
    step: int = 0
    average: nn.Module | None = None


class Callback:
    """Something that acts inside a training; every method may be left out."""

    def prepare(self, model: nn.Module) -> None:
        """Before the optimiser is made and a checkpoint is loaded: buffers may be added to the network."""

    def begin(self, state: State) -> None:
        """Before the first step, and after a checkpoint was loaded."""

    def before_step(self, state: State) -> None:
        """Between the backward pass and the optimiser's step: gradients may be changed in place."""

    def after_step(self, state: State) -> None:
        """After the optimiser's step and the update of the average; gradients are still those of the step."""

    def after_epoch(self, state: State, record: Mapping[str, Any]) -> None:
        """After an epoch was judged; `record` is its line of the history."""

    def state_dict(self) -> dict[str, Any]:
        """What must be saved in a checkpoint: tensors, numbers, strings, lists and dicts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class Snapshots(Callback):
    """Copies of a network's state after some steps.

    Args:
        steps: After how many steps; 0 is the network before the first.
        optimizer: Also keep the optimiser's state.

    Attributes:
        taken: Step -> copy of the model's ``state_dict``.
        optimizers: Step -> copy of the optimiser's.
    """

    def __init__(self, steps: Iterable[int], *, optimizer: bool = False) -> None:
        self.wanted = frozenset(steps)
        self.with_optimizer = optimizer
        self.taken: dict[int, dict[str, Tensor]] = {}
        self.optimizers: dict[int, dict[str, Any]] = {}

    def begin(self, state: State) -> None:
        """Copy the network before the first step where that is wanted."""
        self._take(state)

    def after_step(self, state: State) -> None:
        """Copy the network where this step is wanted."""
        self._take(state)

    def _take(self, state: State) -> None:
        if state.step not in self.wanted or state.step in self.taken:
            return
        self.taken[state.step] = {n: t.detach().clone() for n, t in state.model.state_dict().items()}
        if self.with_optimizer:
            self.optimizers[state.step] = copy.deepcopy(state.optimizer.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The copies taken so far."""
        return {
            "steps": list(self.taken),
            "taken": list(self.taken.values()),
            "optimizers": [self.optimizers.get(s) for s in self.taken],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the copies back."""
        self.taken = dict(zip(state["steps"], state["taken"], strict=True))
        found = zip(state["steps"], state["optimizers"], strict=True)
        self.optimizers = {step: one for step, one in found if one is not None}


class GradientNorms(Callback):
    """Norms of the gradients of some parameters, as the optimiser's step saw them.

    Args:
        names: Of the parameters; None is all that have two dimensions or more.
        every: Steps between two looks.

    Attributes:
        steps: After which steps they were looked at.
    """

    def __init__(self, names: Iterable[str] | None = None, every: int = 10) -> None:
        self.names = None if names is None else list(names)
        self.every = max(every, 1)
        self.steps: list[int] = []
        self._norms: dict[str, list[Tensor]] = {}

    @property
    def norms(self) -> dict[str, list[float]]:
        """Parameter -> its norms."""
        return {name: torch.stack(values).tolist() for name, values in self._norms.items()}

    def after_step(self, state: State) -> None:
        """Look, without waiting for the device."""
        if state.step % self.every:
            return
        self.steps.append(state.step)
        for name, parameter in state.model.named_parameters():
            wanted = parameter.dim() > 1 if self.names is None else name in self.names
            if wanted and parameter.grad is not None:
                self._norms.setdefault(name, []).append(parameter.grad.detach().norm())

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"steps": list(self.steps), "norms": {n: torch.stack(v) for n, v in self._norms.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.steps = list(state["steps"])
        self._norms = {name: list(values) for name, values in state["norms"].items()}
