"""From choices to others: mutation, crossover and neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from netwright.nas.choice import Choice
from netwright.nas.dim import Dim

if TYPE_CHECKING:
    from netwright.nas.space import SearchSpace


def mutate(space: SearchSpace, choice: Choice, rng: np.random.Generator, p: float) -> Choice:
    """See `SearchSpace.mutate`."""
    before = set(space.active(choice))

    def pick(dim: Dim) -> Any:
        if dim.name not in before:
            return dim.draw(rng)
        return dim.redraw(choice[dim.name], rng) if rng.random() < p else choice[dim.name]

    return space.build(pick)


def crossover(space: SearchSpace, a: Choice, b: Choice, rng: np.random.Generator, p: float) -> Choice:
    """See `SearchSpace.crossover`."""
    in_a, in_b = set(space.active(a)), set(space.active(b))

    def pick(dim: Dim) -> Any:
        from_b = rng.random() < p
        if dim.name in in_a and dim.name in in_b:
            return (b if from_b else a)[dim.name]
        if dim.name in in_a:
            return a[dim.name]
        return b[dim.name] if dim.name in in_b else dim.draw(rng)

    return space.build(pick)


def step(space: SearchSpace, choice: Choice, name: str, value: Any, rng: np.random.Generator) -> Choice:
    """The choice with another value of one dim; what begins to matter is drawn."""
    before = set(space.active(choice))

    def pick(dim: Dim) -> Any:
        if dim.name == name:
            return value
        return choice[dim.name] if dim.name in before else dim.draw(rng)

    return space.build(pick)


def neighbours(space: SearchSpace, choice: Choice) -> Iterator[Choice]:
    """See `SearchSpace.neighbours`."""
    before = set(space.active(choice))
    for changed in space.free:
        if changed.name not in before:
            continue

        def options(dim: Dim, changed: Dim = changed) -> Iterable[Any]:
            if dim is changed:
                return changed.near(choice[changed.name])
            return (choice[dim.name],) if dim.name in before else dim.each()

        yield from space.walk(options)
