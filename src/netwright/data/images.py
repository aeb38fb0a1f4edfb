"""Image files as a source, decoded when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.data import augmenting
from netwright.data.sources import SAMPLED, by_channel, deviations, no_labels
from netwright.errors import DataError


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Image files, decoded when they are asked for by a few threads.

    Attributes:
        paths: The files.
        size: Height and width of what they give.
        channels: 1 or 3.
        y: (N,) int64 or None.
        mean: By channel, or None.
        std: By channel, or None.
        augment: ``"none"``, ``"flip"``, or ``"crop-flip"`` (a random resized crop and a flip).
    """

    paths: tuple[Path, ...]
    size: int
    channels: int = 3
    y: Tensor | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: str = "none"
    threaded: bool = field(default=True, init=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return (self.channels, self.size, self.size)

    @property
    def labelled(self) -> bool:
        """Whether there are classes."""
        return self.y is not None

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return no_labels(len(self)) if self.y is None else self.y.long()

    def plan(self, count: int, generator: torch.Generator | None) -> Tensor | None:
        """Draw what `count` augmented examples need."""
        return augmenting.draw(count, self.augment, generator)

    def get(self, indices: Tensor, plan: Tensor | None) -> Tensor:
        """Return a batch (B, C, H, W) float32."""
        batch = torch.from_numpy(self._decode(indices.tolist(), None if plan is None else plan.tolist()))
        batch = batch.permute(0, 3, 1, 2).float()
        if self.mean is None or self.std is None:
            return (batch / 255).contiguous()
        mean, std = by_channel(self.mean, 4, 1), by_channel(self.std, 4, 1)
        return (batch * (1 / 255 / std)).sub_(mean / std).contiguous()

    def _decode(self, indices: list[int], plan: list[list[float]] | None) -> np.ndarray:
        """Return (B, H, W, C) bytes."""
        out = np.empty((len(indices), self.size, self.size, self.channels), np.uint8)

        def one(at: int) -> None:
            out[at] = self._image(self.paths[indices[at]], None if plan is None else plan[at])

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(one, range(len(indices))))
        return out

    def _image(self, path: Path, numbers: list[float] | None) -> np.ndarray:
        """Return (H, W, C) bytes of one file, cropped to a square."""
        from PIL import Image, ImageOps

        image = read_image(path, "L" if self.channels == 1 else "RGB")
        width, height = image.size
        if numbers is not None and self.augment == "crop-flip":
            # A small picture loses its subject in the small crops that suit a photograph.
            box = augmenting.random_box(width, height, numbers, 0.35 if self.size >= 96 else 0.6)
        else:
            side = min(width, height)
            left, upper = (width - side) / 2, (height - side) / 2
            box = (left, upper, left + side, upper + side)
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        if numbers is not None and numbers[4] < 0.5:
            image = ImageOps.mirror(image)
        return np.asarray(image).reshape(self.size, self.size, self.channels)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> ImageSource:
        """Return the same examples, shifted and scaled by channel."""
        return replace(self, mean=tuple(mean), std=tuple(std))

    def statistics(self, indices: Tensor) -> tuple[list[float], list[float]]:
        """Return mean and deviation by channel, estimated from evenly spaced examples."""
        step = max(1, len(indices) // SAMPLED)
        total = square = np.zeros(self.channels)
        chosen = indices[::step][:SAMPLED]
        for chunk in chosen.split(32):
            values = self._decode(chunk.tolist(), None) / 255.0
            total = total + values.mean((0, 1, 2)) * len(chunk)
            square = square + (values**2).mean((0, 1, 2)) * len(chunk)
        mean = torch.from_numpy(total / max(len(chosen), 1))
        variance = torch.from_numpy(square / max(len(chosen), 1)) - mean.square()
        return mean.tolist(), deviations(variance.clamp_min(0).sqrt())


def read_image(path: Path, mode: str | None = None) -> Any:
    """Return a decoded PIL image, turned upright, in a mode (``"L"``, ``"RGB"``, None: its own).

    Raises:
        DataError: if it cannot be read; names the file.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                # PIL clips 16 bits to white when it converts.
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return image.convert(mode) if mode else image.copy()
    except FileNotFoundError as error:
        raise DataError(f"{path} is no longer there", "was the folder changed during the run?") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} is not an image that can be read: {error}", "repair or remove the file"
        ) from error
