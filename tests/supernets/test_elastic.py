"""Supernets: what runs, what is cut out, what it costs, and that nothing is copied."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import netwright as nw
from netwright import models, supernets
from netwright.errors import UsageError
from netwright.structure import thinning
from netwright.supernets.network import binding

WIDTHS = [0.25, 0.5, 0.75, 1.0]


class Depthwise(nn.Module):
    """Inverted residuals with squeeze and excitation, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.blocks = nn.Sequential(*[Inverted(8, 16) for _ in range(3)])
        self.side = nn.Conv2d(8, 4, 5, padding=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(x))
        return self.head(torch.cat([x, self.side(x)], 1).mean((2, 3)))


class Inverted(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(width, inner, 1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.depth = nn.Conv2d(inner, inner, 5, padding=2, groups=inner)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, 4, 1), nn.ReLU(), nn.Conv2d(4, inner, 1)
        )
        self.down = nn.Conv2d(inner, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depth(torch.relu(self.norm(self.up(x))))
        return x + self.down(y * torch.sigmoid(self.gate(y)))


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if name == "resnet8":
        return models.load("resnet8", num_classes=10, in_channels=3).model, torch.randn(2, 3, 16, 16)
    if name == "depthwise":
        return Depthwise(), torch.randn(2, 3, 16, 16)
    if name == "lm":
        return models.char_lm(20, context=8, width=16, heads=4, depth=3), torch.randint(0, 20, (2, 8))
    import timm

    made = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, num_heads=4, depth=3, num_classes=7
    )
    return made, torch.randn(2, 3, 32, 32)


