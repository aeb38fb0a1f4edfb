"""Super-resolution data: small images made from large ones, and sources of pairs of both.

Small images are made as MATLAB's ``imresize`` makes them, which is what published figures rest on: a cubic
kernel (a = -1/2) widened by the factor of reduction, with the image mirrored at its borders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netwright.data.images import read_image
from netwright.data.sources import by_channel, deviations
from netwright.errors import DataError, UsageError


def resize_bicubic(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images by cubic interpolation, widened where they get smaller, as MATLAB does.

    Args:
        images: (..., H, W), floats or bytes.
        height: Of the answer.
        width: Of the answer.

    Returns:
        (..., height, width) of the same type, bytes rounded.

    Raises:
        UsageError: if a size is below 1.
    """
    if min(height, width) < 1:
        raise UsageError(f"an image of {height}x{width} pixels is none", "give at least 1x1")
    values = images if images.is_floating_point() else images.double()
    rows, columns = (
        _weights(old, new).to(values.device, values.dtype)
        for old, new in ((images.shape[-2], height), (images.shape[-1], width))
    )
    out = rows @ values @ columns.T  # (..., height, width)
    return out if images.is_floating_point() else out.round().clamp_(0, 255).to(images.dtype)


def _weights(old: int, new: int) -> Tensor:
    """How much of each old pixel goes into each new one, (new, old) float64."""
    scale = new / old
    wide = max(1 / scale, 1.0)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) / scale - 0.5
    count = math.ceil(4 * wide) + 2
    first = (centres - 2 * wide).floor()
    places = first[:, None] + torch.arange(count, dtype=torch.float64)  # (new, count)
    shares = _cubic((centres[:, None] - places) / wide)
    shares = shares / shares.sum(dim=1, keepdim=True)
    folded = places.long() % (2 * old)
    mirrored = torch.where(folded < old, folded, 2 * old - 1 - folded)
    return torch.zeros(new, old, dtype=torch.float64).scatter_add_(1, mirrored, shares)


def _cubic(x: Tensor) -> Tensor:
    """R. G. Keys' kernel, a = -1/2."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def super_resolution(images: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Make pairs of small and large images.

    Args:
        images: (..., H, W), floats or bytes.
        scale: How many times smaller the small ones are.

    Returns:
        The small ones (..., H // scale, W // scale), and the large ones cropped to `scale` times that.

    Raises:
        UsageError: if the scale is below 1 or above the size.
    """
    height, width = images.shape[-2] // scale if scale > 0 else 0, images.shape[-1] // max(scale, 1)
    if scale < 1 or min(height, width) < 1:
        raise UsageError(f"images of {tuple(images.shape[-2:])} cannot be {scale} times smaller")
    high = images[..., : height * scale, : width * scale]
    return resize_bicubic(high, height, width), high


Images = Sequence[Tensor | Path] | Tensor


