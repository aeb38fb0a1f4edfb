"""Statistics of batch normalisation, measured anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def recalibrate_(
    model: nn.Module,
    batches: Iterable[Tensor | Sequence[Tensor]],
    *,
    limit: int | None = None,
) -> int:
    """Measure the running statistics of every batch normalisation anew, on given batches, in place.

    The statistics are the plain average over the batches (no momentum). Everything else runs in eval mode;
    modes and momenta are restored. Batches of one example are left out, because they have no variance.

    Args:
        model: The network; only buffers of its batch normalisations change.
        batches: Inputs (B, ...), or tuples whose first item is the input. Moved to the model's device.
        limit: Most batches to use, or None for all.

    Returns:
        Batches used; 0 where the model has no batch normalisation with running statistics or no batch came,
        and then nothing has changed.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    used = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None
        with torch.no_grad():
            for batch in batches:
                if limit is not None and used >= limit:
                    break
                x = batch if isinstance(batch, Tensor) else batch[0]
                if len(x) < 2:
                    continue
                if used == 0:
                    for norm in norms:
                        norm.reset_running_stats()
                model(x.to(device))
                used += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return used


def recalibrated(
    model: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]], *, limit: int | None = None
) -> nn.Module:
    """Return a copy of a network with its batch-norm statistics measured anew; see `recalibrate_`."""
    copied = copy.deepcopy(model)
    recalibrate_(copied, batches, limit=limit)
    return copied
