"""Choices as vectors of numbers, for predictors and distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.dim import Dim, Finite
from netwright.nas.dims import Float, Subset

if TYPE_CHECKING:
    from netwright.nas.space import SearchSpace

#: How a choice becomes a vector.
Kind = Literal["onehot", "masked-onehot", "ordinal", "unit"]
#: A dim with more values gets no entry for each.
_MOST_ENTRIES = 4096


def _width(dim: Dim, kind: Kind) -> int:
    if isinstance(dim, Subset):
        return dim.n
    if isinstance(dim, Float) or kind in ("ordinal", "unit"):
        return 1
    assert isinstance(dim, Finite)
    if dim.count > _MOST_ENTRIES:
        raise UsageError(f"{dim.name!r} has {dim.count} values, too many entries", 'use kind="unit"')
    return dim.count


def _parts(space: SearchSpace, kind: Kind) -> list[tuple[Dim, slice]]:
    """Which entries are those of which dim."""
    if kind not in get_args(Kind):
        raise UsageError(f"there is no encoding {kind!r}", f"choose from {', '.join(get_args(Kind))}")
    parts, start = [], 0
    for dim in space.free:
        width = _width(dim, kind)
        parts.append((dim, slice(start, start + width)))
        start += width
    return parts


def _entries(dim: Dim, value: Any, kind: Kind) -> Any:
    """What stands in the entries of a dim."""
    if isinstance(dim, Subset):
        return np.isin(np.arange(dim.n), value)
    if isinstance(dim, Float):
        return value if kind == "ordinal" else dim.unit(value)
    assert isinstance(dim, Finite)
    index = dim.index(value)
    if kind in ("ordinal", "unit"):
        return index if kind == "ordinal" else index / max(dim.count - 1, 1)
    return np.arange(dim.count) == index


def encode(space: SearchSpace, choice: Choice, kind: Kind) -> np.ndarray:
    """See `SearchSpace.encode`."""
    choice = space.canonical(choice)
    parts = _parts(space, kind)
    active = set(space.active(choice))
    vector = np.zeros(parts[-1][1].stop)
    for dim, part in parts:
        if kind != "masked-onehot" or dim.name in active:
            vector[part] = _entries(dim, choice[dim.name], kind)
    return vector


def decode(space: SearchSpace, vector: np.ndarray, kind: Kind) -> Choice:
    """See `SearchSpace.decode`."""
    parts = {dim.name: part for dim, part in _parts(space, kind)}
    length = next(reversed(parts.values())).stop
    vector = np.asarray(vector, dtype=np.float64)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise UsageError(f"a vector of shape {vector.shape} is no {kind} encoding", f"give {length} numbers")
    return space.build(lambda dim: _nearest(dim, vector[parts[dim.name]], kind))


def _nearest(dim: Dim, entries: np.ndarray, kind: Kind) -> Any:
    if isinstance(dim, Subset):
        return np.sort(np.argsort(-entries, kind="stable")[: dim.k])
    if isinstance(dim, Float):
        number = float(entries[0])
        return min(max(number, dim.lo), dim.hi) if kind == "ordinal" else dim.at_unit(number)
    assert isinstance(dim, Finite)
    if kind in ("ordinal", "unit"):
        index = round(float(entries[0]) * (1 if kind == "ordinal" else dim.count - 1))
        return dim.at(min(max(index, 0), dim.count - 1))
    return dim.at(int(entries.argmax()))


def columns(space: SearchSpace, kind: Kind) -> list[str]:
    """See `SearchSpace.columns`."""
    names: list[str] = []
    for dim, part in _parts(space, kind):
        label: Callable[[int], str] = _labels(dim, kind)
        names += [label(i) for i in range(part.stop - part.start)]
    return names


def _labels(dim: Dim, kind: Kind) -> Callable[[int], str]:
    if isinstance(dim, Subset):
        return lambda i: f"{dim.name}={i}"
    if isinstance(dim, Finite) and kind in ("onehot", "masked-onehot"):
        return lambda i: f"{dim.name}={dim.at(i)}"
    return lambda i: dim.name
