from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netwright.data import Part, Splits, load


class SmallNet(nn.Module):
    """A small convolutional network with batch normalisation and dropout, for 8x8 digits."""

    def __init__(self, width: int = 8, classes: int = 10, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(self.drop(x.mean(dim=(2, 3))))


@pytest.fixture(scope="session")
def digits() -> Splits:
    return load("digits")


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallNet()


class Unlabelled:
    """A split without its labels."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.labelled = False
        self.numbers = False
        self.shape = part.shape

    def __len__(self) -> int:
        return len(self.part)

    def batches(self, batch_size: int, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.part.batches(batch_size, **options):
            yield x, torch.full_like(y, -1)


@pytest.fixture
def unlabelled(digits: Splits) -> Splits:
    parts = {name: Unlabelled(getattr(digits, name)) for name in ("train", "val", "test")}
    return dataclasses.replace(digits, **parts)
