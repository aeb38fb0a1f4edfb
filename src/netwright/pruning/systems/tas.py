"""Transformable Architecture Search: widths and depths of a pruned network by gradient.

X. Dong and Y. Yang, Network Pruning via Transformable Architecture Search, NeurIPS 2019. The weights of a
network of many widths and depths (see `soft_network`) and the probabilities of these are trained in turn, on
two halves of the training data; a term of cost pulls the most probable shape to a budget. What is found is
trained from scratch, following the answers of the network that was pruned.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netwright.data import Part, Splits
from netwright.data.splitting import hold_out
from netwright.errors import UsageError
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.removal.result import Pruned
from netwright.pruning.systems.soft_network import Shape, SoftNetwork
from netwright.pruning.systems.soft_shapes import at_budget, target_of
from netwright.pruning.systems.soft_width import TENTHS
from netwright.structure import Budget, trace
from netwright.structure.facts import why
from netwright.train import Recipe, Runtime, build_optimizer, cross_entropy, factor, fit, resolve_device

#: The published learning rate of the logits, and for how many steps: 600 epochs of 25,000 / 256.
PUBLISHED_LR = 1e-3
PUBLISHED_STEPS = 600 * 98
#: The share of the loss that follows the dense network in the training after the search.
DISTILL = 0.9


@dataclass(frozen=True)
class Tas:
    """How to search; the defaults are the published ones for CIFAR.

    Args:
        recipe: Of the weights. None takes that of the training afterwards, for twice as many epochs, since
            weights see one half of the data.
        lr: Learning rate of the logits (Adam). None takes 1e-3, times how many fewer steps there are than the
            published 58,800: the cost can then move the logits as far as it could there. At a rate that is
            too small the probabilities stay even, and the most probable shape does not follow the budget.
        betas: Of Adam.
        decay: Weight decay of the logits.
        tau: Temperature at the first and at the last step, with a cosine between them.
        cost_weight: Weight of the cost's logarithm.
        tolerance: How far below the budget a shape may lie before it is pulled up, as a share of the dense
            network's cost.
        tenths: Candidate widths, in tenths of an axis.
    """

    recipe: Recipe | None = None
    lr: float | None = None
    betas: tuple[float, float] = (0.5, 0.999)
    decay: float = 1e-3
    tau: tuple[float, float] = (5.0, 0.1)
    cost_weight: float = 2.0
    tolerance: float = 0.05
    tenths: tuple[int, ...] = TENTHS

    def rate(self, steps: int) -> float:
        """The learning rate of the logits in a search of some steps."""
        if self.lr is not None:
            return self.lr
        return PUBLISHED_LR * max(PUBLISHED_STEPS / max(steps, 1), 1.0)


def temperature(progress: float, first: float = 5.0, last: float = 0.1) -> float:
    """The temperature when a share of the search is over: a cosine from the first to the last.

    Args:
        progress: In 0..1.
        first: At 0.
        last: At 1.
    """
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def cost_loss(expected: Tensor, now: float, target: float, slack: float) -> Tensor:
    """The term of cost: its logarithm where the shape is too large, minus that where it is too small, or 0.

    Args:
        expected: Expected multiply-accumulates, in millions, a scalar.
        now: Those of the most probable shape.
        target: What they may be at most.
        slack: How far below that they may be.
    """
    if now > target:
        return expected.log()
    if now < target - slack:
        return -expected.log()
    return 0 * expected


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        shape: The most probable shape, brought to the budget: within it, and no choice larger fits.
        raw: The most probable shape as it is.
        target: The budget in multiply-accumulates.
        history: One record an epoch: losses, expected cost, cost of the most probable shape, temperature.
        soft: The network of all shapes; what it computes is no result.
        seconds: How long it took.
    """

    shape: Shape
    raw: Shape
    target: float
    history: list[dict[str, float]] = field(repr=False)
    soft: SoftNetwork = field(repr=False)
    seconds: float = 0.0


