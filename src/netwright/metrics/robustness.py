"""How a classifier does on what it was not trained for: other data, and the same data moved against it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from netwright.data import Part
from netwright.errors import DataError, UsageError
from netwright.train import evaluating, main_output, resolve_device


def outlier_auroc(inside: Tensor, outside: Tensor) -> float:
    """How well the largest softmax tells data of another kind: the area under the ROC curve.

    D. Hendrycks and K. Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in
    Neural Networks, ICLR 2017.

    Args:
        inside: Logits (N, K) for examples of the kind that was trained on.
        outside: Logits (M, K) for examples of another.

    Returns:
        The probability that an example of the trained kind gets more confidence than one of the other, ties
        counting half: 0.5 tells nothing, 1 everything.

    Raises:
        UsageError: if one of the two is empty.
    """
    from sklearn.metrics import roc_auc_score

    if inside.dim() != 2 or outside.dim() != 2 or not len(inside) or not len(outside):
        raise UsageError(
            f"logits of shape {tuple(inside.shape)} and {tuple(outside.shape)} cannot be told apart",
            "give (N, K) and (M, K), neither of them empty",
        )
    confidence = torch.cat([inside, outside]).double().softmax(dim=1).amax(dim=1)
    known = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))])
    return float(roc_auc_score(known.numpy(), confidence.cpu().numpy()))


def fgsm(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    epsilon: Tensor | float,
    low: Tensor | float | None = None,
    high: Tensor | float | None = None,
) -> Tensor:
    """Move examples one step against a classifier: ``x + epsilon * sign(dL/dx)``.

    I. J. Goodfellow, J. Shlens and C. Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015.
    The network is run in eval mode, and neither its gradients nor its mode are changed.

    Args:
        model: Answers (B, K).
        x: (B, ...).
        labels: (B,), the true classes.
        epsilon: Size of the step, a number or what spreads over `x`.
        low: Least value of an input, or None.
        high: Largest value, or None.

    Returns:
        The moved examples, of the shape of `x`.
    """
    with evaluating(model), torch.enable_grad():
        moved = x.detach().clone().requires_grad_()
        # A sum, so that a first layer that works in place does not write into the leaf.
        loss = nn.functional.cross_entropy(main_output(model(moved + 0)).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
    moved = moved.detach() + epsilon * gradient.sign()
    if low is not None or high is not None:
        bounds = [
            None if b is None else torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in (low, high)
        ]
        moved = moved.clamp(bounds[0], bounds[1])
    return moved


def fgsm_accuracy(
    model: nn.Module,
    part: Part,
    epsilon: float = 8 / 255,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    device: str | torch.device = "auto",
    batch_size: int = 256,
    limit: int | None = None,
) -> float:
    """Accuracy on pictures after one step against the classifier (see `fgsm`).

    Args:
        model: Answers (B, K).
        part: Labelled pictures whose values were 0..1 before they were normalised.
        epsilon: Size of the step before normalisation; pictures stay within 0..1.
        mean: Per channel, as it was subtracted: that of the `Splits`.
        std: Per channel, as it was divided by.
        device: Where to run.
        batch_size: Examples at a time.
        limit: Most examples, or None for all.

    Returns:
        Share of the examples still told rightly, in 0..1.

    Raises:
        DataError: if the part has no labels or no examples.
    """
    if not part.labelled or not len(part):
        raise DataError("accuracy needs labelled examples", "give a labelled split")
    where = resolve_device(device)
    model = copy.deepcopy(model).to(where)
    channels = (-1, *[1] * (len(part.shape) - 1))
    centre = torch.tensor(mean or (0.0,), device=where).reshape(channels)
    scale = torch.tensor(std or (1.0,), device=where).reshape(channels)
    right = count = 0
    for x, y in part.batches(batch_size, limit=limit):
        x, y = x.to(where), y.to(where)
        moved = fgsm(model, x, y, epsilon / scale, -centre / scale, (1 - centre) / scale)
        with evaluating(model), torch.no_grad():
            right += int((main_output(model(moved)).argmax(dim=1) == y).sum())
        count += len(y)
    return right / count
