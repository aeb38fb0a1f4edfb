"""Counts and masks: how many members every axis keeps, and which.

Within a cell the members are ranked by their score. A choice of widths is one count for every axis: every
cell of the axis keeps that many of its best.
"""

from __future__ import annotations

import torch
from torch import Tensor

from netwright.errors import UsageError
from netwright.structure import Structure

#: Axes at least this large keep multiples of `_STEP` unless asked otherwise: vector units like them.
_LARGE = 32
_STEP = 8


class Widths:
    """The ranked members of all prunable axes of a network.

    Args:
        net: The structure.
        scores: (count,), larger stays.

    Attributes:
        sizes: (A,) members of one cell of each axis.
        totals: (A,) members of all cells of each axis.
        curve: (S,) mean score of the members of each rank, axis by axis, descending within an axis.
        slot_axis: (S,) axis of each entry of the curve.
        starts: (A,) where each axis begins in the curve.
    """

    def __init__(self, net: Structure, scores: Tensor) -> None:
        if scores.shape != (net.count,):
            raise UsageError(
                f"the scores have shape {tuple(scores.shape)}, the network has {net.count} classes"
            )
        axes = net.prunable
        self.net = net
        self.sizes = torch.tensor([a.size for a in axes], dtype=torch.int64)
        self.totals = torch.tensor([a.total for a in axes], dtype=torch.int64)
        cells = torch.tensor([a.cells.shape[0] for a in axes], dtype=torch.int64)
        empty = torch.zeros(0, dtype=torch.int64)
        self._classes = torch.cat([empty, *[a.cells.reshape(-1) for a in axes]])  # (T,)
        number = torch.arange(len(axes))
        self._axis = number.repeat_interleave(self.totals)  # (T,)
        cell_size = self.sizes.repeat_interleave(cells)  # (cells of all axes,)
        cell = torch.arange(len(cell_size)).repeat_interleave(cell_size)  # (T,)
        value = scores[self._classes].double()
        order = torch.argsort(value, descending=True, stable=True)
        order = order[torch.argsort(cell[order], stable=True)]  # by cell, then by score
        first = (cell_size.cumsum(0) - cell_size).repeat_interleave(cell_size)
        self._rank = torch.empty_like(order)
        self._rank[order] = torch.arange(len(order)) - first  # (T,)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.slot_axis = number.repeat_interleave(self.sizes)
        slots = int(self.sizes.sum())
        self.curve = torch.zeros(slots, dtype=torch.float64)
        self.curve.index_add_(0, self.starts[self._axis] + self._rank, value)
        self.curve /= cells[self.slot_axis]

    def mask(self, counts: Tensor) -> Tensor:
        """Which classes stay.

        Args:
            counts: (A,) or (settings, A), how many members of every cell stay.

        Returns:
            (count,) or (settings, count) bool; frozen classes stay.
        """
        keep = torch.ones((*counts.shape[:-1], self.net.count), dtype=torch.bool)
        keep[..., self._classes] = self._rank < counts[..., self._axis]
        return keep

    def steps(self, round_to: int | None) -> Tensor:
        """By how much the count of every axis changes at a time, (A,).

        Args:
            round_to: The step on every axis of at least four steps, or None for 8 on axes of at least 32.
        """
        large = _LARGE if round_to is None else 4 * round_to
        step = _STEP if round_to is None else round_to
        return torch.where(self.sizes >= large, step, 1)

    def rounded(self, wanted: Tensor, steps: Tensor, least: Tensor) -> Tensor:
        """The nearest allowed counts: multiples of the step, or the whole axis.

        Args:
            wanted: (A,) float.
            steps: (A,).
            least: (A,) smallest counts.
        """
        counts = ((wanted / steps + 0.5).floor() * steps).long()
        return torch.minimum(torch.maximum(counts, least), self.sizes)


def check_round_to(round_to: int | None) -> None:
    """Refuse a step that is no positive integer.

    Raises:
        UsageError: naming it.
    """
    if round_to is not None and (isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1):
        raise UsageError(
            f"round_to={round_to!r} is not a step", "give None (8 on large axes), 1 or another count"
        )
