"""Numbering the subsets of a set in lexicographic order."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rank(members: Sequence[int], n: int) -> int:
    """The number of a subset among those of its size.

    Args:
        members: Rising, of 0 to ``n - 1``.
        n: Size of the set.
    """
    number, before, left = 0, -1, len(members)
    for member in members:
        left -= 1
        number += sum(math.comb(n - 1 - skipped, left) for skipped in range(before + 1, member))
        before = member
    return number


def unrank(number: int, n: int, k: int) -> tuple[int, ...]:
    """The subset of a number.

    Args:
        number: From 0 to ``comb(n, k) - 1``.
        n: Size of the set.
        k: Size of the subset.
    """
    members: list[int] = []
    candidate = 0
    while len(members) < k:
        starting = math.comb(n - 1 - candidate, k - len(members) - 1)
        if number < starting:
            members.append(candidate)
        else:
            number -= starting
        candidate += 1
    return tuple(members)
