"""Counts and masks: how many members every axis keeps, and which.

Within a cell the members are ranked by their score. A choice of widths is one count for every axis: every
cell of the axis keeps that many of its best. Where the parts of an axis shrink each in its own way, the count
is a level (see `netwright.structure.blocks`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from netwright.errors import UsageError
from netwright.structure import Structure
from netwright.structure.blocks import Parts

#: Axes at least this large keep multiples of `_STEP` unless asked otherwise: vector units like them.
_LARGE = 32
_STEP = 8


class Widths:
    """The ranked members of all prunable axes of a network.

    Args:
        net: The structure.
        scores: (count,), larger stays.

    Attributes:
        parts: The cells of all axes.
        sizes: (A,) members of one cell of each axis, or its levels.
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
        self.parts = Parts(axes)
        self.sizes = self.parts.levels
        self.totals = torch.tensor([a.total for a in axes], dtype=torch.int64)
        part, length = self.parts.part, self.parts.sizes  # (T,), (P,)
        value = scores[self.parts.classes].double()
        order = torch.argsort(value, descending=True, stable=True)
        order = order[torch.argsort(part[order], stable=True)]  # by part, then by score
        first = (length.cumsum(0) - length).repeat_interleave(length)
        self._rank = torch.empty_like(order)
        self._rank[order] = torch.arange(len(order)) - first  # (T,)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.slot_axis = torch.arange(len(axes)).repeat_interleave(self.sizes)
        self.curve = self._curve(value)

    def _curve(self, value: Tensor) -> Tensor:
        """(S,) mean score of the members that each level adds; of coupled parts, in proportion.

        Args:
            value: (T,) scores.
        """
        part, axis = self.parts.part, self.parts.axis
        levels, length = self.sizes[axis], self.parts.sizes  # (P,)
        slot = self.starts[axis][part] + self._rank * levels[part] // length[part]
        total = torch.zeros(len(self.slot_axis), dtype=torch.float64).index_add_(0, slot, value)
        curve = total / torch.bincount(slot, minlength=len(total))  # NaN where a level adds nothing
        for a, _, _ in self.parts.coupled:
            own = curve[self.starts[a] : self.starts[a] + self.sizes[a]]
            own.copy_(own.nan_to_num(torch.inf).cummin(0).values)
        return curve

    def mask(self, counts: Tensor) -> Tensor:
        """Which classes stay.

        Args:
            counts: (A,) or (settings, A), how many members of every cell stay, or levels; from 1.

        Returns:
            (count,) or (settings, count) bool; frozen classes stay.
        """
        keep = torch.ones((*counts.shape[:-1], self.net.count), dtype=torch.bool)
        keep[..., self.parts.classes] = self._rank < self.parts.counts(counts)[..., self.parts.part]
        return keep

    def kept(self, counts: Tensor) -> Tensor:
        """How many members stay in all.

        Args:
            counts: (settings, A).

        Returns:
            (settings,).
        """
        return self.parts.counts(counts).sum(dim=-1)

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
