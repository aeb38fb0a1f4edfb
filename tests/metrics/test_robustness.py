"""Outliers and moved pictures: closed forms, a naive count, and nothing changed in the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from netwright.data import Part
from netwright.errors import DataError, UsageError
from netwright.metrics import fgsm, fgsm_accuracy, outlier_auroc


def linear():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    return model


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    torch.manual_seed(0)
    inside, outside = 2 * torch.randn(60, 4), torch.randn(50, 4)
    a, b = (t.double().softmax(1).amax(1) for t in (inside, outside))
    pairs = (a[:, None] > b[None]).double() + 0.5 * (a[:, None] == b[None]).double()
    assert outlier_auroc(inside, outside) == pytest.approx(float(pairs.mean()), abs=1e-12)
    assert outlier_auroc(inside, inside) == pytest.approx(0.5)
    assert outlier_auroc(torch.tensor([[9.0, 0.0]]), torch.tensor([[0.1, 0.0]])) == 1.0
    with pytest.raises(UsageError, match="cannot be told apart"):
        outlier_auroc(torch.zeros(0, 2), torch.zeros(1, 2))


def test_the_step_goes_against_the_label_and_stays_in_range():
    x = torch.tensor([[[[0.5, 0.25]]]])
    moved = fgsm(linear(), x, torch.tensor([0]), 0.1)
    # More of class 1, less of class 0.
    assert torch.allclose(moved, torch.tensor([[[[0.4, 0.35]]]]))
    assert torch.allclose(
        fgsm(linear(), x, torch.tensor([0]), 0.4, 0.2, 0.6).flatten(), torch.tensor([0.2, 0.6])
    )


def test_the_loss_rises_to_first_order_by_epsilon_times_the_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(5, 1, 3, 4).double(), torch.tensor([0, 1, 2, 0, 1])
    loss = nn.CrossEntropyLoss(reduction="sum")
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(model(leaf), y), leaf)
    moved = fgsm(model, x, y, 1e-6)
    rise = float((loss(model(moved), y) - loss(model(x), y)).detach())
    assert rise == pytest.approx(1e-6 * float(gradient.abs().sum()), rel=1e-4)


def test_the_network_is_left_as_it_was():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2)).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    x = torch.randn(6, 1, 2, 2)
    kept = x.clone()
    fgsm(model, x, torch.zeros(6, dtype=torch.long), 0.1)
    assert torch.equal(x, kept)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_the_size_of_the_step_is_that_before_normalisation():
    pictures = torch.tensor([[[[0.52, 0.48]]], [[[0.58, 0.42]]]])
    part = Part.from_tensors(pictures, torch.tensor([0, 0]), mean=[0.5], std=[0.1])
    settings = {"mean": [0.5], "std": [0.1], "device": "cpu"}
    # The classes differ by 0.04 and 0.16: a step of e takes 2e of it, whatever they are divided by.
    assert fgsm_accuracy(linear(), part, 0.0, **settings) == 1.0
    assert fgsm_accuracy(linear(), part, 0.01, **settings) == 1.0
    assert fgsm_accuracy(linear(), part, 0.03, **settings) == 0.5
    assert fgsm_accuracy(linear(), part, 0.09, **settings) == 0.0
    with pytest.raises(DataError, match="labelled"):
        fgsm_accuracy(linear(), Part.from_tensors(pictures), 0.1)
