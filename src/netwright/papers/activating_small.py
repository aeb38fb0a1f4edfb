"""The ordinary AP run: a perceptron and a LeNet-5 on digits."""

from __future__ import annotations

import dataclasses

from netwright.papers.activating_parts import (
    AWAKE,
    HOST,
    POSITIVE,
    RANDOM,
    P,
    Panel,
    Q,
    arms,
    convolutional,
    train_panel,
)
from netwright.papers.activating_while_pruning import LEVELS
from netwright.papers.plot import Panel as Plot
from netwright.papers.plot import figure
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import digits, mlp, paired
from netwright.pruning.schedules.cycles import lottery
from netwright.train import Recipe

#: Levels of the premise: the host alone at about 0, 50, 80, 90 and 95 % sparsity.
_PREMISE = (0, 3, 8, 11, 14)
WIDTHS = (64, 300, 100, 10)


def recipe(run: Run, seed: int) -> Recipe:
    """Of one training."""
    epochs = 2 if run.quick else 15
    return Recipe(
        epochs=epochs, batch_size=64, lr=0.1, weight_decay=5e-4, augment=False, precision="fp32", seed=seed
    )


def measure(run: Run) -> None:
    """Measure every claim of the ordinary scope."""
    data = digits(run.quick, raw=True)
    run.settings |= {
        "data": f"digits, {len(data.train):,} to train, {len(data.test):,} to test, grey values in 0..1",
        "recipe": dataclasses.asdict(recipe(run, run.seed)),
        "cycles": f"{P:.0%} of the remaining weights go, {Q:.0%} of them to wake nodes; rewound to step 0",
        "first layer": "takes part in AP: no input is negative",
        "controls": "as AP with the positive weights that moved least, and with negative weights at random",
    }
    plan = lottery(P, max(LEVELS), rewind=0)
    chosen = arms()
    panels = {}
    for name, make, count, names in (
        ("MLP", lambda s: mlp(WIDTHS, s), 10, (HOST, AWAKE, POSITIVE, RANDOM)),
        ("CNN", convolutional, 5, (HOST, AWAKE)),
    ):
        with run.timed(name):
            panels[name] = train_panel(
                run,
                make,
                data,
                lambda seed: recipe(run, seed),
                plan,
                {n: chosen[n] for n in names},
                _PREMISE,
                run.seeds(count),
                name=name,
            )
        panels[name].table(run, f"{name} on digits")
        _claim(run, name, panels[name])
        _premise(run, name, panels[name])
    mlps = panels["MLP"]
    for pct, level in (("91 %", 11), ("96 %", 14)):
        run.measure(
            f"dynamic rate, AP minus positive control, MLP, {pct}", *mlps.drop(AWAKE, POSITIVE, level)
        )
    for control in (POSITIVE, RANDOM):
        run.measure(f"accuracy of the {control} above host, MLP, 96 %", *mlps.gain(control, HOST, 14))
    run.measure("weights kept, AP minus host, at most", max(p.counts_differ() for p in panels.values()))
    run.plot(figure("AP on digits", [*_plots(panels)], columns=2))


def _claim(run: Run, name: str, panel: Panel) -> None:
    for level, pct in LEVELS.items():
        run.measure(f"dynamic rate, AP minus host, {name}, {pct}", *panel.drop(AWAKE, HOST, level))
        if level > 8:
            run.measure(f"accuracy of AP above host, {name}, {pct}", *panel.gain(AWAKE, HOST, level))


def _premise(run: Run, name: str, panel: Panel) -> None:
    """The host alone: the dynamic rate by sparsity and epoch."""
    dense, sparse = panel.dynamic(HOST, 0), panel.dynamic(HOST, max(_PREMISE))
    run.measure(f"host's dynamic rate, 96 % minus dense, {name}", *paired(sparse, dense))
    rows: list[tuple[Cell, ...]] = []
    for level in _PREMISE:
        points = panel.points[HOST][level]
        curve = [100 * sum(v) / len(v) for v in zip(*(p.curve for p in points), strict=True)]
        picked = sorted({0, len(curve) // 4, len(curve) // 2, len(curve) - 1})
        cells = [f"{k + 1}: {curve[k]:.1f}" for k in picked]
        rows.append((f"{100 * (1 - points[0].keep):.1f}", ", ".join(cells)))
    run.table(
        f"Premise: dynamic rate of the host alone, {name}",
        ("sparsity, %", "epoch: dynamic rate, %"),
        rows,
        "Means over the seeds.",
    )


def _plots(panels: dict[str, Panel]) -> list[Plot]:
    plots = []
    for name, panel in panels.items():
        rates = Plot(f"{name}: dynamic dead neuron rate", "%", "sparsity, %")
        scores = Plot(f"{name}: test accuracy", "%", "sparsity, %")
        for arm, found in panel.points.items():
            places = sorted(found)
            xs = [100 * (1 - found[k][0].keep) for k in places]
            dynamic = [100 * sum(panel.dynamic(arm, k)) / len(found[k]) for k in places]
            accuracy = [100 * sum(panel.accuracy(arm, k)) / len(found[k]) for k in places]
            rates.line(arm, list(zip(xs, dynamic, strict=True)))
            scores.line(arm, list(zip(xs, accuracy, strict=True)))
        plots += [rates, scores]
    return plots
