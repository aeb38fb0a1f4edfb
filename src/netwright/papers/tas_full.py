"""Transformable Architecture Search on the user's own images: ResNet-56 with the published recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from netwright.data import Splits, load
from netwright.models import ResNetCifar
from netwright.papers.run import Cell, Run
from netwright.papers.tas_shapes import PUBLISHED, counted, published
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.systems.tas import DISTILL, Tas, search
from netwright.structure import Budget, trace
from netwright.train import Recipe, evaluate, fit

_TARGET = 0.47


def measure(run: Run, path: Path) -> None:
    """Search ResNet-56, train what was found with and without distillation; judge on CIFAR-10."""
    from netwright.papers.tas import CIFAR

    data = load(path, limit=200 if run.quick else None)
    count = len(data.train) + len(data.val)
    known = data.num_classes == 10 and data.shape == (3, 32, 32) and (run.quick or count == 50_000)
    run.scope = CIFAR if known else data.name
    if not known:
        run.no_verdict("nothing was published about these images")
    depth = 8 if run.quick else 56
    recipe = Recipe(epochs=300, batch_size=256, lr=0.1, warmup_epochs=5, seed=run.seed)
    looking = dataclasses.replace(recipe, epochs=600, warmup_epochs=0)
    if run.quick:
        recipe = dataclasses.replace(recipe, epochs=1, batch_size=32, warmup_epochs=0)
        looking = dataclasses.replace(looking, epochs=1, batch_size=16)
    run.settings |= {"training": dataclasses.asdict(recipe), "search": dataclasses.asdict(looking)}
    _published(run)
    network = reinitialise_(ResNetCifar(depth, data.num_classes, data.shape[0]), run.seed)
    dense = fit(network, data, recipe, device=run.device).model.cpu()
    with run.timed("search"):
        found = search(
            dense,
            data.example(),
            data.train,
            Budget(macs=_TARGET),
            Tas(looking),
            seed=run.seed,
            device=run.device,
        )
    rows: list[tuple[Cell, ...]] = [("dense", found.soft.net.macs, 100 * _accuracy(run, dense, data))]
    best = 0.0
    for name, weight in (("TAS", 0.0), ("TAS + KD", DISTILL)):
        model, _ = found.soft.cut(found.shape, dense, run.seed)
        told = dataclasses.replace(recipe, distill_weight=weight)
        trained = fit(model, data, told, teacher=dense if weight else None, device=run.device).model
        best = _accuracy(run, trained, data)
        rows.append((name, found.shape.macs, 100 * best))
    run.table(f"ResNet-{depth} on {data.name}", ("network", "macs", "accuracy, %"), rows)
    if known:
        distance = abs(found.raw.macs / found.target - 1)
        run.measure("CIFAR-10 ResNet-56: distance of the searched shape's MACs from 47 %", distance)
        run.measure("CIFAR-10 ResNet-56: accuracy of the searched shape", best)


def _accuracy(run: Run, model: torch.nn.Module, data: Splits) -> float:
    return evaluate(model, data.test, device=run.device).accuracy


def _published(run: Run) -> None:
    """The published shapes, as their authors count them and as they cost when built."""
    images = torch.zeros(1, 3, 32, 32)
    names = list(PUBLISHED)[:1] if run.quick else list(PUBLISHED)
    rows: list[tuple[Cell, ...]] = [(n, counted(n), trace(published(n), images).macs) for n in names]
    note = "Where blocks are left out, the authors let the next stage read the width of a block that is gone."
    run.table("Published shapes", ("shape", "macs, as published", "macs, as built"), rows, note)
