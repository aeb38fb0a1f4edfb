"""GraNet's plasticity panels: prune a perceptron's training on digits at several epochs, and train on.

Regeneration is measured in two ways: as the paper's experiment has it, growing as many weights as were
pruned, and as GraNet's own loop does it, exchanging a share of what is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import digits, mean_deviation, mlp, paired
from netwright.pruning import plasticity
from netwright.pruning.schedules import schedule as schedules
from netwright.train import Recipe, Snapshots, fit

NONE, EXCHANGE, ALL = "no regeneration", "exchange", "as many as pruned"
#: Epoch -> plasticity of every seed.
Gains = dict[int, list[float]]
#: (share pruned, importance, learning rate, regeneration)
Key = tuple[float, str, float | None, str]
_WIDTHS = (64, 300, 100, 10)
_LARGE, _SMALL = 0.1, 0.001
_EPOCHS = 40
_NOTE = (
    "Accuracy after pruning and four more epochs above that before, in points. Exchange: the share of "
    "GraNet's cosine at that step is dropped and grown. As many as pruned: what was pruned begins at zero."
)


def plasticity_at_half(run: Run) -> Panel:
    """Half of the weights pruned at several epochs, with and without the exchange of GraNet's loop."""
    panel = Panel("Plasticity, digits, 50 % pruned", "points of accuracy", x="epochs before")
    found = _recover(run, (5, 15, 25, 35), (0.5,), ("magnitude",), (None,), (NONE, EXCHANGE))
    rows: list[tuple[Cell, ...]] = []
    for way, label in ((NONE, "without"), (EXCHANGE, "with regeneration")):
        gains = found[0.5, "magnitude", None, way]
        epochs = sorted(gains)
        panel.line(label, [(e, 100 * mean_deviation(gains[e])[0]) for e in epochs])
        rows.append((label, *(100 * mean_deviation(gains[e])[0] for e in epochs)))
    run.table(panel.title, ("", *(f"epoch {e}" for e in epochs)), rows, _NOTE)
    with_, without = (found[0.5, "magnitude", None, way] for way in (EXCHANGE, NONE))
    value, half = _difference(with_, without)
    run.measure("plasticity gained by regeneration, 50 % pruned", value, half)
    return panel


def measure(run: Run) -> None:
    """The panel in full."""
    with one_thread():
        _measure(run)


def _measure(run: Run) -> None:
    shares = (0.5,) if run.quick else (0.2, 0.5, 0.9, 0.98)
    ways = (NONE, EXCHANGE, ALL)
    found = _recover(run, (10, 25), shares, ("magnitude", "random"), (_LARGE, _SMALL), ways)
    rows: list[tuple[Cell, ...]] = []
    panels = []
    for importance in ("magnitude", "random"):
        panel = Panel(f"Plasticity, digits, {importance}", "points", x="share pruned")
        for lr in (_LARGE, _SMALL):
            for way in ways:
                points = []
                for share in shares:
                    gains = found[share, importance, lr, way]
                    mean = 100 * sum(map(sum, gains.values())) / sum(map(len, gains.values()))
                    points.append((share, mean))
                label = f"rate {lr:g}, {way}"
                panel.line(label, points)
                rows.append((importance, label, *(mean for _, mean in points)))
        panels.append(panel)
    columns = ("pruned by", "trained on with", *(f"{100 * s:.0f} %" for s in shares))
    run.table("Plasticity in points, mean over epochs 10 and 25", columns, rows, _NOTE)
    for share in shares:
        name = f"{100 * share:.0f} % pruned"
        without, exchange, everything = (found[share, "magnitude", _LARGE, way] for way in ways)
        small = found[share, "magnitude", _SMALL, NONE]
        run.measure(f"plasticity gained by regrowing all, {name}", *_difference(everything, without))
        run.measure(f"plasticity gained by the exchange, {name}", *_difference(exchange, without))
        run.measure(f"plasticity lost by a small rate, {name}", *_difference(without, small))
        for way in (EXCHANGE, ALL):
            gain, half = _difference(*(found[share, "random", _LARGE, w] for w in (way, NONE)))
            run.tried(
                f"{name} at random, large rate, {way}: gains {100 * gain:+.2f} ± {100 * half:.2f} points"
            )
    run.plot(figure("Pruning plasticity", panels, columns=2, width=520, height=320))


def _recover(
    run: Run,
    epochs: Sequence[int],
    shares: Sequence[float],
    importances: Sequence[str],
    rates: Sequence[float | None],
    ways: Sequence[str],
) -> dict[Key, Gains]:
    """Prune a training of the digits' perceptron at some epochs; gains of every seed, by what was done."""
    data = digits(run.quick)
    recipe = Recipe(
        epochs=2 if run.quick else _EPOCHS,
        batch_size=64,
        lr=0.1,
        schedule="cosine",
        precision="fp32",
        augment=False,
    )
    per_epoch = -(-len(data.train) // recipe.batch_size)
    epochs = (1,) if run.quick else epochs
    after = 1 if run.quick else 4
    keys = [(s, i, r, w) for s in shares for i in importances for r in rates for w in ways]
    found: dict[Key, Gains] = {key: {} for key in keys}
    for seed in run.seeds(5):
        seeded = dataclasses.replace(recipe, seed=seed)
        snapshots = Snapshots([e * per_epoch for e in epochs], optimizer=True)
        model = mlp(_WIDTHS, seed)
        stop = min(max(epochs) + 1, recipe.epochs) * per_epoch
        fit(model, data, seeded, device=run.device, callbacks=[snapshots], stop=stop)
        for share, importance, lr, way in keys:
            for epoch in epochs:
                step = epoch * per_epoch
                rate = schedules.granet().exchanged(step, recipe.epochs * per_epoch)
                how: dict[str, float | Literal["all"]] = {NONE: 0.0, EXCHANGE: rate, ALL: "all"}
                (one,) = plasticity(
                    model,
                    {step: snapshots.taken[step]},
                    data,
                    seeded,
                    prune=share,
                    steps=min(after, recipe.epochs - epoch) * per_epoch,
                    regenerate=how[way],
                    importance=importance,
                    lr=lr,
                    optimizers=snapshots.optimizers,
                    judge=data.test,
                    seed=seed,
                    device=run.device,
                )
                found[share, importance, lr, way].setdefault(epoch, []).append(one.gain)
    return found


def _difference(one: Gains, other: Gains) -> tuple[float, float]:
    """Mean difference over the epochs, seed by seed."""
    means = [
        [sum(values) / len(gains) for values in zip(*gains.values(), strict=True)] for gains in (one, other)
    ]
    return paired(*means)
