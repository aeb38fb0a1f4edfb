"""Searching and pruning in one training: channels that come to nothing go, weights are masked in steps.

A training of legs: after each the network may be another, smaller one, and with it its moving average, its
optimiser's slots and its masks are cut; the next leg goes on from there, with the learning rate and the order
of the data that the whole training has at that step. Nothing changes under a running optimiser.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netwright import structure
from netwright.data import Splits
from netwright.errors import UsageError
from netwright.pruning.allocations.allocation import parse_budget
from netwright.pruning.allocations.choosing import prunable_weights
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.masks.masked import bare, carry_masks, drop_branches
from netwright.pruning.masks.selection import Masks
from netwright.pruning.schedules.penalties import L1, Penalty, ScalePenalty, scales
from netwright.pruning.schedules.schedule import Steps, When, steps_at
from netwright.pruning.schedules.sparsity import Sparsity
from netwright.pruning.schedules.training_cost import TrainingCost
from netwright.pruning.systems.hidden_channels import (
    THRESHOLD,
    Hidden,
    Removal,
    choose_removal,
    cost_weights,
    hidden_scales,
    labels_of,
    whole_branches,
)
from netwright.pruning.systems.joint_standing import Interval, Standing
from netwright.pruning.systems.optimizer_slots import Slots, cut_slots, put_slots_, slots_of
from netwright.structure import Budget, Structure
from netwright.structure.sizes import take
from netwright.train import Average, Callback, Recipe, State, build_optimizer, factor, fit

#: What a penalty may take off a scale in a whole training, where no strength is given: a scale begins at 1.
REACH = 2.0
#: The strength of the paper's Cityscapes run, for optimisers whose steps do not grow with the gradient.
STRENGTH = 1.4e-4
#: The share of the training over which the strength rises: 25 of 430 epochs.
RAMP = 25 / 430


class JointTraining:
    """One training that searches the channels and branches of a supernet and prunes its weights.

    Args:
        supernet: Any network with normalisations that have scales; it is not touched.
        example: Its input.
        data: Trained on.
        recipe: Of the whole training.
        budget: ``macs`` of the final network; the network comes down to it in a straight line until
            `search_until`, the weakest channels first. Once it is met the search is over: nothing is
            penalised or removed any more, since masked channels would go on dying and trainings of one
            budget end at different costs. None removes dead channels only, to the end, as the paper does.
        keep: Share of the weights of the final network that stays.
        every: Steps between two prunings, and between two removals.
        size: How much sparser each time, as a share of all weights.
        reactivate: See `netwright.pruning.schedules.schedule.Steps`.
        prune: False searches only; nothing is masked before `keep` is asked for.
        penalty: On the scales; None is an L1 whose steps sum to 2 (with momentum; see `REACH`), or of
            strength 1.4e-4 where the optimiser is no SGD.
        weighted: Whether the penalty is weighted by what a channel costs.
        ramp: Steps over which the penalty rises.
        threshold: Scales up to this are dead; those of the moving average where there is one.
        worth: Dead channels stay until they are worth this many multiply-accumulates.
        search_until: When the budget is met.
        exclude: Weights that are never masked.
        device: Where to train.

    Attributes:
        at: Where it stands.
        steps: Steps of the whole training.

    Raises:
        UsageError: if the budget names anything but multiply-accumulates or cannot be met, or nothing can be
            penalised.
    """

    def __init__(
        self,
        supernet: nn.Module,
        example: Any,
        data: Splits,
        recipe: Recipe,
        *,
        budget: Budget | str | None = None,
        keep: float = 0.1,
        every: When = 0.1,
        size: float = 0.1,
        reactivate: bool | Literal["next"] = True,
        prune: bool = True,
        penalty: Penalty | None = None,
        weighted: bool = True,
        ramp: When = RAMP,
        threshold: float = THRESHOLD,
        worth: int = 0,
        search_until: When = 0.5,
        exclude: Iterable[str] = (),
        device: str | torch.device = "auto",
    ) -> None:
        if MaskState.of(supernet) is not None:
            raise UsageError(
                "the network has masks already", "remove them first: MaskState.of(model).remove()"
            )
        self.supernet, self.example, self.data, self.recipe = supernet, example, data, recipe
        self.keep, self.exclude, self.device, self.prune = keep, tuple(exclude), device, prune
        count = min(len(data.train), recipe.limit or len(data.train))
        whole, rest = divmod(count, recipe.batch_size)
        self.steps = max(whole + (rest > 1), 1) * recipe.epochs
        self.every = max(steps_at(every, self.steps), 1)
        self.schedule = Steps(every=self.every, size=size, reactivate=reactivate)
        self.threshold, self.worth = threshold, worth
        self.until = max(steps_at(search_until, self.steps), 1)
        self.ramp = steps_at(ramp, self.steps)
        model = copy.deepcopy(supernet)
        net = structure.trace(model, example)
        hidden = hidden_scales(net, model)
        self.weights = cost_weights(net, hidden) if weighted else dict.fromkeys(hidden, 1.0)
        self.penalty = penalty or L1(_strength(recipe, self.steps, self.ramp))
        self.dense, self.ceiling = net.macs, _ceiling(budget, net)
        # Rather now than after half of the training: whether the budget can be met at all.
        choose_removal(
            net, hidden, scales(model), ceiling=self.ceiling, branches=whole_branches(model, hidden)
        )
        names = prunable_weights(model, exclude=self.exclude)
        parameters = dict(model.named_parameters())
        ones = {n: torch.ones_like(parameters[n], dtype=torch.bool) for n in names}
        MaskState(model, ones, soft=self.schedule.soft)
        average = Average(model, recipe.ema) if recipe.ema > 0 else None
        alive = {name: torch.arange(len(labels)) for name, labels in hidden.items()}
        self.at = Standing(model, average, {}, 0, net, hidden, alive)

    @property
    def done(self) -> bool:
        """Whether the training is over."""
        return self.at.step >= self.steps

    def branch(self, keep: float) -> JointTraining:
        """The same training from here on with another share that stays; neither touches the other."""
        twin = copy.copy(self)
        twin.keep = keep
        return twin

    def run(self, until: int | None = None) -> JointTraining:
        """Train to the end, or until some steps are done; returns itself."""
        while not self.done and (until is None or self.at.step < until):
            self.advance()
        return self

    def advance(self) -> Interval:
        """One leg: train, remove what is dead, draw masks."""
        trained, loss, cost = self._train()
        removal = self._removal(trained)
        at = trained if removal is None else self._cut(trained, removal)
        before = at.drawn
        at, keep = self._prune(at) if self.prune else (at, None)
        moved, regrown = _moved(before, at.drawn) if before and keep is not None else (None, None)
        batch = min(self.recipe.batch_size, len(self.data.train))
        interval = Interval(
            step=at.step,
            macs=at.net.macs,
            params=at.net.params,
            removed=removal.channels if removal else 0,
            dropped=removal.dropped if removal else (),
            keep=keep,
            moved=moved,
            regrown=regrown,
            loss=loss,
            training_macs=cost.dense * batch,
            sparse_macs=cost.macs * batch,
        )
        self.at = replace(at, intervals=(*at.intervals, interval))
        return interval

    def _train(self) -> tuple[Standing, float, TrainingCost]:
        """Train to the next multiple of `every`."""
        at = self.at
        stop = min((at.step // self.every + 1) * self.every, self.steps)
        on = {name: torch.ones(len(labels), dtype=torch.bool) for name, labels in at.hidden.items()}
        cost, last = TrainingCost(at.net), _Last()
        callbacks: list[Callback] = [cost, last]
        if self._searches(at):
            callbacks.insert(0, ScalePenalty(on, self.penalty, self.weights, ramp=self.ramp))
        fitted = fit(
            at.model,
            self.data,
            self.recipe,
            device=self.device,
            start=at.step,
            stop=stop,
            optimizer=self._optimizer(at.model, at.slots).state_dict() if at.slots else None,
            average=at.average,
            callbacks=callbacks,
        )
        state = last.state
        assert state is not None
        average = None
        if state.average is not None:
            average = Average(state.average.cpu(), self.recipe.ema)
            average.updates = stop
        slots = slots_of(state.optimizer, state.model)
        model = state.model.cpu().train(at.model.training)
        return (
            replace(at, model=model, average=average, slots=slots, step=stop),
            fitted.history[-1]["loss"],
            cost,
        )

    def _searches(self, at: Standing) -> bool:
        """Whether the architecture is still open."""
        return self.ceiling is None or at.net.macs > self.ceiling

    def _optimizer(self, model: nn.Module, slots: Slots) -> torch.optim.Optimizer:
        optimizer = build_optimizer(model, self.recipe)
        put_slots_(optimizer, model, slots)
        return optimizer

    def _removal(self, at: Standing) -> Removal | None:
        """What goes now, or None."""
        if not self._searches(at):
            return None
        ceiling = None
        if self.ceiling is not None:
            share = min(at.step / self.until, 1.0)
            ceiling = self.dense + (self.ceiling - self.dense) * share
        source = at.average.model if at.average is not None else at.model
        found = choose_removal(
            at.net,
            at.hidden,
            scales(source),
            threshold=self.threshold,
            ceiling=ceiling,
            branches=whole_branches(at.model, at.hidden),
        )
        over = ceiling is not None and at.net.macs > ceiling
        return found if found.channels and (over or at.net.macs - found.macs >= self.worth) else None

    def _cut(self, at: Standing, removal: Removal) -> Standing:
        """Remove channels and branches from the network, its average, its slots and its masks."""
        model, average = at.model, at.average.model if at.average is not None else None
        net, hidden = at.net, at.hidden
        if removal.dropped:
            model = drop_branches(model, removal.dropped)
            average = drop_branches(average, removal.dropped) if average is not None else None
        plain = bare(model)
        if removal.dropped:
            net = structure.trace(plain, self.example)
            hidden = _labels(net, removal.alive)
        done = structure.shrink(plain, net, alive_mask(net, hidden, removal.alive), how="in place")
        # Before the network has masks again: without them there is nothing to take off.
        after = structure.trace(done.model, self.example)
        slots = cut_slots(at.slots, plain, done.model, done.kept)
        left = {name for name, _ in done.model.named_parameters()}
        carry_masks(model, done.model, done.kept, done.scales)
        twin = None
        if average is not None and at.average is not None:
            small = structure.replay(bare(average), done.kept, done.attributes, done.adopted)
            carry_masks(average, small, done.kept)
            twin = Average(small, at.average.decay)
            twin.updates = at.average.updates
        return replace(
            at,
            model=done.model,
            average=twin,
            slots=slots,
            net=after,
            hidden=_labels(after, {name: stays[stays] for name, stays in removal.alive.items()}),
            alive={name: at.alive[name][stays] for name, stays in removal.alive.items()},
            dropped=(*at.dropped, *removal.dropped),
            drawn={n: take(m, dict(done.kept.get(n, {}))) for n, m in at.drawn.items() if n in left},
        )

    def _prune(self, at: Standing) -> tuple[Standing, float | None]:
        """Do what the schedule says at this step, on copies."""
        if self.schedule.event(at.step, self.steps, self.keep) is None:
            return at, None
        model, average = copy.deepcopy(at.model), copy.deepcopy(at.average)
        optimizer = self._optimizer(model, at.slots)
        sparsity = Sparsity(self.keep, schedule=self.schedule, exclude=self.exclude)
        inner = None if average is None else average.model
        sparsity.attach(model, optimizer, self.steps, step=at.step - 1, average=inner)
        sparsity.step()
        state = MaskState.of(model)
        assert state is not None
        drawn = sparsity.drawn or {n: m.clone() for n, m in state.masks.items()}
        slots = slots_of(optimizer, model)
        return replace(at, model=model, average=average, slots=slots, drawn=drawn), sparsity.changes[-1].keep


class _Last(Callback):
    """Holds on to what a training leaves behind."""

    def __init__(self) -> None:
        self.state: State | None = None

    def begin(self, state: State) -> None:
        """Hold on to the state."""
        self.state = state


def _labels(net: Structure, channels: Mapping[str, Tensor]) -> Hidden:
    """Scale -> classes of its channels; the given tensors have one element a channel."""
    return {name: labels_of(net, name, len(each)) for name, each in channels.items()}


def alive_mask(net: Structure, hidden: Mapping[str, Tensor], alive: Mapping[str, Tensor]) -> Tensor:
    """The classes that stay where some channels of some scales do, (count,) bool.

    Args:
        net: The structure.
        hidden: Scale -> classes of its channels (C,).
        alive: Scale -> (C,) bool, the channels that stay.
    """
    keep = net.everything
    for name, stays in alive.items():
        if not bool(stays.all()):
            keep[hidden[name][~stays]] = False
    return keep


def _moved(before: Masks, after: Masks) -> tuple[float, float]:
    """The share of the positions in both that differ, and the share of the masked ones that are no more."""
    one = torch.cat([before[n].reshape(-1) for n in after])
    two = torch.cat([after[n].reshape(-1) for n in after])
    return float((one != two).double().mean()), int((~one & two).sum()) / max(int((~one).sum()), 1)


def _ceiling(budget: Budget | str | None, net: Structure) -> float | None:
    if budget is None:
        return None
    limits = parse_budget(budget)
    if list(limits.limits) != ["macs"] or limits.macs is None:
        raise UsageError(f"{limits} is no budget of a search", 'give macs, for instance "macs=0.5"')
    return limits.macs.against(net.macs)


def _strength(recipe: Recipe, steps: int, ramp: int) -> float:
    """The strength whose steps, with momentum, sum to `REACH`."""
    if recipe.optimizer != "sgd":
        return STRENGTH
    warmup = round(recipe.warmup_epochs * steps / max(recipe.epochs, 1))
    rates = sum(
        recipe.lr
        * factor(recipe.schedule, k, steps, warmup, recipe.milestones, recipe.gamma)
        * (min(k / ramp, 1.0) if ramp else 1.0)
        for k in range(steps)
    )
    return REACH * (1 - recipe.momentum) / max(rates, 1e-12)
