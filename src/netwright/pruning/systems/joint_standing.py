"""Where a training that searches and prunes at once stands, and what each of its legs did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from netwright.pruning.masks.selection import Masks
from netwright.pruning.systems.hidden_channels import Hidden
from netwright.pruning.systems.optimizer_slots import Slots
from netwright.structure import Structure
from netwright.train import Average


@dataclass(frozen=True)
class Interval:
    """What one leg did.

    Attributes:
        step: Steps done after it.
        macs: Multiply-accumulates of the network after it, masks not counted.
        params: Its parameters, masks not counted.
        removed: Channels removed after it.
        dropped: Branches removed whole.
        keep: Share of the weights that stays in the masks drawn after it, or None where none were drawn.
        moved: Share of the positions in both that differ from the masks drawn before; None for the first.
        regrown: Share of the positions masked before that are not now; None for the first.
        loss: Mean training loss of its last epoch.
        training_macs: Multiply-accumulates of its forward and backward passes, of all pictures, on dense
            kernels.
        sparse_macs: The same, counting weights that are not masked.
    """

    step: int
    macs: int
    params: int
    removed: int
    dropped: tuple[str, ...]
    keep: float | None
    moved: float | None
    regrown: float | None
    loss: float
    training_macs: float
    sparse_macs: float


@dataclass(frozen=True)
class Standing:
    """Where a joint training stands; it is replaced, never changed.

    Attributes:
        model: The network, with masks.
        average: Its moving average, or None.
        slots: What the optimiser remembers.
        step: Steps done.
        net: Structure of the network without masks.
        hidden: Its penalised scales.
        alive: Scale -> indices of its channels in the supernet, (n,).
        dropped: Branches of the supernet that are gone.
        drawn: The masks drawn last, of the network's present shapes.
        intervals: What has happened.
    """

    model: nn.Module = field(repr=False)
    average: Average | None = field(repr=False)
    slots: Slots = field(repr=False)
    step: int
    net: Structure
    hidden: Hidden = field(repr=False)
    alive: Mapping[str, Tensor] = field(repr=False)
    dropped: tuple[str, ...] = ()
    drawn: Masks = field(default_factory=dict, repr=False)
    intervals: tuple[Interval, ...] = ()
