"""GraNet at small scale: perceptrons on digits, ResNet-8 on Fashion-MNIST, and the plasticity panels."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from netwright.data import Splits
from netwright.models import ResNetCifar
from netwright.papers.granet_plasticity import plasticity_at_half
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import (
    accuracy_table,
    digits,
    fashion,
    mean_deviation,
    mlp,
    paired,
)
from netwright.pruning import Sparsity, TrainingCost
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.schedules import schedule as schedules
from netwright.pruning.schedules.schedule import Custom, Event, Gradual
from netwright.structure import trace
from netwright.train import Callback, Recipe, cross_entropy, evaluate, fit

STATIC, RIGL, RIGL_OWN = "static", "RigL", "RigL, rate 0.3"
GMP, GMP_HALF, GRANET = "GMP", "GMP from 50 %", "GraNet from 50 %"
WIDTHS = (64, 300, 100, 10)
_SHARES = (0.05, 0.02, 0.01)
#: Where pruning and regrowth end, and the time between two events, as shares of the training.
_END, _EVERY = 0.6, 0.025


def arms() -> dict[str, Gradual]:
    """The schedules that are compared: one loop with and without its two halves."""
    same = {"end": _END, "until": _END, "every": _EVERY}
    return {
        STATIC: schedules.static(**same),
        RIGL: schedules.rigl(rate=0.5, **same),
        RIGL_OWN: schedules.rigl(rate=0.3, **same),
        GMP: schedules.cubic(**same),
        GMP_HALF: schedules.granet(rate=0.0, **same),
        GRANET: schedules.granet(**same),
    }


@dataclasses.dataclass
class Panels:
    """What the arms of one network made.

    Attributes:
        scores: Arm -> test accuracy of each seed.
        macs: Arm -> multiply-accumulates of its training by those of the dense one.
        seconds: Arm -> CPU seconds of a training, mean over the seeds.
    """

    scores: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    macs: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)


def measure(run: Run) -> None:
    """The headline: the arms on both networks, plasticity at one half, and what regeneration costs."""
    with one_thread():
        panels = _digits(run)
        panels += _fashion(run)
        panels.append(plasticity_at_half(run))
    run.plot(figure("GraNet", panels, columns=2, width=520, height=320))


def digits_recipe(run: Run, epochs: int) -> Recipe:
    """How perceptrons are trained on digits."""
    return Recipe(
        epochs=2 if run.quick else epochs,
        batch_size=64,
        lr=0.1,
        schedule="cosine",
        precision="fp32",
        augment=False,
    )


def _digits(run: Run) -> list[Panel]:
    data, recipe = digits(run.quick), digits_recipe(run, 40)
    run.settings["digits"] = {
        "network": "-".join(map(str, WIDTHS)),
        "train": len(data.train),
        "test": len(data.test),
        "recipe": dataclasses.asdict(recipe),
        "events": f"every {_EVERY:g} of the training until {_END:g} of it, pruning and regrowth alike",
    }
    panels = []
    few, many = run.seeds(5), run.seeds(20)
    dense = [_train(run, mlp(WIDTHS, s), data, recipe, s, None, 1.0)[0] for s in few]
    for share in _SHARES[2:] if run.quick else _SHARES:
        found = Panels({"dense": dense})
        for name, schedule in arms().items():
            # The one difference that is not clear-cut gets more seeds.
            seeds = many if share == 0.01 and name in (GMP, GMP_HALF, GRANET) else few
            train_arm(run, found, name, schedule, share, data, recipe, seeds, lambda s: mlp(WIDTHS, s))
        where = f"digits, {share * 100:.0f} % kept"
        report(run, where, found)
        panels.append(bars(where, found))
        scores = {name: values[: len(few)] for name, values in found.scores.items()}
        run.measure(f"GraNet above RigL, {where}", *_better_rigl(scores))
        run.measure(f"GraNet above static masks, {where}", *paired(scores[GRANET], scores[STATIC]))
        if share == 0.01:
            run.measure(f"GraNet above GMP, {where}", *paired(found.scores[GRANET], found.scores[GMP]))
            half = paired(found.scores[GRANET], found.scores[GMP_HALF])
            run.tried(
                f"{where}: GraNet above GMP from 50 %: {100 * half[0]:+.2f} ± {100 * half[1]:.2f} points"
            )
    return panels


def _better_rigl(scores: dict[str, list[float]]) -> tuple[float, float]:
    """GraNet against RigL with the better of two rates, that of the paper and that of this loop."""
    best = max((RIGL, RIGL_OWN), key=lambda name: sum(scores[name]))
    return paired(scores[GRANET], scores[best])


def _fashion(run: Run) -> list[Panel]:
    """A harder panel: a convolutional network with 2 % of its weights."""
    data = fashion(*((256, 100) if run.quick else (4_000, 5_000)))
    recipe = Recipe(epochs=2 if run.quick else 10, batch_size=128, lr=0.1, schedule="cosine", augment=False)
    run.settings["fashion"] = {
        "network": "ResNet-8, 16-32-64",
        "data": f"Fashion-MNIST at 14x14, {len(data.train):,} to train, {len(data.test):,} to test",
        "recipe": dataclasses.asdict(recipe),
    }
    seeds, share, found = run.seeds(5), 0.02, Panels()
    for name, schedule in arms().items():
        if name in (STATIC, RIGL):
            continue
        train_arm(run, found, name, schedule, share, data, recipe, seeds, lambda s: _resnet(data, s))
    where = "Fashion-MNIST, 2 % kept"
    report(run, where, found)
    run.measure(f"GraNet above RigL, {where}", *paired(found.scores[GRANET], found.scores[RIGL_OWN]))
    run.measure(f"GraNet above GMP, {where}", *paired(found.scores[GRANET], found.scores[GMP]))
    half, spread = paired(found.scores[GRANET], found.scores[GMP_HALF])
    run.tried(
        f"{where}: GraNet above GMP from 50 %: {100 * half:+.2f} ± {100 * spread:.2f} points; network, data "
        "and recipe were fixed beforehand, and no other was tried"
    )
    run.measure("training MACs of GraNet by GMP", found.macs[GRANET] / found.macs[GMP], note=where)
    model = _resnet(data, run.seed)
    seconds = regeneration_seconds(run, model, data, recipe)
    steps = recipe.epochs * -(-len(data.train) // recipe.batch_size)
    schedule = arms()[GRANET]
    times = sum(bool(e and e.rate) for s in range(1, steps + 1) if (e := schedule.event(s, steps, share)))
    whole = mean_deviation(found.seconds[GMP_HALF])[0]
    run.measure(
        "time that regeneration adds to training",
        times * seconds / whole,
        note=f"{times} exchanges of {1e3 * seconds:.2f} ms in {whole:.1f} CPU seconds, {steps} steps",
    )
    return [bars(where, found)]


def _resnet(data: Splits, seed: int) -> nn.Module:
    return reinitialise_(ResNetCifar(8, data.num_classes, data.shape[0], (16, 32, 64)), seed)


def train_arm(
    run: Run,
    found: Panels,
    name: str,
    schedule: Gradual,
    share: float,
    data: Splits,
    recipe: Recipe,
    seeds: Sequence[int],
    make: Callable[[int], nn.Module],
) -> None:
    """Train one arm with every seed."""
    for seed in seeds:
        accuracy, cost, seconds = _train(run, make(seed), data, recipe, seed, schedule, share)
        found.scores.setdefault(name, []).append(accuracy)
        found.seconds.setdefault(name, []).append(seconds)
        found.macs[name] = cost
    mean, deviation = mean_deviation(found.scores[name])
    run.log(f"{data.name}, {share * 100:g} % kept, {name}: {100 * mean:.2f} ± {100 * deviation:.2f}")


def _train(
    run: Run,
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    seed: int,
    schedule: Gradual | None,
    share: float,
) -> tuple[float, float, float]:
    """Train one network; returns its accuracy, its computation by the dense one's, and CPU seconds."""
    recipe = dataclasses.replace(recipe, seed=seed)
    if schedule is None:
        fitted = fit(model, data, recipe, device=run.device)
        return evaluate(fitted.model, data.test, device=run.device).accuracy, 1.0, 0.0
    sparsity = Sparsity(share, schedule=schedule, seed=seed)
    cost = TrainingCost(trace(model, data.example()), sparsity)
    callbacks: list[Callback] = [sparsity, cost]
    begun = time.process_time()
    fitted = fit(model, data, recipe, device=run.device, callbacks=callbacks)
    seconds = time.process_time() - begun
    accuracy = evaluate(fitted.model, data.test, device=run.device).accuracy
    return accuracy, cost.macs / cost.dense, seconds


