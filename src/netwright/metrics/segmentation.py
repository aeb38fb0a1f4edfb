"""How well a network tells the class of every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netwright.data import Part
from netwright.errors import DataError
from netwright.train import UNLABELLED, evaluating


def confusion(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count how often each class is taken for each, (classes, classes) int64; rows are the true ones.

    Args:
        answers: Class of every pixel, (B, H, W).
        labels: The true one, -1 where there is none.
        classes: How many there are.
    """
    known = labels != UNLABELLED
    pairs = labels[known] * classes + answers[known]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(counts: Tensor) -> Tensor:
    """Of every class, (classes,) float64; NaN where a class is neither there nor answered.

    Args:
        counts: As of `confusion`.
    """
    both = counts.diagonal().double()
    either = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return both / either


def mean_iou(model: nn.Module, part: Part, *, batch_size: int = 32) -> float:
    """Mean intersection over union, over the classes that are there or answered; in 0..1.

    Args:
        model: (B, C, H, W) -> (B, K, H, W); run in eval mode, its modes are restored.
        part: Images with a class for every pixel.
        batch_size: Examples at a time.

    Raises:
        DataError: if the examples have no class for every pixel.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    counts: Tensor | None = None
    with torch.no_grad(), evaluating(model):
        for x, y in part.batches(batch_size):
            answer = model(x.to(device))
            if answer.dim() != 4 or y.shape != answer.shape[:1] + answer.shape[2:]:
                raise DataError(
                    f"labels of shape {tuple(y.shape)} do not fit answers of shape {tuple(answer.shape)}",
                    "give a part with a class for every pixel",
                )
            found = confusion(answer.argmax(1).cpu(), y.cpu(), answer.shape[1])
            counts = found if counts is None else counts + found
    if counts is None:
        raise DataError("there are no examples in this split")
    return float(intersection_over_union(counts).nanmean())
