"""The few networks that torchvision and timm lack; each can be built by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from netwright.errors import ModelError
from netwright.models.zoo.graph_rnn import GraphRNN
from netwright.models.zoo.mixed import (
    ClassHead,
    KeypointHead,
    MixedNet,
    MultiResolution,
    SegmentationHead,
)
from netwright.models.zoo.phonemes import GraphemeToPhoneme
from netwright.models.zoo.recurrent import RecurrentClassifier, TokenClassifier, recurrent
from netwright.models.zoo.resnet_cifar import ResNetCifar, ShapedResNet
from netwright.models.zoo.super_resolution import EDSR, RCAN
from netwright.models.zoo.swinir import SwinIR
from netwright.models.zoo.unet import UNet

#: Networks that make images larger, at their published sizes.
_LARGER: dict[str, Callable[..., nn.Module]] = {
    "edsr": partial(EDSR, width=64, blocks=16, share=1.0),
    "edsr_large": EDSR,
    "rcan": RCAN,
    "swinir_light": SwinIR,
}


def _enlarging(
    kind: Callable[..., nn.Module], scale: int, in_channels: int = 3, num_classes: int | None = None
) -> nn.Module:
    if num_classes is not None:
        raise ModelError("a network that makes images larger has no classes", "leave num_classes out")
    return kind(scale, in_channels)


#: Name -> builder, called with `num_classes` and `in_channels`.
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(ResNetCifar, depth) for depth in (8, 20, 32, 44, 56, 110)},
    "unet": UNet,
    "mixed": MixedNet,
    "gru": partial(RecurrentClassifier, "gru"),
    "lstm": partial(RecurrentClassifier, "lstm"),
    **{
        f"{name}_x{scale}": partial(_enlarging, kind, scale)
        for name, kind in _LARGER.items()
        for scale in (2, 3, 4)
    },
}

__all__ = [
    "BUILDERS",
    "EDSR",
    "RCAN",
    "ClassHead",
    "GraphRNN",
    "GraphemeToPhoneme",
    "KeypointHead",
    "MixedNet",
    "MultiResolution",
    "RecurrentClassifier",
    "ResNetCifar",
    "SegmentationHead",
    "ShapedResNet",
    "SwinIR",
    "TokenClassifier",
    "UNet",
    "recurrent",
]
