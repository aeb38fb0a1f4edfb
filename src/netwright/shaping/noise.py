"""What finitely many examples can tell: differences of two networks on the same examples, with intervals.

Two networks answer the same examples, so their difference is far less noisy than either's accuracy: only the
examples on which they disagree count (McNemar, 1947).
"""

from __future__ import annotations

import statistics

from torch import Tensor

from netwright.errors import UsageError
from netwright.metrics.bootstrap import Interval

#: Every interval of a front is at this level, each pair by itself.
CONFIDENCE = 0.95


def share_difference(first: Tensor, second: Tensor, *, confidence: float = CONFIDENCE) -> Interval:
    """How much larger the first share of right answers is than the second.

    The adjusted Wald interval for paired shares: one example is added to each of the two kinds of
    disagreement (Bonett and Price, J. Educ. Behav. Stat. 37, 2012). So it has a width where the networks
    never disagree, and holds its level for few examples and for shares near 1. `value` is the plain
    difference.

    Args:
        first: (N,) bool, whether each example is answered rightly.
        second: (N,) bool, the same examples.
        confidence: Chance that the interval holds the true difference; at 0 it has no width.

    Raises:
        UsageError: if the shapes differ, there are no examples, or the confidence is no chance.
    """
    count, z = _checked(first, second, confidence)
    gained = int((first & ~second).sum())
    lost = int((second & ~first).sum())
    more, less = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = z * max(more + less - (more - less) ** 2, 0.0) ** 0.5 / (count + 2) ** 0.5
    return Interval((gained - lost) / count, more - less - half, more - less + half)


def mean_difference(first: Tensor, second: Tensor, *, confidence: float = CONFIDENCE) -> Interval:
    """How much larger the first mean is than the second: the normal interval of paired differences.

    Args:
        first: (N,) values, one an example.
        second: (N,) values, the same examples.
        confidence: Chance that the interval holds the true difference; at 0 it has no width.

    Raises:
        UsageError: as `share_difference`.
    """
    count, z = _checked(first, second, confidence)
    differences = first.double() - second.double()
    mean = float(differences.mean())
    half = z * float(differences.std()) / count**0.5 if count > 1 else float("inf")
    return Interval(mean, mean - half, mean + half)


def _checked(first: Tensor, second: Tensor, confidence: float) -> tuple[int, float]:
    if first.shape != second.shape or first.dim() != 1 or len(first) == 0:
        raise UsageError(
            f"answers of shape {tuple(first.shape)} and {tuple(second.shape)} cannot be paired",
            "give one value for each of the same examples",
        )
    if not 0 <= confidence < 1:
        raise UsageError(f"a confidence of {confidence:g} is no chance", "give 0 <= confidence < 1")
    return len(first), statistics.NormalDist().inv_cdf((1 + confidence) / 2)
