"""timm: the smallest network of each of its modules, and twenty larger ones that people use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

Made = tuple[nn.Module, Any]

#: Module -> the registered model with the fewest parameters, its parameters, and its image size here
#: (written by `benchmarks/smallest.py`, which creates all of them).
SMALLEST = Path(__file__).with_name("timm_smallest.json")

LARGER = {
    "resnet101": 96,
    "resnext50_32x4d": 96,
    "seresnet50": 96,
    "efficientnet_b3": 96,
    "mobilenetv3_large_100": 96,
    "regnety_016": 96,
    "densenet169": 96,
    "inception_v4": 128,
    "dla60": 96,
    "hrnet_w18": 96,
    "tresnet_m": 96,
    "eca_nfnet_l0": 96,
    "convnext_small": 96,
    "mambaout_femto": 96,
    "vit_base_patch16_224": 224,
    "deit_small_patch16_224": 224,
    "swin_small_patch4_window7_224": 224,
    "caformer_s18": 96,
    "maxvit_tiny_tf_224": 224,
    "coatnet_0_rw_224": 224,
}


def _made(name: str, size: int) -> Made:
    import timm

    model = timm.create_model(name, pretrained=False)
    if getattr(model, "num_classes", None) == 0:  # the width of its features would be frozen as an output
        model = timm.create_model(name, pretrained=False, num_classes=1000)
    channels = model.default_cfg.get("input_size", (3,))[0]
    return model, torch.randn(2, channels, size, size)


def smallest() -> Iterator[tuple[str, Callable[[], Made]]]:
    """One of each module."""
    for name, _, size in json.loads(SMALLEST.read_text()).values():
        yield name, partial(_made, name, size)


def larger() -> Iterator[tuple[str, Callable[[], Made]]]:
    """Twenty well-known ones."""
    for name, size in LARGER.items():
        yield name, partial(_made, name, size)
