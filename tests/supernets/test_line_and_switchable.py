"""Weights on a line and switchable batch normalisation: special cases, gradients, what is cut out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import netwright as nw
from netwright import models, supernets
from netwright.data import Part, Splits
from netwright.errors import ModelError, UsageError
from netwright.models import Residual
from netwright.supernets import HardLabels, Paths, samplers
from netwright.train import Recipe

WIDTHS = (2, 4, 8)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Residual((8,), depth=2, kernel=3)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def made(store: Any = None, net: nn.Module | None = None) -> supernets.Elastic:
    net = network() if net is None else net
    return nw.elastic(net, images(2), width=WIDTHS, depth=[1, 2], share="network", store=store)


def on_line(**options: Any) -> supernets.OnLine:
    sup = made(supernets.Line(seed=5, **options), models.with_instance_norm(network()))
    assert isinstance(sup, supernets.OnLine)
    return sup.eval()


def splits() -> Splits:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(24, 1, 8, 8, generator=generator), torch.randint(0, 10, (24,), generator=generator)
    part = Part.from_tensors(x, y)
    return Splits("random", part, part.head(2), part.head(8), tuple("0123456789"))


def test_ends_of_the_line_are_the_two_sets_of_weights() -> None:
    sup, x = on_line(), images()
    smallest, largest = sup.complete(sup.space.min()), sup.blueprint.full
    assert (sup.position(smallest), sup.position(largest)) == (0.0, 1.0)
    first = made(net=models.with_instance_norm(network())).eval()
    assert torch.equal(sup.set(smallest)(x), first.set(smallest)(x))
    other = copy.deepcopy(sup.network)
    with torch.no_grad():
        for parameter, end in zip(other.parameters(), sup.end, strict=True):
            parameter.copy_(end)
    assert torch.equal(sup.set(largest)(x), other(x))
    assert not torch.allclose(sup.set(largest)(x), first.set(largest)(x))


def test_every_point_is_the_blend_and_its_gradients_are_shared_out() -> None:
    sup, x = on_line(), images()
    choice = sup.complete({"width": 4, "depth:stages.0": 2})
    at = sup.position(choice)
    assert at == pytest.approx(((4 - 2) / 6 + 1) / 2)
    blend = copy.deepcopy(sup.network)
    pairs = zip(sup.network.parameters(), sup.end, blend.parameters(), strict=True)
    with torch.no_grad():
        for one, two, parameter in pairs:
            parameter.copy_((1 - at) * one + at * two)
    plain = made(net=blend).eval().set(choice)
    torch.testing.assert_close(sup.set(choice)(x), plain(x), rtol=1e-6, atol=1e-6)
    sup(x).square().sum().backward()
    plain(x).square().sum().backward()
    for one, two, whole in zip(sup.network.parameters(), sup.end, plain.network.parameters(), strict=True):
        assert whole.grad is not None and one.grad is not None and two.grad is not None
        torch.testing.assert_close(one.grad, (1 - at) * whole.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(two.grad, at * whole.grad, rtol=1e-4, atol=1e-6)


def test_a_point_is_cut_out_saved_and_copied() -> None:
    sup, x = on_line(), images()
    for choice in sup.space.enumerate():
        small = sup.extract(choice)
        torch.testing.assert_close(small(x), sup.set(choice)(x), rtol=1e-6, atol=1e-6)
    again = on_line(position=lambda space, choice: 0.25)
    again.load_state_dict(sup.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.end, sup.end, strict=True))
    assert sup.extra_parameters() == sum(p.numel() for p in sup.network.parameters())
    assert torch.equal(copy.deepcopy(sup)(x), sup(x))
    assert not torch.equal(again.set(sup.choice)(x), sup(x))
    with pytest.raises(UsageError, match="on the line"):
        on_line(position=lambda space, choice: 1.5)(x)
    with pytest.raises(UsageError, match="one choice at a time"):
        sup.set_many([{}, {}], torch.zeros(4, dtype=torch.int64))


def test_a_training_moves_both_ends() -> None:
    sup = on_line()
    recipe = Recipe(epochs=1, batch_size=8, lr=0.1, augment=False, precision="fp32")
    trained = supernets.train(sup, splits(), recipe, paths=Paths(samplers.Uniform(0), HardLabels())).model
    assert isinstance(trained, supernets.OnLine)
    for before, after in ((sup.end, trained.end), (sup.network.parameters(), trained.network.parameters())):
        assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_instance_norm_takes_the_scales_of_batch_norm() -> None:
    net = network()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    other = models.with_instance_norm(net)
    assert {n: p.shape for n, p in other.named_parameters()} == {
        n: p.shape for n, p in net.named_parameters()
    }
    x = images(1)  # the statistics of a batch of one are those of the instance
    torch.testing.assert_close(other.eval()(x), net.train()(x), rtol=1e-5, atol=1e-5)
    both = other(images(4))
    torch.testing.assert_close(both[:1], other(images(4)[:1]), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="no batch normalisation"):
        models.with_instance_norm(nn.Linear(2, 2))


def switched(choices: Any = None) -> supernets.Switched:
    sup = made(supernets.SwitchableNorm(choices))
    assert isinstance(sup, supernets.Switched)
    return sup


def test_switches_begin_alike_and_part_in_training() -> None:
    sup, plain, x = switched(), made(), images()
    for choice in sup.space.enumerate():
        assert torch.equal(sup.eval().set(choice)(x), plain.eval().set(choice)(x))
    small, large = sup.space.min(), sup.space.max()
    before = sup.eval().set(large)(x)
    sup.train().set(small)(x).square().sum().backward()
    grads = [p.grad is not None for p in sup.norms[sup.listed.index(sup.complete(large))].parameters()]
    assert not any(grads)  # scales and shifts are not shared
    assert torch.equal(sup.eval().set(large)(x), before)  # nor are running statistics
    assert not torch.equal(sup.set(small)(x), plain.set(small)(x))


def test_statistics_are_those_of_the_network_by_itself() -> None:
    sup, x = switched(), images(8)
    choice = sup.complete({"width": 4, "depth:stages.0": 1})
    alone = sup.extract(choice).train()
    sup.train().set(choice)(x)
    alone(x)
    torch.testing.assert_close(sup.eval()(x), alone.eval()(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sup.extract(choice).eval()(x), alone(x), rtol=1e-6, atol=1e-6)


def test_only_listed_choices_run() -> None:
    sup = switched([{"width": 2}, {"width": 8}])
    assert len(sup.listed) == 2
    with pytest.raises(UsageError, match="of its own"):
        sup.set({"width": 4})(images())
    assert sup.calibrate([images()]) == 0 and not sup.statistics  # they have their own
    with pytest.raises(UsageError, match="no batch normalisation to switch"):
        made(supernets.SwitchableNorm(), models.with_instance_norm(network()))
    norms = [m for m in network().modules() if isinstance(m, nn.BatchNorm2d)]
    assert sup.extra_parameters() == sum(2 * w for w in (2, 8)) * len(norms)


def test_switched_norms_are_trained_saved_and_copied() -> None:
    sup, x = switched(), images()
    recipe = Recipe(epochs=1, batch_size=8, lr=0.1, augment=False, precision="fp32")
    trained = supernets.train(sup, splits(), recipe, paths=Paths(samplers.Uniform(0), HardLabels())).model
    assert isinstance(trained, supernets.Switched)
    again = switched()
    again.load_state_dict(trained.state_dict())
    for choice in sup.space.enumerate():
        assert torch.equal(again.eval().set(choice)(x), trained.eval().set(choice)(x))
    assert torch.equal(copy.deepcopy(again)(x), again(x))
