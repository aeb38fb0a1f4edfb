"""Layer-wise densities of a network before training: how much of each layer should stay.

Y. Cai, W. Hua, H. Chen, G. E. Suh, C. De Sa and Z. Zhang, Structured Pruning is All You Need for Pruning CNNs
at Initialization, 2022. There are two sources: the counts that SynFlow leaves in each layer (H. Tanaka, D.
Kunin, D. L. K. Yamins and S. Ganguli, Pruning neural networks without any data by iteratively conserving
synaptic flow, NeurIPS 2020), and the densities that maximise SynFlow's expected sum directly.

For weights that are independent within a layer and masks that keep a share p_l of layer l, the expected sum
of a chain is a constant times prod_l p_l. Where branches meet it is a sum of such products; its logarithm is
convex in log p and is maximised by a sequence of linear objectives, each of which can only raise it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netwright.errors import BudgetError, ModelError
from netwright.pruning.masks.selection import Masks, densities_of, top_masks
from netwright.structure import Budget, Inputs, Structure
from netwright.structure.cost import CONVOLUTIONS, PRODUCTS

Floats = NDArray[np.float64]

_TINY = 1e-100
#: Operators that multiply by a weight of their module; batched products may be those of two activations.
_READS = frozenset((*CONVOLUTIONS, *PRODUCTS)) - {"bmm", "baddbmm"}
_STEPS = 60
_SMALLEST_RISE = 1e-9


def layer_names(net: Structure) -> list[str]:
    """The weights that count as layers: those of the convolutions and linear maps, in order of execution."""
    return list(dict.fromkeys(consumer.name for consumer in net.consumers))


def synflow_scores(
    model: nn.Module, example: object, names: Sequence[str], masks: Masks | None = None
) -> Masks:
    """SynFlow's scores of one round: |dR/dw * w|, R the sum of the outputs under absolute weights.

    The network answers in eval mode, in float64, to one example of ones (integer inputs keep their values),
    as far as its activations are linear there. The model itself is not touched.

    Args:
        model: The network.
        example: Its inputs, for their shapes.
        names: The weights to score.
        masks: What earlier rounds left; the rest of the weights counts as zero.

    Returns:
        Weight -> scores of its shape, float64.
    """
    return _Flow(model, example).scores(names, masks)


def synflow_masks(net: Structure, model: nn.Module, keep: float, rounds: int = 100) -> Masks:
    """Prune the layers together by SynFlow, in many rounds whose kept share falls exponentially.

    One round alone would remove whole layers; the many rounds are what keeps every layer alive.

    Args:
        net: The structure of the network.
        model: The network at initialisation.
        keep: Share of all the layers' weights that stays.
        rounds: 100 in the paper.

    Returns:
        Weight -> mask; together exactly round(keep * weights) are kept.
    """
    return synflow_rounds(model, net.inputs, layer_names(net), keep, rounds)


def synflow_rounds(
    model: nn.Module,
    example: object,
    names: Sequence[str],
    keep: float,
    rounds: int = 100,
    eligible: Masks | None = None,
) -> Masks:
    """As `synflow_masks`, for any weights.

    Args:
        model: The network.
        example: Its inputs, for their shapes.
        names: The weights that are pruned together.
        keep: Share of all of them that stays.
        rounds: 100 in the paper.
        eligible: Weight -> mask of what may stay at all: everything where None.
    """
    _check_share(keep)
    flow = _Flow(model, example)
    total = sum(flow.weights[name].numel() for name in names)
    masks = eligible
    for k in range(1, rounds + 1):
        scores = flow.scores(names, masks)
        if masks is not None:
            # What is gone stays gone, also where a kept weight lies on a dead path and scores zero.
            scores = {name: torch.where(masks[name], s, -1.0) for name, s in scores.items()}
        masks = top_masks(scores, max(round(total * keep ** (k / rounds)), 1))
    return masks or {}


def synflow_densities(net: Structure, model: nn.Module, keep: float, rounds: int = 100) -> dict[str, float]:
    """The density of each layer after `synflow_masks`."""
    return densities_of(synflow_masks(net, model, keep, rounds))


def _check_share(keep: float) -> None:
    if not 0 < keep <= 1:
        raise BudgetError(f"a share of {keep:g} cannot stay", "give a share above 0, at most 1")


class _Flow:
    """A copy of a network with absolute parameters and buffers, in eval mode and float64.

    Biases are zero and the input is tiny, so that no activation saturates (a ReLU6 would stop the flow); what
    comes out is scaled back. For a network of ReLUs without biases this is the answer to ones.
    """

    def __init__(self, model: nn.Module, example: object) -> None:
        self.model = copy.deepcopy(model).double().eval()
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()
            for name, parameter in self.model.named_parameters():
                if "bias" in name.rpartition(".")[2] and parameter.dim() == 1:
                    parameter.zero_()
        self.weights = {n: p.detach() for n, p in self.model.named_parameters()}
        self.inputs = _constant(Inputs.of(example), next(iter(self.weights.values())).device)

    def total(self, replaced: Mapping[str, Tensor]) -> Tensor:
        """R: the sum of the outputs with some weights replaced.

        Raises:
            ModelError: if it is not finite.
        """
        answer = torch.func.functional_call(
            self.model, dict(replaced), self.inputs.args, dict(self.inputs.kwargs)
        )
        parts = [x for x in pytree.tree_leaves(answer) if isinstance(x, Tensor) and x.is_floating_point()]
        total = torch.stack([x.sum() for x in parts]).sum() / _TINY
        if not bool(torch.isfinite(total)):
            raise ModelError("the flow through the network is too large for a float64", "is it normalised?")
        return total

    def scores(self, names: Sequence[str], masks: Masks | None = None) -> Masks:
        """|dR/dw * w| of some weights."""
        given = {n: self.weights[n] if masks is None else self.weights[n] * masks[n] for n in names}
        leaves = {name: weight.clone().requires_grad_() for name, weight in given.items()}
        gradients = torch.autograd.grad(self.total(leaves), list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(w) if g is None else (g * w.detach()).abs()
            for (name, w), g in zip(leaves.items(), gradients, strict=True)
        }


def _constant(inputs: Inputs, device: torch.device) -> Inputs:
    """The same inputs with one example of one tiny number in place of what is a float."""

    def one(x: Tensor) -> Tensor:
        x = x[:1] if x.dim() else x
        if not x.is_floating_point():
            return x.to(device)
        return torch.full_like(x, _TINY, dtype=torch.float64, device=device)

    return inputs.map(one)


@dataclass(frozen=True)
class Flow:
    """The expected sum of SynFlow at some densities.

    Attributes:
        log: Its logarithm.
        shares: Layer -> d log / d log p: the share of the flow that passes through the layer (1 in a chain).
    """

    log: float
    shares: dict[str, float]


class ExpectedFlow:
    """SynFlow's expected sum R as a function of the layers' densities.

    Each layer's weights are replaced by p_l * E|w|, everything else is as in `synflow_scores`, so branches,
    groups and paddings are those of the network itself.

    Args:
        net: The structure of the network.
        model: The network at initialisation, for the mean absolute weight of each layer.
    """

    def __init__(self, net: Structure, model: nn.Module) -> None:
        self.names = layer_names(net)
        self._flow = _Flow(model, net.inputs)
        weights = self._flow.weights
        self._means = {n: weights[n].mean().expand(weights[n].shape) for n in self.names}

    def __call__(self, densities: Mapping[str, float]) -> Flow:
        """Evaluate at densities; a layer without one has 1.

        Raises:
            ModelError: if nothing flows, or too much for a float64.
        """
        logs = [math.log(densities.get(n, 1.0)) for n in self.names]
        x = torch.tensor(logs, dtype=torch.float64, requires_grad=True)
        total = self._flow.total({n: self._means[n] * x[k].exp() for k, n in enumerate(self.names)})
        if not bool(total > 0):
            raise ModelError(
                "nothing flows from constant inputs to the outputs of the network",
                "a normalisation over channels stops it; size the layers without branches",
            )
        (shares,) = torch.autograd.grad(total.log(), x)
        return Flow(float(total.detach().log()), dict(zip(self.names, shares.tolist(), strict=True)))


def water_fill(
    gains: ArrayLike, prices: ArrayLike, budgets: ArrayLike, lowest: ArrayLike | float = 0.0
) -> Floats:
    """Maximise sum_l g_l log p_l under sum_l price_kl p_l <= budget_k for every k, and lowest <= p <= 1.

    The solution has closed form p_l = min(1, g_l / sum_k mu_k price_kl); with one constraint it is water
    filling, min(1, lam * g_l / price_l). The multipliers are found by bisection.

    Args:
        gains: (L,) weights of the logarithms, at least 0.
        prices: (L,) or (constraints, L) prices of a whole layer, at most two constraints.
        budgets: One number, or one a constraint.
        lowest: (L,) or one number, the least densities.

    Returns:
        (L,) densities.

    Raises:
        BudgetError: if the least densities already cost more than a budget.
    """
    g = np.asarray(gains, dtype=np.float64)
    c = np.atleast_2d(np.asarray(prices, dtype=np.float64))
    b = np.atleast_1d(np.asarray(budgets, dtype=np.float64))
    low = np.broadcast_to(np.asarray(lowest, dtype=np.float64), g.shape)
    if len(c) != len(b) or len(b) > 2:
        raise BudgetError(
            f"{len(b)} budgets for {len(c)} prices of a layer", "there are at most two, one for each"
        )
    least = c @ low
    for price, budget in zip(least, b, strict=True):
        if price > budget or budget <= 0:
            raise BudgetError(
                f"a budget of {budget:g} cannot be met", f"the smallest network takes {price:g}"
            )

    def at(multipliers: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.clip(np.nan_to_num(g / (multipliers @ c), nan=1.0, posinf=1.0), low, 1.0)

    if len(b) == 1:
        return at(np.array([_multiplier(lambda mu: float(c[0] @ at(np.array([mu]))), b[0])]))

    def first(nu: float) -> float:
        return _multiplier(lambda mu: float(c[0] @ at(np.array([mu, nu]))), b[0])

    nu = _multiplier(lambda nu: float(c[1] @ at(np.array([first(nu), nu]))), b[1])
    return at(np.array([first(nu), nu]))


def _multiplier(spent: Callable[[float], float], budget: float) -> float:
    """The smallest multiplier at which what is spent, which falls with it, meets the budget."""
    if spent(0.0) <= budget:
        return 0.0
    low, high = 1e-12, 1e-12
    while spent(high) > budget and high < 1e30:
        low, high = high, high * 10
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if spent(middle) > budget else (low, middle)
    return high


def convex_densities(
    net: Structure, model: nn.Module, budget: Budget | str, branches: bool = True
) -> dict[str, float]:
    """The densities of the layers that maximise SynFlow's expected sum under one or two budgets.

    Norms and biases are not masked: they are paid from the parameter budget first.

    Args:
        net: The structure of the network.
        model: The network at initialisation.
        budget: Limits of parameters, of multiply-accumulates, or both.
        branches: Whether the sum runs over the branches of the network; without, all layers count as one
            chain, whose programme is convex and has one solution (it is also where the search starts).

    Returns:
        Weight -> density in (0, 1].

    Raises:
        BudgetError: if the budget has other limits, or cannot be met.
    """
    limits = limits_of(net, budget)
    names = layer_names(net)
    table = layer_costs(net, model, names)
    rest = np.array([net.params, net.macs]) - table.sum(axis=1)
    rows = [k for k, limit in enumerate(limits) if limit is not None]
    bounds = [float(limits[k] or 0.0) - rest[k] for k in rows]
    lowest = 1.0 / np.maximum(table[0], 1.0)
    density = water_fill(np.ones(len(names)), table[rows], bounds, lowest)
    flow = ExpectedFlow(net, model) if branches else None
    before = -math.inf
    for _ in range(_STEPS if flow else 0):
        assert flow is not None
        found = flow(dict(zip(names, density.tolist(), strict=True)))
        if found.log - before < _SMALLEST_RISE:
            break
        before = found.log
        density = water_fill([found.shares[n] for n in names], table[rows], bounds, lowest)
    return dict(zip(names, density.tolist(), strict=True))


def layer_macs(net: Structure) -> dict[str, int]:
    """Multiply-accumulates that each weight takes part in, for one example.

    Where one module has several weights (attention, recurrence) all of them meet the same rows, so their
    operators' costs are divided in proportion to the elements.
    """
    recording = net.recording
    sizes = {c.name: math.prod(recording.shapes[recording.parameters[c.name]]) for c in net.consumers}
    weights: dict[str, list[str]] = {}
    for consumer in net.consumers:
        weights.setdefault(consumer.module, []).append(consumer.name)
    macs: dict[str, float] = dict.fromkeys(sizes, 0.0)
    for operator in net.operators:
        named = weights.get(operator.module, ())
        # A weight counts as a parameter where it is read first only, its slices and later calls do not.
        if operator.params or operator.kind in _READS:
            for name in named:
                macs[name] += operator.macs * sizes[name] / sum(sizes[n] for n in named)
    return {name: round(count) for name, count in macs.items()}


def layer_costs(net: Structure, model: nn.Module, names: Sequence[str]) -> Floats:
    """Parameters and multiply-accumulates of whole layers, (2, L)."""
    weights, macs = dict(model.named_parameters()), layer_macs(net)
    table = [[weights[n].numel() for n in names], [macs.get(n, 0) for n in names]]
    return np.array(table, dtype=np.float64)


def limits_of(net: Structure, budget: Budget | str) -> tuple[float | None, float | None]:
    """The limits of parameters and multiply-accumulates as counts.

    Raises:
        BudgetError: if there is none, or another one.
    """
    budget = Budget.parse(budget)
    other = [name for name in budget.limits if name not in ("params", "macs")]
    if other or not budget:
        named = f"{other[0]} is no limit that" if other else "there is no limit that"
        raise BudgetError(f"{named} layers can be sized by before training", "give params or macs, or both")
    params, macs = budget.params, budget.macs
    return params.against(net.params) if params else None, macs.against(net.macs) if macs else None
