"""Message-passing networks of PyTorch Geometric, on a small random graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, Any]
_NODES, _FEATURES, _EDGES = 12, 10, 40


class MessagePassing(nn.Module):
    """Layers of one kind with a residual connection, and a readout over the whole graph."""

    def __init__(self, kind: str, width: int = 48, depth: int = 3, **options: Any) -> None:
        super().__init__()
        from torch_geometric import nn as graphs

        layer = getattr(graphs, kind)
        out = width // int(options.get("heads", 1))
        self.first = nn.Linear(_FEATURES, width)
        self.layers = nn.ModuleList(layer(width, out, **options) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """x: (nodes, features), edges: (2, edges) -> (1, 4)."""
        x = self.first(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + norm(layer(x, edges)).relu()
        return self.head(x.mean(0, keepdim=True))


def _graph() -> tuple[Tensor, Tensor]:
    return torch.randn(_NODES, _FEATURES), torch.randint(0, _NODES, (2, _EDGES))


def convolution_graph() -> Made:
    """Kipf and Welling, 2017."""
    return MessagePassing("GCNConv"), _graph()


def sampling_graph() -> Made:
    """GraphSAGE: Hamilton et al., 2017."""
    return MessagePassing("SAGEConv"), _graph()


def attention_graph() -> Made:
    """Velickovic et al., 2018."""
    return MessagePassing("GATConv", heads=4), _graph()
