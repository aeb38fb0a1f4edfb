"""Networks with masks in a file: one bit a weight for the mask, and of hard masked weights only the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netwright.pruning.masks.mask_state import ROOT, MaskState
from netwright.pruning.masks.selection import Masks
from netwright.pruning.masks.soft_masks import plain_name

_PREFIX = ROOT + "."


@dataclass(frozen=True)
class Unpacked:
    """Masks that were read.

    Attributes:
        masks: Parameter -> mask.
        soft: Whether they are soft.
    """

    masks: Masks
    soft: bool


def pack(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The state of a network with its masks packed.

    Args:
        model: With or without masks.

    Returns:
        Names as of the network without masks -> tensors; where there are masks, ``_nw_mask.<name>`` are
        their bits, (ceil(n / 8),) uint8, and hard masked weights the values that stay, (kept,). And what must
        be known to read it, or None without masks.
    """
    found = MaskState.of(model)
    if found is None:
        return dict(model.state_dict()), None
    own = found.model.state_dict()
    state = {plain_name(name): t for name, t in own.items() if not name.startswith(_PREFIX)}
    for name, mask in found.masks.items():
        if not found.soft:
            whole = state[name]
            values = whole[mask]
            for other, tensor in state.items():  # what shares its memory is told by it
                if tensor.data_ptr() == whole.data_ptr() and tensor.shape == whole.shape:
                    state[other] = values
        state[_PREFIX + name] = torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))
    return state, {"soft": found.soft, "names": list(found.masks)}


def unpack(weights: dict[str, Tensor], told: Mapping[str, Any] | None, like: nn.Module) -> Unpacked | None:
    """Undo `pack`.

    Args:
        weights: What was read; packed tensors are replaced by whole ones, and masks go.
        told: What `pack` said.
        like: A network of the shapes.

    Returns:
        The masks, or None where there were none.

    Raises:
        KeyError: if something is missing.
        ValueError: if sizes do not fit; of what is written down nothing else is trusted.
    """
    if told is None:
        return None
    shapes = {name: tensor.shape for name, tensor in like.state_dict().items()}
    soft = told["soft"]
    if not isinstance(soft, bool):
        raise ValueError("soft must be true or false")
    masks: Masks = {}
    for name in told["names"]:
        bits, shape = weights.pop(_PREFIX + name), shapes[name]
        if bits.dtype != torch.uint8 or bits.shape != (-(-shape.numel() // 8),):
            raise ValueError(f"{name} has a mask of another size")
        flat = np.unpackbits(bits.numpy(), count=shape.numel()).astype(bool)
        masks[name] = torch.from_numpy(flat).reshape(shape)
        if soft:
            continue
        values = weights[name]
        if values.shape != (int(masks[name].sum()),):
            raise ValueError(f"{name} has as many values as its mask keeps: {int(masks[name].sum())}")
        weights[name] = values.new_zeros(shape).masked_scatter_(masks[name], values)
    return Unpacked(masks, soft)
