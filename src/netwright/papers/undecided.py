"""What would decide the claims of an evidence that noise leaves open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from netwright.papers.claims import Expectation

#: More repetitions than anybody would run.
_MANY = 100


def undecided(found: Mapping[str, Any]) -> list[str]:
    """One line for each claim whose interval reaches over its bound.

    The half width of an interval falls with the root of the number of repetitions; were the mean to stay, as
    many times more of them as the square of the half width by the distance to the bound would decide.

    Args:
        found: An evidence document.
    """
    lines = []
    for claim in found["claims"]:
        if claim["state"] != "within the noise" or claim["measured"] is None:
            continue
        expected = Expectation.parse(claim["expected"])
        value, spread = claim["measured"], claim["spread"]
        bounds = [b for b in (expected.low, expected.high) if math.isfinite(b) and abs(value - b) <= spread]
        gap = min((abs(value - b) for b in bounds), default=0.0)
        where = " and ".join(f"{b:g}" for b in bounds)
        line = f"{claim['name']}: {value:.3g} ± {spread:.2g} reaches over {where}"
        times = math.ceil((spread / gap) ** 2) if gap > 0 else math.inf
        if times <= _MANY:
            line += f"; {times} times the repetitions would decide, were the mean to stay"
        else:
            line += "; the mean lies so near that more repetitions would not decide"
        lines.append(line)
    return lines
