"""Recurrent networks wired like graphs, and classifiers of symbols, against their definitions."""

from __future__ import annotations

import copy

import networkx as nx
import pytest
import torch
from torch import nn

from netwright.data import reber
from netwright.errors import ModelError, UsageError
from netwright.models import GraphRNN, TokenClassifier, recurrent, wire
from netwright.models.zoo.graph_rnn import MaskedRecurrent, gate_rows
from netwright.models.zoo.recurrent import GATES
from netwright.train import Recipe, fit

CELLS = tuple(GATES)
GRAPH = nx.connected_watts_strogatz_graph(14, 4, 1.0, seed=3)


def test_layers_are_longest_paths() -> None:
    wiring = wire([(0, 1), (1, 2), (0, 2), (2, 4), (3, 4)])
    assert wiring.layers == ((0, 3), (1,), (2,), (4,))
    assert wiring.sizes == [2, 1, 1, 1] and wiring.sources == 2 and wiring.sinks == 1
    assert wiring.inputs(3) == [2, 0] and wiring.mask(0, 3).tolist() == [[False, True]]
    depth = {n: k for k, layer in enumerate(wire(GRAPH).layers) for n in layer}
    directed = nx.DiGraph([(min(e), max(e)) for e in GRAPH.edges])
    for node in GRAPH:
        reaching = directed.subgraph([*nx.ancestors(directed, node), node])
        assert depth[node] == nx.dag_longest_path_length(reaching)


def test_impossible_graphs_are_refused() -> None:
    with pytest.raises(ModelError):
        wire([])
    with pytest.raises(ModelError, match="itself"):
        wire([(0, 0)])
    with pytest.raises(UsageError, match="no cell"):
        GraphRNN(GRAPH, "transformer")  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", CELLS)
def test_gate_rows_are_stacked_gate_by_gate(cell: str) -> None:
    """Row k of every gate's block belongs to unit k, as PyTorch orders its weights; not interleaved."""
    mask = torch.tensor([[True, False, True], [False, True, False]])
    rows = gate_rows(mask, GATES[cell])
    assert rows.shape == (2 * GATES[cell], 3)
    for gate in range(GATES[cell]):
        assert torch.equal(rows[2 * gate : 2 * gate + 2], mask)


@pytest.mark.parametrize("cell", CELLS)
def test_a_masked_input_does_not_reach_its_unit(cell: str) -> None:
    """The functional meaning of the rows: an interleaved mask would let the input through."""
    i2h = torch.tensor([[True, False], [False, True], [True, True]])
    layer = MaskedRecurrent(cell, i2h, torch.eye(3, dtype=torch.bool)).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for bias in (layer.bias_ih_l0, layer.bias_hh_l0):
            bias.fill_(1.0)  # rectified units must be alive
    x = torch.rand(2, 5, 2, dtype=torch.double, requires_grad=True)
    for unit, (first, second) in enumerate(i2h.tolist()):
        (gradient,) = torch.autograd.grad(layer(x)[:, :, unit].sum(), x)
        assert bool((gradient[..., 0] != 0).any()) == first
        assert bool((gradient[..., 1] != 0).any()) == second


