"""How much a front of two objectives covers: the measure by which fronts of searches are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable

from netwright.errors import UsageError


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area between a front of (cost, quality) and a reference that all of it should beat.

    Cost is to be small and quality large. Points that do not beat the reference add nothing (E. Zitzler and
    L. Thiele, Multiobjective Evolutionary Algorithms, IEEE TEC 3(4), 1999, section IV).

    Args:
        points: Of any networks; those that others dominate change nothing.
        reference: The largest cost and the least quality that count.

    Raises:
        UsageError: if a number is not finite.
    """
    most, least = reference
    given = list(points)
    if not all(map(math.isfinite, (most, least, *(v for p in given for v in p)))):
        raise UsageError("a hypervolume needs finite costs and qualities", "leave out what was not measured")
    area, best = 0.0, least
    for cost, quality in sorted(given, key=lambda p: (p[0], -p[1])):
        if cost < most and quality > best:
            area += (most - cost) * (quality - best)
            best = quality
    return area
