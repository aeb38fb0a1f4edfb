"""AP on the user's own images: ResNet-20 with the published recipe, ResNet-50 where the images are large."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from netwright.data import Splits, load
from netwright.models import ResNetCifar
from netwright.models import load as load_model
from netwright.papers.activating_parts import AWAKE, HOST, P, arms, train_panel
from netwright.papers.activating_while_pruning import CIFAR
from netwright.papers.run import Run
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.schedules.cycles import lottery
from netwright.train import Recipe

_LARGEST_SMALL = 64
#: Iterations of the published warm-up, and its epochs in all; it falls after 25 and 32 of 50.
_WARMUP, _EPOCHS, _FALLS = 20_000, 50, (25, 32)
_LONGEST = 30
_LEVELS = (0, 3, 8, 11, 14)


def measure(run: Run, path: Path) -> None:
    """Train the host and AP on the images of a folder or file; judge where they are CIFAR-10."""
    data = load(path, limit=200 if run.quick else None)
    run.log(f"{data.name}: {len(data.train):,} images of shape {data.shape}, {data.num_classes} classes")
    count = len(data.train) + len(data.val)
    cifar = data.num_classes == 10 and data.shape == (3, 32, 32) and (run.quick or count == 50_000)
    run.scope = CIFAR if cifar else data.name
    if not cifar:
        run.no_verdict("nothing was published about these images")
    name, make = _network(data)
    levels = (0, 1, 2) if run.quick else _LEVELS
    # The published script prunes every layer; what reads the normalised images is left to the host here.
    chosen = {arm: i for arm, i in arms(exclude=("conv1",)).items() if arm in (HOST, AWAKE)}
    run.settings |= {"recipe": dataclasses.asdict(recipe(run, data, run.seed)), "network": name}
    panel = train_panel(
        run,
        make,
        data,
        lambda seed: recipe(run, data, seed),
        lottery(P, max(levels), rewind=0),
        chosen,
        levels,
        run.seeds(10),
        name=name,
    )
    panel.table(run, f"{name} on {data.name}")
    if cifar:
        run.measure(
            "CIFAR-10 ResNet-20: dynamic rate, AP minus host, 96 %", *panel.drop(AWAKE, HOST, max(levels))
        )
        run.measure(
            "CIFAR-10 ResNet-20: accuracy of AP above host, 96 %", *panel.gain(AWAKE, HOST, max(levels))
        )


def recipe(run: Run, data: Splits, seed: int) -> Recipe:
    """The published recipe of one cycle, or one epoch of it in a quick run."""
    if run.quick:
        return Recipe(epochs=1, batch_size=16, limit=64, seed=seed)
    # As many iterations as published where the set is as large as CIFAR-10; else at most as many epochs.
    warmup = min(_WARMUP / max(len(data.train) // 64, 1), _LONGEST)
    # Milestones are shares of what follows the warm-up.
    falls = tuple(max(at - warmup, 0) / (_EPOCHS - warmup) for at in _FALLS)
    return Recipe(
        epochs=_EPOCHS,
        batch_size=64,
        lr=0.1,
        weight_decay=5e-4,
        schedule="step",
        milestones=falls,
        warmup_epochs=warmup,
        seed=seed,
    )


def _network(data: Splits) -> tuple[str, Callable[[int], nn.Module]]:
    classes, channels = data.num_classes, data.shape[0]
    if max(data.shape[-2:]) <= _LARGEST_SMALL:
        return "ResNet-20", lambda seed: reinitialise_(ResNetCifar(20, classes, channels), seed)
    return "ResNet-50", lambda seed: reinitialise_(
        load_model("resnet50", num_classes=classes, in_channels=channels).model, seed
    )
