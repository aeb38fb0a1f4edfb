"""BossNAS on kernels and expansions: inverted residuals, three blocks of two, rated without labels."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor, nn

from netwright.data import Splits
from netwright.models.zoo.bignas import InvertedResidual
from netwright.nas import Choice
from netwright.nas.ranking import kendall, noise_ceiling, pearson, spearman
from netwright.papers.benches import RECIPE, bench_data
from netwright.papers.bossnas_small import HIDDEN, VECTOR, momentum, siamese
from netwright.papers.plot import Panel
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.supernets import Elastic, EnsembleBootstrap, OneOf, elastic, samplers, train
from netwright.supernets.training.blockwise import train_blockwise
from netwright.train import Recipe, evaluate, fit

#: Side of the depthwise kernel and factor of the channels between: the four operations of the authors.
OPERATIONS = {f"{kernel}x{kernel} e{factor}": (kernel, factor) for factor in (6, 3) for kernel in (3, 5)}
#: Channels of the stem, of the blocks, and strides of these; 14x14 pixels become 7x7 and 4x4.
STEM, CHANNELS, STRIDES, LAYERS = 8, (8, 16, 24), (2, 1, 2), 2
BLOCKS = tuple(f"blocks.{k}" for k in range(len(CHANNELS)))
#: Networks whose truth is known, trainings of each, and supernets of each kind.
NETWORKS, TRAININGS, SEEDS = 12, 2, 2
#: Epochs of each block; a supernet of whole networks trains for as many steps in all.
EPOCHS = 4
BOSS, SPOS = "BossNAS, no labels", "one supernet, labels"


class MBNet(nn.Module):
    """A stem, three blocks of inverted residuals of which each is one of four, the mean, a linear head.

    Args:
        classes: Of the answer.
        channels: Of the images.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(STEM), nn.ReLU())
        self.blocks, inputs = nn.Sequential(), STEM
        for outputs, stride in zip(CHANNELS, STRIDES, strict=True):
            first = _layer(inputs, outputs, stride)
            rest = [_layer(outputs, outputs, 1) for _ in range(LAYERS - 1)]
            self.blocks.append(nn.Sequential(first, *rest))
            inputs = outputs
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        return self.fc(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def _layer(inputs: int, outputs: int, stride: int) -> OneOf:
    return OneOf(
        {
            name: InvertedResidual(inputs, outputs, factor * inputs, kernel, stride)
            for name, (kernel, factor) in OPERATIONS.items()
        }
    )


def supernet(data: Splits, seed: int) -> Elastic:
    """All 4,096 networks before training.

    Args:
        data: Gives classes and the example.
        seed: Of the weights.
    """
    with drawing(seed):
        network = MBNet(data.num_classes, data.shape[0])
    return elastic(network, data.example())


def measure(run: Run) -> list[Panel]:
    """Train some networks, rate them without labels and by one supernet; returns the plot."""
    data = bench_data(*((300, 100, 100) if run.quick else (3_000, 1_000, 5_000)))
    count, epochs = (4, 1) if run.quick else (NETWORKS, EPOCHS)
    sup = supernet(data, run.seed)
    rng = np.random.default_rng(29)
    choices = list(dict.fromkeys(sup.space.sample(rng) for _ in range(2 * count)))[:count]
    with one_thread():
        with run.timed("truth of kernels and expansions"):
            truth = _truth(run, sup, data, choices)
        scores: dict[str, list[np.ndarray]] = {BOSS: [], SPOS: []}
        for seed in run.seeds(SEEDS):
            with run.timed(f"{BOSS}, kernels and expansions"):
                scores[BOSS].append(_by_blocks(data, choices, epochs, seed))
            with run.timed(f"{SPOS}, kernels and expansions"):
                scores[SPOS].append(_one_shot(data, choices, epochs * len(BLOCKS), seed))
            run.log(f"kernels and expansions, seed {seed} done")
    run.settings["kernels and expansions"] = (
        f"stem of {STEM}, blocks of {LAYERS} inverted residuals of {', '.join(map(str, CHANNELS))} channels, "
        f"each one of {', '.join(OPERATIONS)}; {count} of 4,096 networks trained {TRAININGS} times on "
        f"{len(data.train):,} pictures; {epochs} epochs a block"
    )
    return [_report(run, sup, choices, truth, scores)]


def _truth(run: Run, sup: Elastic, data: Splits, choices: list[Choice]) -> np.ndarray:
    """(networks, trainings) test accuracies."""
    few = dataclasses.replace(data, val=data.val.head(100))
    table = np.zeros((len(choices), TRAININGS))
    for k, choice in enumerate(choices):
        for seed in range(TRAININGS):
            network = reinitialise_(sup.extract(choice), seed)
            recipe = dataclasses.replace(RECIPE, seed=seed, epochs=1 if run.quick else RECIPE.epochs)
            fitted = fit(network, few, recipe, device="cpu")
            table[k, seed] = evaluate(fitted.model, data.test, device="cpu").accuracy
        run.log(f"{_short(choice)}: {100 * table[k].mean():.2f} %")
    return table


def _by_blocks(data: Splits, choices: list[Choice], epochs: int, seed: int) -> np.ndarray:
    """Ratings of BossNAS, greater is better: all operations of a layer once a step, a pair of views each."""
    steps = epochs * (len(data.train) // RECIPE.batch_size)
    loss = EnsembleBootstrap(
        paths=len(OPERATIONS), momentum=momentum(steps), hidden=HIDDEN, vector=VECTOR, fair=True
    )
    recipe = siamese(epochs, steps, seed)
    found = train_blockwise(supernet(data, seed), BLOCKS, data, loss=loss, recipe=recipe, seed=seed)
    return np.array([-found.rate(choice) for choice in choices])


def _one_shot(data: Splits, choices: list[Choice], epochs: int, seed: int) -> np.ndarray:
    """Accuracies by one supernet that was trained with labels, a random path a step."""
    few = dataclasses.replace(data, val=data.val.head(100))
    recipe = Recipe(
        epochs=epochs, batch_size=100, lr=0.05, weight_decay=1e-6, precision="fp32", augment=False, seed=seed
    )
    sup = train(supernet(data, seed), few, recipe, sampler=samplers.Uniform(seed), device="cpu").model
    assert isinstance(sup, Elastic)
    scores = []
    for choice in choices:
        sup.calibrate(data.train.batches(250, limit=1_000), choice)
        scores.append(evaluate(sup.set(choice), data.val, device="cpu").accuracy)
        sup.statistics.clear()
    return np.array(scores)


def _short(choice: Choice) -> str:
    return " ".join(f"{choice[f'op:{b}.{k}']}" for b in BLOCKS for k in range(LAYERS))


def _report(
    run: Run,
    sup: Elastic,
    choices: list[Choice],
    table: np.ndarray,
    scores: dict[str, list[np.ndarray]],
) -> Panel:
    """Measure the claims; the table of the ratings and their plot."""
    truth, macs = table.mean(axis=1), np.array([sup.macs(c) for c in choices], dtype=np.float64)
    # Networks that a quick run leaves all alike have no rank: nan.
    ceiling, costs = (float(np.nan_to_num(t)) for t in (noise_ceiling(table), kendall(macs, truth)))
    taus = {name: [float(np.nan_to_num(kendall(s, truth))) for s in some] for name, some in scores.items()}
    note = f"noise ceiling {ceiling:.2f}, tau of MACs alone {costs:.2f}"
    name = "tau of BossNAS, kernels and expansions"
    run.measure(name, *paired(taus[BOSS], [0.0] * len(taus[BOSS])), note)
    name = "tau of BossNAS above a supervised one-shot supernet, kernels and expansions"
    run.measure(name, *paired(taus[BOSS], taus[SPOS]), note)
    panel = Panel(f"{len(choices)} networks of kernels and expansions", "Kendall's tau")
    rows: list[tuple[Cell, ...]] = []
    for name, some in scores.items():
        tau, deviation = mean_deviation(taus[name])
        others = [float(np.nan_to_num(np.mean([f(s, truth) for s in some]))) for f in (spearman, pearson)]
        own = float(np.nan_to_num(np.mean([kendall(s, macs) for s in some])))
        rows.append((name, tau, deviation, *others, own, costs, ceiling))
        panel.bar(name, tau, deviation)
    panel.bar("MACs alone", costs).bar("noise ceiling", ceiling)
    run.table(
        "Ratings of kernels and expansions",
        ("arm", "tau", "deviation", "rho", "r", "tau with MACs", "tau of MACs", "ceiling"),
        rows,
        f"{len(choices)} networks trained {table.shape[1]} times: {100 * truth.min():.2f} to "
        f"{100 * truth.max():.2f} %, {macs.min() / 1e6:.2f} to {macs.max() / 1e6:.2f} M MACs.",
    )
    return panel
