"""Random small networks: what no zoo contains."""

from __future__ import annotations

import pytest
import torch
from tests.structure.random_networks import RandomNetwork

from netwright.testing.surgery import SurgerySuite, randomise

FAST, SLOW = 200, 3000
CHUNK = 20


def hold(seed: int) -> None:
    model = randomise(RandomNetwork(seed), seed).eval()
    try:
        # What goes may be dead anyway; the zeroed weights are then the same network.
        suite = SurgerySuite(model, torch.randn(2, 3, 5, 7), seed=seed, power=-1.0)
        if not suite.net.prunable:
            return
        for promise in ("exact", "sliced", "counted", "steps"):
            getattr(suite, promise)()
    except Exception as error:
        raise AssertionError(f"network {seed} of {model.made}: {error}") from error


@pytest.mark.parametrize("first", range(0, FAST, CHUNK))
def test_a_random_network_shrinks_exactly(first: int) -> None:
    for seed in range(first, first + CHUNK):
        hold(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST, SLOW, CHUNK))
def test_many_random_networks_shrink_exactly(first: int) -> None:
    for seed in range(first, first + CHUNK):
        hold(seed)
