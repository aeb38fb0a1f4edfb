"""LARS: steps that are shares of the weights' own norms."""

import pytest
import torch
from torch import nn

from netwright.errors import UsageError
from netwright.train import LARS, Recipe, build_optimizer


def test_a_step_is_a_share_of_the_norm():
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, generator=generator))
    gradient = torch.randn(4, 3, generator=generator)
    optimizer = LARS([weight], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01)
    value, speed = weight.detach().clone(), torch.zeros(4, 3)
    for _ in range(3):
        weight.grad = gradient.clone()
        share = 0.01 * value.norm() / (gradient.norm() + 0.1 * value.norm())
        speed = 0.9 * speed + 0.5 * share * (gradient + 0.1 * value)
        value = value - speed
        optimizer.step()
        torch.testing.assert_close(weight.detach(), value)


def test_a_step_does_not_follow_the_size_of_the_gradient():
    moved = []
    for scale in (1.0, 1000.0):
        weight = nn.Parameter(torch.ones(3, 3))
        weight.grad = torch.full((3, 3), scale)
        LARS([weight], lr=1.0).step()
        moved.append(weight.detach())
    torch.testing.assert_close(moved[0], moved[1])


def test_norms_and_biases_are_not_scaled_and_what_has_no_gradient_stays():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = build_optimizer(model, Recipe(optimizer="lars", lr=0.1, weight_decay=0.1))
    before = [p.detach().clone() for p in model.parameters()]
    model[0](torch.ones(2, 3)).sum().backward()
    optimizer.step()
    after = list(model.parameters())
    torch.testing.assert_close(after[1], before[1] - 0.1 * after[1].grad)  # the bias: plain descent
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2]) and torch.equal(after[3], before[3])


def test_numbers_out_of_range_are_refused():
    with pytest.raises(UsageError, match="trust=0"):
        LARS([nn.Parameter(torch.ones(1))], lr=0.1, trust=0)
