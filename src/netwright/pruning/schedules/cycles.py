"""Schedules of several trainings: train, prune a share of what is left, rewind or go on, again and again.

J. Frankle, G. K. Dziugaite, D. M. Roy and M. Carbin, Linear Mode Connectivity and the Lottery Ticket
Hypothesis, ICML 2020 (Stabilizing the Lottery Ticket Hypothesis, 2019): rewinding to an early step rather
than to the initialisation; A. Renda, J. Frankle and M. Carbin, Comparing Rewinding and Fine-tuning in Neural
Network Pruning, ICLR 2020: rewinding the learning rate only.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netwright.data import Splits
from netwright.errors import UsageError
from netwright.pruning.allocations.choosing import Allocations, choose, prunable_weights
from netwright.pruning.importances.elements import Context
from netwright.pruning.masks.existing import existing
from netwright.pruning.masks.granularity import WEIGHT, Granularity
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.masks.selection import Masks
from netwright.pruning.schedules.schedule import Schedule, When, steps_at
from netwright.pruning.schedules.sparsity import Sparsity
from netwright.pruning.statistics.examples import Examples
from netwright.train import Callback, Fitted, Recipe, Snapshots, fit


@dataclass(frozen=True)
class Cycles:
    """Prune a share of the remaining weights after each training.

    Attributes:
        fraction: Share of the remaining weights that goes each time; ``ceil`` of it.
        rounds: How many times; None goes on until the share asked for is reached, and ends exactly there.
        rewind: The step that is gone back to: a share of the training, a number of steps, or text such as
            "1%", "2ep" or "500it".
        what: "weights" goes back to the weights of that step and trains on from there, with its learning
            rate; "lr" keeps the trained weights and goes back with the learning rate alone; "none" trains on
            with `retrain`.
        retrain: The recipe of every training but the first where nothing is rewound; the first one's if None.
    """

    fraction: float = 0.2
    rounds: int | None = None
    rewind: When | str = 0
    what: Literal["weights", "lr", "none"] = "weights"
    retrain: Recipe | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise UsageError(f"fraction={self.fraction:g} of what remains cannot go", "give a share in 0..1")

    def counts(self, total: int, keep: float) -> list[int]:
        """Weights that remain after each level, level 0 first.

        Args:
            total: Weights before anything is pruned.
            keep: The share asked for, where the rounds are not given.
        """
        remaining, last = [total], round(keep * total)
        while len(remaining) <= (self.rounds if self.rounds is not None else 1_000):
            left = remaining[-1] - math.ceil(self.fraction * remaining[-1])
            if self.rounds is None:
                if remaining[-1] <= last:
                    break
                left = max(left, last)
            remaining.append(max(left, 1))
        return remaining

    def step(self, steps: int, steps_per_epoch: int) -> int:
        """The step that is gone back to."""
        when = self.rewind
        if isinstance(when, str):
            text = when.strip()
            if text.endswith("%"):
                when = float(text[:-1]) / 100
            elif text.endswith("ep"):
                when = round(float(text[:-2]) * steps_per_epoch)
            else:
                when = int(text.removesuffix("it"))
        return steps_at(when, steps)


def lottery(
    fraction: float = 0.2, rounds: int | None = None, rewind: When | str = "1%", **settings: Any
) -> Cycles:
    """Iterative magnitude pruning with rewinding of the weights; see `Cycles`."""
    return Cycles(fraction, rounds, rewind, **settings)


def iterative(fraction: float = 0.2, rounds: int | None = None, retrain: Recipe | None = None) -> Cycles:
    """Prune and fine-tune, again and again, without rewinding; see `Cycles`."""
    return Cycles(fraction, rounds, what="none", retrain=retrain)


_NAMED: dict[str, Callable[[], Cycles]] = {"lottery": lottery, "iterative": iterative}


def list_cycles() -> list[str]:
    """Names of all schedules of several trainings, in alphabetical order."""
    return sorted(_NAMED)


def find_cycles(schedule: Any) -> Cycles | None:
    """The schedule of several trainings of that name, or such an object itself; None for anything else."""
    if isinstance(schedule, Cycles):
        return schedule
    return _NAMED[schedule]() if isinstance(schedule, str) and schedule in _NAMED else None


@dataclass(frozen=True)
class Level:
    """One training.

    Attributes:
        level: 0 is the dense network.
        masks: What stayed.
        kept: Weights that stayed.
        keep: As a share.
        model: The trained network, with its masks.
        accuracy: On the validation split.
        history: One record an epoch.
    """

    level: int
    masks: Masks = field(repr=False)
    kept: int
    keep: float
    model: nn.Module = field(repr=False)
    accuracy: float | None
    history: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Ticket:
    """A mask and the weights it is trained from: loads into any network of the same shapes.

    Attributes:
        masks: Weight -> mask.
        weights: State of the network at the step that was rewound to.
        step: That step.
    """

    masks: Masks
    weights: Mapping[str, Tensor]
    step: int

    def build(self, model: nn.Module) -> nn.Module:
        """A copy of a network with the ticket's weights, masked."""
        twin = copy.deepcopy(model)
        twin.load_state_dict({n: t for n, t in self.weights.items() if not n.startswith("_nw_mask.")})
        MaskState(twin, self.masks)
        return twin


