"""Random flips and crops of whole batches, from an explicit generator."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("none", "flip", "crop-flip")


def draw(count: int, kind: str, generator: torch.Generator | None) -> Tensor | None:
    """Draw the random numbers that augment `count` examples: (count, 5) in 0..1, or None.

    They are drawn apart from their use, so that decoding threads need no generator.
    """
    return None if kind == "none" else torch.rand(count, 5, generator=generator)


def flip_and_crop(x: Tensor, kind: str, numbers: Tensor) -> Tensor:
    """Flip half of the images of a batch; for ``"crop-flip"`` also shift each by up to an eighth of its size.

    The shift is a random crop of the image padded with zeros, as is usual for CIFAR. Flip and crop are one
    gather.

    Args:
        x: (B, C, H, W), any type.
        kind: ``"flip"`` or ``"crop-flip"``.
        numbers: (B, 5) of `draw`.
    """
    count, _, height, width = x.shape
    flip = (numbers[:, 0] < 0.5)[:, None]
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(flip, columns.flip(1), columns)  # (B, W)
    if kind == "flip":
        return x.gather(3, columns[:, None, None, :].expand_as(x))
    dy, dx = max(1, height // 8), max(1, width // 8)
    top = (numbers[:, 1] * (2 * dy + 1)).long().clamp_(max=2 * dy)
    left = (numbers[:, 2] * (2 * dx + 1)).long().clamp_(max=2 * dx)
    padded = torch.nn.functional.pad(x, (dx, dx, dy, dy))
    rows = torch.arange(height) + top[:, None]  # (B, H)
    columns = columns + left[:, None]
    picked = padded[
        torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]
    ]  # (B, H, W, C)
    return picked.permute(0, 3, 1, 2).contiguous()


def random_box(
    width: int, height: int, numbers: list[float], smallest: float
) -> tuple[float, float, float, float]:
    """Return the box (left, upper, right, lower) of a random resized crop.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        numbers: Five numbers in 0..1: area, aspect, column, row, and one unused here (the flip).
        smallest: Least share of the area.
    """
    area = (smallest + (1 - smallest) * numbers[0]) * width * height
    ratio = (3 / 4) ** (1 - 2 * numbers[1])  # log-uniform in 3/4 .. 4/3
    w, h = min((area * ratio) ** 0.5, width), min((area / ratio) ** 0.5, height)
    left, upper = numbers[2] * (width - w), numbers[3] * (height - h)
    return left, upper, left + w, upper + h
