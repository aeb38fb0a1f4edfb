"""The ordinary run of the recurrent networks, and its further arms."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from netwright.data import Splits
from netwright.papers.noise import noise
from netwright.papers.plot import Panel, figure
from netwright.papers.rnn_sparsity_graphs import (
    BARABASI,
    ENOUGH,
    QUICK_GRAPHS,
    WATTS,
    GraphSize,
    Wired,
    explain,
    train_graphs,
)
from netwright.papers.rnn_sparsity_pruning import (
    CAMPAIGNS,
    CELLS,
    LEVELS,
    QUICK,
    SMALL,
    Point,
    Size,
    counting_letters,
    measure_cell,
    strings,
)
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import paired

BOTH = "i2h and h2h"
#: What the headline measures: right after pruning everywhere, one epoch later where it matters.
_PLAN = (*((BOTH, level, int(level == 0.8)) for level in LEVELS), ("i2h", 1.0, 1), ("h2h", 1.0, 1))
#: The thesis trains its base models for so long; the cells for which that is tried, too.
_LONG, _LONG_CELLS = 50, ("relu", "LSTM")


def measure(run: Run) -> None:
    """Measure the claims of the ordinary scope."""
    with one_thread():
        _headline(run)


def measure_further(run: Run) -> None:
    """Measure the further arms."""
    with one_thread():
        _further(run)


def _headline(run: Run) -> None:
    size = QUICK if run.quick else SMALL
    _settings(run, size, 3)
    found: dict[str, list[list[Point]]] = {cell: [] for cell in CELLS}
    for seed in run.seeds(3):
        data = strings(size, seed)
        for cell in CELLS:
            with run.timed(f"pruning, {cell}"):
                found[cell].append(measure_cell(cell, data, size, seed, _PLAN, run.device))
            run.log(f"seed {seed}, {cell}: base {found[cell][-1][0].base:.3f}")
    run.tried(
        f"the thesis trains its base models for {_LONG} epochs of 586 steps, these have {size.epochs} of "
        f"{len(data.train) // size.batch}: the further arms (--all) show what longer training changes"
    )
    for cell, seeds in found.items():
        claim_pruning(run, cell, seeds)
    _levels_table(run, found)
    graphs = QUICK_GRAPHS if run.quick else GraphSize()
    wired = _graphs(run, {"GRU": graphs}, strings(size, run.seed))
    run.plot(figure("Sparsity in recurrent networks", [*_panels(found), _scatter(wired["GRU"])], columns=2))


def _settings(run: Run, size: Size, seeds: int) -> None:
    run.settings |= {
        "strings": f"{size.strings} of the Reber grammar, 10 to {size.longest} letters, half of them near "
        "misses, no string twice, a quarter to test",
        "networks": f"embedding {size.embedding}, {size.layers} layers of {size.hidden}, "
        f"{size.epochs} epochs, Adam at {size.lr:g}, batches of {size.batch}, gradient norm at most 5",
        "lengths": "the same for valid strings and near misses, so that they tell nothing",
        "read": "the output of the last letter (by length), not of the last step of the batch",
        "pruned": "the smallest weights of all matrices of the chosen kind together, an exact count",
        "seeds": 1 if run.quick else seeds,
    }


def over_seeds(
    seeds: Sequence[Sequence[Point]], campaign: str, level: float, value: Callable[[Point], float]
) -> tuple[float, float]:
    """Mean of a value over the seeds, and half a 95 % interval."""
    values = [value(p) for points in seeds for p in points if p.campaign == campaign and p.level == level]
    return statistics.fmean(values), noise(values)


def claim_pruning(run: Run, cell: str, seeds: Sequence[Sequence[Point]], prefix: str = "") -> None:
    """Record the losses of one cell; with a prefix only those which the thesis' own strings measure."""
    lost = over_seeds(seeds, BOTH, 0.6, lambda p: p.base - p.pruned)
    run.measure(f"{prefix}accuracy lost at 60 %, {cell}", *lost)
    later = over_seeds(seeds, BOTH, 0.8, lambda p: p.base - p.one_epoch_later)
    run.measure(f"{prefix}accuracy lost at 80 % and one epoch, {cell}", *later)
    if prefix:
        return
    collapse = over_seeds(seeds, BOTH, 0.9, lambda p: p.base - p.pruned)
    run.measure(f"accuracy lost at 90 %, {cell}", *collapse)
    for kind in ("i2h", "h2h"):
        after = over_seeds(seeds, kind, 1.0, lambda p: p.one_epoch_later)
        run.measure(f"accuracy without {kind} after one epoch, {cell}", *after)


