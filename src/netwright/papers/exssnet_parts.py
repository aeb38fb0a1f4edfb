"""Sequences of tasks in one network, by masks, by exclusive weights, and by training everything in turn."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netwright.data import Splits, load
from netwright.models import ResNetCifar
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import fashion, mean_deviation, paired
from netwright.pruning.systems.exclusive import ExSSNet
from netwright.pruning.systems.supermask import signed_constant_
from netwright.train import Recipe, evaluate, fit
from netwright.train.continual import average_accuracy, forgetting, permuted, split_by_class

SUPSUP, SSNET, EXSSNET, KKT, TUNED = "SupSup", "SSNeT", "ExSSNeT", "ExSSNeT with KKT", "fine-tuning"
_ARMS: dict[str, dict[str, Any]] = {
    SUPSUP: {"train": "masks"},
    SSNET: {"train": "all"},
    EXSSNET: {"train": "exclusive"},
    KKT: {"train": "exclusive", "transfer": "knn"},
}
_DENSITIES = (0.1, 0.02)
_SEEDS = 5


def base(seed: int, classes: int = 2) -> nn.Module:
    """A small network in LeNet's manner: normalised without scales, no biases, fixed random signs."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2, bias=False),
        nn.BatchNorm2d(16, affine=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2, bias=False),
        nn.BatchNorm2d(32, affine=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 128, bias=False),
        nn.BatchNorm1d(128, affine=False),
        nn.ReLU(),
        nn.Linear(128, classes, bias=False),
    )
    return signed_constant_(network, seed)


def recipes(run: Run) -> tuple[Recipe, Recipe]:
    """Of masks and of weights."""
    epochs = 1 if run.quick else 3
    masks = Recipe(
        epochs=epochs,
        batch_size=64,
        lr=0.01,
        optimizer="adam",
        weight_decay=1e-4,
        augment=False,
        precision="fp32",
    )
    return masks, dataclasses.replace(masks, lr=1e-3, weight_decay=0.0)


def sequence(run: Run, seed: int) -> list[Splits]:
    """Five tasks of two garments each, in an order of the seed's own."""
    data = fashion(600, 300) if run.quick else fashion(6_000, 4_000)
    tasks = split_by_class(data, 2, 2 if run.quick else 5)
    order = torch.randperm(len(tasks), generator=torch.Generator().manual_seed(seed)).tolist()
    return [tasks[k] for k in order]


def learn(
    run: Run, tasks: Sequence[Splits], keep: float, seed: int, network: nn.Module, **settings: Any
) -> tuple[list[list[float]], ExSSNet]:
    """Learn all tasks; returns the accuracy on each task so far after every one, and the model."""
    masks, weights = (dataclasses.replace(r, seed=seed) for r in recipes(run))
    model = ExSSNet(network, keep, seed=seed, device=run.device, **settings)
    rows: list[list[float]] = []
    for k, data in enumerate(tasks):
        model.fit_task(k, data, masks, weights)
        rows.append([_accuracy(run, model.activate(j), tasks[j]) for j in range(k + 1)])
    return rows, model


def _accuracy(run: Run, network: nn.Module, data: Splits) -> float:
    return evaluate(network, data.test, device=run.device).accuracy


def _sequential(run: Run, tasks: Sequence[Splits], seed: int) -> list[list[float]]:
    """The whole network trained on one task after the other."""
    _, weights = recipes(run)
    network = copy.deepcopy(base(seed))
    rows: list[list[float]] = []
    for k, data in enumerate(tasks):
        recipe = dataclasses.replace(weights, seed=seed, epochs=2 * weights.epochs)
        network = fit(network, data, recipe, device=run.device).model
        rows.append([_accuracy(run, network, tasks[j]) for j in range(k + 1)])
    return rows


