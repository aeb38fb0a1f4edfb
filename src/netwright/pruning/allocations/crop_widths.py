"""From layer-wise densities, or from a budget alone, to the widths of the tied axes.

A layer's density is realised by the widths of the axes at its two ends, p_l = w_in * w_out (a depthwise layer
has one end: p_l = w). An end that several axes share, such as a concatenation, has the mean of their widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from netwright.errors import BudgetError
from netwright.pruning.importances.densities import ExpectedFlow, layer_costs, layer_names, limits_of
from netwright.structure import Axis, Budget, Structure

Floats = NDArray[np.float64]

_STEPS = 30
_SMALLEST_RISE = 1e-6


@dataclass(frozen=True)
class Ends:
    """How the sizes of parameters follow from the widths of the axes.

    Attributes:
        axes: The axes that can shrink, A of them.
        shares: Parameter -> one row (A + 1,) for each dimension with units: the share of its indices on each
            axis, the last for what is frozen. The row times the widths is what is left of the dimension.
        dims: Parameter -> the dimensions of the rows.
    """

    axes: list[Axis]
    shares: dict[str, list[Floats]]
    dims: dict[str, list[int]]

    @classmethod
    def of(cls, net: Structure) -> Ends:
        """Read the ends of all parameters and buffers from their labels."""
        axes = net.prunable
        owner = torch.full((net.count,), len(axes), dtype=torch.int64)
        for k, axis in enumerate(axes):
            owner[axis.cells.reshape(-1)] = k
        shares: dict[str, list[Floats]] = {}
        dims: dict[str, list[int]] = {}
        for name, layers in net.layers.items():
            for dim, labels in sorted(layers.items()):
                if labels.numel() == 1:
                    continue
                counts = torch.bincount(owner[labels.reshape(-1)], minlength=len(axes) + 1)
                shares.setdefault(name, []).append((counts.double() / counts.sum()).numpy())
                dims.setdefault(name, []).append(dim)
        return cls(axes, shares, dims)

    def density(self, name: str, widths: Floats) -> tuple[float, Floats]:
        """The density of one parameter, and d log density / d log width of each axis (A,)."""
        value, slope = 1.0, np.zeros(len(self.axes))
        full = np.append(widths, 1.0)
        for row in self.shares.get(name, []):
            part = float(row @ full)
            value *= part
            slope += row[:-1] * widths / part
        return value, slope


def widths_of_densities(net: Structure, densities: Mapping[str, float]) -> dict[str, float]:
    """The square-root rule: each axis gets the mean of sqrt(p_l) over the layers that write to it.

    An inner axis has one writer; the axis of a residual stream has all the layers that write to the stream. A
    depthwise layer's density is its width, without a root. An axis that no layer writes to gets the mean over
    all layers.

    Args:
        net: The structure of the network.
        densities: Weight -> density in 0..1; a layer of which nothing stays still gets one channel.

    Returns:
        Name of the axis -> width in (0, 1].

    Raises:
        BudgetError: if a layer has no density, or one out of range.
    """
    ends = Ends.of(net)
    wanted: list[list[float]] = [[] for _ in ends.axes]
    roots = []
    for consumer in net.consumers:
        density = densities.get(consumer.name)
        if density is None or not 0 <= density <= 1:
            raise BudgetError(
                f"the density of {consumer.name} is {density}", "give every layer one from 0 to 1"
            )
        roots.append(math.sqrt(density))
        # The first layer of grey images has one input too, but no groups.
        depthwise = consumer.groups > 1 and consumer.dim_in not in net.layers.get(consumer.name, {})
        rows = zip(ends.dims.get(consumer.name, []), ends.shares.get(consumer.name, []), strict=True)
        for dim, row in rows:
            for k in np.flatnonzero(row[:-1]) if dim == consumer.dim_out else ():
                wanted[k].append(density if depthwise else math.sqrt(density))
    mean = float(np.mean(roots)) if roots else 1.0
    return {
        axis.name: max(float(np.mean(found)) if found else mean, 1 / axis.size)
        for axis, found in zip(ends.axes, wanted, strict=True)
    }


@dataclass(frozen=True)
class Solution:
    """Widths that maximise the expected flow.

    Attributes:
        widths: Name of the axis -> width in (0, 1].
        gains: Name of the axis -> d log R / d log width there.
        log_flow: log R.
    """

    widths: dict[str, float]
    gains: dict[str, float]
    log_flow: float


def convex_widths(net: Structure, model: nn.Module, budget: Budget | str, branches: bool = True) -> Solution:
    """The widths of the axes that maximise SynFlow's expected sum under one or two budgets.

    Variables are the logarithms of the widths. The budgets are sums of products of widths, so convex in them;
    the objective is replaced by its tangent, which lies below it, until it rises no more.

    A network wider than the original, with the original's multiply-accumulates and fewer parameters as
    absolute limits, gives the reconfiguration of the paper.

    Args:
        net: The structure of the network.
        model: The network at initialisation.
        budget: Limits of parameters, of multiply-accumulates, or both.
        branches: As for `densities.convex_densities`.

    Raises:
        BudgetError: if the budget has other limits, or cannot be met.
    """
    ends = Ends.of(net)
    if not ends.axes:
        raise BudgetError("no axis of this network can shrink", "see `netwright inspect` for the reasons")
    price = Prices(net, model, ends, budget)
    low = np.log([1.0 / axis.size for axis in ends.axes])
    y = price.uniform(low)
    value, gains = 0.0, np.zeros_like(low)
    for stage in (False, True) if branches else (False,):
        slopes = _Slopes(net, model, ends, branches=stage)
        before = -math.inf
        for _ in range(_STEPS):
            value, gains = slopes(np.exp(y))
            if value - before < _SMALLEST_RISE:
                break
            before = value
            y = price.climb(gains, y, low)
    names = [axis.name for axis in ends.axes]
    return Solution(
        dict(zip(names, np.exp(y).tolist(), strict=True)),
        dict(zip(names, gains.tolist(), strict=True)),
        value,
    )


def gains_at(
    net: Structure, model: nn.Module, widths: Mapping[str, float], branches: bool = True
) -> dict[str, float]:
    """How log R grows with the logarithm of each width: name of the axis -> slope."""
    ends = Ends.of(net)
    values = np.array([widths[axis.name] for axis in ends.axes])
    _, gains = _Slopes(net, model, ends, branches)(values)
    return {axis.name: float(g) for axis, g in zip(ends.axes, gains, strict=True)}


class _Slopes:
    """The logarithm of the expected flow and its slopes in the logarithms of the widths."""

    def __init__(self, net: Structure, model: nn.Module, ends: Ends, branches: bool) -> None:
        self._ends, self._names = ends, layer_names(net)
        self._flow = ExpectedFlow(net, model) if branches else None

    def __call__(self, widths: Floats) -> tuple[float, Floats]:
        """At widths (A,)."""
        found = [self._ends.density(n, widths) for n in self._names]
        slopes = np.array([s for _, s in found])
        if self._flow is None:
            return float(np.log([v for v, _ in found]).sum()), slopes.sum(axis=0)
        flow = self._flow({n: v for n, (v, _) in zip(self._names, found, strict=True)})
        return flow.log, np.array([flow.shares[n] for n in self._names]) @ slopes


class Prices:
    """Parameters and multiply-accumulates as smooth functions of the logarithms of the widths.

    Args:
        net: The structure of the network.
        model: The network.
        ends: Its ends.
        budget: The limits.
    """

    def __init__(self, net: Structure, model: nn.Module, ends: Ends, budget: Budget | str) -> None:
        self.ends = ends
        self.limits = [(k, limit) for k, limit in enumerate(limits_of(net, budget)) if limit is not None]
        names = layer_names(net)
        macs = dict(zip(names, layer_costs(net, model, names)[1].tolist(), strict=True))
        parameters = {n: p.numel() for n, p in model.named_parameters() if n in ends.shares}
        self.names = list(parameters)
        table = [[float(n) for n in parameters.values()], [macs.get(n, 0.0) for n in parameters]]
        self.factors = np.array(table, dtype=np.float64).reshape(2, -1)
        self.fixed = np.array([net.params, net.macs], dtype=np.float64) - self.factors.sum(axis=1)

    def __call__(self, y: Floats) -> tuple[Floats, Floats]:
        """log(cost / limit) of each limit (K,), and its slopes (K, A)."""
        found = [self.ends.density(n, np.exp(y)) for n in self.names]
        values = np.array([v for v, _ in found])
        slopes = np.array([s for _, s in found]).reshape(len(found), len(y))
        logs, gradients = [], []
        for k, limit in self.limits:
            terms = self.factors[k] * values
            cost = float(terms.sum() + self.fixed[k])
            logs.append(math.log(cost / limit))
            gradients.append(terms @ slopes / cost)
        return np.array(logs), np.array(gradients)

    def uniform(self, low: Floats) -> Floats:
        """The largest common width that meets the limits, as logarithms (A,).

        Raises:
            BudgetError: if one channel everywhere is already too much.
        """
        over = float(self(low)[0].max())
        if over > 0:
            raise BudgetError(
                "the budget is below that of one channel everywhere",
                f"give at least {math.exp(over):.3g} times as much",
            )
        short, wide = float(low.min()), 0.0
        for _ in range(60):
            middle = (short + wide) / 2
            fits = self(np.maximum(middle, low))[0].max() <= 0
            short, wide = (middle, wide) if fits else (short, middle)
        return np.maximum(short, low)

    def climb(self, gains: Floats, y: Floats, low: Floats) -> Floats:
        """Maximise gains @ y within the limits and low <= y <= 0, from y: a convex programme."""
        from scipy.optimize import minimize

        scale = max(float(np.abs(gains).max()), 1e-12)
        solved = minimize(
            lambda v: -float(gains @ v) / scale,
            y,
            jac=lambda v: -gains / scale,
            bounds=list(zip(low, np.zeros_like(low), strict=True)),
            constraints={"type": "ineq", "fun": lambda v: -self(v)[0], "jac": lambda v: -self(v)[1]},
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-10},
        )
        found = np.clip(np.asarray(solved.x), low, 0.0)
        better = gains @ found > gains @ y and self(found)[0].max() < 1e-6
        return found if better else y
