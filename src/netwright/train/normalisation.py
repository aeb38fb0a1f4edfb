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
    pooled: bool = False,
) -> int:
    """Measure the running statistics of every batch normalisation anew, on given batches, in place.

    The statistics are the average over the batches, weighted by their numbers of examples (no momentum), and
    so do not depend on the order of the batches. Everything else runs in eval mode; modes and momenta are
    restored. Batches of one example are left out, because they have no variance.

    Args:
        model: The network; only buffers of its batch normalisations change.
        batches: Inputs (B, ...), or tuples whose first item is the input. Moved to the model's device.
        limit: Most batches to use, or None for all.
        pooled: Add the variance of the batches' means to the average of their variances, as all examples in
            one batch would have it.

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
    used = seen = 0
    squares: list[Tensor] = []
    try:
        model.eval()
        for norm in norms:
            norm.train()
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
                    squares = [torch.zeros_like(_mean(norm)) for norm in norms]
                share = len(x) / (seen + len(x))
                before = [_mean(norm).clone() for norm in norms] if pooled else []
                for norm in norms:
                    norm.momentum = share
                model(x.to(device))
                for i, old in enumerate(before):
                    mean = old + (_mean(norms[i]) - old) / share  # of this batch alone
                    squares[i].lerp_(mean.square(), share)
                used, seen = used + 1, seen + len(x)
            for i, norm in enumerate(norms if pooled and used else ()):
                assert norm.running_var is not None
                norm.running_var += (squares[i] - _mean(norm).square()).clamp(min=0)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return used


def _mean(norm: _BatchNorm) -> Tensor:
    assert norm.running_mean is not None
    return norm.running_mean


def recalibrated(
    model: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]], *, limit: int | None = None
) -> nn.Module:
    """Return a copy of a network with its batch-norm statistics measured anew; see `recalibrate_`."""
    copied = copy.deepcopy(model)
    recalibrate_(copied, batches, limit=limit)
    return copied
