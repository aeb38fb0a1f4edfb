"""BLEU of a corpus: how many runs of tokens of a translation stand in its reference.

K. Papineni, S. Roukos, T. Ward and W.-J. Zhu, BLEU: a Method for Automatic Evaluation of Machine Translation,
ACL 2002, section 2.3: one reference a sentence, no smoothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from netwright.errors import UsageError


def bleu(
    translations: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Hashable]], order: int = 4
) -> float:
    """BLEU, in 0..1.

    The geometric mean of the shares of runs of 1 to `order` tokens that the references hold, each counted at
    most as often as there, times a penalty where the translations together are shorter than the references.
    It is 0 where no run of some length is right.

    Args:
        translations: Tokens of every sentence.
        references: Tokens of what it should be.
        order: Longest run.

    Raises:
        UsageError: if there is not one reference a translation, none at all, or no such order.
    """
    if len(translations) != len(references) or not references:
        raise UsageError(
            f"there are {len(translations)} translations for {len(references)} references",
            "give one reference for every translation",
        )
    if order < 1:
        raise UsageError(f"order={order} is no length of a run", "give 1 or more")
    logs = 0.0
    for length in range(1, order + 1):
        right = total = 0
        for given, wanted in zip(translations, references, strict=True):
            counts = _runs(given, length)
            right += (counts & _runs(wanted, length)).total()
            total += counts.total()
        if right == 0:
            return 0.0
        logs += math.log(right / total) / order
    written, asked = sum(map(len, translations)), sum(map(len, references))
    return math.exp(min(0.0, 1.0 - asked / written) + logs)


def _runs(tokens: Sequence[Hashable], length: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1))
