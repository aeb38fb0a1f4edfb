"""What the tests of the networks share: counts without computing, removal that leaves a network its code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import netwright as nw


def traced(build: Callable[[], nn.Module], *shape: int, dtype: torch.dtype = torch.float32) -> nw.Structure:
    """The structure of a network and its costs, traced on the meta device: nothing is computed."""
    with torch.device("meta"):
        model = build().eval()
    return nw.trace(model, torch.empty(1, *shape, dtype=dtype, device="meta"))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with norms that begin at 0 set anew, so that every branch counts."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
    return model.eval()


def half_in_place(model: nn.Module, example: Any) -> nw.pruning.Pruned:
    """Prune to half the multiply-accumulates, and check that the network's own code ran on."""
    result = nw.prune(shaken(model), example, nw.Budget(macs=0.5), check=True)
    assert result.how == "in place"
    assert type(result.model) is type(model)
    assert 0.4 * result.before.macs < result.after.macs <= 0.5 * result.before.macs
    assert result.error is not None and result.error < 1e-6
    given = example if isinstance(example, Tensor) else example[0]
    assert nw.trace(result.model, given).macs == result.after.macs
    return result


def widths(net: nw.Structure) -> dict[str, int]:
    """Axes that can shrink -> number of their units."""
    return {axis.name: axis.cells.shape[1] for axis in net.prunable}
