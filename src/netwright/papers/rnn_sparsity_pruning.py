"""One-shot pruning of recurrent networks: a base model, masks at every level, retraining with masks held."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from netwright.data import Splits, reber
from netwright.models import TokenClassifier, recurrent
from netwright.papers.run import drawing
from netwright.pruning import MaskState, Sparsity, choose, prunable_weights
from netwright.pruning.masks.selection import Masks
from netwright.train import Recipe, evaluate, fit

#: How the claims call a cell -> its name in `netwright.models`.
CELLS = {"tanh": "tanh", "relu": "relu", "LSTM": "lstm", "GRU": "gru"}
#: Which weights a campaign prunes.
CAMPAIGNS = {"i2h and h2h": ("i2h", "h2h"), "i2h": ("i2h",), "h2h": ("h2h",)}
LEVELS = tuple(k / 10 for k in range(1, 11))
#: Within so much of the base model accuracy counts as regained.
CLOSE = 0.01


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Attributes:
        strings: All of them; three quarters are trained on.
        longest: Letters of a string, at most.
        embedding: Features of a letter.
        hidden: Width of a layer.
        layers: How many.
        epochs: Of the base model.
        batch: Strings of one step.
        lr: Of Adam.
        retrain: Epochs after pruning, at most.
        last: Whose output is read: that of the last letter, or that of the last step, after the zeros.
    """

    strings: int = 8_000
    longest: int = 24
    embedding: int = 32
    hidden: int = 32
    layers: int = 3
    epochs: int = 8
    batch: int = 32
    lr: float = 1e-3
    retrain: int = 1
    last: str = "symbol"

    def recipe(self, epochs: int, seed: int) -> Recipe:
        """Adam at a constant rate, the gradient's norm at most 5."""
        return Recipe(
            epochs=epochs,
            batch_size=self.batch,
            lr=self.lr,
            optimizer="adamw",
            weight_decay=0.0,
            schedule="constant",
            clip_norm=5.0,
            precision="fp32",
            seed=seed,
        )


SMALL = Size()
QUICK = Size(strings=160, longest=20, embedding=8, hidden=8, layers=2, epochs=1)
#: The thesis' own.
FULL = Size(25_000, 54, 50, 50, 3, 50, 32, 1e-3, 10, "padded")


@dataclass(frozen=True)
class Point:
    """What became of a base model at one level of pruning.

    Attributes:
        cell: As in `CELLS`.
        campaign: As in `CAMPAIGNS`.
        level: Share of the campaign's weights that went.
        base: Test accuracy of the base model.
        pruned: The same right after pruning.
        retrained: The same after each epoch of retraining; empty where there was none.
    """

    cell: str
    campaign: str
    level: float
    base: float
    pruned: float
    retrained: tuple[float, ...] = ()

    @property
    def one_epoch_later(self) -> float:
        """Test accuracy after an epoch of retraining, or right away where none was trained."""
        return self.retrained[0] if self.retrained else self.pruned

    @property
    def epochs_to_regain(self) -> int | None:
        """The first epoch within a point of the base model, 0 right after pruning; None if none was."""
        accuracies = (self.pruned, *self.retrained)
        return next((k for k, a in enumerate(accuracies) if a >= self.base - CLOSE), None)


def strings(size: Size, seed: int = 0) -> Splits:
    """Reber strings; the accuracy after every epoch is that of the test split, by which nothing is chosen."""
    found = reber(size.strings, seed, longest=size.longest, val=0.0)
    return dataclasses.replace(found, val=found.test)


def counting_letters(data: Splits) -> float:
    """Test accuracy of a logistic regression on how often each letter is in a string, whatever the order."""
    from sklearn.linear_model import LogisticRegression

    counts = {}
    for part in (data.train, data.test):
        codes = part.source.get(part.indices, None).long()
        counts[part] = torch.zeros(len(codes), 128).scatter_add_(1, codes, torch.ones(codes.shape))[:, 1:]
    model = LogisticRegression(max_iter=1_000).fit(counts[data.train].numpy(), data.train.labels.numpy())
    return float(model.score(counts[data.test].numpy(), data.test.labels.numpy()))


def build(cell: str, size: Size, seed: int) -> TokenClassifier:
    """A fresh network."""
    with drawing(seed):
        layers = recurrent(CELLS[cell], size.embedding, size.hidden, size.layers)  # type: ignore[arg-type]
        return TokenClassifier(layers, last=size.last)  # type: ignore[arg-type]


def masks_at(model: nn.Module, level: float, select: Sequence[str]) -> Masks:
    """Masks without the smallest weights of all chosen matrices together, for any level up to all of them."""
    names = prunable_weights(model, select=select)
    weights = dict(model.named_parameters())
    if level >= 1:
        return {n: torch.zeros_like(weights[n], dtype=torch.bool) for n in names}
    return choose(model, names, 1 - level)


def prune_and_retrain(
    model: nn.Module,
    data: Splits,
    size: Size,
    level: float,
    campaign: str,
    epochs: int,
    seed: int,
    device: str = "cpu",
) -> tuple[float, tuple[float, ...]]:
    """Test accuracy of a pruned copy right away, and after each epoch of retraining with the masks held."""
    pruned = copy.deepcopy(model)
    MaskState(pruned, masks_at(pruned, level, CAMPAIGNS[campaign]))
    at_once = evaluate(pruned, data.test, device=device).accuracy
    if not epochs:
        return at_once, ()
    # The seed of the order differs from that of the base model, which has seen its order already.
    recipe = size.recipe(epochs, seed + 1_000)
    fitted = fit(pruned, data, recipe, device=device, callbacks=[Sparsity(1.0, schedule="one-shot")])
    return at_once, tuple(float(h["accuracy"]) for h in fitted.history)


def measure_cell(
    cell: str,
    data: Splits,
    size: Size,
    seed: int,
    plan: Iterable[tuple[str, float, int]],
    device: str = "cpu",
) -> list[Point]:
    """Train a base model and prune it along a plan.

    Args:
        cell: As in `CELLS`.
        data: Of `strings`.
        size: Of the experiment.
        seed: Of weights and order.
        plan: (campaign, level, epochs of retraining). Where more than one is allowed it is the epochs to
            regain the accuracy that count: none is trained where it was not lost, and all of them, from the
            beginning, where one was not enough.
        device: Where to train.
    """
    recipe = size.recipe(size.epochs, seed)
    fitted = fit(build(cell, size, seed), data, recipe, device=device)
    base = evaluate(fitted.model, data.test, device=device).accuracy
    points = []
    for campaign, level, epochs in plan:
        settings = (data, size, level, campaign)
        tries = (0, 1, epochs) if epochs > 1 else (epochs,)
        for count in tries:
            pruned, retrained = prune_and_retrain(fitted.model, *settings, count, seed, device)
            point = Point(cell, campaign, level, base, pruned, retrained)
            if point.epochs_to_regain is not None:
                break
        points.append(point)
    return points
