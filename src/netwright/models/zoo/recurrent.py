"""Classifiers of sequences."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class RecurrentClassifier(nn.Module):
    """A GRU or LSTM over a sequence of features, and a linear layer on its last output.

    Args:
        kind: ``"gru"`` or ``"lstm"``.
        num_classes: Classes of the answer.
        in_channels: Features of each step.
        hidden: Width of the recurrent layers.
        layers: How many of them.
    """

    def __init__(
        self,
        kind: Literal["gru", "lstm"],
        num_classes: int = 10,
        in_channels: int = 3,
        hidden: int = 64,
        layers: int = 1,
    ) -> None:
        super().__init__()
        build = nn.GRU if kind == "gru" else nn.LSTM
        self.rnn = build(in_channels, hidden, layers, batch_first=True)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in_channels) -> (B, num_classes)."""
        y, _ = self.rnn(x)
        return self.fc(y[:, -1])
