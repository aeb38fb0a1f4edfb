"""The further arms of ShiftNAS: diagnosis, equal time, what shifting takes, direct output, transformer."""

from __future__ import annotations

import dataclasses
import statistics
import time

import numpy as np
import torch

from netwright.nas import search
from netwright.nas.choice import Choice
from netwright.nas.constrained import ConstrainedSpace
from netwright.nas.strategies import Evolution
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.shiftnas_small import (
    BINS,
    LR,
    SHIFT,
    UNIFORM,
    Scores,
    Setting,
    Trained,
    fitted,
    judged,
    networks,
    setting,
)
from netwright.papers.sparse_parts import paired
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.supernets import Bins, Elastic, ProbabilityShift, cost_tables, elastic, samplers
from netwright.supernets.samplers.base import Draw
from netwright.supernets.searching.measures import Accuracy
from netwright.supernets.spaces.autoformer import VisionTransformer
from netwright.train import State, evaluate, fit

#: Bins whose targets are budgets, and evaluations of evolution for each.
_BUDGETS, _EVALUATIONS = (1, 3, 5, 7), 200
#: Networks of each bin that are trained alone.
_ALONE = 2
_LONGER, _EXACT = "uniform, as long", "probability shift, exact draws"


class Timed(ProbabilityShift):
    """A sampler that knows how long its own work takes.

    Attributes:
        seconds: Processor time of draws, probes and the generator's steps.
    """

    seconds = 0.0

    def draw(self, step: int) -> list[Draw]:
        """Draw, timed."""
        begun = time.process_time()
        drawn = super().draw(step)
        self.seconds += time.process_time() - begun
        return drawn

    def before_step(self, state: State) -> None:
        """Train the generator, timed."""
        begun = time.process_time()
        super().before_step(state)
        self.seconds += time.process_time() - begun

    def after_step(self, state: State) -> None:
        """Probe, timed."""
        begun = time.process_time()
        super().after_step(state)
        self.seconds += time.process_time() - begun


def measure(run: Run) -> None:
    """All further arms."""
    given = setting(run)
    with one_thread():
        trained = _equal_time(run, given)
        _diagnosis(run, given, trained[UNIFORM])
        _direct(run, given, trained[SHIFT], trained[UNIFORM])
        _transformer(run)


def _equal_time(run: Run, given: Setting) -> dict[str, Trained]:
    """Uniform sampling that goes on for as long as the shift takes; the first seed's trainings come back."""
    scores, first, spent = Scores(), dict[str, Trained](), []
    tables = cost_tables(given.make(0))
    for seed in run.seeds():
        chosen = networks(tables, seed, 2 if run.quick else 5)
        shift = fitted(given, Timed(given.held, BINS, seed, lr=LR), seed)
        short = fitted(given, samplers.Uniform(seed), seed)
        exact = fitted(given, ProbabilityShift(given.held, BINS, seed, generator="rejection"), seed)
        epochs = max(round(given.recipe.epochs * shift.seconds / short.seconds), given.recipe.epochs)
        longer = fitted(given, samplers.Uniform(seed), seed, epochs)
        first = first or {SHIFT: shift, UNIFORM: short}
        assert isinstance(shift.sampler, Timed)
        spent.append(shift.sampler.seconds / shift.seconds)
        for name, done in ((SHIFT, shift), (_EXACT, exact), (UNIFORM, short), (_LONGER, longer)):
            scores.add(name, judged(given, done.sup, chosen))
        run.log(f"seed {seed}: {epochs} epochs of uniform sampling take as long; overhead {spent[-1]:.0%}")
    rows: list[tuple[Cell, ...]] = [
        (name, *(100 * np.mean(values, axis=0)).tolist()) for name, values in scores.values.items()
    ]
    columns = ("arm", *(f"bin {k + 1}" for k in range(BINS)))
    note = "Exact draws: every network of a bin is equally likely, in place of the learned generator."
    run.table("Equal time: inherited accuracy, %", columns, rows, note)
    run.measure(
        "equal time: worst bin, shift above uniform sampling",
        *paired(scores.of(SHIFT, min), scores.of(_LONGER, min)),
    )
    mean, half = paired(spent, [0.0] * len(spent))
    run.measure("probes and generator as a share of the training time", mean, half)
    return first


