"""The matrix: every kind of network, every promise of a surgery."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from tests.structure.networks import LARGE, SMALL

from netwright.testing.surgery import PROMISES, SurgerySuite, randomise


@lru_cache(maxsize=1)
def suite(name: str) -> SurgerySuite:
    torch.manual_seed(0)
    model, example = {**SMALL, **LARGE}[name]()
    return SurgerySuite(randomise(model).eval(), example)


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("name", list(SMALL))
def test_a_surgery_keeps_its_promises(name: str, promise: str) -> None:
    getattr(suite(name), promise)()


@pytest.mark.slow
@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("name", list(LARGE))
def test_a_surgery_of_a_large_network_keeps_its_promises(name: str, promise: str) -> None:
    getattr(suite(name), promise)()
