"""Costs: published numbers, torch's own counter, and predictions for any choice of what stays."""

from __future__ import annotations

import pytest
import torch
from tests.structure.networks import SMALL, ResNet20
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from netwright.structure import shrink, trace
from netwright.structure.attention import adopt_attention
from netwright.structure.copying import clone
from netwright.structure.inputs import to_meta
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
            assert again.dense == cost


def test_costs_are_those_of_one_example() -> None:
    model, _ = SMALL["resnet18"]()
    one = trace(model.eval(), torch.randn(1, 3, 32, 32))
    many = trace(model.eval(), torch.randn(8, 3, 32, 32))
    assert one.dense == many.dense


def test_a_shared_layer_is_paid_once_and_used_twice() -> None:
    layer = nn.Linear(6, 6, bias=False)
    net = trace(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 6))
    assert net.params == 36 and net.macs == 72


class Storages(TorchDispatchMode):
    """An independent count: bytes of every storage that an operator makes while a network really runs."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[torch.Tensor] = []
        self.seen: set[int] = set()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._note(pytree.tree_leaves((args, kwargs)), 0)
        out = func(*args, **(kwargs or {}))
        made = func._schema.name.partition("::")[2].startswith(("zeros", "new_", "empty", "ones", "full"))
        self._note(pytree.tree_leaves(out), 0 if made else 1)
        return out

    def _note(self, values, weight: int) -> None:
        for value in values:
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in self.seen:
                self.held.append(value)
                self.seen.add(value.untyped_storage()._cdata)
                self.bytes += weight * value.untyped_storage().nbytes()


@pytest.mark.parametrize(
    "name",
    ["resnet18", "densenet", "regnet", "convnext", "u-net", "mobilenet v2", "shufflenet v2", "googlenet"],
)
def test_activation_memory_is_what_a_real_run_allocates(name: str) -> None:
    model, example = SMALL[name]()
    net = trace(model.eval(), example)
    with torch.no_grad(), Storages() as counter:
        net.inputs.call(model)
    assert net.activation_bytes == -(-counter.bytes // net.batch)


@pytest.mark.parametrize("name", ["vision transformer", "timm vit", "transformer encoder", "gru", "lstm"])
def test_activation_memory_is_what_the_recorded_operators_allocate(name: str) -> None:
    # Processors call other operators than those that are recorded (mm and add for addmm): no real run.
    model, example = SMALL[name]()
    net = trace(model.eval(), example)
    twin = clone(model)
    adopt_attention(twin)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), Storages() as counter:
            to_meta(net.inputs).call(twin)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert net.activation_bytes == -(-counter.bytes // net.batch)


def written(*layers: nn.Module, shape: tuple[int, ...] = (2, 3, 8, 8)) -> int:
    return trace(nn.Sequential(*layers).eval(), torch.randn(shape)).activation_bytes


def test_activation_memory_by_hand() -> None:
    plane = 8 * 8 * 4  # bytes of one channel
    assert written(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten()) == 2 * 4 * plane  # a view takes nothing
    assert written(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)) == 4 * plane  # nor does writing in place
    assert written(nn.BatchNorm2d(3)) == 3 * plane
    assert written(nn.MaxPool2d(2)) == 3 * (4 * 4) * (4 + 8)  # values, and 64-bit indices
    assert written(nn.LayerNorm(8)) == 3 * plane + 2 * (3 * 8 * 4)  # and a mean and deviation for each row
    assert written(nn.GroupNorm(3, 3)) == 3 * plane + 2 * (3 * 4)
    assert written(nn.Linear(5, 7), nn.Linear(7, 2), shape=(4, 5)) == (7 + 2) * 4
    assert written(nn.ConvTranspose2d(3, 2, 2, stride=2)) == 2 * 4 * plane


class Heads(nn.Module):
    """Heads moved to the front and back, copied on the way as the name says."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.up, self.down, self.way = nn.Linear(6, 12), nn.Linear(12, 2), way

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, N, 6)
        y = self.up(x).unflatten(-1, (-1, 4)).transpose(1, 2)  # (B, heads, N, 4)
        if self.way == "contiguous":
            y = y.contiguous()
        elif self.way == "reshape":
            y = y.reshape(y.shape[0], -1, 1, 4).unflatten(1, (-1, x.shape[1])).squeeze(3)
        elif self.way == "clone":
            y = y.clone(memory_format=torch.preserve_format)
        y = (y @ y.transpose(2, 3)).softmax(-1) @ y
        return self.down(y.transpose(1, 2).flatten(2))


def test_a_single_head_is_moved_without_a_copy() -> None:
    x, bytes_of = torch.randn(2, 5, 6), {}
    for way in ("contiguous", "reshape", "clone", "back"):
        model = Heads(way).eval()
        net = trace(model, x)
        (heads,) = (a for a in net.prunable if a.size == 3)
        for count in (3, 2, 1):
            keep = net.everything
            for part in heads.parts:
                keep[part[count:]] = False
            assert net.cost(keep) == trace(shrink(model, net, keep).model, x).dense
        bytes_of[way] = net.cost(keep).activation_bytes
    assert bytes_of["contiguous"] == bytes_of["reshape"] == bytes_of["back"]
    assert bytes_of["clone"] == bytes_of["back"] + 5 * 4 * 4  # the code asks for that one


@pytest.mark.parametrize("name", ["vision transformer", "timm vit", "transformer encoder", "regnet", "gru"])
def test_the_narrowest_network_costs_what_was_said(name: str) -> None:
    model, example = SMALL[name]()
    net = trace(model.eval(), example)
    keep = net.everything
    for axis in net.prunable:
        for part in axis.parts:
            keep[part[1:]] = False
    assert trace(shrink(model, net, keep).model, example).dense == net.cost(keep)


def test_products_of_every_kind_are_counted() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m, self.v = nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # (1, 7)
            y = self.m @ self.v  # (5,), 35
            z = torch.addmv(y, self.m, x[0])  # (5,), 35
            return torch.dot(y, z) + (x @ self.m.t()).sum()  # 5 and 35

    net = trace(Products(), torch.randn(1, 7))
    assert net.macs == 35 + 35 + 5 + 35
    # A transposed convolution multiplies once for every element of its input and of its kernel.
    assert trace(nn.ConvTranspose2d(3, 4, 2, stride=2), torch.randn(1, 3, 5, 5)).macs == 3 * 25 * 4 * 4
    assert trace(nn.Conv2d(6, 4, 3, groups=2), torch.randn(1, 6, 5, 5)).macs == 4 * 9 * 3 * 9


def test_costs_of_ten_thousand_choices_are_those_of_the_networks_they_make() -> None:
    model, example = SMALL["resnet18"]()
    net = trace(model.eval(), example)
    keeps = torch.stack([draw_keep(net, seed) for seed in range(8)])
    table = net.costs(keeps.repeat(150, 1))  # several pieces
    assert torch.equal(table, net.costs(keeps).repeat(150, 1))
    for keep, row in zip(keeps[:4], table.tolist(), strict=False):
        again = trace(shrink(model, net, keep).model, example)
        assert row == [again.macs, again.params, again.activation_bytes]
