"""The ordinary run of the balanced mixture: one supernet and four, against the table "pool-15"."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from netwright.data import Splits
from netwright.models.zoo.pooled_resnet import pooled_resnet
from netwright.nas import Choice
from netwright.nas.bench import TabularBench
from netwright.nas.ranking import LEAST_CEILING, kendall
from netwright.papers.benches import RECIPE, WIDTH, bench_data
from netwright.papers.noise import noise
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.supernets import BalancedRouter, Mixture, Supernets, accuracies, elastic, train
from netwright.supernets.stores.mixture import choices_of
from netwright.train import Recipe
from netwright.train.losses import cross_entropy

#: Epochs of 50 steps that one supernet trains for, those of the table; fixed before any result.
EPOCHS = 4
SEEDS, UNBALANCED_SEEDS = 5, 3
#: Where the usual network pools: in front of its 3rd and 5th block.
USUAL = (2, 4)


@dataclass
class Setting:
    """Data, truth and how supernets are trained.

    Attributes:
        data: Trained on, routed and ranked by validation; the test split is not touched.
        epochs: That one supernet trains for.
        table: The truth, whose dim is called "pools"; the table "pool-15" when None.
    """

    data: Splits
    epochs: int
    table: TabularBench | None = None

    def recipe(self, seed: int, epochs: int) -> Recipe:
        """That of the table, without weight decay as in the paper."""
        return dataclasses.replace(RECIPE, epochs=epochs, weight_decay=0.0, seed=seed)

    def mixture(self, count: int, seed: int) -> Supernets:
        """Supernets before training."""
        channels = self.data.shape[0]
        with drawing(seed):
            network = pooled_resnet(
                None, 7, [WIDTH] * 7, num_classes=self.data.num_classes, in_channels=channels
            )
        found = elastic(network, self.data.example(), pool=2, store=Mixture(count, seed=seed + 1))
        assert isinstance(found, Supernets)
        return found

    @cached_property
    def truth(self) -> TabularBench:
        """The table."""
        return TabularBench.load("pool-15") if self.table is None else self.table

    def taus(self, arm: Arm) -> list[float]:
        """Kendall's tau of the scores with the truth, one a seed."""
        truth = [np.mean(self.accuracy(choice)) for choice in self.choices]
        return [kendall(scores, truth) for scores in arm.scores]

    @cached_property
    def choices(self) -> list[Choice]:
        """All networks, in the order of the scores."""
        return choices_of(self.mixture(1, 0))

    def accuracy(self, choice: Choice) -> tuple[float, ...]:
        """What a network reached, one number a training of the table."""
        return self.truth[{"pools": choice["pool"]}].accuracies


@dataclass
class Arm:
    """One way to train, one item a seed.

    Attributes:
        scores: Of all networks, by validation.
        found: The network that it ranks first.
        largest: The largest share of a supernet in the end.
        gmacs: Forward passes of the training.
        cosine: See `agreement`.
    """

    scores: list[np.ndarray] = field(default_factory=list)
    found: list[Choice] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    gmacs: list[float] = field(default_factory=list)
    cosine: list[float] = field(default_factory=list)


def arm_run(
    run: Run, setting: Setting, arm: Arm, count: int, times: int, seed: int, balanced: bool = True
) -> None:
    """Train one mixture with one seed and rank all networks with it."""
    data = setting.data
    few = dataclasses.replace(data, val=data.val.head(100))  # judged by the router and by the ranking only
    router = BalancedRouter(data.val, seed=seed, balanced=balanced, batch_size=RECIPE.batch_size)
    recipe = setting.recipe(seed, setting.epochs * times)
    fitted = train(setting.mixture(count, seed), few, recipe, sampler=router, device=run.device)
    sup = fitted.model
    assert isinstance(sup, Supernets)
    scores = accuracies(sup, data.val).amax(dim=1).numpy()
    choices = choices_of(sup)
    arm.scores.append(scores)
    arm.found.append(choices[int(scores.argmax())])
    arm.largest.append(float(router.marginal.max()))
    macs = np.array([sup.macs(c) for c in choices], dtype=np.float64)
    arm.gmacs.append(float((router.counts.sum(dim=1).numpy() * macs).sum()) * recipe.batch_size / 1e9)
    arm.cosine.append(agreement(sup, router.probabilities().argmax(dim=1), data))
    ends = f"{scores.min():.3f} to {scores.max():.3f}"
    run.log(f"seed {seed}, {count} supernets, {times} x {setting.epochs} epochs: {ends}")


