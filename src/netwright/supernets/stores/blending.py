"""A mixture of sub-networks that have weights of their own: the sum of their slices, choice by choice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.factors import Weights, memberships
from netwright.supernets.network.mixing import Mixing

#: Most choices of one mixture.
MOST = 256


def mixed_slices(
    sup: Elastic, mixing: Mixing, weights: Weights, own: Callable[[Choice], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Weighted sums of padded slices, each of the weights that its choice has.

    A choice has the product of its values' weights. Depths and candidates are mixed on their outputs, so the
    weights of a layer inside a block are those of the choices that run it.

    Args:
        sup: The supernet.
        mixing: Of it.
        weights: Name of every dim -> (values,).
        own: The parameters that a choice has to itself, whole.

    Returns:
        Parameter -> its mixture, of the full shape; gradients reach weights and parameters.

    Raises:
        UsageError: if more than `MOST` choices have a weight.
    """
    totals: dict[str, Tensor] = {}
    masses: dict[str, Tensor] = {}
    idle: dict[str, Tensor] = {}
    partial: set[str] = set()
    for choice, weight in _supported(sup, weights):
        one = _one_hot(sup, mixing, choice)
        factors = memberships(sup.blueprint, one)
        asleep = _asleep(sup, choice)
        for name, tensor in own(choice).items():
            if any(name.startswith(f"{path}.") for path in asleep):
                partial.add(name)
                idle[name] = tensor
                continue
            factor = mixing.factor(name, one, factors)
            part = weight.to(tensor) * (tensor if factor is None else tensor * factor.to(tensor))
            totals[name] = part if name not in totals else totals[name] + part
            masses[name] = weight if name not in masses else masses[name] + weight
    found = {n: t / masses[n].to(t) if n in partial else t for n, t in totals.items()}
    return {n: t for n, t in idle.items() if n not in found} | found


def support(weights: Weights) -> dict[str, list[int]]:
    """Name of a dim -> positions of the values that have a weight.

    Args:
        weights: Name of a dim -> (values,).

    Raises:
        UsageError: if more than `MOST` choices have one.
    """
    held = {name: given.detach().nonzero().reshape(-1).tolist() for name, given in weights.items()}
    count = prod(len(indices) for indices in held.values())
    if count > MOST:
        raise UsageError(
            f"a mixture of {count:,} sub-networks with weights of their own is a sum of as many blends",
            f"give weights other than 0 to {MOST} of them at most, or use set(choice)",
        )
    return held


def _supported(sup: Elastic, weights: Weights) -> Iterator[tuple[Choice, Tensor]]:
    """The different sub-networks that have a weight, and it."""
    values = {dim.name: list(dim.each()) for dim in sup.space.dims}
    held = support(weights)
    found: dict[Choice, Tensor] = {}
    for picked in itertools.product(*held.values()):
        chosen = zip(held, picked, strict=True)
        parts = [(name, index, weights[name][index]) for name, index in chosen]
        choice = sup.complete({name: values[name][index] for name, index, _ in parts})
        weight = torch.stack([w.double() for _, _, w in parts]).prod()
        found[choice] = weight if choice not in found else found[choice] + weight
    yield from found.items()


def _one_hot(sup: Elastic, mixing: Mixing, choice: Choice) -> dict[str, Tensor]:
    found = {}
    for name, given in mixing.check({}).items():
        index = list(sup.space.dim(name).each()).index(choice[name])
        found[name] = torch.zeros_like(given).index_fill(0, torch.tensor(index), 1.0)
    return found


def _asleep(sup: Elastic, choice: Choice) -> list[str]:
    """Paths of what a choice does not run."""
    blueprint = sup.blueprint
    other = [
        f"{operation.path}.candidates.{name}"
        for operation in blueprint.operations
        for name in operation.values
        if name != choice[operation.name]
    ]
    return [*blueprint.skipped(choice), *other]
