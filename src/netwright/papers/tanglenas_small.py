"""The small runs of TangleNAS: gradient arms and two-stage search on the exhaustive table of 81 networks."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from netwright.data import Splits
from netwright.nas.bench import TabularBench, benches
from netwright.nas.choice import Choice
from netwright.papers import tanglenas_parts as parts
from netwright.papers.benches import bench_data
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.supernets import Derived, Differentiable, GradientAlpha
from netwright.train import Callback, Recipe

BENCH = "macro-81"
DRNAS, DARTS, GDAS, SPOS = "DrNAS", "DARTS", "GDAS", "SPOS + random search"
METHODS = {DRNAS: "drnas", DARTS: "darts", GDAS: "gdas", SPOS: "spos"}
GRADIENT = (DRNAS, DARTS, GDAS)
#: Sub-networks that the two-stage search judges, and by how many examples.
EVALUATIONS, JUDGED = 100, 1_000
#: The paper moves the architecture parameters by 3e-4 in each of as many steps: 100 epochs of 25,000 in 64s.
PUBLISHED_LR, PUBLISHED_STEPS = 3e-4, 100 * 391


def table() -> TabularBench | None:
    """What is known of the space; None where no table was built."""
    return TabularBench.load(BENCH) if BENCH in benches() else None


@dataclass(frozen=True)
class Setting:
    """Data and training."""

    data: Splits
    recipe: Recipe
    share: float

    @property
    def lr(self) -> float:
        """Of the architecture parameters: they can move as far as published, in fewer steps."""
        steps = self.recipe.epochs * int(len(self.data.train) * self.share) // self.recipe.batch_size
        return PUBLISHED_LR * max(PUBLISHED_STEPS / max(steps, 1), 1.0)


def setting(run: Run, share: float = 0.5) -> Setting:
    """Fashion-MNIST at 14x14, the examples of the table; its test examples judge nothing here."""
    data = bench_data(*((200, 100, 100) if run.quick else ()))
    recipe = Recipe(
        epochs=1 if run.quick else 12,
        batch_size=50 if run.quick else 100,
        lr=0.1,
        augment=False,
        precision="fp32",
    )
    found = Setting(data, recipe, share)
    run.settings |= {
        "data": "Fashion-MNIST at 14x14",
        "space": f"{BENCH}: four convolutions of one of three widths each",
        "images: weights, architecture parameters": [
            round(share * len(data.train)),
            len(data.train) - round(share * len(data.train)),
        ],
        "training of weights": dataclasses.asdict(recipe),
        "architecture parameters": f"Adam, lr {found.lr:.3g}, betas 0.5 and 0.999, decay 1e-3; the published "
        f"{PUBLISHED_LR:g} in proportion to the {PUBLISHED_STEPS:,} published steps",
        "random search": f"{EVALUATIONS} evaluations on {JUDGED:,} images",
        "threads": 1,
    }
    return found


@dataclass
class Arm:
    """One search.

    Attributes:
        found: What it found.
        seconds: Processor time of search and training, what only measures left out.
    """

    found: Derived
    seconds: float


def search(
    given: Setting,
    method: str,
    seed: int,
    epochs: int | None = None,
    watch: Callable[[GradientAlpha], Watch] | None = None,
) -> Arm:
    """One arm on one seed.

    Args:
        given: Data and training.
        method: A key of `METHODS`.
        seed: Of everything.
        epochs: Of the training; as in the recipe when None.
        watch: Makes what looks on; the seconds that it takes do not count.
    """
    sup = parts.macro_supernet(BENCH, seed)
    recipe = dataclasses.replace(given.recipe, seed=seed, epochs=epochs or given.recipe.epochs)
    strategy = Differentiable(
        METHODS[method],
        seed=seed,
        share=given.share,
        evaluations=EVALUATIONS if len(given.data.train) > 1_000 else 5,
        judged=JUDGED,
        lr=given.lr,
    )
    looking = () if watch is None else (watch(strategy.sampler),)
    begun = time.process_time()
    found = strategy.train(sup, given.data, recipe, callbacks=looking, device="cpu")
    spent = sum(w.seconds for w in looking)
    return Arm(found, time.process_time() - begun - spent)


def equal_epochs(given: Setting, budget: float) -> int:
    """Epochs of two-stage search that take as long as a gradient arm, its evaluations included.

    No fewer than the gradient arm has.

    Args:
        given: Data and training.
        budget: Seconds of the gradient arm.
    """
    short, long = (search(given, SPOS, 0, epochs=e).seconds for e in (1, 3))
    each = max((long - short) / 2, 1e-6)
    return max(int((budget - (short - each)) / each), given.recipe.epochs)


class Watch(Callback):
    """Looks on at a search.

    Attributes:
        seconds: Processor time that it took.
    """

    seconds: float = 0.0


@dataclass
class Results:
    """Of every arm, one a seed."""

    choices: dict[str, list[Choice]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, arm: Arm) -> None:
        """Add a seed."""
        self.choices.setdefault(name, []).append(arm.found.choice)
        self.seconds.setdefault(name, []).append(arm.seconds)

    def regrets(self, name: str, truth: TabularBench) -> list[float]:
        """Of one arm, by the table."""
        return [truth.regret(choice) for choice in self.choices[name]]


def headline(run: Run) -> None:
    """Four searches at equal time, judged by the table, and what mixtures store and take."""
    given = setting(run)
    with one_thread():
        _costs(run)
        results = searches(run, given, run.seeds(5), list(METHODS))
    truth = table()
    if truth is None:
        run.tried(f"There is no table of {BENCH} yet: what was chosen is not judged.")
        return
    regrets = _judge(run, results, truth)
    run.measure("regret: DrNAS above SPOS with random search", *paired(regrets[DRNAS], regrets[SPOS]))
    anyone = [float(truth.truth.max() - truth.truth.mean())] * len(regrets[DRNAS])
    run.measure("regret: DrNAS above a network drawn at random", *paired(regrets[DRNAS], anyone))
    better = {m: [_better(truth, c) for c in results.choices[m]] for m in GRADIENT}
    best = min(GRADIENT, key=lambda m: statistics.fmean(better[m]))
    run.measure(
        "share of networks better than the best method's choice",
        statistics.fmean(better[best]),
        note=f"{best}, mean of the seeds; "
        + ", ".join(f"{m} {statistics.fmean(better[m]):.3f}" for m in GRADIENT),
    )


def searches(
    run: Run,
    given: Setting,
    seeds: Sequence[int],
    methods: Sequence[str],
    watch: Callable[[str, int, GradientAlpha], Watch] | None = None,
) -> Results:
    """Every arm on every seed, at equal time.

    Args:
        run: Told of each.
        given: Data and training.
        seeds: Of the arms.
        methods: Keys of `METHODS`, `DRNAS` first.
        watch: Makes what looks on at an arm.
    """
    results, epochs = Results(), given.recipe.epochs
    for seed in seeds:
        for name in methods:
            looking = None if watch is None else partial(watch, name, seed)
            arm = search(given, name, seed, epochs if name == SPOS else None, looking)
            results.add(name, arm)
            run.log(f"seed {seed}, {name}: {_short(arm.found.choice)} in {arm.seconds:.1f} s")
            if name == DRNAS and seed == seeds[0] and not run.quick:
                epochs = equal_epochs(given, arm.seconds)
                run.settings[f"epochs of SPOS, for equal time, share {given.share:g}"] = epochs
    return results


def _short(choice: Mapping[str, Any]) -> str:
    return "-".join(str(v) for v in choice.values())


def _better(truth: TabularBench, choice: Choice) -> float:
    """Share of all networks that are better than one."""
    return float((truth.truth > truth[choice].accuracy).mean())


def _judge(run: Run, results: Results, truth: TabularBench) -> dict[str, list[float]]:
    """Tables and plot of regrets."""
    regrets = {name: results.regrets(name, truth) for name in METHODS}
    rows: list[tuple[Cell, ...]] = []
    for name in METHODS:
        mean, deviation = mean_deviation(regrets[name])
        share = statistics.fmean(_better(truth, c) for c in results.choices[name])
        chosen = ", ".join(_short(c) for c in results.choices[name])
        spent = statistics.fmean(results.seconds[name])
        rows.append((name, 100 * mean, 100 * deviation, share, spent, chosen))
    anyone = float(truth.truth.max() - truth.truth.mean())
    largest = truth.regret(truth.space.max())
    rows.append(("at random, mean of all", 100 * anyone, None, 0.5, 0.0, ""))
    rows.append(("the largest", 100 * largest, None, _better(truth, truth.space.max()), 0.0, ""))
    columns = ("arm", "regret, points", "deviation", "share of networks better", "seconds", "chosen widths")
    note = (
        f"Regret: below the best network's mean accuracy over {len(truth.seeds)} trainings; one of them "
        f"deviates by {100 * truth.noise:.2f} points. Noise ceiling of the table: tau {truth.ceiling:.2f}."
    )
    run.table("Networks found, by the exhaustive table", columns, rows, note)
    panel = Panel("regret of the network found, points", "points", "")
    for name in METHODS:
        mean, half = paired(regrets[name], [0.0] * len(regrets[name]))
        panel.bar(name, 100 * mean, 100 * half)
    panel.bar("at random", 100 * anyone)
    run.plot(figure("TangleNAS on macro-81", [panel], columns=1, width=560, height=320))
    return regrets


def _costs(run: Run) -> None:
    """What mixtures store and how long they take."""
    batch, repeats = (8, 1) if run.quick else (64, 9)
    rows: list[tuple[Cell, ...]] = []
    measured = {}
    for space, kinds in (("macro-81", 9), ("convmacro", 27)):
        found = measured[space] = parts.costs(space, batch, repeats)
        gap = parts.agreement(space)
        for name, (held, spent) in found.items():
            rows.append((space, kinds, name, held / 2**20, 1e3 * spent, gap))
    columns = ("space", "operations of an inner layer", "run as", "stored, MiB", "ms a pass", "difference")
    note = (
        f"A pass is forward and backward, batch {batch}. Stored: what forward keeps for backward, parameters "
        "left out. Difference: greatest between both mixtures' outputs, float64."
    )
    run.table("What a mixture costs", columns, rows, note)
    one, mixed, apart = measured["convmacro"].values()
    run.measure("stored activations: mixture by one network", mixed[0] / one[0])
    run.measure("stored activations: separate operations by mixture", apart[0] / mixed[0])
    run.measure("time: separate operations by mixture", apart[1] / mixed[1])
