"""Mixture-of-Supernets: blends in weight space, exact in every special case, baked into plain layers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import netwright as nw
from netwright import models, supernets
from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.supernets.stores.experts import Experts, Routed
from netwright.train import Recipe

SPACE = {"width": {"blocks.0.attn.proj": [8, 16], "*.mlp.fc1": [12, 24]}, "depth": True}


def language_model() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = models.char_lm(vocabulary=11, context=6, width=16, heads=4, ratio=1.5, depth=2)
    return model, torch.randint(0, 11, (3, 6), generator=torch.Generator().manual_seed(1))


def convolutions() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 16, 4),
    )  # fmt: skip
    return model, torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def made(which: str, count: int = 2, routing: str = "neuron", **options: object) -> tuple[Routed, Tensor]:
    if which == "lm":
        model, x = language_model()
        arguments, layers = SPACE, "*.mlp.*"
    else:
        model, x = convolutions()
        arguments, layers = {"width": [0.5, 1.0], "kernel": [3, 5]}, "*"
    store = Experts(count, routing, layers, **options)
    sup = nw.elastic(model, x, **arguments, store=store).eval()
    assert isinstance(sup, Routed)
    return sup, x


def choices(sup: supernets.Elastic, count: int = 5) -> list:
    rng = np.random.default_rng(0)
    return [sup.space.min(), sup.space.max(), *[sup.space.sample(rng) for _ in range(count)]]


def routed_by(sup: Routed, scores: Callable[[int], Tensor]) -> None:
    """Let every router answer the same whatever it sees; `scores` takes the size of an answer."""
    with torch.no_grad():
        for router in sup.routers:
            router[2].weight.zero_()
            router[2].bias.copy_(scores(len(router[2].bias)))


BOTH = pytest.mark.parametrize("which", ["lm", "conv"])
ROUTINGS = pytest.mark.parametrize("routing", ["layer", "neuron"])


@BOTH
@ROUTINGS
def test_one_expert_is_the_plain_supernet_bit_for_bit(which: str, routing: str) -> None:
    sup, x = made(which, 1, routing)
    model, _ = language_model() if which == "lm" else convolutions()
    arguments = SPACE if which == "lm" else {"width": [0.5, 1.0], "kernel": [3, 5]}
    plain = nw.elastic(model, x, **arguments).eval()
    for choice in choices(plain):
        assert torch.equal(sup.set(choice)(x), plain.set(choice)(x))


@BOTH
@ROUTINGS
def test_equal_experts_make_the_router_irrelevant(which: str, routing: str) -> None:
    sup, x = made(which, 3, routing)
    with torch.no_grad():
        for each in sup.more:
            for name, parameter in zip(sup.names, each, strict=True):
                parameter.copy_(sup.places.read(name))
    before = [sup.set(c)(x) for c in choices(sup)]
    for router in sup.routers:
        nn.init.normal_(router[2].weight)
    for choice, want in zip(choices(sup), before, strict=True):
        torch.testing.assert_close(sup.set(choice)(x), want, rtol=0, atol=1e-6)


@BOTH
@ROUTINGS
@pytest.mark.parametrize("expert", [0, 1])
def test_all_the_share_on_one_expert_is_its_slice(which: str, routing: str, expert: int) -> None:
    sup, x = made(which, 2, routing)
    alone = made(which, 1)[0]
    if expert:
        with torch.no_grad():
            for name, parameter in zip(sup.names, sup.more[0], strict=True):
                alone.places.read(name).copy_(parameter)
    routed_by(sup, lambda n: torch.tensor([0.0, 1e4] if expert else [1e4, 0.0]).repeat(n // 2))
    for choice in choices(sup):
        torch.testing.assert_close(sup.set(choice)(x), alone.set(choice)(x), rtol=0, atol=1e-7)


@BOTH
def test_layer_routing_is_neuron_routing_with_equal_rows(which: str) -> None:
    by_layer, x = made(which, 2, "layer")
    by_neuron, _ = made(which, 2, "neuron")
    scores = torch.tensor([0.3, -1.1])
    for sup in (by_layer, by_neuron):
        routed_by(sup, lambda n: scores.repeat(n // 2))
    for choice in choices(by_layer):
        torch.testing.assert_close(by_layer.set(choice)(x), by_neuron.set(choice)(x), rtol=0, atol=1e-6)


@ROUTINGS
def test_shares_sum_to_one_and_follow_the_architecture_alone(routing: str) -> None:
    sup, x = made("lm", 3, routing)
    path = "blocks.0.mlp.fc1"
    shares = [sup.shares(path, c) for c in choices(sup)]
    for share in shares:
        assert share.shape == ((24, 3) if routing == "neuron" else (3,))
        torch.testing.assert_close(share.sum(-1), torch.ones_like(share.sum(-1)))
        assert (share > 0).all()
    assert not torch.equal(shares[0], shares[1])
    sup.set(sup.space.min())(x)
    before = sup.shares(path)
    sup(x.flip(0))
    assert torch.equal(before, sup.shares(path))
    constant, _ = made("lm", 3, routing, encode="constant")
    first, *rest = [constant.shares(path, c) for c in choices(constant)]
    assert all(torch.equal(first, other) for other in rest)


def test_blending_is_what_a_loop_over_neurons_makes_of_it() -> None:
    """The numerical twin: softmax over experts for each active output neuron, in float64."""
    sup, _ = made("lm", 3)
    sup = sup.double()
    choice = sup.complete({"width:blocks.0.attn.proj": 8, "width:blocks.1.mlp.fc1": 12})
    with sup.set(choice).bound() as network:
        layer = network.blocks[1].mlp.fc1
        weight, bias = layer.weight.clone(), layer.bias.clone()
    router = sup.routers[sup.paths.index("blocks.1.mlp.fc1")]
    e = torch.tensor(sup.space.encode(choice, "unit"), dtype=torch.float64)
    hidden = torch.relu(router[0].weight @ e + router[0].bias)
    scores = router[2].weight @ hidden + router[2].bias
    stores = [dict(zip(sup.names, each, strict=True)) for each in sup.more]
    stores.insert(0, {n: sup.places.read(n) for n in sup.names})
    assert weight.shape == (12, 8)
    for neuron in range(12):
        powers = [torch.exp(scores[3 * neuron + m]) for m in range(3)]
        row, shift = torch.zeros(8, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for m in range(3):
            row += powers[m] / sum(powers) * stores[m]["blocks.1.mlp.fc1.weight"][neuron, :8]
            shift += powers[m] / sum(powers) * stores[m]["blocks.1.mlp.fc1.bias"][neuron]
        torch.testing.assert_close(weight[neuron], row, rtol=0, atol=1e-14)
        torch.testing.assert_close(bias[neuron], shift, rtol=0, atol=1e-14)


@BOTH
@ROUTINGS
def test_what_is_cut_out_is_plain_and_computes_the_same(which: str, routing: str) -> None:
    sup, x = made(which, 2, routing)
    for choice in choices(sup):
        small = sup.extract(choice)
        torch.testing.assert_close(sup.set(choice)(x), small(x), rtol=0, atol=1e-6)
        assert not any("netwright.supernets" in type(m).__module__ for m in small.modules())
        dense = nw.trace(small, x).dense
        assert (sup.cost(choice).macs, sup.cost(choice).params) == (dense.macs, dense.params)
    assert sup.network[0].weight is sup.places.read("0.weight") if which == "conv" else True


def test_what_experts_cost() -> None:
    """(M - 1) times the blended layers, routers, and a blend of o * i weights M times."""
    sup, _ = made("lm", 3)
    plain = nw.elastic(language_model()[0], language_model()[1], **SPACE)
    feed_forward = 2 * (16 * 24 + 24 + 24 * 16 + 16)
    inputs = len(sup.space.encode(sup.space.max(), "unit"))
    routers = 4 * (inputs * 128 + 128) + 2 * sum(128 * 3 * rows + 3 * rows for rows in (24, 16))
    assert sup.extra_parameters() == 2 * feed_forward + routers
    assert sup.extra_parameters() == sum(p.numel() for p in sup.parameters()) - sum(
        p.numel() for p in plain.parameters()
    )
    layers, _ = made("lm", 3, "layer")
    assert layers.extra_parameters() == 2 * feed_forward + 4 * (inputs * 128 + 128 + 128 * 3 + 3)
    choice = sup.complete({"width:blocks.0.attn.proj": 8, "width:blocks.0.mlp.fc1": 12})
    first, second = 12 * 8 + 12 + 8 * 12 + 8, 24 * 8 + 24 + 8 * 24 + 8
    assert sup.blend_macs(choice) == 3 * (first + second)
    assert [sup.macs(c) for c in choices(sup)] == [plain.macs(c) for c in choices(sup)]


def test_experts_differ_and_all_of_it_learns() -> None:
    sup, x = made("lm", 2)
    for name, parameter in zip(sup.names, sup.more[0], strict=True):
        if name.endswith("weight"):
            assert not torch.equal(parameter, sup.places.read(name))
    sup.train().set(sup.space.max())(x).square().sum().backward()
    for name, parameter in sup.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_copies_states_and_training() -> None:
    sup, x = made("conv", 2)
    other = copy.deepcopy(sup)
    assert type(other) is Routed
    y = sup.set(sup.space.min())(x)
    torch.testing.assert_close(other.set(sup.space.min())(x), y, rtol=0, atol=0)
    fresh, _ = made("conv", 2, seed=5)
    assert not torch.equal(fresh.set(sup.space.min())(x), y)
    fresh.load_state_dict(sup.state_dict())
    torch.testing.assert_close(fresh.set(sup.space.min())(x), y, rtol=0, atol=0)
    part = Part.from_tensors(torch.randn(16, 2, 4, 4), torch.arange(16) % 4)
    data = Splits("noise", part, part, part, tuple("abcd"))
    recipe = Recipe(epochs=1, batch_size=8, lr=0.05, augment=False, precision="fp32")
    found = supernets.train(sup, data, recipe, sampler=supernets.samplers.Sandwich(1), device="cpu").model
    assert type(found) is Routed
    for (name, a), b in zip(sup.named_parameters(), found.parameters(), strict=True):
        assert not torch.equal(a, b), name


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="0 experts"):
        Experts(0)
    with pytest.raises(UsageError, match="routing='token'"):
        Experts(2, "token")
    model, x = language_model()
    with pytest.raises(UsageError, match="fits no linear layer"):
        nw.elastic(model, x, **SPACE, store=Experts(layers="*.conv"))
    tied = models.char_lm(vocabulary=11, context=6, width=16, heads=4, depth=2, tied=True)
    with pytest.raises(UsageError, match="shares its weights"):
        nw.elastic(tied, x, width={"*.mlp.fc1": [0.5, 1.0]}, store=Experts(layers="head"))
    conv, _ = made("conv")
    with pytest.raises(UsageError, match="kernels and operations cannot differ"):
        conv.set_many([conv.space.min(), conv.space.max()], torch.tensor([0, 1, 1]))
    wide = nw.elastic(model, x, width=[0.25, 0.5, 0.75, 1.0], store=Experts(layers="*.mlp.*"))
    assert wide.space.size() > 256
    with pytest.raises(UsageError, match="a sum of as many blends"):
        wide.set_mixture({d.name: torch.full((4,), 0.25) for d in wide.space.dims})


@BOTH
@ROUTINGS
def test_every_example_runs_its_own_blend(which: str, routing: str) -> None:
    """One choice for all is its slice; several are each example's own; gradients are the slices' sum."""
    sup, x = made(which, 2, routing)
    some = choices(sup)
    if which == "conv":  # kernels are one for the batch
        some = [sup.complete({**c, "kernel:0": 3}) for c in some]
    for choice in some:
        alone = sup.set(choice)(x)
        torch.testing.assert_close(
            sup.set_many([choice], torch.zeros(3, dtype=torch.int64))(x), alone, rtol=0, atol=1e-6
        )
    assignment, three = torch.tensor([2, 0, 1]), some[:3]
    parameters = list(sup.parameters())
    wanted = torch.stack([sup.set(three[g])(x)[i] for i, g in enumerate(assignment.tolist())])
    slopes = torch.autograd.grad(wanted.square().sum(), parameters, allow_unused=True)
    got = sup.set_many(three, assignment)(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    found = torch.autograd.grad(got.square().sum(), parameters, allow_unused=True)
    for one, other in zip(found, slopes, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(
            *torch.broadcast_tensors(*(zero if g is None else g for g in (one, other))), rtol=1e-4, atol=1e-5
        )


@BOTH
@ROUTINGS
@pytest.mark.parametrize("certain", [1.0, 1.0 - 1e-7])  # the second takes the way of real mixtures
def test_a_mixture_of_one_is_its_slice(which: str, routing: str, certain: float) -> None:
    sup, x = made(which, 2, routing)
    for choice in choices(sup, 2):
        weights = {}
        for dim in sup.space.dims:
            values = list(dim.each())
            weights[dim.name] = torch.full((len(values),), (1.0 - certain) / max(len(values) - 1, 1))
            weights[dim.name][values.index(choice[dim.name])] = certain
        alone = sup.set(choice)(x)
        torch.testing.assert_close(sup.set_mixture(weights)(x), alone, rtol=1e-4, atol=1e-5)


@ROUTINGS
def test_a_mixture_of_blended_slices_is_the_mixture_of_their_outputs(routing: str) -> None:
    """For one convolution: the weighted sum over all choices, each blended as its router says."""
    sup, x = made("conv", 2, routing)
    sup, x = sup.double(), x.double()
    alphas = {d.name: torch.randn(2, dtype=torch.float64, requires_grad=True) for d in sup.space.dims}
    weights = {name: a.softmax(0) for name, a in alphas.items()}
    sup.set_mixture(weights)
    with sup._mode():  # type: ignore[misc]
        mixed = sup.network[0](x)
    total = torch.zeros_like(mixed)
    for choice in sup.space.enumerate():
        share = torch.ones((), dtype=torch.float64)
        for dim in sup.space.dims:
            share = share * weights[dim.name][list(dim.each()).index(choice[dim.name])]
        with sup.set(choice).bound() as network:
            out = network[0](x)
        total = total + share * nn.functional.pad(out, (0, 0, 0, 0, 0, 8 - out.shape[1]))
    torch.testing.assert_close(mixed, total, rtol=1e-9, atol=1e-9)
    leaves = [*alphas.values(), *sup.routers[0].parameters(), *sup.more[0]]
    got = torch.autograd.grad(mixed.square().sum(), leaves, retain_graph=True, allow_unused=True)
    wanted = torch.autograd.grad(total.square().sum(), leaves, allow_unused=True)
    for one, other in zip(got, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
