"""Cut a sub-network out: a plain network of the user's own classes with right-sized parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from netwright.nas.choice import Choice
from netwright.structure import Shrunk, shrink
from netwright.structure.thinning import crop_, leave_out_, take_
from netwright.supernets.network.pooling import laid
from netwright.supernets.network.pooling import place as place_poolings

if TYPE_CHECKING:
    from netwright.supernets.network.elastic import Elastic


def extract(sup: Elastic, choice: Choice) -> nn.Module:
    """A plain network that computes what a sub-network computes; see `Elastic.extract`.

    Args:
        sup: The supernet; it is not touched.
        choice: A canonical choice of its space.

    Raises:
        StructureError: if the network's code cannot take the sizes; names operator and module.
    """
    return cut_out(sup, choice)[0].model


@dataclass(frozen=True)
class Thinned:
    """What a sub-network lacks besides channels.

    Attributes:
        kernels: Path of a convolution -> its size, where it is not the whole.
        blocks: Paths of the blocks that are not there.
        parts: Path of a `OneOf` -> path of the candidate inside it.
    """

    kernels: dict[str, int]
    blocks: list[str]
    parts: dict[str, str]


def cut_out(sup: Elastic, choice: Choice) -> tuple[Shrunk, Thinned]:
    """A sub-network as a plain network, and what was done to make it.

    Args:
        sup: The supernet; it is not touched.
        choice: A canonical choice of its space.

    Raises:
        StructureError: if the network's code cannot take the sizes; names operator and module.
    """
    blueprint, less = sup.blueprint, _thinned(sup, choice)
    at = blueprint.poolings.at(blueprint.poolings.default) if blueprint.poolings is not None else ()
    with laid(sup.network, at):  # as it was traced
        shrunk = shrink(sup.network, blueprint.structure, blueprint.keep(choice))
    small = shrunk.model
    _measured(sup, choice, small)
    crop_(small, less.kernels)
    leave_out_(small, [depth.stage for depth in blueprint.depths], less.blocks)
    take_(small, less.parts)
    if blueprint.poolings is not None:
        place_poolings(small, blueprint.pooled(choice))
    small.train(sup.training)
    return shrunk, less


def _thinned(sup: Elastic, choice: Choice) -> Thinned:
    blueprint = sup.blueprint
    blocks = blueprint.skipped(choice)

    def there(path: str) -> bool:
        return not any(path == block or path.startswith(f"{block}.") for block in blocks)

    kernels = {kernel.path: size for kernel, size in blueprint.cropped(choice) if there(kernel.path)}
    parts = {o.path: f"candidates.{choice[o.name]}" for o in blueprint.operations if there(o.path)}
    return Thinned(kernels, blocks, parts)


def _measured(sup: Elastic, choice: Choice, small: nn.Module) -> None:
    """Give a network the statistics that were measured for a choice."""
    buffers = dict(small.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, value in sup.statistics.get(choice, {}).items():
            buffers[name].copy_(value)
