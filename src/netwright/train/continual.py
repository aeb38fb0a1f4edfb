"""Sequences of tasks: making them, and what is remembered of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from netwright.data import Part, Splits
from netwright.errors import DataError


def split_by_class(splits: Splits, classes: int = 2, tasks: int | None = None) -> list[Splits]:
    """Tasks of a few classes each, whose labels begin at 0.

    Args:
        splits: Labelled data; tasks hold copies of their examples.
        classes: Classes of a task.
        tasks: How many tasks; as many as there are classes for where None.

    Raises:
        DataError: if there are too few classes.
    """
    most = splits.num_classes // classes
    count = most if tasks is None else tasks
    if not 0 < count <= most:
        raise DataError(f"{splits.num_classes} classes make {most} tasks of {classes}, not {count}")
    found = []
    for task in range(count):
        members = list(range(task * classes, (task + 1) * classes))
        train, val, test = (_relabelled(part, members) for part in (splits.train, splits.val, splits.test))
        found.append(
            replace(
                splits,
                name=f"{splits.name}, classes {members[0]}-{members[-1]}",
                train=train,
                val=val,
                test=test,
                classes=tuple(splits.classes[m] for m in members),
                fingerprint=f"{splits.fingerprint}/{task}/{classes}",
            )
        )
    return found


def permuted(splits: Splits, seed: int) -> Splits:
    """The same data with the pixels of every image in one random order.

    Args:
        splits: The data; examples are copied.
        seed: Of the order.
    """
    size = torch.Size(splits.shape).numel()
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))

    def shuffle(part: Part) -> Part:
        x, y = _all(part)
        return Part.from_tensors(x.flatten(1)[:, order].reshape(x.shape), y)

    return replace(
        splits,
        train=shuffle(splits.train),
        val=shuffle(splits.val),
        test=shuffle(splits.test),
        augment="none",
        fingerprint=f"{splits.fingerprint}/permuted{seed}",
    )


def _all(part: Part) -> tuple[Tensor, Tensor]:
    if not len(part):
        return torch.zeros(0, *part.shape), torch.zeros(0, dtype=torch.long)
    batches = list(part.batches(1024))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def _relabelled(part: Part, members: Sequence[int]) -> Part:
    labels = part.labels
    places = torch.full((int(labels.max()) + 1 if len(labels) else 1,), -1)
    for new, old in enumerate(members):
        if old < len(places):
            places[old] = new
    chosen = (places[labels] >= 0).nonzero().reshape(-1)
    x, y = _all(part.subset(chosen))
    return Part.from_tensors(x, places[y] if len(y) else y)


def average_accuracy(accuracies: Sequence[Sequence[float]]) -> float:
    """Mean accuracy over all tasks after the last one.

    Args:
        accuracies: Row k: the accuracy on tasks 0..k after task k was learned.
    """
    return sum(accuracies[-1]) / len(accuracies[-1])


def forgetting(accuracies: Sequence[Sequence[float]]) -> float:
    """Mean over the earlier tasks of the best accuracy they had less the one they have in the end.

    Args:
        accuracies: Row k: the accuracy on tasks 0..k after task k was learned.

    Returns:
        0 where nothing was forgotten, and for a single task.
    """
    last = len(accuracies) - 1
    lost = [max(row[t] for row in accuracies[t:]) - accuracies[-1][t] for t in range(last)]
    return sum(lost) / len(lost) if lost else 0.0