def report(run: Run, where: str, found: Panels) -> None:
    """Add the tables of accuracy and cost."""
    accuracy_table(run, f"Accuracy, {where}", found.scores, GRANET)
    rows: list[tuple[Cell, ...]] = [
        (name, found.macs[name], mean_deviation(found.seconds[name])[0]) for name in found.macs
    ]
    note = "Counted with weights that are not zero, which no dense kernel gains by. All take the same steps."
    run.table(f"Cost of a training, {where}", ("arm", "MACs by dense", "CPU seconds"), rows, note)


def bars(where: str, found: Panels) -> Panel:
    """Bars of the accuracies with their deviations."""
    panel = Panel(f"Test accuracy, {where}", "percent")
    for name, values in found.scores.items():
        mean, deviation = mean_deviation(values)
        panel.bar(name, 100 * mean, 100 * deviation)
    return panel


def regeneration_seconds(run: Run, model: nn.Module, data: Splits, recipe: Recipe) -> float:
    """CPU seconds that exchanging adds to an event that prunes: the least of several, in turn."""
    x, y = next(data.train.batches(recipe.batch_size))
    best: dict[float, float] = {}
    for _ in range(3 if run.quick else 15):
        for rate in (0.0, 0.5):
            twin = copy.deepcopy(model)
            optimizer = torch.optim.SGD(twin.parameters(), lr=recipe.lr, momentum=0.9)
            plan = Custom(events={1: Event(0.25, rate)})
            sparsity = Sparsity(0.25, schedule=plan).attach(twin, optimizer, 2)
            cross_entropy(twin(x), y).backward()
            optimizer.step()
            begun = time.process_time()
            sparsity.step()
            seconds = time.process_time() - begun
            best[rate] = min(best.get(rate, seconds), seconds)
    return max(best[0.5] - best[0.0], 0.0)
