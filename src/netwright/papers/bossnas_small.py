"""BossNAS against the table "blocks-40": networks rated without labels, by local ones, by one supernet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from netwright.data import Splits
from netwright.models.zoo.conv_macro import conv_macro
from netwright.nas.bench import TabularBench
from netwright.nas.ranking import LEAST_CEILING, kendall, pearson, spearman
from netwright.papers.benches import RECIPE, bench_data, find
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.supernets import Elastic, EnsembleBootstrap, LocalLabels, elastic, samplers, train
from netwright.supernets.training.blockwise import train_blockwise
from netwright.supernets.training.bootstrapping import BlockLoss
from netwright.train import Recipe, evaluate

#: Values of every width, and the blocks of two layers.
WIDTHS = (8, 16, 24, 32)
BLOCKS = (("layers.0", "layers.1"), ("layers.2", "layers.3"), ("layers.4", "layers.5"))
#: Epochs of each of the three blocks; a supernet of whole networks trains for as many steps in all.
EPOCHS = 4
SEEDS = 3
#: Of the authors' training of a block on CIFAR: 50 epochs of 50,000 pictures in batches of 4,096, LARS with
#: this learning rate, momentum of the target in the beginning, share of the warm-up.
THEIR_STEPS, THEIR_LR, THEIR_MOMENTUM, WARMUP = 610, 0.48, 0.99, 0.04
#: Widths of the heads: the paper's 4096 and 256, less for blocks of 32 channels.
HIDDEN, VECTOR = 128, 64
BOSS, LOCAL, SPOS = "BossNAS, no labels", "block by block, labels", "one supernet, labels"


@dataclass
class Setting:
    """Data, truth and how supernets are trained.

    Attributes:
        data: Trained on; networks are rated by validation and the test split is not touched.
        epochs: Of every block.
        count: How many networks of the table are rated.
    """

    data: Splits
    epochs: int
    count: int = 40

    def recipe(self, seed: int, epochs: int) -> Recipe:
        """That of the arms with labels."""
        return Recipe(
            epochs=epochs,
            batch_size=RECIPE.batch_size,
            lr=0.05,
            weight_decay=1e-6,
            precision="fp32",
            augment=False,
            seed=seed,
        )

    @property
    def steps(self) -> int:
        """Of a block."""
        return self.epochs * (len(self.data.train) // RECIPE.batch_size)

    def siamese(self, seed: int, epochs: int) -> Recipe:
        """That of the arms without."""
        return siamese(epochs, self.steps, seed)

    def supernet(self, seed: int) -> Elastic:
        """Six layers of up to 32 channels before training."""
        with drawing(seed):
            network = conv_macro([max(WIDTHS)] * 6, [3] * 6, in_channels=1, pools=(1, 3))
        return elastic(network, self.data.example(), width={"layers.*": list(WIDTHS)})

    @cached_property
    def truth(self) -> TabularBench:
        """The table; its dim "widths" holds the six widths."""
        return TabularBench.load("blocks-40").restricted({"widths": widths} for widths in self.widths)

    @cached_property
    def widths(self) -> list[tuple[int, ...]]:
        """The networks that are rated."""
        return [choice["widths"] for choice in find("blocks-40").space.enumerate()][: self.count]

    @property
    def choices(self) -> list[dict[str, int]]:
        """They as choices of the supernet."""
        return [{f"width:layers.{k}.0": w for k, w in enumerate(widths)} for widths in self.widths]


@dataclass
class Arm:
    """What one way of rating gave, one item a seed.

    Attributes:
        scores: Of every network, greater is better.
        best: The network that it would choose of the whole space, its widths.
    """

    scores: list[np.ndarray] = field(default_factory=list)
    best: list[tuple[int, ...]] = field(default_factory=list)

    def correlations(self, truth: np.ndarray, metric: Callable[[Any, Any], float] = kendall) -> list[float]:
        """With the truth, one a seed."""
        return [metric(scores, truth) for scores in self.scores]


def siamese(epochs: int, steps: int, seed: int) -> Recipe:
    """How blocks learn from their own paths: the authors' LARS in fewer steps.

    LARS moves every weight by a share of its own norm, so a learning rate that is as many times theirs as
    there are fewer steps moves it as far in all.

    Args:
        epochs: Of a block.
        steps: Of a block.
        seed: Of the training.
    """
    return Recipe(
        epochs=epochs,
        batch_size=RECIPE.batch_size,
        lr=THEIR_LR * THEIR_STEPS / max(steps, THEIR_STEPS // 10),
        optimizer="lars",
        weight_decay=1e-6,
        warmup_epochs=WARMUP * epochs,
        precision="fp32",
        augment=False,
        seed=seed,
    )


def momentum(steps: int) -> float:
    """Of the target in the beginning: as much of its first weights is left in the end as the authors leave.

    Args:
        steps: Of a block.
    """
    return 1 - min((1 - THEIR_MOMENTUM) * THEIR_STEPS / steps, 0.5)


def ensemble(steps: int, **options: Any) -> EnsembleBootstrap:
    """The loss of BossNAS with heads of this size and, where not said otherwise, the paths of CIFAR.

    Args:
        steps: Of a block.
        options: Others of `EnsembleBootstrap`.
    """
    paths: dict[str, Any] = {"fair": True, "views": "shared"} | options
    return EnsembleBootstrap(
        paths=len(WIDTHS), momentum=momentum(steps), hidden=HIDDEN, vector=VECTOR, **paths
    )


def by_blocks(setting: Setting, arm: Arm, loss: BlockLoss, seed: int) -> None:
    """Train a supernet block by block and rate the networks of the table."""
    labels = isinstance(loss, LocalLabels)
    recipe = (setting.recipe if labels else setting.siamese)(seed, setting.epochs)
    sup, data = setting.supernet(seed), setting.data
    found = train_blockwise(sup, BLOCKS, data, loss=loss, recipe=recipe, seed=seed)
    arm.scores.append(np.array([-found.rate(choice) for choice in setting.choices]))
    arm.best.append(tuple(found.best[f"width:layers.{k}.0"] for k in range(6)))


def one_shot(setting: Setting, arm: Arm, seed: int) -> None:
    """Train one supernet by labels, a random path a step, for as many steps as all blocks; rate (SPOS)."""
    data = setting.data
    few = dataclasses.replace(data, val=data.val.head(100))
    recipe = setting.recipe(seed, setting.epochs * len(BLOCKS))
    sup = train(setting.supernet(seed), few, recipe, sampler=samplers.Uniform(seed), device="cpu").model
    assert isinstance(sup, Elastic)
    scores = []
    for choice in setting.choices:
        sup.calibrate(data.train.batches(250, limit=1_000), choice)
        scores.append(evaluate(sup.set(choice), data.val, device="cpu").accuracy)
        sup.statistics.clear()
    arm.scores.append(np.array(scores))
    arm.best.append(setting.widths[int(np.argmax(scores))])


def ordinary(run: Run) -> Setting:
    """The setting of the table, and what it says of itself."""
    sizes = (300, 100, 100) if run.quick else (5_000, 1_000, 100)
    setting = Setting(bench_data(*sizes), *((1, 6) if run.quick else (EPOCHS, 40)))
    run.settings |= {
        "data": f"{setting.data.name} at 14x14, {sizes[0]:,} to train, {sizes[1]:,} to rate by",
        "supernet": f"three blocks of two 3x3 convolutions, each of {', '.join(map(str, WIDTHS))} channels",
        "recipe with labels": dataclasses.asdict(setting.recipe(0, setting.epochs)),
        "recipe without": dataclasses.asdict(setting.siamese(0, setting.epochs)),
        "heads": f"{HIDDEN} hidden units, vectors of {VECTOR}; the target's momentum rises from "
        f"{momentum(setting.steps):.3f}; 4 paths a step, every width of a layer in one, one pair of views",
        "views": "shifted by up to a pixel and mirrored, as the paper's of CIFAR",
    }
    return setting


def say_truth(run: Run, truth: TabularBench) -> None:
    """The noise of the truth, before anything is compared with it."""
    low, high = 100 * truth.truth.min(), 100 * truth.truth.max()
    macs = kendall(truth.macs, truth.truth)
    run.log(f"noise ceiling {truth.ceiling:.3f}, tau of MACs {macs:.3f}")
    run.table(
        "The truth",
        ("networks", "trainings", "least, %", "most, %", "deviation of one", "ceiling", "tau of MACs"),
        [(len(truth), len(truth.seeds), low, high, 100 * truth.noise, truth.ceiling, macs)],
        "Ceiling: Kendall's tau between halves of the trainings. Deviation in points.",
    )


def measure(run: Run) -> None:
    """Measure every claim of the ordinary scope."""
    setting = ordinary(run)
    arms = {name: Arm() for name in (BOSS, LOCAL, SPOS)}
    with one_thread():
        for seed in run.seeds(SEEDS):
            with run.timed(BOSS):
                by_blocks(setting, arms[BOSS], ensemble(setting.steps), seed)
            with run.timed(LOCAL):
                by_blocks(setting, arms[LOCAL], LocalLabels(setting.data.num_classes), seed)
            with run.timed(SPOS):
                one_shot(setting, arms[SPOS], seed)
            run.log(f"seed {seed} done")
    truth = setting.truth
    taus = {name: arm.correlations(truth.truth) for name, arm in arms.items()}
    run.measure("tau of BossNAS", *paired(taus[BOSS], [0.0] * len(taus[BOSS])))
    run.measure("tau of BossNAS above a supervised one-shot supernet", *paired(taus[BOSS], taus[SPOS]))
    costs = abs(kendall(truth.macs, truth.truth))
    show(run, [report(run, setting, arms)])
    if truth.ceiling < LEAST_CEILING:
        run.cannot_decide(
            f"the truth ranks itself with tau {truth.ceiling:.2f}: no rating can be judged by it"
        )
    elif float(np.mean(taus[BOSS])) <= costs:
        run.cannot_decide(
            f"the costs alone rank the networks with tau {costs:.2f}, BossNAS with "
            f"{np.mean(taus[BOSS]):.2f}: in a space of widths that shows nothing about quality"
        )


def measure_further(run: Run) -> list[Panel]:
    """The same without the ensemble: what a step's paths learn from is a single path, or each its own."""
    setting = ordinary(run)
    losses: Mapping[str, BlockLoss] = {
        BOSS: ensemble(setting.steps),
        "a single path's target": ensemble(setting.steps, target="single"),
        "each path's own target": ensemble(setting.steps, target="own"),
    }
    arms = {name: Arm() for name in losses}
    with one_thread():
        for seed in run.seeds(SEEDS):
            for name, loss in losses.items():
                with run.timed(name):
                    by_blocks(setting, arms[name], loss, seed)
            run.log(f"seed {seed} done")
    taus = [arm.correlations(setting.truth.truth) for arm in arms.values()]
    run.measure("tau of the ensemble above a single path's target", *paired(taus[0], taus[1]))
    run.measure("tau of the ensemble above each path's own moving average", *paired(taus[0], taus[2]))
    return [report(run, setting, arms)]