def search(
    model: nn.Module,
    example: Any,
    part: Part,
    budget: Budget | str,
    settings: Tas | None = None,
    *,
    exclude: Iterable[str] = (),
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: Callable[[dict[str, float]], None] | None = None,
) -> Searched:
    """Find widths and depths of a network by gradient, from fresh weights.

    Args:
        model: The network; it is not touched.
        example: Its input.
        part: Labelled examples. One half trains the weights, the other the probabilities.
        budget: A limit of ``macs``.
        settings: How; None for the published way.
        exclude: Names of modules or parameters, or patterns, that stay whole.
        seed: Of the weights, the halves, the order and the noise.
        device: Where.
        progress: Called after every epoch with its record.

    Raises:
        BudgetError: if the budget is not one of ``macs``, or cannot be met by the candidates.
        StructureError: if the network has nothing to choose from.
        UsageError: if the examples have no classes, or are too few.
    """
    begun = time.perf_counter()
    settings = settings or Tas()
    recipe = settings.recipe or Recipe(epochs=600, batch_size=256)
    soft = SoftNetwork(model, example, exclude=exclude, seed=seed, tenths=settings.tenths)
    target = target_of(soft, budget)
    reinitialise_(soft.network, seed)
    if not part.labelled or part.numbers:
        raise UsageError("the search needs examples with classes", "give labelled data")
    if len(part) < 4:
        raise UsageError(f"{len(part)} examples are too few to search with", "give more data")
    halves = _halves(part, seed)
    batch = max(min(recipe.batch_size, len(halves[1])), 1)
    steps = max(len(halves[1]) // batch, 1)
    home = next(model.parameters()).device
    runtime = Runtime(resolve_device(device), bf16=recipe.precision == "bf16", channels_last=False)
    runtime.place(soft).train()
    run = _Search(soft, runtime, recipe, settings, target, recipe.epochs * steps, seed)
    history = []
    for epoch in range(recipe.epochs):
        batches = [
            _batches(half, batch, recipe.augment, (seed * 100_003 + epoch) * 2 + k)
            for k, half in enumerate(halves)
        ]
        record = {"epoch": float(epoch + 1), **run.epoch(batches, epoch * steps)}
        history.append(record)
        if progress is not None:
            progress(record)
    soft.to(home).train(model.training)
    raw = soft.best()
    shape = at_budget(soft, raw, target)
    soft.choose_(shape)
    seconds = time.perf_counter() - begun
    return Searched(soft.shape(shape), soft.shape(raw), target, history, soft, seconds)


def tas(
    model: nn.Module,
    example: Any,
    budget: Budget | str,
    data: Splits,
    settings: Tas | None = None,
    *,
    recipe: Recipe | None = None,
    distill: bool = False,
    exclude: Iterable[str] = (),
    seed: int = 0,
    device: str | torch.device = "auto",
    trains: bool = True,
) -> Pruned:
    """Search for a shape, build it, train it from scratch.

    Args:
        model: The network, trained where its answers are followed.
        example: Its input.
        budget: A limit of ``macs``.
        data: What is searched with (one half each) and trained on.
        settings: Of the search.
        recipe: Of the training after it.
        distill: Follow the network's answers there, with 0.9 of the loss where the recipe does not say.
        exclude: As for `search`.
        seed: Of everything.
        device: Where.
        trains: Whether to train at all; the weights are fresh otherwise.
    """
    begun = time.perf_counter()
    settings = settings or Tas()
    after = recipe or Recipe(seed=seed)
    if settings.recipe is None:
        plain = dataclasses.replace(after, epochs=2 * after.epochs, distill_weight=0.0)
        settings = dataclasses.replace(settings, recipe=plain)
    found = search(model, example, data.train, budget, settings, exclude=exclude, seed=seed, device=device)
    network, shrunk = found.soft.cut(found.shape, model, seed)
    net, history = found.soft.net, []
    notes = [f"{name} keeps {kept} blocks" for name, kept in found.shape.depth.items()]
    if found.shape != found.raw:
        notes.append(f"the most probable shape had {found.raw.macs:,} macs and was brought to the budget")
    if trains:
        if distill and not after.distill_weight:
            after = dataclasses.replace(after, distill_weight=DISTILL)
        home = next(model.parameters()).device
        fitted = fit(network, data, after, teacher=model if distill else None, device=device)
        network, history = fitted.model.to(home), fitted.history
    else:
        notes.append("its weights are fresh: it has to be trained")
    keep = found.soft.mask(found.shape)
    return Pruned(
        network,
        shrunk.kept,
        before=net.dense,
        after=trace(network, example).dense if found.shape.skipped else net.cost(keep),
        frozen=[(axis.name, why(axis)) for axis in net.axes if not axis.prunable],
        net=net,
        keep=keep,
        how=shrunk.how,
        attributes=shrunk.attributes,
        adopted=shrunk.adopted,
        notes=[*notes, *net.notes, *shrunk.notes],
        seconds=time.perf_counter() - begun,
        scales=shrunk.scales,
        history=history,
        skipped=list(found.shape.skipped),
    )


class _Search:
    """The steps of a search."""

    def __init__(
        self,
        soft: SoftNetwork,
        runtime: Runtime,
        recipe: Recipe,
        settings: Tas,
        target: float,
        steps: int,
        seed: int,
    ) -> None:
        self.soft, self.runtime, self.recipe, self.settings = soft, runtime, recipe, settings
        self.target, self.steps = target, steps
        self.weights = build_optimizer(soft.network, recipe)
        self.logits = torch.optim.Adam(
            soft.architecture, lr=settings.rate(steps), betas=settings.betas, weight_decay=settings.decay
        )
        self.generator = torch.Generator().manual_seed(seed)

    def epoch(self, batches: list[Iterator[tuple[Tensor, Tensor]]], done: int) -> dict[str, float]:
        """One pass over both halves in step."""
        sums, count, tau = torch.zeros(3, dtype=torch.float64), 0, 0.0
        for (x, y), (other, classes) in zip(*batches, strict=False):
            step = done + count
            share = factor(self.recipe.schedule, step, self.steps)
            for group in self.weights.param_groups:
                group["lr"] = self.recipe.lr * share
            tau = temperature(step / max(self.steps - 1, 1), *self.settings.tau)
            sums[0] += self.train_weights(x, y, tau)
            sums[1:] += torch.tensor(self.train_logits(other, classes, tau), dtype=torch.float64)
            count += 1
        means = (sums / max(count, 1)).tolist()
        return {
            "loss": means[0],
            "search_loss": means[1],
            "cost_loss": means[2],
            "expected": float(self.soft.expected().detach()),
            "macs": float(self.soft.macs(self.soft.best())),
            "tau": tau,
        }

    def train_weights(self, x: Tensor, y: Tensor, tau: float) -> float:
        """One step of the weights."""
        with torch.no_grad():
            self.soft.draw_(tau, self.generator)
        loss = self.loss(x, y)
        self.weights.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.soft.network.parameters(), self.recipe.clip_norm)
        self.weights.step()
        return float(loss.detach())

    def train_logits(self, x: Tensor, y: Tensor, tau: float) -> tuple[float, float]:
        """One step of the probabilities."""
        soft, settings = self.soft, self.settings
        soft.draw_(tau, self.generator)
        loss = self.loss(x, y)
        slack = settings.tolerance * soft.net.macs
        cost = cost_loss(soft.expected() / 1e6, soft.macs(soft.best()), self.target, slack)
        total = loss + settings.cost_weight * cost.to(loss)
        for parameter, gradient in zip(
            soft.architecture, torch.autograd.grad(total, soft.architecture), strict=True
        ):
            parameter.grad = gradient
        self.logits.step()
        return float(loss.detach()), float(cost.detach())

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy of one batch."""
        answer = self.runtime.forward(self.soft, self.runtime.move(x))
        return cross_entropy(answer, y.to(answer.device), smoothing=self.recipe.label_smoothing)


def _halves(part: Part, seed: int) -> tuple[Part, Part]:
    first, second = hold_out(part.labels, len(part) // 2, seed)
    return part.subset(first), part.subset(second)


def _batches(part: Part, size: int, augment: bool, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return part.batches(size, shuffle=True, generator=generator, augment=augment, drop_last=True)
