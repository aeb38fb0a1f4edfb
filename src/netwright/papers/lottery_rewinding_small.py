"""Lottery rewinding at small scale: LeNet-300-100, and a residual network rewound to several steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from scipy.stats import spearmanr
from torch import nn

from netwright.models import ResNetCifar
from netwright.papers.lottery_rewinding_parts import Dense, Setting, Tickets, find_tickets, score, train_dense
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import fashion, mean_deviation, mlp, paired
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.train import Recipe

#: Shares of the training that are rewound to.
REWINDS = (0.0, 0.01, 0.05, 0.15, 0.4)
_QUICK = (0.0, 0.4)
_LENET = (784, 300, 100, 10)
#: One network rewound to one step: the seeds' tickets.
Found = dict[float, list[Tickets]]


def measure(run: Run) -> None:
    """The headline: both panels."""
    with one_thread():
        panels = [_lenet(run)]
        panels += _residual(run)
    run.plot(figure("Lottery tickets and rewinding", panels, columns=2, width=520, height=320))


def _lenet(run: Run) -> Panel:
    """LeNet-300-100 from the first step, against fresh weights in the same masks."""
    recipe = Recipe(
        epochs=1 if run.quick else 3,
        batch_size=60,
        lr=1.2e-3,
        optimizer="adamw",
        weight_decay=0.0,
        schedule="constant",
        precision="fp32",
        augment=False,
    )
    data = fashion(*((240, 100) if run.quick else (10_000, 5_000)), size=28)
    # The output layer, a hundredth of the weights, is left whole.
    setting = Setting(data, recipe, rounds=5, exclude=("5.weight",))
    run.settings["lenet"] = {
        "network": "-".join(map(str, _LENET)),
        "data": f"Fashion-MNIST, {len(data.train):,} to train, {len(data.test):,} to test",
        "pruned": "all but the output layer, 40 % of the rest at every level",
        "recipe": dataclasses.asdict(recipe),
    }
    dense, tickets, fresh = [], [], []
    again = (-1,)
    for seed in run.seeds(3):
        one = train_dense(run, mlp(_LENET, seed), setting, seed, (0.0,))
        found = find_tickets(run, one, setting, 0.0)
        weights = mlp(_LENET, seed + 100).state_dict()
        models = [found.run.train_ticket(found.masks[k], weights=weights).model for k in again]
        dense.append(one.accuracy)
        tickets.append(found)
        fresh.append([score(run, m, setting) for m in models])
        run.log(f"LeNet, seed {seed}: dense {one.accuracy:.4f}, tickets {found.accuracy}, fresh {fresh[-1]}")
    rows: list[tuple[Cell, ...]] = [("dense", 100.0, *_percent(dense), 0.0, 0.0)]
    panel = Panel("LeNet-300-100, rewound to step 0", "test accuracy, %", x="weights kept, %", log_x=True)
    points = [(100.0, 100 * mean_deviation(dense)[0])]
    for k, kept in enumerate(tickets[0].kept):
        values = [t.accuracy[k] for t in tickets]
        above, half = paired(values, dense)
        rows.append((f"ticket, level {k + 1}", 100 * kept, *_percent(values), 100 * above, 100 * half))
        points.append((100 * kept, 100 * mean_deviation(values)[0]))
    for place, k in enumerate(again):
        values = [f[place] for f in fresh]
        above, half = paired(values, dense)
        kept = tickets[0].kept[k]
        rows.append(("fresh weights, same mask", 100 * kept, *_percent(values), 100 * above, 100 * half))
    panel.line("tickets", points)
    means = [100 * mean_deviation([f[place] for f in fresh])[0] for place in range(len(again))]
    panel.line("fresh weights", [(100 * tickets[0].kept[k], m) for k, m in zip(again, means, strict=True)])
    columns = ("network", "kept, %", "accuracy, %", "deviation", "points above dense", "±")
    run.table("LeNet-300-100 on Fashion-MNIST", columns, rows, "± is half a 95 % interval.")
    lost, half = paired(dense, [t.accuracy[2] for t in tickets])
    # A subnetwork matches where its mean over the seeds is not below the dense one's.
    run.measure(
        "accuracy lost by LeNet's tickets from step 0, 22 % kept",
        lost,
        note=f"the mean over the seeds decides; its 95 % interval is ± {half:.4f}",
    )
    run.measure(
        "LeNet's tickets from step 0 above fresh weights, 8 % kept",
        *paired([t.accuracy[-1] for t in tickets], [f[-1] for f in fresh]),
    )
    return panel


def _percent(values: Sequence[float]) -> tuple[float, float]:
    mean, deviation = mean_deviation(values)
    return 100 * mean, 100 * deviation


def residual_setting(run: Run) -> Setting:
    """The setting of the residual panel, fixed before anything was trained in it."""
    recipe = Recipe(
        epochs=1 if run.quick else 3, batch_size=64, lr=0.1, schedule="step", weight_decay=1e-4, augment=False
    )
    data = fashion(*((256, 100) if run.quick else (3_200, 5_000)))
    setting = Setting(data, recipe, rounds=2 if run.quick else 6, exclude=("fc",))
    run.settings["residual"] = {
        "network": "ResNet-14, widths 8-16-32",
        "data": f"Fashion-MNIST at 14x14, {len(data.train):,} to train, {len(data.test):,} to test",
        "pruned": "convolutions together, 40 % of the rest at every level; the output layer stays",
        "rewinding": "weights and statistics of normalisation; the momentum begins afresh",
        "steps": setting.steps,
        "recipe": dataclasses.asdict(recipe),
    }
    return setting


def residual_network(run: Run, setting: Setting, seed: int) -> nn.Module:
    """ResNet-14 of width 8."""
    depth = 8 if run.quick else 14
    return reinitialise_(ResNetCifar(depth, 10, setting.data.shape[0], (8, 16, 32)), seed)


def _residual(run: Run) -> list[Panel]:
    setting = residual_setting(run)
    rewinds = _QUICK if run.quick else REWINDS
    found: Found = {k: [] for k in rewinds}
    dense: list[Dense] = []
    for seed in run.seeds(3):
        dense.append(train_dense(run, residual_network(run, setting, seed), setting, seed, rewinds))
        for k in rewinds:
            found[k].append(find_tickets(run, dense[-1], setting, k, orders=(-1,)))
            run.log(f"seed {seed}, rewound to {100 * k:g} %: {[round(a, 4) for a in found[k][-1].accuracy]}")
    run.tried("settings of the residual panel: this one only, fixed beforehand")
    add_tables(run, found, dense)
    claim(run, found, dense)
    return plots(found, dense)


def add_tables(run: Run, found: Found, dense: Sequence[Dense]) -> None:
    """Accuracy by level and step, and both measures of stability at the sparsest two levels."""
    whole = [d.accuracy for d in dense]
    levels = next(iter(found.values()))[0].kept
    rows: list[tuple[Cell, ...]] = []
    for k, tickets in found.items():
        means = [100 * mean_deviation([t.accuracy[i] for t in tickets])[0] for i in range(len(levels))]
        rows.append((f"{100 * k:g} %", 100 * _mean(whole), *means))
    columns = ("rewound to", "dense", *(f"{100 * kept:.1f} % kept" for kept in levels))
    run.table("Test accuracy by rewinding, %", columns, rows, "Means over the seeds.")
    rows = []
    for k, tickets in found.items():
        for place, kept in enumerate(levels):
            pairs = [[t.to_full[place] for t in tickets]]
            if place in tickets[0].to_other:
                pairs.append([t.to_other[place] for t in tickets])
            cells: list[Cell] = []
            for one in pairs:
                cells += [_mean([s.distance for s in one]), _mean([s.angle for s in one])]
            rows.append((f"{100 * k:g} %", 100 * kept, *cells, *(None,) * (4 - len(cells))))
    run.table(
        "Stability",
        (
            "rewound to",
            "kept, %",
            "distance to full",
            "degrees to full",
            "distance of orders",
            "degrees of orders",
        ),
        rows,
        "Means over the seeds. To full: the dense network's result, trained in the same order, on the "
        "weights kept. Of orders: two trainings of the ticket in two orders of the data.",
    )


def claim(run: Run, found: Found, dense: Sequence[Dense]) -> None:
    """Measure the claims; what rewinding gains only where tickets from step 0 do not match."""
    whole = [d.accuracy for d in dense]
    steps = sorted(found)
    lost, half = paired(whole, [t.accuracy[-1] for t in found[0.0]])
    run.measure("accuracy lost by tickets from step 0, 4.7 % kept", lost, half)
    fars = [_mean([t.to_full[-1].distance for t in found[k]]) for k in steps]
    run.measure("rank correlation of the step with the distance to the full solution", _rank(steps, fars))
    rises = rank_of_accuracy(found, steps)
    far, apart = correlations(found)
    figures = (
        f"accuracy with the step {rises:+.2f}, with the distance to the full solution {far:+.2f}, "
        f"with that of two orders {apart:+.2f}"
    )
    if lost <= 0:
        run.tried(
            "precondition not met: tickets from step 0 match the dense network, so that nothing is left for "
            f"rewinding to gain, and the claim is not testable here. Rank correlations: {figures}"
        )
        return
    middle = [k for k in steps if 0.05 <= k <= 0.4][:2]
    gains = gains_over_start(found, middle)
    run.measure("rewinding to 5-15 % above step 0, sparsest two levels", *paired(gains, [0.0] * len(gains)))
    run.measure("rank correlation of accuracy with the step, at most 10 % kept", rises)
    run.measure("rank correlation of accuracy with the distance to the full solution", far)
    run.measure("rank correlation of accuracy with the distance of two orders", apart)


def gains_over_start(found: Found, steps: Sequence[float]) -> list[float]:
    """Accuracy of the tickets of some steps above those of step 0, mean over the sparsest two levels."""
    seeds = range(len(found[0.0]))
    return [
        _mean([found[k][s].accuracy[i] - found[0.0][s].accuracy[i] for k in steps for i in (-1, -2)])
        for s in seeds
    ]


def rank_of_accuracy(found: Found, steps: Sequence[float]) -> float:
    """Spearman's correlation of the step with the mean accuracy over levels of at most 10 %."""
    levels = [i for i, kept in enumerate(found[0.0][0].kept) if kept <= 0.1] or [-1]
    return _rank(steps, [_mean([t.accuracy[i] for t in found[k] for i in levels]) for k in steps])