@dataclass(frozen=True, eq=False)
class PairSource:
    """Pairs of a small and a large image; what is asked for are patches of both at the same place.

    Attributes:
        low: (C, h, w) bytes or floats in 0..1, or files.
        high: The same scenes, `scale` times larger in either direction.
        scale: How many times.
        channels: 1 or 3.
        patch: Height and width of the small patches; None takes whole images, which must be of one size.
        augment: ``"none"``, or ``"dihedral"``: flips and quarter turns.
        mean: By channel, subtracted from the small images only, or None.
        std: By channel, or None.
    """

    low: Images
    high: Images
    scale: int
    channels: int = 3
    patch: int | None = None
    augment: str = "dihedral"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labelled: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high):
            raise DataError(
                f"there are {len(self.low)} small images and {len(self.high)} large ones", "they are pairs"
            )
        if self.augment not in ("none", "dihedral"):
            raise DataError(f"unknown augmentation {self.augment!r} of pairs", "one of none, dihedral")

    def __len__(self) -> int:
        return len(self.low)

    @property
    def threaded(self) -> bool:
        """Whether reading may run in another thread: it pays for files."""
        return len(self) > 0 and isinstance(self.low[0], Path)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one small image or patch."""
        return tuple(self.get(torch.tensor([0]), None).shape[1:])

    @cached_property
    def labels(self) -> Tensor:
        """The large images or their middle patches, (N, C, H, W)."""
        return self.pair(torch.arange(len(self)), None)[1]

    def plan(self, count: int, generator: torch.Generator | None) -> Tensor | None:
        """Draw place and turn of `count` patches."""
        return torch.rand(count, 3, generator=generator)

    def get(self, indices: Tensor, plan: Tensor | None) -> Tensor:
        """Return the small patches, (B, C, h, w) float32."""
        return self.pair(indices, plan)[0]

    def pair(self, indices: Tensor, plan: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return small and large patches, (B, C, h, w) and (B, C, scale h, scale w), float32 in 0..1."""
        numbers = [None] * len(indices) if plan is None else plan.tolist()
        tasks = list(zip(indices.tolist(), numbers, strict=True))
        if self.threaded:
            with ThreadPoolExecutor(4) as pool:
                pairs = list(pool.map(lambda task: self._one(*task), tasks))
        else:
            pairs = [self._one(*task) for task in tasks]
        if len({p[0].shape for p in pairs}) > 1:
            raise DataError(
                "the images are of several sizes and do not stack", "give patch=, or take them one by one"
            )
        low, high = (_floats(torch.stack(side)) for side in zip(*pairs, strict=True))
        if self.mean is not None and self.std is not None:
            low = (low - by_channel(self.mean, 4, 1)) / by_channel(self.std, 4, 1)
        return low, high

    def whole(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one pair of whole images, (C, h, w) and (C, scale h, scale w), float32 in 0..1.

        Raises:
            DataError: if they do not fit each other.
        """
        low, high = (read_pixels(side[index], self.channels) for side in (self.low, self.high))
        if tuple(high.shape[-2:]) != tuple(self.scale * n for n in low.shape[-2:]):
            raise DataError(
                f"pair {index} has sizes {tuple(low.shape[-2:])} and {tuple(high.shape[-2:])}, "
                f"which are not a factor of {self.scale} apart",
                "check that both folders hold the same scenes in the same order, and the scale",
            )
        return _floats(low), _floats(high)

    def _one(self, index: int, numbers: list[float] | None) -> tuple[Tensor, Tensor]:
        low, high = (read_pixels(side[index], self.channels) for side in (self.low, self.high))
        height, width = low.shape[-2:]
        size = self.patch
        if tuple(high.shape[-2:]) != (self.scale * height, self.scale * width) or (
            size is not None and min(height, width) < size
        ):
            self.whole(index)
            raise DataError(f"small image {index} is {height}x{width}, the patches {size}x{size}")
        if size is not None:
            at = (0.5, 0.5) if numbers is None else numbers[:2]
            top, left = (
                min(int(a * (n - size + 1)), n - size) for a, n in zip(at, (height, width), strict=True)
            )
            low = low[:, top : top + size, left : left + size]
            s = self.scale
            high = high[:, s * top : s * (top + size), s * left : s * (left + size)]
        if numbers is None or self.augment == "none":
            return low, high
        turn = min(int(8 * numbers[2]), 7)
        # Images that are not square can only be flipped.
        return _turned(low, turn), _turned(high, turn)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> PairSource:
        """Return the same pairs with the small images shifted and scaled by channel."""
        return replace(self, mean=tuple(mean), std=tuple(std))

    def statistics(self, indices: Tensor) -> tuple[list[float], list[float]]:
        """Return mean and deviation by channel of the small images."""
        total = square = torch.zeros(self.channels, dtype=torch.float64)
        count = 0
        for index in indices.tolist():
            values = self.whole(index)[0].double().flatten(1)
            total, square = total + values.sum(1), square + values.square().sum(1)
            count += values.shape[1]
        mean = total / max(count, 1)
        return mean.tolist(), deviations((square / max(count, 1) - mean.square()).clamp_min(0).sqrt())


def read_pixels(image: Tensor | Path, channels: int) -> Tensor:
    """Return an image or the contents of a file, (C, H, W)."""
    if isinstance(image, Tensor):
        return image
    pixels = np.array(read_image(image, "L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _turned(image: Tensor, turn: int) -> Tensor:
    """One of the eight symmetries of a square; of other rectangles one of four."""
    if turn & 1:
        image = image.flip(-1)
    if turn & 2:
        image = image.flip(-2)
    return image.transpose(-1, -2) if turn & 4 and image.shape[-1] == image.shape[-2] else image
