"""A copied module is what `copy.deepcopy` gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from netwright.structure.copying import copy_module


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.table = {"layer": self.first, 3: [self.first, (1, 2)]}
        self.pair = (self.first, "x")
        self.options = {"a", "b"}
        self.register_buffer("steps", torch.zeros(2), persistent=False)
        self.first.bias = None


class Own(nn.Module):
    """Has its own way of being copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def __deepcopy__(self, memo: dict[int, Any]) -> Own:
        new = Own()
        new.copied = True
        return new


def test_what_is_shared_stays_shared() -> None:
    model = Shared()
    new: Any = copy_module(model, {})
    assert new.again is new.first is new.table["layer"] is new.table[3][0] is new.pair[0]
    assert new.first is not model.first
    assert new.options == model.options
    assert new.options is not model.options
    assert new._non_persistent_buffers_set == {"steps"}
    assert new.first.weight is not model.first.weight
    assert torch.equal(new.first.weight, model.first.weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        lambda: nn.LSTM(3, 4, 2, bidirectional=True),
        lambda: nn.MultiheadAttention(8, 2),
        lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
        lambda: nn.ModuleDict({"own": Own(), "list": nn.ModuleList([nn.Linear(2, 2)])}),
    ],
)
def test_copies_hold_the_same_and_compute_the_same(make: Any) -> None:
    model = make()
    new, reference = copy_module(model, {}), copy.deepcopy(model)
    assert [type(m) for m in new.modules()] == [type(m) for m in reference.modules()]
    for name, tensor in reference.state_dict().items():
        assert torch.equal(new.state_dict()[name], tensor) or isinstance(model, nn.ModuleDict)
    new.train(False)
    assert model.training


def test_its_own_way_of_being_copied_is_used() -> None:
    new: Any = copy_module(nn.Sequential(Own()), {})
    assert new[0].copied


def test_what_is_in_the_memo_is_taken() -> None:
    model = nn.Linear(3, 4)
    weight = nn.Parameter(torch.zeros(2, 3))
    new: Any = copy_module(model, {id(model.weight): weight})
    assert new.weight is weight


def test_hooks_are_copied() -> None:
    model = nn.Linear(3, 4)
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    copy_module(model, {})(torch.zeros(1, 3))
    assert calls == [1]
