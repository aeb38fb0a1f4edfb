"""The sub-networks of a network as a space to search: which nodes stay, at one share of every axis.

Random search over node configurations is the neutral baseline of sparse architecture search (R. Farahani,
Random Search as a Baseline for Sparse Neural Network Architecture Search, 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import DataError, StructureError, UsageError
from netwright.structure import Structure, shrink, trace
from netwright.structure.sizes import index_maps, take
from netwright.train import evaluate

if TYPE_CHECKING:
    from netwright.data import Part

#: Configurations are told apart by a number below this.
_NUMBERS = 2**31 - 1


@dataclass(frozen=True)
class Configuration:
    """One sub-network.

    Attributes:
        space: What it is one of.
        number: Which; the same number is the same configuration.
        keep: (count,) bool, True where a class of the structure stays.
    """

    space: NodeSpace = field(repr=False)
    number: int
    keep: Tensor = field(repr=False)

    @cached_property
    def model(self) -> nn.Module:
        """The sub-network with the parent's weights, as a really smaller network."""
        return shrink(self.space.model, self.space.net, self.keep).model

    @property
    def active(self) -> dict[str, int]:
        """Axis -> nodes that stay."""
        return {a.name: int(self.keep[a.cells].sum()) for a in self.space.net.prunable}


class NodeSpace:
    """All choices of equally many nodes of every axis; made by `space`.

    Attributes:
        model: The parent.
        net: Its structure.
        keep: Share of the nodes that stays.
        counts: Axis -> nodes that stay of each of its parts, (parts,).
    """

    def __init__(self, model: nn.Module, net: Structure, keep: float) -> None:
        self.model, self.net, self.keep = model, net, keep
        self.counts = {a.name: a.counts(max(round(keep * a.size), 1)) for a in net.prunable}

    def configuration(self, number: int) -> Configuration:
        """The configuration of a number: of each part of every axis, exactly its count, all as likely."""
        rng = np.random.default_rng(number)
        keep = torch.ones(self.net.count, dtype=torch.bool)
        for axis in self.net.prunable:
            keep[axis.cells.reshape(-1)] = False
            for part, count in zip(axis.parts, self.counts[axis.name].tolist(), strict=True):
                keep[part[torch.from_numpy(rng.permutation(len(part))[:count])]] = True
        return Configuration(self, number, keep)

    def borrow(self, chosen: Configuration) -> nn.Module:
        """The network of a configuration, to look at: the next call may give the same module other weights.

        Copying and proving a network takes much longer than a look at it; where all configurations have one
        shape and keep the order of the parent, only the weights are exchanged.
        """
        if self._shell is None:
            return chosen.model
        with torch.no_grad():
            for name, dims in index_maps(self.net.layers, chosen.keep).items():
                self._tensors[1][name].copy_(take(self._tensors[0][name], dims))
        return self._shell

    @cached_property
    def _shell(self) -> nn.Module | None:
        """A sub-network whose weights can be exchanged; None where one cannot stand for another."""
        first = self.configuration(0)
        shrunk = shrink(self.model, self.net, first.keep)
        maps = index_maps(self.net.layers, first.keep)
        plain = shrunk.how == "in place" and not shrunk.scales and shrunk.kept.keys() == maps.keys()
        straight = all(len(axis.parts) == 1 for axis in self.net.prunable)
        same = plain and all(
            dims.keys() == maps[name].keys() and all(torch.equal(i, maps[name][d]) for d, i in dims.items())
            for name, dims in shrunk.kept.items()
        )
        return shrunk.model if straight and same else None

    @cached_property
    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and buffers by name, of the parent and of the shell."""
        assert self._shell is not None
        models = (self.model, self._shell)
        parent, shell = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in models)
        return parent, shell

    def suggest(self, trial: Any) -> Configuration:
        """Draw a configuration by an Optuna trial."""
        return self.configuration(trial.suggest_int("configuration", 0, _NUMBERS))


def space(
    model: nn.Module,
    example: Any,
    kind: Literal["nodes"] = "nodes",
    keep: float = 0.25,
    exclude: Iterable[str] = (),
) -> NodeSpace:
    """The sub-networks of a network that keep the same share of the nodes of every layer.

    A node is a class of tied units: a hidden unit, a channel with all that reads it, an attention head.
    Inputs and outputs stay. ``nodes`` is the only kind.

    Args:
        model: The parent; its weights are those of every sub-network.
        example: A tensor, a tuple of arguments or a dict of keyword arguments for the model.
        kind: Of space.
        keep: Share of the nodes of every axis that stays, at least one.
        exclude: Names of modules or parameters, or patterns, that are left alone.

    Raises:
        UsageError: if the kind is unknown or the share is none.
        StructureError: if nothing can shrink.
    """
    if kind != "nodes":
        raise UsageError(f"there is no space of {kind!r}", 'the one there is: kind="nodes"')
    if not 0 < keep <= 1:
        raise UsageError(f"a share of {keep:g} cannot stay", "give a share above 0, at most 1")
    net = trace(model, example, exclude=tuple(exclude))
    if not net.prunable:
        raise StructureError(f"nothing of {net.name} can shrink", "see why with `netwright inspect`")
    return NodeSpace(model, net, keep)


def initial_loss(
    data: Part, limit: int | None = None, device: str | torch.device = "cpu"
) -> Callable[[Configuration], float]:
    """An objective: the cross entropy of a sub-network as it is, before any training.

    Args:
        data: Labelled examples.
        limit: Look at the first so many; at all where None.
        device: Where to compute.

    Raises:
        DataError: if the examples have no labels.
    """
    if not data.labelled:
        raise DataError("a loss needs labels, and these data have none")
    size = min(len(data), limit or len(data))

    def loss(configuration: Configuration) -> float:
        small = configuration.space.borrow(configuration)
        return evaluate(small, data, device=device, batch_size=min(size, 2048), limit=size).loss

    return loss