def settle(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Batch-norm statistics that are not trivial, and weights where zeros were."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        if x.is_floating_point():
            model.train()
            model(x)
    return model.eval()


NETS = ["resnet8", "depthwise", "vit", "lm"]


@pytest.fixture(params=NETS)
def sup(request: pytest.FixtureRequest) -> tuple[supernets.Elastic, torch.Tensor]:
    model, x = build(request.param)
    settle(model, x)
    depth = True if request.param != "resnet8" else None
    return nw.elastic(model, x, width=WIDTHS, depth=depth).eval(), x


def choices(sup: supernets.Elastic, count: int = 6) -> list:
    rng = np.random.default_rng(0)
    return [sup.space.min(), sup.space.max(), *[sup.space.sample(rng) for _ in range(count)]]


def test_the_largest_is_the_network_itself() -> None:
    for name in NETS:
        model, x = build(name)
        settle(model, x)
        sup = nw.elastic(model, x, width=WIDTHS).eval()
        torch.testing.assert_close(sup(x), model(x), rtol=0, atol=0)
        assert sup.state_dict().keys() == model.state_dict().keys()
        own = {p.data_ptr() for p in model.parameters()}
        assert not own & {p.data_ptr() for p in sup.parameters()}  # the user's weights are left alone


def test_extracted_equals_slice_and_costs_what_was_said(sup: tuple[supernets.Elastic, torch.Tensor]) -> None:
    net, x = sup
    for choice in choices(net):
        small = net.extract(choice)
        torch.testing.assert_close(net.set(choice)(x), small(x), rtol=1e-6, atol=1e-6)
        dense = nw.trace(small, x).dense
        cost = net.cost(choice)
        assert cost == dense
        assert not any("netwright.supernets" in type(m).__module__ for m in small.modules())
        assert sum(p.numel() for p in small.parameters()) == dense.params


def test_removal_equals_masking(sup: tuple[supernets.Elastic, torch.Tensor]) -> None:
    """A slice is what `nw.prune`'s surgery makes of the same classes: proved there against masking."""
    net, _ = sup
    whole = {d.name: d.values[-1] for d in net.blueprint.depths}
    for choice in [net.complete({**c, **whole}) for c in choices(net, 2)]:
        keep = net.blueprint.keep(choice)
        small = net.extract(choice)
        assert nw.structure.check(net.network, net.blueprint.structure, keep, small).error < 1e-8


def test_gradients_reach_the_leading_parts_only(sup: tuple[supernets.Elastic, torch.Tensor]) -> None:
    net, x = sup
    choice = net.space.min()
    small = net.extract(choice)
    net.set(choice)(x).square().sum().backward()
    small(x).square().sum().backward()
    named = dict(net.network.named_parameters())
    for name, parameter in small.named_parameters():
        full = named[name].grad
        assert full is not None and parameter.grad is not None
        kept = net.plan.cuts.get(name, ())
        leading = binding.cut(full, kept)
        torch.testing.assert_close(leading, parameter.grad, rtol=1e-4, atol=1e-6)
        assert full.abs().sum() == pytest.approx(float(leading.abs().sum()), rel=1e-4, abs=1e-6)


def test_slices_are_views(sup: tuple[supernets.Elastic, torch.Tensor]) -> None:
    net, _ = sup
    net.set(net.space.min())
    named = dict(net.network.named_parameters())
    prefixes = {n for n, dims in net.plan.cuts.items() if all(isinstance(p, int) for _, p in dims)}
    assert prefixes
    for name, tensor in net.tensors().items():
        if name in prefixes and name in named:
            assert tensor.untyped_storage().data_ptr() == named[name].untyped_storage().data_ptr()


def held(net: nn.Module) -> dict[str, object]:
    """Every parameter's identity and every number that a module holds."""
    found: dict[str, object] = {n: (p.shape, id(p)) for n, p in net.named_parameters()}
    for name, module in net.named_modules():
        found[f"{name}:"] = {k: v for k, v in module.__dict__.items() if isinstance(v, (int, tuple))}
    return found


def test_nothing_is_left_behind_after_a_pass(sup: tuple[supernets.Elastic, torch.Tensor]) -> None:
    net, x = sup
    before = held(net.network)
    net.set(net.space.min())(x)
    assert held(net.network) == before
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        net(x.reshape(-1)[:3])
    assert held(net.network) == before


def test_masks_and_mixtures_agree_with_slices(sup: tuple[supernets.Elastic, torch.Tensor]) -> None:
    net, x = sup
    x = torch.cat([x, x.flip(0)])
    some = choices(net, 2)[2:]
    assignment = torch.tensor([0, 1, 1, 0])
    alone = [net.set(choice)(x) for choice in some]
    wanted = torch.stack([alone[a][i] for i, a in enumerate(assignment.tolist())])
    torch.testing.assert_close(net.set_many(some, assignment)(x), wanted, rtol=1e-5, atol=1e-5)
    for certain in (1.0, 1.0 - 1e-7):  # the second takes the way of real mixtures
        weights = {}
        for dim in net.space.dims:
            values = list(dim.each())
            given = torch.full((len(values),), (1.0 - certain) / max(len(values) - 1, 1))
            given[values.index(some[0][dim.name])] = certain
            weights[dim.name] = given
        torch.testing.assert_close(net.set_mixture(weights)(x), alone[0], rtol=1e-4, atol=1e-4)


def test_masked_training_pass_is_the_slices_batch_norm() -> None:
    """In training mode a channel's statistics are over the examples that have it."""
    model, x = build("resnet8")
    sup = nw.elastic(model, x, width=[0.5, 1.0]).train()
    choice = sup.space.min()
    many = copy.deepcopy(sup).set_many([choice], torch.zeros(len(x), dtype=torch.int64))
    torch.testing.assert_close(many(x), sup.set(choice)(x), rtol=1e-5, atol=1e-5)


def test_mixture_of_weights_is_the_mixture_of_outputs() -> None:
    """For one linear operator the weighted sum over its slices' outputs, gradients included."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 7, padding=3), nn.Identity(), nn.Conv2d(8, 2, 1))
    x = torch.randn(2, 3, 9, 9)
    sup = nw.elastic(net, x, width={"0": [2, 4, 8]}, kernel={"0": [3, 5, 7]}).double()
    x = x.double()
    alphas = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    a, k = (torch.softmax(alpha, 0) for alpha in alphas)
    sup.set_mixture({"width:0": a, "kernel:0": k})
    with sup._mode():  # type: ignore[misc]
        mixed = sup.network[0](x)
    got = torch.autograd.grad(mixed.square().sum(), alphas, retain_graph=True)
    total = torch.zeros_like(mixed)
    weight, bias = sup.network[0].weight, sup.network[0].bias
    for i, width in enumerate((2, 4, 8)):
        for j, size in enumerate((3, 5, 7)):
            edge = (7 - size) // 2
            middle = weight[:width, :, edge : 7 - edge, edge : 7 - edge]
            out = nn.functional.conv2d(x, middle, None, padding=size // 2) + bias[:width].reshape(-1, 1, 1)
            total = total + a[i] * k[j] * nn.functional.pad(out, (0, 0, 0, 0, 0, 8 - width))
    torch.testing.assert_close(mixed, total, rtol=1e-9, atol=1e-9)
    wanted = torch.autograd.grad(total.square().sum(), alphas)
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


def test_kernels_and_resolutions() -> None:
    model, x = build("depthwise")
    settle(model, x)
    sup = nw.elastic(model, x, kernel=[3, 5], resolution=[12, 16], depth="any", width=[0.5, 1.0]).eval()
    rng = np.random.default_rng(0)
    for _ in range(6):
        choice = sup.space.sample(rng)
        small, side = sup.extract(choice), choice["resolution"]
        sup.set(choice)
        (image,), _ = sup.resized((x,), {})
        assert image.shape[-2:] == (side, side)
        torch.testing.assert_close(sup(x), small(image), rtol=1e-6, atol=1e-6)
        assert sup.cost(choice) == nw.trace(small, image).dense
    with pytest.raises(UsageError, match="resolutions cannot differ"):
        sup.set_many([sup.space.min(), sup.space.max()], torch.tensor([0, 1]))
    centre = thinning.middle(torch.arange(25.0).reshape(1, 1, 5, 5), 3)
    assert centre.flatten().tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]


def test_candidates_are_a_choice() -> None:
    torch.manual_seed(0)
    edge = supernets.OneOf(
        {"wide": nn.Conv2d(4, 4, 3, padding=1), "point": nn.Conv2d(4, 4, 1), "skip": nn.Identity()}
    )
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), edge, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    x = torch.randn(2, 3, 6, 6)
    sup = nw.elastic(net, x).eval()
    assert sup.space.size() == 3
    for name in ("wide", "point", "skip"):
        small = sup.extract({"op:1": name})
        torch.testing.assert_close(sup.set({"op:1": name})(x), small(x))
        assert sup.cost() == nw.trace(small, x).dense
        assert not any(isinstance(m, supernets.OneOf) for m in small.modules())
    weights = torch.tensor([0.2, 0.3, 0.5])
    with torch.no_grad():
        sup.set_mixture({"op:1": weights})
        y = net[0](x)
        wanted = sum(w * c(y) for w, c in zip(weights, edge.candidates.values(), strict=True))
        torch.testing.assert_close(sup(x), net[2:](wanted))


def test_calibration_belongs_to_one_choice_and_to_its_extract() -> None:
    model, x = build("resnet8")
    sup = nw.elastic(settle(model, x), x, width=WIDTHS).eval()
    batches = [torch.randn(8, 3, 16, 16), torch.randn(5, 3, 16, 16)]
    small, shared = sup.space.min(), {n: b.clone() for n, b in sup.network.named_buffers()}
    untouched = sup.set(sup.space.max())(x)
    assert sup.calibrate(batches, small) == 2
    first = {n: t.clone() for n, t in sup.statistics[small].items()}
    torch.testing.assert_close(sup.set(sup.space.max())(x), untouched, rtol=0, atol=0)
    assert all(torch.equal(b, shared[n]) for n, b in sup.network.named_buffers())
    cut = sup.extract(small)
    torch.testing.assert_close(sup.set(small)(x), cut(x), rtol=1e-6, atol=1e-6)
    sup.calibrate(list(reversed(batches)), small)
    for name, value in sup.statistics[small].items():
        torch.testing.assert_close(value, first[name], rtol=1e-5, atol=1e-6)
    plain = nw.supernets.elastic(model, x, width=WIDTHS).eval().extract(small)
    nw.train.recalibrate_(plain, batches)
    torch.testing.assert_close(plain.eval()(x), cut(x), rtol=1e-5, atol=1e-5)


def test_masks_know_statistics_and_kernels() -> None:
    """Statistics that belong to a choice hold on masks, too; so does a smaller kernel, where it runs."""
    model, x = build("resnet8")
    sup = nw.elastic(settle(model, x), x, width=WIDTHS).eval()
    small, x = sup.space.min(), torch.cat([x, x.flip(0)])
    sup.calibrate([torch.randn(8, 3, 16, 16)], small)
    alone = [sup.set(choice)(x) for choice in (small, {})]
    wanted = torch.stack([alone[0][0], alone[1][1], alone[1][2], alone[0][3]])
    got = sup.set_many([small, {}], torch.tensor([0, 1, 1, 0]))(x)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    model, x = build("depthwise")
    sup = nw.elastic(settle(model, x), x, kernel=[3, 5], depth=True, width=[0.5, 1.0]).eval()
    small = sup.space.min()
    torch.testing.assert_close(
        sup.set_many([small], torch.zeros(2, dtype=torch.int64))(x), sup.set(small)(x), rtol=1e-5, atol=1e-5
    )
    deep = sup.complete({**small, "depth:blocks": 3, "kernel:blocks.2.depth": 5})
    assert small["kernel:blocks.2.depth"] == 3  # a block that it does not run decides nothing
    wanted = torch.stack([sup.set(small)(x)[0], sup.set(deep)(x)[1]])
    got = sup.set_many([small, deep], torch.tensor([0, 1]))(x)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="cannot differ within a batch"):
        sup.set_many([small, sup.complete({**deep, "kernel:side": 5})], torch.tensor([0, 1]))


def test_sorting_leaves_the_function_and_puts_large_weights_first() -> None:
    model, x = build("depthwise")
    sup = nw.elastic(settle(model, x), x, width=WIDTHS).eval()
    before = sup(x)
    supernets.sort_channels(sup)
    torch.testing.assert_close(sup(x), before, rtol=1e-5, atol=1e-5)
    scores = nw.pruning.score(sup.blueprint.structure, sup.network)
    for width in sup.blueprint.widths:
        for axis in width.axes:
            cells = sup.blueprint.structure.axes[axis].cells
            assert bool((scores[cells].diff(dim=1) <= 1e-9).all())


def test_copies_and_state_dicts_are_independent() -> None:
    model, x = build("resnet8")
    sup = nw.elastic(settle(model, x), x, width=WIDTHS).eval().set({})
    other = copy.deepcopy(sup)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    torch.testing.assert_close(sup(x), model(x))
    other.load_state_dict(sup.state_dict())
    torch.testing.assert_close(other.set(sup.space.min())(x), sup.set(sup.space.min())(x))
    small = sup.space.min()
    narrow = sup.set_many([small], torch.zeros(2, dtype=torch.int64))(x)
    wide = sup.double().set_many([small], torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(wide(x.double()), narrow.double(), rtol=1e-4, atol=1e-5)


def test_shared_and_named_widths() -> None:
    model, x = build("resnet8")
    one = nw.elastic(model, x, width=WIDTHS, share="network")
    assert [d.name for d in one.space.dims] == ["width"] and one.space.size() == 4
    only = nw.elastic(model, x, width={"layer1*": [1, 2, 0.5, 1.0]})
    assert all(d.name.startswith("width:layer1") for d in only.space.dims)
    assert only.space.dims[0].values == (1, 2, 8, 16)
    assert nw.elastic(model, x, width=[0.3, 1.0], unit=8, share="network").cost({"width": 0.3}).params > 0
    with pytest.raises(UsageError, match="fits no axis"):
        nw.elastic(model, x, width={"nothing*": [0.5, 1.0]})
    with pytest.raises(UsageError, match="no value"):
        nw.elastic(model, x, width=[0.5, 1.5])
    with pytest.raises(UsageError, match="nothing can be chosen"):
        nw.elastic(model, x)
    with pytest.raises(UsageError, match="nothing called"):
        one.set({"height": 1})
    with pytest.raises(UsageError):
        one.set({"width": 0.33})


def test_what_lies_in_a_skipped_block_is_no_choice() -> None:
    model, x = build("depthwise")
    sup = nw.elastic(model, x, width=[0.5, 1.0], depth=True)
    shallow = {"depth:blocks": 1}
    inner = next(d.name for d in sup.space.dims if "blocks.2" in d.name)
    assert sup.complete({**shallow, inner: 0.5}) == sup.complete({**shallow, inner: 1.0})


def test_graph_networks_run_by_their_surgeries() -> None:
    """Channels that are shuffled have no fixed order of leading members: every choice has its own surgery."""
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=4).eval()
    x = torch.randn(1, 3, 32, 32)
    sup = nw.elastic(model, x, width=[0.5, 1.0]).eval()
    assert sup.blueprint.rules is None
    for choice in choices(sup, 2):
        torch.testing.assert_close(sup.set(choice)(x), sup.extract(choice)(x), rtol=1e-5, atol=1e-5)
        assert sup.cost(choice) == nw.trace(sup.extract(choice), x).dense
    small = sup.space.min()
    shared = sup.set(small)(x)
    assert sup.calibrate([torch.randn(4, 3, 32, 32)], small) == 1
    torch.testing.assert_close(sup.set(small)(x), sup.extract(small)(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(sup(x), shared)
    sup(x).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in sup.parameters())
