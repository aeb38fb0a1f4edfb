"""Attention from one sequence to another, with separate projections and a mask of what can be seen."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class CrossAttention(nn.Module):
    """Multi-head attention; to the sequence itself where both are the same (A. Vaswani et al., 2017, 3.2).

    The number of heads follows the width of the projections at a fixed width of a head.

    Args:
        width: Features of a token.
        heads: How many.
        head_dim: Features of a head; need not be width / heads.
    """

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q = nn.Linear(width, heads * head_dim)
        self.k = nn.Linear(width, heads * head_dim)
        self.v = nn.Linear(width, heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor | None = None) -> Tensor:
        """Answers for every token.

        Args:
            x: (B, N, width), the tokens that ask.
            memory: (B, M, width), those that are asked.
            seen: What each can see, bool that broadcasts to (B, heads, N, M); everything when None.

        Returns:
            (B, N, width).
        """
        q, k, v = (
            layer(y).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer, y in ((self.q, x), (self.k, memory), (self.v, memory))
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)  # (B, heads, N, head_dim)
        return self.proj(y.transpose(1, 2).flatten(2))
