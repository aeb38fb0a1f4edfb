"""Random small spaces, and counting by looking at every combination of values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from netwright.nas import (
    Categorical,
    Choice,
    Int,
    Ordinal,
    SearchSpace,
    Subset,
    Tied,
    all_of,
    any_of,
    at_least,
    equals,
)
from netwright.nas.dim import Dim, Finite


@st.composite
def dims(draw: st.DrawFn, name: str, before: list[Dim], functions: bool) -> Dim:
    condition = draw(conditions(before, functions)) if before and draw(st.booleans()) else None
    kind = draw(st.sampled_from(["categorical", "ordinal", "int", "subset"] + ["tied"] * bool(before)))
    if kind == "tied":
        return Tied(name, draw(st.sampled_from(before)).name, active_if=condition)
    if kind == "subset":
        n = draw(st.integers(1, 3))
        return Subset(name, n, draw(st.integers(0, n)), active_if=condition)
    if kind == "int":
        lo = draw(st.integers(-2, 2))
        return Int(name, lo, lo + draw(st.integers(0, 4)), 2, active_if=condition)
    if kind == "ordinal":
        levels = draw(st.sampled_from([(1, 2, 4), (0, 1), (False, True), (0.5, 1.0), (3, 5, 7), (8,)]))
        return Ordinal(name, levels, active_if=condition)
    options = draw(st.sampled_from([("a", "b"), ("x", None), ((1, 2), (3, 4), "z"), (3, 1, 2)]))
    return Categorical(name, options, active_if=condition)


@st.composite
def conditions(draw: st.DrawFn, before: list[Dim], functions: bool) -> Any:
    def atom() -> Any:
        dim = root = draw(st.sampled_from(before))
        while isinstance(root, Tied):
            root = next(d for d in before if d.name == root.to)
        assert isinstance(root, Finite)
        value = root.at(draw(st.integers(0, root.count - 1)))
        if isinstance(root, Int | Ordinal) and draw(st.booleans()):
            return at_least(dim.name, value)
        return equals(dim.name, value)

    kind = draw(st.sampled_from(["one", "any", "all"] + ["function"] * functions))
    if kind == "function":
        name = draw(st.sampled_from(before)).name
        return lambda values: hash(str(values[name])) % 2 == 0 and len(values) == len(before)
    return atom() if kind == "one" else {"any": any_of, "all": all_of}[kind](atom(), atom())


@st.composite
def spaces(draw: st.DrawFn, functions: bool = False) -> SearchSpace:
    """Up to five dims of all finite kinds, some conditional, some tied."""
    made: list[Dim] = []
    for i in range(draw(st.integers(1, 5))):
        made.append(draw(dims(f"d{i}", made, functions)))
    if all(isinstance(d, Tied) for d in made):
        made.insert(0, Ordinal("first", (1, 2)))
    return SearchSpace(made)


def every(space: SearchSpace) -> set[Choice]:
    """All canonical choices, by canonising every combination of values."""
    values = [[dim.at(i) for i in range(dim.count)] for dim in space.free if isinstance(dim, Finite)]
    names = [dim.name for dim in space.free]
    return {space.canonical(dict(zip(names, v, strict=True))) for v in itertools.product(*values)}


def uniform(drawn: Mapping[Any, int], classes: int) -> bool:
    """Whether counts could well be of equally likely classes: chi-square within five deviations."""
    total = sum(drawn.values())
    expected = total / classes
    square = sum((n - expected) ** 2 / expected for n in drawn.values())
    square += (classes - len(drawn)) * expected
    return abs(square - (classes - 1)) < 5 * math.sqrt(2 * (classes - 1))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)
