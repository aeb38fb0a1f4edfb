"""Mixup and cutmix, drawn from a seeded generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mixup(x: Tensor, share: float, order: Tensor) -> Tensor:
    """Return ``share * x + (1 - share) * x[order]`` (Zhang et al., 2018)."""
    return x.lerp(x[order], 1 - share)


def cutmix(x: Tensor, share: float, order: Tensor, centre: tuple[float, float]) -> tuple[Tensor, float]:
    """Paste a rectangle of ``x[order]`` into ``x`` (Yun et al., 2019).

    Args:
        x: (B, C, H, W).
        share: Share of the area that is to stay.
        order: (B,) permutation of the batch.
        centre: Centre of the rectangle, as shares of height and width.

    Returns:
        The mixed batch and the share of the area that really stayed.
    """
    height, width = x.shape[-2:]
    side = math.sqrt(1 - share)
    top, bottom = _span(centre[0], side, height)
    left, right = _span(centre[1], side, width)
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x[order][..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def mix(
    x: Tensor, y: Tensor, *, mixup_alpha: float, cutmix_alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """Mix one batch as a recipe asks.

    Args:
        x: (B, ...) floating point.
        y: (B,) labels.
        mixup_alpha: Alpha of mixup, 0 for off.
        cutmix_alpha: Alpha of cutmix, 0 for off; needs 4-D inputs and falls back to mixup on others.
        generator: CPU generator that all draws come from.

    Returns:
        Inputs, labels, labels of what was mixed in (None where nothing was), and the share of the first
        labels.
    """
    if (mixup_alpha <= 0 and cutmix_alpha <= 0) or len(x) < 2 or y.dim() > 1:
        return x, y, None, 1.0
    use_cutmix = cutmix_alpha > 0 and x.dim() == 4
    if use_cutmix and mixup_alpha > 0:
        use_cutmix = bool(torch.rand((), generator=generator) < 0.5)
    share = _beta(cutmix_alpha if use_cutmix else (mixup_alpha or cutmix_alpha), generator)
    order = torch.randperm(len(x), generator=generator)
    if not use_cutmix:
        return mixup(x, share, order), y, y[order], share
    centre = torch.rand(2, generator=generator).tolist()
    mixed, share = cutmix(x, share, order, (centre[0], centre[1]))
    return mixed, y, y[order], share


def _span(centre: float, share: float, size: int) -> tuple[int, int]:
    middle, half = centre * size, share * size / 2
    return max(round(middle - half), 0), min(round(middle + half), size)


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha) as a ratio of two gamma variables."""
    shape = torch.full((2,), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator).tolist()
    return first / (first + second) if first + second > 0 else 0.5
