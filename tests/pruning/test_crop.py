"""From densities to widths, from widths to counts within a budget, and the cropped network."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from netwright.errors import BudgetError
from netwright.models import ResNetCifar
from netwright.papers import precropping_nets as small_nets
from netwright.pruning.allocations.crop_widths import Ends, Prices, convex_widths, widths_of_densities
from netwright.pruning.importances.densities import layer_names
from netwright.pruning.removal.crop import (
    count_convex,
    count_densities,
    count_synflow,
    count_uniform,
    crop,
    fit,
)
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.structure import trace


def plain(widths=(16, 16, 32, 32, 64, 64)):
    """Six convolutions."""
    layers, inputs = [], 1
    for k, outputs in enumerate(widths):
        stride = 2 if k in (2, 4) else 1
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class Concatenated(nn.Module):
    """Two branches side by side, and a network that reads both."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 48, 3), nn.Conv2d(3, 16, 3)
        self.c = nn.Conv2d(64, 80, 1)
        self.hidden, self.fc = nn.Linear(80 * 4, 24), nn.Linear(24, 5)

    def forward(self, x):
        y = torch.relu(self.c(torch.relu(torch.cat([self.a(x), self.b(x)], dim=1))))
        y = nn.functional.adaptive_avg_pool2d(y, 2).flatten(1)
        return self.fc(torch.relu(self.hidden(y)))


NETS = {
    "plain": (plain, (1, 14, 14)),
    "residual": (lambda: ResNetCifar(20, in_channels=1, widths=(8, 16, 32)), (1, 14, 14)),
    "shuffle": (lambda: small_nets.shufflenet(1, 10), (1, 14, 14)),
    "mobile": (lambda: small_nets.mobilenet(1, 10), (1, 14, 14)),
    "concatenated": (Concatenated, (3, 8, 8)),
}
COUNTS = {
    "synflow": lambda *given: count_synflow(*given, rounds=10),
    "convex": count_convex,
    "chain": lambda *given: count_convex(*given, branches=False),
    "uniform": count_uniform,
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def built(name):
    make, shape = NETS[name]
    model, example = make(), torch.randn(2, *shape)
    return model, example, trace(model, example)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# budgets


@pytest.mark.parametrize("share", [0.25, 0.1])
@pytest.mark.parametrize("source", COUNTS)
@pytest.mark.parametrize("name", NETS)
def test_a_crop_has_at_most_its_parameters_and_within_one_percent(name, source, share):
    model, example, net = built(name)
    small = crop(net, model, COUNTS[source](net, model, f"params={share}"))
    got = parameters(small.model)
    assert got == small.after.params
    # A channel of the concatenated network is worth more than a hundredth of what is left.
    least = 0.97 if name == "concatenated" else 0.99
    assert least <= got / (share * parameters(model)) <= 1.0
    assert small.model(example).shape == model(example).shape
    small.model(example).sum().backward()
    assert small.before == net.dense and all(count >= 1 for count in small.counts.values())


@pytest.mark.parametrize("source", COUNTS)
def test_macs_and_both_budgets_together(source):
    model, example, net = built("residual")
    alone = crop(net, model, COUNTS[source](net, model, "macs=0.3")).after
    assert 0.98 <= alone.macs / (0.3 * net.macs) <= 1.0
    both = crop(net, model, COUNTS[source](net, model, "params=0.3, macs=0.2")).after
    assert both.macs <= 0.2 * net.macs and both.params <= 0.3 * net.params
    assert max(both.macs / (0.2 * net.macs), both.params / (0.3 * net.params)) >= 0.98
    assert crop(net, model, COUNTS[source](net, model, "macs=0.3")).model(example).isfinite().all()


@pytest.mark.parametrize("source", COUNTS)
def test_a_budget_that_nothing_meets_is_refused_and_a_full_one_keeps_everything(source):
    model, _, net = built("plain")
    with pytest.raises(BudgetError, match=r"budget|smallest"):
        COUNTS[source](net, model, "params=0.0005")
    assert COUNTS[source](net, model, "params=1.0") == {a.name: a.size for a in net.prunable}


# widths


def test_the_square_root_rule():
    model = ResNetCifar(8, in_channels=1, widths=(4, 8, 8))
    net = trace(model, torch.randn(1, 1, 8, 8))
    densities = {name: 0.1 + 0.05 * k for k, name in enumerate(layer_names(net))}
    widths = widths_of_densities(net, densities)
    assert widths["layer1.0.conv1"] == pytest.approx(math.sqrt(densities["layer1.0.conv1.weight"]))
    stream = [densities["conv1.weight"], densities["layer1.0.conv2.weight"]]
    assert widths["conv1"] == pytest.approx(np.mean(np.sqrt(stream)))
    second = [densities[f"layer2.0.{part}.weight"] for part in ("downsample.0", "conv2")]
    owner = next(n for n in widths if n in ("layer2.0.downsample.0", "layer2.0.conv2"))
    assert widths[owner] == pytest.approx(np.mean(np.sqrt(second)))


def test_the_density_of_a_depthwise_layer_is_its_width():
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 5, 1))
    net = trace(model, torch.randn(1, 3, 6, 6))
    widths = widths_of_densities(net, {"0.weight": 0.64, "1.weight": 0.4, "2.weight": 1.0})
    assert list(widths.values()) == pytest.approx([(0.8 + 0.4) / 2])
    assert Ends.of(net).density("1.weight", np.array([0.5]))[0] == pytest.approx(0.5)
    assert Ends.of(net).density("2.weight", np.array([0.5]))[0] == pytest.approx(0.5)


