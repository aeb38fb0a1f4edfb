"""Stochastic depth: whole residual branches that examples skip while training.

G. Huang, Y. Sun, Z. Liu, D. Sedra and K. Weinberger, Deep Networks with Stochastic Depth, ECCV 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netwright.errors import UsageError


class DropPath(nn.Module):
    """Set a branch to zero for some examples while training, and scale it up for the others.

    Args:
        rate: Share of the examples that lose the branch, 0 to below 1; may be set anew at any time.

    Raises:
        UsageError: if the rate is out of its range.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise UsageError(f"a branch cannot be dropped at a rate of {rate}", "give 0 to below 1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape (B, ...), the same back."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_full((len(x),) + (1,) * (x.dim() - 1), 1 - self.rate)
        return x * torch.bernoulli(kept) / (1 - self.rate)

    def extra_repr(self) -> str:
        """What is shown between the brackets."""
        return f"{self.rate:g}"


def rising_rates(last: float, count: int) -> list[float]:
    """Rates for the branches of a network, from 0 for the first in equal steps to `last`."""
    return [last * k / max(1, count - 1) for k in range(count)]
