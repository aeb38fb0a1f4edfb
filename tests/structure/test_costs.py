"""Costs: published numbers, torch's own counter, and predictions for any choice of what stays."""

from __future__ import annotations

import pytest
import torch
from tests.structure.networks import SMALL, ResNet20
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from netwright.structure import shrink, trace
from netwright.testing.surgery import draw_keep

#: Published to the last digit; the others agree with torchvision's own table, which has three decimals of
#: 10^9.
DIGITS = {
    "resnet18": (1_814_073_344, 11_689_512),
    "resnet50": (4_089_184_256, 25_557_032),
    "mobilenet_v2": (300_774_272, 3_504_872),
}
OTHERS = (
    "vgg11 densenet121 mobilenet_v3_small efficientnet_b0 shufflenet_v2_x1_0 squeezenet1_0 mnasnet1_0".split()
)


@pytest.mark.parametrize("name", [*DIGITS, *OTHERS])
def test_costs_are_the_published_ones(name: str) -> None:
    import torchvision

    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    net = trace(model, torch.empty(1, 3, 224, 224, device="meta"))
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    assert (net.macs, net.params) == DIGITS.get(name, (net.macs, published["num_params"]))
    assert abs(net.macs / 1e9 - published["_ops"]) <= 0.00051


def test_a_vision_transformer_has_its_published_parameters() -> None:
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.vit_b_16()
    net = trace(model, torch.empty(1, 3, 224, 224, device="meta"))
    assert net.params == 86_567_656


def test_a_small_resnet_has_the_parameters_of_its_paper() -> None:
    net = trace(ResNet20(), torch.randn(1, 3, 32, 32))
    assert net.params == 269_722  # 0.27 M in the paper's table 6
    assert net.macs == 40_551_040  # 40.55 M multiply-accumulates


def test_an_empty_network_costs_nothing() -> None:
    net = trace(nn.Sequential(nn.ReLU()), torch.randn(2, 3))
    assert (net.macs, net.params) == (0, 0) and net.activation_bytes == 12


AGREE = [
    "resnet18",
    "mobilenet v2",
    "densenet",
    "regnet",
    "convnext",
    "u-net",
    "vision transformer",
    "gru",
    "transformer encoder",
    "timm vit",
    "timm mambaout",
]


@pytest.mark.parametrize("name", AGREE)
def test_macs_are_half_of_what_torch_counts(name: str) -> None:
    model, example = SMALL[name]()
    net = trace(model, example)
    counter = FlopCounterMode(display=False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            net.inputs.call(model.eval())
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert 2 * net.macs * net.batch == counter.get_total_flops()


@pytest.mark.parametrize("name", ["resnet18", "densenet", "regnet", "vision transformer", "u-net", "gru"])
def test_many_choices_cost_what_each_of_them_does(name: str) -> None:
    model, example = SMALL[name]()
    net = trace(model.eval(), example)
    keeps = torch.stack([draw_keep(net, seed) for seed in range(20)])
    table = net.costs(keeps)
    for seed, keep in enumerate(keeps):
        cost = net.cost(keep)
        assert table[seed].tolist() == [cost.macs, cost.params, cost.activation_bytes]
        operators = net.operators_at(keep)
        assert sum(o.params for o in operators) == cost.params
        if seed < 3:
            again = trace(shrink(model, net, keep).model, example)
            assert (again.macs, again.params) == (cost.macs, cost.params)


def test_costs_are_those_of_one_example() -> None:
    model, _ = SMALL["resnet18"]()
    one = trace(model.eval(), torch.randn(1, 3, 32, 32))
    many = trace(model.eval(), torch.randn(8, 3, 32, 32))
    assert one.dense == many.dense


def test_a_shared_layer_is_paid_once_and_used_twice() -> None:
    layer = nn.Linear(6, 6, bias=False)
    net = trace(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 6))
    assert net.params == 36 and net.macs == 72


def test_activation_memory_counts_what_operators_write() -> None:
    net = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten()), torch.randn(2, 3, 5, 5))
    assert (
        net.activation_bytes == 2 * 4 * 5 * 5 * 4
    )  # the convolution and the activation; a view writes nothing
