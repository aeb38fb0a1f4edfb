"""Accuracy, loss and logits of a network over one split."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from netwright.errors import DataError, ModelError
from netwright.train.losses import UNLABELLED, cross_entropy
from netwright.train.recipe import Precision
from netwright.train.runtime import Runtime, evaluating, resolve_device

if TYPE_CHECKING:
    from netwright.data import Part


@dataclass(frozen=True)
class Score:
    """How well a network answers.

    Args:
        accuracy: Share of labels predicted, in 0..1.
        loss: Mean cross entropy.
        count: Labels it was measured on.
    """

    accuracy: float
    loss: float
    count: int

    @property
    def correct(self) -> int:
        """Labels predicted."""
        return round(self.accuracy * self.count)


def evaluate(
    model: nn.Module,
    part: Part,
    *,
    device: str | torch.device = "auto",
    precision: Precision = "fp32",
    batch_size: int = 256,
    limit: int | None = None,
) -> Score:
    """Measure accuracy and cross entropy over a labelled split.

    The model is run in eval mode; its modes are restored and a copy is made if it lives on another device.

    Args:
        model: Takes (B, ...) and answers (B, K) or (B, K, ...).
        part: The split.
        device: Where to run.
        precision: ``"fp32"``, ``"bf16"`` or ``"auto"``.
        batch_size: Examples at a time.
        limit: Most examples, or None for all.

    Raises:
        DataError: if the split has no labels.
        ModelError: if the model rejects the batches.
    """
    if not part.labelled:
        raise DataError(
            "accuracy needs labels, and this split has none", "compare logits with agreement instead"
        )
    if part.numbers:
        raise DataError("accuracy needs classes, and the targets of this split are numbers")
    correct = loss = torch.zeros((), dtype=torch.float64)
    count = 0
    for answer, labels in _answers(model, part, device, precision, batch_size, limit):
        part_correct, part_loss, part_count = tally(answer, labels)
        correct, loss, count = correct + part_correct.cpu(), loss + part_loss.cpu(), count + part_count
    if count == 0:
        raise DataError("accuracy needs examples, and this split is empty")
    return Score(float(correct) / count, float(loss) / count, count)


def logits(
    model: nn.Module,
    part: Part,
    *,
    device: str | torch.device = "auto",
    precision: Precision = "fp32",
    batch_size: int = 256,
    limit: int | None = None,
) -> Tensor:
    """Return a network's answers over a split, (N, K) on the CPU in fp32; arguments as for `evaluate`."""
    answers = [answer.cpu() for answer, _ in _answers(model, part, device, precision, batch_size, limit)]
    if not answers:
        raise DataError("there are no examples in this split")
    return torch.cat(answers)


def tally(answer: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return the number predicted, the summed loss and the number of labels of one batch.

    Args:
        answer: Logits (B, K) or (B, K, ...).
        labels: (B,) or (B, ...), -1 where unlabelled.
    """
    known = labels != UNLABELLED
    count = int(known.sum())
    right = ((answer.argmax(dim=1) == labels) & known).sum().double()
    loss = cross_entropy(answer, labels).double() * count if count else torch.zeros((), dtype=torch.float64)
    return right, loss, count


def check_fits(model: nn.Module, example: Tensor, num_classes: int | None, runtime: Runtime) -> Tensor:
    """Run a model once on an example, in eval mode and without gradients; returns its logits.

    Raises:
        ModelError: if it rejects the example, or answers with fewer classes than the data have.
    """
    with torch.no_grad(), evaluating(model):
        answer = runtime.forward(model, runtime.move(example))
    if answer.dim() < 2 or len(answer) != len(example):
        raise ModelError(
            f"the model answers a batch of shape {tuple(example.shape)} with shape {tuple(answer.shape)}",
            "a classifier answers (batch, classes)",
        )
    if num_classes and answer.shape[1] < num_classes:
        raise ModelError(
            f"the model answers {answer.shape[1]} classes, the data have {num_classes}",
            f"build the model with num_classes={num_classes}",
        )
    return answer


def _answers(
    model: nn.Module,
    part: Part,
    device: str | torch.device,
    precision: Precision,
    batch_size: int,
    limit: int | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (B, K) and labels (B,) on the device, batch by batch."""
    where = resolve_device(device)
    runtime: Runtime | None = None
    present = next((t.device for t in (*model.parameters(), *model.buffers())), where)
    if present.type != where.type or (where.index is not None and present != where):
        model = copy.deepcopy(model)
    with torch.no_grad(), evaluating(model):
        for x, y in part.batches(batch_size, limit=limit):
            if runtime is None:
                runtime = Runtime.choose(where, x, precision=precision, model=model)
                model.to(where)
            yield runtime.forward(model, runtime.move(x)), y.to(where)
