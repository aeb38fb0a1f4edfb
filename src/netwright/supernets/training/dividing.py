"""Few-shot search: one supernet first, then several that start from it and divide the space.

Y. Zhao, L. Wang, Y. Tian, R. Fonseca and T. Guo, Few-shot Neural Architecture Search, ICML 2021 (one dim,
every value alone); S. Hu, R. Wang, L. Hong, Z. Li, C.-J. Hsieh and J. Feng, Generalizing Few-Shot NAS with
Gradient Matching, ICLR 2022 (where gradients disagree).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.base import Sampler
from netwright.supernets.samplers.fixed import Uniform
from netwright.supernets.samplers.gradient import GradientAlpha
from netwright.supernets.stores.matching import gradient_distances, max_cut, splittable
from netwright.supernets.stores.tree import Node, Split
from netwright.supernets.training.bilevel import Bilevel
from netwright.supernets.training.paths import HardLabels, Paths, Rule, train
from netwright.train import Callback, Recipe, Snapshots, State

SPLITS = ("gradient-match", "exhaustive", "random")


@dataclass(frozen=True)
class FewShot:
    """A divided supernet and what it took.

    Attributes:
        store: The supernets of the leaves.
        steps: Optimiser steps of all supernets together.
        macs: Multiply-accumulates of their forward passes, all examples together.
        scoring: Forward and backward passes to decide where to divide, on top of the steps.
        samplers: Of the leaves, as they are in the end: architecture parameters, for instance.
    """

    store: Split
    steps: int
    macs: int
    scoring: int
    samplers: tuple[Sampler, ...] = ()


@dataclass
class _Rules:
    """How supernets are divided."""

    by: str
    groups: int
    dims: Sequence[str]
    repeats: int
    balanced: bool
    batch_size: int
    exclude: Sequence[str] | None
    metric: str
    seed: int


@dataclass
class _Grown:
    """A node that is being trained, with the state of its optimiser and its sampler."""

    node: Node
    optimizer: Mapping[str, Any] | None
    number: int
    sampler: Sampler | None = None


def few_shot(
    sup: Elastic,
    data: Splits,
    recipe: Recipe | None = None,
    *,
    split_by: str = "gradient-match",
    splits: int = 2,
    groups: int = 2,
    at: Sequence[float] | None = None,
    dims: Sequence[str] | None = None,
    sampler: Callable[[int], Sampler] = Uniform,
    rule: Rule | None = None,
    held: Part | None = None,
    restart: bool = False,
    repeats: int = 100,
    batch_size: int = 64,
    metric: str = "cosine",
    balanced: bool = True,
    exclude: Sequence[str] | None = None,
    **arguments: Any,
) -> FewShot:
    """Train a supernet, divide it where its sub-networks disagree, and train the parts on.

    The recipe is that of one way from the root to a leaf: its epochs, its learning rate from beginning to
    end. Children begin with the weights, the optimiser's and the sampler's state of their parent, and each
    chooses its own dim to be divided by. Where the sampler has architecture parameters (`RegionalAlpha`),
    gradients are compared on the mixture that they make instead of on drawn paths.

    Args:
        sup: The supernet; it is copied.
        data: Splits; the training part also decides where to divide.
        recipe: How to train.
        split_by: "gradient-match": the dim and groups with the largest distances between the gradients of
            different groups; "random"; "exhaustive": a random dim, every value alone, once.
        splits: How often the leaves are divided: `groups` to the power of it are left in the end.
        groups: Parts of one division.
        at: Shares of the training after which they are divided, ascending; evenly spaced when None.
        dims: Those to divide by; all that always matter when None.
        sampler: Seed -> sampler of the paths; every supernet has one of its own.
        rule: What the paths learn from; the labels when None.
        held: Examples that architecture parameters learn from, which they do after the last division alone:
            until then the gradients that are compared should tell of the operations, not of them.
        restart: Train the leaves from their first weights instead of their parents' after the last division.
        repeats: Batches and paths that gradients are compared on.
        batch_size: Of those batches.
        metric: See `matching.gradient_distances`.
        balanced: Only groups of equal sizes, up to one.
        exclude: Patterns of parameters that are not compared; see `matching.shared_names`.
        arguments: Further ones of `supernets.train`.

    Raises:
        UsageError: if there is nothing to divide by, or the shares do not rise within the training.
    """
    recipe = recipe or Recipe()
    if split_by not in SPLITS:
        raise UsageError(f"split_by={split_by!r} is not known", f"choose from {', '.join(SPLITS)}")
    splits = 1 if split_by == "exhaustive" else splits
    shares = [(k + 1) / (splits + 1) for k in range(splits)] if at is None else list(at)
    if len(shares) != splits or sorted({*shares, 0.0, 1.0}) != [0.0, *shares, 1.0]:
        raise UsageError(f"at={shares} are not {splits} rising shares between 0 and 1", "give one a division")
    candidates = [d.name for d in sup.space.free if d.condition is None] if dims is None else list(dims)
    for name in candidates:
        splittable(sup.space, name)
    rules = _Rules(split_by, groups, candidates, repeats, balanced, batch_size, exclude, metric, recipe.seed)
    trainer = _Trainer(data, recipe, sampler, rule or HardLabels(), held, arguments)
    root = Node({}, copy.deepcopy(sup))
    grown, scoring = [_Grown(root, None, 0)], 0
    ends = [max(1, round(share * trainer.total)) for share in shares]
    for level, (start, stop) in enumerate(zip([0, *ends], [*ends, trainer.total], strict=True)):
        begins = 0 if restart and level == splits else start
        for one in grown:
            trainer.go_on(one, begins, stop, learns=level == splits)
        if level < splits:
            divided: list[_Grown] = []
            for one in grown:
                children, passes = _divide(one, data, rules, len(divided))
                divided += children
                scoring += passes
            grown = divided
            if restart and level == splits - 1:
                for one in grown:
                    one.node.sup, one.optimizer, one.sampler = copy.deepcopy(sup), None, None
    samplers = tuple(one.sampler for one in grown if one.sampler is not None)
    return FewShot(Split(root), trainer.steps, trainer.macs, scoring, samplers)


class _Inherit(Callback):
    """Lets a sampler begin with the state of its parent's."""

    def __init__(self, sampler: Sampler, state: Mapping[str, Any]) -> None:
        self.sampler, self.state = sampler, state

    def begin(self, state: State) -> None:
        self.sampler.load_state_dict(self.state)


