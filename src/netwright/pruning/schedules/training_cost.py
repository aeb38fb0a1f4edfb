"""What a sparse training computes: multiply-accumulates with weights that are not zero, step by step.

Counted as U. Evci et al., Rigging the Lottery, ICML 2020, appendix H: a step costs three forward passes, one
forward and two backward, each with the weights that are kept; a step whose gradient decides where to grow
needs the gradient of all weights, so that one of the three is dense. No dense kernel is faster for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netwright.pruning.importances.densities import layer_macs
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.schedules.sparsity import Sparsity
from netwright.structure import Structure
from netwright.train import Callback, State


class TrainingCost(Callback):
    """Counts the multiply-accumulates of a training, for one example a step.

    Args:
        net: Structure of the network, traced before it had masks.
        sparsity: The callback that changes the masks, before this one in the list; None where they stay.

    Attributes:
        macs: Forward and backward together, so far.
        dense: What the dense network would have taken.
    """

    def __init__(self, net: Structure, sparsity: Sparsity | None = None) -> None:
        self.layers, self.sparsity = layer_macs(net), sparsity
        self.total = net.macs
        self.macs = self.dense = 0.0
        self._seen = -1
        self._now = float(net.macs)

    def begin(self, state: State) -> None:
        """Count with the masks that there are."""
        self._look(state)

    def after_step(self, state: State) -> None:
        """Add the step; masks that an event changed count from the next one."""
        grew = self.sparsity is not None and self._grew(state)
        self.macs += 2 * self._now + (self.total if grew else self._now)
        self.dense += 3 * self.total
        if self.sparsity is None or len(self.sparsity.changes) != self._seen:
            self._look(state)

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        return {"macs": self.macs, "dense": self.dense}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.macs, self.dense = state["macs"], state["dense"]

    def _grew(self, state: State) -> bool:
        """Whether the gradient of this step decided where to grow."""
        assert self.sparsity is not None
        event = self.sparsity.schedule.event(state.step, state.steps, self.sparsity.keep)
        return event is not None and event.rate > 0 and event.by == "gradient"

    def _look(self, state: State) -> None:
        """The multiply-accumulates of one forward pass with the present masks."""
        if self.sparsity is not None:
            self._seen = len(self.sparsity.changes)
        masks = MaskState.of(state.model)
        kept = {} if masks is None else {n: float(m.float().mean()) for n, m in masks.masks.items()}
        self._now = self.total - sum((1 - kept.get(n, 1.0)) * macs for n, macs in self.layers.items())
