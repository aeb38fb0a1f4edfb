"""Batch-norm statistics recomputed on data, as a pruned network needs them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.errors import DataError
from netwright.pruning.examples import Examples


def recalibrate_(model: nn.Module, examples: Examples) -> int:
    """Replace the running statistics of all batch norms by averages over the examples, in place.

    Every batch norm normalises with its batch's own statistics meanwhile, so that later layers see what they
    will see; everything else runs in eval mode. Modes, momenta and batch counters are as before afterwards.

    Args:
        model: The network.
        examples: The data.

    Returns:
        The number of batch norms.

    Raises:
        DataError: if the batches hold a single example each.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    norms = [m for m in norms if m.running_mean is not None]
    if not norms:
        return 0
    modes = {m: m.training for m in model.modules()}
    momenta = [m.momentum for m in norms]
    counters = [m.num_batches_tracked.clone() if m.num_batches_tracked is not None else None for m in norms]
    device = norms[0].running_mean.device  # type: ignore[union-attr]
    seen = 0
    try:
        model.eval()
        for m in norms:
            m.train()
            m.momentum = None  # a cumulative average
            m.reset_running_stats()
        with torch.no_grad():
            for inputs, _ in examples:
                if seen and _leading(inputs.tensors()) < 2:
                    continue  # a last batch of one example
                inputs.map(lambda x: x.to(device)).call(model)
                seen += 1
    except ValueError as error:
        if "more than 1 value" in str(error):
            raise DataError(
                "batch-norm statistics of a single example are not defined", "give batches of two or more"
            ) from error
        raise
    finally:
        for m, momentum, counter in zip(norms, momenta, counters, strict=True):
            m.momentum = momentum
            if counter is not None and m.num_batches_tracked is not None:
                m.num_batches_tracked.copy_(counter)
        for module, mode in modes.items():
            module.training = mode
    return len(norms)


def _leading(tensors: list[Tensor]) -> int:
    return max((len(x) for x in tensors if x.dim()), default=0)