def headline(run: Run) -> None:
    """All arms at both densities."""
    found: dict[tuple[str, float], list[list[list[float]]]] = {}
    kept: dict[float, list[ExSSNet]] = {}
    with run.timed("tasks"):
        for seed in run.seeds(_SEEDS):
            tasks = sequence(run, seed)
            found.setdefault((TUNED, 1.0), []).append(_sequential(run, tasks, seed))
            for keep in _DENSITIES:
                for name, settings in _ARMS.items():
                    rows, model = learn(run, tasks, keep, seed, base(seed), **settings)
                    found.setdefault((name, keep), []).append(rows)
                    if name == EXSSNET:
                        kept.setdefault(keep, []).append(model)
            run.log(f"seed {seed}: done")
    run.settings |= {
        "tasks": f"{len(tasks)} of 2 garments each at 14x14, {len(tasks[0].train):,} pictures to train each",
        "masks": dataclasses.asdict(recipes(run)[0]),
        "weights": dataclasses.asdict(recipes(run)[1]),
        "fine-tuning": "all weights, for the epochs of masks and weights together",
    }
    _tables(run, found, kept)
    for keep in _DENSITIES:
        where = f"{100 * keep:.0f} %"
        lost = {name: [forgetting(rows) for rows in found[name, keep]] for name in _ARMS}
        # The worst of all seeds: what never forgets does not on average either.
        run.measure(f"forgetting of SupSup, {where}", max(lost[SUPSUP]))
        run.measure(f"forgetting of ExSSNeT, {where}", max(lost[EXSSNET]))
        if keep == _DENSITIES[0]:
            run.measure(f"forgetting of SSNeT, {where}", *paired(lost[SSNET], [0.0] * len(lost[SSNET])))
        more = paired(_final(found[EXSSNET, keep]), _final(found[SUPSUP, keep]))
        run.measure(f"ExSSNeT above SupSup, {where}", *more)
    lost_all = [forgetting(rows) for rows in found[TUNED, 1.0]]
    run.measure("forgetting of sequential fine-tuning", *paired(lost_all, [0.0] * len(lost_all)))
    _related(run)


