"""One comparison: a found sub-network, random ones of the same size, and their parent, seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from netwright.data import Splits
from netwright.metrics.bootstrap import Interval, bootstrap_ci
from netwright.nas import search
from netwright.pruning.systems.space import initial_loss, space
from netwright.train import Recipe, evaluate, fit

#: What the accuracy has to reach for the epochs to count.
REACHED = 0.9


@dataclass(frozen=True)
class Trained:
    """A network before and after its training.

    Attributes:
        loss: Before it, on the training split.
        accuracy: After it, on the test split.
        curve: Test accuracy after each epoch.
        losses: Mean training loss of each epoch.
    """

    loss: float
    accuracy: float
    curve: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def epochs(self) -> int:
        """Epochs until the test accuracy is `REACHED`; one more than there were where it never is."""
        return next((k for k, a in enumerate(self.curve, 1) if a >= REACHED), len(self.curve) + 1)


@dataclass
class Arms:
    """All networks of one sparsity.

    Attributes:
        sparsity: Share of the nodes that went.
        found: One a seed.
        drawn: Some a seed.
        tried: Mean initial loss of all configurations of each search.
        best_so_far: Least initial loss after each trial, of each search.
    """

    sparsity: float
    found: list[Trained] = field(default_factory=list)
    drawn: list[list[Trained]] = field(default_factory=list)
    tried: list[float] = field(default_factory=list)
    best_so_far: list[list[float]] = field(default_factory=list)

    def differences(self, value: Callable[[Trained], float]) -> list[float]:
        """Found less the mean of the random ones, seed by seed."""
        pairs = zip(self.found, self.drawn, strict=True)
        return [value(one) - statistics.fmean(map(value, others)) for one, others in pairs]

    @property
    def loss_ratios(self) -> list[float]:
        """Initial loss of the found network by that of the mean configuration, seed by seed."""
        return [one.loss / mean for one, mean in zip(self.found, self.tried, strict=True)]


def dead_nodes(model: nn.Module, data: Splits) -> float:
    """Share of rectified nodes of a perceptron that are 0 for every training example."""
    y = data.train.source.get(data.train.indices, None)
    dead: list[Tensor] = []
    with torch.no_grad():
        for module in model.children():
            y = module(y)
            if isinstance(module, nn.ReLU):
                dead.append((y == 0).all(dim=0))
    return float(torch.cat(dead).double().mean())


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Bootstrap interval of a mean; of a single value the value itself."""
    if len(values) < 2:
        return Interval(values[0], values[0], values[0])
    return bootstrap_ci(values, level=level, rounds=4000)


def sign_test(values: Sequence[float]) -> float:
    """Two-sided p of a paired test that the differences are centred at 0 (Wilcoxon's signed ranks)."""
    from scipy.stats import wilcoxon

    if not np.any(np.asarray(values)):
        return 1.0
    return float(wilcoxon(values, zero_method="zsplit").pvalue)


def train(model: nn.Module, data: Splits, recipe: Recipe, device: str) -> Trained:
    """Train a copy of a network to the end.

    The accuracy after each epoch is that of ``data.val``; nothing is chosen by it.
    """
    before = evaluate(model, data.train, device=device, batch_size=2048).loss
    fitted = fit(model, data, recipe, device=device)
    accuracy = evaluate(fitted.model, data.test, device=device).accuracy
    curve = tuple(float(h["accuracy"]) for h in fitted.history)
    return Trained(before, accuracy, curve, tuple(float(h["loss"]) for h in fitted.history))


def compare(
    arms: Arms,
    parent: nn.Module,
    data: Splits,
    recipe: Recipe,
    *,
    trials: int,
    drawn: int,
    seed: int,
    limit: int | None = None,
    device: str = "cpu",
) -> None:
    """Search and train the sub-networks of one parent, and add them to the arms.

    Args:
        arms: What they are added to.
        parent: At its initial weights.
        data: To train and to judge by.
        recipe: Of every training: the same data in the same order.
        trials: Configurations of the search.
        drawn: Random configurations to train beside the found one.
        seed: Of the search; the random ones come from another stream.
        limit: Training examples that the initial loss is taken of; all where None.
        device: Where to train.
    """
    nodes = space(parent, data.example(2), keep=1 - arms.sparsity)
    result = search(nodes, [initial_loss(data.train, limit, device)], trials=trials, seed=seed)
    arms.tried.append(statistics.fmean(t.values[0] for t in result.trials))
    arms.best_so_far.append(result.best_so_far)
    arms.found.append(train(result.best.candidate.model, data, recipe, device))
    rng = np.random.default_rng((seed, round(1_000 * arms.sparsity)))
    numbers = rng.integers(0, 2**31 - 1, drawn).tolist()
    arms.drawn.append([train(nodes.configuration(n).model, data, recipe, device) for n in numbers])
