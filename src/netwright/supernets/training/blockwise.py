"""Train a supernet block by block, each on what the best path of the blocks before it gives.

C. Li, T. Tang, G. Wang, J. Peng, B. Wang, X. Liang and X. Chang, BossNAS: Exploring Hybrid CNN-transformers
with Block-wisely Self-supervised Neural Architecture Search, ICCV 2021, section 3.1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from netwright.data import Part, Splits
from netwright.errors import DataError, UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.training.blocks import Block, Feed, Feeder, PathBlock, dims_of
from netwright.supernets.training.bootstrapping import BlockLoss, EnsembleBootstrap, Learner
from netwright.train import Recipe, build_optimizer, factor, recalibrate_

#: How blocks are trained by default: the authors' settings for CIFAR, whose learning rate of 0.48 is for
#: batches of 4,096, at a batch that fits anywhere.
RECIPE = Recipe(
    epochs=50, batch_size=256, lr=0.03, optimizer="lars", weight_decay=1e-6, warmup_epochs=2, precision="fp32"
)
#: Examples on which normalisations are measured.
_MEASURED = 512


@dataclass(frozen=True)
class Blockwise:
    """A supernet that was trained block by block, with a loss for every path of every block.

    Attributes:
        sup: The supernet.
        best: The path of least loss, block by block.
        dims: Names of the dims of every block.
        scores: Of every block: what a path chooses there -> its loss.
        losses: Mean training loss of every epoch of every block.
    """

    sup: Elastic
    best: Choice
    dims: tuple[tuple[str, ...], ...]
    scores: tuple[Mapping[tuple[Any, ...], float], ...]
    losses: tuple[tuple[float, ...], ...]

    def rate(self, choice: Mapping[str, Any]) -> float:
        """The sum of the losses of a network's blocks: lower is better.

        Args:
            choice: A choice of the supernet.
        """
        whole = self.sup.complete(choice)
        keys = [tuple(whole[name] for name in dims) for dims in self.dims]
        return float(sum(scores[key] for scores, key in zip(self.scores, keys, strict=True)))


def train_blockwise(
    sup: Elastic,
    blocks: Sequence[str | Sequence[str]],
    data: Splits,
    *,
    loss: BlockLoss | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Blockwise:
    """Train a copy of a supernet block by block.

    A block is trained with all its paths sharing weights; then every path is rated, the best one is kept, and
    the next block is trained on what it gives. What a block was is not touched any more.

    Args:
        sup: The supernet; its blocks must have few enough paths to rate each.
        blocks: Path of a module for each, or paths of modules that run one after another.
        data: Trained on the training split, rated on the validation split; labels are used by losses alone
            that say so.
        loss: What blocks learn from; `EnsembleBootstrap` when None.
        recipe: How each block is trained; its epochs are those of one block.
        seed: Of batches, views and paths.
        progress: Called after every epoch with the number of the block, of the epoch, and the mean loss.

    Raises:
        UsageError: if a choice is of no block, or choices are not laid but cut out.
        DataError: if there is nothing to rate paths by.
    """
    if sup.blueprint.rules is None:
        raise UsageError("every choice of this network is a graph of its own", "it has no blocks to run")
    work = copy.deepcopy(sup).train()
    work.statistics.clear()
    stages = ElasticStages(work, [[block] if isinstance(block, str) else list(block) for block in blocks])
    found = train_stages(stages, data, loss=loss, recipe=recipe, seed=seed, progress=progress)
    best = work.set(stages.fixed).choice
    return Blockwise(work, best, tuple(map(tuple, stages.dims)), found.scores, found.losses)


class Stages(Protocol):
    """A supernet in blocks that are trained one after another."""

    @property
    def sup(self) -> Any:
        """The supernet, a module; it is trained in place."""
        ...

    @property
    def count(self) -> int:
        """How many blocks it has."""
        ...

    def block(self, number: int) -> PathBlock:
        """A block behind those that were kept."""
        ...

    def keep(self, block: PathBlock, path: Any) -> None:
        """A path becomes what the block is from now on."""
        ...

    def feeder(self, number: int, train: Part) -> Feed:
        """What comes into a block from those that were kept; statistics are measured on some examples."""
        ...


@dataclass(frozen=True)
class Trained:
    """What training block by block gave.

    Attributes:
        best: The path of least loss of every block.
        scores: Of every block: what a path chooses there -> its loss.
        losses: Mean training loss of every epoch of every block.
    """

    best: tuple[Any, ...]
    scores: tuple[Mapping[tuple[Any, ...], float], ...]
    losses: tuple[tuple[float, ...], ...]


def train_stages(
    stages: Stages,
    data: Splits,
    *,
    loss: BlockLoss | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Trained:
    """Train any supernet in blocks, in place; see `train_blockwise`.

    Args:
        stages: The blocks.
        data: See `train_blockwise`, also for the others.
        loss: What blocks learn from.
        recipe: How each block is trained.
        seed: Of batches, views and paths.
        progress: Called after every epoch.

    Raises:
        DataError: if there is nothing to rate paths by.
    """
    recipe, loss = recipe or RECIPE, loss or EnsembleBootstrap()
    if len(data.val) < 2:
        raise DataError("paths are rated on the validation split, which is empty", "hold some examples out")
    device = _device(stages.sup)
    best, scores, losses = [], [], []
    for number in range(stages.count):
        block, feeder = stages.block(number), stages.feeder(number, data.train)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1_000 + number)
            learner = loss.learner(block, feeder, next(data.train.batches(2))[0].to(device))
        named = dict(stages.sup.named_parameters())
        trained = [named[name] for name in block.names()]
        losses.append(_fit(learner, trained, data.train, recipe, (seed, number), device, progress))
        rated = _rated(learner, data, seed, device)
        scores.append(dict(zip(block.keys, rated, strict=True)))
        best.append(block.paths[int(np.argmin(rated))])
        stages.keep(block, best[-1])
    return Trained(tuple(best), tuple(scores), tuple(losses))


class ElasticStages:
    """The blocks of an elastic supernet; see `Stages`.

    Args:
        sup: The supernet.
        modules: Paths of the modules of every block.

    Attributes:
        dims: Names of the dims of every block.
        fixed: What the blocks that were kept have chosen.

    Raises:
        UsageError: if a choice is of no block.
    """

    def __init__(self, sup: Elastic, modules: Sequence[Sequence[str]]) -> None:
        self.sup, self.modules, self.count = sup, modules, len(modules)
        self.dims = dims_of(sup.blueprint, modules)
        self.fixed: dict[str, Any] = {}

    def block(self, number: int) -> Block:
        """A block behind those that were kept."""
        dims = self.dims[number]
        return Block(self.sup, self.modules[number], dims, self.fixed, number == 0, self.modules)

    def keep(self, block: PathBlock, path: Choice) -> None:
        """A path becomes what the block is from now on."""
        assert isinstance(block, Block)
        self.fixed |= {name: path[name] for name in block.dims}

    def feeder(self, number: int, train: Part) -> Feeder:
        """Images themselves, or what the network found so far makes of them, with statistics of its own."""
        into = self.modules[number][0]
        if not number:
            return Feeder(None, into)
        network = self.sup.extract(self.sup.complete(self.fixed))
        recalibrate_(network, train.batches(256, limit=2_048))
        return Feeder(network.eval().requires_grad_(False), into)


def _device(sup: nn.Module) -> torch.device:
    return next(sup.parameters()).device


def _fit(
    learner: Learner,
    parameters: Sequence[nn.Parameter],
    train: Part,
    recipe: Recipe,
    seed: tuple[int, int],
    device: torch.device,
    progress: Callable[[int, int, float], None] | None,
) -> tuple[float, ...]:
    """Train one block; mean loss of every epoch."""
    holder = nn.ParameterList([*parameters, *(p for m in learner.modules for p in m.parameters())])
    optimizer = build_optimizer(holder, recipe)
    count = min(recipe.limit or len(train), len(train))
    size = min(recipe.batch_size, count)
    per_epoch = count // size
    steps, warmup = per_epoch * recipe.epochs, round(recipe.warmup_epochs * per_epoch)
    found, step = [], 0
    for epoch in range(recipe.epochs):
        order = torch.Generator().manual_seed((seed[0] * 1_009 + seed[1]) * 100_003 + epoch)
        seen = []
        batches = train.batches(size, shuffle=True, generator=order, drop_last=True, limit=recipe.limit)
        for x, y in batches:
            share = factor(recipe.schedule, step, steps, warmup, recipe.milestones, recipe.gamma)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * share
            optimizer.zero_grad(set_to_none=True)
            rng = np.random.default_rng((*seed, step))
            seen.append(learner.step(x.to(device), y.to(device), rng))
            optimizer.step()
            learner.after_step(step, steps)
            step += 1
        found.append(float(np.mean(seen)))
        if progress is not None:
            progress(seed[1], epoch, found[-1])
    return tuple(found)


def _rated(learner: Learner, data: Splits, seed: int, device: torch.device) -> list[float]:
    """The loss of every path of a trained block."""
    generator = torch.Generator().manual_seed(seed)
    train = next(data.train.batches(_MEASURED, shuffle=True, generator=generator))[0]
    val, labels = next(data.val.batches(len(data.val)))
    return learner.score(train.to(device), val.to(device), labels.to(device), seed)
