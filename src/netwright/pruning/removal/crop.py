"""Crop a network to given widths before it is trained.

Y. Cai et al., Structured Pruning is All You Need for Pruning CNNs at Initialization, 2022. The counts of
channels meet the budget on the exact costs of the whole network; the smaller network gets fresh weights for
its own fan-in.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netwright.errors import BudgetError
from netwright.pruning.allocations.crop_widths import (
    Ends,
    Prices,
    convex_widths,
    gains_at,
    widths_of_densities,
)
from netwright.pruning.importances.densities import limits_of, synflow_densities
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.structure.blocks import Parts
from netwright.structure.budget import Budget
from netwright.structure.cost import Cost
from netwright.structure.surgery import shrink
from netwright.structure.tracing import Structure

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: The budget counts as met from this share of it on; below it single and paired steps go on.
_CLOSE = 0.99
#: Networks of more axes have channels so small beside the budget that pairs of steps are not needed.
_MOST_PAIRED = 64
#: Changes of the second axis of a pair: small ones first.
_PAIRED = (1, 3, 8)
#: Settings that are priced at once.
_BLOCK = 2048


@dataclass(frozen=True)
class Cropped:
    """A cropped network.

    Attributes:
        model: The network, smaller, with fresh weights.
        counts: Name of the axis -> members that each of its cells kept.
        before: Costs of the given network.
        after: Costs of the cropped one.
        kept: Parameter or buffer -> {dimension: indices that stayed}, for `structure.replay`.
        notes: What a reader should know, one line each.
    """

    model: nn.Module
    counts: dict[str, int]
    before: Cost
    after: Cost
    kept: dict[str, dict[int, Tensor]]
    notes: tuple[str, ...] = ()


def crop(net: Structure, model: nn.Module, keep: Mapping[str, int], seed: int = 0) -> Cropped:
    """Build the network that keeps the first members of each axis, with fresh weights.

    Args:
        net: The structure of the network.
        model: The network; it is not touched, and its weights are not used.
        keep: Name of the axis -> members that each cell keeps; an axis that is not named stays whole.
        seed: Of the fresh weights.

    Raises:
        BudgetError: if a name or a count does not fit the axes.
        StructureError: if the network cannot be built.
    """
    axes = net.prunable
    unknown = set(keep) - {axis.name for axis in axes}
    if unknown:
        raise BudgetError(f"{sorted(unknown)[0]!r} is no axis that can shrink", "see `netwright inspect`")
    counts = {axis.name: int(keep.get(axis.name, axis.size)) for axis in axes}
    for axis in axes:
        if not 1 <= counts[axis.name] <= axis.size:
            raise BudgetError(
                f"{axis.name} cannot keep {counts[axis.name]} of {axis.size}", "keep at least 1"
            )
    mask = _masks(net, np.array([[counts[axis.name] for axis in axes]], dtype=np.int64))[0]
    small = shrink(model, net, mask)
    reinitialise_(small.model, seed)
    return Cropped(small.model, counts, net.dense, net.cost(mask), small.kept, tuple(small.notes))


def _masks(net: Structure, counts: Ints) -> Tensor:
    """Keep masks (settings, classes) of counts (settings, A)."""
    return Parts(net.prunable).first(torch.from_numpy(counts), net.count)


def count_synflow(
    net: Structure, model: nn.Module, budget: Budget | str, rounds: int = 100
) -> dict[str, int]:
    """PreCrop as first published: densities by SynFlow, the square-root rule, then the budget.

    Args:
        net: The structure of the network.
        model: The network at initialisation.
        budget: Limits of parameters, of multiply-accumulates, or both.
        rounds: Of SynFlow.

    Returns:
        Name of the axis -> members to keep, for `crop`.
    """
    params, macs = limits_of(net, budget)
    shares = [limit / dense for limit, dense in ((params, net.params), (macs, net.macs)) if limit is not None]
    return count_densities(net, model, synflow_densities(net, model, min(1.0, *shares, 1.0), rounds), budget)


def count_densities(
    net: Structure, model: nn.Module, densities: Mapping[str, float], budget: Budget | str
) -> dict[str, int]:
    """The square-root rule for any densities, then the budget; arguments as for `count_synflow`.

    Args:
        net: The structure of the network.
        model: The network.
        densities: Weight -> density in (0, 1].
        budget: Limits of parameters, of multiply-accumulates, or both.
    """
    widths = widths_of_densities(net, densities)
    return fit(net, widths, budget, gains_at(net, model, widths))


def count_convex(
    net: Structure, model: nn.Module, budget: Budget | str, branches: bool = True
) -> dict[str, int]:
    """PreCrop as later published: the widths that maximise the expected flow.

    Arguments as for `count_synflow`; `branches` is as for `densities.convex_densities`.
    """
    solved = convex_widths(net, model, budget, branches)
    return fit(net, solved.widths, budget, solved.gains)


def count_uniform(net: Structure, model: nn.Module, budget: Budget | str) -> dict[str, int]:
    """One width for all axes, then the budget: the baseline; arguments as for `count_synflow`."""
    ends = Ends.of(net)
    low = np.log([1.0 / axis.size for axis in ends.axes])
    widths = np.exp(Prices(net, model, ends, budget).uniform(low))
    names = [axis.name for axis in ends.axes]
    return fit(net, dict(zip(names, widths.tolist(), strict=True)), budget, dict.fromkeys(names, 1.0))


def fit(
    net: Structure,
    widths: Mapping[str, float],
    budget: Budget | str,
    gains: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Round widths to counts of channels that meet a budget on the exact costs.

    All widths are scaled together until the rounded network fits; then single channels are given where they
    raise the expected flow most for their price.

    Args:
        net: The structure of the network.
        widths: Name of the axis -> width in (0, 1].
        budget: Limits of parameters, of multiply-accumulates, or both.
        gains: Name of the axis -> d log R / d log width; all equal where None.

    Returns:
        Name of the axis -> members to keep.

    Raises:
        BudgetError: if one channel everywhere is already too much.
    """
    fitting = _Fitting(net, budget, gains)
    w = np.array([widths[axis.name] for axis in net.prunable], dtype=np.float64)
    counts = fitting.step(fitting.scale(w))
    return {axis.name: int(k) for axis, k in zip(net.prunable, counts, strict=True)}


