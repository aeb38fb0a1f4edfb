"""Further arms of ISS-P: a small SwinIR, the fast variant, the regularised sibling, runs of 20."""

from __future__ import annotations

import dataclasses

from torch import nn

from netwright.metrics import enlarging_quality
from netwright.models import SwinIR
from netwright.papers.iss_p_parts import (
    EVERY,
    FAST,
    HEADLINE,
    IHT,
    ISSP,
    PENALTY,
    RANDOM,
    RUNS,
    SAMPLE,
    SCALE,
    TRAINED,
    small_data,
    train_arms,
)
from netwright.papers.iss_p_small import KEEP, edsr, plots, recipe
from netwright.papers.plot import figure
from netwright.papers.run import Run
from netwright.pruning.removal.initialisation import reinitialise_

#: Steps of the transformer's trainings, which cost more, and of the variants'.
_STEPS = 400


def swinir(seed: int) -> nn.Module:
    """SwinIR with 2 groups of 2 blocks, 24 wide, windows of 7, for grey images."""
    return reinitialise_(SwinIR(SCALE, 1, 24, (2, 2), heads=4, window=7), seed)


def measure(run: Run) -> None:
    """Measure the claims of the further scope."""
    data = small_data(run.quick)
    bicubic = {name: enlarging_quality(None, pairs) for name, pairs in data.tests.items()}
    every = 2 if run.quick else EVERY // 2
    run.settings |= {
        "recipe": dataclasses.asdict(recipe(run, run.seed, _STEPS)),
        "steps": _STEPS,
        "kept": KEEP,
        "SwinIR": "the last convolution, which makes the pixels, is not pruned",
        "fast": f"thresholds from {SAMPLE:.0%} of each layer",
    }
    with run.timed("SwinIR"):
        # Its small activations gain nothing from the other layout.
        arms = train_arms(
            run,
            swinir,
            data,
            lambda seed: dataclasses.replace(recipe(run, seed, _STEPS), channels_last=False),
            {arm: run.seeds(2) for arm in HEADLINE},
            KEEP,
            exclude=("upsample",),
            every=every,
            name="SwinIR",
        )
    arms.table(run, "SwinIR, 2 groups of 2 blocks, 24 wide, 95 % sparsity", bicubic)
    run.measure("ISS-P above random mask, SwinIR, Fashion, dB", *arms.above(ISSP, RANDOM, "Fashion"))
    run.measure("ISS-P above IHT, SwinIR, Fashion, dB", *arms.above(ISSP, IHT, "Fashion"))
    run.measure(
        "ISS-P above L1 from a dense network, SwinIR, Fashion, dB", *arms.above(ISSP, TRAINED, "Fashion")
    )
    with run.timed("variants"):
        others = train_arms(
            run,
            edsr,
            data,
            lambda seed: recipe(run, seed, _STEPS),
            {ISSP: run.seeds(2), FAST: run.seeds(2), PENALTY: run.seeds(2), RUNS: run.seeds(2)},
            KEEP,
            every=every,
            name="EDSR",
        )
    others.table(run, "Variants of ISS-P, EDSR, 95 % sparsity", bicubic, ISSP)
    run.measure("fast ISS-P minus ISS-P, Fashion, dB", *others.above(FAST, ISSP, "Fashion"))
    run.measure("ISS-P above its regularised sibling, Fashion, dB", *others.above(ISSP, PENALTY, "Fashion"))
    run.plot(figure("ISS-P on a small SwinIR", plots(arms), columns=2))
