"""What noise leaves open of a mean over seeds or splits."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


def noise(values: Iterable[float]) -> float:
    """Half width of a 95 % interval of a mean, from the spread of its values (Student's distribution).

    Args:
        values: One a seed or split; of a single one nothing is known, and the width is 0.
    """
    from scipy.stats import t

    array = np.asarray(list(values), dtype=np.float64)
    if len(array) < 2:
        return 0.0
    return float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array)))
