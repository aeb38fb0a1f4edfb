"""What torchvision's classifiers need beyond their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from netwright._imports import available, require
from netwright.errors import ModelError

#: Of ImageNet, by which torchvision's weights expect their images normalised.
STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: Their answers in training are tuples of the main and the auxiliary classifiers.
_WITH_AUXILIARIES = ("googlenet", "inception_v3")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


def names() -> set[str]:
    """Return the names of torchvision's image classifiers; none where it is not installed."""
    if not available("torchvision"):
        return set()
    models = require("torchvision.models", extra="vision")
    return set(models.list_models(module=models))


def build(name: str, num_classes: int | None, image_size: int | None) -> nn.Module:
    """Build a classifier without weights.

    The auxiliary classifiers of GoogLeNet and Inception-v3 are left out: they answer in training only.

    Args:
        name: One of `names`.
        num_classes: None for 1000.
        image_size: Height and width, for the networks that are built for one size.
    """
    models = require("torchvision.models", extra="vision")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in _WITH_AUXILIARIES:
        # The plain initialisation; that of the paper samples for a minute.
        options |= {"aux_logits": False, "init_weights": False}
    if image_size is not None and name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        if image_size % patch:
            raise ModelError(f"{name} needs an image size divisible by {patch}, not {image_size}")
        options["image_size"] = image_size
    if image_size is not None and name.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    return models.get_model(name, weights=None, **options)  # type: ignore[no-any-return]


def without_auxiliaries(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the auxiliary classifiers that the model was built without."""
    if type(model).__name__ not in ("GoogLeNet", "Inception3"):
        return dict(tensors)
    return {k: v for k, v in tensors.items() if not k.startswith(_AUXILIARY)}
