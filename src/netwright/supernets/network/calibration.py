"""Batch-norm statistics of one sub-network, beside those of all others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.nas.choice import Choice
from netwright.supernets.network.binding import cut
from netwright.train import recalibrate_

if TYPE_CHECKING:
    from netwright.supernets.network.elastic import Elastic


def calibrate(
    sup: Elastic,
    choice: Choice,
    batches: Iterable[Tensor | Sequence[Tensor]],
    limit: int | None = None,
    pooled: bool = False,
) -> int:
    """Measure the statistics of a choice; see `Elastic.calibrate`.

    Args:
        sup: The supernet; only what it knows of the choice changes.
        choice: A canonical choice.
        batches: Inputs (B, ...), or tuples whose first item is the input.
        limit: Most batches to use.
        pooled: See `train.recalibrate_`.

    Returns:
        Batches used.
    """
    before = sup.choice
    sup.statistics.pop(choice, None)
    if sup.blueprint.rules is None:
        return _by_itself(sup, choice, batches, limit, pooled)
    sup.set(choice)
    try:
        plan = sup.plan
        fresh = {}
        for path, module in sup.places.modules.items():
            skipped = any(path == p or path.startswith(f"{p}.") for p in plan.skips)
            if isinstance(module, _BatchNorm) and module.running_mean is not None and not skipped:
                for key, buffer in module._buffers.items():
                    if buffer is not None:
                        name = f"{path}.{key}" if path else key
                        fresh[name] = cut(buffer, plan.cuts.get(name, ())).detach().clone()
        if not fresh:
            return 0
        with sup.places.laid(plan, {**sup.tensors(), **fresh}):
            used = recalibrate_(_Laid(sup), batches, limit=limit, pooled=pooled)
    finally:
        sup.set(before)
    if used:
        sup.statistics[choice] = fresh
    return used


def _by_itself(
    sup: Elastic,
    choice: Choice,
    batches: Iterable[Tensor | Sequence[Tensor]],
    limit: int | None,
    pooled: bool,
) -> int:
    """The statistics of a choice whose network has a surgery of its own, measured on what is cut out."""
    small = sup.extract(choice)
    used = recalibrate_(small, batches, limit=limit, pooled=pooled)
    if used:
        norms = {p for p, m in sup.network.named_modules() if isinstance(m, _BatchNorm)}
        named = small.named_buffers(remove_duplicate=False)
        sup.statistics[choice] = {n: b.detach().clone() for n, b in named if n.rpartition(".")[0] in norms}
    return used


class _Laid(nn.Module):
    """The network of a supernet while a choice is laid over it."""

    def __init__(self, sup: Elastic) -> None:
        super().__init__()
        self.network = sup.network
        self._resized = sup.resized

    def forward(self, x: Tensor) -> Any:
        args, _ = self._resized((x,), {})
        return self.network(*args)
