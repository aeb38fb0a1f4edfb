"""Sub-networks of networks whose code fixes sizes: a surgery a choice, run on the supernet's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from netwright.nas.choice import Choice
from netwright.structure import Shrunk, shrink
from netwright.structure.copying import clone
from netwright.structure.sizes import scale, take
from netwright.supernets.network.blueprint import Blueprint

if TYPE_CHECKING:
    from netwright.supernets.network.elastic import Elastic

#: Surgeries that are kept: each is a network without values.
_KEPT = 64


class Surgeries:
    """The smaller networks of the choices met so far, without values of their own.

    Args:
        blueprint: Of the supernet.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        self._made: dict[tuple[int, ...], Shrunk] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Surgeries:
        return Surgeries(self.blueprint)

    def at(self, network: nn.Module, choice: Choice) -> Shrunk:
        """The surgery of a choice's widths.

        Args:
            network: The full network; it is not touched.
            choice: A choice.
        """
        levels = self.blueprint.levels(choice)
        if levels not in self._made:
            if len(self._made) >= _KEPT:
                self._made.pop(next(iter(self._made)))
            net = self.blueprint.structure
            twin = network if net.recording.real else clone(network, "meta")
            self._made[levels] = shrink(twin, net, self.blueprint.kept(levels))
        return self._made[levels]

    def run(self, sup: Elastic, choice: Choice, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a choice on the supernet's parameters.

        Args:
            sup: The supernet.
            choice: A choice.
            args: Of the network.
            kwargs: Likewise.
        """
        made = self.at(sup.network, choice)
        made.model.train(sup.training)
        full: dict[str, Tensor] = {
            **dict(sup.network.named_parameters(remove_duplicate=False)),
            **dict(sup.network.named_buffers(remove_duplicate=False)),
        }
        wanted = {
            n
            for named in (made.model.named_parameters, made.model.named_buffers)
            for n, _ in named(remove_duplicate=False)
        }
        tensors = {}
        for name in wanted & full.keys():
            cut = made.kept.get(name, {})
            tensor = take(full[name], cut) if cut else full[name]
            if name in made.scales:
                factors = {d: f[cut[d]] if d in cut else f for d, f in made.scales[name].items()}
                tensor = scale(tensor, factors)
            tensors[name] = tensor
        given = {} if sup.training else sup.statistics.get(choice, {})
        return torch.func.functional_call(made.model, {**tensors, **given}, args, dict(kwargs))
