"""Batch-norm statistics recomputed on data, as a pruned network needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.errors import DataError
from netwright.pruning.statistics.examples import Examples


@contextmanager
def averaging_(model: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Have all batch norms average the statistics of the batches they see; the rest runs in eval mode.

    They normalise with their batch's own statistics meanwhile, so that later layers see what they will see.
    Modes, momenta and batch counters are as before afterwards.

    Args:
        model: The network; its running statistics are lost.

    Yields:
        The batch norms.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    modes = {m: m.training for m in model.modules()}
    momenta = [m.momentum for m in norms]
    counters = [m.num_batches_tracked.clone() if m.num_batches_tracked is not None else None for m in norms]
    try:
        model.eval()
        for m in norms:
            m.train()
            m.momentum = None  # a cumulative average
            m.reset_running_stats()
        yield norms
    finally:
        for m, momentum, counter in zip(norms, momenta, counters, strict=True):
            m.momentum = momentum
            if counter is not None and m.num_batches_tracked is not None:
                m.num_batches_tracked.copy_(counter)
        for module, mode in modes.items():
            module.training = mode


def recalibrate_(model: nn.Module, examples: Examples) -> int:
    """Replace the running statistics of all batch norms by averages over the examples, in place.

    Args:
        model: The network.
        examples: The data.

    Returns:
        The number of batch norms.

    Raises:
        DataError: if the batches hold a single example each.
    """
    with averaging_(model) as norms, torch.no_grad():
        if not norms:
            return 0
        device = norms[0].running_mean.device  # type: ignore[union-attr]
        seen = 0
        for inputs, _ in examples:
            if seen and _leading(inputs.tensors()) < 2:
                continue  # a last batch of one example
            try:
                inputs.map(lambda x: x.to(device)).call(model)
            except Exception as error:
                if "more than 1 value" in str(error):
                    raise DataError(
                        "batch-norm statistics of a single example are not defined",
                        "give batches of two or more",
                    ) from error
                raise
            seen += 1
    return len(norms)


def _leading(tensors: list[Tensor]) -> int:
    return max((len(x) for x in tensors if x.dim()), default=0)
