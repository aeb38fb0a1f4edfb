"""Costs of a supernet as a sum of tables, so that they are differentiable and choices can be counted by them.

What an operator costs is a product of a few counts. So it depends on a few decisions, and a table over their
values says it; the cost of one-hot policies is a contraction of the tables with them (ShiftNAS).
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.errors import UsageError
from netwright.nas.costs import Additive
from netwright.nas.space import SearchSpace
from netwright.structure import Structure
from netwright.supernets.network.blueprint import RESOLUTION, Blueprint
from netwright.supernets.network.cost import operators
from netwright.supernets.network.elastic import Elastic

Ints = NDArray[np.int64]
#: What can be tabled -> its position in a cost.
FIGURES = {"macs": 0, "params": 1}
#: Entries of the largest table.
_MOST = 100_000


@dataclass(frozen=True)
class CostTables:
    """The cost of every choice as a sum of tables.

    Attributes:
        space: The space of the choices.
        terms: Names of dims -> costs over their values, one dimension a dim.
        base: What every choice costs.
        figure: What is counted.
    """

    space: SearchSpace
    terms: Mapping[tuple[str, ...], Ints]
    base: int
    figure: str = "macs"

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        """Name of a dim -> its values, in the order of the tables."""
        return {dim.name: list(dim.each()) for dim in self.space.dims}

    @cached_property
    def _tensors(self) -> list[tuple[tuple[str, ...], Tensor, str]]:
        found = []
        for names, table in self.terms.items():
            letters = string.ascii_lowercase[: len(names)]
            inputs = ",".join(f"...{letter}" for letter in letters)
            found.append((names, torch.from_numpy(table).double(), f"{inputs},{letters}->..."))
        return found

    @cached_property
    def additive(self) -> Additive:
        """For `SearchSpace.constrained`, which then counts and draws exactly."""
        terms: dict[str | tuple[str, ...], Mapping[Any, float]] = {}
        for names, table in self.terms.items():
            keys = itertools.product(*(self.values[name] for name in names))
            costs = {k if len(names) > 1 else k[0]: int(v) for k, v in zip(keys, table.flat, strict=True)}
            terms[names if len(names) > 1 else names[0]] = costs
        return Additive(terms, self.base)

    def of(self, choice: Mapping[str, Any]) -> int:
        """The cost of a choice.

        Args:
            choice: Of the space.
        """
        places = {name: values.index(choice[name]) for name, values in self.values.items()}
        tables = self.terms.items()
        return self.base + sum(int(table[tuple(places[n] for n in names)]) for names, table in tables)

    def soft(self, policies: Mapping[str, Tensor]) -> Tensor:
        """The expected cost of independent policies; that of a choice, exactly, where they are one-hot.

        Args:
            policies: Name of every dim -> (..., values) weights that sum to 1.

        Returns:
            (...,) float64, with the gradient of the policies.
        """
        given = {name: policy.double() for name, policy in policies.items()}
        total = next(iter(given.values())).new_full((), float(self.base))
        for term in self._tensors:
            total = total + _contracted(term, given)
        return total

    def part(self, name: str, policies: Mapping[str, Tensor]) -> Tensor:
        """What the tables with a dim contribute to `soft`.

        Args:
            name: Of the dim.
            policies: As of `soft`.

        Returns:
            (...,) float64.
        """
        terms = [term for term in self._tensors if name in term[0]]
        given = {n: policies[n].double() for n in {n for term in terms for n in term[0]} | {name}}
        total = given[name].new_zeros(given[name].shape[:-1])
        for term in terms:
            total = total + _contracted(term, given)
        return total


def _contracted(term: tuple[tuple[str, ...], Tensor, str], policies: Mapping[str, Tensor]) -> Tensor:
    names, table, formula = term
    parts = [policies[name] for name in names]
    return torch.einsum(formula, *parts, table.to(parts[0].device))


def cost_tables(sup: Elastic, figure: str = "macs") -> CostTables:
    """Table what the sub-networks of a supernet cost for one example.

    Args:
        sup: The supernet.
        figure: "macs" or "params".

    Returns:
        Tables whose sums equal `Elastic.cost` to the last unit.

    Raises:
        UsageError: if the figure is not known, poolings move, or one operator depends on too many decisions.
    """
    if figure not in FIGURES:
        raise UsageError(f"figure={figure!r} cannot be tabled", f"choose from {', '.join(FIGURES)}")
    blueprint, column = sup.blueprint, FIGURES[figure]
    if blueprint.poolings is not None:
        raise UsageError("what moving poolings cost is no sum of tables", "ask `sup.costs`")
    if not blueprint.resolutions:
        terms, base = _tables(blueprint, blueprint.structure, column, {})
        return CostTables(sup.space, terms, base, figure)
    sides = []
    for side in blueprint.resolutions:
        fixed = {RESOLUTION: side}
        sides.append(_tables(blueprint, blueprint.at_resolution(fixed), column, fixed))
    stacked: dict[tuple[str, ...], Ints] = {}
    stacked[(RESOLUTION,)] = np.array([base for _, base in sides], np.int64)
    for names in {n: None for terms, _ in sides for n in terms}:
        shape = next(terms[names].shape for terms, _ in sides if names in terms)
        zeros = np.zeros(shape, np.int64)
        stacked[(RESOLUTION, *names)] = np.stack([terms.get(names, zeros) for terms, _ in sides])
    return CostTables(sup.space, stacked, 0, figure)


def _tables(
    blueprint: Blueprint, net: Structure, column: int, fixed: Mapping[str, Any]
) -> tuple[dict[tuple[str, ...], Ints], int]:
    """Tables at one resolution, and what every choice costs."""
    values = {d.name: list(d.each()) for d in blueprint.space.dims if d.name not in fixed}
    full = {**blueprint.full, **fixed}

    def priced(choices: Sequence[Mapping[str, Any]]) -> Ints:
        costs = operators(blueprint, net, choices)[:, :, column]
        batch = max(net.batch, 1) if column == 0 else 1
        if (costs % batch).any():
            raise UsageError("an operator's cost is no multiple of the batch", "trace one example")
        return costs // batch

    decides = _decides(blueprint, full, values, priced)  # (dims, operators)
    groups: dict[tuple[str, ...], list[int]] = {}
    for operator in range(decides.shape[1]):
        names = tuple(name for name, on in zip(values, decides[:, operator], strict=True) if on)
        groups.setdefault(names, []).append(operator)
    base = int(priced([full])[0, groups.pop((), [])].sum())
    terms = {}
    for names, members in groups.items():
        shape = tuple(len(values[name]) for name in names)
        if math.prod(shape) > _MOST:
            raise UsageError(f"one operator depends on {len(names)} decisions", "make fewer of them elastic")
        choices = [
            {**full, **dict(zip(names, chosen, strict=True))}
            for chosen in itertools.product(*(values[name] for name in names))
        ]
        terms[names] = priced(choices)[:, members].sum(axis=1).reshape(shape)
    return terms, base


def _decides(
    blueprint: Blueprint, full: Mapping[str, Any], values: Mapping[str, list[Any]], priced: Any
) -> NDArray[np.bool_]:
    """Which dim changes the cost of which operator, (dims, operators).

    Costs are products of counts, so what changes one does so where no other count is 0: at the largest
    network, with each candidate module in its turn.
    """
    most = max([len(o.values) for o in blueprint.operations], default=1)
    found = None
    for turn in range(most):
        begun = {**full, **{o.name: o.values[turn % len(o.values)] for o in blueprint.operations}}
        choices = [begun]
        rows: list[int] = []
        for row, (name, each) in enumerate(values.items()):
            for value in each:
                if value != begun[name]:
                    choices.append({**begun, name: value})
                    rows.append(row)
        costs = priced(choices)
        differs = costs[1:] != costs[:1]
        if found is None:
            found = np.zeros((len(values), costs.shape[1]), np.bool_)
        np.logical_or.at(found, np.array(rows, np.int64), differs)
    assert found is not None
    return found
