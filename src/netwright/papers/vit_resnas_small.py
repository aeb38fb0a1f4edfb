"""The ordinary ViT-ResNAS run: exact costs, sampling, residual reductions and evolution on Fashion-MNIST."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import Any

import numpy as np
from torch import nn

from netwright import nas
from netwright.data import Part, Splits, load
from netwright.models import VIT_RES, VitStage, vit_res
from netwright.nas import Choice
from netwright.nas.strategies import Evolution
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, drawing, one_thread
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.supernets import Elastic, HardLabels, Paths, Sorting, samplers, train
from netwright.supernets.spaces.vit_resnas import (
    SHRINK_ORDER,
    VIT_SPACES,
    VitStageSpace,
    choice_of,
    raw_size,
    vit_resnas,
)
from netwright.train import Fitted, Recipe, evaluate, fit

IMAGE, PATCH = 16, 2
#: Three stages of 64, 16 and 4 tokens and a class token; the second of three blocks may be left out.
SPACE = (
    VitStageSpace(VitStage.equal(16, 8, 4, 64, 3), (16, 14, 12, 10), (4, 3, 2), (64, 48, 32), (1,)),
    VitStageSpace(VitStage.equal(32, 8, 8, 128, 3), (32, 28, 24, 20), (8, 6, 4), (128, 96, 64), (1,)),
    VitStageSpace(VitStage.equal(64, 8, 16, 256, 3), (64, 56, 48, 40), (16, 12, 8), (256, 192, 128), (1,)),
)
#: Architectures of a batch, and epochs in which only the largest values are drawn.
GROUPS, WARMUP = 8, 1
JUDGED = 30
#: Repetitions of the headline: three leave every claim within the noise.
SEEDS = 7
SORTED = ("*.attn.qkv", "*.mlp.fc1")
#: Share of the largest network's multiply-accumulates that may be spent, and the window below it.
BUDGET, WINDOW = 0.6, 0.975
#: Multiply-accumulates at 224 pixels, from the published definitions.
PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "tiny": {"tiny": 1_782_630_272, "largest-tiny": 3_497_553_920},
    "small": {"small": 2_845_501_856, "medium": 4_513_135_936, "largest-small": 6_260_342_784},
}
OPTIONS: dict[str, Any] = {
    "num_classes": 10,
    "in_channels": 1,
    "image_size": IMAGE,
    "patch": PATCH,
    "stem": "patch",
}


@dataclass(frozen=True)
class Setting:
    """Data, recipe and supernet."""

    data: Splits
    quick: bool
    device: str

    def recipe(self, seed: int, epochs: int = 6) -> Recipe:
        """AdamW with warm-up, as for DeiT."""
        return Recipe(
            epochs=min(epochs, 2) if self.quick else epochs,
            batch_size=64,
            lr=2e-3,
            optimizer="adamw",
            weight_decay=0.05,
            warmup_epochs=1.0,
            label_smoothing=0.1,
            clip_norm=1.0,
            precision="fp32",
            augment=False,
            seed=seed,
        )

    def supernet(self, seed: int) -> Elastic:
        """The largest network, drawn with a seed."""
        with drawing(seed):
            return vit_resnas(SPACE, **OPTIONS)

    def trained(self, seed: int, groups: int) -> tuple[Elastic, int]:
        """A supernet trained with so many architectures a step; also the multiply-accumulates forward."""
        sampler = samplers.MultiArch(groups, seed, warmup=WARMUP)
        paths = Paths(sampler, HardLabels())
        made = train(
            self.supernet(seed),
            self.data,
            self.recipe(seed),
            paths=paths,
            callbacks=[Sorting(WARMUP, "magnitude-l1", SORTED)],
            device=self.device,
        ).model
        assert isinstance(made, Elastic)
        return made, paths.macs

    def accuracy(self, model: nn.Module, part: Part) -> float:
        """On a split."""
        return evaluate(model, part, device=self.device).accuracy

    def fitted(self, seed: int, stages: Sequence[VitStage], epochs: int = 6, **options: object) -> Fitted:
        """A network trained by itself, drawn with a seed."""
        with drawing(seed):
            net = vit_res(stages, **{**OPTIONS, **options})
        return fit(net, self.data, self.recipe(seed, epochs), device=self.device)


def pictures(quick: bool) -> Splits:
    """Fashion-MNIST at 16x16: 1,500 to train, 500 to judge by, 2,000 to test."""
    data = load("fashion-mnist", image_size=IMAGE)
    train, val, test = (128, 100, 100) if quick else (1_500, 500, 2_000)
    return dataclasses.replace(
        data, train=data.train.head(train), val=data.val.head(val), test=data.test.head(test)
    )


def measure(run: Run) -> None:
    """Measure every claim of the ordinary scope."""
    setting = Setting(pictures(run.quick), run.quick, run.device)
    run.settings |= describe(setting)
    with one_thread():
        with run.timed("published networks"):
            published(run)
        with run.timed("sampling"):
            supernets, panel = sampling(run, setting)
        with run.timed("reductions"):
            reductions(run, setting)
        with run.timed("evolution"):
            evolution(run, setting, supernets)
    run.plot(figure("ViT-ResNAS on Fashion-MNIST at 16x16", [panel], columns=1, width=760, height=300))


def describe(setting: Setting) -> dict[str, object]:
    """Settings for the evidence."""
    data = setting.data
    return {
        "data": f"{data.name} at {IMAGE}x{IMAGE}: {len(data.train):,} to train, "
        f"{len(data.val):,} to judge by, {len(data.test):,} to test",
        "space": [dataclasses.asdict(stage) for stage in SPACE],
        "choices": raw_size(SPACE),
        "recipe": dataclasses.asdict(setting.recipe(0)),
        "groups": GROUPS,
        "warm-up epochs of the sampler": WARMUP,
        "budget": f"{WINDOW} to 1 of {BUDGET} of the largest network's multiply-accumulates",
    }


def published(run: Run) -> None:
    """Published networks as choices of their spaces, priced without building any."""
    rows: list[tuple[Cell, ...]] = []
    worst = 0
    for space, networks in PUBLISHED.items():
        sup = vit_resnas(space, "meta")
        for name, macs in networks.items():
            cost = sup.cost(choice_of(sup, space, VIT_RES[name]))
            worst = max(worst, abs(cost.macs - macs))
            rows.append((name, cost.macs, macs, cost.params))
        rows.append((f"choices, {space}", f"{sup.space.size():.3g}", None, None))
        rows.append((f"choices with those of blocks left out, {space}", f"{raw_size(space):.3g}", None, None))
        assert len(sup.space.dims) == sum(
            1 + len(s.removable) + 2 * s.largest.depth for s in VIT_SPACES[space]
        )
    run.measure("largest difference to the published multiply-accumulates", float(worst))
    run.table(
        "Published networks in the search spaces, at 224x224",
        ("network", "multiply-accumulates", "from the published definition", "parameters"),
        rows,
    )


def sampling(run: Run, setting: Setting) -> tuple[list[Elastic], Panel]:
    """Several architectures a step by one; the supernets of the former."""
    arms: dict[int, list[list[float]]] = {GROUPS: [], 1: []}
    spent: dict[int, list[float]] = {GROUPS: [], 1: []}
    supernets = []
    rng = np.random.default_rng(0)
    space = setting.supernet(0).space
    choices = [space.sample(rng) for _ in range(4 if run.quick else JUDGED)]
    for seed in run.seeds(SEEDS):
        for groups, scores in arms.items():
            sup, macs = setting.trained(seed, groups)
            scores.append([setting.accuracy(sup.set(c), setting.data.val) for c in choices])
            spent[groups].append(macs / 1e9)
            run.log(f"seed {seed}, {groups} a step: {fmean(scores[-1]):.4f}")
            if groups == GROUPS:
                supernets.append(sup)
    means = {g: [fmean(s) for s in scores] for g, scores in arms.items()}
    spreads = {g: [pstdev(s) for s in scores] for g, scores in arms.items()}
    run.measure(
        "several architectures a step above one, mean of 30 sub-networks", *paired(means[GROUPS], means[1])
    )
    run.measure(
        "spread of the sub-networks, one a step less several",
        *paired(spreads[1], spreads[GROUPS]),
        "standard deviation over the sub-networks",
    )
    rows: list[tuple[Cell, ...]] = []
    panel = Panel("inherited accuracy of 30 sub-networks", "accuracy, %")
    for groups in arms:
        mean, deviation = mean_deviation(means[groups])
        name = f"{groups} architectures a step" if groups > 1 else "1 architecture a step"
        panel.bar(name, 100 * mean, 100 * deviation)
        rows.append((name, 100 * mean, 100 * deviation, 100 * fmean(spreads[groups]), fmean(spent[groups])))
    run.table(
        "Architectures a step",
        ("sampler", "mean accuracy, %", "deviation of seeds", "deviation of sub-networks", "GMACs forward"),
        rows,
        f"{len(choices)} random sub-networks on the validation split with inherited weights. GMACs are those "
        "of the sub-networks that were trained, all examples together.",
    )
    return supernets, panel


def reductions(run: Run, setting: Setting, depth: int = 1) -> tuple[list[float], list[float]]:
    """The largest network with and without the residual path of its reductions; shares of spikes.

    Args:
        run: Gets the claims of the ordinary depth.
        setting: Data and recipe.
        depth: What the number of blocks is multiplied by.
    """
    stages = [
        VitStage.equal(s.width, s.head_dim, s.heads[0], s.hidden[0], s.depth * depth)
        for s in (stage.largest for stage in SPACE)
    ]
    scores: dict[bool, list[float]] = {True: [], False: []}
    losses: dict[bool, list[float]] = {True: [], False: []}
    spikes: dict[bool, list[float]] = {True: [], False: []}
    for seed in run.seeds(SEEDS if depth == 1 else 3):
        for residual in scores:
            found = setting.fitted(seed, stages, 4, residual=residual)
            scores[residual].append(setting.accuracy(found.model, setting.data.test))
            curve = [float(record["loss"]) for record in found.history]
            losses[residual].append(fmean(curve))
            spikes[residual].append(float(any(b > a for a, b in itertools.pairwise(curve))))
            run.log(f"seed {seed}, residual {residual}: {scores[residual][-1]:.4f}, loss {fmean(curve):.3f}")
    suffix = "" if depth == 1 else " at twice the depth"
    run.measure(f"residual reductions above plain ones{suffix}", *paired(scores[True], scores[False]))
    if depth == 1:
        run.measure(
            "training loss, plain reductions less residual ones",
            *paired(losses[False], losses[True]),
            "mean of the epochs",
        )
    run.table(
        f"Spatial reductions{suffix}",
        ("residual path", "accuracy, %", "deviation", "mean training loss"),
        [
            (
                "with" if r else "without",
                100 * mean_deviation(scores[r])[0],
                100 * mean_deviation(scores[r])[1],
                fmean(losses[r]),
            )
            for r in (True, False)
        ],
        "The largest network of the space, 4 epochs.",
    )
    return spikes[False], spikes[True]


def evolved(setting: Setting, sup: Elastic, seed: int) -> tuple[Choice, list[Choice]]:
    """What evolution finds in a supernet within the budget, and random choices of the same window."""
    most = BUDGET * sup.macs(sup.blueprint.full)
    space = sup.space.constrained(sup.macs, WINDOW * most, most, order=SHRINK_ORDER)
    sizes = (6, 3, 3, 3) if setting.quick else (24, 10, 12, 12)
    strategy = Evolution(*sizes, p=0.3, mix=0.5, start=lambda s, rng: s.shrunk(rng))

    def error(choice: Choice) -> float:
        return 1.0 - setting.accuracy(sup.set(choice), setting.data.val)

    trials = 12 if setting.quick else 60
    found = nas.search(space, [error], strategy=strategy, trials=trials, seed=seed)
    rng = np.random.default_rng(1_000 + seed)
    return found.best.candidate, [space.sample(rng) for _ in range(2 if setting.quick else 3)]


def alone(
    setting: Setting, sup: Elastic, choice: Choice, seed: int, epochs: int = 4
) -> tuple[nn.Module, float]:
    """A sub-network trained from a fresh draw; the test accuracy."""
    fresh = setting.supernet(seed).extract(choice)
    model = fit(fresh, setting.data, setting.recipe(seed, epochs), device=setting.device).model
    return model, setting.accuracy(model, setting.data.test)


def evolution(run: Run, setting: Setting, supernets: Sequence[Elastic]) -> None:
    """The evolved network by the median of random ones, all retrained alike."""
    best: list[float] = []
    typical: list[float] = []
    rows: list[tuple[Cell, ...]] = []
    for seed, sup in zip(run.seeds(SEEDS), supernets, strict=True):
        winner, others = evolved(setting, sup, seed)
        best.append(alone(setting, sup, winner, seed)[1])
        scores = [alone(setting, sup, c, seed)[1] for c in others]
        typical.append(median(scores))
        rows.append((seed, 100 * best[-1], 100 * typical[-1], 100 * max(scores), sup.macs(winner)))
        run.log(f"seed {seed}: evolved {best[-1]:.4f}, random {typical[-1]:.4f}")
    run.measure("evolved above the median random network, retrained", *paired(best, typical))
    run.table(
        "Evolved by random, retrained from scratch",
        ("seed", "evolved, %", "median random, %", "best random, %", "evolved MACs"),
        rows,
        "Test accuracy after 4 epochs; three random networks of the same window of multiply-accumulates.",
    )
