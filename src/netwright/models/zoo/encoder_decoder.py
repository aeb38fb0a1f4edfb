"""A transformer that reads one sequence and writes another: pre-normalised encoder and decoder.

A. Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3, with the norms before the branches and
learned positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netwright.models.zoo.attention import Mlp, draw_transformer
from netwright.models.zoo.cross_attention import CrossAttention


class EncoderBlock(nn.Module):
    """Attention and a perceptron, each normalised before and added to what came in.

    Args:
        width: Features of a token.
        heads: Of the attention.
        head_dim: Features of a head.
        hidden: Features inside the perceptron.
    """

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = CrossAttention(width, heads, head_dim)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """(B, N, width), the same back; `there` (B, 1, 1, N) bool says which tokens are there."""
        y = self.norm1(x)
        x = x + self.attn(y, y, there)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Attention to what was written, attention to what was read, and a perceptron.

    Args:
        width: Features of a token.
        heads: Of both attentions.
        head_dim: Features of a head.
        hidden: Features inside the perceptron.
    """

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = CrossAttention(width, heads, head_dim)
        self.norm2 = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads, head_dim)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor, memory: Tensor, before: Tensor, there: Tensor) -> Tensor:
        """(B, S, width), the same back.

        Args:
            x: What was written, (B, S, width).
            memory: What was read, (B, T, width).
            before: What each can see of x, (S, S) bool.
            there: Which tokens of the memory are there, (B, 1, 1, T) bool.
        """
        y = self.norm1(x)
        x = x + self.attn(y, y, before)
        x = x + self.cross(self.norm2(x), memory, there)
        return x + self.mlp(self.norm3(x))


class EncoderDecoder(nn.Module):
    """Reads symbols and gives scores of each next symbol of another alphabet.

    Args:
        sources: Symbols that are read; 0 fills up.
        targets: Symbols that are written.
        longest: Most symbols of either.
        width: Features of a token.
        heads: Of every attention.
        hidden: Features inside every perceptron.
        depths: Blocks of encoder and decoder.
        head_dim: Features of a head; None is width / heads.
    """

    def __init__(
        self,
        sources: int,
        targets: int,
        longest: int = 32,
        width: int = 64,
        heads: int = 4,
        hidden: int = 192,
        depths: tuple[int, int] = (2, 3),
        head_dim: int | None = None,
    ) -> None:
        super().__init__()
        each = head_dim or width // heads
        self.source = nn.Embedding(sources, width)
        self.source_position = nn.Embedding(longest, width)
        self.encoder = nn.ModuleList(EncoderBlock(width, heads, each, hidden) for _ in range(depths[0]))
        self.encoder_norm = nn.LayerNorm(width)
        self.target = nn.Embedding(targets, width)
        self.target_position = nn.Embedding(longest, width)
        self.decoder = nn.ModuleList(DecoderBlock(width, heads, each, hidden) for _ in range(depths[1]))
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, targets)
        draw_transformer(self)

    def encode(self, symbols: Tensor) -> Tensor:
        """(B, T) symbols, 0 after the end -> (B, T, width)."""
        at = torch.arange(symbols.shape[1], device=symbols.device)
        x = self.source(symbols) + self.source_position(at)
        for block in self.encoder:
            x = block(x, (symbols != 0)[:, None, None, :])
        memory: Tensor = self.encoder_norm(x)
        return memory

    def decode(self, before: Tensor, memory: Tensor, there: Tensor) -> Tensor:
        """Scores of each next symbol, (B, targets, S).

        Args:
            before: (B, S) symbols before each, a mark of the beginning first.
            memory: (B, T, width), as `encode` gives it.
            there: (B, T) bool, which symbols of the source are there.
        """
        at = torch.arange(before.shape[1], device=before.device)
        y = self.target(before) + self.target_position(at)
        for block in self.decoder:
            y = block(y, memory, at[:, None] >= at, there[:, None, None, :])
        return self.head(self.decoder_norm(y)).transpose(1, 2)  # type: ignore[no-any-return]

    def forward(self, symbols: Tensor, before: Tensor) -> Tensor:
        """(B, T) symbols that are read and (B, S) that were written before each -> (B, targets, S)."""
        return self.decode(before, self.encode(symbols), symbols != 0)

    @torch.no_grad()
    def greedy(self, symbols: Tensor, steps: int, begin: int) -> Tensor:
        """The likeliest symbol after each other: (B, T) symbols that are read -> (B, steps) int64.

        Args:
            symbols: What is read, 0 after the end.
            steps: Symbols that are written, fewer than `longest`.
            begin: The mark of the beginning.
        """
        memory, there = self.encode(symbols), symbols != 0
        written = symbols.new_full((len(symbols), 1), begin)
        for _ in range(steps):
            last = self.decode(written, memory, there)[..., -1].argmax(dim=1, keepdim=True)
            written = torch.cat([written, last], dim=1)
        return written[:, 1:]
