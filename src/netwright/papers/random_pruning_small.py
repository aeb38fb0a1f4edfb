"""Random pruning at small scale: the gap to the dense network against the width of the layers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from netwright.data import Splits
from netwright.models import ResNetCifar
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
from netwright.pruning import Sparsity
from netwright.pruning.allocations.choosing import Allocations
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.train import Recipe, evaluate, fit

DENSE, ERK, UNIFORM = "dense", "random, ERK", "random, uniform"
_KEPT = 0.1
_WIDTHS = (16, 32, 64, 128, 256, 512)
_REFERENCE = (64, 300, 100, 10)
Make = Callable[[int], nn.Module]


def measure(run: Run) -> None:
    """The headline: widths on digits, shares of the layers on digits, widths on Fashion-MNIST."""
    with one_thread():
        data = digits(run.quick)
        recipe = digits_recipe(run)
        run.settings["digits"] = {
            "train": len(data.train),
            "test": len(data.test),
            "recipe": dataclasses.asdict(recipe),
            "initialisation": "PyTorch's, not scaled by the share that stays",
        }
        panels = [_widths(run, data, recipe)]
        _shares(run, data, recipe)
        panels.append(_residual(run))
    run.plot(figure("Random pruning", panels, columns=2, width=520, height=320))


def digits_recipe(run: Run) -> Recipe:
    """How perceptrons are trained on digits."""
    epochs = 2 if run.quick else 40
    return Recipe(epochs=epochs, batch_size=64, lr=0.1, schedule="cosine", precision="fp32", augment=False)


def perceptron(*widths: int) -> Make:
    """A perceptron of widths from inputs to classes."""
    return lambda seed: mlp(widths, seed)


def train(
    run: Run,
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    seed: int,
    share: float = 1.0,
    allocation: Allocations = "erk",
) -> nn.Module:
    """Train a network, masked at random before the first step where less than everything is kept."""
    sparsity = Sparsity(share, importance="random", allocation=allocation, schedule="one-shot", seed=seed)
    recipe = dataclasses.replace(recipe, seed=seed)
    return fit(model, data, recipe, device=run.device, callbacks=[sparsity] if share < 1 else []).model


def scores(
    run: Run,
    make: Make,
    data: Splits,
    recipe: Recipe,
    seeds: Sequence[int],
    arms: Mapping[str, tuple[float, Allocations]],
) -> dict[str, list[float]]:
    """Test accuracy of every arm with every seed; an arm is a share and how it is spread."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for seed in seeds:
        for name, (share, allocation) in arms.items():
            model = train(run, make(seed), data, recipe, seed, share, allocation)
            found[name].append(
                evaluate(model, data.test, device=run.device, precision=recipe.precision).accuracy
            )
    return found


def _widths(run: Run, data: Splits, recipe: Recipe) -> Panel:
    """Perceptrons of two hidden layers, wider and wider, with a tenth of their weights."""
    widths = (16, 512) if run.quick else _WIDTHS
    arms: dict[str, tuple[float, Allocations]] = {
        DENSE: (1.0, "erk"),
        ERK: (_KEPT, "erk"),
        UNIFORM: (_KEPT, "uniform"),
    }
    found = {}
    for width in widths:
        found[width] = scores(run, perceptron(64, width, width, 10), data, recipe, run.seeds(5), arms)
        run.log(f"digits, width {width}: {_words(found[width])}")
    panel = gap_panel(run, "Digits, two hidden layers, 10 % kept", "width", found)
    gaps = {w: _gaps(f, ERK) for w, f in found.items()}
    value = paired(found[widths[-1]][DENSE], found[widths[-1]][ERK])
    run.measure("accuracy lost by random ERK masks, digits, width 512", *value)
    rises = 0
    for narrow, wide in itertools.pairwise(widths):
        mean, half = paired(gaps[wide], gaps[narrow])
        rises += mean - half > 0
    run.measure("widenings that widen the gap beyond noise, digits", rises)
    run.tried(
        "widths up to 512 and one recipe were fixed beforehand and nothing else was tried; uniform shares at "
        f"width {widths[-1]} lose {_points(found[widths[-1]], UNIFORM)} points where ERK loses "
        f"{_points(found[widths[-1]], ERK)}"
    )
    run.measure("gap at width 16 above gap at width 512, digits", *paired(gaps[widths[0]], gaps[widths[-1]]))
    return panel