class _Fitting:
    """Counts (A,) within a budget."""

    def __init__(self, net: Structure, budget: Budget | str, gains: Mapping[str, float] | None) -> None:
        self.net = net
        self.sizes = np.array([axis.size for axis in net.prunable], dtype=np.int64)
        self.gains = np.array([1.0 if gains is None else gains[axis.name] for axis in net.prunable])
        self.gains = np.maximum(self.gains, 1e-9)
        params, macs = limits_of(net, budget)
        self.limits = np.array([np.inf if macs is None else macs, np.inf if params is None else params])

    def spent(self, counts: Ints) -> Floats:
        """The largest share of a limit that settings (S, A) take, (S,)."""
        parts = [
            self.net.costs(_masks(self.net, counts[k : k + _BLOCK]))[:, :2].numpy()  # macs, params
            for k in range(0, len(counts), _BLOCK)
        ]
        return np.asarray((np.concatenate(parts) / self.limits).max(axis=1))

    def rounded(self, w: Floats) -> Ints:
        return np.clip(np.rint(w * self.sizes), 1, self.sizes).astype(np.int64)

    def scale(self, w: Floats) -> Ints:
        """The largest multiple of the widths whose rounded counts fit."""
        ones = np.ones_like(self.sizes)
        if self.spent(ones[None])[0] > 1:
            raise BudgetError(
                "the budget is below that of one channel everywhere",
                f"give at least {self.spent(ones[None])[0]:.3g} times as much",
            )
        if self.spent(self.sizes[None])[0] <= 1:
            return self.sizes.copy()
        low, high = 0.0, 1.0 / float(w.min())
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if self.spent(self.rounded(w * middle)[None])[0] <= 1 else (low, middle)
            )
        return self.rounded(w * low)

    def step(self, counts: Ints) -> Ints:
        """Give channels while one fits, by gain for price; then change pairs until the budget is met."""
        while True:
            now = float(self.spent(counts[None])[0])
            moved = self._single(counts, now)
            for most in _PAIRED if len(counts) <= _MOST_PAIRED else ():
                if moved is None and now < _CLOSE:
                    moved = self._pair(counts, now, most)
            if moved is None:
                return counts
            counts = moved

    def _single(self, counts: Ints, now: float) -> Ints | None:
        tries = [k for k in range(len(counts)) if counts[k] < self.sizes[k]]
        if not tries:
            return None
        settings = np.repeat(counts[None], len(tries), axis=0)
        settings[np.arange(len(tries)), tries] += 1
        spent = self.spent(settings)
        gain = self.gains[tries] * np.log1p(1 / counts[tries]) / np.maximum(spent - now, 1e-12)
        gain[spent > 1] = -1.0
        best = int(gain.argmax())
        return settings[best] if gain[best] > 0 else None

    def _pair(self, counts: Ints, now: float, most: int) -> Ints | None:
        """One channel more of one axis, up to `most` more or fewer of another: the nearest to the budget."""
        pairs = [
            (a, b, d)
            for a, b in itertools.permutations(range(len(counts)), 2)
            for d in range(-most, most + 1)
            if d and counts[a] < self.sizes[a] and 1 <= counts[b] + d <= self.sizes[b]
        ]
        if not pairs:
            return None
        up, other, change = np.array(pairs).T
        settings = np.repeat(counts[None], len(pairs), axis=0)
        rows = np.arange(len(pairs))
        settings[rows, up] += 1
        settings[rows, other] += change
        spent = self.spent(settings)
        spent[spent > 1] = 0.0
        best = int(spent.argmax())
        return settings[best] if spent[best] > now + 1e-9 else None
