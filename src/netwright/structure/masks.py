"""From what was kept of every parameter back to the mask of classes that stayed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from netwright.errors import StructureError
from netwright.structure.layers import varying

if TYPE_CHECKING:
    from netwright.structure.tracing import Structure


def mask_of(net: Structure, kept: Mapping[str, Mapping[int, Tensor]]) -> Tensor:
    """The classes that stayed, (count,) bool: what `Shrunk.kept` was made from.

    Args:
        net: The dense network's structure.
        kept: Parameter or buffer -> {dimension: indices (n,), or (blocks, n) for blocks of dimension 0}.

    Raises:
        StructureError: if no choice of classes keeps exactly these indices.
    """
    stays = {
        name: {dim: _stays(net, name, dim, index) for dim, index in dims.items()}
        for name, dims in kept.items()
    }
    keep = torch.ones(net.count, dtype=torch.bool)
    for name, dims in stays.items():
        for dim, mask in dims.items():
            keep[net.layers[name][dim][~mask]] = False
    for name, layers in net.layers.items():
        for dim, layer in layers.items():
            wanted = stays.get(name, {}).get(dim)
            if not torch.equal(
                keep[layer], torch.ones_like(layer, dtype=torch.bool) if wanted is None else wanted
            ):
                raise StructureError(
                    f"what was kept of {name} along dimension {dim} does not fit its axis",
                    "give the architecture that was pruned",
                )
    return keep


def _stays(net: Structure, name: str, dim: int, index: Tensor) -> Tensor:
    """Which entries of a layer stay; shaped as the layer."""
    layer = net.layers.get(name, {}).get(dim)
    if layer is None or (index.numel() and int(index.max()) >= layer.shape[dim]):
        raise StructureError(
            f"{name} has no axis along dimension {dim} that fits", "give the architecture that was pruned"
        )
    size = layer.shape[dim]
    rows = index.reshape(-1, index.shape[-1])
    table = torch.zeros(len(rows), size, dtype=torch.bool).scatter_(1, rows, True)  # (blocks, size)
    if varying(layer) in ((), (dim,)) and len(rows) == 1:
        return table[0].reshape([size if d == dim else 1 for d in range(layer.dim())]).expand(layer.shape)
    if dim == 0 or layer.shape[0] % len(rows):
        raise StructureError(
            f"{name} does not have {len(rows)} blocks", "give the architecture that was pruned"
        )
    wide = table.repeat_interleave(layer.shape[0] // len(rows), dim=0)
    shape = [layer.shape[0] if d == 0 else size if d == dim else 1 for d in range(layer.dim())]
    return wide.reshape(shape).expand(layer.shape)
