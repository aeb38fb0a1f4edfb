"""Further arms of the balanced mixture: other numbers of supernets and steps, a random choice, and colour."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from netwright.data import Splits, load
from netwright.models.zoo.pooled_resnet import pooled_resnet
from netwright.nas import Choice, SearchSpace, Subset
from netwright.nas.bench import BenchEntry, TabularBench
from netwright.papers import balanced_supernet_mixture_published as published
from netwright.papers.balanced_supernet_mixture_small import (
    EPOCHS,
    SEEDS,
    USUAL,
    Arm,
    Setting,
    arm_run,
    gains,
    mean_noise,
    ordinary,
    report,
)
from netwright.papers.benches import RECIPE, TEST_BATCH, WIDTH
from netwright.papers.run import Run, drawing, one_thread
from netwright.papers.sparse_parts import paired
from netwright.structure import trace
from netwright.train import evaluate, fit

#: Trainings of every network in colour.
COLOUR_SEEDS = 3


def measure(run: Run) -> None:
    """Measure the claims beyond the ordinary scope."""
    setting = ordinary(run)
    one, two, long, four = Arm(), Arm(), Arm(), Arm()
    with run.timed("training"), one_thread():
        for seed in run.seeds(SEEDS):
            arm_run(run, setting, one, 1, 1, seed)
            arm_run(run, setting, two, 2, 2, seed)
            arm_run(run, setting, long, 1, 4, seed)
            arm_run(run, setting, four, 4, 4, seed)
    run.measure(
        "tau of 2 supernets, 2 times the steps, above that of 1",
        *paired(setting.taus(two), setting.taus(one)),
    )
    run.measure(
        "tau of 4 supernets above that of 1, both 4 times the steps",
        *paired(setting.taus(four), setting.taus(long)),
    )
    above = [a - float(setting.truth.truth.mean()) for a in _reached(setting, four)]
    run.measure(
        "network found above a random one at equal steps",
        *mean_noise(above),
        "the mean of all 15 is what a random choice is expected to reach",
    )
    arms = {
        "1 supernet": one,
        "2, 2 times the steps": two,
        "1, 4 times the steps": long,
        "4, 4 times the steps": four,
    }
    report(run, setting, arms)
    published.report(run)
    _colour(run)


def _reached(setting: Setting, arm: Arm) -> list[float]:
    return [float(np.mean(setting.accuracy(choice))) for choice in arm.found]


def _colour(run: Run) -> None:
    """The ordinary comparison on coloured pictures, with a truth of its own."""
    data = colour(run.quick)
    with run.timed("truth in colour"), one_thread():
        truth = _truth(run, data)
    setting = Setting(data, 1 if run.quick else EPOCHS, truth)
    one, four = Arm(), Arm()
    with run.timed("training in colour"), one_thread():
        for seed in run.seeds(COLOUR_SEEDS):
            arm_run(run, setting, one, 1, 1, seed)
            arm_run(run, setting, four, 4, 4, seed)
    run.measure(
        "tau of 4 supernets above that of 1, colour",
        *paired(setting.taus(four), setting.taus(one)),
        f"{len(truth.seeds)} trainings each, noise ceiling {truth.ceiling:.2f}",
    )
    run.measure("network found above the usual one, colour", *mean_noise(gains(setting, four.found, USUAL)))


def colour(quick: bool) -> Splits:
    """Patches of photographs, in colour."""
    data = load("photo-patches", image_size=16)
    sizes = (300, 200, 200) if quick else (3_000, 1_000, 2_000)
    parts = zip((data.train, data.val, data.test), sizes, strict=True)
    train, val, test = (part.head(size) for part, size in parts)
    return dataclasses.replace(data, train=train, val=val, test=test)


def _truth(run: Run, data: Splits) -> TabularBench:
    space = SearchSpace([Subset("pools", 6, 2)])
    few = dataclasses.replace(data, val=data.val.head(100))
    entries = []
    for choice in space.enumerate():
        reached = []
        for seed in run.seeds(COLOUR_SEEDS) if not run.quick else (0, 1):
            model = _network(choice, data, seed)
            fitted = fit(model, few, dataclasses.replace(RECIPE, seed=seed), device="cpu")
            score = evaluate(fitted.model, data.test, device="cpu", batch_size=TEST_BATCH)
            reached.append(score.accuracy)
        net = trace(_network(choice, data, 0), data.example())
        cost = net.cost(net.everything)
        entries.append(BenchEntry(choice, cost.macs, cost.params, tuple(reached)))
        run.log(f"colour, {choice['pools']}: {np.mean(reached):.3f}")
    seeds = tuple(range(len(entries[0].accuracies)))
    return TabularBench("pool-15 in colour", space, seeds, tuple(entries))


def _network(choice: Choice, data: Splits, seed: int) -> torch.nn.Module:
    with drawing(seed):
        return pooled_resnet(
            [m + 1 for m in choice["pools"]],
            7,
            [WIDTH] * 7,
            num_classes=data.num_classes,
            in_channels=data.shape[0],
        )
