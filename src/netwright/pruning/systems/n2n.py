"""N2N: a network compressed by two policies, one that removes layers and one that shrinks what is left.

A. Ashok, N. Rhinehart, F. Beainy and K. M. Kitani, N2N Learning, ICLR 2018. Children have fresh weights and
learn from the teacher's answers; what a child is worth follows from its size and its accuracy.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netwright.data import Splits
from netwright.errors import StructureError, TrainingError, UsageError
from netwright.nas.reinforce import FACTORS, Reinforce, RemovalPolicy, Sample, ShrinkagePolicy
from netwright.pruning.removal.rebuild import Layer, layers_of, rebuild, shrunk
from netwright.train import Objective, Recipe, Step, evaluate, fit

#: What a child is worth that cannot be built, or is not smaller than its parent.
DEGENERATE = -1.0
#: Updates after which a constraint is hard.
_SOFT_UPDATES = 15
_FEATURES = 5
#: Entries of the encoding that shrink: kernel, stride, outputs, padding.
_SHRINKS = (1, 2, 3, 4)

#: Network -> its accuracy after a short training.
Judge = Callable[[nn.Module], float]


@dataclass(frozen=True)
class LogitMatch:
    """Term: squared distance to the teacher's logits."""

    def __call__(self, step: Step) -> Tensor:
        """Return the loss of one step; needs a teacher."""
        assert step.teacher is not None
        return (step.logits - step.teacher).square().mean()


def distilled_student(
    teacher: nn.Module, data: Splits, recipe: Recipe | None = None, device: str | torch.device = "auto"
) -> Judge:
    """Judge networks by their validation accuracy after a short training on the teacher's logits.

    Args:
        teacher: The trained teacher.
        data: Trained on and judged by (`val`).
        recipe: 5 epochs of Adam at 5e-4 with decay 5e-4 where None.
        device: Where.
    """
    recipe = recipe or Recipe(epochs=5, lr=5e-4, optimizer="adam", weight_decay=5e-4, schedule="constant")
    quiet = dataclasses.replace(data, val=data.val.head(0))

    def judge(network: nn.Module) -> float:
        fitted = fit(
            network,
            quiet,
            recipe,
            teacher=teacher,
            device=device,
            objective=Objective(((1.0, LogitMatch()),)),
        )
        return evaluate(fitted.model, data.val, device=device).accuracy

    return judge


def reward(
    accuracy: float, teacher_accuracy: float, params: int, teacher_params: int, *, least: float | None = None,
    most: int | None = None, update: int = 0,
) -> float:  # fmt: skip
    """What a child is worth: accuracy relative to the teacher times C (2 - C), C the compression.

    Args:
        accuracy: Of the child.
        teacher_accuracy: Of the teacher.
        params: Of the child.
        teacher_params: Of the teacher.
        least: Accuracy that it must have, or None.
        most: Parameters that it may have, or None.
        update: Of the policy, from 0: a constraint is soft at first and hard after 15 of them.
    """
    compression = 1 - params / teacher_params
    worth = accuracy / teacher_accuracy * compression * (2 - compression)
    violated = (least is not None and accuracy < least) or (most is not None and params > most)
    if not violated:
        return worth
    slack = softness(update)
    return (slack - 1) + slack * worth


def softness(update: int) -> float:
    """How soft a constraint is at an update: (1 - e/15)^4, 0 from the fifteenth on."""
    return max(min((1 - update / _SOFT_UPDATES) ** 4, 1.0), 0.0) if update < _SOFT_UPDATES else 0.0


@dataclass(frozen=True)
class Rollout:
    """One child.

    Attributes:
        update: Of the policy, from 0.
        layers: Module -> sizes, None where it was taken out.
        params: Parameters; 0 where it could not be built.
        accuracy: After the short training.
        reward: What it is worth.
    """

    update: int
    layers: dict[str, Layer | None] = field(repr=False)
    params: int
    accuracy: float
    reward: float


