"""Self-attention and the two-layer perceptron of transformers, which read every size from their weights.

The number of heads follows the width of the query, key and value matrix at a fixed width of a head, so that
a network whose leading heads are kept runs on with this code as it is.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from netwright.models.zoo.drop_path import DropPath


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, the three projections in one matrix.

    Args:
        width: Features of a token.
        heads: How many.
        head_dim: Features of a head; need not be width / heads.
        causal: Whether a token sees only itself and those before it.
    """

    def __init__(self, width: int, heads: int, head_dim: int, causal: bool = False) -> None:
        super().__init__()
        self.head_dim, self.causal = head_dim, causal
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width), the same back."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # (B, heads, N, head_dim)
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers around a GELU.

    Args:
        width: Features that come in and go out.
        hidden: Features between the layers.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width), the same back."""
        return self.fc2(self.act(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each normalised before and added to what came in.

    Args:
        width: Features of a token.
        heads: Of the attention.
        head_dim: Features of a head.
        hidden: Features inside the perceptron.
        causal: Whether a token sees only itself and those before it.
        drop_path: Rate at which examples skip a branch while training.
        dropout: Rate at which features of the two branches are dropped while training.
        eps: Of the normalisations.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        hidden: int,
        causal: bool = False,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, heads, head_dim, causal)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width), the same back."""
        x = x + self.drop_path(self.dropout(self.attn(self.norm1(x))))
        return x + self.drop_path(self.dropout(self.mlp(self.norm2(x))))


def draw_transformer(model: nn.Module) -> None:
    """Draw the linear layers and embeddings of a transformer: truncated normal, deviation 0.02, no bias."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
