"""A small language model of characters: a decoder of pre-normalised transformer blocks.

A. Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3, without what a
network of a few layers does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import ModelError
from netwright.models.zoo.attention import TransformerBlock, draw_transformer


class CharLM(nn.Module):
    """Embeddings of symbols and positions, blocks, a last norm, and scores of every symbol.

    Args:
        vocabulary: Different symbols.
        context: Longest sequence.
        width: Features of a token.
        heads: Of the attention of every block.
        hidden: Features inside the perceptron of every block.
        head_dim: Features of a head.
        causal: Whether a token sees only itself and those before it; without, the model is one to fill in
            masked symbols.
        dropout: Of the embeddings and of both branches of every block.
        tied: Whether the scores are products with the embeddings of the symbols.
        classes_first: Give scores (B, vocabulary, T), as losses and measures of classes take them.

    Raises:
        ModelError: if heads and hidden widths are not of as many blocks, or there is none.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        heads: Sequence[int],
        hidden: Sequence[int],
        head_dim: int,
        causal: bool = True,
        dropout: float = 0.0,
        tied: bool = False,
        classes_first: bool = False,
    ) -> None:
        super().__init__()
        self.classes_first = classes_first
        if len(heads) != len(hidden) or not heads:
            raise ModelError(
                f"there are the heads of {len(heads)} blocks and the hidden widths of {len(hidden)}",
                "give one of each for every block, at least one",
            )
        self.context = context
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(width, n, head_dim, inner, causal, dropout=dropout, eps=1e-5)
                for n, inner in zip(heads, hidden, strict=True)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        draw_transformer(self)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, T) symbols, whole numbers of any type, T at most the context -> scores (B, T, vocabulary)."""
        at = torch.arange(x.shape[1], device=x.device)
        y = self.dropout(self.embedding(x.long()) + self.position(at))
        scores: Tensor = self.head(self.norm(self.blocks(y)))
        return scores.transpose(1, 2) if self.classes_first else scores


def char_lm(
    vocabulary: int = 128,
    context: int = 64,
    width: int = 96,
    heads: int | Sequence[int] = 3,
    ratio: float | Sequence[float] = 4.0,
    depth: int = 3,
    head_dim: int | None = None,
    **options: Any,
) -> CharLM:
    """Build a language model of characters.

    Args:
        vocabulary: Different symbols.
        context: Longest sequence.
        width: Features of a token.
        heads: Of the attention, one number for all blocks or one for each.
        ratio: Features inside the perceptron by `width`, one number for all blocks or one for each.
        depth: Number of blocks.
        head_dim: Features of a head; None is the width by the number of heads, which is one then.
        options: Others of `CharLM`: ``causal``, ``dropout``, ``tied``, ``classes_first``.

    Raises:
        ModelError: if the width is not split evenly, or numbers are not of as many blocks as `depth`.
    """
    many = [heads] * depth if isinstance(heads, int) else list(heads)
    ratios = [ratio] * depth if isinstance(ratio, int | float) else list(ratio)
    if len(many) != depth or len(ratios) != depth:
        raise ModelError(
            f"{depth} blocks have {len(many)} numbers of heads and {len(ratios)} ratios", "give one a block"
        )
    if head_dim is None:
        if len(set(many)) != 1 or width % many[0]:
            raise ModelError(f"{width} features are not split into {many} heads", "give head_dim")
        head_dim = width // many[0]
    hidden = [round(width * r) for r in ratios]
    return CharLM(vocabulary, context, width, many, hidden, head_dim, **options)
