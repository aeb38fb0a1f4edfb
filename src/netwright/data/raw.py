"""What a reader hands over before the data are split, normalised and limited."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from netwright.data.sources import UNLABELLED, ArraySource, Source
from netwright.errors import DataError


@dataclass(frozen=True)
class Raw:
    """A data set as it was read.

    Attributes:
        name: For people.
        train: All examples, or the training split.
        classes: Their names; empty where there are no labels.
        content: A digest of the contents.
        val: The validation split, where the set has its own.
        test: The test split, where the set has its own.
        augment: What suits the pictures.
        fractions: Shares of validation and test where the set has no test split of its own.
        val_count: Examples held out for validation where there is a test split; None for 10 %.
        statistics: Mean and deviation by channel; None to compute them from the training split.
        as_is: Whether the values are left as they are.
    """

    name: str
    train: Source
    classes: tuple[str, ...]
    content: str
    val: Source | None = None
    test: Source | None = None
    augment: str = "none"
    fractions: tuple[float, float] = (0.15, 0.15)
    val_count: int | None = None
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    as_is: bool = False


Arrays = tuple[np.ndarray, np.ndarray | None]


def from_arrays(
    name: str,
    train: Arrays,
    val: Arrays | None = None,
    test: Arrays | None = None,
    *,
    classes: Sequence[str] | None = None,
    augment: str | None = None,
) -> Raw:
    """Make a data set of arrays in memory.

    Args:
        name: For people and messages.
        train: Examples and labels (or None); see `examples` for the shapes.
        val: The same, or None.
        test: The same, or None.
        classes: Class names; None takes the labels themselves.
        augment: None flips and crops colour images, and leaves all else alone (a mirrored digit is no digit).

    Raises:
        DataError: if shapes, lengths or labels do not fit.
    """
    given = [p for p in (train, val, test) if p is not None]
    if len({p[1] is None for p in given}) > 1:
        raise DataError(
            f"{name}: some splits have labels and some have none", "give labels for all or for none"
        )
    names, numbers = number_labels(name, [p[1] for p in given if p[1] is not None])
    xs = [examples(name, x) for x, _ in given]
    if len({x.shape[1:] for x in xs}) > 1:
        shapes = " and ".join(sorted({str(tuple(x.shape[1:])) for x in xs}))
        raise DataError(f"{name}: the splits hold examples of different shapes, {shapes}")
    for i, x in enumerate(xs):
        if numbers and len(numbers[i]) != len(x):
            raise DataError(
                f"{name}: there are {len(x)} examples and {len(numbers[i])} labels", "they must be as many"
            )
    is_colour = xs[0].dim() == 4 and xs[0].shape[1] == 3
    # A picture that is moved would have to move the classes of its pixels too.
    dense = bool(numbers) and numbers[0].dim() > 1
    augment = "none" if dense else augment or ("crop-flip" if is_colour else "none")
    sources = [
        ArraySource(x, numbers[i] if numbers else None, augment=augment if x.dim() == 4 else "none")
        for i, x in enumerate(xs)
    ]
    at = 0 if val is None else 1
    return Raw(
        name,
        sources[0],
        tuple(classes) if classes is not None else names,
        digest(*(part for pair in given for part in pair if part is not None)),
        val=None if val is None else sources[1],
        test=None if test is None else sources[at + 1],
        augment=augment,
    )


def examples(name: str, x: np.ndarray) -> torch.Tensor:
    """Return examples as a tensor, images as (N, C, H, W).

    (N, H, W, C) with 1 or 3 channels, or 4 of bytes, is turned;
    (N, H, W) bytes, or floats with H = W, are grey images;
    other floats (N, T, F) are sequences and (N, F) tables.

    Raises:
        DataError: if they are no numbers, too few dimensions, or not finite.
    """
    if x.dtype == bool:
        x = x.astype(np.uint8) * 255
    if x.dtype.kind not in "fiu":
        raise DataError(f"{name}: the examples are of type {x.dtype}, not numbers")
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{name}: the examples have shape {x.shape}", "needed is (N, ...) with N at least 1")
    if x.dtype != np.uint8:
        x = x.astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise DataError(
                f"{name}: some examples are not finite numbers", "remove or fill NaN and infinity"
            )
    last = (1, 3, 4) if x.dtype == np.uint8 else (1, 3)
    if x.ndim == 3 and (x.dtype == np.uint8 or x.shape[1] == x.shape[2]):
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in last:
        x = x.transpose(0, 3, 1, 2)
    x = np.ascontiguousarray(x)
    return torch.from_numpy(x if x.flags.writeable else x.copy())


def number_labels(name: str, labels: Sequence[np.ndarray]) -> tuple[tuple[str, ...], list[torch.Tensor]]:
    """Return class names and, for each array of labels, the class numbers.

    Integers that begin at 0 stay as they are (a few may be missing); -1 means unlabelled. Anything else is
    numbered in sorted order.

    Raises:
        DataError: if they are not one label an example.
    """
    if not labels:
        return (), []
    flat = [y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in (np.asarray(y) for y in labels)]
    for y in flat:
        if y.dtype.kind == "f" and bool(np.all(y == np.round(y))):
            continue
        if y.dtype.kind not in "iubUS":
            raise DataError(f"{name}: the labels are of type {y.dtype}", "class numbers or names are needed")
    if any(y.ndim < 1 for y in flat):
        raise DataError(f"{name}: the labels have shape {flat[0].shape}", "needed is one label an example")
    if any(y.dtype.kind in "US" for y in flat):
        values = np.unique(np.concatenate([y.astype(str) for y in flat]))
        return tuple(map(str, values)), [
            torch.from_numpy(np.searchsorted(values, y.astype(str))) for y in flat
        ]
    whole = [y.astype(np.int64) for y in flat]
    values = np.unique(np.concatenate([y.ravel() for y in whole]))
    values = values[values != UNLABELLED]
    if len(values) and values[0] == 0 and values[-1] < 2 * len(values) + 8:
        return tuple(str(i) for i in range(int(values[-1]) + 1)), [torch.from_numpy(y) for y in whole]
    numbered = [np.where(y == UNLABELLED, UNLABELLED, np.searchsorted(values, y)) for y in whole]
    return tuple(map(str, values)), [torch.from_numpy(y) for y in numbered]


def digest(*contents: np.ndarray | bytes | str) -> str:
    """Return one sha256 over arrays, bytes and texts."""
    total = hashlib.sha256()
    for content in contents:
        if isinstance(content, np.ndarray):
            total.update(f"{content.shape}{content.dtype}".encode())
            total.update(np.ascontiguousarray(content).tobytes())
        else:
            total.update(content.encode() if isinstance(content, str) else content)
    return total.hexdigest()
