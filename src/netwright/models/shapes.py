"""What a model expects to be given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netwright.models.loading import Loaded
from netwright.models.zoo import CharLM, RecurrentClassifier

_ZOO_SIDE, _TORCHVISION_SIDE, _INCEPTION_SIDE = 32, 224, 299


def natural_shape(loaded: Loaded | nn.Module) -> tuple[int, ...]:
    """Return the shape of one example that a model was designed for: (C, H, W), or (T, F) for sequences.

    timm says it; torchvision's networks take 224 (Inception-v3 299), our own 32 or what they were built for.
    Language models take (T,) symbols.

    Args:
        loaded: What `load` gave, or a module; a module of unknown origin is given 224.
    """
    model = loaded.model if isinstance(loaded, Loaded) else loaded
    source = loaded.source if isinstance(loaded, Loaded) else "object"
    if isinstance(model, RecurrentClassifier):
        return (_ZOO_SIDE, model.rnn.input_size)
    if isinstance(model, CharLM):
        return (model.context,)
    channels = _channels(model)
    config: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        height, width = _built_for(model) or config["input_size"][1:]
        return (channels, height, width)
    side = _built_for(model)
    if side:
        return (channels, *side)
    if source == "zoo":
        return (channels, _ZOO_SIDE, _ZOO_SIDE)
    square = _INCEPTION_SIDE if type(model).__name__ == "Inception3" else _TORCHVISION_SIDE
    return (channels, square, square)


def natural_example(
    loaded: Loaded | nn.Module, batch: int, shape: Sequence[int] | None = None, seed: int = 0
) -> Tensor:
    """Draw a batch that a model takes: symbols for a language model, else normal numbers.

    Args:
        loaded: What `load` gave, or a module.
        batch: Number of examples.
        shape: Of one example; None is the natural one.
        seed: Of the numbers.

    Returns:
        (batch, *shape), floating-point, or integers for a language model.
    """
    generator = torch.Generator().manual_seed(seed)
    size = (batch, *(natural_shape(loaded) if shape is None else shape))
    model = loaded.model if isinstance(loaded, Loaded) else loaded
    if isinstance(model, CharLM):
        return torch.randint(model.embedding.num_embeddings, size, generator=generator)
    return torch.randn(size, generator=generator)


def _channels(model: nn.Module) -> int:
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)


def _built_for(model: nn.Module) -> tuple[int, int] | None:
    """Return the image size that a transformer was built for, where it says so."""
    size: Any = getattr(getattr(model, "patch_embed", None), "img_size", None) or getattr(
        model, "image_size", None
    )
    if isinstance(size, int):
        return (size, size)
    return tuple(size) if isinstance(size, (tuple, list)) and len(size) == 2 else None  # type: ignore[return-value]


def input_channels(shape: tuple[int, ...]) -> int:
    """Return `in_channels` for examples of a shape: C of (C, H, W), F of (T, F) or (F,)."""
    return shape[0] if len(shape) >= 3 else shape[-1]
