"""Losses as small terms that add up to an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Label of an example without one; it counts neither in the loss nor in the accuracy.
UNLABELLED = -1


@dataclass(frozen=True)
class Step:
    """What the terms of an objective see of one optimiser step.

    Args:
        inputs: The batch as the model saw it, (B, ...).
        logits: The model's answer in fp32, (B, K) or (B, K, ...).
        targets: Class labels, (B,) or (B, ...), -1 where unlabelled.
        other: Labels of the examples mixed in, or None.
        share: Weight of `targets` against `other`, in 0..1.
        teacher: The teacher's logits in fp32, or None.
        weights: What the losses of the examples are multiplied by, (B,), or None.
    """

    inputs: Tensor
    logits: Tensor
    targets: Tensor
    other: Tensor | None = None
    share: float = 1.0
    teacher: Tensor | None = None
    weights: Tensor | None = None


Term = Callable[[Step], Tensor]


def cross_entropy(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Return the mean cross entropy.

    Args:
        logits: (B, K) or (B, K, ...).
        targets: Labels (B, ...) as integers, -1 to leave one out; or probabilities of the shape of `logits`.
        smoothing: Share of each target spread evenly over all classes.
        weights: (B,) what the losses of the examples are multiplied by; None is 1. The mean is over all
            examples, those without a label too.
    """
    if weights is not None:
        losses = F.cross_entropy(
            logits, targets, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="none"
        )
        return (losses.flatten(1).mean(1) if losses.dim() > 1 else losses).mul(weights).mean()
    if targets.is_floating_point():
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    return F.cross_entropy(logits, targets, ignore_index=UNLABELLED, label_smoothing=smoothing)


def distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Return KL(teacher || student) of the softened answers times T^2, mean over the batch.

    The factor keeps the gradient's size independent of the temperature (Hinton et al., 2015).

    Args:
        student_logits: (B, K) or (B, K, ...).
        teacher_logits: The same shape.
        temperature: Both logits are divided by it.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return divergence.mean() * temperature**2


@dataclass(frozen=True)
class Labels:
    """Term: cross entropy with the labels, mixed ones included."""

    smoothing: float = 0.0

    def __call__(self, step: Step) -> Tensor:
        """Return the loss of one step."""
        loss = cross_entropy(step.logits, step.targets, smoothing=self.smoothing, weights=step.weights)
        if step.other is None:
            return loss
        other = cross_entropy(step.logits, step.other, smoothing=self.smoothing, weights=step.weights)
        return step.share * loss + (1 - step.share) * other


@dataclass(frozen=True)
class Distillation:
    """Term: follow the teacher's answers."""

    temperature: float = 4.0

    def __call__(self, step: Step) -> Tensor:
        """Return the loss of one step; needs a teacher."""
        if step.teacher is None:
            raise ValueError("distillation needs a teacher")
        return distillation(step.logits, step.teacher, self.temperature)


@dataclass(frozen=True)
class AbsoluteError:
    """Term: mean absolute difference from targets that are numbers, such as images."""

    def __call__(self, step: Step) -> Tensor:
        """Return the loss of one step."""
        return (step.logits - step.targets).abs().mean()


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms.

    Args:
        terms: Pairs (weight, term).
    """

    terms: tuple[tuple[float, Term], ...]

    def __call__(self, step: Step) -> Tensor:
        """Return the weighted sum for one step, a scalar."""
        total = torch.zeros((), device=step.logits.device)
        for weight, term in self.terms:
            total = total + weight * term(step)
        return total
