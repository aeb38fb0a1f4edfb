"""Masks in recurrent layers: which weights, how many, and what a masked cell computes."""

from __future__ import annotations

import copy
import pickle

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.models import GraphRNN, TokenClassifier, recurrent
from netwright.pruning import MaskState, Sparsity, bake, prunable_weights, sparsify
from netwright.pruning.schedules.cycles import CycleRun, lottery
from netwright.pruning.schedules.schedule import granet
from netwright.train import Recipe

LAYERS = {
    "rnn": lambda: nn.RNN(5, 7, 2, batch_first=True),
    "relu": lambda: nn.RNN(5, 7, 3, nonlinearity="relu"),
    "gru": lambda: nn.GRU(5, 7, 2, bidirectional=True),
    "lstm": lambda: nn.LSTM(5, 7, 3, batch_first=True),
    "lstm both ways": lambda: nn.LSTM(5, 7, 2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(5, 7, 2, proj_size=3, batch_first=True),
}


def seeded(name: str) -> nn.RNNBase:
    torch.manual_seed(0)
    return LAYERS[name]()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("select", [("i2h",), ("h2h",), ("i2h", "h2h")])
def test_the_chosen_matrices_share_one_percentile(name: str, select: tuple[str, ...]) -> None:
    """As numpy's percentile of all their magnitudes together; biases are not touched."""
    model = seeded(name)
    sparse = sparsify(model, keep=0.4, select=select)
    parts = {"i2h": "weight_ih", "h2h": "weight_hh"}
    wanted = [n for n, _ in model.named_parameters() if any(n.startswith(parts[s]) for s in select)]
    assert list(sparse.masks) == wanted == prunable_weights(model, select=select)
    weights = dict(model.named_parameters())
    pooled = np.concatenate([weights[n].detach().abs().numpy().ravel() for n in wanted])
    kept = sum(int(m.sum()) for m in sparse.masks.values())
    assert kept == round(0.4 * len(pooled))
    threshold = np.percentile(pooled, 100 * (len(pooled) - kept) / len(pooled), method="higher")
    for n, mask in sparse.masks.items():
        assert np.array_equal(mask.numpy(), weights[n].detach().abs().numpy() >= threshold)
    untouched = [n for n in weights if n not in wanted]
    now = dict(sparse.model.named_parameters())
    assert all(torch.equal(now[n], weights[n]) for n in untouched)


@pytest.mark.parametrize("share", [0.1, 0.33, 0.6, 0.9])
def test_counts_are_those_of_a_linear_percentile_but_for_rounding(share: float) -> None:
    model = seeded("lstm")
    masks = sparsify(model, keep=1 - share, select=("i2h", "h2h")).masks
    pooled = np.concatenate([dict(model.named_parameters())[n].detach().abs().numpy().ravel() for n in masks])
    by_numpy = int((pooled >= np.percentile(pooled, 100 * share)).sum())
    assert abs(sum(int(m.sum()) for m in masks.values()) - by_numpy) <= 1


def lstm_loop(model: nn.LSTM, x: Tensor) -> Tensor:
    """A stacked LSTM of one or two directions, cell by cell: (B, T, inputs) -> (B, T, outputs)."""
    for layer in range(model.num_layers):
        ways = []
        for suffix in ("", "_reverse")[: 1 + model.bidirectional]:
            w_ih, w_hh, b_ih, b_hh = (
                getattr(model, f"{kind}_l{layer}{suffix}")
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h = c = x.new_zeros(len(x), model.hidden_size)
            outputs = []
            for step in x.unbind(1)[:: -1 if suffix else 1]:
                gates = step @ w_ih.T + b_ih + h @ w_hh.T + b_hh
                i, f, g, o = gates.chunk(4, dim=1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                outputs.append(h)
            ways.append(torch.stack(outputs[:: -1 if suffix else 1], dim=1))
        x = torch.cat(ways, dim=2)
    return x


@pytest.mark.parametrize("name", ["lstm", "lstm both ways"])
def test_a_masked_lstm_is_a_cell_loop_with_zeros(name: str) -> None:
    model = seeded(name)
    sparse = sparsify(model, keep=0.3, select=("i2h", "h2h"))
    by_hand = copy.deepcopy(model)
    assert isinstance(by_hand, nn.LSTM)
    with torch.no_grad():
        for n, mask in sparse.masks.items():
            by_hand.get_parameter(n).mul_(mask)
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(sparse.model(x)[0], lstm_loop(by_hand, x), rtol=0, atol=1e-6)
    assert float((sparse.model(x)[0] - model(x)[0]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("cell", ["gru", "lstm", "tanh", "relu"])
def test_pruned_weights_stay_zero_under_adam(cell: str) -> None:
    """Momentum of the time before pruning must not revive them."""
    torch.manual_seed(0)
    model = TokenClassifier(recurrent(cell, 6, 6, 2))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = torch.randint(1, 128, (16, 8)), torch.randint(0, 2, (16,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(5):
        step()
    masks = MaskState(model, sparsify(model, keep=0.2, select=("i2h", "h2h")).masks)
    masks.hold(optimizer)
    before = {n: masks.parameter(n).detach().clone() for n in masks.masks}
    for _ in range(10):
        step()
    for n, mask in masks.masks.items():
        weight = masks.parameter(n)
        assert bool((weight[~mask] == 0).all())
        assert not torch.equal(weight, before[n])
        assert all(
            bool((slot[~mask] == 0).all())
            for slot in optimizer.state[weight].values()
            if slot.shape == mask.shape
        )


def masked_layer(kind: str, soft: bool) -> nn.Module:
    layer = seeded(kind)
    MaskState(
        layer,
        {n: torch.rand(p.shape) < 0.5 for n, p in layer.named_parameters() if p.dim() > 1},
        soft=soft,
    )
    return layer


@pytest.mark.parametrize("kind", LAYERS)
class TestSoftMasks:
    def test_they_act_like_hard_ones_and_keep_what_is_beneath(self, kind: str) -> None:
        soft, hard = masked_layer(kind, True), masked_layer(kind, False)
        plain = dict(seeded(kind).named_parameters())
        x = torch.randn(2, 4, 5)
        assert torch.allclose(soft(x)[0], hard(x)[0], atol=1e-6)
        state = MaskState.of(soft)
        assert all(torch.equal(state.parameter(n), plain[n]) for n in state.masks)
        state.set_({n: torch.ones_like(m) for n, m in state.masks.items()})
        assert torch.allclose(soft(x)[0], seeded(kind)(x)[0], atol=1e-6), "the weights come back"

    def test_gradients_stop_at_the_mask(self, kind: str) -> None:
        soft = masked_layer(kind, True)
        soft(torch.randn(2, 4, 5))[0].square().sum().backward()
        state = MaskState.of(soft)
        for name, mask in state.masks.items():
            gradient = state.parameter(name).grad
            assert not gradient[~mask].any() and gradient[mask].any()

    def test_they_survive_copies_files_types_and_removal(self, kind: str) -> None:
        soft, x = masked_layer(kind, True), torch.randn(2, 4, 5)
        wanted = soft(x)[0]
        wanted.sum().backward()  # results of a pass that was differentiated must not be in the way
        copied = copy.deepcopy(soft)
        sent = pickle.loads(pickle.dumps(soft))
        for twin in (copied, sent, soft.double().float()):
            assert torch.equal(twin(x)[0], wanted) and MaskState.of(twin).soft
        state = MaskState.of(copied)
        state.set_({n: torch.zeros_like(m) for n, m in state.masks.items()})
        assert not torch.equal(copied(x)[0], wanted) and torch.equal(soft(x)[0], wanted)
        bare = MaskState.of(sent).remove()
        assert type(bare) is type(seeded(kind)) and torch.equal(bare(x)[0], wanted)
        assert list(bare.state_dict()) == list(seeded(kind).state_dict())
        assert all(
            p is q
            for p, q in zip(
                bare._flat_weights, map(bare.get_parameter, bare._flat_weights_names), strict=True
            )
        )
        fresh = seeded(kind)
        assert MaskState.load(fresh, soft.state_dict()).soft and torch.equal(fresh(x)[0], wanted)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_take_soft_masks(cell: type[nn.RNNCellBase]) -> None:
    torch.manual_seed(0)
    model, x = cell(4, 3), torch.randn(2, 4)
    MaskState(model, {"weight_ih": torch.rand(model.weight_ih.shape) < 0.5}, soft=True)
    assert torch.equal(torch.stack([*model(x)]), torch.stack([*bake(model)(x)]))


class TestWeightsThatDoNotExist:
    """A network wired like a graph has tensors with elements that are no weights."""

    def network(self, cell: str = "gru") -> GraphRNN:
        return GraphRNN(nx.connected_watts_strogatz_graph(14, 4, 1.0, seed=0), cell, seed=0)  # type: ignore[arg-type]

    @pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "from-scores", "from-synflow"])
    @pytest.mark.parametrize("keep", [0.9, 0.3])
    def test_shares_are_of_those_that_exist(self, allocation: str, keep: float) -> None:
        model = self.network()
        x = torch.randn(2, 5, model.input_size)
        sparse = sparsify(model, x, keep=keep, allocation=allocation)
        assert sum(p.numel() for n, p in model.named_parameters() if "weight" in n) > model.weights
        assert sum(layer.total for layer in sparse.layers) == model.weights
        assert sum(sparse.kept.values()) == round(keep * model.weights)
        assert sparse.density == round(keep * model.weights) / model.weights
        assert MaskState.of(sparse.model).density == sparse.density
        assert_exist(sparse.model)
        assert sparse.verify(x) == 0

    def test_a_budget_of_parameters_counts_those_that_exist(self) -> None:
        model = self.network()
        biases = sum(p.numel() for n, p in model.named_parameters() if "bias" in n)
        sparse = sparsify(model, budget="params=0.5")
        assert sum(sparse.kept.values()) + biases == pytest.approx(0.5 * (model.weights + biases), abs=1)

    @pytest.mark.parametrize("by", ["gradient", "random"])
    def test_none_of_them_is_grown(self, by: str) -> None:
        model = self.network("tanh")
        plan = granet(initial=0.8, rate=0.5, begin=0, end=6, every=1, by=by)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsity = Sparsity(0.4, schedule=plan).attach(model, optimizer, 8)
        assert_exist(model)
        for _ in range(8):
            optimizer.zero_grad()
            model(torch.randn(3, 5, model.input_size)).square().mean().backward()
            optimizer.step()
            sparsity.step()
            assert_exist(model)
        assert sum(c.grown for c in sparsity.changes) > 0
        state = MaskState.of(model)
        assert sum(state.kept.values()) == round(0.4 * model.weights)
        assert sparsity.changes[-1].explored <= 1

    def test_tickets_count_those_that_exist(self) -> None:
        model = self.network("relu")
        x = torch.randn(8, 5, model.input_size)
        part = Part.from_tensors(x, torch.zeros(8, dtype=torch.long))
        data = Splits("sequences", part, part, part, ("no", "yes"))
        run = CycleRun(model, data, Recipe(epochs=1, batch_size=4), lottery(0.2, rounds=2))
        assert run.remaining[0] == model.weights
        assert run.remaining[1] == model.weights - -(-model.weights // 5)

    def test_only_single_ones_are_masked(self) -> None:
        with pytest.raises(UsageError, match="do not exist"):
            sparsify(self.network(), keep=0.5, granularity="row")


def assert_exist(model: nn.Module) -> None:
    state = MaskState.of(model)
    assert state is not None
    for name, there in state.existing.items():
        assert not bool((state.masks[name] & ~there).any())
        assert state.sizes[name] == int(there.sum()) < there.numel()
