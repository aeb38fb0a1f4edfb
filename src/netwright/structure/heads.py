"""Heads that meet a table of one head's width: whether all heads share its units, or the heads go whole.

A rotary table or the norm of queries spans the width of a head and is used by every head. By itself that
ties position r of all heads, as any broadcast does. In attention the members of a head are tied already, by
the product of queries and keys; both together would leave one unit, or none. There the table has to stay as
it is, and the heads can go whole. Which it is shows only at the product, so the network is labelled once more
where the first labels came to nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from netwright.structure.labels import Labels
from netwright.structure.solve import Partition


def whole_rows(labels: Labels, partition: Partition) -> frozenset[int]:
    """Operator calls (by id) whose tables of one head's width had better stay, so that heads can go.

    Args:
        labels: A walk with whole heads.
        partition: Its classes.

    Returns:
        Those at which all that was tied came to one class, or to nothing that can go.
    """
    found = set()
    for node, layer in labels.broad:
        classes = np.unique(partition.classes[layer].numpy())
        if (~partition.frozen[classes]).sum() <= 1:
            found.add(id(node))
    return frozenset(found)


def without_product(labels: Labels, partition: Partition) -> frozenset[int]:
    """Of the calls at which rows were kept whole, those whose rows no product of attention comes by."""
    classes = partition.classes
    none = torch.zeros(0, dtype=torch.int64)
    heads = torch.zeros(partition.count, dtype=torch.bool)
    heads[classes[torch.cat([none, *[layer.reshape(-1) for layer in labels.heads_met]])]] = True
    heads[torch.from_numpy(partition.frozen)] = False
    used = {id(node) for node, layer in labels.broad if bool(heads[classes[layer]].any())}
    return labels.whole_at - used