class CycleRun:
    """The levels of one network, one after the other; resumable where a folder is given.

    Args:
        model: The network at initialisation.
        data: Trained on.
        recipe: Of one training.
        plan: How.
        keep: The share asked for, where the plan names no rounds.
        importance: What goes first.
        granularity: What goes as one piece.
        allocation: How the share is spread.
        select: Only these weights.
        exclude: Weights left alone.
        seed: Of what is drawn at random.
        device: Where to train.
        folder: Where each level's training is checkpointed.
        callbacks: Called in every training besides.
        dense: The dense network after its training, where that was done before; level 0 is not trained then.
        early: Its state at the step that is rewound to, which must come with it.

    Attributes:
        start: Step that is rewound to.
        early: State of the network at that step of the dense training.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Splits,
        recipe: Recipe,
        plan: Cycles,
        *,
        keep: float = 0.1,
        importance: Any = "magnitude",
        granularity: str | Granularity = WEIGHT,
        allocation: Allocations = "global",
        select: str | Sequence[str] | None = None,
        exclude: Iterable[str] = (),
        seed: int = 0,
        device: str | torch.device = "auto",
        folder: Path | None = None,
        callbacks: Callable[[int], Sequence[Callback]] | None = None,
        dense: nn.Module | None = None,
        early: Mapping[str, Tensor] | None = None,
    ) -> None:
        if (dense is None) != (early is None):
            raise UsageError("a trained dense network and its early state come together", "give both")
        self.model, self.data, self.recipe, self.plan = model, data, recipe, plan
        self.importance, self.granularity, self.allocation = importance, granularity, allocation
        self.seed, self.device, self.folder = seed, device, folder
        self.callbacks = callbacks
        self.names = prunable_weights(model, select=select, exclude=exclude)
        weights = dict(model.named_parameters())
        there = existing(model, self.names)
        self.sizes = {n: int(there[n].sum()) if n in there else weights[n].numel() for n in self.names}
        self.remaining = plan.counts(sum(self.sizes.values()), keep)
        size = min(len(data.train), recipe.limit or len(data.train))
        whole, rest = divmod(size, recipe.batch_size)
        self.per_epoch = max(whole + (rest > 1), 1)
        self.start = plan.step(recipe.epochs * self.per_epoch, self.per_epoch)
        self.dense, self.early = dense, dict(early or {})
        self._examples = Examples(data.train, data.example(), seed=seed)

    def __iter__(self) -> Iterator[Level]:
        """Train level after level."""
        masks: Masks = {n: torch.ones(s, dtype=torch.bool) for n, s in self._shapes().items()}
        masks |= existing(self.model, self.names)
        previous: nn.Module | None = None
        for level, kept in enumerate(self.remaining):
            if previous is not None:
                masks = self._pruned(previous, masks, kept)
            begin, start, recipe = self._beginning(level, previous, masks)
            if level == 0 and self.dense is not None:
                fitted = Fitted(self._masked(self.dense, masks), [], 0.0, None)
            else:
                fitted = self._train(level, begin, start, recipe)
            previous = fitted.model
            total = sum(self.sizes.values())
            yield Level(level, masks, kept, kept / total, previous, fitted.accuracy, fitted.history)

    def ticket(self, masks: Masks) -> Ticket:
        """The masks with the weights that were rewound to."""
        return Ticket(masks, self.early, self.start)

    def train_ticket(
        self, masks: Masks, *, weights: Mapping[str, Tensor] | None = None, order: int | None = None
    ) -> Fitted:
        """Train masked weights from the step that is rewound to.

        Args:
            masks: Weight -> mask.
            weights: State to begin with instead of the ticket's (a control: fresh weights).
            order: Seed of the order of the data, the recipe's where None.
        """
        ticket = Ticket(masks, self.early if weights is None else weights, self.start)
        recipe = self.recipe if order is None else dataclasses.replace(self.recipe, seed=order)
        return fit(
            ticket.build(self.model),
            self.data,
            recipe,
            device=self.device,
            start=self.start,
            callbacks=[self._holder()],
        )

    @staticmethod
    def _masked(model: nn.Module, masks: Masks) -> nn.Module:
        twin = copy.deepcopy(model)
        if MaskState.of(twin) is None:
            MaskState(twin, masks)
        return twin

    def _shapes(self) -> dict[str, torch.Size]:
        weights = dict(self.model.named_parameters())
        return {n: weights[n].shape for n in self.names}

    def _holder(self) -> Sparsity:
        """Holds the masks that a network has and changes nothing."""
        return Sparsity(1.0, schedule=Schedule(at=0), select=self.names)

    def _pruned(self, model: nn.Module, masks: Masks, kept: int) -> Masks:
        keep = kept / sum(self.sizes.values())
        masks = {n: m.to(dict(model.named_parameters())[n].device) for n, m in masks.items()}
        start = {n: t for n, t in self._started.items() if n in masks}
        return choose(
            model,
            self.names,
            keep,
            importance=self.importance,
            granularity=self.granularity,
            allocation=self.allocation,
            context=Context(self._examples, masks, start, keep, self.seed, kept == self.remaining[-1]),
            eligible=masks,
        )

    def _beginning(
        self, level: int, previous: nn.Module | None, masks: Masks
    ) -> tuple[nn.Module, int, Recipe]:
        """The network that a level begins with, the step it begins at, and its recipe."""
        if level == 0 or previous is None:
            begin, start, recipe = copy.deepcopy(self.model), 0, self.recipe
            MaskState(begin, masks)
        elif self.plan.what == "weights":
            begin, start, recipe = self.ticket(masks).build(self.model), self.start, self.recipe
        else:
            begin = copy.deepcopy(previous)
            state = MaskState.of(begin)
            assert state is not None
            state.set_(masks)
            start, recipe = (
                (self.start, self.recipe) if self.plan.what == "lr" else (0, self.plan.retrain or self.recipe)
            )
        self._started = {n: t.detach().clone() for n, t in begin.state_dict().items()}
        return begin, start, recipe

    def _train(self, level: int, begin: nn.Module, start: int, recipe: Recipe) -> Fitted:
        snapshots = Snapshots([self.start]) if level == 0 else None
        path = None if self.folder is None else self.folder / f"level-{level:02d}.pt"
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        more = self.callbacks(level) if self.callbacks else ()
        fitted = fit(
            begin,
            self.data,
            recipe,
            device=self.device,
            start=start,
            checkpoint=path,
            callbacks=[self._holder(), *([snapshots] if snapshots else []), *more],
        )
        if snapshots is not None:
            self.early = snapshots.taken[self.start]
        return fitted
