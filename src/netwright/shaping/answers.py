"""How a network answers each example of a split: what paired comparisons between networks need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from netwright import _files
from netwright.errors import ArtefactError


@dataclass(frozen=True)
class Answers:
    """One network's answers to the examples of a split, judged one by one.

    Args:
        right: (N,) bool: the first answer is the label; without labels, the dense network's first answer.
        loss: (N,) float32, in nats: cross entropy with the label; without labels, the KL divergence of the
            answer from the dense network's.
    """

    right: Tensor
    loss: Tensor

    @property
    def quality(self) -> float:
        """Share of right answers."""
        return float(self.right.double().mean())

    def save(self, path: Path) -> None:
        """Write them as safetensors, atomically."""
        _files.write_safetensors(path, {"right": self.right, "loss": self.loss})

    @classmethod
    def load(cls, path: Path) -> Answers | None:
        """Read them; None where there is no such file (a study of an older version).

        Raises:
            ArtefactError: if the file is damaged.
        """
        from safetensors.torch import load_file

        if not path.exists():
            return None
        try:
            state = load_file(path)
            return cls(state["right"], state["loss"])
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            raise ArtefactError(
                f"{path} cannot be read: {text}", "delete it and run the same command again"
            ) from error


def judged(logits: Tensor, reference: Tensor, labels: Tensor | None) -> Answers:
    """Judge answers one by one.

    Args:
        logits: The network's answers, (N, K).
        reference: The dense network's answers, (N, K); what is right where there are no labels.
        labels: (N,) int64, or None.
    """
    logs = F.log_softmax(logits.double().cpu(), dim=1)
    if labels is not None:
        loss = F.cross_entropy(logs, labels, reduction="none")
        return Answers(logits.argmax(dim=1) == labels, loss.float())
    truth = F.log_softmax(reference.double().cpu(), dim=1)
    loss = F.kl_div(logs, truth, reduction="none", log_target=True).sum(dim=1).clamp_min(0.0)
    return Answers((logits.argmax(dim=1) == reference.argmax(dim=1)).cpu(), torch.as_tensor(loss).float())
