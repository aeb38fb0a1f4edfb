"""Our own networks: their sizes by formula, their shapes, their weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from netwright import models
from netwright.errors import ModelError


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def resnet_formula(n: int, classes: int, channels: int) -> int:
    """Parameters of He et al. (2016), 6n + 2 layers, with 1x1 shortcuts (option B) at the two transitions."""
    total = 9 * channels * 16 + 2 * 16
    width = 16
    for stage in (16, 32, 64):
        total += 9 * width * stage + (2 * n - 1) * 9 * stage**2 + 2 * n * 2 * stage
        total += width * stage + 2 * stage if stage != width else 0
        width = stage
    return total + 64 * classes + classes


@pytest.mark.parametrize("depth", [8, 20, 32, 44, 56, 110])
@pytest.mark.parametrize(("classes", "channels"), [(10, 3), (100, 1)])
def test_resnet_has_the_parameters_of_the_formula(depth: int, classes: int, channels: int) -> None:
    loaded = models.load(f"resnet{depth}", num_classes=classes, in_channels=channels)
    assert loaded.source == "zoo"
    assert count(loaded.model) == resnet_formula((depth - 2) // 6, classes, channels)


def test_published_sizes() -> None:
    """0.27 M, 0.46 M, 0.85 M, 1.7 M in table 6 of the paper, without the shortcuts' convolutions."""
    assert count(models.load("resnet20").model) == 272_474
    assert count(models.load("resnet8").model) == 78_042
    shortcuts = 16 * 32 + 64 + 32 * 64 + 128
    for depth, published in ((20, 0.27), (32, 0.46), (56, 0.85), (110, 1.7)):
        ours = (count(models.load(f"resnet{depth}").model) - shortcuts) / 1e6
        assert ours == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("size", [8, 28, 33])
def test_resnet_takes_any_size(size: int) -> None:
    model = models.load("resnet8", in_channels=1, num_classes=7).model
    assert not model.training
    assert model(torch.rand(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("size", [8, 32, 45])
def test_unet_answers_every_pixel(size: int) -> None:
    model = models.load("unet", num_classes=4, in_channels=2).model
    assert model(torch.rand(2, 2, size, size + 3)).shape == (2, 4, size, size + 3)
    assert count(models.UNet(width=8)) < count(models.UNet(width=16)) / 3


@pytest.mark.parametrize(("name", "gates"), [("gru", 3), ("lstm", 4)])
def test_recurrent_classifiers(name: str, gates: int) -> None:
    loaded = models.load(name, num_classes=5, in_channels=12)
    assert count(loaded.model) == gates * (12 * 64 + 64 * 64 + 2 * 64) + 64 * 5 + 5
    assert models.natural_shape(loaded)[1] == 12
    assert loaded.model(torch.rand(3, 9, 12)).shape == (3, 5)


def test_depth_that_is_not_6n_plus_2() -> None:
    with pytest.raises(ModelError, match="21 layers"):
        models.ResNetCifar(21)


def test_every_network_learns_through_all_its_weights() -> None:
    for name, x in (
        ("resnet8", torch.rand(4, 3, 16, 16)),
        ("unet", torch.rand(2, 3, 16, 16)),
        ("gru", torch.rand(2, 5, 3)),
    ):
        model = models.load(name).model.train()
        model(x).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
