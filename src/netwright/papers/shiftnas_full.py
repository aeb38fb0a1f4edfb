"""ShiftNAS on the user's own images: an elastic ResNet-20, sampled uniformly and by shifted bins."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from netwright.data import load
from netwright.models import ResNetCifar
from netwright.papers.run import Cell, Run, drawing
from netwright.papers.shiftnas_small import BINS, SHIFT, UNIFORM, networks
from netwright.supernets import Accuracy, Elastic, ProbabilityShift, cost_tables, elastic, samplers, train
from netwright.train import Recipe

_HELD, _CALIBRATION = 256, 2_000


def measure(run: Run, path: Path) -> None:
    """Train both ways and judge networks of every bin; the paper's figures are ImageNet's."""
    data = load(path, limit=160 if run.quick else None)
    run.scope = "images"
    run.no_verdict("nothing was published about these images")
    recipe = Recipe(epochs=200, batch_size=128, lr=0.1, warmup_epochs=5, seed=run.seed)
    if run.quick:
        recipe = dataclasses.replace(recipe, epochs=1, batch_size=32, warmup_epochs=0.0)
    run.settings |= {"training": dataclasses.asdict(recipe)}
    held = data.val.head(min(_HELD, len(data.val) // 2))
    rest = dataclasses.replace(data, val=data.val.subset(torch.arange(len(held), len(data.val))))
    with drawing(run.seed):
        model = ResNetCifar(8 if run.quick else 20, data.num_classes, data.shape[0])
    sup = elastic(model, data.example(1), width=[0.25, 0.5, 0.75, 1.0], depth=True)
    tables = cost_tables(sup)
    chosen = networks(tables, run.seed, 2 if run.quick else 10)
    accuracy = Accuracy(rest.test, rest.train.head(_CALIBRATION), device=run.device)
    rows: list[tuple[Cell, ...]] = []
    for name, sampler in (
        (UNIFORM, samplers.Uniform(run.seed)),
        (SHIFT, ProbabilityShift(held, BINS, run.seed)),
    ):
        with run.timed(name):
            trained = train(sup, rest, recipe, sampler=sampler, device=run.device).model
        assert isinstance(trained, Elastic)
        bins = [float(np.mean([accuracy(trained, choice) for choice in some])) for some in chosen]
        rows.append((name, *(100 * value for value in bins)))
    columns = ("arm", *(f"bin {k + 1}" for k in range(BINS)))
    run.table(f"Inherited accuracy on {data.name} by bin, %", columns, rows, "Test images.")
