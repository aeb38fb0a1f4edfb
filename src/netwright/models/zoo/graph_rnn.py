"""Recurrent networks wired like a graph.

H. Darji, Investigating Sparsity in Recurrent Neural Networks, 2024, chapter on random structures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from netwright.models.wiring import Wiring, wire
from netwright.models.zoo.recurrent import GATES, Cell, check_cell

if TYPE_CHECKING:
    import networkx as nx


def gate_rows(mask: Tensor, gates: int) -> Tensor:
    """Repeat a mask (units, inputs) for every gate, as PyTorch stacks them: (gates * units, inputs).

    All rows of the first gate come first, then all of the second; units are not interleaved.
    """
    return mask.repeat(gates, 1)


class MaskedRecurrent(nn.Module):
    """One recurrent layer some of whose weights do not exist.

    The parameters are named as those of PyTorch's layers. What does not exist is zero in them, has no
    gradient, and is masked once more in the forward pass.

    Args:
        cell: ``"gru"``, ``"lstm"``, ``"tanh"`` or ``"relu"``.
        i2h: (units, inputs) bool, which input reaches which unit.
        h2h: (units, units) bool, which unit reaches which; all where None.
        fan: Units that the initial weights are scaled by; all where None.
    """

    mask_ih: Tensor
    mask_hh: Tensor
    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, cell: Cell, i2h: Tensor, h2h: Tensor | None = None, fan: int | None = None) -> None:
        super().__init__()
        check_cell(cell)
        self.cell, self.input_size, self.hidden_size = cell, i2h.shape[1], i2h.shape[0]
        h2h = torch.ones(len(i2h), len(i2h), dtype=torch.bool) if h2h is None else h2h
        bound = 1 / math.sqrt(fan or self.hidden_size)
        for part, mask in (("ih", i2h), ("hh", h2h)):
            rows = gate_rows(mask, GATES[cell])
            self.register_buffer(f"mask_{part}", rows)
            weight = torch.empty(rows.shape).uniform_(-bound, bound) * rows
            self.register_parameter(f"weight_{part}_l0", nn.Parameter(weight))
            bias = torch.empty(len(rows)).uniform_(-bound, bound)
            self.register_parameter(f"bias_{part}_l0", nn.Parameter(bias))

    def existing_weights(self) -> dict[str, Tensor]:
        """Weight -> bool mask of its elements that exist; `netwright.pruning` counts and keeps no others."""
        return {"weight_ih_l0": self.mask_ih, "weight_hh_l0": self.mask_hh}

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, inputs) -> (B, T, units)."""
        weights = [
            self.weight_ih_l0 * self.mask_ih,
            self.weight_hh_l0 * self.mask_hh,
            self.bias_ih_l0,
            self.bias_hh_l0,
        ]
        h = x.new_zeros(1, len(x), self.hidden_size)
        # biases, layers, dropout, training, bidirectional, batch first
        settings = (True, 1, 0.0, self.training, False, True)
        if self.cell == "lstm":
            return torch.lstm(x, (h, h), weights, *settings)[0]
        if self.cell == "gru":
            return torch.gru(x, h, weights, *settings)[0]
        run = torch.rnn_tanh if self.cell == "tanh" else torch.rnn_relu
        return run(x, h, weights, *settings)[0]

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"{self.cell}, {self.input_size}, {self.hidden_size}"


class GraphRNN(nn.Module):
    """A recurrent layer for every layer of a graph, connected as its nodes are.

    The units of a layer are its nodes. Between consecutive layers the input weights are masked by the edges;
    edges that skip layers have a recurrent layer of their own from the layer they come from, whose output is
    added to that of the layer they go to. Within a layer all units are connected.

    The recurrent layers that end in one layer run as a single one with block-diagonal recurrent weights: the
    same function, in a fraction of the calls.

    Args:
        graph: Of networkx, edges, or a `Wiring`; see `netwright.models.wiring.wire`.
        cell: ``"gru"``, ``"lstm"``, ``"tanh"`` or ``"relu"``.
        seed: Of the weights; the global stream of torch where None.

    Attributes:
        wiring: The layers of the graph.
        input_size: Features of an input; as many as the first layer has nodes.
        hidden_size: Features of the output; as many as the last layer has nodes.
    """

    def __init__(
        self, graph: nx.Graph | Wiring | list[tuple[int, int]], cell: Cell = "gru", seed: int | None = None
    ) -> None:
        super().__init__()
        self.wiring = graph if isinstance(graph, Wiring) else wire(graph)
        sizes = self.wiring.sizes
        self.input_size, self.hidden_size = sizes[0], sizes[-1]
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            first = MaskedRecurrent(cell, torch.ones(sizes[0], sizes[0], dtype=torch.bool))
            self._inputs = [self.wiring.inputs(k) for k in range(1, len(sizes))]
            self.layers = nn.ModuleList([first, *(self._layer(k, cell) for k in range(1, len(sizes)))])

    def _layer(self, target: int, cell: Cell) -> MaskedRecurrent:
        parts = [self.wiring.mask(source, target) for source in self._inputs[target - 1]]
        size = self.wiring.sizes[target]
        within = [torch.ones(size, size, dtype=torch.bool) for _ in parts]
        return MaskedRecurrent(cell, torch.block_diag(*parts).bool(), torch.block_diag(*within).bool(), size)

    @property
    def weights(self) -> int:
        """Weights that exist: those of the masks, without biases."""
        return sum(int(m.sum()) for name, m in self.named_buffers() if ".mask_" in name)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, input_size) -> (B, T, hidden_size)."""
        outputs = [self.layers[0](x)]
        for sources, layer in zip(self._inputs, self.layers[1:], strict=True):
            y = layer(torch.cat([outputs[s] for s in sources], dim=2))
            outputs.append(y.unflatten(2, (len(sources), -1)).sum(dim=2))
        return outputs[-1]
