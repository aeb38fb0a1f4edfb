"""Further arms of the balanced mixture: other numbers of supernets and steps, DARTS, other pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from netwright.data import Splits, load
from netwright.errors import DataError
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
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.structure import trace
from netwright.supernets import Elastic, GradientAlpha, train
from netwright.supernets.training.bilevel import Bilevel
from netwright.train import evaluate, fit

#: Trainings of every network in colour.
COLOUR_SEEDS = 3
DARTS_SEEDS = 3
#: Of the architecture parameters, as the authors' search by gradient moves them.
ALPHA: Mapping[str, Any] = {"lr": 0.01, "betas": (0.9, 0.999), "weight_decay": 1e-3}


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
    darts = Arm()
    with run.timed("DARTS"), one_thread():
        for seed in run.seeds(DARTS_SEEDS):
            _darts(run, setting, darts, 4, seed)
    reached = _reached(setting, four)
    run.measure(
        "network found above that of DARTS at equal steps",
        *paired(reached[: len(darts.found)], _reached(setting, darts)),
        "as many steps of the weights; DARTS runs every layer at all its sizes, for its parameters, too",
    )
    run.measure(
        "network found above that of one supernet at equal steps", *paired(reached, _reached(setting, long))
    )
    arms = {
        "1 supernet": one,
        "2, 2 times the steps": two,
        "1, 4 times the steps": long,
        "4, 4 times the steps": four,
        "DARTS, 4 times the steps": darts,
    }
    report(run, setting, arms)
    published.report(run)
    _other(run, "colour", colour(run.quick, "photo-patches", (3_000, 1_000, 2_000)))
    try:
        emoji = colour(run.quick, "emoji", (1_300, 400, 400))
    except DataError as error:
        run.tried(f"emoji were left out: {error}")
        return
    _other(run, "emoji", emoji)


def _reached(setting: Setting, arm: Arm) -> list[float]:
    return [float(np.mean(setting.accuracy(choice))) for choice in arm.found]


def _darts(run: Run, setting: Setting, arm: Arm, times: int, seed: int) -> None:
    """Search the places by gradient: the softmax of one parameter for each, learned by validation pictures.

    Ranked by the parameters; weights take as many steps as one supernet in as many times its epochs.
    """
    data = setting.data
    few = dataclasses.replace(data, val=data.val.head(100))
    sampler = GradientAlpha("darts", seed, **ALPHA)
    paths = Bilevel(sampler, held=data.val, seed=seed)
    recipe = setting.recipe(seed, setting.epochs * times)
    sup = setting.mixture(1, seed).member
    fitted = train(sup, few, recipe, paths=paths, device=run.device)
    assert isinstance(fitted.model, Elastic)
    shares = sampler.probabilities()["pool"]
    arm.scores.append(shares.double().numpy())
    arm.found.append(sampler.favoured())
    passes = (
        2 * recipe.epochs * (len(data.train) // recipe.batch_size)
    )  # of the parameters and of the weights
    arm.gmacs.append(passes * recipe.batch_size * _macs(fitted.model, data.example()) / 1e9)
    run.log(f"seed {seed}, DARTS: {arm.found[-1]['pool']}, shares {shares.min():.3f} to {shares.max():.3f}")


def _macs(sup: Elastic, x: torch.Tensor) -> float:
    """Multiply-accumulates of one example through all places at once."""
    seen = []

    def count(module: torch.nn.Module, args: object, out: torch.Tensor) -> None:
        assert isinstance(module.weight, torch.Tensor)
        seen.append(out.numel() // len(out) * module.weight[0].numel())

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    handles = [m.register_forward_hook(count) for m in sup.network.modules() if isinstance(m, kinds)]
    places = len(list(sup.space.dim("pool").each()))
    with torch.no_grad():
        sup.set_mixture({"pool": torch.full((places,), 1 / places)})(x)
    sup.set({})
    for handle in handles:
        handle.remove()
    return float(sum(seen))


def _other(run: Run, name: str, data: Splits) -> None:
    """The ordinary comparison on other pictures, with a truth of its own.

    Args:
        run: The run.
        name: What its claims call them.
        data: The pictures.
    """
    with run.timed(f"truth, {name}"), one_thread():
        truth = _truth(run, name, data)
    setting = Setting(data, 1 if run.quick else EPOCHS, truth)
    one, four = Arm(), Arm()
    with run.timed(f"training, {name}"), one_thread():
        for seed in run.seeds(COLOUR_SEEDS):
            arm_run(run, setting, one, 1, 1, seed)
            arm_run(run, setting, four, 4, 4, seed)
    run.measure(
        f"tau of 4 supernets above that of 1, {name}",
        *paired(setting.taus(four), setting.taus(one)),
        f"{len(truth.seeds)} trainings each, noise ceiling {truth.ceiling:.2f}",
    )
    run.measure(f"network found above the usual one, {name}", *mean_noise(gains(setting, four.found, USUAL)))
    rows: list[tuple[Cell, ...]] = []
    for arm, some in (("1 supernet", one), ("4, 4 times the steps", four)):
        reached = 100 * float(np.mean(_reached(setting, some)))
        rows.append((arm, *mean_deviation(setting.taus(some)), truth.ceiling, reached))
    rows.append(("usual", "-", "-", truth.ceiling, 100 * truth[{"pools": USUAL}].accuracy))
    sizes = (
        f"{len(data.train):,} to train, {len(data.val):,} to route and rank by, {len(data.test):,} to test"
    )
    run.table(
        f"Other pictures: {data.name}", ("arm", "tau", "deviation", "ceiling", "found, %"), rows, f"{sizes}."
    )


def colour(quick: bool, name: str, sizes: tuple[int, int, int]) -> Splits:
    """Coloured pictures of 16x16 pixels.

    Args:
        quick: Whether a few will do.
        name: Of the set.
        sizes: Most examples to train, to choose by and to test.
    """
    data = load(name, image_size=16)
    few = (300, 200, 200) if quick else sizes
    parts = zip((data.train, data.val, data.test), few, strict=True)
    train, val, test = (part.head(min(size, len(part))) for part, size in parts)
    return dataclasses.replace(data, train=train, val=val, test=test)


def _truth(run: Run, name: str, data: Splits) -> TabularBench:
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
        run.log(f"{name}, {choice['pools']}: {np.mean(reached):.3f}")
    seeds = tuple(range(len(entries[0].accuracies)))
    return TabularBench(f"pool-15, {name}", space, seeds, tuple(entries))


def _network(choice: Choice, data: Splits, seed: int) -> torch.nn.Module:
    with drawing(seed):
        return pooled_resnet(
            [m + 1 for m in choice["pools"]],
            7,
            [WIDTH] * 7,
            num_classes=data.num_classes,
            in_channels=data.shape[0],
        )