class Stage:
    """One of the two searches: children of a parent, proposed by a policy.

    Args:
        parent: The network that is compressed further.
        example: Its input.
        kind: "removal" or "shrinkage".
        judge: Accuracy of a network after a short training.
        teacher_accuracy: Of the teacher.
        teacher_params: Of the teacher.
        policy: Of the search; a fresh one where None. A trained one of another teacher transfers.
        least: Least accuracy, or None.
        most: Most parameters, or None.
        random: Draw actions evenly and learn nothing: the baseline.
        rollouts: Children of one update.
        lr: Of the policy's training.
        seed: Of everything that is drawn.

    Attributes:
        history: All rollouts.
        means: Mean reward of every update.
    """

    def __init__(
        self,
        parent: nn.Module,
        example: Any,
        kind: str,
        judge: Judge,
        teacher_accuracy: float,
        teacher_params: int,
        *,
        policy: nn.Module | None = None,
        least: float | None = None,
        most: int | None = None,
        random: bool = False,
        rollouts: int = 5,
        lr: float = 0.003,
        seed: int = 0,
    ) -> None:
        if kind not in ("removal", "shrinkage"):
            raise UsageError(f"there is no stage {kind!r}", "choose removal or shrinkage")
        self.parent, self.example, self.kind, self.judge = parent, example, kind, judge
        self.teacher_accuracy, self.teacher_params = teacher_accuracy, teacher_params
        self.least, self.most, self.random, self.rollouts, self.seed = least, most, random, rollouts, seed
        _, self.layers = layers_of(parent, example)
        self.size = sum(p.numel() for p in parent.parameters())
        self.policy = policy if policy is not None else self._fresh()
        self.trainer = Reinforce(self.policy, lr)
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[Rollout] = []
        self.means: list[float] = []
        self._known: dict[tuple[Any, ...], tuple[int, float]] = {}

    @property
    def best(self) -> Rollout:
        """The rollout of the highest reward."""
        return max(self.history, key=lambda r: r.reward)

    def run(self, updates: int, say: Callable[[str], None] | None = None) -> Stage:
        """Go on for some updates."""
        for _ in range(updates):
            number = len(self.means)
            samples = [self._sample() for _ in range(self.rollouts)]
            done = [self._roll(sample, number) for sample in samples]
            rewards = [r.reward for r in done]
            self.history += done
            self.means.append(sum(rewards) / len(rewards))
            if not self.random:
                self.trainer.update(samples, rewards)
            if say is not None:
                say(f"{self.kind}, update {number + 1}: mean reward {self.means[-1]:.3f}")
        return self

    def student(self) -> nn.Module:
        """The network of the best rollout, with fresh weights; the parent where no child could be built."""
        return self.build(self.best) if self.best.params else copy.deepcopy(self.parent)

    def build(self, rollout: Rollout) -> nn.Module:
        """The network of a rollout, with fresh weights."""
        return rebuild(self.parent, self.example, rollout.layers, self.seed)

    def _fresh(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return RemovalPolicy(_FEATURES) if self.kind == "removal" else ShrinkagePolicy(_FEATURES)

    @property
    def encoding(self) -> Tensor:
        """(layers, 5): type, kernel, stride, outputs, padding, each by the largest of its column."""
        rows = torch.tensor([layer.encoding for layer in self.layers], dtype=torch.float32)
        return rows / rows.amax(dim=0).clamp_min(1)

    @property
    def free(self) -> Tensor:
        """What the policy decides: (layers,) which can go, or (layers, 5) which entries can shrink."""
        if self.kind == "removal":
            return torch.tensor([layer.removable for layer in self.layers])
        free = torch.zeros(len(self.layers), _FEATURES, dtype=torch.bool)
        first: set[int] = set()
        for t, layer in enumerate(self.layers):
            if layer.kind == 0:
                free[t, 1] = free[t, 2] = free[t, 4] = True
            # Layers that are added share one action: that of the first.
            free[t, 3] = layer.widths and layer.group not in first
            first.add(layer.group)
        return free

    def _sample(self) -> Sample:
        if not self.random:
            return self.policy.sample(self.encoding, self.free, self.generator)  # type: ignore[operator]
        free = self.free
        if self.kind == "removal":
            keep = torch.randint(0, 2, free.shape, generator=self.generator).bool() | ~free
            return Sample(keep, torch.zeros(()))
        drawn = torch.randint(0, len(FACTORS), free.shape, generator=self.generator)
        return Sample(torch.where(free, drawn, FACTORS.index(1.0)), torch.zeros(()))

    def _proposed(self, sample: Sample) -> dict[str, Layer | None]:
        if self.kind == "removal":
            return {
                x.name: None for x, keep in zip(self.layers, sample.actions.tolist(), strict=True) if not keep
            }
        factors = torch.tensor(FACTORS)[sample.actions]
        of_group: dict[int, float] = {}
        found: dict[str, Layer | None] = {}
        for layer, row in zip(self.layers, factors.tolist(), strict=True):
            out = of_group.setdefault(layer.group, row[3]) if layer.widths else 1.0
            new = shrunk(layer, row[1], row[2], out, row[4])
            if new != layer:
                found[layer.name] = new
        return found

    def _roll(self, sample: Sample, update: int) -> Rollout:
        layers = self._proposed(sample)
        key = tuple((n, x.encoding if x is not None else None) for n, x in sorted(layers.items()))
        if key not in self._known:
            self._known[key] = self._judged(layers)
        params, accuracy = self._known[key]
        if not params:
            return Rollout(update, layers, 0, 0.0, DEGENERATE)
        worth = reward(
            accuracy,
            self.teacher_accuracy,
            params,
            self.teacher_params,
            least=self.least,
            most=self.most,
            update=update,
        )
        return Rollout(update, layers, params, accuracy, worth)

    def _judged(self, layers: dict[str, Layer | None]) -> tuple[int, float]:
        """Parameters and accuracy of a child; (0, 0) where it is degenerate."""
        try:
            child = rebuild(self.parent, self.example, layers, self.seed)
            params = sum(p.numel() for p in child.parameters())
            if layers and params >= self.size:
                return 0, 0.0
            return params, self.judge(child)
        except (StructureError, TrainingError):
            return 0, 0.0


def rises(means: Sequence[float], span: int = 5) -> float:
    """Mean of the last updates less that of the first."""
    return sum(means[-span:]) / len(means[-span:]) - sum(means[:span]) / len(means[:span])
