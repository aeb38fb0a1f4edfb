"""The ordinary run of random search, and its further arms."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from netwright.data import Splits
from netwright.models import ResNetCifar
from netwright.nas import search
from netwright.papers.plot import Panel, figure
from netwright.papers.random_search_sparse import RESOLVED, SPARSITIES
from netwright.papers.random_search_sparse_parts import (
    Arms,
    Trained,
    compare,
    dead_nodes,
    interval,
    sign_test,
    train,
)
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import digits, fashion, mlp
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.systems.space import initial_loss, space
from netwright.train import Recipe

#: Width of the hidden layers of the parent.
HIDDEN = 256
#: Columns of `summary`.
SUMMARY = ("arm", "loss of found by random", "found, %", "random, %", "less, points", "from", "to", "p")
_DRAWN = 2


def measure(run: Run) -> None:
    """Measure the claims of the ordinary scope."""
    with one_thread():
        _headline(run)


def measure_further(run: Run) -> None:
    """Measure the further arms."""
    with one_thread():
        _further(run)


def _recipe(run: Run, epochs: int, seed: int) -> Recipe:
    return Recipe(
        epochs=1 if run.quick else epochs,
        batch_size=64,
        lr=0.05,
        weight_decay=0.0,
        schedule="constant",
        precision="fp32",
        augment=False,
        seed=seed,
    )


def judged(data: Splits) -> Splits:
    """The test split judges after each epoch, too; nothing is chosen by it."""
    return dataclasses.replace(data, val=data.test)


def _headline(run: Run) -> None:
    data, trials, epochs = judged(digits(run.quick)), 3 if run.quick else 200, 40
    hidden = 16 if run.quick else HIDDEN
    run.settings |= {
        "data": f"digits, {len(data.train)} to train, {len(data.test)} to test",
        "parent": f"64-{hidden}-{hidden}-10, rectified",
        "recipe": dataclasses.asdict(_recipe(run, epochs, 0)),
        "search": f"{trials} configurations, the least initial loss on the whole training split",
        "random configurations": f"{_DRAWN} a seed and sparsity",
        "seeds": len(run.seeds(10)),
    }
    arms = {s: Arms(s) for s in SPARSITIES}
    parents: list[Trained] = []
    for seed in run.seeds(10):
        parent = mlp((64, hidden, hidden, 10), seed)
        recipe = _recipe(run, epochs, seed)
        with run.timed("parent"):
            parents.append(train(parent, data, recipe, run.device))
        for sparsity, arm in arms.items():
            with run.timed(f"{100 * sparsity:.0f} %"):
                settings = {"trials": trials, "drawn": _DRAWN, "seed": seed, "device": run.device}
                compare(arm, parent, data, recipe, **settings)  # type: ignore[arg-type]
        run.log(f"seed {seed}: parent {parents[-1].accuracy:.3f}")
    _claims(run, parents, arms)
    _tables(run, parents, arms)
    run.plot(_figure(parents, arms))


def _claims(run: Run, parents: Sequence[Trained], arms: Mapping[float, Arms]) -> None:
    for sparsity in (0.5, 0.75, 0.95, 0.99):
        pairs = zip(parents, arms[sparsity].found, strict=True)
        lost = interval([parent.accuracy - found.accuracy for parent, found in pairs])
        run.measure(f"accuracy lost against the parent, {100 * sparsity:.0f} %", lost.value, lost.half_width)
    for sparsity in RESOLVED:
        found = interval(arms[sparsity].differences(lambda t: t.accuracy))
        run.measure(f"accuracy of found less random, {100 * sparsity:.0f} %", found.value, found.half_width)
    run.measure("sparsities where accuracy differs beyond noise", _beyond(arms, lambda t: t.accuracy))
    better = sum(interval(arm.differences(lambda t: t.accuracy)).low > 0 for arm in arms.values())
    run.measure("sparsities where found is significantly better", better)
    epochs = _beyond(arms, lambda t: t.epochs)
    run.measure("sparsities where epochs to 90 % differ beyond noise", epochs)
    for sparsity, arm in arms.items():
        ratio = interval(arm.loss_ratios)
        run.measure(f"initial loss of found by random, {100 * sparsity:.0f} %", ratio.value, ratio.half_width)


def _beyond(arms: Mapping[float, Arms], value: Callable[[Trained], float]) -> int:
    """Sparsities whose interval leaves 0 out, at a level that holds for all of them together."""
    level = 1 - 0.05 / len(arms)
    found = [interval(arm.differences(value), level) for arm in arms.values()]
    return sum(i.low > 0 or i.high < 0 for i in found)


def _tables(run: Run, parents: Sequence[Trained], arms: Mapping[float, Arms]) -> None:
    rows: list[tuple[Cell, ...]] = [
        ("0 %", "parent", *_row(parents), None, None, None),
    ]
    for sparsity, arm in arms.items():
        differences = arm.differences(lambda t: t.accuracy)
        ends = interval(differences)
        found = ("found", *_row(arm.found), 100 * ends.low, 100 * ends.high, sign_test(differences))
        drawn = ("random", *_row([t for some in arm.drawn for t in some]), None, None, None)
        rows += [(f"{100 * sparsity:.0f} %", *found), (f"{100 * sparsity:.0f} %", *drawn)]
    columns = ("sparsity", "network", "initial loss", "accuracy, %", "deviation", "epochs to 90 %")
    more = ("found less random, points, from", "to", "p")
    note = (
        "From and to: 95 % bootstrap interval of the paired difference over the seeds; p: Wilcoxon's signed "
        "ranks. Epochs: one more than there were where 90 % was never reached."
    )
    run.table("Found, random and parent", (*columns, *more), rows, note)
    epochs: list[tuple[Cell, ...]] = []
    for sparsity, arm in arms.items():
        ends = interval(arm.differences(lambda t: t.epochs))
        epochs.append((f"{100 * sparsity:.0f} %", ends.value, ends.low, ends.high))
    run.table("Epochs to 90 %, found less random", ("sparsity", "mean", "from", "to"), epochs)


def _row(trained: Sequence[Trained]) -> tuple[float, float, float, float]:
    accuracies = [100 * t.accuracy for t in trained]
    deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    loss = statistics.fmean(t.loss for t in trained)
    return loss, statistics.fmean(accuracies), deviation, statistics.fmean(t.epochs for t in trained)


def _figure(parents: Sequence[Trained], arms: Mapping[float, Arms]) -> str:
    accuracy = Panel("Accuracy after training", "test accuracy", "share of nodes removed")
    loss = Panel("Loss before training", "cross entropy", "share of nodes removed")
    dense = [(0.0, statistics.fmean(t.accuracy for t in parents))]
    for name, chosen in (
        ("found", lambda a: a.found),
        ("random", lambda a: [t for some in a.drawn for t in some]),
    ):
        means = [(s, statistics.fmean(t.accuracy for t in chosen(a))) for s, a in arms.items()]
        accuracy.line(name, [*dense, *means])
        loss.line(name, [(s, statistics.fmean(t.loss for t in chosen(a))) for s, a in arms.items()])
    search = Panel("Best loss so far, 75 %", "cross entropy", "configurations", log_x=True)
    searches = arms[0.75].best_so_far
    search.line("found", [(k + 1, statistics.fmean(s[k] for s in searches)) for k in range(len(searches[0]))])
    curve = Panel("Training, 95 %", "test accuracy", "epoch")
    for name, some in (("found", arms[0.95].found), ("random", [t for ts in arms[0.95].drawn for t in ts])):
        epochs = range(len(some[0].curve))
        curve.line(name, [(k + 1, statistics.fmean(t.curve[k] for t in some)) for k in epochs])
    return figure("Random search of sparse sub-networks", [accuracy, loss, search, curve], columns=2)


def _further(run: Run) -> None:
    rows: list[tuple[Cell, ...]] = []
    data = judged(digits(run.quick))
    hidden = 16 if run.quick else HIDDEN
    for trials in (1, 10, 100, 1_000):
        count = min(trials, 4) if run.quick else trials
        arm = Arms(0.75)
        for seed in run.seeds(10):
            parent = mlp((64, hidden, hidden, 10), seed)
            compare_on(run, arm, parent, data, 40, count, seed)
        rows.append(summary(f"digits, {trials:,} trials, 75 %", arm))
        if trials == 1_000:
            found = interval(arm.differences(lambda t: t.accuracy))
            name = "accuracy of found less random after 1,000 trials, 75 %"
            run.measure(name, found.value, found.half_width)
    _dead(run, data, hidden)
    images = judged(fashion(200 if run.quick else 4_000, 100 if run.quick else 4_000))
    others: Sequence[tuple[str, float, Callable[[int], nn.Module], int]] = (
        ("Fashion-MNIST", 0.75, lambda seed: mlp((196, hidden, hidden, 10), seed), 8),
        ("ResNet-8", 0.5, lambda seed: reinitialise_(ResNetCifar(8, 10, 1, (8, 16, 32)), seed), 3),
    )
    for name, sparsity, make, epochs in others:
        arm = Arms(sparsity)
        for seed in run.seeds(10 if name == "Fashion-MNIST" else 5):
            compare_on(run, arm, make(seed), images, epochs, 2 if run.quick else 50, seed)
        found = interval(arm.differences(lambda t: t.accuracy))
        claim = f"accuracy of found less random, {name}, {100 * sparsity:.0f} %"
        run.measure(claim, found.value, found.half_width)
        rows.append(summary(f"{name}, {100 * sparsity:.0f} %", arm))
    note = (
        "4,000 pictures of 14x14 to train ResNet-8 and the perceptron on; 50 trials, loss of 1,000 pictures."
    )
    run.table("Other searches", SUMMARY, rows, note)


def _dead(run: Run, data: Splits, hidden: int) -> None:
    """Where very few nodes are left, does the search avoid those that are dead from the beginning?"""
    rows: list[tuple[Cell, ...]] = []
    for sparsity in (0.75, 0.95, 0.99):
        found, drawn = [], []
        for seed in run.seeds(10):
            nodes = space(mlp((64, hidden, hidden, 10), seed), data.example(2), keep=1 - sparsity)
            trials = 3 if run.quick else 200
            result = search(nodes, [initial_loss(data.train)], trials=trials, seed=seed)
            found.append(dead_nodes(result.best.candidate.model, data))
            some = result.trials[: 2 if run.quick else 20]
            drawn.append(statistics.fmean(dead_nodes(t.candidate.model, data) for t in some))
        less = interval([a - b for a, b in zip(found, drawn, strict=True)])
        means = (statistics.fmean(found), statistics.fmean(drawn))
        rows.append((f"{100 * sparsity:.0f} %", *means, less.value, less.low, less.high))
    columns = ("sparsity", "found", "random", "found less random", "from", "to")
    run.table("Share of nodes that never fire before training", columns, rows, "95 % bootstrap intervals.")


def compare_on(
    run: Run, arm: Arms, parent: nn.Module, data: Splits, epochs: int, trials: int, seed: int
) -> None:
    """Search and train the sub-networks of one parent, and add them to the arm."""
    recipe = _recipe(run, epochs, seed)
    limit = 1_000 if data.name != "digits" else None
    settings = {"trials": trials, "drawn": _DRAWN, "seed": seed, "limit": limit, "device": run.device}
    with run.timed(data.name):
        compare(arm, parent, data, recipe, **settings)  # type: ignore[arg-type]


def summary(name: str, arm: Arms) -> tuple[Cell, ...]:
    """A row of what became of an arm; its columns are `SUMMARY`."""
    differences = arm.differences(lambda t: t.accuracy)
    ends = interval(differences)
    found = statistics.fmean(t.accuracy for t in arm.found)
    drawn = statistics.fmean(t.accuracy for some in arm.drawn for t in some)
    ratio = statistics.fmean(arm.loss_ratios)
    spread = (100 * ends.value, 100 * ends.low, 100 * ends.high, sign_test(differences))
    return (name, ratio, 100 * found, 100 * drawn, *spread)
