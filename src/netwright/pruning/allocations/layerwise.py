"""Allocations of single weights: from one share of all to the share of every layer, in whole numbers.

The shares of an allocation are rounded by largest remainders, so that the counts of all layers together are
exactly what was asked for; nothing is drawn by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from netwright.errors import BudgetError, UsageError
from netwright.pruning.masks.selection import top_masks, whole_counts

#: The share of the last layer under `uniform-plus`, at least.
LAST = 0.2
#: The largest share of a layer that `layerwise` prunes.
CAP = 0.995


@dataclass(frozen=True)
class Layers:
    """The weights that are pruned together, in order of definition.

    Attributes:
        shapes: Name -> shape.
        scores: Name -> scores of the weight's shape, for allocations that look at them.
        counts: Name -> elements that exist, where some do not.
    """

    shapes: Mapping[str, Sequence[int]]
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """In order of definition."""
        return list(self.shapes)

    @property
    def sizes(self) -> list[int]:
        """Elements of each, those that do not exist left out."""
        return [self.counts.get(n, torch.Size(s).numel()) for n, s in self.shapes.items()]


#: (layers, share of all that stays) -> share of every layer, in their order.
LayerAllocation = Callable[[Layers, float], list[float]]
_REGISTRY: dict[str, LayerAllocation] = {}


def register_layer_allocation(name: str) -> Callable[[LayerAllocation], LayerAllocation]:
    """Register an allocation of single weights under a kebab-case name.

    Raises:
        UsageError: if the name is taken.
    """

    def enter(function: LayerAllocation) -> LayerAllocation:
        if name in _REGISTRY:
            raise UsageError(f"there is an allocation {name!r} already", "choose another name")
        _REGISTRY[name] = function
        return function

    return enter


def list_layer_allocations() -> list[str]:
    """Names of all allocations of single weights, in alphabetical order."""
    return sorted(_REGISTRY)


def find_layer_allocation(
    allocation: str | Mapping[str, float] | LayerAllocation,
) -> LayerAllocation:
    """Look an allocation up.

    Args:
        allocation: A name, a function, or the share of every layer (a layer without one stays whole).

    Raises:
        UsageError: if there is none of that name.
    """
    if isinstance(allocation, Mapping):
        return explicit(allocation)
    if callable(allocation):
        return allocation
    if allocation not in _REGISTRY:
        raise UsageError(
            f"there is no allocation {allocation!r} of single weights",
            f"choose from {', '.join(list_layer_allocations())}",
        )
    return _REGISTRY[allocation]


def layer_counts(
    layers: Layers, keep: float, allocation: str | Mapping[str, float] | LayerAllocation = "global"
) -> dict[str, int]:
    """How many weights of each layer stay; together exactly ``round(keep * weights)``.

    Under ``layerwise`` each layer is rounded by itself instead.

    Args:
        layers: The layers.
        keep: Share of all weights, above 0, at most 1.
        allocation: A name, a function, or the share of every layer, whose sum then counts instead of `keep`.

    Raises:
        BudgetError: if the share is none.
        UsageError: if the allocation is unknown.
    """
    if not 0 < keep <= 1:
        raise BudgetError(f"a share of {keep:g} cannot stay", "give a share above 0, at most 1")
    sizes = layers.sizes
    if isinstance(allocation, Mapping):
        keep = sum(s * n for s, n in zip(explicit(allocation)(layers, keep), sizes, strict=True)) / sum(sizes)
    shares = find_layer_allocation(allocation)(layers, keep)
    if allocation == "layerwise":
        keep = sum(s * n for s, n in zip(shares, sizes, strict=True)) / sum(sizes)
    total = round(keep * sum(sizes))
    return dict(zip(layers.names, whole_counts(shares, sizes, total), strict=True))


def explicit(shares: Mapping[str, float]) -> LayerAllocation:
    """The shares that were given.

    Raises:
        UsageError: (when used) if a name is no layer, or a share is none.
    """

    def function(layers: Layers, keep: float) -> list[float]:
        for name, share in shares.items():
            if name not in layers.shapes:
                raise UsageError(
                    f"{name!r} is no weight that is pruned", f"these are: {layers.names[:4]} ..."
                )
            if not 0 <= share <= 1:
                raise UsageError(f"a share of {share:g} of {name} cannot stay", "give 0 to 1")
        return [float(shares.get(name, 1.0)) for name in layers.names]

    return function


@register_layer_allocation("uniform")
def uniform(layers: Layers, keep: float) -> list[float]:
    """The same share of every layer."""
    return [keep] * len(layers.sizes)


@register_layer_allocation("layerwise")
def layerwise(layers: Layers, keep: float) -> list[float]:
    """The same share of every layer, each rounded by itself: ceil((1 - keep) n) of n go, at most 99.5 %."""
    gone = [min(math.ceil((1 - keep) * n - 1e-9), math.floor(CAP * n)) for n in layers.sizes]
    return [1 - g / n for g, n in zip(gone, layers.sizes, strict=True)]


@register_layer_allocation("uniform-plus")
def uniform_plus(layers: Layers, keep: float) -> list[float]:
    """The first layer whole, the last at least a fifth, the same share of the others.

    T. Gale, E. Elsen and S. Hooker, The State of Sparsity in Deep Neural Networks, 2019, section 3.
    """
    pinned = {0: 1.0}
    if keep < LAST and len(layers.sizes) > 1:
        pinned[len(layers.sizes) - 1] = LAST
    return _proportional([1.0] * len(layers.sizes), layers.sizes, keep, pinned)


@register_layer_allocation("uniform-last")
def uniform_last(layers: Layers, keep: float) -> list[float]:
    """The last layer at least a fifth, the same share of the others.

    S. Liu et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, NeurIPS 2021, for
    the variant of GraNet that prunes layer by layer.
    """
    pinned = {len(layers.sizes) - 1: LAST} if keep < LAST and len(layers.sizes) > 1 else {}
    return _proportional([1.0] * len(layers.sizes), layers.sizes, keep, pinned)


@register_layer_allocation("er")
def erdos_renyi(layers: Layers, keep: float) -> list[float]:
    """Shares in proportion to (inputs + outputs) / (inputs * outputs), at most 1.

    D. C. Mocanu et al., Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science, Nature Communications 2018.
    """
    raw = [(s[0] + s[1]) / (s[0] * s[1]) for s in _shapes(layers)]
    return _proportional(raw, layers.sizes, keep)


@register_layer_allocation("erk")
def erdos_renyi_kernel(layers: Layers, keep: float) -> list[float]:
    """Shares in proportion to the sum of the weight's dimensions by their product, at most 1.

    U. Evci, T. Gale, J. Menick, P. S. Castro and E. Elsen, Rigging the Lottery, ICML 2020, section 3.
    """
    raw = [sum(s) / torch.Size(s).numel() for s in _shapes(layers)]
    return _proportional(raw, layers.sizes, keep)


@register_layer_allocation("erk-plus")
def erk_plus(layers: Layers, keep: float) -> list[float]:
    """As `erk`, with the last layer whole and the remainder solved again.

    S. Liu et al., The Unreasonable Effectiveness of Random Pruning, ICLR 2022, for ImageNet.
    """
    raw = [sum(s) / torch.Size(s).numel() for s in _shapes(layers)]
    return _proportional(raw, layers.sizes, keep, {len(raw) - 1: 1.0})


@register_layer_allocation("global")
def one_threshold(layers: Layers, keep: float) -> list[float]:
    """What one threshold over all scores leaves of each layer."""
    count = max(round(keep * sum(layers.sizes)), 1)
    masks = top_masks({name: layers.scores[name] for name in layers.names}, count)
    return [int(m.sum()) / size for m, size in zip(masks.values(), layers.sizes, strict=True)]


def from_scores(scores: Mapping[str, Tensor]) -> LayerAllocation:
    """The shares that other scores would leave under one threshold: SNIP's, GraSP's or SynFlow's ratios.

    Args:
        scores: Name -> scores of the weight's shape.
    """

    def function(layers: Layers, keep: float) -> list[float]:
        return one_threshold(Layers(layers.shapes, scores, layers.counts), keep)

    return function


def _shapes(layers: Layers) -> list[Sequence[int]]:
    return [s if len(s) > 1 else (1, *s) for s in layers.shapes.values()]


def _proportional(
    raw: Sequence[float], sizes: Sequence[int], keep: float, pinned: Mapping[int, float] | None = None
) -> list[float]:
    """Shares in proportion to `raw` that hold ``keep`` of everything; above 1 they become 1.

    Raises:
        BudgetError: if the pinned layers alone are more than that.
    """
    pinned = dict(pinned or {})
    total = keep * sum(sizes)
    if sum(share * sizes[k] for k, share in pinned.items()) > total + 0.5:
        raise BudgetError(
            f"keeping {keep:g} of the weights leaves less than the layers that stay whole need",
            'keep more, or take allocation="uniform" or "erk"',
        )
    whole = dict(pinned)
    while True:
        free = [k for k in range(len(sizes)) if k not in whole]
        rest = total - sum(share * sizes[k] for k, share in whole.items())
        scale = rest / sum(raw[k] * sizes[k] for k in free) if free else 0.0
        over = [k for k in free if scale * raw[k] > 1]
        if not over:
            return [whole.get(k, scale * raw[k]) for k in range(len(sizes))]
        most = max(raw[k] for k in over)
        whole.update({k: 1.0 for k in over if raw[k] == most})
