"""PreCrop on the user's own images: the published networks with the published recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from netwright.data import Splits, load
from netwright.models import ResNetCifar
from netwright.models import load as load_model
from netwright.papers.plot import figure
from netwright.papers.precropping import CIFAR, IMAGENET
from netwright.papers.precropping_parts import (
    CONVEX,
    MASKS,
    SHUFFLED,
    SYNFLOW,
    UNIFORM,
    Family,
    accuracy_panel,
    train_family,
)
from netwright.papers.run import Run
from netwright.train import Recipe

_ARMS = (MASKS, SHUFFLED, SYNFLOW, CONVEX, UNIFORM)
_SHARES = (0.25, 0.1)
_LARGEST_SMALL = 64
_LARGE = {"ResNet-50": "resnet50", "MobileNetV2": "mobilenet_v2", "ShuffleNetV2": "shufflenet_v2_x1_0"}
Make = Callable[[int, int], nn.Module]


def measure(run: Run, path: Path) -> None:
    """Train the arms on the images of a folder or file; judge where they are CIFAR-10 or ImageNet."""
    data = load(path, limit=200 if run.quick else None)
    run.log(f"{data.name}: {len(data.train):,} images of shape {data.shape}, {data.num_classes} classes")
    run.scope = _scope(data, run.quick)
    if run.scope not in (CIFAR, IMAGENET):
        run.no_verdict("nothing was published about these images")
    recipe, makes = _published(data)
    if run.quick:
        recipe = dataclasses.replace(recipe, epochs=1, limit=64, batch_size=16)
        makes = dict(list(makes.items())[:1])
    run.settings |= {"recipe": dataclasses.asdict(recipe), "networks": list(makes)}
    panels = []
    for name, make in makes.items():
        found = train_family(run, name, make, data, recipe, _ARMS, _SHARES)
        panels += [accuracy_panel(f"{name}, {s * 100:.0f} % kept", found[s]) for s in _SHARES]
        _claim(run, name, found)
    run.plot(figure(f"PreCrop on {data.name}", panels, columns=2))


def _scope(data: Splits, quick: bool) -> str:
    """The scope of the claims that these images can judge."""
    count = len(data.train) + len(data.val)
    if data.num_classes == 10 and data.shape == (3, 32, 32) and (quick or count == 50_000):
        return CIFAR
    return IMAGENET if data.num_classes == 1000 else data.name


def _published(data: Splits) -> tuple[Recipe, dict[str, Make]]:
    """The recipe and the networks of the paper for images of this size."""
    if max(data.shape[-2:]) <= _LARGEST_SMALL:
        recipe = Recipe(epochs=160, batch_size=128, lr=0.1, weight_decay=1e-4, schedule="step")
        return recipe, {"ResNet-20": lambda channels, classes: ResNetCifar(20, classes, channels)}
    recipe = Recipe(epochs=90, batch_size=256, lr=0.1, weight_decay=1e-4, schedule="cosine")
    return recipe, {name: _torchvision(code) for name, code in _LARGE.items()}


def _torchvision(code: str) -> Make:
    return lambda channels, classes: load_model(code, num_classes=classes, in_channels=channels).model


def _claim(run: Run, name: str, found: dict[float, Family]) -> None:
    if run.scope == CIFAR:
        family = found[0.1]
        where = "CIFAR-10"
        run.measure(f"{where} accuracy lost by shuffling masks, 10 %", *family.above(MASKS, SHUFFLED))
        run.measure(f"{where} accuracy lost by cropping against masks, 10 %", *family.above(MASKS, SYNFLOW))
        run.measure(f"{where} convex crop above uniform widths, 10 %", *family.above(CONVEX, UNIFORM))
    if run.scope == IMAGENET and name == "MobileNetV2":
        family = found[0.25]
        best = max((SYNFLOW, CONVEX), key=lambda arm: sum(family.scores[arm]))
        run.measure("ImageNet MobileNetV2: best crop above weight masks, 25 %", *family.above(best, MASKS))
