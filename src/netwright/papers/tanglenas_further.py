"""The further arms of TangleNAS: any-time accuracy, properties of the supernets, other shares of images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netwright.papers import tanglenas_text
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import paired
from netwright.papers.tanglenas_small import (
    DRNAS,
    GRADIENT,
    METHODS,
    SPOS,
    Results,
    Setting,
    Watch,
    searches,
    setting,
    table,
)
from netwright.supernets import Accuracy, Elastic, GradientAlpha
from netwright.train import GradientNorms, State

#: Random networks of which two-stage search takes the best after an epoch; that costs it no time here.
_TRIED = 10
#: Accuracy of ten classes before anything is known.
_CHANCE = 0.1


class Curve(Watch):
    """Inherited accuracy of what a search would give after each epoch, and the gradients of its weights.

    Args:
        given: Data.
        sampler: Of the search.

    Attributes:
        points: (seconds of the search, accuracy on the validation images).
        norms: Gradients of the weights.
    """

    def __init__(self, given: Setting, sampler: GradientAlpha) -> None:
        self.given, self.sampler = given, sampler
        self.points: list[tuple[float, float]] = []
        self.norms = GradientNorms(every=2)
        self._begun = time.process_time()

    def after_step(self, state: State) -> None:
        """Look at the gradients."""
        self.norms.after_step(state)

    def after_epoch(self, state: State, record: Mapping[str, Any]) -> None:
        """Judge the favoured network, or the best of a few random ones."""
        begun = time.process_time()
        sup, sampler = state.model, self.sampler
        assert isinstance(sup, Elastic) and sampler.space is not None
        measure = Accuracy(self.given.data.val, self.given.data.train.head(500), device="cpu")
        if sampler.learns:
            tried = [sampler.favoured()]
        else:
            rng = np.random.default_rng((sampler.seed, state.step))
            tried = [sampler.space.sample(rng) for _ in range(_TRIED)]
        value = max(measure(sup, choice) for choice in tried)
        sup.statistics.clear()
        sup.set(sup.blueprint.full)
        self.points.append((begun - self._begun - self.seconds, value))
        self.seconds += time.process_time() - begun


def measure(run: Run) -> None:
    """Three seeds of all arms, watched; then of two arms where the weights have 80 % of the images."""
    given = setting(run)
    curves: dict[str, list[Curve]] = {}

    def watch(name: str, seed: int, sampler: GradientAlpha) -> Curve:
        curve = Curve(given, sampler)
        curves.setdefault(name, []).append(curve)
        return curve

    with one_thread():
        results = searches(run, given, run.seeds(), list(METHODS), watch)
        _anytime(run, curves)
        _properties(run, results, curves)
        wide = setting(run, share=0.8)
        other = searches(run, wide, run.seeds(), [DRNAS, SPOS])
        tanglenas_text.measure(run)
    truth = table()
    if truth is None:
        return
    name = "regret: DrNAS above SPOS with random search, weights learn from 80 %"
    run.measure(name, *paired(other.regrets(DRNAS, truth), other.regrets(SPOS, truth)))


def area(points: Sequence[tuple[float, float]], until: float) -> float:
    """Mean accuracy over time of a curve that keeps its value until the next point.

    Args:
        points: (seconds, accuracy), ascending.
        until: Where the time ends.
    """
    total, before, value = 0.0, 0.0, _CHANCE
    for at, accuracy in points:
        now = min(at, until)
        total, before, value = total + (now - before) * value, now, accuracy
    return (total + max(until - before, 0.0) * value) / until


def _anytime(run: Run, curves: Mapping[str, Sequence[Curve]]) -> None:
    panel = Panel("inherited accuracy of the present choice, first seed", "accuracy", "seconds")
    ends = [min(c[seed].points[-1][0] for c in curves.values()) for seed in range(len(curves[SPOS]))]
    areas = {
        name: [area(c.points, end) for c, end in zip(found, ends, strict=True)]
        for name, found in curves.items()
    }
    above = {name: paired(areas[name], areas[SPOS]) for name in GRADIENT}
    rows: list[tuple[Cell, ...]] = []
    for name, found in curves.items():
        rows.append((name, statistics.fmean(areas[name]), *(above.get(name, (None, None)))))
        panel.line(name, found[0].points)
    columns = ("arm", "mean accuracy over time", "above SPOS", "±")
    note = f"Validation images. SPOS: the best of {_TRIED} random networks, which cost it no time here."
    run.table("Any-time accuracy", columns, rows, note)
    least = min(above, key=lambda name: above[name][0])
    run.measure(
        "any-time accuracy: least of the gradient methods above SPOS", *above[least], note=f"{least} is least"
    )
    run.plot(figure("TangleNAS: any-time accuracy", [panel], columns=1, width=640, height=340))


def _properties(run: Run, results: Results, curves: Mapping[str, Sequence[Curve]]) -> None:
    """What is inherited of what training alone reaches, and how unlike the layers' gradients are."""
    rows: list[tuple[Cell, ...]] = []
    truth = table()
    for name, found in curves.items():
        inherited = statistics.fmean(c.points[-1][1] for c in found)
        alone = None
        if truth is not None:
            alone = statistics.fmean(truth[c].accuracy for c in results.choices[name])
        spreads = []
        for curve in found:
            means = [statistics.fmean(v) for n, v in curve.norms.norms.items() if "layers." in n]
            spreads.append(max(means) / max(min(means), 1e-12))
        gap = None if alone is None else inherited - alone
        rows.append((name, inherited, alone, gap, statistics.fmean(spreads)))
    columns = (
        "arm",
        "inherited accuracy",
        "trained alone",
        "inherited less alone",
        "gradient norms, max/min",
    )
    note = "Inherited: validation images, after the last epoch; trained alone: the table's test images."
    run.table("What the supernets are like", columns, rows, note)
