"""SuperTickets: a small network and a mask drawn from one training of a supernet.

Y. Fu, Z. Yu, Y. Zhang et al., SuperTickets: Drawing Task-Agnostic Lottery Tickets from Supernets via Jointly
Architecture Searching and Parameter Pruning, ECCV 2022. The training is `netwright.pruning.systems.joint`.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from netwright import structure
from netwright.data import Splits
from netwright.errors import ModelError, UsageError
from netwright.models.blocks import without
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.masks.selection import Masks, shuffled
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.removal.result import Pruned
from netwright.pruning.removal.saving import save_pruned
from netwright.pruning.systems.joint import Interval, JointTraining, alive_mask
from netwright.structure import Budget
from netwright.train import Recipe, fit, recalibrate_

#: Batches over which the statistics of batch norms are measured anew before a network is judged.
CALIBRATION = 10


@dataclass(frozen=True)
class SuperTicket:
    """A small network with masks, and how it comes out of its supernet.

    Attributes:
        pruned: The network and the surgery that makes it of the supernet; its ``dropped`` are the branches
            that went whole.
        intervals: What happened in the training.
        seconds: How long it took.
    """

    pruned: Pruned
    intervals: tuple[Interval, ...] = field(default=(), repr=False)
    seconds: float = 0.0

    @property
    def model(self) -> nn.Module:
        """The network, its masks hard."""
        return self.pruned.model

    @property
    def masks(self) -> Masks:
        """Weight -> mask."""
        state = MaskState.of(self.model)
        assert state is not None
        return state.masks

    @property
    def density(self) -> float:
        """Share of the weights with a mask that stays."""
        state = MaskState.of(self.model)
        assert state is not None
        return state.density

    @property
    def training_macs(self) -> float:
        """Multiply-accumulates of all forward and backward passes, on dense kernels."""
        return sum(interval.training_macs for interval in self.intervals)

    def with_masks(self, masks: Masks) -> SuperTicket:
        """The same network with other masks; what they keep must have its weight."""
        twin = copy.deepcopy(self.model)
        state = MaskState.of(twin)
        assert state is not None
        state.set_(masks)
        return dataclasses.replace(self, pruned=dataclasses.replace(self.pruned, model=twin))

    def retrain(self, data: Splits, recipe: Recipe, device: str | torch.device = "auto") -> SuperTicket:
        """Train on with the masks as they are.

        Args:
            data: Trained on.
            recipe: How.
            device: Where.
        """
        model = fit(self.model, data, recipe, device=device).model.cpu()
        _calibrate(model, data, recipe.batch_size)
        return dataclasses.replace(self, pruned=dataclasses.replace(self.pruned, model=model))

    def transfer(
        self,
        head: nn.Module,
        *,
        at: str = "head",
        weights: Literal["copy", "fresh"] = "copy",
        seed: int = 0,
        shuffle: bool = False,
    ) -> nn.Module:
        """The architecture and the masks for another task: a new head on the same features.

        Args:
            head: Any module that takes what the present head takes; it has no masks.
            at: Path of the head.
            weights: "copy" keeps the features' weights, "fresh" draws them anew.
            seed: Of what is drawn.
            shuffle: Put the masks into a random order within each layer: the control of equal densities. Its
                weights are drawn anew where the ticket's are masked.

        Returns:
            A new network, masks hard: train it with `netwright.train.fit`, which holds them.

        Raises:
            ModelError: if the network has no module of that path.
            UsageError: if `weights` is not known.
        """
        if weights not in ("copy", "fresh"):
            raise UsageError(f"weights={weights!r} is not known", 'choose "copy" or "fresh"')
        twin = copy.deepcopy(self.model)
        state = MaskState.of(twin)
        assert state is not None
        masks = {n: m.clone() for n, m in state.masks.items() if not n.startswith(f"{at}.")}
        state.remove()
        try:
            twin.get_submodule(at)
        except AttributeError as error:
            raise ModelError(f"the network has no module {at}", "say where its head is: at=") from error
        owner, _, name = at.rpartition(".")
        twin.get_submodule(owner).add_module(name, copy.deepcopy(head))
        drawn = copy.deepcopy(twin)
        reinitialise_(drawn, seed)
        drawn.get_submodule(owner).add_module(name, copy.deepcopy(head))
        if weights == "fresh":
            twin = drawn
        if shuffle:
            fresh = dict(drawn.named_parameters())
            mixed = shuffled(masks, seed)
            with torch.no_grad():
                for n, p in twin.named_parameters():
                    if n in masks:
                        p.copy_(torch.where(masks[n], p, fresh[n]))
            masks = mixed
        MaskState(twin, masks)
        return twin

    def save(self, folder: str | Path) -> Path:
        """Write the ticket: indices kept, one bit a weight, safetensors; `load` of this package reads it.

        Args:
            folder: Where to.
        """
        return save_pruned(self.pruned, folder)


def draw_ticket(training: JointTraining, data: Splits | None = None, seconds: float = 0.0) -> SuperTicket:
    """The ticket of a joint training as it stands: its network with the masks drawn last.

    Args:
        training: At any interval.
        data: Whose pictures the statistics of batch norms are measured on; None leaves them.
        seconds: How long it took.
    """
    at = training.at
    model = copy.deepcopy(at.average.model if at.average is not None else at.model)
    state = MaskState.of(model)
    assert state is not None
    if at.drawn:
        state.set_(at.drawn)
    masks = {n: m.clone() for n, m in state.masks.items()}
    model = state.remove()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(at.model.get_parameter(_present(at.model, name)).requires_grad)
    MaskState(model, masks)
    model.train(training.supernet.training)
    if data is not None:
        _calibrate(model, data, training.recipe.batch_size)
    base = without(training.supernet, at.dropped)
    net = structure.trace(base, training.example)
    hidden = {name: net.layers[name][0].reshape(-1) for name in at.alive}
    stays = {
        name: torch.zeros(len(hidden[name]), dtype=torch.bool).index_fill_(0, index, True)
        for name, index in at.alive.items()
    }
    keep = alive_mask(net, hidden, stays)
    done = structure.shrink(base, net, keep, how="in place")
    pruned = Pruned(
        model,
        done.kept,
        before=structure.trace(training.supernet, training.example).dense,
        after=net.cost(keep),
        frozen=[],
        net=net,
        keep=keep,
        attributes=done.attributes,
        adopted=done.adopted,
        notes=[f"removed in {sum(i.removed > 0 for i in at.intervals)} intervals of one training"],
        seconds=seconds,
        dropped=list(at.dropped),
    )
    return SuperTicket(pruned, at.intervals, seconds)


def _present(model: nn.Module, name: str) -> str:
    """The name of a weight in a network whose soft masks may have moved it."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    return name if leaf in module._parameters else f"{owner}.parametrizations.{leaf}.original".lstrip(".")


