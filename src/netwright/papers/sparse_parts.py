"""What the recipes of sparse training share: small data, small networks, paired differences, tables."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from netwright.data import Part, Splits, load
from netwright.papers.noise import noise
from netwright.papers.run import Cell, Run
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.train import Recipe

#: Arm -> test accuracy of each seed.
Scores = Mapping[str, Sequence[float]]
_HELD = 0.3


def digits(quick: bool = False, *, raw: bool = False) -> Splits:
    """The digits of scikit-learn, 70 % to train and 30 % to test, class by class.

    Args:
        quick: A few of them only.
        raw: Grey values in 0..1 rather than normalised ones, so that no input is negative.
    """
    splits = load("digits", statistics=((0.0,), (1.0,)) if raw else None)
    source = splits.train.source
    whole = Part(source)
    labels = whole.labels
    generator = torch.Generator().manual_seed(0)
    held: list[int] = []
    for label in labels.unique():
        members = (labels == label).nonzero().reshape(-1)
        order = members[torch.randperm(len(members), generator=generator)]
        held += order[: round(_HELD * len(members))].tolist()
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[held] = False
    kept = rest.nonzero().reshape(-1)
    order = kept[torch.randperm(len(kept), generator=generator)]
    train, test = whole.subset(order), whole.subset(held)
    if quick:
        # What is held out lies class by class.
        train, test = train.head(200), whole.subset(held[::5])
    # Nothing is chosen by validation here, so none is spent on it.
    return dataclasses.replace(splits, train=train, val=train.head(2), test=test)


#: One pass of a small transformer over text; batches and learning rates are the papers' own.
TRANSFORMER = Recipe(
    epochs=1,
    batch_size=24,
    lr=3e-3,
    optimizer="adamw",
    weight_decay=0.01,
    warmup_epochs=0.1,
    clip_norm=1.0,
    precision="fp32",
    augment=False,
)


def fashion(train: int, test: int, size: int = 14) -> Splits:
    """The first pictures of Fashion-MNIST, resized; nothing is held out for validation."""
    splits = load("fashion-mnist", image_size=None if size == 28 else size)
    return dataclasses.replace(
        splits, train=splits.train.head(train), val=splits.val.head(2), test=splits.test.head(test)
    )


def mlp(widths: Sequence[int], seed: int) -> nn.Module:
    """A perceptron with rectified units, ``widths`` from inputs to classes, drawn with a seed."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return reinitialise_(nn.Sequential(*layers[:-1]), seed)


def paired(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean of the differences seed by seed, and half a 95 % interval of it."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return sum(differences) / len(differences), noise(differences)


def mean_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; 0 of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def accuracy_table(run: Run, title: str, scores: Scores, baseline: str, note: str = "") -> None:
    """Add a table of accuracies with the paired difference of every arm from a baseline."""
    rows: list[tuple[Cell, ...]] = []
    for arm, values in scores.items():
        mean, deviation = mean_deviation(values)
        above, half = (
            paired(values, scores[baseline]) if len(values) == len(scores[baseline]) else (None, None)
        )
        rows.append(
            (
                arm,
                100 * mean,
                100 * deviation,
                None if above is None else 100 * above,
                None if half is None else 100 * half,
                len(values),
            )
        )
    columns = ("arm", "accuracy, %", "deviation", f"points above {baseline}", "±", "seeds")
    more = "± is half a 95 % interval of the paired difference."
    run.table(title, columns, rows, f"{note} {more}".strip())
