"""Switchable batch normalisation: scales, shifts and statistics of their own for a few listed choices.

J. Yu, L. Yang, N. Xu, J. Yang and T. Huang, Slimmable Neural Networks, ICLR 2019 (arXiv:1812.08928), section
3.3: statistics differ so much between widths that every switch gets a private set of normalisations.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.binding import Plan, cut
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.stores.holding import Holding

#: Most choices that get normalisations of their own where none are listed.
_MOST = 64


@dataclass(frozen=True)
class SwitchableNorm:
    """Batch normalisations of their own for every listed choice; all other weights are shared.

    Args:
        choices: The choices that can run; all of the space when None.
    """

    choices: Sequence[Mapping[str, Any]] | None = None

    def of(self, sup: Elastic) -> Switched:
        """A supernet whose listed choices start from the normalisations of the given one.

        Args:
            sup: An ordinary supernet; its network is used, not copied.

        Raises:
            UsageError: if it has no batch normalisation, none or too many choices are listed, or every choice
                is a graph of its own.
        """
        if sup.blueprint.rules is None:
            raise UsageError("every choice of this network is a graph of its own", "calibrate them instead")
        if self.choices is None and sup.space.size() > _MOST:
            raise UsageError(f"{sup.space.size():,} choices are too many to switch", "list some as choices=")
        given = sup.space.enumerate() if self.choices is None else self.choices
        listed = list(dict.fromkeys(sup.complete(c) for c in given))
        if not listed or not _norms(sup):
            raise UsageError("there is no batch normalisation to switch, or no choice", "use one store")
        own = nn.ModuleList(_own(sup, choice) for choice in listed)
        return Switched(sup, listed, own)


class Switched(Holding):
    """A supernet with switchable batch normalisation; made by `SwitchableNorm`.

    Args:
        sup: Holds the shared weights.
        listed: The choices that can run.
        norms: One table of tensors a choice.

    Attributes:
        listed: The choices that can run. A training judges the largest, which should be among them.
        norms: The normalisations of each.
    """

    held = ("norms",)

    def __init__(self, sup: Elastic, listed: Sequence[Choice], norms: nn.ModuleList) -> None:
        super().__init__(sup.network, sup.blueprint)
        self.choice, self.listed, self.norms = sup.choice, tuple(listed), norms
        self._number = {choice: number for number, choice in enumerate(self.listed)}
        self.train(sup.training)

    def tensors(self, plan: Plan | None = None) -> dict[str, Tensor]:
        """See `Elastic.tensors`; scales, shifts and statistics are the choice's own."""
        return super().tensors(plan) | self._own()

    def _own(self) -> dict[str, Tensor]:
        if self.choice not in self._number:
            raise UsageError(
                f"{dict(self.choice)} has no batch normalisations of its own",
                f"choose one of the {len(self.listed)} listed choices",
            )
        own = self.norms[self._number[self.choice]]
        assert isinstance(own, _Norms)
        return own.table()

    def calibrate(self, *args: Any, **kwargs: Any) -> int:
        """Nothing to measure: every listed choice has the running statistics of its own training.

        Returns:
            0, the batches used.
        """
        return 0

    def extract(self, choice: Mapping[str, Any] | None = None) -> nn.Module:
        """See `Elastic.extract`; the normalisations are the choice's own.

        Args:
            choice: A choice; the present one when None.
        """
        before = self.choice
        self.choice = self.choice if choice is None else self.complete(choice)
        try:
            own = self._own()
            small = super().extract(self.choice)
        finally:
            self.choice = before
        there: dict[str, Tensor] = {**dict(small.named_parameters()), **dict(small.named_buffers())}
        with torch.no_grad():
            for name, tensor in own.items():
                there[name].copy_(tensor)
        return small

    def __deepcopy__(self, memo: dict[int, Any]) -> Switched:
        plain = Elastic(copy.deepcopy(self.network, memo), self.blueprint)
        plain.choice = self.choice
        return Switched(plain.train(self.training), self.listed, copy.deepcopy(self.norms, memo))


class _Norms(nn.Module):
    """Tensors under the names that they have in the network."""

    def __init__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = (*parameters, *buffers)
        for name, tensor in parameters.items():
            self.register_parameter(_key(name), nn.Parameter(tensor))
        for name, tensor in buffers.items():
            self.register_buffer(_key(name), tensor)

    def table(self) -> dict[str, Tensor]:
        """Full name -> tensor."""
        return {name: getattr(self, _key(name)) for name in self.names}


def _key(name: str) -> str:
    return name.replace(".", "/")


def _norms(sup: Elastic) -> list[str]:
    return [path for path, module in sup.places.modules.items() if isinstance(module, _BatchNorm)]


def _own(sup: Elastic, choice: Choice) -> _Norms:
    """Copies of what stays of the batch normalisations that run in a choice."""
    before = sup.choice
    plan = sup.set(choice).plan
    sup.set(before)
    tables: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for path in _norms(sup):
        if any(path == p or path.startswith(f"{p}.") for p in plan.skips):
            continue
        module = sup.places.modules[path]
        for table, held in zip(tables, (module._parameters, module._buffers), strict=True):
            for key, tensor in held.items():
                if tensor is not None:
                    name = f"{path}.{key}" if path else key
                    table[name] = cut(tensor.detach(), plan.cuts.get(name, ())).clone()
    return _Norms(*tables)