def agreement(sup: Supernets, routed: Tensor, data: Splits, examples: int = 250) -> float:
    """Mean cosine between the gradients of two paths that are routed to one supernet, on one batch.

    Args:
        sup: Trained supernets.
        routed: (paths,) the supernet of each.
        data: The batch is the beginning of its validation split.
        examples: Of the batch.
    """
    x, y = next(data.val.batches(examples))
    sup.train()
    rows = []
    for choice, member in zip(choices_of(sup), routed.tolist(), strict=True):
        parameters = list(sup.use(member).member.network.parameters())
        loss = cross_entropy(sup.set(choice)(x), y)
        gradients = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([g.reshape(-1) for g in gradients]))
    pairs = [(a, b) for a, b in itertools.combinations(range(len(rows)), 2) if routed[a] == routed[b]]
    cosines = [torch.cosine_similarity(rows[a], rows[b], dim=0).item() for a, b in pairs]
    return float(np.mean(cosines))


def measure(run: Run) -> None:
    """Measure every claim of the ordinary scope."""
    setting = ordinary(run)
    one, four, equal, unbalanced = Arm(), Arm(), Arm(), Arm()
    with run.timed("training"), one_thread():
        for seed in run.seeds(SEEDS):
            arm_run(run, setting, one, 1, 1, seed)
            arm_run(run, setting, four, 4, 4, seed)
            arm_run(run, setting, equal, 4, 1, seed)
            if seed - run.seed < UNBALANCED_SEEDS:
                arm_run(run, setting, unbalanced, 4, 4, seed, balanced=False)
    run.measure(
        "tau of 4 supernets, 4 times the steps, above that of 1",
        *paired(setting.taus(four), setting.taus(one)),
    )
    run.measure(
        "tau of 4 supernets, equal steps in all, above that of 1",
        *paired(setting.taus(equal), setting.taus(one)),
    )
    above = gains(setting, four.found, USUAL)
    run.measure("stand-alone accuracy of the network found above the usual one", *mean_noise(above))
    run.measure("largest share of a supernet without balancing", *mean_noise(unbalanced.largest))
    run.measure(
        "cosine of two paths' gradients where routed together above one supernet",
        *paired(four.cosine, one.cosine),
        f"{np.mean(four.cosine):.3f} by {np.mean(one.cosine):.3f}, trained weights, one validation batch",
    )
    arms = {
        "1 supernet": one,
        "4, 4 times the steps": four,
        "4, equal steps in all": equal,
        "4, not balanced, 4 times": unbalanced,
    }
    report(run, setting, arms)


def ordinary(run: Run) -> Setting:
    """The setting of the table, and what it says of itself."""
    sizes = (300, 200, 100) if run.quick else (5_000, 2_000, 100)
    setting = Setting(bench_data(*sizes), 1 if run.quick else EPOCHS)
    run.settings |= {
        "data": f"{setting.data.name} at 14x14, {sizes[0]:,} to train, {sizes[1]:,} to route and rank by",
        "networks": f"7 layers of {WIDTH} channels, 2 poolings in front of any of 6 blocks",
        "recipe": dataclasses.asdict(setting.recipe(0, setting.epochs)),
        "temperature": "1 to 100, moving average 0.9, balanced to a divergence of 1e-4",
    }
    return setting


