"""Training examples drawn by how large their gradients are.

S. Lu, Y. Hu, L. Yang, Z. Sun, J. Mei, J. Tan and C. Song, PA&DA: Jointly Sampling PAth and DAta for
Consistent NAS, CVPR 2023, section 3.3: the variance of a gradient estimated from one example is least where
examples are drawn in proportion to the norms of their gradients; the norm at the logits is a bound on them
that the forward pass gives for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.errors import UsageError

#: Share of the training that is done, 0 to 1 -> how much importance counts, 0 to 1.
Ramp = Callable[[float], float]


def ramp(schedule: str | Ramp) -> Ramp:
    """How much importance counts as the training goes on.

    Args:
        schedule: "linear", "none" (never), or a function of the share of the training that is done.

    Raises:
        UsageError: if there is no such schedule.
    """
    if callable(schedule):
        return schedule
    known: dict[str, Ramp] = {"linear": lambda share: share, "none": lambda share: 0.0}
    if schedule not in known:
        raise UsageError(f"schedule={schedule!r} is not known", f"choose from {', '.join(known)}")
    return known[schedule]


def logit_gradient_norm(logits: Tensor, targets: Tensor) -> Tensor:
    """Norm of the gradient of each example's cross entropy at its logits: |softmax(z) - onehot(y)|.

    Args:
        logits: (B, K).
        targets: (B,) classes.

    Returns:
        (B,), from 0 to below sqrt(2).
    """
    wanted = F.one_hot(targets, logits.shape[1])
    return torch.linalg.vector_norm(torch.softmax(logits.float(), dim=1) - wanted, dim=1)


class ImportanceSampler:
    """The examples of every epoch, drawn with replacement by the norms of their gradients in the one before.

    It is an order of `train.fit`. While importance does not count it is the plain shuffle, to the last bit.
    As in the authors' code an example that an epoch did not see has no importance in the next one, and as
    importance comes to count wholly it almost never returns; the losses are not corrected for how often an
    example is drawn. Both can be changed.

    Args:
        examples: How many there are, or something with that length.
        schedule: "linear" from 0 to 1 over the training, "none", or a function of the share that is done.
        keep_unseen: Let examples that an epoch did not see keep their last value.
        unbiased: Divide each loss by N times its probability, so that the expected gradient is that of all
            examples.

    Attributes:
        probabilities: (N,) float64 of the next epoch's draws.
        strength: How much importance counts in them.
    """

    def __init__(
        self,
        examples: int | Any,
        *,
        schedule: str | Ramp = "linear",
        keep_unseen: bool = False,
        unbiased: bool = False,
    ) -> None:
        count = examples if isinstance(examples, int) else len(examples)
        if count < 1:
            raise UsageError(f"there are {count} examples to draw from", "give at least one")
        self.count, self.ramp = count, ramp(schedule)
        self.keep_unseen, self.unbiased = keep_unseen, unbiased
        self.probabilities = torch.full((count,), 1.0 / count, dtype=torch.float64)
        self.strength = 0.0
        self.scores = torch.zeros(count, dtype=torch.float64)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return self.count

    def draw(self, epoch: int, count: int, generator: torch.Generator) -> Tensor:
        """Positions of the examples of an epoch, (count,) int64.

        Args:
            epoch: From 0.
            count: Examples of the training part.
            generator: Of the draw.

        Raises:
            UsageError: if there are not as many as the sampler was made for.
        """
        if count != self.count:
            raise UsageError(f"the sampler is for {self.count} examples, not {count}", "make it for the part")
        if self.strength == 0.0:
            return torch.randperm(count, generator=generator)
        return torch.multinomial(self.probabilities, count, replacement=True, generator=generator)

    def weights(self, positions: Tensor) -> Tensor | None:
        """What makes the expected gradient that of all examples, (B,); None where that is not asked for.

        Args:
            positions: (B,) int64.
        """
        if not self.unbiased:
            return None
        return self.corrections(positions)

    def corrections(self, positions: Tensor) -> Tensor:
        """1 by N times the probability of examples, (B,) float32.

        Args:
            positions: (B,) int64.
        """
        return (1.0 / (self.count * self.probabilities[positions])).float()

    def observe(self, positions: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Take note of the norms of a batch, without waiting for the device.

        Args:
            positions: (B,) int64.
            logits: (B, K), detached.
            targets: (B,) classes.
        """
        self._seen.append((positions, logit_gradient_norm(logits, targets)))

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Work out the probabilities of the next epoch.

        Args:
            epoch: From 0.
            epochs: Of the whole training.
        """
        self._average()
        self.strength = float(self.ramp(epoch / max(epochs, 1)))
        total = float(self.scores.sum())
        if total == 0.0:
            self.strength = 0.0
        share = self.scores / total if total else self.scores
        self.probabilities = self.strength * share + (1.0 - self.strength) / self.count

    def _average(self) -> None:
        """Scores of the epoch: an example seen again has the mean of its old value and the new one."""
        if not self._seen:
            return
        positions = torch.cat([p for p, _ in self._seen])
        norms = torch.cat([n for _, n in self._seen]).cpu().double()
        self._seen.clear()
        scores = self.scores if self.keep_unseen else torch.zeros_like(self.scores)
        again = _occurrence(positions)
        for turn in range(int(again.max()) + 1):
            now = again == turn
            at, new = positions[now], norms[now]
            scores[at] = new if turn == 0 else (scores[at] + new) / 2
        self.scores = scores

    def state_dict(self) -> dict[str, Any]:
        """Probabilities, scores and what the present epoch has seen."""
        return {
            "probabilities": self.probabilities,
            "scores": self.scores,
            "strength": self.strength,
            "seen": [[positions, norms] for positions, norms in self._seen],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.probabilities, self.scores = state["probabilities"], state["scores"]
        self.strength = state["strength"]
        self._seen = [(positions, norms) for positions, norms in state["seen"]]


def _occurrence(positions: Tensor) -> Tensor:
    """How often the same number came before, for each of a list, (n,)."""
    order = torch.argsort(positions, stable=True)
    ordered = positions[order]
    first = torch.ones(len(ordered), dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    index = torch.arange(len(ordered))
    begins = torch.where(first, index, torch.zeros_like(index)).cummax(0).values
    found = torch.empty_like(index)
    found[order] = index - begins
    return found
