"""Pruning after training without any more of it: what OBSPA's refit, its data and its choice each give."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from netwright import models
from netwright.data import Splits, load
from netwright.models import ResNetCifar
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Run
from netwright.papers.sparse_parts import fashion, mean_deviation, paired
from netwright.pruning import prune
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.train import Recipe, evaluate, fit

SHARES = (0.75, 0.5)
L1, BN = "L1 alone", "L1 and BN statistics"
DATA, CHOICE = "OBSPA with data", "OBS choice and refit, data"
FREE, UNIFORM = "OBSPA without data", "L1 choice, refit to uniform noise"
FREE_CHOICE = "OBS choice and refit, Gaussian noise"
CALIBRATION = 1_000


@dataclass(frozen=True)
class Way:
    """How one arm prunes.

    Attributes:
        importance: What chooses.
        repair: What makes up for it.
        data: "images", or the kind of noise, or None.
    """

    importance: str = "magnitude-l1"
    repair: str = "none"
    data: str | None = None


#: OBSPA's choice of channels is by weights where there are no data: by noise it fails (see the sheet).
WAYS = {
    L1: Way(),
    BN: Way(repair="bn", data="images"),
    DATA: Way(repair="obs", data="images"),
    CHOICE: Way("obs", "obs", "images"),
    FREE: Way(repair="obs", data="gaussian"),
    UNIFORM: Way(repair="obs", data="uniform"),
    FREE_CHOICE: Way("obs", "obs", "gaussian"),
}


def setting(run: Run) -> tuple[Splits, Recipe]:
    """Fashion-MNIST at 14x14, and the recipe of the dense network."""
    data = fashion(256, 100) if run.quick else fashion(10_000, 5_000)
    recipe = Recipe(
        epochs=1 if run.quick else 4,
        batch_size=128,
        lr=0.1,
        schedule="one-cycle",
        augment=False,
        precision="fp32",
    )
    run.settings |= {
        "data": f"Fashion-MNIST at 14x14, {len(data.train):,} to train, {len(data.test):,} to test",
        "network": "residual, 8 layers, widths 16, 32, 64",
        "recipe": dataclasses.asdict(recipe),
        "examples of refits": CALIBRATION,
        "inputs of refits": "those that the pruned layers before give, both networks side by side",
    }
    return data, recipe


def network(run: Run, data: Splits, seed: int) -> nn.Module:
    """The dense network before training."""
    widths = (8, 8, 16) if run.quick else (16, 32, 64)
    return reinitialise_(ResNetCifar(8, data.num_classes, data.shape[0], widths), seed)


def headline(run: Run) -> None:
    """Every way at 25 and 50 % fewer channels in every group."""
    data, recipe = setting(run)
    with run.timed("training and pruning"):
        dense, found, seconds = _measure(run, data, recipe)
    panels = []
    for share, scores in found.items():
        rows = []
        panel = Panel(f"{1 - share:.0%} of the channels gone", "accuracy, %")
        for name, values in scores.items():
            mean, deviation = mean_deviation(values)
            took = mean_deviation(seconds[name])[0]
            rows.append((name, 100 * mean, 100 * deviation, 100 * paired(values, dense)[0], took))
            panel.bar(name, 100 * mean, 100 * deviation)
        panels.append(panel)
        columns = ("arm", "accuracy, %", "deviation", "points above dense", "seconds")
        note = f"Dense: {100 * mean_deviation(dense)[0]:.1f} %. No arm is trained after pruning."
        run.table(f"{1 - share:.0%} of the channels of every group gone", columns, rows, note)
    run.plot(figure("Pruned without training, Fashion-MNIST", panels, columns=1, width=760, height=320))
    lost = paired(dense, found[0.75][DATA])
    run.measure("accuracy lost by OBSPA with data, 25 %", *lost)
    for share in SHARES:
        where = f"{100 * (1 - share):.0f} %"
        scores = found[share]
        run.measure(f"OBSPA with data above L1 and BN statistics, {where}", *paired(scores[DATA], scores[BN]))
        run.measure(f"OBSPA with data above L1 alone, {where}", *paired(scores[DATA], scores[L1]))
        run.measure(f"OBSPA without data above L1 alone, {where}", *paired(scores[FREE], scores[L1]))


def _measure(
    run: Run, data: Splits, recipe: Recipe
) -> tuple[list[float], dict[float, dict[str, list[float]]], dict[str, list[float]]]:
    """Accuracy of the dense network, of every share and arm, and the seconds that pruning took."""
    dense: list[float] = []
    found: dict[float, dict[str, list[float]]] = {share: {name: [] for name in WAYS} for share in SHARES}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for seed in run.seeds():
        model = fit(
            network(run, data, seed), data, dataclasses.replace(recipe, seed=seed), device=run.device
        ).model.cpu()
        dense.append(evaluate(model, data.test, device=run.device).accuracy)
        for share in SHARES:
            for name, way in WAYS.items():
                begun = time.perf_counter()
                small = _pruned(model, data, way, share, seed)
                seconds[name].append(time.perf_counter() - begun)
                found[share][name].append(evaluate(small, data.test, device=run.device).accuracy)
            now = found[share]
            run.log(f"seed {seed}, {share:.0%} kept: L1 {now[L1][-1]:.3f}, OBSPA {now[DATA][-1]:.3f}")
    return dense, found, seconds


def _pruned(model: nn.Module, data: Splits, way: Way, share: float, seed: int) -> nn.Module:
    given: Any = data.train.head(CALIBRATION) if way.data == "images" else way.data
    return prune(
        model,
        data.example(),
        share,
        importance=way.importance,
        allocation="uniform",
        repair=way.repair,
        data=given,
        seed=seed,
        round_to=1,
    ).model


def full(run: Run, path: Path) -> None:
    """ResNet-50 with torchvision's weights, or trained here, on the user's images."""
    from netwright.papers.spa import FULL

    run.scope = FULL
    data = load(str(path))
    if run.quick:
        data = dataclasses.replace(data, train=data.train.head(64), test=data.test.head(32))
    loaded = models.load("resnet50", num_classes=data.num_classes, in_channels=data.shape[0])
    recipe = Recipe(epochs=1 if run.quick else 90, batch_size=16 if run.quick else 256, seed=run.seed)
    model = fit(loaded.model, data, recipe, device=run.device).model.cpu()
    before = evaluate(model, data.test, device=run.device).accuracy
    rows = [("dense", 100 * before)]
    for name, way in WAYS.items():
        small = _pruned(model, data, way, 0.75, run.seed)
        after = evaluate(small, data.test, device=run.device).accuracy
        rows.append((name, 100 * after))
        if name == DATA:
            run.measure("accuracy lost by OBSPA with data, 25 %, full scale", before - after)
    run.table("ResNet-50, 25 % of the channels of every group gone", ("arm", "accuracy, %"), rows)
