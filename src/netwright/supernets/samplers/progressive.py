"""Progressive shrinking: kinds of choices are opened one after the other (Once-for-all)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.base import Draw, Sampler
from netwright.train import State

#: In which order kinds of dims are opened; resolutions are free from the start.
ORDER = ("resolution", "kernel", "depth", "width")


class ProgressiveShrinking(Sampler):
    """Random paths among the kinds of dims that are open; the others are as large as they can be.

    The kinds are opened one by one, each for an equal share of the training.

    Args:
        order: Prefixes of names of dims, in the order in which they are opened; "block" counts as depth.
        draws: Paths a step.
        seed: Of the draws.
    """

    def __init__(self, order: Sequence[str] = ORDER, draws: int = 1, seed: int = 0) -> None:
        super().__init__(seed)
        self.order, self.draws, self.steps = tuple(order), draws, 0

    def begin(self, state: State) -> None:
        """Know how long the training is."""
        self.steps = state.steps

    def attach(self, sup: Elastic) -> None:
        """Before the first step.

        Raises:
            UsageError: if the supernet has a dim of none of the kinds.
        """
        super().attach(sup)
        lost = [d.name for d in sup.space.free if self._kind(d.name) is None]
        if lost:
            raise UsageError(
                f"{lost[0]!r} is of no kind that is opened", f"the kinds are {', '.join(self.order)}"
            )

    def _kind(self, name: str) -> int | None:
        prefix = name.partition(":")[0]
        prefix = "depth" if prefix == "block" else prefix
        return self.order.index(prefix) if prefix in self.order else None

    def open(self, step: int) -> int:
        """How many kinds are open.

        Args:
            step: Of the training.
        """
        share = step / self.steps if self.steps else 1.0
        return min(len(self.order), 1 + int(share * len(self.order)))

    def draw(self, step: int) -> list[Draw]:
        """Paths among what is open."""
        assert self.space is not None
        rng, space, count = self.rng(step), self.space, self.open(step)
        full = space.max()

        def path() -> Choice:
            values: dict[str, Any] = dict(full)
            for dim in space.free:
                kind = self._kind(dim.name)
                if kind is not None and kind < count:
                    values[dim.name] = dim.draw(np.random.default_rng(rng.integers(2**63)))
            return space.canonical(Choice(values))

        return [Draw((path(),), weight=1.0 / self.draws) for _ in range(self.draws)]
