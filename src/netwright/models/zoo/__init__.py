"""The few networks that torchvision and timm lack; each can be built by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from netwright.models.zoo.recurrent import RecurrentClassifier
from netwright.models.zoo.resnet_cifar import ResNetCifar
from netwright.models.zoo.unet import UNet

#: Name -> builder, called with `num_classes` and `in_channels`.
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(ResNetCifar, depth) for depth in (8, 20, 32, 44, 56, 110)},
    "unet": UNet,
    "gru": partial(RecurrentClassifier, "gru"),
    "lstm": partial(RecurrentClassifier, "lstm"),
}

__all__ = ["BUILDERS", "RecurrentClassifier", "ResNetCifar", "UNet"]
