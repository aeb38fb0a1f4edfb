"""Choices as parameters of Optuna trials, both ways."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.dim import Dim, Finite
from netwright.nas.dims import Categorical, Float, Int, Ordinal

if TYPE_CHECKING:
    import optuna

    from netwright.nas.space import SearchSpace

#: Storages keep numbers as doubles.
_EXACT = 2**53


def _scalars(dim: Dim) -> bool:
    """Whether Optuna can store the values themselves."""
    if isinstance(dim, Categorical):
        return all(v is None or isinstance(v, bool | int | float | str) for v in dim.options)
    return isinstance(dim, Int | Float) or (isinstance(dim, Ordinal) and _stride(dim) is not None)


def _stride(dim: Ordinal) -> int | None:
    """The distance of whole numbers that are evenly spaced."""
    levels = tuple(dim.values)
    if len(levels) < 2 or not all(type(v) is int for v in levels):
        return None
    strides = {b - a for a, b in itertools.pairwise(levels)}
    return strides.pop() if len(strides) == 1 else None


def distribution(dim: Dim) -> optuna.distributions.BaseDistribution:
    """Optuna's distribution of a dim."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dim, Float):
        return FloatDistribution(dim.lo, dim.hi, log=dim.log)
    if isinstance(dim, Categorical):
        return CategoricalDistribution(dim.options if _scalars(dim) else range(dim.count))
    if isinstance(dim, Int):
        return IntDistribution(dim.lo, dim.hi, step=dim.step)
    if isinstance(dim, Ordinal) and (stride := _stride(dim)) is not None:
        return IntDistribution(dim.values[0], dim.values[-1], step=stride)
    assert isinstance(dim, Finite)
    if dim.count > _EXACT:
        raise UsageError(f"{dim.name!r} has {dim.count} values, too many for Optuna", "split it into dims")
    return IntDistribution(0, dim.count - 1)


def distributions(space: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """See `SearchSpace.distributions`."""
    return {dim.name: distribution(dim) for dim in space.free}


def _value(dim: Dim, param: Any) -> Any:
    if _scalars(dim):
        return param
    assert isinstance(dim, Finite)
    if not 0 <= param < dim.count:
        raise UsageError(f"{param!r} is no number of a value of {dim.name!r}", f"there are {dim.count}")
    return dim.at(int(param))


def _param(dim: Dim, value: Any) -> Any:
    if _scalars(dim):
        return value
    assert isinstance(dim, Finite)
    return dim.index(value)


def suggest(space: SearchSpace, trial: Any) -> Choice:
    """See `SearchSpace.suggest`."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def pick(dim: Dim) -> Any:
        d = distribution(dim)
        if isinstance(d, FloatDistribution):
            return trial.suggest_float(dim.name, d.low, d.high, log=d.log)
        if isinstance(d, CategoricalDistribution):
            return _value(dim, trial.suggest_categorical(dim.name, d.choices))
        assert isinstance(d, IntDistribution)
        return _value(dim, trial.suggest_int(dim.name, d.low, d.high, step=d.step))

    return space.build(pick)


def to_params(space: SearchSpace, choice: Choice, inactive: bool) -> dict[str, Any]:
    """See `SearchSpace.to_params`."""
    choice = space.canonical(choice)
    names = set(space.active(choice))
    return {d.name: _param(d, choice[d.name]) for d in space.free if inactive or d.name in names}


def from_params(space: SearchSpace, params: Mapping[str, Any]) -> Choice:
    """See `SearchSpace.from_params`."""

    def pick(dim: Dim) -> Any:
        if dim.name not in params:
            raise UsageError(f"the trial has no parameter {dim.name!r}", "is it one of another space?")
        return _value(dim, params[dim.name])

    return space.build(pick)
