"""Which channels go, by the scales of the normalisation layers that read them; coupled layers vote.

N. Jiang et al., Pruning-aware Sparse Regularization for Network Pruning (MaskSparsity), 2022, and the
authors' published code: thresholds, energy, and the vote of the layers on one residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.allocations.allocation import select
from netwright.pruning.allocations.widths import Widths
from netwright.pruning.importances.importance import score
from netwright.pruning.importances.voting import agree
from netwright.pruning.schedules.penalties import scales
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Budget, Structure

#: A scale of at most this is as good as zero.
THRESHOLD = 0.01
#: The share of a layer's squared scales that may go.
ENERGY = 1e-4
#: A layer whose largest scale is below this counts as dead.
_DEAD = 1e-3


def below(scale: Tensor, threshold: float = THRESHOLD, least: int = 1) -> Tensor:
    """Channels whose scale is at most a threshold; the `least` largest stay.

    Args:
        scale: (C,).
        threshold: In absolute value.
        least: Channels that stay in any case.

    Returns:
        (C,) bool, True goes.
    """
    return _spare(scale.detach().abs() <= threshold, scale, least)


def by_energy(scale: Tensor, share: float = ENERGY, least: int = 1) -> Tensor:
    """The largest set of smallest scales whose squares sum to at most a share; (C,) bool, True goes."""
    size = scale.detach().abs().double()
    if float(size.max()) < _DEAD:
        return _spare(torch.ones_like(size, dtype=torch.bool), scale, least)
    values, order = size.square().sort(stable=True)
    small = values.cumsum(0) <= share * values.sum()
    return _spare(torch.zeros_like(small).scatter_(0, order, small), scale, least)


def _spare(goes: Tensor, scale: Tensor, least: int) -> Tensor:
    top = scale.detach().abs().argsort(descending=True, stable=True)[: min(least, len(scale))]
    goes = goes.clone()
    goes[top] = False
    return goes


def mask_from(
    net: Structure,
    model: nn.Module,
    rule: str = "threshold",
    value: float | None = None,
    *,
    budget: Budget | str | float | None = None,
    importance: str = "bn-scale",
    data: object = None,
    seed: int = 0,
) -> Tensor:
    """Choose the channels that will go.

    Args:
        net: The structure of the network.
        model: The network, whose scales were trained to be sparse.
        rule: "threshold" or "energy" looks at scales alone and lets coupled layers vote; "budget" takes an
            importance and a budget.
        value: The threshold, or the share of energy.
        budget: For "budget".
        importance: For "budget"; any importance of channels.
        data: For importances that look at some.
        seed: Of what is drawn at random.

    Returns:
        (count,) bool, the classes that stay.

    Raises:
        UsageError: if the rule is unknown, or has no budget.
    """
    if rule == "budget" or budget is not None:
        if budget is None:
            raise UsageError('rule="budget" needs a budget', 'for instance budget="macs=0.5"')
        scores = score(net, model, importance, Examples(data, net.inputs, seed=seed))
        return select(net, scores, budget, "global", None)
    if rule not in ("threshold", "energy"):
        raise UsageError(f"there is no rule {rule!r}", "choose threshold, energy or budget")
    number = value if value is not None else THRESHOLD if rule == "threshold" else ENERGY
    found = {name: s for name, s in scales(model).items() if 0 in net.layers.get(name, {})}
    asked = {n: (below if rule == "threshold" else by_energy)(s, number) for n, s in found.items()}
    return _voted(net, found, asked)


def _voted(net: Structure, found: Mapping[str, Tensor], asked: Mapping[str, Tensor]) -> Tensor:
    """Votes per axis as classes that stay; every cell of an axis keeps as many as the largest of them."""
    size = torch.zeros(net.count, dtype=torch.float64)
    goes = torch.zeros(net.count, dtype=torch.bool)
    for axis in net.prunable:
        classes = axis.cells.reshape(-1)
        place = torch.full((net.count,), -1, dtype=torch.int64)
        place[classes] = torch.arange(len(classes))
        ballots = []
        for name, scale in found.items():
            at = place[net.layers[name][0].reshape(-1)]
            if bool((at >= 0).any()):
                ballot = torch.zeros(len(classes), dtype=torch.bool)
                ballot[at[at >= 0]] = asked[name].cpu()[at >= 0]
                ballots.append(ballot)
                size[classes] += torch.zeros(len(classes), dtype=torch.float64).index_add_(
                    0, at[at >= 0], scale.detach().abs().double().cpu()[at >= 0]
                )
        if ballots:
            goes[classes] = agree(torch.stack(ballots))
    # What goes ranks below what stays; within both the larger scales rank first.
    ranks = Widths(net, torch.where(goes, 0.0, 1.0 + size.max()) + size)
    counts = torch.stack([(~goes[a.cells]).sum(dim=-1).max().clamp(min=1) for a in net.prunable])
    return ranks.mask(torch.minimum(counts, ranks.sizes))


def removed_scales(net: Structure, model: nn.Module, keep: Tensor) -> dict[str, Tensor]:
    """The scales of the channels that will go: scale -> (C,) bool.

    Args:
        net: The structure.
        model: The network.
        keep: (count,) bool, the classes that stay.
    """
    return {
        name: ~keep[net.layers[name][0].reshape(-1)]
        for name in scales(model)
        if 0 in net.layers.get(name, {})
    }
