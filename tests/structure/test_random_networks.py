"""Random small networks: what no zoo contains, pruned, reordered and widened."""

from __future__ import annotations

import pytest
import torch
from tests.structure.random_networks import PARTS, RandomNetwork

from netwright.structure import Structure, permute, repeatable, sort_by, trace, widen
from netwright.testing.surgery import SurgerySuite, randomise

FAST, SLOW = 160, 2000
CHUNK = 20
EXACT = 1e-10


def prepared(seed: int) -> tuple[RandomNetwork, torch.Tensor]:
    torch.manual_seed(seed)
    return randomise(RandomNetwork(seed), seed).eval(), torch.randn(2, 3, 5, 7)


def prunes(model: RandomNetwork, example: torch.Tensor, seed: int) -> None:
    # What goes may be dead anyway; the zeroed weights are then the same network.
    suite = SurgerySuite(model, example, seed=seed, power=-1.0)
    if suite.net.prunable:
        for promise in ("exact", "sliced", "counted", "steps"):
            getattr(suite, promise)()


def reorders(model: RandomNetwork, net: Structure, seed: int) -> None:
    order = sort_by(net, torch.rand(net.count, generator=torch.Generator().manual_seed(seed)))
    assert permute(model, net, order).error <= EXACT


def widens(model: RandomNetwork, net: Structure, seed: int) -> None:
    """Every member twice, then some of them with unequal shares where any number will do."""
    verdicts = repeatable(net)
    assert all(v.reason for v in verdicts if v.kind != "any")
    twice = widen(model, net, 2)
    assert twice.error <= EXACT
    assert len(twice.map.tables) == sum(v.kind != "once" for v in verdicts)
    free = {
        axis.name: axis.size + (axis.size + 1) // 2
        for axis, verdict in zip(net.prunable, verdicts, strict=True)
        if verdict.kind == "any"
    }
    generator = torch.Generator().manual_seed(seed)
    assert widen(model, net, free, generator=generator).error <= EXACT


def hold(seed: int) -> None:
    model, example = prepared(seed)
    try:
        prunes(model, example, seed)
        net = trace(model, example)
        reorders(model, net, seed)
        widens(model, net, seed)
    except Exception as error:
        raise AssertionError(f"network {seed} of {model.made}: {error}") from error


@pytest.mark.parametrize("first", range(0, FAST, CHUNK))
def test_a_random_network_shrinks_and_grows_exactly(first: int) -> None:
    for seed in range(first, first + CHUNK):
        hold(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST, SLOW, CHUNK))
def test_many_random_networks_shrink_and_grow_exactly(first: int) -> None:
    for seed in range(first, first + CHUNK):
        hold(seed)


def test_every_part_is_met_and_most_can_change() -> None:
    made, changing = set(), 0
    for seed in range(FAST):
        model, example = prepared(seed)
        made.update(model.made)
        changing += bool(trace(model, example).prunable) if seed < 40 else 0
    assert made == {part.__name__ for part in PARTS}
    assert changing >= 32