def show(run: Run, panels: Sequence[Panel]) -> None:
    """Set the plot of the run."""
    run.plot(figure("BossNAS", panels, columns=1, width=760, height=320))


def report(run: Run, setting: Setting, arms: Mapping[str, Arm]) -> Panel:
    """The table of some arms, and their plot."""
    truth = setting.truth
    say_truth(run, truth)
    costs = abs(kendall(truth.macs, truth.truth))
    panel = Panel("40 networks of widths", "Kendall's tau")
    rows: list[tuple[Cell, ...]] = []
    for name, arm in arms.items():
        tau, deviation = mean_deviation(arm.correlations(truth.truth))
        rank = mean_deviation(arm.correlations(truth.truth, spearman))[0]
        line = mean_deviation(arm.correlations(truth.truth, pearson))[0]
        own = mean_deviation(arm.correlations(truth.macs))[0]
        rows.append((name, tau, deviation, rank, line, own, costs, truth.ceiling, _widths(arm.best)))
        panel.bar(name, tau, deviation)
    panel.bar("MACs alone", costs).bar("noise ceiling", truth.ceiling)
    run.table(
        "Ratings",
        ("arm", "tau", "deviation", "rho", "r", "tau with MACs", "tau of MACs", "ceiling", "widths chosen"),
        rows,
        "Tau with MACs: how far a rating is the cost of the network. Widths chosen: of the whole space block "
        "by block, of the table's networks for one supernet; one a seed.",
    )
    return panel


def _widths(best: Sequence[Sequence[int]]) -> str:
    return "; ".join("-".join(map(str, widths)) for widths in best)
