"""Pictures cut from the fetched photographs: the splits see disjoint pixels of every photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from netwright.data.images import read_image
from netwright.data.records import COLOUR_PHOTOS, GREY_PHOTOS, PATCH_CLASSES

#: Version of the draw; another one makes other patches.
_SEED = 1
_SIDE = 32
_SOURCE_SIDES = (24, 48)
#: Columns of each photograph, as shares of its width: the test comes from the right 30 %, and a strip between
#: is validation, so that no pixel is in two splits.
_STRIPS = {"train": (0.0, 0.58, 500), "val": (0.58, 0.7, 100), "test": (0.7, 1.0, 100)}
#: Too small for natural crops.
_SMALL = ("page.png", "text.png", "microaneurysms.png")
#: (left, upper, right, lower) as shares, and crops of each photograph.
_REGIONS = {
    "train": ((0.0, 0.0, 0.5, 1.0), 30),
    "val": ((0.5, 0.0, 1.0, 0.5), 10),
    "test": ((0.5, 0.5, 1.0, 1.0), 20),
}


def build(photos: Path, target: Path) -> None:
    """Cut the 32x32 patches of ten photographs and write them as NPZ.

    Source squares of 24 to 48 pixels become 32x32; 500 train, 100 validation and 100 test patches a class.

    Args:
        photos: The folder of the fetched photographs.
        target: NPZ file with x_train (N, 32, 32, 3) bytes, y_train and so on, and the class names.
    """
    rng = np.random.default_rng(_SEED)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _STRIPS}
    for file in COLOUR_PHOTOS:
        image = read_image(photos / file, "RGB")
        width, height = image.size
        for name, (begin, end, count) in _STRIPS.items():
            strip = image.crop((round(begin * width), 0, round(end * width), height))
            parts[name].extend(_squares(strip, count, _SOURCE_SIDES, _SIDE, rng))
    arrays: dict[str, np.ndarray] = {"classes": np.array(PATCH_CLASSES)}
    for name, (_, _, count) in _STRIPS.items():
        arrays[f"x_{name}"] = np.stack(parts[name])
        arrays[f"y_{name}"] = np.repeat(np.arange(len(PATCH_CLASSES)), count)
    np.savez_compressed(target, allow_pickle=False, **arrays)


def natural_crops(photos: Path, size: int) -> dict[str, np.ndarray]:
    """Cut large squares of the photographs, as a camera would frame them.

    Args:
        photos: The folder of the fetched photographs.
        size: Height and width of the crops.

    Returns:
        ``"train"``, ``"val"``, ``"test"`` -> (N, size, size, 3) bytes. Training crops come from the left half
        of each photograph, the others from the upper and the lower right quarter.
    """
    rng = np.random.default_rng(_SEED)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _REGIONS}
    for file in (*COLOUR_PHOTOS, *(f for f in GREY_PHOTOS if f not in _SMALL)):
        image = read_image(photos / file, "RGB")
        width, height = image.size
        for name, ((left, upper, right, lower), count) in _REGIONS.items():
            box = (round(left * width), round(upper * height), round(right * width), round(lower * height))
            region = image.crop(box)
            side = min(region.size)
            parts[name].extend(_squares(region, count, (side // 2, side), size, rng))
    return {name: np.stack(crops) for name, crops in parts.items()}


def _squares(
    image: Any, count: int, sides: tuple[int, int], size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return random squares of an image, (size, size, 3) bytes each."""
    from PIL import Image

    width, height = image.size
    squares = []
    for _ in range(count):
        side = int(rng.integers(sides[0], min(sides[1], width, height) + 1))
        left, upper = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
        # Cropped first: a resize with a box would look at the pixels around it.
        square = image.crop((left, upper, left + side, upper + side))
        squares.append(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)))
    return squares