def _calibrate(model: nn.Module, data: Splits, batch_size: int) -> None:
    recalibrate_(model, data.train.batches(batch_size), limit=CALIBRATION)


def supertickets(
    model: nn.Module,
    example: Any,
    budget: Budget | str | None = None,
    *,
    keep: float = 0.1,
    data: Splits,
    recipe: Recipe | None = None,
    reactivate: bool | Literal["next"] = True,
    every: float | int = 0.1,
    retrain: Recipe | None = None,
    exclude: Iterable[str] = (),
    device: str | torch.device = "auto",
    **settings: Any,
) -> SuperTicket:
    """Search a supernet and prune it in one training; what is left is a small network with a mask.

    Channels (and with their last one whole branches, see `netwright.models.blocks.MixedBlock`) whose scale
    comes to nothing under a penalty weighted by their cost are removed for good while the training goes on;
    at the same times weights are pruned by magnitude over the whole network, 10 % more each time.

    Args:
        model: The supernet: any network with normalisations that have scales; it is not touched.
        example: Its input.
        budget: Of the small network: ``macs``; None removes what is dead and nothing else.
        keep: Share of the small network's weights that stays.
        data: Trained on.
        recipe: Of the one training.
        reactivate: What becomes of weights that are pruned before the last time: True gives them back at
            once, "next" masks them until the next pruning, which chooses among all, False never does. With
            True the training itself is one without masks, and `retrain` is needed for high sparsity.
        every: Steps between two prunings, or a share of the training.
        retrain: Train the ticket on with this recipe; None does not.
        exclude: Weights that are never masked.
        device: Where to train.
        **settings: Others of `netwright.pruning.systems.joint.JointTraining`.

    Returns:
        The ticket: the small network and all that it takes to make, save and transfer it.

    Raises:
        UsageError: if the budget cannot be met or the parts do not fit together.
        StructureError: if the network's code cannot take other sizes.
    """
    begun = time.perf_counter()
    training = JointTraining(
        model,
        example,
        data,
        recipe or Recipe(),
        budget=budget,
        keep=keep,
        reactivate=reactivate,
        every=every,
        exclude=exclude,
        device=device,
        **settings,
    )
    ticket = draw_ticket(training.run(), data)
    if retrain is not None:
        ticket = ticket.retrain(data, retrain, device)
    return dataclasses.replace(ticket, seconds=time.perf_counter() - begun)