def _levels_table(run: Run, found: Mapping[str, Sequence[Sequence[Point]]]) -> None:
    rows: list[tuple[Cell, ...]] = []
    for cell, seeds in found.items():
        for campaign, level, epochs in _PLAN:
            before = over_seeds(seeds, campaign, level, lambda p: p.pruned)
            after = (
                over_seeds(seeds, campaign, level, lambda p: p.one_epoch_later) if epochs else (None, None)
            )
            base = over_seeds(seeds, campaign, level, lambda p: p.base)[0]
            rows.append((cell, campaign, f"{level * 100:.0f} %", base, *before, *after))
    columns = ("cell", "pruned", "share", "base", "at once", "±", "one epoch later", "± ")
    run.table(
        "Accuracy after pruning", columns, rows, "± is half a 95 % interval of the mean over the seeds."
    )


def _panels(found: Mapping[str, Sequence[Sequence[Point]]]) -> list[Panel]:
    panels = []
    for title, value in (
        ("Right after pruning", lambda p: p.pruned),
        ("After one epoch of retraining", lambda p: p.one_epoch_later),
    ):
        panel = Panel(f"{title}, i2h and h2h", "test accuracy", "share pruned")
        for cell, seeds in found.items():
            levels = sorted(
                {p.level for s in seeds for p in s if p.campaign == BOTH and (title[0] == "R" or p.retrained)}
            )
            panel.line(cell, [(level, over_seeds(seeds, BOTH, level, value)[0]) for level in levels])
        panels.append(panel)
    return panels


def _scatter(wired: Iterable[Wired]) -> Panel:
    panel = Panel("Random graphs, GRU: accuracy by nodes", "test accuracy", "nodes")
    for kind in (BARABASI, WATTS):
        groups: dict[float, list[float]] = {}
        for w in wired:
            if w.kind == kind:
                groups.setdefault(w.features["nodes"], []).append(w.accuracy)
        panel.line(kind, sorted((n, statistics.fmean(a)) for n, a in groups.items()))
    return panel


def _graphs(run: Run, sizes: Mapping[str, GraphSize], data: Splits) -> dict[str, list[Wired]]:
    """Train the graphs of some cells, claim and tabulate them."""
    rows: list[tuple[Cell, ...]] = []
    explained: list[tuple[Cell, ...]] = []
    found: dict[str, list[Wired]] = {}
    for cell, size in sizes.items():
        run.settings[f"graphs, {cell}"] = dataclasses.asdict(size)
        with run.timed(f"graphs, {cell}"):
            kinds = train_graphs(cell, data, size, run.seed, run.device)
        found[cell] = [w for wired in kinds.values() for w in wired]
        scores = {kind: [w.accuracy for w in wired] for kind, wired in kinds.items()}
        run.measure(f"Watts-Strogatz above Barabasi-Albert, {cell}", *paired(scores[WATTS], scores[BARABASI]))
        rows += [
            (cell, kind, len(a), statistics.fmean(a), statistics.stdev(a), min(a), max(a))
            for kind, a in scores.items()
        ]
        told = explain(found[cell], run.seed)
        enough = len(found[cell]) >= ENOUGH
        if cell == "GRU":
            run.measure(
                "R² of the random forest, GRU", told.r2["random forest"], told.spread["random forest"]
            )
        explained += [
            (cell, name, r2, told.spread[name], "" if enough else f"inconclusive: under {ENOUGH} graphs")
            for name, r2 in told.r2.items()
        ]
        _features_table(run, cell, told.correlations, told.importances)
    columns = ("cell", "graphs", "count", "mean", "deviation", "least", "most")
    run.table("Accuracy of random structures", columns, rows, "The kinds come in pairs of as many nodes.")
    run.table(
        "Accuracy from structure",
        ("cell", "regressor", "R²", "±", "remark"),
        explained,
        "R² of graphs that were not fitted: five folds, repeated five times; ± is half a 95 % interval from "
        "drawing the graphs again.",
    )
    return found