def _diagnosis(run: Run, given: Setting, uniform: Trained) -> None:
    """Inherited accuracy less that of networks trained alone, beside how often a bin was drawn."""
    tables = cost_tables(given.make(0))
    chosen = networks(tables, run.seed, 1 if run.quick else _ALONE)
    inherited = judged(given, uniform.sup, chosen)
    edges, size = Bins.of(tables, BINS).edges, tables.space.size()
    steps = given.recipe.epochs * (len(given.data.train) // given.recipe.batch_size)
    few = dataclasses.replace(given.data, val=given.data.val.head(2))
    rows: list[tuple[Cell, ...]] = []
    for k, some in enumerate(chosen):
        alone = []
        for choice in some:
            fresh = reinitialise_(uniform.sup.extract(choice), run.seed)
            model = fit(fresh, few, given.recipe, device="cpu").model
            alone.append(evaluate(model, given.data.val, device="cpu").accuracy)
        mean = statistics.fmean(alone)
        drawn = steps * tables.space.constrained(tables.additive, edges[k], edges[k + 1]).size() / size
        rows.append((k + 1, drawn, 100 * inherited[k], 100 * mean, 100 * (inherited[k] - mean)))
        run.log(f"bin {k + 1}: inherited {inherited[k]:.3f}, alone {mean:.3f}")
    columns = ("bin", "draws expected", "inherited, %", "trained alone, %", "difference, points")
    run.table("Uniform sampling: what is inherited, by bin", columns, rows)


def _direct(run: Run, given: Setting, shift: Trained, uniform: Trained) -> None:
    """The generator's network of a budget beside evolution's, on its weights and on uniform sampling's."""
    sampler = shift.sampler
    assert isinstance(sampler, ProbabilityShift)
    sup, tables = shift.sup, sampler.tables
    calibration = given.data.train.head(500)
    search_by = Accuracy(given.data.val, calibration, device="cpu")
    judge_by = Accuracy(given.data.test.head(200 if run.quick else 2_000), calibration, device="cpu")
    rows: list[tuple[Cell, ...]] = []
    gaps, others = [], []
    for k in _BUDGETS[: 1 if run.quick else None]:
        budget = float(sampler.bins.targets[k])
        made = sup.generate(sampler.generator, f"macs={budget:.0f}")
        space = tables.space.constrained(tables.additive, 0.98 * budget, 1.02 * budget)

        found = [_evolved(run, sup_, space, search_by) for sup_ in (sup, uniform.sup)]
        scores = [judge_by(sup, made), judge_by(sup, found[0]), judge_by(uniform.sup, found[1])]
        gaps.append(scores[0] - scores[1])
        others.append(scores[0] - scores[2])
        rows.append((k + 1, budget, tables.of(made), *(100 * score for score in scores)))
    columns = (
        "bin",
        "budget, macs",
        "generated, macs",
        "generated, %",
        "evolution, %",
        "evolution, uniform, %",
    )
    note = f"{_EVALUATIONS} evaluations; the last column is of the weights that uniform sampling trained."
    run.table("Direct output beside a search, test images", columns, rows, note)
    mean, half = paired(gaps, [0.0] * len(gaps))
    run.measure("generated networks above evolution's, mean of the budgets", mean, half)
    mean, half = paired(others, [0.0] * len(others))
    run.measure("generated networks above evolution's on uniform sampling's weights", mean, half)


def _evolved(run: Run, sup: Elastic, space: ConstrainedSpace, measure: Accuracy) -> Choice:
    """The best sub-network of a window of costs that evolution finds."""

    def error(choice: Choice) -> float:
        return -measure(sup, choice)

    trials = 5 if run.quick else _EVALUATIONS
    strategy = Evolution(initial=max(trials // 4, 2), parents=20, mutations=25, crossovers=25)
    found: Choice = search(space, [error], strategy=strategy, trials=trials, seed=run.seed).best.candidate
    return found


def vision_transformer(seed: int) -> Elastic:
    """A small one for pictures of 14 x 14: width, heads, hidden features and depth are chosen."""
    with drawing(seed):
        model = VisionTransformer(
            48, [3] * 4, [144] * 4, head_dim=16, image=14, patch=2, num_classes=10, in_channels=1
        )
    return elastic(
        model,
        torch.zeros(1, 1, 14, 14),
        width={"blocks.*.mlp.fc1": [48, 96, 144], "*": [24, 36, 48]},
        heads=[1, 2, 3],
        depth=[1, 2, 3, 4],
    )


def _transformer(run: Run) -> None:
    """The same samplers on an elastic vision transformer."""
    given = setting(run, vision_transformer)
    recipe = dataclasses.replace(given.recipe, optimizer="adamw", lr=2e-3, weight_decay=0.05)
    given = dataclasses.replace(given, recipe=recipe)
    scores = Scores()
    tables = cost_tables(given.make(0))
    for seed in run.seeds(2):
        chosen = networks(tables, seed, 2 if run.quick else 5)
        for name, sampler in (
            (UNIFORM, samplers.Uniform(seed)),
            (SHIFT, ProbabilityShift(given.held, BINS, seed, lr=LR)),
        ):
            scores.add(name, judged(given, fitted(given, sampler, seed).sup, chosen))
            run.log(f"transformer, seed {seed}, {name}: worst bin {min(scores.values[name][-1]):.3f}")
    rows: list[tuple[Cell, ...]] = [
        (n, *(100 * np.mean(v, axis=0)).tolist()) for n, v in scores.values.items()
    ]
    run.table(
        "Vision transformer: inherited accuracy, %", ("arm", *(f"bin {k + 1}" for k in range(BINS))), rows
    )
    run.measure(
        "transformer: worst bin, shift above uniform sampling",
        *paired(scores.of(SHIFT, min), scores.of(UNIFORM, min)),
    )
