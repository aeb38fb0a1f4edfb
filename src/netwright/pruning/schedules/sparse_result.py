"""What `sparsify` gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netwright.pruning.masks.mask_state import MaskState, bake
from netwright.pruning.masks.selection import Masks
from netwright.pruning.schedules.cycles import Level, Ticket
from netwright.pruning.schedules.sparsity import Change
from netwright.structure import Cost, Inputs


@dataclass(frozen=True)
class Layer:
    """One pruned weight.

    Attributes:
        name: Of the parameter.
        total: Its elements.
        kept: Those that stay.
        macs: Multiply-accumulates of one example with all of them, or None where no example was given.
    """

    name: str
    total: int
    kept: int
    macs: int | None = None

    @property
    def density(self) -> float:
        """Share that stays."""
        return self.kept / self.total

    @property
    def macs_after(self) -> int | None:
        """Multiply-accumulates with weights that are not zero; no dense kernel is faster for it."""
        return None if self.macs is None else round(self.macs * self.density)


@dataclass(frozen=True)
class Sparse:
    """A network with masks and what was done to make it.

    Attributes:
        model: The network, of the same class and shapes, with masks (see `MaskState`).
        keep: The share of the weights that was asked for.
        layers: One record a pruned weight.
        frozen: Parameters that were left whole, with the reason.
        before: Costs of the dense network, or None where no example was given.
        changes: What the schedule did.
        history: Of the training, one record an epoch; empty where nothing was trained.
        notes: What a reader should know, one line each.
        seconds: How long it took.
        levels: Of a schedule of several trainings, one record each; the last is the network.
        ticket: Of such a schedule, the last masks with the weights that are rewound to.
    """

    model: nn.Module
    keep: float
    layers: list[Layer]
    frozen: list[tuple[str, str]] = field(default_factory=list)
    before: Cost | None = None
    changes: list[Change] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    levels: list[Level] = field(default_factory=list, repr=False)
    ticket: Ticket | None = field(default=None, repr=False)

    @property
    def masks(self) -> Masks:
        """Parameter -> mask."""
        state = MaskState.of(self.model)
        assert state is not None
        return state.masks

    @property
    def kept(self) -> dict[str, int]:
        """Parameter -> weights that stay."""
        return {layer.name: layer.kept for layer in self.layers}

    @property
    def density(self) -> float:
        """Share of the pruned weights that stays."""
        return sum(layer.kept for layer in self.layers) / sum(layer.total for layer in self.layers)

    @property
    def table(self) -> list[Mapping[str, Any]]:
        """One row a layer: name, total, kept, density, multiply-accumulates before and after."""
        return [
            {
                "layer": x.name,
                "total": x.total,
                "kept": x.kept,
                "density": x.density,
                "macs": x.macs,
                "macs_after": x.macs_after,
            }
            for x in self.layers
        ]

    @torch.no_grad()
    def verify(self, example: Any = None) -> float:
        """Check that masked weights are zero in the forward pass and that the counts are those reported.

        Args:
            example: Inputs; the answers of the masked network and of one with zeros baked in are compared.

        Returns:
            The largest difference of the answers; 0 where no example is given.

        Raises:
            AssertionError: if a masked weight is not zero, or a count differs.
        """
        baked = bake(self.model)
        weights = dict(baked.named_parameters())
        for name, mask in self.masks.items():
            if bool(weights[name][~mask].any()) or int(mask.sum()) != self.kept[name]:
                raise AssertionError(f"{name} is not what its mask says")
        if example is None:
            return 0.0
        inputs = Inputs.of(example)
        training = self.model.training
        try:
            one, other = (_first(inputs.call(m.eval())) for m in (self.model, baked))
        finally:
            self.model.train(training)
        return float((one - other).abs().max())

    def __str__(self) -> str:
        widest = max(len(x.name) for x in self.layers)
        rows = [f"{x.name:{widest}}  {x.kept:>12,} of {x.total:>12,}  {x.density:7.2%}" for x in self.layers]
        rows.append(f"{'together':{widest}}  {self.density:.4%} of the weights stay")
        return "\n".join([*rows, *self.notes])


def _first(answer: Any) -> Tensor:
    while not isinstance(answer, Tensor):
        answer = next(iter(answer.values())) if isinstance(answer, Mapping) else answer[0]
    return answer