def test_a_layer_of_which_nothing_stays_gets_one_channel():
    model, _, net = built("plain")
    densities = dict.fromkeys(layer_names(net), 0.5) | {"3.weight": 0.0}
    assert count_densities(net, model, densities, "params=0.25")["3"] < 4
    assert widths_of_densities(net, densities)["3"] == pytest.approx(1 / 16)


def test_densities_out_of_range_are_refused():
    model, _, net = built("plain")
    with pytest.raises(BudgetError, match="density of"):
        widths_of_densities(net, {})
    with pytest.raises(BudgetError, match="density of"):
        count_densities(net, model, dict.fromkeys(layer_names(net), 1.5), "params=0.5")


@pytest.mark.parametrize("name", NETS)
def test_the_smooth_prices_are_the_exact_ones_at_whole_widths(name):
    model, _, net = built(name)
    ends = Ends.of(net)
    price = Prices(net, model, ends, "params=1.0, macs=1.0")
    counts = [max(axis.size // 2, 1) for axis in ends.axes]
    y = np.log([count / axis.size for count, axis in zip(counts, ends.axes, strict=True)])
    keep = {axis.name: count for axis, count in zip(ends.axes, counts, strict=True)}
    after = crop(net, model, keep).after
    logs, slopes = price(y)
    assert np.exp(logs) == pytest.approx([after.params / net.params, after.macs / net.macs], rel=1e-6)
    step = np.full(len(y), 1e-6)
    assert (price(y + step)[0] - logs) == pytest.approx(slopes @ step, rel=1e-4)


def test_convex_widths_of_one_hidden_layer_have_closed_form():
    model = nn.Sequential(nn.Linear(10, 100, bias=False), nn.ReLU(), nn.Linear(100, 5, bias=False))
    net = trace(model, torch.randn(1, 10))
    assert list(convex_widths(net, model, "params=0.37").widths.values()) == pytest.approx([0.37], rel=1e-6)


@pytest.mark.parametrize("name", ["plain", "mobile"])
def test_convex_widths_of_a_chain_are_optimal(name):
    """At the optimum the gain of every free width is the same multiple of its price."""
    model, _, net = built(name)
    solved = convex_widths(net, model, "params=0.2", branches=False)
    ends = Ends.of(net)
    y = np.log(list(solved.widths.values()))
    logs, slopes = Prices(net, model, ends, "params=0.2")(y)
    assert logs[0] == pytest.approx(0.0, abs=1e-6)
    low = np.log([1.0 / axis.size for axis in ends.axes])
    free = (y < -1e-6) & (y > low + 1e-6)
    ratio = np.array(list(solved.gains.values()))[free] / slopes[0][free]
    assert free.sum() > 2 and ratio == pytest.approx(np.full(free.sum(), ratio[0]), rel=1e-3)


def test_branches_raise_the_expected_flow():
    from netwright.pruning.allocations.crop_widths import _Slopes

    model, _, net = built("residual")
    ends = Ends.of(net)
    flow = _Slopes(net, model, ends, branches=True)
    found = [convex_widths(net, model, "params=0.25", branches=b).widths for b in (False, True)]
    chain, branched = (flow(np.array(list(w.values())))[0] for w in found)
    assert branched >= chain


def test_fitting_keeps_the_proportions():
    _, _, net = built("plain")
    wanted = dict(zip([a.name for a in net.prunable], [0.9, 0.3, 0.9, 0.3, 0.9, 0.3], strict=True))
    counts = fit(net, wanted, "params=0.15")
    got = np.array([counts[axis.name] / axis.size for axis in net.prunable])
    assert got[::2].min() > 1.5 * got[1::2].max()


# the cropped network


def test_a_crop_is_the_network_built_that_wide():
    model, _, net = built("plain")
    counts = count_uniform(net, model, "params=0.25")
    small = crop(net, model, counts).model
    widths = tuple(counts[axis.name] for axis in sorted(net.prunable, key=lambda a: int(a.name)))
    shapes = {name: tuple(value.shape) for name, value in small.state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in plain(widths).state_dict().items()}


def test_all_layers_of_a_residual_stream_are_cropped_alike():
    model, _, net = built("residual")
    small = crop(net, model, count_synflow(net, model, "params=0.1", rounds=10)).model
    for stage in (small.layer1, small.layer2, small.layer3):
        widths = {block.conv2.out_channels for block in stage}
        widths |= {block.downsample[0].out_channels for block in stage if block.downsample is not None}
        assert len(widths) == 1


def test_the_weights_are_fresh_and_those_of_the_new_fan_in():
    model, _, net = built("plain")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counts = count_uniform(net, model, "params=0.25")
    small, same, other = (crop(net, model, counts, seed).model for seed in (1, 1, 2))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for conv in (m for m in small.modules() if isinstance(m, nn.Conv2d)):
        bound = 1 / math.sqrt(conv.in_channels * 9)
        assert float(conv.weight.detach().abs().max()) <= bound * (1 + 1e-6)
        if conv.weight.numel() > 100:
            assert float(conv.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
    for norm in (m for m in small.modules() if isinstance(m, nn.BatchNorm2d)):
        assert bool((norm.weight == 1).all()) and bool((norm.running_var == 1).all())
    pairs = itertools.pairwise([small.state_dict(), same.state_dict(), other.state_dict()])
    alike = [all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs]
    assert alike == [True, False]


def test_fresh_weights_leave_the_global_random_state():
    model = plain()
    state = torch.get_rng_state()
    reinitialise_(model, seed=5)
    assert torch.equal(state, torch.get_rng_state())


def test_parameters_without_a_rule_are_drawn_like_they_were_and_constants_stay():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(40, 50) * 0.02 + 1)
            self.scale = nn.Parameter(torch.full((50,), 0.1))
            self.fc = nn.Linear(50, 3)

    model = Positions()
    before = model.table.detach().clone()
    reinitialise_(model)
    assert not torch.equal(before, model.table)
    assert float(model.table.detach().mean()) == pytest.approx(1.0, abs=0.005)
    assert float(model.table.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert bool((model.scale == 0.1).all())


def test_a_count_that_does_not_fit_is_refused():
    model, _, net = built("plain")
    axis = net.prunable[0]
    with pytest.raises(BudgetError, match="no axis"):
        crop(net, model, {"nothing": 1})
    for count in (0, axis.size + 1):
        with pytest.raises(BudgetError, match="cannot keep"):
            crop(net, model, {axis.name: count})
    assert parameters(crop(net, model, {}).model) == parameters(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_the_published_networks_are_cropped_trained_and_exported(name, tmp_path):
    from netwright.models import load
    from netwright.quantization import export_onnx

    model = load(name, num_classes=10).model.train()
    example = torch.randn(2, 3, 64, 64)
    net = trace(model, example)
    for counts in (
        count_synflow(net, model, "params=0.25", rounds=5),
        count_convex(net, model, "params=0.25"),
    ):
        small = crop(net, model, counts).model
        assert 0.99 <= parameters(small) / (0.25 * parameters(model)) <= 1.0
        optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
        nn.functional.cross_entropy(small(example), torch.tensor([0, 1])).backward()
        optimizer.step()
        assert export_onnx(small.eval(), example, tmp_path / f"{name}.onnx").max_abs_diff is not None
