"""How far a classifier's confidence is to be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from netwright.errors import UsageError

#: Bins of `calibration_error`, as most papers take them.
BINS = 15


def calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """The expected calibration error: the mean gap between confidence and accuracy over bins of confidence.

    C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On Calibration of Modern Neural Networks, ICML 2017,
    equation 3: bins of equal width, each open below and closed above, weighted by their share of examples.

    Args:
        logits: (N, K).
        labels: (N,), the classes.
        bins: How many.

    Returns:
        In 0..1; 0 is perfectly calibrated.

    Raises:
        UsageError: if the shapes do not fit, or there are no examples.
    """
    _check(logits, labels)
    if bins < 1:
        raise UsageError(f"there cannot be {bins} bins", "give at least 1")
    confidence, answer = logits.double().softmax(dim=1).max(dim=1)
    hit = (answer == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    gaps.index_add_(0, place, confidence - hit)
    return float(gaps.abs().sum() / len(labels))


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """The mean of -log of the probability given to the right class, in nats.

    Args:
        logits: (N, K).
        labels: (N,), the classes.

    Raises:
        UsageError: if the shapes do not fit, or there are no examples.
    """
    _check(logits, labels)
    return float(torch.nn.functional.cross_entropy(logits.double(), labels))


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise UsageError(
            f"answers of shape {tuple(logits.shape)} do not fit labels of shape {tuple(labels.shape)}",
            "give logits (N, K) and labels (N,) of at least one example",
        )