class _Trainer:
    """Trains the supernets of a tree for a part of the way."""

    def __init__(
        self,
        data: Splits,
        recipe: Recipe,
        sampler: Callable[[int], Sampler],
        rule: Rule,
        held: Part | None,
        arguments: dict[str, Any],
    ) -> None:
        self.data, self.recipe, self.sampler, self.rule = data, recipe, sampler, rule
        self.held, self.arguments = held, arguments
        count = min(len(data.train), recipe.limit or len(data.train))
        full, rest = divmod(count, recipe.batch_size)
        self.total = recipe.epochs * max(full + (rest > 1), 1)
        self.steps = self.macs = 0

    def go_on(self, one: _Grown, start: int, stop: int, *, learns: bool) -> None:
        """Train a supernet from one step to another; its optimiser's and its sampler's state are kept."""
        assert one.node.sup is not None
        # Leaves of one level draw different paths, and go through the examples in the same order.
        seed = self.recipe.seed * 1_009 + one.number
        sampler = self.sampler(seed)
        if learns and self.held is not None:
            paths: Paths = Bilevel(sampler, self.rule, held=self.held, seed=seed)
        else:
            paths = Paths(sampler, self.rule)
        taken = Snapshots([stop], optimizer=True)
        known = one.sampler.state_dict() if one.sampler is not None else {}
        inherit = (_Inherit(sampler, known),) if known else ()
        fitted = train(
            one.node.sup,
            self.data,
            self.recipe,
            paths=paths,
            space=one.node.space(one.node.sup.space),
            callbacks=(taken, *inherit),
            start=start,
            stop=stop,
            optimizer=one.optimizer,
            **self.arguments,
        )
        assert isinstance(fitted.model, Elastic)
        one.node.sup, one.optimizer, one.sampler = fitted.model, taken.optimizers[stop], sampler
        self.steps += stop - start
        self.macs += paths.macs


def _divide(one: _Grown, data: Splits, rules: _Rules, first: int) -> tuple[list[_Grown], int]:
    """The children of a node, and the passes that it took to decide."""
    node, sup = one.node, one.node.sup
    assert sup is not None
    open_dims = [
        d for d in rules.dims if d not in node.region and len(splittable(sup.space, d)) >= rules.groups
    ]
    if not open_dims:
        raise UsageError("there is no dim left to divide by", "ask for fewer splits")
    dim, parts, score, passes = _decide(sup, one, data, rules, open_dims)
    values = splittable(sup.space, dim)
    node.dim, node.score, node.sup = dim, score, None
    children = []
    for k, part in enumerate(parts):
        child = Node({**node.region, dim: tuple(values[i] for i in part)}, copy.deepcopy(sup))
        node.children.append(child)
        children.append(_Grown(child, copy.deepcopy(one.optimizer), first + k, one.sampler))
    return children, passes


def _decide(
    sup: Elastic, one: _Grown, data: Splits, rules: _Rules, dims: Sequence[str]
) -> tuple[str, tuple[tuple[int, ...], ...], float | None, int]:
    """Dim and groups to divide by, their score, and the passes that it took."""
    node = one.node
    rng = np.random.default_rng((rules.seed, len(node.region), one.number))
    if rules.by != "gradient-match":
        dim = dims[int(rng.integers(len(dims)))]
        count = len(splittable(sup.space, dim))
        if rules.by == "exhaustive":
            return dim, tuple((k,) for k in range(count)), None, 0
        mixed = np.array_split(rng.permutation(count), rules.groups)
        return dim, tuple(tuple(sorted(part.tolist())) for part in mixed), None, 0
    best: tuple[str, tuple[tuple[int, ...], ...], float] | None = None
    passes = 0
    weights = None
    if isinstance(one.sampler, GradientAlpha) and one.sampler.learns:
        weights = one.sampler.probabilities()
    for k, dim in enumerate(dims):
        distances = gradient_distances(
            sup,
            data.train,
            dim,
            space=node.space(sup.space),
            repeats=rules.repeats,
            batch_size=rules.batch_size,
            metric=rules.metric,
            exclude=rules.exclude,
            weights=weights,
            seed=int(rng.integers(2**31)) + k,
        )
        passes += rules.repeats * len(distances)
        parts, score = max_cut(distances, rules.groups, balanced=rules.balanced)
        if best is None or score > best[2]:
            best = (dim, parts, score)
    assert best is not None
    return *best, passes
