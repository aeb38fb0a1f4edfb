"""Somebody's own data set as a source: anything with a length and items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.data.sources import SAMPLED, UNLABELLED, ArraySource, by_channel, no_labels
from netwright.errors import DataError


@dataclass(frozen=True, eq=False)
class DatasetSource:
    """A map-style data set of PyTorch, or anything with a length and items (x, y).

    Its own transforms are applied as they are; nothing is augmented on top.

    Attributes:
        dataset: Items are (x, y), x alone, or a mapping with an image and a label.
        known_labels: (N,) int64 where they are known without reading the items.
        mean: By channel, or None.
        std: By channel, or None.
    """

    dataset: Any
    known_labels: Tensor | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    threaded: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.get(torch.tensor([0]), None).shape[1:])

    @property
    def labelled(self) -> bool:
        """Whether there are classes."""
        return bool((self.labels != UNLABELLED).any())

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64; read from the items where the data set does not list them."""
        if self.known_labels is not None:
            return self.known_labels
        if self._item(0)[1] is None:
            return no_labels(len(self))
        return torch.tensor([self._label(i) for i in range(len(self))], dtype=torch.long)

    def _label(self, index: int) -> int:
        label = self._item(index)[1]
        try:
            return UNLABELLED if label is None else int(label)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"item {index} of the data set has the label {label!r}", "labels are integers"
            ) from error

    def _item(self, index: int) -> tuple[Any, Any]:
        try:
            item = self.dataset[index]
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"item {index} of the data set raised {type(error).__name__}: {error}") from error
        if isinstance(item, dict):
            x = next((item[k] for k in ("pixel_values", "image", "img", "x") if k in item), None)
            return x, next((item[k] for k in ("label", "labels", "y") if k in item), None)
        if isinstance(item, (tuple, list)):
            return item[0], item[1] if len(item) > 1 else None
        return item, None

    def plan(self, count: int, generator: torch.Generator | None) -> Tensor | None:
        """Draw nothing."""
        return None

    def get(self, indices: Tensor, plan: Tensor | None) -> Tensor:
        """Return a batch (B, ...) float32."""
        examples = [to_tensor(self._item(i)[0]) for i in indices.tolist()]
        shapes = {tuple(e.shape) for e in examples}
        if len(shapes) > 1:
            raise DataError(
                f"the examples of the data set differ in shape: {sorted(shapes)[:2]}", "resize them"
            )
        batch = torch.stack(examples)
        if self.size and batch.dim() == 4 and tuple(batch.shape[2:]) != (self.size, self.size):
            batch = torch.nn.functional.interpolate(
                batch, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        if self.mean is None or self.std is None:
            return batch
        channel = 1 if batch.dim() >= 4 else batch.dim() - 1
        return (batch - by_channel(self.mean, batch.dim(), channel)) / by_channel(
            self.std, batch.dim(), channel
        )

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> DatasetSource:
        """Return the same examples, shifted and scaled by channel."""
        return replace(self, mean=tuple(mean), std=tuple(std))

    def statistics(self, indices: Tensor) -> tuple[list[float], list[float]]:
        """Return mean and deviation by channel, estimated from evenly spaced examples."""
        step = max(1, len(indices) // SAMPLED)
        batch = replace(self, mean=None, std=None).get(indices[::step][:SAMPLED], None)
        return ArraySource(batch).statistics(torch.arange(len(batch)))


def to_tensor(value: Any) -> Tensor:
    """Return one example as float32: arrays as they are (bytes over 255), PIL images as (C, H, W)."""
    if hasattr(value, "convert") and hasattr(value, "getbands"):
        array = np.asarray(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        value = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(value)).float() / 255
    try:
        tensor = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"an example of the data set is a {type(value).__name__}, not a tensor, array or image",
            "convert it in the data set",
        ) from error
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()
