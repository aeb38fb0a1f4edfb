"""Which channels go: all ways are tried without training, and the one closest to the dense network is taken.

Pruning and repairing a network takes seconds, recovering it takes epochs. How well a network answers between
the two says much about how well it will answer afterwards (Li et al., "EagleEye", ECCV 2020, who judge by
accuracy with recomputed batch norms). Here every way is repaired as the candidate asks, and judged by the
Kullback-Leibler divergence of its answers from the dense network's, on training examples that no repair has
seen: labels are not needed, and validation examples are not spent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from netwright import pruning, train
from netwright.data import Part
from netwright.errors import NetwrightError

Way = tuple[str, str]


@dataclass(frozen=True)
class Chosen:
    """What an audition took.

    Args:
        allocation: How the layers share the reduction.
        importance: Which channels stay.
        pruned: The network, pruned and repaired, not trained.
    """

    allocation: str
    importance: str
    pruned: pruning.Pruned


def audition(
    ways: Sequence[Way], cut: Callable[[str, str], pruning.Pruned], held: Part, reference: Tensor
) -> Chosen:
    """Try every way and take the one whose answers are closest to the dense network's.

    Args:
        ways: Pairs of allocation and importance, at least one; of equals the first is taken.
        cut: Prunes and repairs by one of them.
        held: Examples that the repairs do not look at.
        reference: The dense network's answers to them, (N, K).

    Raises:
        NetwrightError: what the last way failed with, if all of them fail.
    """
    truth = F.log_softmax(reference.double(), dim=1)
    best: Chosen | None = None
    least, failure = float("inf"), None
    for allocation, importance in ways:
        try:
            pruned = cut(allocation, importance)
        except NetwrightError as error:
            failure = error
            continue
        if len(ways) == 1:
            return Chosen(allocation, importance, pruned)
        answers = F.log_softmax(train.logits(pruned.model, held, device="cpu").double(), dim=1)
        distance = float(
            F.kl_div(answers, truth, reduction="batchmean", log_target=True).nan_to_num(torch.inf)
        )
        if best is None or distance < least:
            best, least = Chosen(allocation, importance, pruned), distance
    if best is None:
        assert failure is not None
        raise failure
    return best
