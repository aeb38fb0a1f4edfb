"""torchvision: every classification, segmentation, video and optical-flow model, and detection backbones.

Weights are random, images are as small as the architecture allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from netwright import Inputs

Made = tuple[nn.Module, Any]

#: Position tables, and classifiers that expect one size of their features, fix these image sizes.
_FIXED = {"vit": 224, "maxvit": 224, "inception": 299, "alexnet": 224, "squeezenet": 96, "googlenet": 128}
_CLIPS = {"swin3d": (2, 8, 64), "s3d": (1, 16, 224), "mvit": (1, 16, 224)}  # clips, frames, side


def _size(name: str, default: int) -> int:
    return next((s for prefix, s in _FIXED.items() if name.startswith(prefix)), default)


def _classifier(name: str) -> Made:
    import torchvision.models as zoo

    plain = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}  # that is slow
    size = _size(name, 96)
    return zoo.get_model(name, weights=None, **plain), torch.randn(2, 3, size, size)


def _segmenter(name: str) -> Made:
    import torchvision.models as zoo

    model = zoo.get_model(name, weights=None, weights_backbone=None)
    return model, torch.randn(2, 3, 96, 96)


def _backbone(name: str) -> Made:
    import torchvision.models as zoo

    model = zoo.get_model(name, weights=None, weights_backbone=None).backbone
    size = 300 if name.startswith("ssd300") else 96
    return model, torch.randn(2, 3, size, size)


def _video(name: str) -> Made:
    import torchvision.models as zoo

    clips, frames, side = next((c for prefix, c in _CLIPS.items() if name.startswith(prefix)), (2, 8, 48))
    return zoo.get_model(name, weights=None), torch.randn(clips, 3, frames, side, side)


def _flow(name: str) -> Made:
    import torchvision.models as zoo

    frames = (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128))
    return zoo.get_model(name, weights=None), Inputs(frames, {"num_flow_updates": 3})


def classification() -> Iterator[tuple[str, Callable[[], Made]]]:
    """All 80."""
    import torchvision.models as zoo

    for name in zoo.list_models(module=zoo):
        yield name, partial(_classifier, name)


def segmentation() -> Iterator[tuple[str, Callable[[], Made]]]:
    """All 6, with their auxiliary heads as the default has them."""
    import torchvision.models as zoo

    for name in zoo.list_models(module=zoo.segmentation):
        yield name, partial(_segmenter, name)


def detection() -> Iterator[tuple[str, Callable[[], Made]]]:
    """The backbones of all 12, pyramid included."""
    import torchvision.models as zoo

    for name in zoo.list_models(module=zoo.detection):
        yield name, partial(_backbone, name)


def video() -> Iterator[tuple[str, Callable[[], Made]]]:
    """All 9."""
    import torchvision.models as zoo

    for name in zoo.list_models(module=zoo.video):
        yield name, partial(_video, name)


def flow() -> Iterator[tuple[str, Callable[[], Made]]]:
    """RAFT, small and large."""
    import torchvision.models as zoo

    for name in zoo.list_models(module=zoo.optical_flow):
        yield name, partial(_flow, name)
