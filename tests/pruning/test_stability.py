"""How far two trainings lie apart: closed forms, and what masks leave out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from netwright.errors import UsageError
from netwright.pruning import stability


def state(*values):
    return {"w": torch.tensor(values)}


def test_distance_and_angle_are_those_of_plane_geometry():
    masks = {"w": torch.ones(2, dtype=torch.bool)}
    found = stability(state(4.0, 1.0), state(1.0, 5.0), state(1.0, 1.0), masks)
    assert found.distance == pytest.approx(5.0)
    assert found.angle == pytest.approx(90.0)
    half = stability(state(2.0, 1.0), state(2.0, 2.0), state(1.0, 1.0), masks)
    assert half.angle == pytest.approx(45.0)
    back = stability(state(2.0, 1.0), state(0.0, 1.0), state(1.0, 1.0), masks)
    assert back.angle == pytest.approx(180.0)


def test_masked_weights_do_not_count():
    masks = {"w": torch.tensor([True, False])}
    found = stability(state(2.0, 100.0), state(5.0, -7.0), state(0.0, 3.0), masks)
    assert found.distance == pytest.approx(3.0) and found.angle == pytest.approx(0.0)


def test_small_angles_keep_their_digits():
    masks = {"w": torch.ones(2, dtype=torch.bool)}
    one, other = {"w": torch.tensor([1.0, 0.0]).double()}, {"w": torch.tensor([1.0, 1e-9]).double()}
    found = stability(one, other, {"w": torch.zeros(2).double()}, masks)
    assert found.angle == pytest.approx(math.degrees(1e-9), rel=1e-6)


def test_networks_are_compared_by_their_weights():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    masks = {"weight": torch.ones(2, 3, dtype=torch.bool)}
    found = stability(one, other, {"weight": torch.zeros(2, 3)}, masks)
    assert found.distance == pytest.approx(float((one.weight - other.weight).detach().norm()), rel=1e-6)
    assert math.isnan(stability(one, other, one.state_dict(), masks).angle)
    with pytest.raises(UsageError, match="has no bias"):
        stability(one, nn.Linear(3, 2, bias=False), one.state_dict(), {"bias": torch.ones(2).bool()})
