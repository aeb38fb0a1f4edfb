"""ISS-P on the user's own image folders: EDSR-Large and SwinIR-Light with the published recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from netwright.data import load_pairs
from netwright.metrics import enlarging_quality
from netwright.models import EDSR, SwinIR
from netwright.papers.iss_p import BENCHMARK
from netwright.papers.iss_p_parts import HEADLINE, ISSP, RANDOM, Data, train_arms
from netwright.papers.run import Run
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.train import Recipe

#: The published sparsities are 90, 95 and 99 %; the middle one is run.
KEEP = 0.05
_SCALE, _PATCH, _BATCH, _STEPS = 4, 64, 16, 500_000
_FALLS = (0.5, 0.8, 0.9, 0.95)
_PUBLISHED = ("set5", "set14", "b100", "urban100", "manga109")
#: Network, and what of it is not pruned.
_NETS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "EDSR-Large": (lambda: EDSR(_SCALE), ()),
    "SwinIR-Light": (lambda: SwinIR(_SCALE), ("upsample",)),
}
#: The same networks, small, for a quick run.
_QUICK: dict[str, Callable[[], nn.Module]] = {
    "EDSR-Large": lambda: EDSR(_SCALE, width=8, blocks=1),
    "SwinIR-Light": lambda: SwinIR(_SCALE, width=12, depths=(2,), heads=3),
}


def measure(run: Run, path: Path) -> None:
    """Train the arms on ``train/HR`` and report PSNR and SSIM on every ``test/NAME``; see `load_pairs`."""
    sets = load_pairs(path, _SCALE, patch=16 if run.quick else _PATCH)
    run.log(f"{len(sets.splits.train):,} images to train on, test sets {', '.join(sets.tests) or 'none'}")
    known = [n for n in sets.tests if n.lower() in _PUBLISHED]
    run.scope = BENCHMARK if known else sets.splits.name
    if not known:
        run.no_verdict("nothing was published about these images")
    data = Data(sets.splits, sets.tests)
    bicubic = {name: enlarging_quality(None, pairs) for name, pairs in data.tests.items()}
    run.settings |= {
        "recipe": dataclasses.asdict(recipe(run, len(sets.splits.train), run.seed)),
        "kept": KEEP,
    }
    for name, (make, exclude) in _NETS.items():
        build = _QUICK[name] if run.quick else make
        arms = train_arms(
            run,
            lambda seed, build=build: reinitialise_(build(), seed),  # type: ignore[misc]
            data,
            lambda seed: recipe(run, len(sets.splits.train), seed),
            {arm: run.seeds(1) for arm in HEADLINE},
            KEEP,
            exclude=exclude,
            every=2 if run.quick else 1_000,
            name=name,
        )
        arms.table(run, f"{name}, x{_SCALE}, {1 - KEEP:.0%} sparsity", bicubic)
        gains = [arms.above(ISSP, RANDOM, n)[0] for n in known]
        if gains:
            run.measure(
                f"ISS-P above random mask, {name}, dB", sum(gains) / len(gains), 0.0, "mean of the sets"
            )


def recipe(run: Run, images: int, seed: int) -> Recipe:
    """The published recipe, in as many epochs as make its iterations."""
    per_epoch = max(images // _BATCH, 1)
    return Recipe(
        epochs=1 if run.quick else -(-_STEPS // per_epoch),
        batch_size=min(_BATCH, 2) if run.quick else _BATCH,
        lr=2e-4,
        optimizer="adamw",
        beta2=0.99,
        weight_decay=0.0,
        schedule="step",
        milestones=_FALLS,
        gamma=0.5,
        seed=seed,
    )