def say_truth(run: Run, truth: TabularBench) -> None:
    """The noise of the truth, before anything is compared with it."""
    low, high = truth.truth.min(), truth.truth.max()
    run.log(f"noise ceiling {truth.ceiling:.3f}, tau of MACs {kendall(truth.macs, truth.truth):.3f}")
    run.table(
        "The truth",
        (
            "networks",
            "trainings",
            "least, %",
            "most, %",
            "usual, %",
            "deviation of one",
            "ceiling",
            "tau of MACs",
        ),
        [
            (
                len(truth),
                len(truth.seeds),
                100 * low,
                100 * high,
                100 * float(np.mean(truth[{"pools": USUAL}].accuracies)),
                100 * truth.noise,
                truth.ceiling,
                kendall(truth.macs, truth.truth),
            )
        ],
        "Ceiling: Kendall's tau between the means of two halves of the trainings. Tau of MACs: of the costs "
        "alone, which more multiply-accumulates make better or worse.",
    )
    if truth.ceiling < LEAST_CEILING:
        run.cannot_decide(
            f"the truth ranks itself with tau {truth.ceiling:.2f}: no ranking can be judged by it"
        )


def gains(setting: Setting, found: Sequence[Choice], usual: tuple[int, ...]) -> list[float]:
    """Mean accuracy of each network found above that of the usual one."""
    base = float(np.mean(setting.truth[{"pools": usual}].accuracies))
    return [float(np.mean(setting.accuracy(choice))) - base for choice in found]


def mean_noise(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half a 95 % interval of it."""
    return float(np.mean(values)), noise(values)


def report(run: Run, setting: Setting, arms: dict[str, Arm]) -> None:
    """The tables and the plot of some arms."""
    truth = setting.truth
    say_truth(run, truth)
    costs = kendall(truth.macs, truth.truth)
    rows: list[tuple[Cell, ...]] = []
    ranks, gain = Panel("ranking of 15 networks", "Kendall's tau"), Panel("network found", "accuracy, %")
    for name, arm in arms.items():
        tau, deviation = mean_deviation(setting.taus(arm))
        reached = [100 * float(np.mean(setting.accuracy(c))) for c in arm.found]
        macs = [truth[{"pools": c["pool"]}].macs / 1e6 for c in arm.found]
        rows.append(
            (
                name,
                tau,
                deviation,
                abs(costs),
                truth.ceiling,
                *mean_deviation(reached),
                float(np.mean(macs)),
                *(float(np.mean(some)) if some else "-" for some in (arm.largest, arm.cosine, arm.gmacs)),
            )
        )
        ranks.bar(name, tau, deviation)
        gain.bar(name, *mean_deviation(reached))
    usual = truth[{"pools": USUAL}]
    gain.bar("usual", 100 * usual.accuracy)
    gain.bar("best of all", 100 * float(truth.truth.max()))
    ranks.bar("MACs alone", abs(costs))
    ranks.bar("noise ceiling", truth.ceiling)
    columns = (
        "arm", "tau", "deviation", "tau of MACs", "ceiling", "found, %", "deviation ", "MACs found, M",
        "largest share", "cosine", "training, GMACs",
    )  # fmt: skip
    run.table(
        "One supernet and several",
        columns,
        rows,
        f"Found: mean stand-alone accuracy of the network ranked first, by test; the usual one has "
        f"{usual.macs / 1e6:.2f} M MACs and {100 * usual.accuracy:.2f} %. Cosine: between gradients of two "
        "paths that are routed to one supernet. Training: forward passes, without those of the routing.",
    )
    best = [(name, str([c["pool"] for c in arm.found])) for name, arm in arms.items()]
    run.table("Poolings found, one a seed", ("arm", "in front of blocks, from 0"), best)
    run.plot(
        figure("Balanced mixture of supernets, pool-15", [ranks, gain], columns=1, width=760, height=300)
    )