def correlations(found: Found) -> tuple[float, float]:
    """Spearman's correlations of accuracy with both distances, over the steps, at the sparsest level."""
    last = len(found[0.0][0].kept) - 1
    accuracy = [_mean([t.accuracy[last] for t in tickets]) for tickets in found.values()]
    far = [_mean([t.to_full[last].distance for t in tickets]) for tickets in found.values()]
    apart = [_mean([t.to_other[last].distance for t in tickets]) for tickets in found.values()]
    return _rank(accuracy, far), _rank(accuracy, apart)


def plots(found: Found, dense: Sequence[Dense]) -> list[Panel]:
    """Accuracy and distance against the step."""
    levels = next(iter(found.values()))[0].kept
    accuracy = Panel(
        "ResNet-14, accuracy by rewinding",
        "test accuracy, %",
        x="rewound to, % of training",
        limit=100 * _mean([d.accuracy for d in dense]),
    )
    full = Panel("ResNet-14, distance to the full solution", "L2", x="rewound to, % of training")
    orders = Panel("ResNet-14, distance of two orders", "L2", x="rewound to, % of training")
    for i in (len(levels) - 2, len(levels) - 1):
        label = f"{100 * levels[i]:.1f} % kept"
        accuracy.line(label, [(100 * k, 100 * _mean([t.accuracy[i] for t in v])) for k, v in found.items()])
        full.line(label, [(100 * k, _mean([t.to_full[i].distance for t in v])) for k, v in found.items()])
    orders.line(label, [(100 * k, _mean([t.to_other[i].distance for t in v])) for k, v in found.items()])
    return [accuracy, full, orders]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rank(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's correlation; 0 where one of the two does not vary."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return 0.0
    return float(spearmanr(one, other).statistic)
