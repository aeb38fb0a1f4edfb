"""Put the important channels first: a supernet's sub-networks are its leading channels."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import torch

from netwright.pruning import Examples, Importance, score
from netwright.structure import Inputs, permute, sort_by
from netwright.structure.remapping import Remapped
from netwright.structure.sizes import take
from netwright.supernets.network.elastic import Elastic
from netwright.train import Callback, State


def sort_channels(
    sup: Elastic,
    importance: str | Importance = "magnitude",
    data: Any = None,
    *,
    axes: Sequence[str] = ("*",),
    verify: bool = True,
) -> dict[str, torch.Tensor]:
    """Reorder the members of every elastic axis by importance, in place; the full function stays.

    Axes between which a shortcut is filled up with zeros stay as they are: their members lie side by side.

    Args:
        sup: The supernet; its weights change places, its choices mean the same numbers of channels.
        importance: A name or function of `netwright.pruning`.
        data: Examples for importances that look at some.
        axes: Patterns of the names of the axes that are sorted.
        verify: Compare the full network before and after, in float64 on the example.

    Returns:
        Axis -> (cells, members) positions that its members had.

    Raises:
        UsageError: if the importance is not known or lacks its data.
    """
    made = _sort(sup, importance, data, axes, verify)
    return {} if made is None else dict(made.map.tables)


def _sort(
    sup: Elastic, importance: str | Importance, data: Any, axes: Sequence[str], verify: bool
) -> Remapped | None:
    """Sort; what was made of the network, None where nothing moved."""
    net = sup.blueprint.structure
    scores = score(net, sup.network, importance, Examples(data, Inputs.of(net.inputs)))
    beside = {axis for pair in net.filled for axis in pair}
    positions = [a for width in sup.blueprint.widths for a in width.axes if a not in beside]
    names = [net.axes[a].name for a in positions]
    change = sort_by(net, scores, [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in axes)])
    if not change.tables:
        return None
    made = permute(sup.network, net, change, verify=verify)
    sup.load_state_dict(made.model.state_dict())
    return made


class Sorting(Callback):
    """Sort the channels of a supernet once an epoch, as ViT-ResNAS does while its sampler warms up.

    Y.-L. Liao, S. Karaman and V. Sze, Searching for Efficient Multi-Stage Vision Transformers, 2021,
    section 3.3. The moments of the optimiser move with their weights.

    Args:
        epochs: Sort after each of the first so many epochs.
        importance: A name or function of `netwright.pruning` that needs no data.
        axes: Patterns of the names of the axes that are sorted.
    """

    def __init__(
        self, epochs: int, importance: str | Importance = "magnitude-l1", axes: Sequence[str] = ("*",)
    ) -> None:
        self.epochs, self.importance, self.axes = epochs, importance, axes

    def after_step(self, state: State) -> None:
        """Sort at the end of an epoch."""
        epoch, rest = divmod(state.step, max(state.steps_per_epoch, 1))
        if rest or epoch > self.epochs:
            return
        sup = state.model
        assert isinstance(sup, Elastic)
        made = _sort(sup, self.importance, None, self.axes, verify=False)
        if made is None:
            return
        names = {id(p): n for n, p in sup.network.named_parameters()}
        for parameter, moments in state.optimizer.state.items():
            kept = made.kept.get(names.get(id(parameter), ""), {})
            for key, value in moments.items():
                if kept and isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    moments[key] = take(value, kept)
