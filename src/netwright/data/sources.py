"""What a source of examples is, and the fastest one: tensors in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from netwright.data import augmenting
from netwright.errors import DataError

#: The class number of an example without one.
UNLABELLED = -1
#: Training images from which the mean and deviation of an image folder are estimated.
SAMPLED = 256


class Source(Protocol):
    """A sequence of examples that can be read in batches."""

    def __len__(self) -> int: ...

    @property
    def threaded(self) -> bool:
        """Whether `get` may run in another thread while the caller computes."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether there are classes."""
        ...

    @property
    def labels(self) -> Tensor:
        """(N,) int64, -1 where there is no class."""
        ...

    def plan(self, count: int, generator: torch.Generator | None) -> Tensor | None:
        """Draw what `count` augmented examples need."""
        ...

    def get(self, indices: Tensor, plan: Tensor | None) -> Tensor:
        """Return a batch (B, ...) float32, augmented by a plan."""
        ...

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Source:
        """Return the same examples, shifted and scaled by channel."""
        ...

    def statistics(self, indices: Tensor) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation by channel of these examples, before normalisation."""
        ...


@runtime_checkable
class Paired(Protocol):
    """A source whose targets come from the same reading as its inputs, such as patches of two images."""

    def pair(self, indices: Tensor, plan: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a batch, augmented alike."""
        ...


def read_batch(source: Source, indices: Tensor, plan: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the inputs of a batch and their classes or targets."""
    if isinstance(source, Paired):
        return source.pair(indices, plan)
    return source.get(indices, plan), source.labels[indices]


def no_labels(count: int) -> Tensor:
    """Return the labels of examples without classes."""
    return torch.full((count,), UNLABELLED, dtype=torch.long)


def by_channel(values: Sequence[float], dims: int, channel: int) -> Tensor:
    """Return values by channel in a shape that broadcasts over a batch of so many dimensions."""
    shape = [1] * dims
    shape[channel] = len(values)
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples in memory; whole batches are sliced, augmented and normalised at once.

    Attributes:
        x: (N, ...) floats, or bytes that stand for 0..1.
        y: (N, ...) int64, numbers or None.
        mean: By channel, or None.
        std: By channel, or None.
        augment: One of `augmenting.KINDS`; other than images (4 dimensions) are never augmented.
        size: Height and width to resize images to, or None.
        numbers: Whether `y` are numbers to come near to, not classes; bytes stand for 0..1 here too.
    """

    x: Tensor
    y: Tensor | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: str = "none"
    size: int | None = None
    numbers: bool = False
    threaded: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.x.dim() < 2:
            raise DataError(f"examples need at least 2 dimensions, these have shape {tuple(self.x.shape)}")
        if self.y is not None and len(self.y) != len(self.x):
            raise DataError(
                f"there are {len(self.x)} examples and {len(self.y)} labels", "they must be as many"
            )
        if self.numbers and self.y is not None and self.y.dim() > 2 and self.augment != "none":
            raise DataError("images that move would have to move their targets too", "leave out augment=")
        if self.augment not in augmenting.KINDS:
            raise DataError(f"unknown augmentation {self.augment!r}", f"one of {', '.join(augmenting.KINDS)}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        shape = tuple(self.x.shape[1:])
        return (shape[0], self.size, self.size) if self.size and len(shape) == 3 else shape

    @property
    def labelled(self) -> bool:
        """Whether there are classes."""
        return self.y is not None

    @cached_property
    def labels(self) -> Tensor:
        """(N, ...) int64, or float32 where they are numbers."""
        if self.y is None:
            return no_labels(len(self))
        if not self.numbers:
            return self.y.long()
        return self.y.float() / 255 if self.y.dtype == torch.uint8 else self.y.float()

    @property
    def channel(self) -> int:
        """The dimension of a batch that `mean` and `std` belong to."""
        return 1 if self.x.dim() >= 4 else self.x.dim() - 1

    def plan(self, count: int, generator: torch.Generator | None) -> Tensor | None:
        """Draw what `count` augmented examples need."""
        return augmenting.draw(count, self.augment if self.x.dim() == 4 else "none", generator)

    def get(self, indices: Tensor, plan: Tensor | None) -> Tensor:
        """Return a batch (B, ...) float32."""
        batch = self.x[indices]
        if plan is not None:
            batch = augmenting.flip_and_crop(batch, self.augment, plan)
        scale = 1 / 255 if batch.dtype == torch.uint8 else 1.0
        batch = batch.float()
        if self.size and batch.dim() == 4 and tuple(batch.shape[2:]) != (self.size, self.size):
            batch = torch.nn.functional.interpolate(
                batch, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        if self.mean is None or self.std is None:
            return batch * scale if scale != 1 else batch
        mean = by_channel(self.mean, batch.dim(), self.channel)
        std = by_channel(self.std, batch.dim(), self.channel)
        return (batch * (scale / std)).sub_(mean / std)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> ArraySource:
        """Return the same examples, shifted and scaled by channel."""
        return replace(self, mean=tuple(mean), std=tuple(std))

    def statistics(self, indices: Tensor) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation by channel (images) or feature of these examples."""
        channel = self.channel
        dims = [d for d in range(self.x.dim()) if d != channel]
        total = square = torch.zeros(self.x.shape[channel], dtype=torch.float64)
        count = 0
        for chunk in indices.split(4096):
            values = self.x[chunk].double()
            total, square = total + values.sum(dims), square + values.square().sum(dims)
            count += values.numel() // values.shape[channel]
        scale = 255.0 if self.x.dtype == torch.uint8 else 1.0
        mean = total / max(count, 1) / scale
        variance = (square / max(count, 1) / scale**2 - mean.square()).clamp_min(0)
        return mean.tolist(), deviations(variance.sqrt())


def deviations(std: Tensor) -> list[float]:
    """Return deviations as a list; a constant channel is left unscaled."""
    return torch.where(std < 1e-8, torch.ones_like(std), std).tolist()
