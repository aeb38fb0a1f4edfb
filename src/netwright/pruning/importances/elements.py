"""Importances of single weights: a score for every element of every weight, small where it may go.

An element importance is a function ``(model, names, context) -> {name: scores}``. It looks at a network and
changes nothing of it: no weight, gradient, statistic or mode. Added up over what is tied it scores channels
as well, so each of them also serves `netwright.pruning.prune`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.importances.importance import (
    Needs,
    enter_elements,
    gather,
    parameters_on_axes,
    reduced_dims,
)
from netwright.pruning.masks.selection import Masks
from netwright.pruning.statistics.examples import Examples
from netwright.structure import Structure


@dataclass(frozen=True)
class Context:
    """What an importance may look at besides the network.

    Attributes:
        examples: Data, or None.
        masks: What is masked now; empty where nothing is.
        start: Weights at the beginning of the present cycle of training, where there was one.
        keep: The share that will stay.
        seed: Of what is drawn at random.
        last: Whether this is the last pruning of a schedule.
    """

    examples: Examples | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    start: Mapping[str, Tensor] = field(default_factory=dict)
    keep: float = 1.0
    seed: int = 0
    last: bool = True


#: (model, names of parameters, context) -> {name: scores of the parameter's shape}.
Elements = Callable[[nn.Module, Sequence[str], Context], dict[str, Tensor]]


@dataclass(frozen=True)
class ElementImportance:
    """An importance of single weights as an object: what functions with settings return.

    Attributes:
        name: For tables.
        function: The scores.
        needs: What it cannot do without.
        since_start: Whether it looks at the weights of the beginning of a cycle (`Context.start`), so that a
            schedule must keep a copy of them.
    """

    name: str
    function: Elements
    needs: Needs = "nothing"
    since_start: bool = False

    def __call__(self, net: Structure, model: nn.Module, examples: Examples) -> Tensor:
        """As an importance of channels: the sum over everything that is tied, (count,)."""
        return channel_scores(self.function, net, model, examples)


def register_elements(
    name: str, *, needs: Needs = "nothing", since_start: bool = False
) -> Callable[[Elements], Elements]:
    """Register an importance of single weights under a kebab-case name.

    Unless the name has an importance of channels already, `prune` gets one of it: the sum over what is tied.

    Args:
        name: The name that ``importance=`` takes.
        needs: "nothing", "examples" or "labels".
        since_start: Whether it looks at `Context.start`.

    Raises:
        UsageError: if the name is taken or is not kebab-case.
    """

    def enter(function: Elements) -> Elements:
        enter_elements(name, ElementImportance(name, function, needs, since_start))
        return function

    return enter


def channel_scores(function: Elements, net: Structure, model: nn.Module, examples: Examples) -> Tensor:
    """Scores of elements added up over every class of a structure, (count,) float64."""
    weights = parameters_on_axes(net, model)
    scores = function(model, list(weights), Context(examples, seed=examples.seed))
    sums: dict[str, dict[int, Tensor]] = {}
    for name, one in scores.items():
        sums[name] = {}
        for dim, labels in net.layers[name].items():
            out = reduced_dims(labels)
            sums[name][dim] = one.sum(dim=out) if out else one
    return gather(net, sums)


def scores_of(
    importance: ElementImportance, model: nn.Module, names: Sequence[str], context: Context
) -> dict[str, Tensor]:
    """Scores of some weights.

    Raises:
        UsageError: if a score is missing, of another shape, or not a number; names the weight.
    """
    parameters = dict(model.named_parameters())
    found = importance.function(model, names, context)
    for name in names:
        one = found.get(name)
        if one is None or one.shape != parameters[name].shape:
            shape = None if one is None else tuple(one.shape)
            raise UsageError(f"{importance.name} gave {name} scores of shape {shape}")
        if bool(torch.isnan(one).any()):
            raise UsageError(
                f"{importance.name} gave {name} a score that is not a number", "are the weights finite?"
            )
    return {name: found[name].detach() for name in names}


def weights_of(model: nn.Module, names: Sequence[str]) -> Masks:
    """The values of some parameters, detached."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach() for name in names}


@register_elements("magnitude")
@register_elements("magnitude-l1")
def magnitude(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
    """|w|."""
    return {name: w.abs() for name, w in weights_of(model, names).items()}


@register_elements("magnitude-l2")
def squared(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
    """w^2, which orders single weights as |w| does and units of several differently."""
    return {name: w.square() for name, w in weights_of(model, names).items()}


@register_elements("random")
def random(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
    """Uniform numbers, drawn on the CPU, so that a seed gives the same mask on any device."""
    generator = torch.Generator().manual_seed(context.seed)
    return {
        name: torch.rand(w.shape, generator=generator).to(w.device)
        for name, w in weights_of(model, names).items()
    }


@register_elements("lamp")
def lamp(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
    """w^2 over the sum of all squares of the layer that are not smaller.

    J. Lee, S. Park, S. Mo, S. Ahn and J. Shin, Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR
    2021, equation 5: one threshold over all layers then gives each a density of its own.
    """
    found = {}
    for name, w in weights_of(model, names).items():
        flat = w.double().square().reshape(-1)
        values, order = flat.sort(stable=True)
        above = values.flip(0).cumsum(0).flip(0)
        found[name] = (
            torch.zeros_like(flat).scatter_(0, order, values / above.clamp_min(1e-300)).reshape(w.shape)
        )
    return found


def movement(since: Mapping[str, Tensor] | None = None, *, negative_only: bool = False) -> ElementImportance:
    """|w - w'|, how far training moved a weight.

    Args:
        since: The weights to compare with; those at the beginning of the cycle where None.
        negative_only: Only negative weights may go; the others are given infinite scores.
    """

    def function(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        past = since if since is not None else context.start
        if not past:
            raise UsageError(
                "movement compares with earlier weights, and there are none",
                "give since= a state dict, or use it in a schedule of several cycles",
            )
        found = {}
        for name, w in weights_of(model, names).items():
            moved = (w - past[name].to(w.device, w.dtype)).abs()
            found[name] = torch.where(w < 0, moved, torch.inf) if negative_only else moved
        return found

    return ElementImportance("movement", function, since_start=since is None)


def learned(scores: Mapping[str, Tensor]) -> ElementImportance:
    """|s| of scores that were trained in place of the weights, as those of a supermask.

    V. Ramanujan, M. Wortsman, A. Kembhavi, A. Farhadi and M. Rastegari, What's Hidden in a Randomly Weighted
    Neural Network?, CVPR 2020.

    Args:
        scores: Weight -> scores of its shape; `supermask.scores_in` reads a network's.
    """

    def function(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        missing = [name for name in names if name not in scores]
        if missing:
            raise UsageError(f"there are no scores of {missing[0]}", "exclude it, or train scores for it")
        devices = {name: w.device for name, w in weights_of(model, names).items()}
        return {name: scores[name].detach().abs().to(devices[name]) for name in names}

    return ElementImportance("learned", function)


@register_elements("learned")
def _learned(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
    """|s| of scores that were trained in place of the weights; given as an object, from Python."""
    raise UsageError(
        "learned scores have to be given",
        "train them as netwright.pruning.systems.supermask does, and give importance=learned(scores_in(...))",
    )


@register_elements("movement", since_start=True)
def _movement(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
    """|w - w'|, how far a weight moved since the beginning of the cycle."""
    return movement().function(model, names, context)
