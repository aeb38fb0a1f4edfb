"""What a block of a supernet learns from: the ensemble of its own paths (BossNAS), or labels.

C. Li, T. Tang, G. Wang, J. Peng, B. Wang, X. Liang and X. Chang, BossNAS: Exploring Hybrid CNN-transformers
with Block-wisely Self-supervised Neural Architecture Search, ICCV 2021, sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.data.augmenting import draw, flip_and_crop
from netwright.errors import UsageError
from netwright.supernets.stores.siamese import Alignment, Neck, Siamese, distance, predictor, rising
from netwright.supernets.training.blocks import Feed, PathBlock, View, outputs_of
from netwright.train.losses import cross_entropy

TARGETS = ("ensemble", "single", "own")


class Learner(Protocol):
    """One block in training."""

    modules: Sequence[nn.Module]
    """What is trained beside the block."""

    def step(self, x: Tensor, y: Tensor, rng: np.random.Generator) -> float:
        """Forward and backward passes of one batch of images and labels; returns the mean loss."""
        ...

    def after_step(self, step: int, steps: int) -> None:
        """After the optimiser's step, of which there are `steps`."""
        ...

    def score(self, train: Tensor, val: Tensor, labels: Tensor, seed: int) -> list[float]:
        """A loss for every path of the block: norms are measured on one batch, the loss on another."""
        ...


class BlockLoss(Protocol):
    """What a block learns from."""

    def learner(self, block: PathBlock, feeder: Feed, x: Tensor) -> Learner:
        """A block in training.

        Args:
            block: The block.
            feeder: What comes into it.
            x: A few images.
        """
        ...


def crop_and_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """The views of CIFAR in the paper: shifted by up to an eighth, half of them mirrored.

    Args:
        x: (B, C, H, W).
        generator: Of the shifts.
    """
    numbers = draw(len(x), "crop-flip", generator)
    assert numbers is not None
    return flip_and_crop(x, "crop-flip", numbers)


def drawn(block: PathBlock, count: int, rng: np.random.Generator, fair: bool = False) -> list[Any]:
    """Paths of one step.

    Args:
        block: The block.
        count: How many, without replacement; no more than there are.
        rng: Draws them.
        fair: Every value of every choice once, as many paths as choices have values.
    """
    if fair:
        return block.fair(rng)
    picked = rng.choice(len(block.paths), size=min(count, len(block.paths)), replace=False)
    return [block.paths[int(i)] for i in picked]


