"""Classifiers of sequences."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from netwright.errors import UsageError

#: Kinds of recurrent cells.
Cell = Literal["gru", "lstm", "tanh", "relu"]
#: Rows of weights for every unit.
GATES: dict[str, int] = {"gru": 3, "lstm": 4, "tanh": 1, "relu": 1}


def check_cell(cell: str) -> None:
    """Refuse an unknown cell.

    Raises:
        UsageError: if there is none of that name.
    """
    if cell not in GATES:
        raise UsageError(f"there is no cell {cell!r}", f"choose from {', '.join(GATES)}")


def recurrent(cell: Cell, inputs: int, hidden: int, layers: int = 1, **settings: Any) -> nn.RNNBase:
    """PyTorch's recurrent layers of a kind of cell, the batch first.

    Args:
        cell: ``"gru"``, ``"lstm"``, ``"tanh"`` or ``"relu"``.
        inputs: Features of each step.
        hidden: Width of every layer.
        layers: How many.
        settings: Others of PyTorch's classes.

    Raises:
        UsageError: if there is no cell of that name.
    """
    check_cell(cell)
    if cell == "gru":
        return nn.GRU(inputs, hidden, layers, batch_first=True, **settings)
    if cell == "lstm":
        return nn.LSTM(inputs, hidden, layers, batch_first=True, **settings)
    return nn.RNN(inputs, hidden, layers, batch_first=True, nonlinearity=cell, **settings)


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
        self.rnn = recurrent(kind, in_channels, hidden, layers)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in_channels) -> (B, num_classes)."""
        y, _ = self.rnn(x)
        return self.fc(y[:, -1])


class TokenClassifier(nn.Module):
    """An embedding of symbols, recurrent layers of one direction, and a linear layer on the last output.

    Sequences are filled up with 0. The last output is by default that of the last symbol that is not 0, as if
    the sequences were packed; ``last="padded"`` takes the very last step, after all the zeros.

    Args:
        rnn: Maps (B, T, rnn.input_size) to (B, T, rnn.hidden_size), or to a tuple that begins with it.
        num_classes: Classes of the answer.
        vocabulary: Different symbols, 0 included.
        last: Whose output is read: ``"symbol"`` or ``"padded"``.

    Raises:
        UsageError: if `last` is none of the two.
    """

    def __init__(
        self,
        rnn: nn.Module,
        num_classes: int = 2,
        vocabulary: int = 128,
        last: Literal["symbol", "padded"] = "symbol",
    ) -> None:
        super().__init__()
        if last not in ("symbol", "padded"):
            raise UsageError(f"last={last!r} is not known", "choose from symbol, padded")
        features: Any = rnn
        self.last = last
        self.embedding = nn.Embedding(vocabulary, features.input_size)
        self.rnn = rnn
        self.fc = nn.Linear(features.hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T) symbols, integers of any type -> (B, num_classes)."""
        answer = self.rnn(self.embedding(x.long()))
        y = answer[0] if isinstance(answer, tuple) else answer
        if self.last == "padded":
            return self.fc(y[:, -1])
        at = ((x != 0).sum(dim=1) - 1).clamp(min=0)
        return self.fc(torch.gather(y, 1, at[:, None, None].expand(-1, 1, y.shape[2]))[:, 0])
