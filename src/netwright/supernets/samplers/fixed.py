"""Path samplers that learn nothing: uniform, fair, sandwich, sorted prefixes, many architectures a batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from netwright.nas.choice import Choice
from netwright.nas.space import SearchSpace
from netwright.supernets.samplers.base import Draw, Sampler, space_of
from netwright.train import State


class Uniform(Sampler):
    """One path a step, every value of every dim equally likely (SPOS).

    Args:
        seed: Of the draws.
        draws: Paths a step, on the same batch.
        uniform: "dims", or "choices" for every sub-network equally likely.
    """

    def __init__(self, seed: int = 0, *, draws: int = 1, uniform: Any = "dims") -> None:
        super().__init__(seed)
        self.draws, self.uniform = draws, uniform

    def draw(self, step: int) -> list[Draw]:
        """Independent paths."""
        rng, space = self.rng(step), space_of(self)
        return [Draw((space.sample(rng, uniform=self.uniform),)) for _ in range(self.draws)]


class FairCycle(Sampler):
    """As many paths a step as a dim has values; each value of each dim is in exactly one (FairNAS).

    All dims have the same number of values, or fewer: then their values are used in turn.

    Args:
        seed: Of the orders.
    """

    def draw(self, step: int) -> list[Draw]:
        """One path a value, values shuffled in every dim."""
        rng, space = self.rng(step), space_of(self)
        values = {dim.name: list(dim.each()) for dim in space.free}
        count = max(len(v) for v in values.values())
        orders = {}
        for name, each in values.items():
            rounds = [rng.permutation(len(each)) for _ in range(-(-count // len(each)))]
            orders[name] = np.concatenate(rounds)[:count]
        made = [{n: values[n][int(orders[n][i])] for n in values} for i in range(count)]
        return [Draw((space.canonical(Choice(chosen)),), weight=1.0 / count) for chosen in made]


class Sandwich(Sampler):
    """The largest, the smallest and some random sub-networks on every batch (BigNAS, slimmable networks).

    Args:
        n_random: Random ones.
        seed: Of the draws.
        smallest: Whether the smallest is among them.
    """

    def __init__(self, n_random: int = 2, seed: int = 0, *, smallest: bool = True) -> None:
        super().__init__(seed)
        self.n_random, self.smallest = n_random, smallest

    def draw(self, step: int) -> list[Draw]:
        """The largest first: it may teach the others."""
        rng, space = self.rng(step), space_of(self)
        draws = [Draw((space.max(),), "max")]
        if self.smallest:
            draws.append(Draw((space.min(),), "min"))
        return draws + [Draw((space.sample(rng),)) for _ in range(self.n_random)]


class SortedPrefix(Sampler):
    """Sub-networks of a nested family, drawn independently; gradients of a few add up (SortedNet).

    Args:
        g_acc: Sub-networks a step.
        seed: Of the draws.
        members: The family with optional probabilities; every choice of the space, equally likely, when None.
    """

    def __init__(
        self,
        g_acc: int = 2,
        seed: int = 0,
        members: Sequence[Mapping[str, Any]] | Mapping[Choice, float] | None = None,
    ) -> None:
        super().__init__(seed)
        self.g_acc, self.members = g_acc, members

    def draw(self, step: int) -> list[Draw]:
        """As many as `g_acc`, each with its share of the gradient."""
        rng, space, weight = self.rng(step), space_of(self), 1.0 / self.g_acc
        if self.members is None:
            return [Draw((space.sample(rng, uniform="choices"),), weight=weight) for _ in range(self.g_acc)]
        if isinstance(self.members, Mapping):
            family: list[Mapping[str, Any]] = list(self.members)
            given = np.array(list(self.members.values()), dtype=np.float64)
            shares = given / given.sum()
        else:
            family, shares = list(self.members), None
        picked = rng.choice(len(family), size=self.g_acc, p=shares)
        return [Draw((space.canonical(Choice(family[i])),), weight=weight) for i in picked]


class MultiArch(Sampler):
    """Several sub-networks in one batch, a group of examples each (ViT-ResNAS).

    Every dim takes its values from a shuffled list that it goes through again and again, so that the groups
    of a batch cover them evenly. In the first epochs only the largest values are drawn.

    Args:
        groups: Sub-networks a batch.
        seed: Of the orders.
        warmup: Epochs until every value is allowed; 0 allows all from the start.
    """

    def __init__(self, groups: int = 2, seed: int = 0, *, warmup: int = 0) -> None:
        super().__init__(seed)
        self.groups, self.warmup, self.epoch = groups, warmup, 0

    def allowed(self, values: Sequence[Any], epoch: int) -> list[Any]:
        """The values that may be drawn, largest first.

        Args:
            values: Ascending.
            epoch: From 0.
        """
        if not self.warmup or epoch >= self.warmup:
            return list(reversed(values))
        return list(reversed(values))[: 1 + epoch * (len(values) - 1) // self.warmup]

    def draw(self, step: int) -> list[Draw]:
        """One draw of all groups."""
        space = space_of(self)
        chosen: list[dict[str, Any]] = [{} for _ in range(self.groups)]
        for number, dim in enumerate(space.free):
            values = self.allowed(list(dim.each()), self.epoch)
            for g in range(self.groups):
                turn, place = divmod(step * self.groups + g, len(values))
                order = np.random.default_rng((self.seed, number, turn)).permutation(len(values))
                chosen[g][dim.name] = values[int(order[place])]
        return [Draw(tuple(space.canonical(Choice(c)) for c in chosen))]

    def begin(self, state: State) -> None:
        """Know the epoch."""
        self.epoch = state.step // max(state.steps_per_epoch, 1)

    def after_step(self, state: State) -> None:
        """Know the epoch."""
        self.epoch = state.step // max(state.steps_per_epoch, 1)


def nested(space: SearchSpace, choices: Iterable[Choice]) -> bool:
    """Whether of any two choices one is at least as large in every dim.

    Args:
        space: The space.
        choices: Choices of it.
    """
    order = sorted(choices, key=lambda c: [list(d.each()).index(c[d.name]) for d in space.free])
    return all(
        list(d.each()).index(a[d.name]) <= list(d.each()).index(b[d.name])
        for a, b in itertools.pairwise(order)
        for d in space.free
    )
