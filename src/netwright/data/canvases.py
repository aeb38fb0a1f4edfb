"""Segmentation out of classification: pictures laid out on larger canvases, with a class for every pixel."""

from __future__ import annotations

import torch

from netwright.data.parts import Part
from netwright.errors import DataError

#: What is darker than this, of a picture's largest value, is background.
_INK = 0.1


def canvases(part: Part, count: int, *, size: int = 64, items: int = 2, seed: int = 0) -> Part:
    """Lay pictures out on canvases, each in a quarter of its own, shifted at random.

    Args:
        part: Pictures (1, H, W) with classes, background 0 and ink above it.
        count: Canvases.
        size: Of a canvas.
        items: Pictures on each, at most 4.
        seed: Of the choice, the quarters and the shifts.

    Returns:
        (1, size, size) with a class for every pixel: 0 is background, a picture's class plus 1 its ink.

    Raises:
        DataError: if the pictures do not fit, or there are no classes.
    """
    channels, height, width = part.shape
    quarter = size // 2
    if channels != 1 or max(height, width) > quarter or not 1 <= items <= 4 or not part.labelled:
        raise DataError(
            f"{items} pictures of shape {part.shape} do not fit on a canvas of {size}x{size}",
            "give labelled grey pictures of at most half its size, and at most 4 of them",
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(part), (count * items,), generator=generator)
    batches = list(part.subset(chosen).batches(len(chosen)))
    pictures, labels = torch.cat([x for x, _ in batches])[:, 0], torch.cat([y for _, y in batches])
    quarters = torch.rand(count, 4, generator=generator).argsort(1)[:, :items].reshape(-1)
    top = quarters // 2 * quarter + torch.randint(quarter - height + 1, (len(chosen),), generator=generator)
    left = quarters % 2 * quarter + torch.randint(quarter - width + 1, (len(chosen),), generator=generator)
    where = torch.arange(count).repeat_interleave(items)[:, None, None]  # (pictures, 1, 1)
    rows = top[:, None, None] + torch.arange(height)[:, None]  # (pictures, H, 1)
    columns = left[:, None, None] + torch.arange(width)  # (pictures, 1, W)
    x = torch.zeros(count, size, size)
    y = torch.zeros(count, size, size, dtype=torch.int64)
    x[where, rows, columns] = pictures
    ink = pictures > _INK * pictures.amax()
    y[where, rows, columns] = torch.where(ink, labels[:, None, None] + 1, 0)
    return Part.from_tensors(x[:, None], y)
