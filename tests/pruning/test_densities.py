"""SynFlow, its expected sum, and the densities that follow."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netwright.errors import BudgetError, ModelError, UsageError
from netwright.models import ResNetCifar
from netwright.pruning.importances.densities import (
    ExpectedFlow,
    convex_densities,
    layer_costs,
    layer_macs,
    layer_names,
    synflow_densities,
    synflow_masks,
    synflow_scores,
    water_fill,
)
from netwright.pruning.masks.mask_state import MaskState, bake
from netwright.pruning.masks.selection import densities_of, shuffled, top_masks
from netwright.structure import trace


def perceptron(*sizes, bias=False):
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def mask(model, masks):
    """A copy with soft masks."""
    twin = copy.deepcopy(model)
    MaskState(twin, masks, soft=True)
    return twin


def plain(width=8, depth=6):
    """A chain of convolutions with batch normalisation."""
    layers, inputs = [], 1
    for k in range(depth):
        outputs = width * 2 ** (k // 2)
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def weights_of(model, net):
    named = dict(model.named_parameters())
    return {name: named[name] for name in layer_names(net)}


# SynFlow


def test_synflow_is_conserved_between_layers_and_at_every_unit():
    model = perceptron(6, 20, 15, 3)
    names = ["0.weight", "2.weight", "4.weight"]
    scores = synflow_scores(model, torch.randn(1, 6), names)
    sums = [float(scores[name].sum()) for name in names]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-6)
    for before, after in itertools.pairwise(names):
        torch.testing.assert_close(scores[before].sum(dim=1), scores[after].sum(dim=0), rtol=1e-9, atol=0)


def test_synflow_agrees_with_its_definition():
    model = plain()
    names = [name for name, p in model.named_parameters() if p.dim() > 1]
    found = synflow_scores(model, torch.randn(4, 1, 8, 8), names)
    # As in the released code: absolute parameters and buffers, ones, batch normalisation in eval mode.
    other = copy.deepcopy(model).double().eval()
    for tensor in other.state_dict().values():
        if tensor.is_floating_point():
            tensor.abs_()
    other[-1].bias.data.zero_()
    other(torch.ones(1, 1, 8, 8, dtype=torch.float64)).sum().backward()
    for name, parameter in other.named_parameters():
        if name in names:
            torch.testing.assert_close(found[name], (parameter.grad * parameter).abs(), rtol=1e-9, atol=0)


def test_synflow_leaves_the_model_alone():
    model = plain().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = trace(model, torch.randn(2, 1, 8, 8))
    synflow_masks(net, model, 0.1, rounds=3)
    ExpectedFlow(net, model)({})
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("keep", [0.5, 0.1, 0.01])
def test_synflow_keeps_exactly_its_share(keep):
    model = ResNetCifar(8, in_channels=1, widths=(8, 16, 32))
    net = trace(model, torch.randn(1, 1, 8, 8))
    masks = synflow_masks(net, model, keep, rounds=20)
    total = sum(w.numel() for w in weights_of(model, net).values())
    assert sum(int(m.sum()) for m in masks.values()) == round(keep * total)
    assert densities_of(masks) == synflow_densities(net, model, keep, rounds=20)


def test_synflow_keeps_every_layer_alive_where_magnitude_and_one_round_do_not():
    model = plain(width=16)
    net = trace(model, torch.randn(1, 1, 8, 8))
    keep = 1e-3
    masks = synflow_masks(net, model, keep)
    assert all(bool(m.any()) for m in masks.values())
    flow = mask(model.eval(), masks)
    assert float(synflow_scores(bake(flow), torch.ones(1, 1, 8, 8), layer_names(net))["15.weight"].sum()) > 0
    weights = {name: w.detach().abs() for name, w in weights_of(model, net).items()}
    count = round(keep * sum(w.numel() for w in weights.values()))
    assert not all(bool(m.any()) for m in top_masks(weights, count).values())
    assert not all(bool(m.any()) for m in synflow_masks(net, model, keep, rounds=1).values())


def test_a_share_out_of_range_is_refused():
    model = perceptron(4, 5, 3)
    net = trace(model, torch.randn(1, 4))
    for keep in (0.0, 1.5, -1.0):
        with pytest.raises(BudgetError, match="share"):
            synflow_masks(net, model, keep)


# the expected sum


def test_the_expected_flow_is_the_mean_over_all_masks():
    """Exactly: the sum of the flow of every mask times its probability, weights alike within a layer."""
    model = perceptron(2, 2, 2)
    for k, weight in enumerate(model.parameters()):
        nn.init.constant_(weight, 0.5 + k)
    net = trace(model, torch.randn(1, 2))
    densities = {"0.weight": 0.3, "2.weight": 0.8}
    expected = 0.0
    for bits in itertools.product([0.0, 1.0], repeat=8):
        first, second = torch.tensor(bits[:4]).reshape(2, 2), torch.tensor(bits[4:]).reshape(2, 2)
        flow = float((1.5 * second @ (0.5 * first @ torch.ones(2))).sum())
        chance = 1.0
        for layer, p in ((bits[:4], 0.3), (bits[4:], 0.8)):
            chance *= math.prod(p if bit else 1 - p for bit in layer)
        expected += chance * flow
    assert ExpectedFlow(net, model)(densities).log == pytest.approx(math.log(expected), rel=1e-6)


def test_the_flow_of_a_chain_is_a_product_of_densities():
    model = plain()
    net = trace(model, torch.randn(1, 1, 8, 8))
    flow = ExpectedFlow(net, model)
    densities = {name: 0.9 / (k + 1) for k, name in enumerate(flow.names)}
    found, dense = flow(densities), flow({})
    assert found.log - dense.log == pytest.approx(sum(map(math.log, densities.values())), rel=1e-9)
    assert list(found.shares.values()) == pytest.approx([1.0] * 7, rel=1e-9)


def test_the_flow_of_branches_is_their_sum():
    model = ResNetCifar(8, in_channels=1, widths=(4, 8, 8))
    net = trace(model, torch.randn(1, 1, 8, 8))
    flow = ExpectedFlow(net, model)
    densities = dict.fromkeys(flow.names, 0.3)
    found = flow(densities)
    inner = [s for name, s in found.shares.items() if "layer" in name]
    assert all(0 < share < 1 for share in inner)
    assert found.shares["conv1.weight"] == pytest.approx(1.0)  # everything passes through the stem
    name = "layer2.0.conv1.weight"
    higher = flow(densities | {name: 0.3 * math.exp(1e-5)})
    assert (higher.log - found.log) / 1e-5 == pytest.approx(found.shares[name], rel=1e-4)


def test_activations_that_saturate_do_not_stop_the_flow():
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU6(), nn.Conv2d(64, 64, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(1024, 4)
    )
    for weight in model.parameters():
        nn.init.constant_(weight, 1.0)
    net = trace(model, torch.randn(1, 3, 8, 8))
    assert list(ExpectedFlow(net, model)({}).shares.values()) == pytest.approx([1.0] * 3)
    assert all(float(s.sum()) > 0 for s in synflow_scores(model, net.inputs, layer_names(net)).values())


def test_a_network_through_which_nothing_flows_says_so():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    nn.init.constant_(model[0].weight, 1.0)
    net = trace(model, torch.randn(1, 4))
    with pytest.raises(ModelError, match="nothing flows"):
        ExpectedFlow(net, model)({})
    assert set(convex_densities(net, model, "params=0.5", branches=False)) == {"0.weight", "2.weight"}


# the programme


def test_water_filling_of_the_sheet():
    assert water_fill([1, 1, 1], [100, 1000, 10_000], 1110) == pytest.approx([1.0, 0.505, 0.0505], abs=1e-9)


def numeric(gains, prices, budgets):
    from scipy.optimize import minimize

    prices = np.atleast_2d(prices)
    scale = np.atleast_1d(budgets)[:, None]
    start = np.log(np.full(len(gains), 0.9 * min(1.0, *(budgets / prices.sum(axis=1)))))
    solved = minimize(
        lambda x: -gains @ x,
        start,
        jac=lambda x: -gains,
        bounds=[(-25, 0)] * len(gains),
        constraints={
            "type": "ineq",
            "fun": lambda x: 1 - (prices / scale) @ np.exp(x),
            "jac": lambda x: -(prices / scale) * np.exp(x),
        },
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-15},
    )
    return np.exp(solved.x)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("constraints", [1, 2])
def test_the_closed_form_agrees_with_a_numeric_solver(seed, constraints):
    rng = np.random.default_rng(seed)
    gains = rng.uniform(0.3, 1.0, 6)
    prices = rng.uniform(1, 20, (constraints, 6))
    budgets = prices.sum(axis=1) * rng.uniform(0.2, 0.6, constraints)
    assert water_fill(gains, prices, budgets) == pytest.approx(numeric(gains, prices, budgets), abs=1e-6)


@given(
    prices=st.lists(st.floats(1.0, 1e6), min_size=1, max_size=8),
    share=st.floats(0.01, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_water_filling_spends_its_budget_and_evenly(prices, share):
    price = np.array(prices)
    p = water_fill(np.ones(len(price)), price, share * price.sum())
    assert price @ p == pytest.approx(share * price.sum(), rel=1e-6)
    free = p < 1
    if free.any():
        level = (price * p)[free]
        assert level == pytest.approx(np.full(free.sum(), level[0]), rel=1e-6)
        assert (price[~free] <= level[0] * (1 + 1e-6)).all()


def test_a_budget_below_the_least_densities_is_refused():
    with pytest.raises(BudgetError, match="smallest network takes 2"):
        water_fill([1.0, 1.0], [10.0, 10.0], 1.0, lowest=0.1)
    with pytest.raises(BudgetError, match="budgets"):
        water_fill([1.0], [[1.0], [1.0]], [1.0])


def test_a_slack_budget_keeps_everything():
    assert water_fill([1.0, 1.0], [[1.0, 2.0], [5.0, 5.0]], [9.0, 10.0]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("budget", ["params=0.1", "macs=0.2", "params=0.3, macs=0.2"])
def test_convex_densities_meet_the_budget_and_branches_raise_the_flow(budget):
    model = ResNetCifar(8, in_channels=1, widths=(8, 16, 32))
    net = trace(model, torch.randn(1, 1, 8, 8))
    flow = ExpectedFlow(net, model)
    found = {b: convex_densities(net, model, budget, branches=b) for b in (False, True)}
    table = layer_costs(net, model, flow.names)
    rest = np.array([net.params, net.macs]) - table.sum(axis=1)
    for densities in found.values():
        p = np.array([densities[name] for name in flow.names])
        assert ((p > 0) & (p <= 1)).all()
        shares = (table @ p + rest) / np.array([net.params, net.macs])
        limits = {part.split("=")[0]: float(part.split("=")[1]) for part in budget.split(", ")}
        over = [shares[k] / limits[n] for k, n in enumerate(("params", "macs")) if n in limits]
        assert max(over) == pytest.approx(1.0, rel=1e-6)
    assert flow(found[True]).log >= flow(found[False]).log - 1e-9


@pytest.mark.parametrize("budget", ["none", "latency=0.5", "params=0.5, accuracy>=-1%"])
def test_layers_can_be_sized_by_parameters_and_macs_only(budget):
    model = perceptron(4, 5, 3)
    with pytest.raises(BudgetError, match="before training"):
        convex_densities(trace(model, torch.randn(1, 4)), model, budget)


# masks


@given(values=st.lists(st.integers(0, 3), min_size=1, max_size=30), data=st.data())
@settings(max_examples=60, deadline=None)
def test_masks_keep_exactly_the_best_whatever_the_ties(values, data):
    count = data.draw(st.integers(1, len(values)))
    cut = data.draw(st.integers(0, len(values)))
    scores = {"a": torch.tensor(values[:cut]).float(), "b": torch.tensor(values[cut:]).float()}
    masks = top_masks(scores, count)
    kept = torch.cat([masks["a"], masks["b"]]).tolist()
    order = sorted(range(len(values)), key=lambda k: (-values[k], k))[:count]
    assert [k for k, keep in enumerate(kept) if keep] == sorted(order)


def test_masks_refuse_what_cannot_be():
    with pytest.raises(UsageError, match="cannot be kept"):
        top_masks({"a": torch.zeros(3)}, 4)
    with pytest.raises(UsageError, match="not a number"):
        top_masks({"a": torch.tensor([1.0, math.nan])}, 1)
    with pytest.raises(UsageError, match="fits no parameter"):
        mask(perceptron(4, 5, 3), {"0.weight": torch.ones(2, 2, dtype=torch.bool)})


def test_shuffling_keeps_the_counts_and_nothing_else():
    model = plain()
    net = trace(model, torch.randn(1, 1, 8, 8))
    masks = synflow_masks(net, model, 0.3, rounds=10)
    mixed = shuffled(masks, seed=1)
    for name, given_mask in masks.items():
        assert int(mixed[name].sum()) == int(given_mask.sum())
        assert mixed[name].shape == given_mask.shape
    assert any(not torch.equal(mixed[name], masks[name]) for name in masks)
    assert all(torch.equal(mixed[name], again) for name, again in shuffled(masks, seed=1).items())
    assert any(not torch.equal(mixed[name], other) for name, other in shuffled(masks, seed=2).items())


def test_a_masked_network_stays_masked_while_it_trains():
    model = plain(depth=2)
    net = trace(model, torch.randn(1, 1, 8, 8))
    masks = synflow_masks(net, model, 0.3, rounds=5)
    masked = mask(model, masks)
    assert not hasattr(model[0], "parametrizations")
    optimizer = torch.optim.SGD(masked.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        masked(torch.randn(8, 1, 8, 8)).square().sum().backward()
        optimizer.step()
    baked = bake(masked.eval())
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(baked(x), masked(x))
    assert {name for name, _ in baked.named_parameters()} == {name for name, _ in model.named_parameters()}
    for name, kept in masks.items():
        weight = dict(baked.named_parameters())[name]
        assert bool((weight[~kept] == 0).all()) and not torch.equal(
            weight, dict(model.named_parameters())[name]
        )


def test_weights_of_one_module_share_its_cost_by_their_elements():
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    macs = layer_macs(trace(model, torch.randn(1, 5, 16)))
    assert macs["self_attn.in_proj_weight"] == 5 * 16 * 48
    assert macs["self_attn.out_proj.weight"] == 5 * 16 * 16
    assert macs["linear1.weight"] == macs["linear2.weight"] == 5 * 16 * 32


def test_every_step_of_a_recurrence_and_every_call_of_a_shared_layer_counts():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.lstm = nn.Linear(6, 6), nn.LSTM(6, 4, batch_first=True)

        def forward(self, x):
            return self.lstm(self.shared(torch.relu(self.shared(x))))[0]

    macs = layer_macs(trace(Twice().eval(), torch.randn(1, 7, 6)))
    assert macs["shared.weight"] == 2 * 7 * 36
    assert (macs["lstm.weight_ih_l0"], macs["lstm.weight_hh_l0"]) == (7 * 16 * 6, 7 * 16 * 4)
