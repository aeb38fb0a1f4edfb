"""Remove given channels: the surgery, the repair and the result, for whoever has chosen what stays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from netwright import structure
from netwright.pruning.removal.repair import check_repair, repair_
from netwright.pruning.removal.result import Pruned
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Structure


def cut(
    net: Structure,
    model: nn.Module,
    keep: Tensor,
    *,
    repair: str = "none",
    data: Any = None,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Pruned:
    """Remove every class that does not stay.

    Args:
        net: The structure of the network.
        model: The network; it is left alone.
        keep: (count,) bool, the classes that stay; every cell of an axis keeps as many.
        repair: See `netwright.pruning.removal.repair`; "absorb" looks at the example of the structure
            where no data are given.
        data: Examples for the repair.
        seed: Of a sample of them.
        notes: What a reader should know already.

    Returns:
        The smaller network and what was done.

    Raises:
        StructureError: if the network's code cannot take the sizes.
        UsageError: if the repair lacks its data.
    """
    begun = time.perf_counter()
    if data is None and repair == "absorb":
        data = [net.inputs.args] if net.inputs.args else [dict(net.inputs.kwargs)]
    examples = Examples(data, net.inputs, seed=seed)
    repair = check_repair(repair, examples)
    shrunk = structure.shrink(model, net, keep)
    more = repair_(shrunk.model, repair, net, model, keep, examples, shrunk.adopted)
    told = [*notes, *net.notes, *shrunk.notes, *more]
    return Pruned.of(net, keep, shrunk, notes=told, seconds=time.perf_counter() - begun)