def _features_table(run: Run, cell: str, r: Mapping[str, float], importances: Mapping[str, float]) -> None:
    rows: list[tuple[Cell, ...]] = [
        (name, r.get(name), importances[name])
        for name in sorted(importances, key=lambda n: -abs(r.get(n, 0.0)))
    ]
    run.table(
        f"Structure and accuracy, {cell}",
        ("feature", "Pearson's correlation", "importance in the forest"),
        rows,
        "An empty cell: the feature is the same for all graphs.",
    )


def _further(run: Run) -> None:
    from netwright.papers.rnn_sparsity_phonemes import measure_phonemes

    size = QUICK if run.quick else dataclasses.replace(SMALL, retrain=3)
    _settings(run, size, 1)
    levels = LEVELS[5:] if run.quick else LEVELS
    plan = [(campaign, level, size.retrain) for campaign in CAMPAIGNS for level in levels]
    data = strings(size, run.seed)
    counted = counting_letters(data)
    run.tried(f"a linear model of the counts of letters, instead of a network: accuracy {counted:.3f}")
    found: dict[str, list[Point]] = {}
    for cell in CELLS:
        with run.timed(f"pruning, {cell}"):
            found[cell] = measure_cell(cell, data, size, run.seed, plan, run.device)
        point = next(p for p in found[cell] if p.campaign == BOTH and p.level == 0.8)
        regained = point.epochs_to_regain
        run.measure(
            f"epochs to regain after 80 %, {cell}",
            size.retrain + 1 if regained is None else regained,
            note="" if regained is not None else f"not within {size.retrain} epochs",
        )
    _regain_table(run, found, levels, size.retrain)
    _long(run, dataclasses.replace(size, epochs=2 if run.quick else _LONG), data)
    small = QUICK_GRAPHS if run.quick else GraphSize(pairs=6)
    _graphs(run, {cell: small for cell in CELLS if cell != "GRU"}, data)
    with run.timed("grapheme to phoneme"):
        measure_phonemes(run)


def _long(run: Run, size: Size, data: Splits) -> None:
    """Base models trained as many epochs as the thesis': how much can go at once then."""
    rows: list[tuple[Cell, ...]] = []
    for cell in _LONG_CELLS:
        with run.timed(f"long training, {cell}"):
            plan = [(BOTH, level, 0) for level in LEVELS]
            points = measure_cell(cell, data, size, run.seed, plan, run.device)
        rows += [(cell, f"{100 * p.level:.0f} %", p.base, p.pruned) for p in points]
        at = next(p for p in points if p.level == 0.6)
        run.tried(
            f"{cell}, base model trained for {size.epochs} epochs: 60 % pruned at once cost "
            f"{100 * (at.base - at.pruned):.1f} points"
        )
    run.table("After longer training", ("cell", "share", "base", "at once"), rows)


def _regain_table(run: Run, found: Mapping[str, Sequence[Point]], levels: Sequence[float], most: int) -> None:
    rows: list[tuple[Cell, ...]] = []
    for cell, points in found.items():
        for campaign in CAMPAIGNS:
            mine = {p.level: p for p in points if p.campaign == campaign}
            regained = [mine[level].epochs_to_regain for level in levels]
            rows.append((cell, campaign, *(f"> {most}" if r is None else r for r in regained)))
    run.table(
        "Epochs to regain",
        ("cell", "pruned", *(f"{100 * level:.0f} %" for level in levels)),
        rows,
        "The first epoch within a point of the base model's accuracy; 0 is right after pruning.",
    )
    detail: list[tuple[Cell, ...]] = [
        (cell, p.campaign, f"{100 * p.level:.0f} %", p.base, p.pruned, *(*p.retrained, *[None] * most)[:most])
        for cell, points in found.items()
        for p in points
    ]
    later = tuple(f"epoch {k}" for k in range(1, most + 1))
    run.table("Every campaign", ("cell", "pruned", "share", "base", "at once", *later), detail)
