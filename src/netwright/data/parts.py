"""A split of a data set, and the three of them together."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.data.sources import ArraySource, Paired, Source, read_batch
from netwright.errors import DataError

#: Batches that are decoded ahead of their use.
_AHEAD = 2


class Part:
    """One split: some examples of a source, in a fixed order.

    Args:
        source: Where the examples are.
        indices: Which of them, (N,); None for all.
    """

    def __init__(self, source: Source, indices: Tensor | None = None) -> None:
        self.source = source
        self.indices = torch.arange(len(source)) if indices is None else indices.long().cpu()

    @classmethod
    def from_tensors(
        cls,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: str = "none",
        numbers: bool = False,
    ) -> Part:
        """Make a part of examples in memory.

        Args:
            x: (N, ...) floats, or bytes that stand for 0..1. They are not copied.
            y: (N,) class numbers, (N, H, W) for every pixel, or None.
            mean: Per channel, subtracted; None leaves the values as they are.
            std: Per channel, divided by.
            augment: ``"none"``, ``"flip"`` or ``"crop-flip"``, done where `batches` is asked to augment.
            numbers: Whether `y` are numbers (N, ...) to come near to, such as images, rather than classes.

        Raises:
            DataError: if the lengths differ.
        """
        targets = None if y is None else torch.as_tensor(y)
        source = ArraySource(torch.as_tensor(x), targets, augment=augment, numbers=numbers)
        return cls(source.normalised(mean, std) if mean is not None and std is not None else source)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Return one example, not augmented: float32 (C, H, W) normalised, and its class or -1.

        The class is an integer; where every pixel has its own, a tensor (H, W); targets are tensors.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        chosen = self.indices[index].reshape(1)
        x, y = read_batch(self.source, chosen, None)
        classified = y[0].dim() == 0 and not y.is_floating_point()
        return x[0], int(y[0]) if classified else y[0]

    def __repr__(self) -> str:
        kind = "labelled" if self.labelled else "unlabelled"
        return f"Part({len(self)} {kind} examples of shape {self.shape})"

    @property
    def labelled(self) -> bool:
        """Whether the examples have classes."""
        return self.source.labelled

    @property
    def numbers(self) -> bool:
        """Whether the targets are numbers to come near to, such as images, rather than classes."""
        return isinstance(self.source, Paired) or getattr(self.source, "numbers", False)

    @property
    def labels(self) -> Tensor:
        """Class numbers (N,), -1 where there are none; or targets (N, ...)."""
        return self.source.labels[self.indices]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.source.shape

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        augment: bool = False,
        drop_last: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches on the CPU: x (B, C, H, W) float32 and y (B,) int64, or (B, H, W), or targets.

        Args:
            batch_size: Examples at a time; the last batch may be smaller.
            shuffle: Draw a new order; with `limit`, that many random examples.
            generator: Of the order and the augmentation; None is the global stream of torch.
            augment: Flip and crop at random, as the data set has it.
            drop_last: Leave out a last batch that is smaller.
            limit: At most this many examples.

        Raises:
            DataError: if an example cannot be read.
        """
        if batch_size < 1:
            raise DataError(f"a batch needs at least one example, not {batch_size}")
        count = len(self)
        order = self.indices[torch.randperm(count, generator=generator)] if shuffle else self.indices
        order = order if limit is None else order[: max(limit, 0)]
        if drop_last:
            order = order[: len(order) // batch_size * batch_size]
        chunks = order.split(batch_size) if len(order) else ()
        plans = ((c, self.source.plan(len(c), generator) if augment else None) for c in chunks)
        if not self.source.threaded:
            for chunk, plan in plans:
                yield read_batch(self.source, chunk, plan)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting: collections.deque[Future[tuple[Tensor, Tensor]]] = collections.deque()
            try:
                for chunk, plan in plans:
                    waiting.append(pool.submit(read_batch, self.source, chunk, plan))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def subset(self, indices: Tensor | Sequence[int] | np.ndarray) -> Part:
        """Return a part of these examples, given by their position in this one."""
        return Part(self.source, self.indices[torch.as_tensor(np.asarray(indices), dtype=torch.long)])

    def head(self, n: int) -> Part:
        """Return a part of the first `n` examples, or of all where there are fewer."""
        return Part(self.source, self.indices[: max(n, 0)])


@dataclass(frozen=True)
class Splits:
    """A data set: what is trained on, what candidates are judged by, and what is touched once at the end.

    Attributes:
        name: For people and reports.
        train: The training split.
        val: The validation split.
        test: The test split.
        classes: Their names; empty where there are no labels.
        augment: ``"none"``, ``"flip"`` or ``"crop-flip"``.
        fingerprint: Changes when the data do, or how they were split; resumed work compares it.
        mean: Per channel, already subtracted from what the parts give.
        std: Per channel, already divided by.
    """

    name: str
    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    augment: str = "none"
    fingerprint: str = ""
    mean: tuple[float, ...] = field(default=())
    std: tuple[float, ...] = field(default=())

    @property
    def labelled(self) -> bool:
        """Whether the examples have classes."""
        return self.train.labelled

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 without labels."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train.shape

    def example(self, batch: int = 2) -> Tensor:
        """Return the first training examples as a batch (B, ...); repeats them where there are fewer."""
        if len(self.train) == 0:
            raise DataError(f"{self.name} has no training examples")
        chosen = torch.arange(batch) % len(self.train)
        return self.train.source.get(self.train.indices[chosen], None)