@contextmanager
def measuring(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let batch normalisations take over the statistics of the next batch whole.

    Args:
        modules: That hold them; they are in training mode meanwhile.
    """
    norms = [n for m in modules for n in m.modules() if isinstance(n, _BatchNorm)]
    before = [n.momentum for n in norms]
    for norm in norms:
        norm.momentum = 1.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


@dataclass(frozen=True)
class EnsembleBootstrap:
    """Every path foresees, of one view, what all paths of a step make of the other on average (section 3.2).

    Args:
        paths: Paths of a step.
        momentum: Of the target in the beginning; it rises to 1.
        hidden: Width of the hidden layers of the heads.
        vector: Width of what is compared.
        target: "ensemble"; or, for comparison, "single" for one of the step's paths in place of their mean,
            "own" for each path's own.
        views: "own" gives every path a pair of views of its own, "shared" one pair to all.
        fair: Whether a step's paths have every value of every dim once, see `drawn`.
        view: Makes a view.

    Raises:
        UsageError: if an option is not known.
    """

    paths: int = 4
    momentum: float = 0.99
    hidden: int = 4096
    vector: int = 256
    target: str = "ensemble"
    views: str = "own"
    fair: bool = False
    view: View = crop_and_flip

    def __post_init__(self) -> None:
        if self.target not in TARGETS or self.views not in ("own", "shared") or self.paths < 1:
            raise UsageError(
                f"target={self.target!r}, views={self.views!r}, paths={self.paths} are not known",
                f"target is one of {', '.join(TARGETS)}, views own or shared",
            )

    def learner(self, block: PathBlock, feeder: Feed, x: Tensor) -> Bootstrap:
        """The block with the heads of both branches; see `BlockLoss.learner`."""
        return Bootstrap(self, block, feeder, outputs_of(block, feeder(x)), x.device)


class Bootstrap:
    """One block in training by ensemble bootstrapping.

    Args:
        loss: How.
        block: The block.
        feeder: What comes into it.
        outputs: Numbers of channels that it puts out -> height of the images that have them.
        device: Of the heads.

    Attributes:
        weights: The supernet and its moving average.
        necks: The projections of both.
        predictor: Of the branch that learns.
    """

    def __init__(
        self,
        loss: EnsembleBootstrap,
        block: PathBlock,
        feeder: Feed,
        outputs: Mapping[int, int],
        device: torch.device,
    ) -> None:
        self.loss, self.block, self.feeder, self.names = loss, block, feeder, block.names()
        self.weights = Siamese(block.sup)
        self.necks = Siamese(Neck(outputs, loss.hidden, loss.vector).to(device))
        self.predictor = predictor(loss.vector, loss.hidden).to(device)
        self.modules: Sequence[nn.Module] = (self.necks.online, self.predictor)

    def project(self, path: Any, h: Tensor) -> Tensor:
        """(B, vector) what the target makes of what comes into the block, without gradient."""
        with torch.no_grad():
            found: Tensor = self.necks.target(self.block.run(self.weights.target, path, h))
        return found

    def predict(self, path: Any, h: Tensor) -> Tensor:
        """(B, vector) what the branch that learns foresees."""
        found: Tensor = self.predictor(self.necks.online(self.block.run(self.block.sup, path, h)))
        return found

    def mode(self, training: bool) -> None:
        """Training or evaluation of the block and the heads of both branches."""
        for sup in (self.weights.online, self.weights.target):
            for module in self.block.parts(sup):
                module.train(training)
        for head in (self.necks, self.predictor):
            head.train(training)

    def step(self, x: Tensor, y: Tensor, rng: np.random.Generator) -> float:
        """One batch; the labels are not looked at. Gradients of the paths are averaged."""
        paths = drawn(self.block, self.loss.paths, rng, self.loss.fair)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pairs = [self._pair(x, generator) for _ in (paths if self.loss.views == "own" else paths[:1])]
        pairs = pairs if self.loss.views == "own" else pairs * len(paths)
        self.mode(True)
        targets = self._targets(paths, pairs, rng)
        total = 0.0
        for path, (one, two), (first, second) in zip(paths, pairs, targets, strict=True):
            loss = distance(self.predict(path, one), second) + distance(self.predict(path, two), first)
            (loss / len(paths)).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) / len(paths)
        return total

    def _pair(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        view = self.loss.view
        return self.feeder(view(x, generator)), self.feeder(view(x, generator))

    def _targets(
        self, paths: Sequence[Any], pairs: Sequence[tuple[Tensor, Tensor]], rng: np.random.Generator
    ) -> list[tuple[Tensor, Tensor]]:
        """For every path the target of either view."""
        seen = [
            tuple(F.normalize(self.project(path, h), dim=1) for h in pair)
            for path, pair in zip(paths, pairs, strict=True)
        ]
        if self.loss.target == "own":
            return [(one, two) for one, two in seen]
        if self.loss.target == "single":
            one, two = seen[int(rng.integers(len(seen)))]
            return [(one, two)] * len(paths)
        mean = tuple(torch.stack([pair[k] for pair in seen]).mean(dim=0) for k in (0, 1))
        return [(mean[0], mean[1])] * len(paths)

    def after_step(self, step: int, steps: int) -> None:
        """The target follows."""
        momentum = rising(self.loss.momentum, step, steps)
        self.weights.follow(momentum, self.names)
        self.necks.follow(momentum)

    def score(self, train: Tensor, val: Tensor, labels: Tensor, seed: int) -> list[float]:
        """The distance of every path to the centre of all; the labels are not looked at."""
        return PopulationCentre().score(self, train, val, seed)


@dataclass(frozen=True)
class PopulationCentre:
    """Rates paths by how well they foresee the mean of all paths of a block (section 3.3): less is better."""

    def score(self, learner: Bootstrap, train: Tensor, val: Tensor, seed: int) -> list[float]:
        """From -4 to 4 for every path of the block.

        Args:
            learner: A trained block.
            train: Images on which the normalisations of every path are measured.
            val: Images that are rated by.
            seed: Of the views.
        """
        generator = torch.Generator().manual_seed(seed)
        view, feeder = learner.loss.view, learner.feeder
        both = feeder(torch.cat([view(train, generator), view(train, generator)]))
        one, two = feeder(view(val, generator)), feeder(view(val, generator))
        modules = (learner.weights, learner.necks, learner.predictor)
        foreseen, centre = [], [torch.zeros(()), torch.zeros(())]
        with torch.no_grad(), measuring(modules):
            for path in learner.block.paths:
                learner.mode(True)
                learner.project(path, both)
                learner.predict(path, both)
                learner.mode(False)
                foreseen.append((learner.predict(path, one), learner.predict(path, two)))
                for k, h in enumerate((one, two)):
                    centre[k] = centre[k].to(h.device) + learner.project(path, h) / len(learner.block.paths)
        return [float(distance(a, centre[1]) + distance(b, centre[0])) for a, b in foreseen]


@dataclass(frozen=True)
class LocalLabels:
    """Every path of a block learns labels by a linear head of the block's own, for comparison.

    Args:
        paths: Paths of a step.
        classes: How many there are.
        view: Makes the images of a step.
    """

    classes: int
    paths: int = 4
    view: View = crop_and_flip

    def learner(self, block: PathBlock, feeder: Feed, x: Tensor) -> Labelled:
        """The block with its head; see `BlockLoss.learner`."""
        return Labelled(self, block, feeder, outputs_of(block, feeder(x)), x.device)


class Labelled:
    """One block in training by labels.

    Args:
        loss: How.
        block: The block.
        feeder: What comes into it.
        outputs: Numbers of channels that it puts out -> height of the images that have them.
        device: Of the head.
    """

    def __init__(
        self,
        loss: LocalLabels,
        block: PathBlock,
        feeder: Feed,
        outputs: Mapping[int, int],
        device: torch.device,
    ) -> None:
        self.loss, self.block, self.feeder = loss, block, feeder
        align = Alignment(outputs)
        self.head = nn.Sequential(align, nn.Linear(align.outputs, loss.classes)).to(device)
        self.modules: Sequence[nn.Module] = (self.head,)

    def mode(self, training: bool) -> None:
        """Training or evaluation of the block and its head."""
        for module in (*self.block.parts(self.block.sup), self.head):
            module.train(training)

    def answer(self, path: Any, h: Tensor) -> Tensor:
        """(B, classes)."""
        found: Tensor = self.head(self.block.run(self.block.sup, path, h))
        return found

    def step(self, x: Tensor, y: Tensor, rng: np.random.Generator) -> float:
        """One batch; gradients of the paths are averaged."""
        paths = drawn(self.block, self.loss.paths, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self.mode(True)
        total = 0.0
        for path in paths:
            h = self.feeder(self.loss.view(x, generator))
            loss = cross_entropy(self.answer(path, h), y)
            (loss / len(paths)).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) / len(paths)
        return total

    def after_step(self, step: int, steps: int) -> None:
        """Nothing follows."""

    def score(self, train: Tensor, val: Tensor, labels: Tensor, seed: int) -> list[float]:
        """The cross entropy of every path."""
        seen, h = self.feeder(train), self.feeder(val)
        found = []
        with torch.no_grad(), measuring((self.block.sup, self.head)):
            for path in self.block.paths:
                self.mode(True)
                self.answer(path, seen)
                self.mode(False)
                found.append(float(cross_entropy(self.answer(path, h), labels)))
        return found
