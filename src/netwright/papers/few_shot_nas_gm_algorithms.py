"""Few-shot search with several search algorithms on `cell-64`: one path a step, DARTS and SNAS."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from netwright.data import Part, Splits
from netwright.nas import Choice, SearchSpace, TabularBench
from netwright.nas.ranking import LEAST_CEILING
from netwright.papers import benches
from netwright.papers.few_shot_nas_gm_small import ALONE, MATCH, ONCE, ONE, RECIPE, TIMES, TWICE, taus
from netwright.papers.plot import Panel
from netwright.papers.run import Run
from netwright.papers.sparse_parts import paired
from netwright.papers.supernet_cells import (
    OUTSIDE,
    Judge,
    Ranked,
    cell_supernet,
    few_data,
    for_fit,
    tau_table,
)
from netwright.supernets import Elastic, RegionalAlpha, few_shot, project, train
from netwright.supernets.samplers.base import Sampler
from netwright.supernets.samplers.fixed import Uniform
from netwright.supernets.searching.differentiable import halves
from netwright.supernets.training.bilevel import Bilevel
from netwright.supernets.training.paths import HardLabels, Paths
from netwright.train import Recipe

RSPS, DARTS, SNAS = "RSPS", "DARTS", "SNAS"
#: Epochs of a way from the root to a leaf. A mixture costs three times a path, and its parameters as much
#: again.
EPOCHS = {RSPS: 4, DARTS: 2, SNAS: 2}
#: Batches and paths of a comparison of gradients.
REPEATS = 4
#: Examples to judge by.
JUDGED = 500
#: Batch and learning rate of mixtures, whose weights learn from one half of the examples.
MIXED_BATCH, MIXED_LR = 50, 0.025
#: Learning rate of architecture parameters: the published 3e-4 would not move them in so few steps.
ALPHA_LR = 3e-3
#: Temperatures of SNAS in the first and the last epoch, those of the authors' code.
TAU = (1.0, 0.1)


@dataclass
class Arm(Ranked):
    """What the supernets of one arm made.

    Attributes:
        derived: The network that the search gives, a seed.
        alone: Its test accuracy after training alone, by the table.
    """

    derived: list[Choice] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """A supernet that may be divided, with what its search leaves to decide.

    Attributes:
        parts: The supernet and its part of the space, of every leaf.
        samplers: Of the leaves.
        macs: Of the training.
    """

    parts: Sequence[tuple[Elastic, SearchSpace]]
    samplers: Sequence[Sampler]
    macs: int


def measure(run: Run) -> list[Panel]:
    """Rank with every algorithm and derive a network; returns panels of the taus."""
    bench = TabularBench.load("cell-64")
    choices = list(benches.find("cell-64").space.enumerate())
    run.settings["several algorithms"] = {
        "epochs of a way to a leaf": EPOCHS,
        "batch and learning rate of mixtures": (MIXED_BATCH, MIXED_LR),
        "learning rate of architecture parameters": ALPHA_LR,
        "comparisons of gradients": REPEATS,
        "less than the paper's": "2 seeds; no training between projections; leaves are not halved in turn, "
        "the best of their derived networks by inherited accuracy is taken",
    }
    data = few_data(run)
    judge, panels = Judge(data.val.head(60 if run.quick else JUDGED)), []
    for algorithm in EPOCHS:
        arms = {name: Arm() for name in (ONE, ALONE, MATCH)}
        for seed in run.seeds(2):
            for name, arm in arms.items():
                made = _trained(run, algorithm, name, for_fit(data), seed)
                accuracies = _inherited(made, judge, choices)
                arm.add(accuracies, made.macs)
                arm.derived.append(_derived(made, judge, choices, accuracies, seed))
            told = ", ".join(f"{n} {100 * a.inherited[-1]:.1f}" for n, a in arms.items())
            run.log(f"{algorithm}, seed {seed}, mean inherited accuracy: {told}")
        for arm in arms.values():
            arm.judge(bench, choices)
            arm.alone = [bench[choice].accuracy for choice in arm.derived]
        tau_table(run, f"Kendall's tau on cell-64, {algorithm}", arms, bench, ONE, _NOTE)
        panels.append(taus(arms, f"Kendall's tau, cell-64, {algorithm}"))
        _claims(run, algorithm, arms, bench)
    return panels


_NOTE = (
    "Equal steps; DARTS and SNAS make as many more for their architecture parameters, one supernet all the "
    "way, the others after the last division. A mixture is counted as the costliest network of its part. The "
    "chosen network is that of the greatest inherited accuracy; what the search derives is in the table of "
    "derived networks."
)


def _claims(run: Run, algorithm: str, arms: dict[str, Arm], bench: TabularBench) -> None:
    rows = [
        (name, seed, "/".join(map(str, choice.values())), 100 * alone)
        for name, arm in arms.items()
        for seed, choice, alone in zip(run.seeds(2), arm.derived, arm.alone, strict=True)
    ]
    columns = ("arm", "seed", "operations", "test accuracy alone, %")
    best = f"The best network of the table has {100 * bench.truth.max():.2f} %."
    run.table(f"Derived networks, {algorithm}", columns, rows, best)
    for other in (ONE, ALONE):
        above, half = paired(arms[MATCH].alone, arms[other].alone)
        name = f"{algorithm}: derived network, gradient matching above {other}, points"
        run.measure(name, 100 * above, 100 * half)
        if algorithm != RSPS and bench.ceiling >= LEAST_CEILING:
            name = f"{algorithm}: tau of gradient matching above {other}"
            run.measure(name, *paired(arms[MATCH].taus, arms[other].taus))


def _trained(run: Run, algorithm: str, name: str, data: Splits, seed: int) -> Trained:
    """One supernet of an arm."""
    sup, held = cell_supernet(seed), None
    recipe = dataclasses.replace(RECIPE, epochs=2 if run.quick else EPOCHS[algorithm], seed=seed)
    if algorithm != RSPS:
        first, held = halves(data.train, 0.5, seed)
        data = dataclasses.replace(data, train=first)
        recipe = dataclasses.replace(recipe, batch_size=MIXED_BATCH, lr=MIXED_LR)

    def sampler(number: int) -> Sampler:
        if algorithm == RSPS:
            return Uniform(number)
        return RegionalAlpha(algorithm.lower(), number, lr=ALPHA_LR, tau=TAU)

    if name == ONE:
        recipe = dataclasses.replace(recipe, epochs=round(recipe.epochs * TIMES))
        return _one(sup, data, recipe, sampler(seed), held)
    made = few_shot(
        sup,
        data,
        recipe,
        split_by="exhaustive" if name == ALONE else "gradient-match",
        at=ONCE if name == ALONE else TWICE,
        sampler=sampler,
        held=held,
        repeats=1 if run.quick else REPEATS,
        batch_size=recipe.batch_size,
        exclude=OUTSIDE,
        device="cpu",
    )
    parts = [(leaf.sup, leaf.space(sup.space)) for leaf in made.store.leaves if leaf.sup is not None]
    return Trained(parts, made.samplers, made.macs)


def _one(sup: Elastic, data: Splits, recipe: Recipe, sampler: Sampler, held: Part | None) -> Trained:
    paths = Paths(sampler, HardLabels())
    if held is not None:
        paths = Bilevel(sampler, HardLabels(), held=held, seed=recipe.seed)
    model = train(sup, data, recipe, paths=paths, device="cpu").model
    assert isinstance(model, Elastic)
    return Trained([(model, sup.space)], [sampler], paths.macs)


def _inherited(made: Trained, judge: Judge, choices: Sequence[Choice]) -> list[float]:
    """Of every network in the leaf that holds it."""
    found: dict[Choice, float] = {}
    for sup, part in made.parts:
        own = list(part.enumerate())
        found.update(zip(own, judge.accuracies(sup, own), strict=True))
    return [found[choice] for choice in choices]


def _derived(
    made: Trained, judge: Judge, choices: Sequence[Choice], accuracies: Sequence[float], seed: int
) -> Choice:
    """The network that the search gives: of the leaves' networks that of the greatest inherited accuracy."""
    inherited = dict(zip(choices, accuracies, strict=True))
    candidates = list(choices)
    if isinstance(made.samplers[0], RegionalAlpha):
        candidates = []
        for (sup, part), sampler in zip(made.parts, made.samplers, strict=True):
            assert isinstance(sampler, RegionalAlpha)
            weights = sampler.probabilities()
            candidates.append(project(sup, weights, judge.now, space=part, seed=seed))
    return max(candidates, key=inherited.__getitem__)
