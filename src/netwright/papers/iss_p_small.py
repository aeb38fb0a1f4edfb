"""The ordinary ISS-P run: a small EDSR, twice larger images, 95 % sparsity."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from torch import nn

from netwright.metrics import enlarging_quality
from netwright.models import EDSR
from netwright.papers.iss_p import SETS
from netwright.papers.iss_p_parts import (
    ALPHA,
    EVERY,
    HEADLINE,
    IHT,
    INITIAL,
    ISSP,
    PHASE,
    RANDOM,
    SCALE,
    TRAINED,
    Arms,
    small_data,
    train_arms,
)
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import paired
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.train import Recipe

KEEP = 0.05
STEPS = 800


def edsr(seed: int) -> nn.Module:
    """EDSR with 8 blocks of 24 channels, for grey images."""
    return reinitialise_(EDSR(SCALE, 1, 24, 8, share=1.0), seed)


def recipe(run: Run, seed: int, steps: int = STEPS) -> Recipe:
    """Adam at a constant rate through phase 1, then halved four times; all arms have the same."""
    epochs = 2 if run.quick else 8
    return Recipe(
        epochs=epochs,
        batch_size=16,
        limit=16 * (4 if run.quick else steps // epochs),
        lr=1e-3,
        optimizer="adamw",
        beta2=0.99,
        weight_decay=0.0,
        schedule="step",
        milestones=(0.7, 0.8, 0.9, 0.95),
        gamma=0.5,
        precision="fp32",
        channels_last=True,
        seed=seed,
    )


def measure(run: Run) -> None:
    """Measure every claim of the ordinary scope."""
    data = small_data(run.quick)
    run.settings |= {
        "data": f"{len(data.splits.train):,} patches of Fashion-MNIST and two photographs, 28x28 from 14x14",
        "recipe": dataclasses.asdict(recipe(run, run.seed)),
        "steps": STEPS,
        "alpha": ALPHA,
        "phase 1": PHASE,
        "kept": KEEP,
    }
    bicubic = {name: enlarging_quality(None, pairs) for name, pairs in data.tests.items()}
    every = 2 if run.quick else EVERY
    with run.timed("training"):
        arms = train_arms(
            run,
            edsr,
            data,
            lambda seed: recipe(run, seed),
            {arm: run.seeds(3) for arm in HEADLINE},
            KEEP,
            every=every,
            name="EDSR",
        )
    arms.table(run, "EDSR, 8 blocks of 24 channels, 95 % sparsity", bicubic)
    for name in SETS:
        run.measure(f"ISS-P above random mask, {name}, dB", *arms.above(ISSP, RANDOM, name))
        run.measure(f"ISS-P above IHT, {name}, dB", *arms.above(ISSP, IHT, name))
        run.measure(f"IHT above random mask, {name}, dB", *arms.above(IHT, RANDOM, name))
        worst = min(min(arms.psnr(arm, name)) for arm in HEADLINE)
        run.measure(f"worst arm above bicubic, {name}, dB", worst - bicubic[name].psnr)
    run.measure("ISS-P above L1 at initialisation, Fashion, dB", *arms.above(ISSP, INITIAL, "Fashion"))
    run.measure("ISS-P above L1 from a dense network, Fashion, dB", *arms.above(ISSP, TRAINED, "Fashion"))
    steps = recipe(run, 0).epochs * (4 if run.quick else STEPS // 8)
    _gradients(run, arms, PHASE * steps)
    _structure(run, arms, PHASE * steps)
    run.plot(figure("ISS-P on small images", plots(arms), columns=2))


def _gradients(run: Run, arms: Arms, until: float) -> None:
    """Variance of every layer's gradient norm over phase 1, ISS-P by IHT."""
    logs: list[list[float]] = []
    for soft, hard in zip(arms.found[ISSP], arms.found[IHT], strict=True):
        one, other = soft.variances(until), hard.variances(until)
        logs.append([math.log10(max(one[n], 1e-30) / max(other[n], 1e-30)) for n in one])
    means = [sum(v) / len(v) for v in logs]
    run.measure(
        "variance of gradient norms, ISS-P by IHT, log10",
        *paired(means, [0.0] * len(means)),
        "mean over the layers, steps of phase 1",
    )
    names = list(arms.found[ISSP][0].norms)
    rows: list[tuple[Cell, ...]] = []
    for arm, trained in arms.found.items():
        for name in names:
            values = np.array([t.norms[name] for t in trained]).mean(0)
            picked = values[:: max(len(values) // 8, 1)]
            rows.append((arm, name, " ".join(f"{v:.4f}" for v in picked)))
    run.table(
        "Norm of the gradient of every layer over the training",
        ("arm", "layer", "norm at every eighth of the training"),
        rows,
        "Means over the seeds.",
    )


def _structure(run: Run, arms: Arms, until: float) -> None:
    """Share of the small weights that changes between two looks."""
    rows: list[tuple[Cell, ...]] = []
    for arm, trained in arms.found.items():
        shares = {s: sum(t.churn[s] for t in trained) / len(trained) for s in trained[0].churn}
        rows.append((arm, ", ".join(f"{s}: {100 * v:.2f}" for s, v in shares.items())))
    run.table(
        "Share of the small weights that changes", ("arm", "step: share since the look before, %"), rows
    )
    phase = [[v for s, v in t.churn.items() if s < until] for t in arms.found[ISSP]]
    first, last = [v[0] for v in phase], [v[-1] for v in phase]
    run.measure("share of small weights that changes, end of phase 1", *paired(last, [0.0] * len(last)))
    run.measure("share of small weights that changes, end minus beginning", *paired(last, first))


def plots(arms: Arms) -> list[Panel]:
    """PSNR of every arm, what changes, and the gradient of one layer."""
    panels = []
    for name in SETS:
        panel = Panel(f"{name}: PSNR above a random mask", "dB")
        for arm in arms.found:
            if arm != RANDOM:
                panel.bar(arm, *arms.above(arm, RANDOM, name))
        panels.append(panel)
    churn = Panel("Small weights that change", "%", "step")
    norm = Panel("Gradient of the middle layer", "norm", "step", log_y=True)
    for arm, trained in arms.found.items():
        first = trained[0]
        churn.line(arm, [(s, 100 * v) for s, v in first.churn.items()] or [(0, 0)])
        middle = list(first.norms)[len(first.norms) // 2]
        norm.line(arm, list(zip(first.steps, first.norms[middle], strict=True)))
    return [*panels, churn, norm]
