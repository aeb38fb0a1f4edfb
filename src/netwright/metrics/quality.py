"""Quality of an exported file: its own answers, accuracy and agreement with another network's."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from netwright.errors import ArtefactError, DataError, UsageError
from netwright.metrics.session import open_session, run_padded
from netwright.train import UNLABELLED, Score, cross_entropy

if TYPE_CHECKING:
    from netwright.data import Part


@dataclass(frozen=True)
class Agreement:
    """How closely one network's answers follow another's.

    Args:
        top1: Share of examples with the same first answer, in 0..1.
        kl: Mean KL divergence of the first network's probabilities from the second's, in nats.
        relative_error: L2 norm of the difference of the logits by that of the first network's.
    """

    top1: float
    kl: float
    relative_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return asdict(self)


def onnx_logits(
    path: str | Path, part: Part, *, threads: int = 1, batch_size: int = 64, limit: int | None = None
) -> Tensor:
    """Return an ONNX file's answers over a split, (N, K) in fp32.

    Args:
        path: The file; its first input takes the batches, its first output is the answer.
        part: The split.
        threads: Threads inside an operator.
        batch_size: Examples at a time; a file with a fixed batch size is fed in its own.
        limit: Most examples, or None for all.

    Raises:
        ArtefactError: if the file is no ONNX network.
        DataError: if the split is empty or its shape does not fit.
    """
    session = open_session(path, threads=threads)
    answers = [run_padded(session, x) for x, _ in part.batches(batch_size, limit=limit)]
    if not answers:
        raise DataError("there are no examples in this split")
    return torch.cat(answers)


def onnx_accuracy(
    path: str | Path, part: Part, *, threads: int = 1, batch_size: int = 64, limit: int | None = None
) -> Score:
    """Measure accuracy and cross entropy of an ONNX file over a labelled split; arguments as for
    `onnx_logits`.

    Raises:
        DataError: if the split has no labels, or its shape does not fit.
    """
    if not part.labelled:
        raise DataError(
            "accuracy needs labels, and this split has none", "compare logits with agreement instead"
        )
    session = open_session(path, threads=threads)
    correct = count = 0
    loss = 0.0
    for x, y in part.batches(batch_size, limit=limit):
        answer, known = run_padded(session, x), y != UNLABELLED
        seen = int(known.sum())
        if seen == 0:
            continue
        correct += int(((answer.argmax(dim=1) == y) & known).sum())
        loss += float(cross_entropy(answer, y)) * seen
        count += seen
    if count == 0:
        raise DataError("accuracy needs examples, and this split is empty")
    return Score(correct / count, loss / count, count)


def agreement(a: Tensor, b: Tensor) -> Agreement:
    """Compare the answers of two networks to the same examples.

    Args:
        a: Logits (N, K) of the reference.
        b: Logits (N, K) of the other.

    Raises:
        UsageError: if the shapes differ.
    """
    if a.shape != b.shape or a.dim() < 2 or len(a) == 0:
        raise UsageError(f"logits of shape {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    first, second = a.double().cpu(), b.double().cpu()
    same = (first.argmax(dim=1) == second.argmax(dim=1)).double().mean()
    divergence = F.kl_div(
        F.log_softmax(second, dim=1), F.log_softmax(first, dim=1), reduction="none", log_target=True
    ).sum(dim=1)
    norm = torch.linalg.vector_norm(first)
    error = torch.linalg.vector_norm(first - second) / norm.clamp_min(torch.finfo(torch.float64).tiny)
    return Agreement(float(same), max(float(divergence.mean()), 0.0), float(error))


def accuracy_interval(correct: int, count: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's confidence interval of an accuracy.

    Args:
        correct: Examples answered rightly.
        count: Examples in all, 1 or more.
        confidence: Chance that the interval holds the true value.

    Returns:
        Lower and upper bound, in 0..1.

    Raises:
        UsageError: if the numbers make no share.
    """
    if count < 1 or not 0 <= correct <= count or not 0 < confidence < 1:
        raise UsageError(f"{correct} of {count} at confidence {confidence:g} is no share")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # The exact bounds at the ends are 0 and 1; rounding must not move them.
    low = 0.0 if correct == 0 else centre - half
    return low, 1.0 if correct == count else centre + half


def file_bytes(path: str | Path) -> int:
    """Return the size of a file, external ONNX weights beside it (``NAME.data``) included.

    Raises:
        ArtefactError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtefactError(f"there is no file {path}", "check the path")
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
