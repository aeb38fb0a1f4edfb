"""Put the important channels first: a supernet's sub-networks are its leading channels."""

from __future__ import annotations

from typing import Any

import torch

from netwright.pruning import Examples, Importance, score
from netwright.structure import Inputs, permute, sort_by
from netwright.supernets.elastic import Elastic


def sort_channels(
    sup: Elastic, importance: str | Importance = "magnitude", data: Any = None, *, verify: bool = True
) -> dict[str, torch.Tensor]:
    """Reorder the members of every elastic axis by importance, in place; the full function stays.

    Args:
        sup: The supernet; its weights change places, its choices mean the same numbers of channels.
        importance: A name or function of `netwright.pruning`.
        data: Examples for importances that look at some.
        verify: Compare the full network before and after, in float64 on the example.

    Returns:
        Axis -> (cells, members) positions that its members had.

    Raises:
        UsageError: if the importance is not known or lacks its data.
    """
    net = sup.blueprint.structure
    scores = score(net, sup.network, importance, Examples(data, Inputs.of(net.inputs)))
    elastic = [net.axes[axis].name for width in sup.blueprint.widths for axis in width.axes]
    change = sort_by(net, scores, elastic)
    if change.tables:
        made = permute(sup.network, net, change, verify=verify)
        sup.load_state_dict(made.model.state_dict())
    return dict(change.tables)
