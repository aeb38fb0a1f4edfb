"""Further arms of BigNAS: one ingredient left out at a time, progressive shrinking, compound scaling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np

from netwright.nas import Choice
from netwright.papers.bignas_parts import (
    BIG,
    DEPTHS,
    KERNELS,
    SIDES,
    WIDTHS,
    Scores,
    Setting,
    alone,
    bignas,
    children,
    inherited,
    network,
    small,
    supernet,
    table,
    trained,
)
from netwright.papers.run import Run, one_thread
from netwright.papers.sparse_parts import paired
from netwright.supernets import Elastic, HardLabels, InplaceDistill, Paths, samplers, train
from netwright.supernets.samplers.progressive import ProgressiveShrinking
from netwright.train import fit

LABELS, LARGE, UNZEROED, COSINE = "labels only", "no smallest child", "gamma of ones", "cosine to zero"
#: What the steps are multiplied by where both learn for longer.
LONGER = 4
SHRINKING, COMPOUND = "progressive shrinking", "compound scaling"


def further(run: Run) -> None:
    """Every arm against the same children of the same networks."""
    setting = small(run)
    run.settings |= {"recipe": dataclasses.asdict(setting.recipe), "seeds": "two"}
    scores, macs = Scores(), [0]
    with one_thread():
        for seed in run.seeds(2):
            sup = supernet(network(seed), setting)
            chosen = children(sup, 3 if run.quick else 8)
            macs = sup.costs(chosen)[:, 0].tolist()
            for arm, make in _arms(sup, setting, seed, run.device).items():
                scores.add(arm, inherited(make(), chosen, setting, run.device))
                run.log(f"seed {seed}: {arm} {fmean(scores.by_arm[arm][-1]):.4f}")
            scaled = compound(sup, chosen)
            scores.add(COMPOUND, [alone(sup, c, setting, seed, run.device) for c in scaled])
        _longer(run)
    _measure(run, scores, macs)
    table(
        run,
        "Children, one ingredient left out",
        {a: v for a, v in scores.by_arm.items() if a != COMPOUND},
        macs,
    )


def _longer(run: Run) -> None:
    """The method beside the smallest, the middle and the largest child alone, all in more steps."""
    gaps, shown, macs = [], Scores(), [0]
    setting = small(run, LONGER)
    for seed in run.seeds(1):
        sup = supernet(network(seed), setting)
        chosen = children(sup, 3)
        macs = sup.costs(chosen)[:, 0].tolist()
        shown.add(BIG, inherited(bignas(sup, setting, seed, run.device)[0], chosen, setting, run.device))
        shown.add("alone", [alone(sup, c, setting, seed, run.device) for c in chosen])
        gaps.append(fmean(shown.by_arm[BIG][-1]) - fmean(shown.by_arm["alone"][-1]))
        run.log(f"seed {seed}: {LONGER} times the steps, {gaps[-1]:+.4f}")
    run.measure("inherited less trained alone, three children, four times the steps", fmean(gaps))
    table(run, f"Children, {LONGER} times the steps", shown.by_arm, macs)


def _arms(sup: Elastic, setting: Setting, seed: int, device: str) -> dict[str, Callable[[], Elastic]]:
    sandwich = samplers.Sandwich
    soft = InplaceDistill()
    return {
        BIG: lambda: bignas(sup, setting, seed, device)[0],
        LABELS: lambda: trained(sup, setting, seed, sandwich(2, seed), HardLabels(), device)[0],
        LARGE: lambda: trained(sup, setting, seed, sandwich(3, seed, smallest=False), soft, device)[0],
        UNZEROED: lambda: bignas(supernet(network(seed, zero=False), setting), setting, seed, device)[0],
        COSINE: lambda: trained(sup, setting, seed, sandwich(2, seed), soft, device, schedule="cosine")[0],
        SHRINKING: lambda: shrinking(sup, setting, seed, device),
    }


def shrinking(sup: Elastic, setting: Setting, seed: int, device: str) -> Elastic:
    """Once-for-all: the largest network first, then its kinds of choices opened one by one, taught by it.

    As many forward-backwards as the other arms: a quarter for the largest network, one path a step after it.
    """
    recipe = dataclasses.replace(setting.recipe, seed=seed)
    largest = fit(sup.network, setting.data, recipe, device=device).model
    start = supernet(largest, setting)
    paths = Paths(ProgressiveShrinking(seed=seed), HardLabels())
    rest = dataclasses.replace(
        recipe, epochs=3 * recipe.epochs, decay_epochs=3 * recipe.decay_epochs, distill_weight=0.5
    )
    made = train(start, setting.data, rest, paths=paths, device=device, teacher=largest).model
    assert isinstance(made, Elastic)
    return made


def compound(sup: Elastic, chosen: Sequence[Choice]) -> list[Choice]:
    """Networks of one multiplier for width, depth and resolution, nearest to every other child in cost.

    Args:
        sup: The supernet.
        chosen: The children.
    """
    scaled = []
    for width, depth, side in zip(WIDTHS, DEPTHS, SIDES, strict=True):
        for kernel in KERNELS:
            values = {"width": width, "depth": depth, "resolution": side, "kernel": kernel}
            scaled.append(sup.complete({n: values[n.partition(":")[0]] for n in sup.blueprint.full}))
    costs = np.log(sup.costs(scaled)[:, 0].astype(float))
    targets = np.log(sup.costs(list(chosen)[1::2])[:, 0].astype(float))
    return [scaled[int(np.abs(costs - target).argmin())] for target in targets]


def _measure(run: Run, scores: Scores, macs: Sequence[int]) -> None:
    def child(arm: str, k: int) -> list[float]:
        return [seed[k] for seed in scores.by_arm[arm]]

    gains = [
        [a - b for a, b in zip(child(BIG, k), child(LABELS, k), strict=True)] for k in (0, len(macs) - 1)
    ]
    run.measure("in-place distillation's gain, smallest child less largest", *paired(*gains))
    run.measure(
        "BigNAS above training without the smallest child, smallest child",
        *paired(child(BIG, 0), child(LARGE, 0)),
    )
    big = scores.means(BIG)
    run.measure("BigNAS above blocks that do not begin as identities", *paired(big, scores.means(UNZEROED)))
    run.measure("BigNAS above a learning rate that ends at zero", *paired(big, scores.means(COSINE)))
    run.measure(
        "BigNAS above progressive shrinking, mean of eight children", *paired(big, scores.means(SHRINKING))
    )
    others = [fmean(seed[1::2]) for seed in scores.by_arm[BIG]]
    run.measure(
        "BigNAS above compound scaling, mean of four children", *paired(others, scores.means(COMPOUND))
    )
