"""PA&DA on exhaustive tables: rankings, gradient variance and time at equal forward and backward passes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from netwright.data import ImportanceSampler, Splits
from netwright.models.zoo.conv_macro import MACRO_SPACES, conv_macro
from netwright.nas import Choice, TabularBench
from netwright.nas.ranking import LEAST_CEILING
from netwright.papers import benches
from netwright.papers.few_shot_nas_gm_small import RECIPE as CELLS
from netwright.papers.few_shot_nas_gm_small import taus
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Run, drawing, one_thread
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.papers.supernet_cells import Judge, Ranked, cell_supernet, few_data, for_fit, tau_table
from netwright.supernets import Elastic, ImportancePath, Paths, elastic, gradient_variance, train
from netwright.supernets.samplers.base import Sampler
from netwright.supernets.samplers.fixed import FairCycle, Uniform
from netwright.supernets.training.paths import HardLabels
from netwright.supernets.training.reptile import Reptile
from netwright.train import Callback, Recipe, State

SPOS, PATHS, DATA, BOTH, FAIR, SUM = "SPOS", "PA", "DA", "PA&DA", "FairNAS", "SUMNAS"
#: Epochs of one path a step; FairNAS takes as many paths a step as there are values, and fewer epochs.
EPOCHS = 20
#: Of widths, of which FairNAS takes 3 paths a step.
WIDTH_EPOCHS = 18
#: Steps that a variance is measured on, each time.
DRAWS = 20
#: Of a quick run; SUMNAS makes 8 passes a step.
QUICK_EPOCHS = 8
RECIPE = dataclasses.replace(CELLS, epochs=EPOCHS)
#: Of SUMNAS' outer steps; the inner ones are clipped.
OUTER: Mapping[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 4e-5, "clip_norm": None}
_NETWORKS = 30


@dataclasses.dataclass
class Arm(Ranked):
    """What the supernets of one arm made.

    Attributes:
        weighted: Gradient variance at every look of every seed, importance weighted.
        plain: Likewise of the steps as they are trained.
        some: Mean inherited accuracy of the fixed networks, a seed.
    """

    weighted: list[list[float]] = dataclasses.field(default_factory=list)
    plain: list[list[float]] = dataclasses.field(default_factory=list)
    some: list[float] = dataclasses.field(default_factory=list)


class Looks(Callback):
    """Measures the gradient variance after some epochs.

    Args:
        sampler: Of the paths.
        order: Of the examples, or None.
        data: Splits.
        epochs: After which, from 1.
        n: Steps of each measurement.
    """

    def __init__(
        self, sampler: Sampler, order: ImportanceSampler | None, data: Splits, epochs: Sequence[int], n: int
    ) -> None:
        self.sampler, self.order, self.data, self.epochs, self.n = sampler, order, data, set(epochs), n
        self.weighted: list[float] = []
        self.plain: list[float] = []

    def after_epoch(self, state: State, record: Mapping[str, Any]) -> None:
        """Measure where it is time, with the probabilities of the next epoch."""
        if record["epoch"] not in self.epochs:
            return
        assert isinstance(state.model, Elastic)
        same: dict[str, Any] = {"order": self.order, "batch_size": RECIPE.batch_size, "n": self.n}
        common = state.model, self.sampler, self.data.train
        self.weighted.append(gradient_variance(*common, **same).variance)
        shifts = self.order is not None or isinstance(self.sampler, ImportancePath)
        plain = gradient_variance(*common, weighted=False, **same).variance if shifts else self.weighted[-1]
        self.plain.append(plain)


def measure(run: Run) -> None:
    """The headline: five arms on the table of cells."""
    with one_thread():
        data = few_data(run)
        arms = trained(run, "cell-64", data, cell_supernet, run.seeds(5), looks=True)
        ratio, spread = _overhead(run, for_fit(data))
    bench = judged(arms, "cell-64")
    tau_table(run, "Kendall's tau with the stand-alone accuracy, cell-64", arms, bench, SPOS, NOTE)
    variances(run, arms, "Gradient variance by that of SPOS")
    run.plot(figure("PA&DA", [taus(arms), _panel(arms)], columns=2, width=520, height=320))
    run.measure("time of PA&DA by SPOS, same paths and examples", ratio, spread)
    compare_variances(run, arms)
    some, half = paired(arms[BOTH].some, arms[SPOS].some)
    run.measure("inherited accuracy of 30 networks, PA&DA above SPOS, points", 100 * some, 100 * half)
    if bench.ceiling < LEAST_CEILING:
        run.cannot_decide(f"the table ranks itself with tau {bench.ceiling:.2f} only")
        return
    run.measure("tau of PA&DA above SPOS", *paired(arms[BOTH].taus, arms[SPOS].taus))
    run.measure("tau of PA&DA above FairNAS", *paired(arms[BOTH].taus, arms[FAIR].taus))
    best, half = paired(arms[BOTH].best, arms[SPOS].best)
    name = "stand-alone accuracy of the chosen network, PA&DA above SPOS, points"
    run.measure(name, 100 * best, 100 * half)


def compare_variances(run: Run, arms: Mapping[str, Arm], prefix: str = "") -> None:
    """Measure the two claims on gradient variances.

    Args:
        run: The run.
        arms: With looks.
        prefix: Of the claims' names.
    """
    weighted = [_ratio(a, b) for a, b in zip(arms[BOTH].weighted, arms[SPOS].weighted, strict=True)]
    plain = [_ratio(a, b) for a, b in zip(arms[BOTH].plain, arms[SPOS].plain, strict=True)]
    one = [1.0] * len(plain)
    for name, ratios in (("importance weighted", weighted), ("steps as trained", plain)):
        above, half = paired(ratios, one)
        run.measure(f"{prefix}gradient variance of PA&DA by SPOS, {name}", 1 + above, half)


NOTE = (
    "All arms make the same number of forward and backward passes; FairNAS takes one step for as many of "
    "them as a dim has values."
)


def measure_widths(run: Run) -> None:
    """A further space: the widths of `macro-81`, with SPOS, FairNAS and PA&DA."""
    with one_thread():
        data = few_data(run)
        arms = trained(run, "macro-81", data, width_supernet, run.seeds(3), (SPOS, BOTH, FAIR), WIDTH_EPOCHS)
    bench = judged(arms, "macro-81")
    tau_table(run, "Kendall's tau with the stand-alone accuracy, macro-81", arms, bench, SPOS, NOTE)
    run.plot(figure("PA&DA on widths", [taus(arms, "Kendall's tau, macro-81")], width=520, height=320))
    if bench.ceiling < LEAST_CEILING:
        run.cannot_decide(f"the table ranks itself with tau {bench.ceiling:.2f} only")
        return
    for other in (SPOS, FAIR):
        run.measure(f"macro-81: tau of PA&DA above {other}", *paired(arms[BOTH].taus, arms[other].taus))
    best, half = paired(arms[BOTH].best, arms[SPOS].best)
    name = "macro-81: stand-alone accuracy of the chosen network, PA&DA above SPOS, points"
    run.measure(name, 100 * best, 100 * half)


def width_supernet(seed: int) -> Elastic:
    """The widest network of `macro-81` with its widths to choose.

    Args:
        seed: Of the weights.
    """
    with drawing(seed):
        net = conv_macro(in_channels=1)
    widths = {f"layers.{k}.0": list(values) for k, values in enumerate(MACRO_SPACES["macro-81"].widths)}
    return elastic(net, torch.zeros(2, 1, 14, 14), width=widths)


def _samplers(name: str, seed: int, data: Splits) -> tuple[Sampler, ImportanceSampler | None]:
    sampler: Sampler = Uniform(seed)
    if name in (PATHS, BOTH):
        sampler = ImportancePath(seed)
    if name in (FAIR, SUM):
        sampler = FairCycle(seed)
    return sampler, ImportanceSampler(data.train) if name in (DATA, BOTH) else None


def _training(kind: str, sup: Elastic, epochs: int, seed: int, sampler: Sampler) -> tuple[Recipe, Paths]:
    """Recipe and passes of an arm: as many passes in all as one path a step has in `epochs`."""
    paths_a_step = max(len(list(d.each())) for d in sup.space.free) if kind in (FAIR, SUM) else 1
    if kind != SUM:
        few = max(epochs // paths_a_step, 1)
        return dataclasses.replace(RECIPE, epochs=few, seed=seed), Paths(sampler, HardLabels())
    paths = Reptile(sampler, HardLabels(), keep=True)
    few = max(epochs // (paths_a_step * paths.inner_steps), 1)
    return dataclasses.replace(RECIPE, **OUTER, epochs=few, seed=seed), paths


def trained(
    run: Run,
    name: str,
    data: Splits,
    make: Callable[[int], Elastic],
    seeds: Sequence[int],
    names: Sequence[str] = (SPOS, PATHS, DATA, BOTH, FAIR),
    epochs: int = EPOCHS,
    *,
    choices: Sequence[Choice] | None = None,
    looks: bool = False,
) -> dict[str, Arm]:
    """Train the supernets of some arms, with equal forward and backward passes.

    Args:
        run: The run.
        name: Of the space, in the log and the settings.
        data: To train on and to judge by.
        make: Seed -> supernet.
        seeds: One supernet of each arm for each.
        names: The arms.
        epochs: Of an arm with one pass a step; 8 in a quick run.
        choices: The networks to judge; those of the table of this name when None.
        looks: Whether gradient variances are measured.

    Returns:
        Arm -> what it made, not yet compared with a table.
    """
    if choices is None:
        TabularBench.load(name)  # what is missing is missed before the work, not after it
        choices = list(benches.find(name).space.enumerate())
    epochs = QUICK_EPOCHS if run.quick else epochs
    run.settings[name] = {
        "recipe": {**dataclasses.asdict(RECIPE), "epochs": epochs},
        "data": f"Fashion-MNIST at 14x14, {len(data.train):,} to train, {len(data.val):,} to rank by",
    }
    judge, few = Judge(data.val), for_fit(data)
    arms = {kind: Arm() for kind in names}
    numbers = np.random.default_rng(0).permutation(len(choices))[:_NETWORKS]
    for seed in seeds:
        for kind, arm in arms.items():
            sup = make(seed)
            sampler, order = _samplers(kind, seed, few)
            recipe, paths = _training(kind, sup, epochs, seed, sampler)
            at = sorted({max(round(recipe.epochs * share), 1) for share in (1 / 3, 2 / 3, 1)})
            looking = Looks(sampler, order, few, at, 3 if run.quick else DRAWS)
            callbacks = (looking,) if looks else ()
            fitted = train(sup, few, recipe, paths=paths, order=order, callbacks=callbacks, device="cpu")
            assert isinstance(fitted.model, Elastic)
            if any(
                isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.track_running_stats
                for m in sup.modules()
            ):
                _calibrate(fitted.model, choices, few)
            accuracies = judge.accuracies(fitted.model, choices)
            arm.add(accuracies, paths.macs)
            arm.weighted.append(looking.weighted)
            arm.plain.append(looking.plain)
            arm.some.append(float(np.mean([accuracies[i] for i in numbers])))
        told = ", ".join(f"{kind} {100 * arm.inherited[-1]:.1f}" for kind, arm in arms.items())
        run.log(f"{name}, seed {seed}, mean inherited accuracy: {told}")
    return arms


def judged(arms: Mapping[str, Arm], name: str) -> TabularBench:
    """Compare the supernets of all arms with a table.

    Args:
        arms: Name -> what they made.
        name: Of the table.

    Returns:
        The table.
    """
    bench, choices = TabularBench.load(name), list(benches.find(name).space.enumerate())
    for arm in arms.values():
        arm.judge(bench, choices)
    return bench


def _calibrate(sup: Elastic, choices: Sequence[Choice], data: Splits) -> None:
    """Measure the batch-norm statistics of every network on 1,000 training examples."""
    batches = [x for x, _ in data.train.head(1_000).batches(250)]
    for choice in choices:
        sup.calibrate(batches, choice)


def _overhead(run: Run, data: Splits) -> tuple[float, float]:
    """CPU time of PA&DA's bookkeeping by that of SPOS on the same paths and examples, and its spread."""
    recipe = dataclasses.replace(RECIPE, epochs=1 if run.quick else 2)
    best: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(1 if run.quick else 4):
        for important in (False, True):
            sup = cell_supernet(0)
            sampler = ImportancePath(0, schedule="none") if important else Uniform(0)
            order = ImportanceSampler(data.train, schedule="none") if important else None
            begun = time.process_time()
            train(sup, data, recipe, sampler=sampler, order=order, device="cpu")
            best[important].append(time.process_time() - begun)
    ratios = [a / b for a, b in zip(best[True], best[False], strict=True)]
    run.tried(f"time of PA&DA by SPOS, turn by turn: {', '.join(f'{r:.3f}' for r in ratios)}")
    return min(best[True]) / min(best[False]), 0.0


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean over the looks of a ratio."""
    return float(np.mean([a / b for a, b in zip(one, other, strict=True)]))


def variances(run: Run, arms: Mapping[str, Arm], title: str) -> None:
    """Add a table of the variances by those of SPOS, look by look.

    Args:
        run: The run.
        arms: With looks.
        title: Of the table.
    """
    rows = []
    for name, arm in arms.items():
        for estimate, of, base in (
            ("importance weighted", arm.weighted, arms[SPOS].weighted),
            ("as trained", arm.plain, arms[SPOS].plain),
        ):
            looks = np.array(
                [[a / b for a, b in zip(x, y, strict=False)] for x, y in zip(of, base, strict=True)]
            )
            cells = [*looks.mean(0).tolist(), None, None, None][:3]
            rows.append((name, estimate, *cells, float(looks.mean())))
    run.table(
        title,
        ("arm", "estimate", "after a third", "after two thirds", "in the end", "mean"),
        rows,
        f"Of all parameters, {DRAWS} steps a look, with the probabilities that the next epoch would have. "
        "Importance weighted: gradients are divided by how much likelier their path and examples are, so "
        "that all arms estimate the same gradient; as trained: they are not, as in the authors' code. "
        "FairNAS adds up the paths of a step.",
    )


def _panel(arms: Mapping[str, Arm]) -> Panel:
    panel = Panel("Gradient variance as trained, by SPOS", "ratio", limit=1.0)
    for name, arm in arms.items():
        ratios = [_ratio(a, b) for a, b in zip(arm.plain, arms[SPOS].plain, strict=True) if len(a) == len(b)]
        if ratios:
            panel.bar(name, *mean_deviation(ratios))
    return panel
