"""Paths drawn by how large the gradients of their parts are.

S. Lu, Y. Hu, L. Yang, Z. Sun, J. Mei, J. Tan and C. Song, PA&DA: Jointly Sampling PAth and DAta for
Consistent NAS, CVPR 2023, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.data.importance import Ramp, ramp
from netwright.nas.choice import Choice
from netwright.nas.dim import Dim
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.base import Draw, Sampler, space_of
from netwright.supernets.stores.belonging import Belongings
from netwright.train import State


class ImportancePath(Sampler):
    """One path a step, values drawn by the norms of their gradients in the epoch before (PA of PA&DA).

    Dims of the same values share one distribution, as the edges of a cell do in the paper. Values without
    parameters, such as a skip, have no gradient: as importance comes to count wholly they are drawn no more.
    While it does not count the draws are those of `Uniform`, to the last bit.

    Args:
        seed: Of the draws.
        schedule: "linear" from 0 to 1 over the training, "none", or a function of the share that is done.
        shared: Whether dims of the same values share a distribution.
        per_parameter: Divide norms by the square root of how many numbers they are of: for widths, whose
            larger values have larger gradients for that alone.

    Attributes:
        strength: How much importance counts.
        norms: Group of dims -> value -> running norm of this epoch.
        probabilities: Group of dims -> probabilities of its values, in their order.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        schedule: str | Ramp = "linear",
        shared: bool = True,
        per_parameter: bool = False,
    ) -> None:
        super().__init__(seed)
        self.ramp, self.shared, self.per_parameter = ramp(schedule), shared, per_parameter
        self.strength = 0.0
        self.norms: dict[str, dict[int, Tensor]] = {}
        self.probabilities: dict[str, np.ndarray] = {}
        self._group: dict[str, str] = {}
        self._belongings: Belongings | None = None
        self._drawn: Choice | None = None

    def attach(self, sup: Elastic) -> None:
        """Learn which parameters belong to which value."""
        super().attach(sup)
        self._belongings = Belongings(sup)
        first: dict[tuple[Any, ...], str] = {}
        for dim in sup.space.free:
            values = tuple(dim.each())
            self._group[dim.name] = first.setdefault(values, dim.name) if self.shared else dim.name
            self.probabilities.setdefault(self._group[dim.name], np.full(len(values), 1.0 / len(values)))

    def draw(self, step: int) -> list[Draw]:
        """One path."""
        rng, space = self.rng(step), space_of(self)
        if self.strength == 0.0:
            self._drawn = space.sample(rng, uniform="dims")
        else:

            def pick(dim: Dim) -> Any:
                shares = self.probabilities[self._group[dim.name]]
                return list(dim.each())[int(rng.choice(len(shares), p=shares))]

            self._drawn = space.build(pick)
        return [Draw((self._drawn,))]

    def correction(self, choice: Mapping[str, Any]) -> float:
        """The probability of a path when all values are equally likely, by that of being drawn now.

        Args:
            choice: A canonical choice.
        """
        space = space_of(self)
        found = 0.0
        for name in space.active(choice):
            if name in self._group:
                shares = self.probabilities[self._group[name]]
                index = list(space.dim(name).each()).index(choice[name])
                found -= math.log(len(shares) * float(shares[index]))
        return math.exp(found)

    def before_step(self, state: State) -> None:
        """Read the norms of the gradients of the step, after clipping."""
        if self._drawn is None or self._belongings is None:
            return
        gradients = {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}
        found: dict[tuple[str, int], list[Tensor]] = {}
        for name in space_of(self).active(self._drawn):
            if name in self._group:
                self._read(name, gradients, found)
        for (group, index), norms in found.items():
            # One norm an occurrence of the value among the dims of the group.
            new = torch.stack(norms).mean()
            known = self.norms.setdefault(group, {})
            known[index] = (known[index] + new) / 2 if index in known else new / 2

    def _read(
        self, name: str, gradients: Mapping[str, Tensor], found: dict[tuple[str, int], list[Tensor]]
    ) -> None:
        assert self._belongings is not None and self._drawn is not None
        used = self._belongings.used(name, self._drawn)
        # The names of the supernet's network, as the training knows them.
        norms = [
            torch.linalg.vector_norm(g) for n, g in gradients.items() if n.removeprefix("network.") in used
        ]
        if not norms:
            return
        total = torch.stack(norms).sum()
        if self.per_parameter:
            total = total / math.sqrt(self._belongings.numbers(name, self._drawn))
        index = list(space_of(self).dim(name).each()).index(self._drawn[name])
        found.setdefault((self._group[name], index), []).append(total)

    def after_epoch(self, state: State, record: Mapping[str, Any]) -> None:
        """Work out the probabilities of the next epoch; running norms begin at 0 again."""
        epochs = max(state.steps // max(state.steps_per_epoch, 1), 1)
        self.strength = float(self.ramp((int(record["epoch"]) - 1) / epochs))
        for group, shares in self.probabilities.items():
            norms = np.zeros(len(shares))
            for index, norm in self.norms.get(group, {}).items():
                norms[index] = float(norm)
            uniform = np.full(len(shares), 1.0 / len(shares))
            total = norms.sum()
            mixed = self.strength * norms / total + (1 - self.strength) * uniform if total > 0 else uniform
            self.probabilities[group] = mixed / mixed.sum()
        self.norms.clear()

    def state_dict(self) -> dict[str, Any]:
        """Probabilities, running norms and how much importance counts."""
        return {
            "strength": self.strength,
            "probabilities": {group: p.tolist() for group, p in self.probabilities.items()},
            "norms": {group: dict(norms) for group, norms in self.norms.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.strength = state["strength"]
        self.probabilities = {group: np.array(p) for group, p in state["probabilities"].items()}
        self.norms = {group: dict(norms) for group, norms in state["norms"].items()}
