"""Dead neuron rates against their definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.data import Part
from netwright.errors import DataError, UsageError
from netwright.metrics import DeadRates, dead_neurons


class Functional(nn.Module):
    """ReLUs as functions, twice in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3), nn.Linear(3 * 16, 5)

    def forward(self, x):
        return F.relu(self.b(torch.relu(self.a(x)).flatten(1)))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 2))


def test_rates_are_those_of_a_naive_loop():
    model, x = mlp(), torch.randn(33, 6)
    found = dead_neurons(model, x, batch_size=8)
    first = model[1](model[0](x))
    second = model[3](model[2](first))
    for name, maps in (("1", first), ("3", second)):
        rates = found[name]
        dead = sum(float(v == 0) for row in maps for v in row) / maps.numel()
        static = sum(all(row[k] == 0 for row in maps) for k in range(maps.shape[1])) / maps.shape[1]
        assert rates.total == pytest.approx(dead) and rates.static == pytest.approx(static)
        assert (rates.nodes, rates.inputs) == (maps.shape[1], 33)
    whole = DeadRates.together(found.values())
    assert whole.total == pytest.approx((20 * found["1"].total + 7 * found["3"].total) / 27)


def test_total_is_static_and_dynamic():
    for rates in dead_neurons(Functional(), torch.randn(16, 1, 6, 6)).values():
        assert rates.total == pytest.approx(rates.static + rates.dynamic)
        assert rates.dynamic >= 0


def test_positive_networks_have_no_dead_nodes_and_drowned_ones_have_only_such():
    alive, drowned = mlp(), mlp()
    with torch.no_grad():
        for p in alive.parameters():
            p.fill_(1.0)
        for layer in (drowned[0], drowned[2]):
            layer.bias.fill_(-1e9)
    x = torch.rand(9, 6) + 0.1
    assert all(r.total == 0 for r in dead_neurons(alive, x).values())
    for rates in dead_neurons(drowned, x).values():
        assert (rates.static, rates.dynamic) == (1.0, 0.0)


def test_functions_are_found_and_positions_or_channels_are_nodes():
    model, x = Functional(), torch.randn(40, 1, 6, 6)
    assert {n: r.nodes for n, r in dead_neurons(model, x).items()} == {"": 48, ":2": 5}
    channels = dead_neurons(model, x, per_channel=True)
    assert {n: r.nodes for n, r in channels.items()} == {"": 3, ":2": 5}
    maps = torch.relu(model.a(x))
    assert channels[""].total == pytest.approx(float((maps.amax(dim=(2, 3)) == 0).double().mean()))


def test_smooth_activations_are_dead_below_a_threshold():
    model = nn.Sequential(nn.Linear(4, 50), nn.GELU(), nn.Linear(50, 3), nn.SiLU())
    x = torch.randn(20, 4)
    with pytest.raises(UsageError, match="no ReLU"):
        dead_neurons(model, x)
    found = dead_neurons(model, x, smooth=True, threshold=0.05)
    first = model[1](model[0](x))
    assert found["1"].total == pytest.approx(float((first.abs() <= 0.05).double().mean()))
    assert set(found) == {"1", "3"}


def test_the_network_stays_as_it_was_and_is_judged_in_eval_mode():
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 4), nn.ReLU()
    )
    before = {n: t.clone() for n, t in model.state_dict().items()}
    model.train()
    x = torch.randn(32, 4)
    one, two = dead_neurons(model, x), dead_neurons(model, x)
    assert one == two  # no dropout
    assert model.training and all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_data_may_be_a_split_or_batches_and_must_exist():
    model, x = mlp(), torch.randn(10, 6)
    part = Part.from_tensors(x, torch.zeros(10))
    expected = dead_neurons(model, x)
    assert dead_neurons(model, part) == expected
    assert dead_neurons(model, [(x[:4], None), (x[4:], None)]) == expected
    with pytest.raises(DataError):
        dead_neurons(model, [])
    with pytest.raises(DataError, match="one size"):
        dead_neurons(
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), [torch.rand(1, 1, 5, 5), torch.rand(1, 1, 6, 6)]
        )


def test_a_transformer_s_fused_layer_hides_nothing():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    (rates,) = dead_neurons(layer, torch.randn(5, 4, 16)).values()
    assert rates.nodes == 4 * 32 and 0.2 < rates.total < 0.8
