"""Node configurations: exact counts, the smaller network against the masked parent, the search over them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from netwright.data import Part
from netwright.errors import DataError, StructureError, UsageError
from netwright.models import ResNetCifar
from netwright.nas import search
from netwright.pruning.systems.space import initial_loss, space
from netwright.structure import check


def parent(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.fixture
def part() -> Part:
    torch.manual_seed(1)
    return Part.from_tensors(torch.randn(40, 12), torch.arange(40) % 3)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.75, 0.9, 0.99])
def test_every_layer_keeps_exactly_its_share(sparsity: float) -> None:
    widths = (12, 20, 33, 3)
    nodes = space(parent(*widths), torch.zeros(2, 12), keep=max(1 - sparsity, 1e-9))
    active = [12, *(max(round((1 - sparsity) * h), 1) for h in widths[1:-1]), 3]
    for number in range(3):
        chosen = nodes.configuration(number)
        assert list(chosen.active.values()) == active[1:-1]
        formula = sum((a + 1) * b for a, b in itertools.pairwise(active))
        assert sum(p.numel() for p in chosen.model.parameters()) == formula


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_smaller_network_is_the_masked_parent(number: int) -> None:
    """By hand: activations of nodes that went are zero, whatever the rest does."""
    model = parent(12, 20, 33, 3).double()
    nodes = space(model, torch.zeros(2, 12, dtype=torch.double), keep=0.3)
    chosen = nodes.configuration(number)
    x = torch.randn(7, 12, dtype=torch.double)
    y, hidden = x, iter(nodes.net.prunable)
    for module in model:
        y = module(y)
        if isinstance(module, nn.ReLU):
            y = y * chosen.keep[next(hidden).cells[0]]
    assert float((y - model(x)).detach().abs().max()) > 1e-3
    torch.testing.assert_close(chosen.model(x), y, rtol=0, atol=1e-6)


def test_it_holds_for_networks_with_shortcuts() -> None:
    torch.manual_seed(0)
    model = ResNetCifar(8, 10, 1, (8, 16, 32)).eval()
    nodes = space(model, torch.randn(2, 1, 8, 8), keep=0.5)
    chosen = nodes.configuration(5)
    compared = check(model, nodes.net, chosen.keep, chosen.model)
    assert compared.error < 1e-6 < compared.change
    assert set(chosen.active.values()) == {4, 8, 16}


def test_configurations_are_drawn_evenly() -> None:
    """Every node stays about as often as any other."""
    nodes = space(parent(4, 10, 3), torch.zeros(2, 4), keep=0.3)
    times = sum(nodes.configuration(n).keep[nodes.net.prunable[0].cells[0]].long() for n in range(1_000))
    assert float((times - 300).abs().max()) < 4.5 * (1_000 * 0.3 * 0.7) ** 0.5


def test_a_search_of_one_is_a_random_configuration_and_longer_ones_begin_with_it(part: Part) -> None:
    nodes = space(parent(12, 20, 20, 3), torch.zeros(2, 12), keep=0.25)
    one, ten = (search(nodes, [initial_loss(part)], trials=n, seed=7) for n in (1, 10))
    assert one.best.candidate.number == ten.trials[0].candidate.number
    assert torch.equal(one.best.candidate.keep, ten.trials[0].candidate.keep)
    assert len({t.candidate.number for t in ten.trials}) == 10
    curve = ten.best_so_far
    assert all(a >= b for a, b in itertools.pairwise(curve))


def test_the_objective_is_the_loss_before_training(part: Part) -> None:
    model = parent(12, 20, 20, 3)
    nodes = space(model, torch.zeros(2, 12), keep=0.5)
    chosen = nodes.configuration(1)
    x, y = part.source.get(part.indices, None), part.labels
    by_hand = nn.functional.cross_entropy(chosen.model(x), y)
    assert initial_loss(part)(chosen) == pytest.approx(float(by_hand), rel=1e-6)
    few = nn.functional.cross_entropy(chosen.model(x[:10]), y[:10])
    assert initial_loss(part, 10)(chosen) == pytest.approx(float(few), rel=1e-6)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), parent(12, 20, 20, 3).parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", ["perceptron", "residual", "attention"])
def test_a_borrowed_network_is_the_configuration(kind: str) -> None:
    """Whatever was borrowed before: the quick look must be at what is built and proved."""
    torch.manual_seed(0)
    model: nn.Module
    if kind == "perceptron":
        model, x = parent(12, 20, 33, 3), torch.randn(5, 12)
    elif kind == "residual":
        model, x = ResNetCifar(8, 10, 1, (8, 16, 32)).eval(), torch.randn(5, 1, 8, 8)
    else:
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.0)
        model, x = nn.Sequential(nn.Linear(6, 16), layer, nn.Linear(16, 3)).eval(), torch.randn(5, 4, 6)
    nodes = space(model, x, keep=0.5)
    for number in (3, 1, 3):
        chosen = nodes.configuration(number)
        with torch.no_grad():
            torch.testing.assert_close(nodes.borrow(chosen)(x), chosen.model(x))
    if kind == "perceptron":
        assert nodes.borrow(nodes.configuration(1)) is nodes.borrow(nodes.configuration(2))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="edges"):
        space(parent(4, 5, 3), torch.zeros(2, 4), kind="edges")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        space(parent(4, 5, 3), torch.zeros(2, 4), keep=0.0)
    with pytest.raises(StructureError, match="shrink"):
        space(nn.Linear(4, 3), torch.zeros(2, 4))
    with pytest.raises(DataError):
        initial_loss(Part.from_tensors(torch.zeros(3, 4)))
