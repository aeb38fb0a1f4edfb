"""The published networks and recipes of sparse training, for the user's own images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from netwright.data import Splits, load
from netwright.models import ResNetCifar
from netwright.models import load as load_model
from netwright.papers.run import Run
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.train import Recipe

CIFAR, IMAGENET = "cifar-10", "imagenet"
_LARGEST_SMALL = 64
#: A network at initialisation, drawn with a seed.
Make = Callable[[int], nn.Module]


def read(run: Run, path: Path) -> tuple[Splits, bool]:
    """Load the user's images and set the scope of the run; also says whether they are small ones."""
    data = load(path, limit=200 if run.quick else None)
    run.log(f"{data.name}: {len(data.train):,} images of shape {data.shape}, {data.num_classes} classes")
    count = len(data.train) + len(data.val)
    run.scope = data.name
    if data.num_classes == 10 and data.shape == (3, 32, 32) and (run.quick or count == 50_000):
        run.scope = CIFAR
    elif data.num_classes == 1000:
        run.scope = IMAGENET
    if run.scope not in (CIFAR, IMAGENET):
        run.no_verdict("nothing was published about these images")
    return data, max(data.shape[-2:]) <= _LARGEST_SMALL


def recipe_for(run: Run, small: bool, *, weight_decay: float = 5e-4) -> Recipe:
    """The papers' recipes: 160 epochs for small images, 100 with a warm-up for large ones."""
    found = (
        Recipe(epochs=160, batch_size=128, lr=0.1, weight_decay=weight_decay, schedule="step")
        if small
        else Recipe(
            epochs=100,
            batch_size=256,
            lr=0.4,
            weight_decay=1e-4,
            schedule="step",
            milestones=(1 / 3, 2 / 3, 8 / 9),
            warmup_epochs=5,
            label_smoothing=0.1,
        )
    )
    return dataclasses.replace(found, epochs=1, limit=64, batch_size=16) if run.quick else found


def residual(data: Splits, depth: int = 20, width: int = 16) -> Make:
    """ResNet-``depth`` for small images."""
    widths = (width, 2 * width, 4 * width)
    return lambda seed: reinitialise_(ResNetCifar(depth, data.num_classes, data.shape[0], widths), seed)


def published(name: str, data: Splits) -> Make:
    """A network of torchvision; for small images ResNets begin and VGGs end as the papers have it.

    A ResNet for small images begins with a 3x3 convolution of stride 1 and no pooling; a VGG ends with one
    linear map.
    """
    small = max(data.shape[-2:]) <= _LARGEST_SMALL

    def make(seed: int) -> nn.Module:
        model = load_model(name, num_classes=data.num_classes, in_channels=data.shape[0]).model
        if small and name.startswith("vgg"):
            ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, data.num_classes)]
            model = nn.Sequential(*model.features.children(), *ends)  # type: ignore[union-attr, operator]
        elif small:
            model.conv1 = nn.Conv2d(data.shape[0], 64, 3, 1, 1, bias=False)
            model.maxpool = nn.Identity()
        return reinitialise_(model, seed)

    return make