@pytest.mark.parametrize("cell", CELLS)
def test_a_path_graph_is_a_plain_stacked_network(cell: str) -> None:
    wired = GraphRNN(nx.path_graph(5), cell, seed=0).double()  # type: ignore[arg-type]
    assert wired.wiring.sizes == [1] * 5
    plain = recurrent(cell, 1, 1, 5).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for k, layer in enumerate(wired.layers):
            for name, tensor in layer.named_parameters():
                plain.get_parameter(name.replace("_l0", f"_l{k}")).copy_(tensor)
    x = torch.randn(3, 7, 1, dtype=torch.double)
    torch.testing.assert_close(wired(x), plain(x)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_it_is_the_sum_of_a_recurrent_layer_for_every_edge_of_layers(cell: str) -> None:
    """The definition, layer by layer and skip by skip, in PyTorch's own layers."""
    wired = GraphRNN(GRAPH, cell, seed=0).double()  # type: ignore[arg-type]
    wiring = wired.wiring
    assert any(len(wiring.inputs(k)) > 1 for k in range(1, len(wiring.layers)))
    x = torch.randn(3, 7, wired.input_size, dtype=torch.double)
    outputs: list[torch.Tensor] = []
    for target, layer in enumerate(wired.layers):
        size, first, total = wiring.sizes[target], 0, torch.zeros(3, 7, wiring.sizes[target]).double()
        for block, source in enumerate(wiring.inputs(target) if target else [0]):
            inputs = wiring.sizes[source]
            rows = torch.cat(
                [torch.arange(size) + g * layer.hidden_size + block * size for g in range(GATES[cell])]
            )
            part = recurrent(cell, inputs, size).double()  # type: ignore[arg-type]
            with torch.no_grad():
                part.weight_ih_l0.copy_(layer.weight_ih_l0[rows, first : first + inputs])
                part.weight_hh_l0.copy_(layer.weight_hh_l0[rows, block * size : (block + 1) * size])
                part.bias_ih_l0.copy_(layer.bias_ih_l0[rows])
                part.bias_hh_l0.copy_(layer.bias_hh_l0[rows])
            if target:
                mask = torch.tensor(
                    [[GRAPH.has_edge(a, b) for a in wiring.layers[source]] for b in wiring.layers[target]]
                )
                assert torch.equal(part.weight_ih_l0 != 0, mask.repeat(GATES[cell], 1))
            total = total + part(outputs[source] if target else x)[0]
            first += inputs
        outputs.append(total)
    torch.testing.assert_close(wired(x), outputs[-1], rtol=0, atol=1e-12)


def test_what_does_not_exist_stays_zero_while_training() -> None:
    data = reber(200, longest=16, val=0.0)
    model = TokenClassifier(GraphRNN(GRAPH, "gru", seed=0))
    recipe = Recipe(epochs=3, batch_size=32, lr=0.01, optimizer="adamw", weight_decay=0.0, precision="fp32")
    trained = fit(model, data, recipe, device="cpu").model
    for before, after in zip(model.rnn.layers, trained.rnn.layers, strict=True):
        assert bool((after.weight_ih_l0[~after.mask_ih] == 0).all())
        assert bool((after.weight_hh_l0[~after.mask_hh] == 0).all())
        assert not torch.equal(before.weight_ih_l0, after.weight_ih_l0)


def test_weights_are_drawn_by_a_seed_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, other = GraphRNN(GRAPH, "lstm", seed=5), GraphRNN(GRAPH, "lstm", seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    copied = copy.deepcopy(one)
    copied.load_state_dict(other.state_dict())
    x = torch.randn(2, 3, one.input_size)
    assert torch.equal(copied(x), one(x))


@pytest.mark.parametrize("cell", CELLS)
def test_padding_does_not_change_what_is_read_by_length(cell: str) -> None:
    torch.manual_seed(0)
    model = TokenClassifier(recurrent(cell, 8, 8, 2))  # type: ignore[arg-type]
    tokens = torch.randint(1, 128, (3, 9))
    tokens[1, 5:] = 0
    answer = model(tokens)
    torch.testing.assert_close(answer[1:2], model(tokens[1:2, :5]))
    packed = nn.utils.rnn.pack_padded_sequence(
        model.embedding(tokens), torch.tensor([9, 5, 9]), batch_first=True, enforce_sorted=False
    )
    state = model.rnn(packed)[1]
    last = (state[0] if isinstance(state, tuple) else state)[-1]
    torch.testing.assert_close(answer, model.fc(last))
    padded = TokenClassifier(model.rnn, last="padded")
    padded.load_state_dict(model.state_dict())
    assert not torch.allclose(padded(tokens)[1], answer[1])
    torch.testing.assert_close(padded(tokens)[0], answer[0])