def _final(runs: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    return [average_accuracy(rows) for rows in runs]


def _tables(
    run: Run, found: dict[tuple[str, float], list[list[list[float]]]], kept: dict[float, list[ExSSNet]]
) -> None:
    rows, panels = [], []
    for keep in (1.0, *_DENSITIES):
        panel = Panel(f"{100 * keep:.0f} % of the weights a task", "average accuracy, %")
        for (name, density), runs in found.items():
            if density != keep:
                continue
            mean, deviation = mean_deviation(_final(runs))
            lost = [forgetting(r) for r in runs]
            rows.append(
                (name, keep, 100 * mean, 100 * deviation, 100 * mean_deviation(lost)[0], 100 * max(lost))
            )
            panel.bar(name, 100 * mean, 100 * deviation)
        panels.append(panel)
    columns = (
        "arm",
        "density",
        "average accuracy, %",
        "deviation",
        "forgetting, points",
        "largest forgetting",
    )
    run.table("After the last task", columns, rows)
    stored = []
    for keep, ones in kept.items():
        tasks = list(ones[0].tasks)
        free = [mean_deviation([float(m.tasks[t].free) for m in ones])[0] for t in tasks]
        overlap = mean_deviation([m.overlap(tasks[-1], tasks[0]) for m in ones])[0]
        stored.append((keep, ones[0].tasks[tasks[0]].bytes, free[0], free[-1], overlap))
    names = (
        "density",
        "bytes of a mask",
        "free weights, first task",
        "last task",
        "last mask shared with the first",
    )
    run.table("What is stored", names, stored)
    run.plot(figure("Five tasks in one network", panels, columns=3, width=320, height=300))


def _related(run: Run) -> None:
    """An old task with its labels exchanged, after one epoch, with and without transfer."""
    gains: dict[str, list[float]] = {KKT: [], EXSSNET: []}
    for seed in run.seeds(_SEEDS):
        first = sequence(run, seed)[0]
        y = first.train.labels
        swapped = dataclasses.replace(
            first,
            train=_swapped(first.train),
            test=_swapped(first.test),
            fingerprint=f"{first.fingerprint}/x",
        )
        assert torch.equal(swapped.train.labels, 1 - y)
        masks = dataclasses.replace(recipes(run)[0], seed=seed)
        for name in gains:
            model = ExSSNet(base(seed), 0.1, seed=seed, device=run.device, **_ARMS[name] | {"train": "masks"})
            model.fit_task(0, first, masks)
            model.fit_task(1, swapped, dataclasses.replace(masks, epochs=1))
            gains[name].append(_accuracy(run, model.activate(1), swapped))
    run.measure("first epoch on a related task, KKT above random scores", *paired(gains[KKT], gains[EXSSNET]))
    rows: list[tuple[Cell, ...]] = []
    for name, values in gains.items():
        mean, deviation = mean_deviation(values)
        rows.append((name, 100 * mean, 100 * deviation))
    run.table("One epoch on an old task with its labels exchanged", ("arm", "accuracy, %", "deviation"), rows)


def _swapped(part: Any) -> Any:
    from netwright.data import Part

    batches = list(part.batches(1024))
    return Part.from_tensors(torch.cat([x for x, _ in batches]), 1 - torch.cat([y for _, y in batches]))


def hundred(run: Run) -> None:
    """A hundred tasks of two classes under fixed permutations of the pixels, one epoch each."""
    count = 6 if run.quick else 100
    data = fashion(600, 300) if run.quick else fashion(3_000, 1_000)
    pairs = split_by_class(data, 2)
    tasks = [pairs[k] if k < len(pairs) else permuted(pairs[k % len(pairs)], k) for k in range(count)]
    masks, weights = (dataclasses.replace(r, epochs=1) for r in recipes(run))
    scores: dict[str, list[float]] = {}
    with run.timed("a hundred tasks"):
        for name in (SUPSUP, EXSSNET):
            model = ExSSNet(base(run.seed), 0.02, seed=run.seed, device=run.device, **_ARMS[name])
            at_once = []
            for k, task in enumerate(tasks):
                model.fit_task(k, task, masks, weights)
                at_once.append(_accuracy(run, model.activate(k), task))
            final = [_accuracy(run, model.activate(k), task) for k, task in enumerate(tasks)]
            scores[name] = final
            if name == EXSSNET:
                lost = max(a - b for a, b in zip(at_once, final, strict=True))
                run.measure("forgetting of ExSSNeT after 100 tasks", lost)
                free = [float(model.tasks[k].free) for k in range(count)]
    run.measure("ExSSNeT above SupSup over 100 tasks", *paired(scores[EXSSNET], scores[SUPSUP]))
    step = max(count // 10, 1)
    rows = [
        (f"{k + 1}-{min(k + step, count)}", 100 * _mean(scores[SUPSUP][k : k + step]),
         100 * _mean(scores[EXSSNET][k : k + step]), _mean(free[k : k + step]))
        for k in range(0, count, step)
    ]  # fmt: skip
    run.table("A hundred tasks", ("tasks", "SupSup, %", "ExSSNeT, %", "free weights"), rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def full(run: Run, path: Path) -> None:
    """Tasks of five classes of the user's images on a ResNet of 20 layers, twice as wide."""
    from netwright.papers.exssnet import FULL

    run.scope = FULL
    data = load(str(path))
    tasks = split_by_class(data, min(5, data.num_classes), 2 if run.quick else None)
    network = ResNetCifar(
        20, tasks[0].num_classes, data.shape[0], (8, 16, 32) if run.quick else (32, 64, 128)
    )
    masks, weights = recipes(run)
    if not run.quick:
        masks, weights = (dataclasses.replace(r, epochs=100) for r in (masks, weights))
    model = ExSSNet(signed_constant_(network, run.seed), 0.1, seed=run.seed, device=run.device)
    rows: list[list[float]] = []
    for k, task in enumerate(tasks):
        model.fit_task(k, task, masks, weights)
        rows.append([_accuracy(run, model.activate(j), tasks[j]) for j in range(k + 1)])
    run.measure("forgetting of ExSSNeT, full scale", forgetting(rows))
    run.table("After the last task", ("task", "accuracy, %"), [(k, 100 * a) for k, a in enumerate(rows[-1])])
