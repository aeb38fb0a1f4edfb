"""Names of modules and tensors are those that `nn.Module` gives."""

from __future__ import annotations

import torch
from torch import nn

from netwright.structure.copying import clone
from netwright.structure.modules import named_modules, named_tensors


class Shared(nn.Module):
    """A layer under two names, tied weights, and a module that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.again = self.first[0]
        self.last = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.last.weight
        self.none = None
        self.register_module("missing", None)
        self.register_buffer("table", torch.zeros(2), persistent=False)
        self.register_parameter("absent", None)


class Renamed(nn.Linear):
    """Lists itself in its own way."""

    def named_modules(self, memo=None, prefix="", remove_duplicate=True):  # type: ignore[no-untyped-def]
        yield f"{prefix}!", self


def test_modules_have_the_names_that_pytorch_gives() -> None:
    model = nn.Sequential(Shared(), nn.ModuleDict({"a": Renamed(2, 2), "b": Shared()}))
    for again in (False, True):
        theirs = list(model.named_modules(remove_duplicate=not again))
        assert named_modules(model, again=again) == theirs


def test_tensors_have_the_names_that_pytorch_gives() -> None:
    model = nn.Sequential(Shared(), nn.LSTM(2, 3))
    parameters, buffers = named_tensors(model)
    for ours, theirs in (
        (parameters, model.named_parameters(remove_duplicate=False)),
        (buffers, model.named_buffers(remove_duplicate=False)),
    ):
        theirs = list(theirs)
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert all(a is b for (_, a), (_, b) in zip(ours, theirs, strict=True))


class Holder:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def test_what_an_object_holds_is_replaced_like_the_rest() -> None:
    """An object is copied before the buffer that it shares with a later module is met."""
    model = nn.Sequential(nn.Identity(), nn.BatchNorm1d(3))
    model[0].holder = Holder(model[1].running_mean)
    twin = clone(model)
    assert twin[0].holder.tensor is twin[1].running_mean
    assert twin[1].running_mean.is_meta
    assert not model[1].running_mean.is_meta
