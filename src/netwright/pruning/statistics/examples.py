"""The data that scores and repairs look at, in one form: an iterable of batches, at most so many examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from netwright.data import Part
from netwright.errors import DataError, UsageError
from netwright.structure import Inputs

#: Examples looked at, at most: statistics settle long before, and a loader may be endless.
LIMIT = 1024
BATCH = 64
#: What stands for data where there are none.
NOISES = ("gaussian", "uniform")


class Examples:
    """Batches of inputs, with labels where there are some. False when no data were given.

    Iterating yields pairs (`Inputs`, labels or None); it can be repeated. A `Part` is sampled at random, in
    the same way every time; of everything else the first examples are taken.

    Args:
        data: A tensor of inputs (N, ...); a pair of tensors (inputs, labels); a `netwright.data.Part`; a
            `DataLoader` or other iterable of batches, each of which is the model's input, a tuple of all its
            inputs, either of these followed by labels, or a dict of keyword arguments; an `Examples`;
            "gaussian" or "uniform", noise of the example's shape in place of data; or None.
        like: The example that the model was traced with: it says how many inputs the model takes.
        seed: Of the sample, and of importances that draw.
        limit: At most this many examples.

    Raises:
        UsageError: if the data are of another kind.
    """

    def __init__(self, data: Any, like: Any, *, seed: int = 0, limit: int = LIMIT) -> None:
        self.seed, self.limit = seed, limit
        self.like = Inputs.of(like)
        self._data: Any = data._data if isinstance(data, Examples) else data
        if isinstance(self._data, str) and self._data in NOISES:
            self._data = noise(self.like, self._data, limit, seed)
        if isinstance(self._data, Iterator):
            self._data = list(self._cut(self._data))  # it can be read only once
        known = (Tensor, Part, Iterable)
        if self._data is not None and (
            not isinstance(self._data, known) or isinstance(self._data, (str, bytes))
        ):
            raise UsageError(
                f"data of type {type(data).__name__} are not understood",
                'give a tensor of inputs, a netwright.data.Part, an iterable of batches, or "gaussian"',
            )

    def __bool__(self) -> bool:
        return self._data is not None

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor | None]]:
        """Yield (inputs, labels or None) batch by batch.

        Raises:
            DataError: if there is not a single example.
        """
        empty = True
        for batch in self._cut(self._batches()):
            empty = False
            yield self._read(batch)
        if empty and self:
            raise DataError("the data hold no examples", "give at least a few dozen")

    @property
    def labelled(self) -> bool:
        """Whether the first batch has labels."""
        for _, y in self:
            return y is not None
        return False

    def _batches(self) -> Iterator[Any]:
        data = self._data
        if data is None:
            return
        if isinstance(data, Part):
            generator = torch.Generator().manual_seed(self.seed)
            yield from data.batches(BATCH, shuffle=True, generator=generator, limit=self.limit)
        elif isinstance(data, Tensor):
            yield from data.split(BATCH)
        elif self._is_pair(data):
            yield from zip(data[0].split(BATCH), data[1].split(BATCH), strict=True)
        else:
            yield from data

    def _is_pair(self, data: Any) -> bool:
        """Whether the data are one big batch (inputs, labels) rather than a list of two batches."""
        if not (isinstance(data, tuple) and len(data) == 2 and all(isinstance(d, Tensor) for d in data)):
            return False
        return len(data[0]) == len(data[1]) and data[1].dim() < data[0].dim()

    def _cut(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Stop after `limit` examples."""
        seen = 0
        for batch in batches:
            if seen >= self.limit:
                return
            first = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
            first = first[0] if isinstance(first, (tuple, list)) else first
            seen += len(first) if isinstance(first, Tensor) and first.dim() else 1
            yield batch

    def _read(self, batch: Any) -> tuple[Inputs, Tensor | None]:
        if isinstance(batch, Mapping):
            names = set(self.like.kwargs)
            extra = [batch[k] for k in ("labels", "label", "y") if k in batch and k not in names]
            kept = {k: v for k, v in batch.items() if k in names} if names else dict(batch)
            return Inputs((), kept), _labels(extra[0]) if extra else None
        if isinstance(batch, Tensor):
            return Inputs((batch,)), None
        if isinstance(batch, (tuple, list)):
            count = max(len(self.like.args), 1)
            if len(batch) == count:
                return Inputs(tuple(batch)), None
            if len(batch) == count + 1:
                return Inputs(tuple(batch[:count])), _labels(batch[count])
            raise DataError(
                f"a batch of {len(batch)} parts was found where the model takes {count}",
                "yield the inputs, or the inputs followed by the labels",
            )
        raise DataError(f"a batch of type {type(batch).__name__} is not understood", "yield tensors")


def noise(like: Inputs, kind: str, count: int, seed: int) -> list[Any]:
    """Batches of noise in place of data: inputs of mean 0 and variance 1, class numbers of the example's.

    Args:
        like: The example; its first dimension is that of the batch.
        kind: "gaussian" or "uniform".
        count: Examples in all.
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)

    def one(x: Tensor) -> Tensor:
        shape = (BATCH, *x.shape[1:]) if x.dim() else x.shape
        if not x.is_floating_point():
            flat = x.reshape(-1)
            return flat[torch.randint(flat.numel(), tuple(shape), generator=generator)]
        if kind == "gaussian":
            return torch.randn(shape, generator=generator).to(x.dtype)
        return ((torch.rand(shape, generator=generator) - 0.5) * 12**0.5).to(x.dtype)

    batches = [like.map(one) for _ in range(-(-count // BATCH))]
    return [dict(b.kwargs) if b.kwargs else b.args for b in batches]


def _labels(y: Any) -> Tensor | None:
    """Labels (B, ...), or None where they say that there are none."""
    if not isinstance(y, Tensor):
        return None
    return None if not y.is_floating_point() and y.numel() and bool((y < 0).all()) else y