def _words(found: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name} {100 * sum(v) / len(v):.2f}" for name, v in found.items())


def _points(found: Mapping[str, Sequence[float]], arm: str) -> str:
    lost, half = paired(found[DENSE], found[arm])
    return f"{100 * lost:.2f} ± {100 * half:.2f}"


def _gaps(found: Mapping[str, Sequence[float]], arm: str) -> list[float]:
    return [a - b for a, b in zip(found[DENSE], found[arm], strict=True)]


def gap_panel(run: Run, title: str, x: str, found: Mapping[int, Mapping[str, Sequence[float]]]) -> Panel:
    """A table of accuracies and of gaps to dense, and their lines."""
    arms = [name for name in next(iter(found.values())) if name != DENSE]
    rows: list[tuple[Cell, ...]] = []
    for size, one in found.items():
        cells: list[Cell] = [size, *(round(c, 2) for c in _both(one[DENSE]))]
        for name in arms:
            gap, half = paired(one[DENSE], one[name])
            cells += [*(round(c, 2) for c in _both(one[name])), 100 * gap, 100 * half]
        rows.append(tuple(cells))
    columns = [x, "dense, %", "deviation"]
    for name in arms:
        columns += [f"{name}, %", "deviation ", f"points below dense, {name}", "±"]
    unique = [c + " " * k for k, c in enumerate(columns)]
    run.table(title, unique, rows, "± is half a 95 % interval of the paired difference.")
    panel = Panel(title, "points below dense", x=x, log_x=True)
    for name in arms:
        panel.line(name, [(size, 100 * paired(one[DENSE], one[name])[0]) for size, one in found.items()])
    return panel


def _both(values: Sequence[float]) -> tuple[float, float]:
    mean, deviation = mean_deviation(values)
    return 100 * mean, 100 * deviation


def _shares(run: Run, data: Splits, recipe: Recipe) -> None:
    """ERK against equal shares where little is left."""
    arms: dict[str, tuple[float, Allocations]] = {
        DENSE: (1.0, "erk"),
        f"{ERK}, 5 %": (0.05, "erk"),
        f"{UNIFORM}, 5 %": (0.05, "uniform"),
        f"{ERK}, 2 %": (0.02, "erk"),
    }
    found = scores(run, perceptron(*_REFERENCE), data, recipe, run.seeds(5), arms)
    accuracy_table(run, "Digits, 64-300-100-10", found, DENSE)
    value = paired(found[f"{ERK}, 5 %"], found[f"{UNIFORM}, 5 %"])
    run.measure("ERK above uniform shares, digits, 5 % kept", *value)


def fashion_data(run: Run, train: int = 10_000) -> tuple[Splits, Recipe]:
    """The pictures of the residual panels, and how networks are trained on them."""
    data = fashion(*((256, 100) if run.quick else (train, 5_000)))
    recipe = Recipe(epochs=1 if run.quick else 3, batch_size=128, lr=0.1, schedule="one-cycle", augment=False)
    run.settings["fashion"] = {
        "data": f"Fashion-MNIST at 14x14, {len(data.train):,} to train, {len(data.test):,} to test",
        "recipe": dataclasses.asdict(recipe),
    }
    return data, recipe


def resnet(data: Splits, depth: int, width: int) -> Make:
    """A residual network of a depth and a width."""
    widths = (width, 2 * width, 4 * width)
    return lambda seed: reinitialise_(ResNetCifar(depth, data.num_classes, data.shape[0], widths), seed)


def _residual(run: Run) -> Panel:
    """ResNet-8, wider and wider."""
    data, recipe = fashion_data(run)
    arms: dict[str, tuple[float, Allocations]] = {DENSE: (1.0, "erk"), ERK: (_KEPT, "erk")}
    found = {}
    for width in (8, 32) if run.quick else (8, 16, 32):
        found[width] = scores(run, resnet(data, 8, width), data, recipe, run.seeds(3), arms)
        run.log(f"ResNet-8, width {width}: {_words(found[width])}")
    panel = gap_panel(run, "ResNet-8 on Fashion-MNIST, 10 % kept", "width", found)
    value = paired(found[32][DENSE], found[32][ERK])
    run.measure("accuracy lost by random ERK masks, Fashion-MNIST, width 32", *value)
    gap = paired(_gaps(found[8], ERK), _gaps(found[32], ERK))
    run.measure("gap at width 8 above gap at width 32, Fashion-MNIST", *gap)
    return panel
