"""Sparsity while training: a callback that prunes, exchanges, shrinks and holds masks by a schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.pruning.allocations.choosing import Allocations, check_together, choose, prunable_weights
from netwright.pruning.importances.elements import Context
from netwright.pruning.importances.importance import find_elements
from netwright.pruning.masks.granularity import WEIGHT, Granularity, find_granularity
from netwright.pruning.masks.mask_state import MaskState, agree, bake, unwrap
from netwright.pruning.masks.selection import Masks, top_k
from netwright.pruning.schedules.combining import check_schedule
from netwright.pruning.schedules.schedule import Event, Gradual, Growth, Penalise, Schedule, find_schedule
from netwright.pruning.schedules.soft import GrowingPenalty, sampled_masks, shrink_
from netwright.pruning.statistics.examples import Examples
from netwright.train import Callback, State


@dataclass(frozen=True)
class Change:
    """What one event did.

    Attributes:
        step: After how many steps.
        keep: Share of the weights that stays since then.
        pruned: Weights that were pruned.
        grown: Weights that were grown.
        explored: Share of the weights that have been active at any time (ITOP's rate).
    """

    step: int
    keep: float
    pruned: int
    grown: int
    explored: float


class Sparsity(Callback):
    """Train a network sparsely: for `netwright.train.fit`, or for a loop of one's own.

    In a loop of one's own::

        sparsity = Sparsity(keep=0.1, schedule="granet").attach(model, optimizer, steps)
        for x, y in batches:
            loss(model(x), y).backward()
            optimizer.step()
            sparsity.step()
            optimizer.zero_grad()

    Args:
        keep: Share of the weights that stays in the end.
        importance: What goes first: a name or an `ElementImportance`.
        granularity: What goes as one piece: "weight", "row", "block:4x4", "2:4" ...
        allocation: How the share is spread over the layers.
        schedule: When; a name or an object of `netwright.pruning.schedules.schedule`.
        select: Only these weights (see `prunable_weights`).
        exclude: Weights that are left alone.
        data: Examples for importances that look at some.
        seed: Of what is drawn at random.

    Attributes:
        changes: What every event did.
        chosen: What stayed as it was when a schedule last shrank or penalised the rest.
        drawn: The masks that were last drawn, where a schedule has put them back to one since.

    Raises:
        UsageError: if the parts do not fit together.
    """

    def __init__(
        self,
        keep: float = 0.1,
        *,
        importance: Any = "magnitude",
        granularity: str | Granularity = WEIGHT,
        allocation: Allocations = "global",
        schedule: str | Schedule = "cubic",
        select: str | Sequence[str] | None = None,
        exclude: Iterable[str] = (),
        data: Any = None,
        seed: int = 0,
    ) -> None:
        if not 0 < keep <= 1:
            raise UsageError(f"a share of {keep:g} cannot stay", "give a share above 0, at most 1")
        self.keep, self.importance, self.allocation = keep, importance, allocation
        self.granularity, self.schedule = find_granularity(granularity), find_schedule(schedule)
        check_together(importance, self.granularity, allocation)
        check_schedule(self.schedule, self.granularity, importance, allocation)
        self.select, self.exclude, self.data, self.seed = select, tuple(exclude), data, seed
        self.changes: list[Change] = []
        self.names: list[str] = []
        self._explored: Masks = {}
        self._start: Masks = {}
        self.chosen: Masks = {}
        self.drawn: Masks = {}
        self._penalty = GrowingPenalty()
        self._late: Event | None = None
        self._state: State | None = None

    #: `fit` leaves the masks to this callback.
    holds_masks = True

    # As a callback

    def prepare(self, model: nn.Module) -> None:
        """Give the network its masks, all ones where it has none yet, and forget an earlier training."""
        self.changes, self._explored, self._start, self._late = [], {}, {}, None
        self.drawn = {}
        present = MaskState.of(model)
        if present is not None:
            self.names = list(present.masks)
            return
        self.names = prunable_weights(model, select=self.select, exclude=self.exclude)
        parameters = dict(model.named_parameters())
        ones = {n: torch.ones_like(parameters[n], dtype=torch.bool) for n in self.names}
        MaskState(model, ones, soft=self.schedule.soft)

    def begin(self, state: State) -> None:
        """Take the masks over, and do what the schedule says before the first step."""
        masks = self._masks(state)
        if not self._explored:
            self._explored = {n: m.clone() for n, m in masks.masks.items()}
        if state.step == 0 and not self.changes:
            self._act(state, masks)
        if not self._start:
            self._remember(masks)

    def before_step(self, state: State) -> None:
        """Add the gradient of a penalty where the schedule has one."""
        if self._penalty.factors:
            self._penalty.add_(self._masks(state))

    def after_step(self, state: State) -> None:
        """Hold the masks, then do what the schedule says."""
        masks = self._masks(state)
        # To grow by momentum the momentum of what is masked must be known; events clear it.
        by_momentum = (
            isinstance(self.schedule, Gradual) and self.schedule.rate and self.schedule.by == "momentum"
        )
        masks.apply_(None if by_momentum else state.optimizer)
        self._act(state, masks)
        average = MaskState.of(state.average) if state.average is not None else None
        if average is not None:
            average.set_(masks.masks)

    def state_dict(self) -> dict[str, Any]:
        """What happened so far."""
        late = None if self._late is None else {"rate": self._late.rate, "by": self._late.by}
        return {
            "changes": [asdict(c) for c in self.changes],
            "explored": dict(self._explored),
            "start": dict(self._start),
            "late": late,
            "penalty": dict(self._penalty.factors),
            "drawn": dict(self.drawn),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.changes = [Change(**c) for c in state["changes"]]
        self._explored = dict(state["explored"])
        self._start = dict(state["start"])
        self._penalty.factors = dict(state.get("penalty", {}))
        self.drawn = dict(state.get("drawn", {}))
        late = state.get("late")
        self._late = None if late is None else Event(rate=late["rate"], by=late["by"])

    # In a loop of one's own

    def attach(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: int,
        *,
        step: int = 0,
        average: nn.Module | None = None,
    ) -> Sparsity:
        """Begin; call `step` after every ``optimizer.step()`` then.

        Args:
            model: The network, perhaps inside a `DistributedDataParallel` or a compiled module; it gets
                masks.
            optimizer: Of its parameters.
            steps: Optimiser steps of the whole training.
            step: Steps that are done: a training that goes on has the masks of its state dict (see
                `MaskState.load`), and `load_state_dict` gives back the rest after this.
            average: A moving average of the network, updated before each call of `step`, with masks of its
                own: what is masked becomes zero there too.
        """
        self._state = State(model, optimizer, steps, steps, step, average)
        self.prepare(unwrap(model))
        if average is not None and MaskState.of(average) is None:
            masks = MaskState.of(model)
            assert masks is not None
            MaskState(average, masks.masks, soft=masks.soft)
        self.begin(self._state)
        if isinstance(self.schedule, Penalise):
            here = self._state
            optimizer.register_step_pre_hook(lambda opt, args, kwargs: self.before_step(here))
        return self

    def step(self) -> None:
        """After one step of the optimiser, before its gradients are cleared.

        Raises:
            UsageError: if `attach` was not called.
        """
        if self._state is None:
            raise UsageError("there is nothing to prune yet", "call attach(model, optimizer, steps) first")
        self._state.step += 1
        self.after_step(self._state)

    # What events do

    def _masks(self, state: State) -> MaskState:
        masks = MaskState.of(unwrap(state.model))
        if masks is None:
            raise UsageError("the network lost its masks", "train the network that prepare() was called with")
        return masks

    def _act(self, state: State, masks: MaskState) -> None:
        event = self.schedule.event(state.step, state.steps, self.keep)
        if event is None:
            event = self._late
        if event is None:
            return
        model = unwrap(state.model)
        if event.gentle:
            self._soften(model, event, masks, state.step)
            return
        before = {n: m.clone() for n, m in masks.masks.items()}
        if event.restore:
            masks.set_({n: torch.ones_like(m) for n, m in before.items()})
        if event.keep is not None:
            # Processes that train together may have seen other examples: one of them decides.
            for share in event.shares:
                round_ = replace(event, keep=share)
                present = before if event.rounds == 1 else {n: m.clone() for n, m in masks.masks.items()}
                masks.set_(agree(self._choose(model, round_, masks, present, state.step)))
            self._penalty.factors.clear()
        if event.rate:
            self._exchange(masks, event, state)
        masks.apply_(state.optimizer)
        self._record(state.step, before, masks)
        if event.reactivate:
            self.drawn = {n: m.clone() for n, m in masks.masks.items()}
            masks.set_({n: torch.ones_like(m) for n, m in self.drawn.items()})
        if event.keep is not None:
            self._remember(masks)

    def _soften(self, model: nn.Module, event: Event, masks: MaskState, step: int) -> None:
        """Shrink or penalise what would be pruned."""
        assert event.keep is not None
        if event.sample < 1:
            context = Context(None, {}, self._start, event.keep, self.seed + step, last=False)
            found = sampled_masks(
                model,
                self.names,
                event.keep,
                event.sample,
                importance=self.importance,
                allocation=self.allocation,
                context=context,
            )
        else:
            found = self._choose(model, event, masks, {}, step)
        self.chosen = agree(found)
        if event.shrink is not None:
            shrink_(masks, self.chosen, event.shrink)
        if event.penalty:
            self._penalty.grow(self.chosen, event.penalty, event.limit)

    def _remember(self, masks: MaskState) -> None:
        """Keep a copy of the weights that a cycle begins with, for importances that compare with it."""
        if find_elements(self.importance).since_start:
            self._start = {n: masks.parameter(n).detach().clone() for n in masks.masks}

    def _choose(self, model: nn.Module, event: Event, masks: MaskState, before: Masks, step: int) -> Masks:
        assert event.keep is not None
        examples = self.data if isinstance(self.data, Examples) or self.data is None else None
        if examples is None and self.data is not None:
            raise UsageError("data= of a Sparsity are Examples", "write data=Examples(loader, example)")
        present = {} if event.restore else before
        last = event.keep <= self.keep
        if masks.soft:  # importances know weights by the names that they have without masks
            model = bake(model)
        context = Context(examples, present, self._start, event.keep, self.seed + step, last)
        # A schedule that restores masks chooses among all weights, the others among what is left.
        eligible = None if event.restore or event.gentle else before
        return choose(
            model,
            self.names,
            event.keep,
            importance=self.importance if event.importance is None else event.importance,
            granularity=self.granularity,
            allocation=self._allocation(event),
            context=context,
            eligible=eligible,
        )

    def _allocation(self, event: Event) -> Allocations:
        """The run's, unless the event has its own; masks that are drawn once take what was asked for."""
        drawn = isinstance(self.schedule, Gradual) and self.schedule.initial is None
        if event.allocation is None or (drawn and self.allocation != "global"):
            return self.allocation
        found: Allocations = event.allocation
        return found

    def _exchange(self, masks: MaskState, event: Event, state: State) -> None:
        """Drop the smallest of each layer and grow as many where nothing was.

        What was dropped may grow back: it is as good a candidate as any other zero.
        """
        self._late = None
        if event.by == "gradient" and not _finite(masks):
            # A loss scaler let the step out; the next gradients can be looked at.
            self._late = Event(rate=event.rate, by=event.by)
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + state.step)
        stay: Masks = {}
        fresh: Masks = {}
        there, sizes = masks.existing, masks.sizes
        for name, mask in masks.masks.items():
            weight = masks.parameter(name)
            kept = int(mask.sum())
            free = sizes[name] - kept
            moved = min(round(event.rate * kept), free, kept)
            if not moved:
                continue
            stays = top_k(torch.where(mask, weight.detach().abs(), -torch.inf), kept - moved)
            wanted = _growth(event.by, weight, state.optimizer, generator)
            if name in there:
                wanted = torch.where(there[name], wanted, -torch.inf)
            stay[name] = stays
            fresh[name] = stays | top_k(torch.where(stays, -torch.inf, wanted), moved)
        # A grown weight begins at zero, and so does one that was dropped and grew back.
        masks.set_(agree(stay))
        masks.apply_(state.optimizer)
        masks.set_(agree(fresh))

    def _record(self, step: int, before: Masks, masks: MaskState) -> None:
        now = masks.masks
        pruned = sum(int((before[n] & ~now[n]).sum()) for n in now)
        grown = sum(int((now[n] & ~before[n]).sum()) for n in now)
        if step == 0:
            self._explored = {n: m.clone() for n, m in now.items()}
        for name, mask in now.items():
            self._explored[name] = self._explored[name].to(mask.device) | mask
        explored = sum(int(m.sum()) for m in self._explored.values()) / sum(masks.sizes.values())
        self.changes.append(Change(step, masks.density, pruned, grown, explored))


def _growth(
    by: Growth, weight: nn.Parameter, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> Tensor:
    """How much each element is wanted, of the weight's shape."""
    if by == "random":
        return torch.rand(weight.shape, generator=generator).to(weight.device)
    if by == "momentum":
        slots = optimizer.state.get(weight, {})
        slot = next((slots[k] for k in ("momentum_buffer", "exp_avg") if k in slots), None)
        if slot is None:
            raise UsageError("the optimiser has no momentum to grow by", 'grow by="gradient"')
        return slot.abs()
    if weight.grad is None:
        raise UsageError(
            "there is no gradient to grow by",
            "call step() before the gradients are cleared, or grow at random",
        )
    return weight.grad.detach().abs()


def _finite(masks: MaskState) -> bool:
    """Whether all gradients that there are, of masked weights, are numbers."""
    gradients = [g for n in masks.masks if (g := masks.parameter(n).grad) is not None]
    return bool(torch.stack([torch.isfinite(g).all() for g in gradients]).all()) if gradients else True
