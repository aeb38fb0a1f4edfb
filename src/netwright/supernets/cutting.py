"""Cut a sub-network out: a plain network of the user's own classes with right-sized parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from netwright.nas.choice import Choice
from netwright.structure import shrink
from netwright.supernets.binding import crop
from netwright.supernets.dims import OneOf

if TYPE_CHECKING:
    from netwright.supernets.elastic import Elastic


def extract(sup: Elastic, choice: Choice) -> nn.Module:
    """A plain network that computes what a sub-network computes; see `Elastic.extract`.

    Args:
        sup: The supernet; it is not touched.
        choice: A canonical choice of its space.

    Raises:
        StructureError: if the network's code cannot take the sizes; names operator and module.
    """
    blueprint = sup.blueprint
    small = shrink(sup.network, blueprint.structure, blueprint.keep(choice)).model
    _measured(sup, choice, small)
    for kernel, size in blueprint.cropped(choice):
        _crop(small.get_submodule(kernel.path), size, kernel.full)
    skipped = blueprint.skipped(choice)
    for path in skipped:
        stage = next(d.stage for d in blueprint.depths if path in d.stage.blocks)
        _place(small, path, nn.Identity() if path in stage.plain else stage.skips[path])
    for operation in blueprint.operations:
        if not any(operation.path.startswith(f"{path}.") for path in skipped):
            place = small.get_submodule(operation.path)
            assert isinstance(place, OneOf)
            _place(small, operation.path, place.candidates[choice[operation.name]])
    _leave_out(small, skipped)
    return small.train(sup.training)


def _measured(sup: Elastic, choice: Choice, small: nn.Module) -> None:
    """Give a network the statistics that were measured for a choice."""
    buffers = dict(small.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, value in sup.statistics.get(choice, {}).items():
            buffers[name].copy_(value)


def _crop(module: nn.Module, size: int, full: int) -> None:
    assert isinstance(module, nn.modules.conv._ConvNd)
    weight = crop(module.weight.detach(), size).clone()
    module.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)
    module.kernel_size = (size,) * (weight.dim() - 2)
    if not isinstance(module.padding, str):
        less = (full - size) // 2
        module.padding = tuple(p - d * less for p, d in zip(module.padding, module.dilation, strict=True))
        module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in range(2)]


def _place(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, key = path.rpartition(".")
    model.get_submodule(parent)._modules[key] = module.train(model.training)


def _leave_out(model: nn.Module, skipped: list[str]) -> None:
    """Take skipped blocks at the end of a sequence out of it: their places are not even named any more."""
    gone = set(skipped)
    for parent in {path.rpartition(".")[0] for path in skipped}:
        sequence = model.get_submodule(parent)
        if type(sequence) is not nn.Sequential:
            continue
        names = list(sequence._modules)
        while len(names) > 1 and f"{parent}.{names[-1]}".lstrip(".") in gone:
            del sequence._modules[names.pop()]
