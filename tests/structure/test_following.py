"""Buffers that lie on parameters, of whatever kind, are cut, repeated, reordered and renamed with them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from netwright import structure


class Rates(nn.Module):
    """A rate for every single weight, which a training of one's own would multiply gradients by."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.settled = 0
        self.names = {n.replace(".", "_"): n for n, p in network.named_parameters() if p.dim() > 1}
        for own, name in self.names.items():
            # As the weights themselves, so that it can be told which belongs to which.
            self.register_buffer(own, network.get_parameter(name).detach().clone())

    def buffers_on_parameters(self, holder: nn.Module) -> dict[str, str]:
        return self.names

    def bar_to_graphs(self, holder: nn.Module) -> str:
        return ""

    def after_moves(self, holder: nn.Module, origins: Mapping[str, str]) -> None:
        kept = {self.names[own]: buffer for own, buffer in self.named_buffers()}
        self._buffers.clear()
        self.names = {n.replace(".", "_"): n for n, origin in origins.items() if origin in kept}
        for own, name in self.names.items():
            self.register_buffer(own, kept[origins[name]].clone())

    def after_surgery(self, holder: nn.Module) -> None:
        self.settled += 1


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Rated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(4, 6), nn.Sequential(Block(), Block()), nn.Linear(6, 3)
        self.rates = Rates(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def rated() -> tuple[Rated, Tensor, structure.Structure]:
    torch.manual_seed(0)
    model, x = Rated().eval(), torch.randn(5, 4)
    return model, x, structure.trace(model, x)


def assert_on_their_weights(model: nn.Module) -> None:
    rates = model.get_submodule("rates")
    assert isinstance(rates, structure.Follows) and isinstance(rates, Rates)
    assert set(rates.names.values()) == {n for n, p in model.named_parameters() if p.dim() > 1}
    for own, name in rates.names.items():
        assert torch.equal(rates.get_buffer(own), model.get_parameter(name))


def test_reordering() -> None:
    model, x, net = rated()
    scores = torch.rand(net.count, generator=torch.Generator().manual_seed(1))
    done = structure.permute(model, net, structure.sort_by(net, scores))
    assert not torch.equal(done.model.stem.weight, model.stem.weight)  # type: ignore[union-attr]
    assert_on_their_weights(done.model)
    assert torch.allclose(done.model(x), model(x), atol=1e-5)
    assert done.model.rates.settled > model.rates.settled == 0  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("how", ["in place", "graph"])
def test_removing(how: str) -> None:
    model, _, net = rated()
    keep = torch.ones(net.count, dtype=torch.bool)
    for axis in net.prunable:
        keep[axis.cells[:, ::2].reshape(-1)] = False
    done = structure.shrink(model, net, keep, how=how)
    assert done.model.get_parameter("blocks.0.up.weight").shape == (5, 3)
    assert_on_their_weights(done.model)


def test_repeating_leaves_factors_to_the_weights() -> None:
    model, x, net = rated()
    done = structure.widen(model, net, 2)
    rates = done.model.get_submodule("rates")
    for own, name in rates.names.items():  # type: ignore[union-attr, operator]
        weight, rate = done.model.get_parameter(name), rates.get_buffer(own)
        assert rate.shape == weight.shape
        share = weight / rate
        assert torch.allclose(share, torch.ones_like(share)) or torch.allclose(
            share, 0.5 * torch.ones_like(share)
        )
    assert torch.allclose(done.model(x), model(x), atol=1e-5)


def test_putting_in_and_leaving_out() -> None:
    model, _, net = rated()
    first = structure.branches(model, net)[0]
    deep = structure.insert(model, net, [first.name]).model
    rates = deep.get_submodule("rates")
    assert set(rates.names.values()) == {n for n, p in deep.named_parameters() if p.dim() > 1}  # type: ignore[union-attr, operator]
    shifted = {"blocks.1": "blocks.0", "blocks.2": "blocks.1"}
    for own, name in rates.names.items():  # type: ignore[union-attr, operator]
        origin = next((name.replace(new, old) for new, old in shifted.items() if new in name), name)
        assert torch.equal(rates.get_buffer(own), model.get_parameter(origin)), name
    left = structure.drop(model, net, [first.name]).model
    assert_on_their_weights(left)
