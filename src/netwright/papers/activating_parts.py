"""What the AP recipes share: networks, arms, the cycles of one arm with their dead neuron rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netwright.data import Part, Splits
from netwright.metrics import DeadRates, dead_neurons
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.pruning import AP, Context, ElementImportance
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.schedules.cycles import CycleRun, Cycles
from netwright.train import Callback, Recipe, State, evaluate

#: Share of the remaining weights that goes in a cycle, and AP's part of it, as published.
P, Q = 0.2, 0.02
HOST, AWAKE, POSITIVE, RANDOM = "host", "AP", "positive control", "random negatives"


def convolutional(seed: int, channels: int = 1, classes: int = 10) -> nn.Module:
    """LeNet-5 for grey pictures of 8x8 pixels: two convolutions and three linear layers, all with ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    ]
    return reinitialise_(nn.Sequential(*layers), seed)


def positive_movement() -> ElementImportance:
    """Control: the positive weights that training moved least."""

    def function(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        weights = {n: model.get_parameter(n).detach() for n in names}
        return {n: torch.where(w > 0, (w - context.start[n]).abs(), torch.inf) for n, w in weights.items()}

    return ElementImportance("positive movement", function, since_start=True)


def random_negatives() -> ElementImportance:
    """Control: negative weights drawn at random."""

    def function(model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(context.seed)
        weights = {n: model.get_parameter(n).detach() for n in names}
        drawn = {n: torch.rand(w.shape, generator=generator).to(w.device) for n, w in weights.items()}
        return {n: torch.where(w < 0, drawn[n], torch.inf) for n, w in weights.items()}

    return ElementImportance("random negatives", function)


def arms(host: Any = "magnitude", exclude: Sequence[str] = ()) -> dict[str, Any]:
    """The host, AP on it, and the two controls: each an importance."""
    return {
        HOST: host,
        AWAKE: AP(host, Q, exclude=exclude),
        POSITIVE: AP(host, Q, exclude=exclude, waking=positive_movement()),
        RANDOM: AP(host, Q, exclude=exclude, waking=random_negatives()),
    }


@dataclass
class Point:
    """One training of one arm.

    Attributes:
        kept: Weights that stayed.
        keep: As a share.
        accuracy: On the test split.
        rates: Dead neuron rates of all its ReLUs together, on the test split.
        curve: Dynamic rate after every epoch.
    """

    kept: int
    keep: float
    accuracy: float
    rates: DeadRates
    curve: list[float] = field(default_factory=list)


class RateCurve(Callback):
    """Measures the dynamic dead neuron rate after every epoch.

    Args:
        part: What it is measured on.
        options: Of `dead_neurons`.
    """

    def __init__(self, part: Part, options: Mapping[str, Any]) -> None:
        self.part, self.options = part, options
        self.rates: list[DeadRates] = []

    def after_epoch(self, state: State, record: Mapping[str, Any]) -> None:
        """See `Callback.after_epoch`."""
        self.rates.append(DeadRates.together(dead_neurons(state.model, self.part, **self.options).values()))


def follow(
    run: Run,
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    plan: Cycles,
    importance: Any,
    levels: Iterable[int],
    options: Mapping[str, Any] | None = None,
) -> dict[int, Point]:
    """Train the levels of one arm and measure those that are asked for.

    Args:
        run: Gives the device.
        model: At initialisation.
        data: Trained on; its test split is measured on.
        recipe: Of every training.
        plan: Of the cycles.
        importance: The arm.
        levels: Which levels are measured.
        options: Of `dead_neurons`.
    """
    wanted, found = set(levels), {}
    watching: dict[int, RateCurve] = {}

    def watch(level: int) -> Sequence[Callback]:
        if level not in wanted:
            return ()
        watching[level] = RateCurve(data.test, options or {})
        return (watching[level],)

    cycles = CycleRun(
        model, data, recipe, plan, importance=importance, seed=recipe.seed, device=run.device, callbacks=watch
    )
    for level in cycles:
        if level.level in wanted:
            rates = watching[level.level].rates
            score = evaluate(level.model, data.test, device=run.device).accuracy
            curve = [r.dynamic for r in rates]
            found[level.level] = Point(level.kept, level.keep, score, rates[-1], curve)
    return found


@dataclass
class Panel:
    """Arms of one network over the seeds: arm -> level -> one point a seed."""

    points: dict[str, dict[int, list[Point]]] = field(default_factory=dict)

    def add(self, arm: str, found: Mapping[int, Point]) -> None:
        """Add one seed of an arm."""
        for level, point in found.items():
            self.points.setdefault(arm, {}).setdefault(level, []).append(point)

    def accuracy(self, arm: str, level: int) -> list[float]:
        """Accuracy of every seed."""
        return [p.accuracy for p in self.points[arm][level]]

    def dynamic(self, arm: str, level: int) -> list[float]:
        """Dynamic rate of every seed."""
        return [p.rates.dynamic for p in self.points[arm][level]]

    def gain(self, arm: str, other: str, level: int) -> tuple[float, float]:
        """Accuracy of an arm above another's, seed by seed, with half a 95 % interval."""
        return paired(self.accuracy(arm, level), self.accuracy(other, level))

    def drop(self, arm: str, other: str, level: int) -> tuple[float, float]:
        """Dynamic rate of an arm minus another's, seed by seed, with half a 95 % interval."""
        return paired(self.dynamic(arm, level), self.dynamic(other, level))

    def counts_differ(self) -> int:
        """The largest difference of the weights kept between arms, over levels and seeds."""
        differences = [0]
        for found in self.points.values():
            for level, points in found.items():
                for point, other in zip(points, next(iter(self.points.values()))[level], strict=False):
                    differences.append(abs(point.kept - other.kept))
        return max(differences)

    def table(self, run: Run, title: str, note: str = "") -> None:
        """Add a table of accuracy and rates, each with its paired difference from the first arm."""
        first = next(iter(self.points))
        rows: list[tuple[Cell, ...]] = []
        for level in sorted({level for found in self.points.values() for level in found}):
            for arm, found in self.points.items():
                if level not in found:
                    continue
                points = found[level]
                accuracy, deviation = mean_deviation([p.accuracy for p in points])
                same = len(points) == len(self.points[first].get(level, ()))
                more = self.gain(arm, first, level) if same else (None, None)
                less = self.drop(arm, first, level) if same else (None, None)
                total, static, dynamic = (
                    100 * sum(getattr(p.rates, k) for p in points) / len(points)
                    for k in ("total", "static", "dynamic")
                )
                rows.append(
                    (
                        f"{100 * (1 - points[0].keep):.1f}",
                        arm,
                        points[0].kept,
                        100 * accuracy,
                        100 * deviation,
                        *(None if v is None else 100 * v for v in more),
                        total,
                        static,
                        dynamic,
                        *(None if v is None else 100 * v for v in less),
                        len(points),
                    )
                )
        columns = ("sparsity, %", "arm", "kept", "accuracy, %", "deviation", f"above {first}", "±")
        rates = ("dead, %", "static", "dynamic", f"dynamic above {first}", "± ", "seeds")
        run.table(title, columns + rates, rows, f"{note} ± is half a 95 % interval over the seeds.".strip())


def train_panel(
    run: Run,
    make: Callable[[int], nn.Module],
    data: Splits,
    recipe: Callable[[int], Recipe],
    plan: Cycles,
    chosen: Mapping[str, Any],
    levels: Sequence[int],
    seeds: Sequence[int],
    options: Mapping[str, Any] | None = None,
    name: str = "",
) -> Panel:
    """Train every arm with every seed; arguments as of `follow`, `make` and `recipe` by seed."""
    panel = Panel()
    for seed in seeds:
        for arm, importance in chosen.items():
            found = follow(run, make(seed), data, recipe(seed), plan, importance, levels, options)
            panel.add(arm, found)
            last = found[max(found)]
            run.log(
                f"{name} seed {seed} {arm}: {last.accuracy:.1%} at {1 - last.keep:.1%} sparsity, "
                f"dynamic rate {last.rates.dynamic:.1%}"
            )
    return panel
