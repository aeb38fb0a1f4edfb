"""Folders of image files: one folder a class, with or without splits, or no classes at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from netwright.data.images import ImageSource
from netwright.data.raw import Raw, digest
from netwright.errors import DataError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
#: The size that ImageNet networks expect; folders of smaller pictures keep their own.
_LARGEST = 224
#: Every file is looked into beforehand up to this many; beyond, evenly spaced ones are.
_LOOKED_AT = 20_000


def read(folder: Path, image_size: int | None) -> Raw:
    """Read an image folder; nothing is decoded until it is asked for.

    Layouts: ``folder/class/*.png``; ``folder/train|val|test/class/*`` (without a test folder, val is the test
    split, as in ImageNet, and validation is held out from train); ``folder/*.png``, which is unlabelled.

    Args:
        folder: The folder.
        image_size: Height and width of the examples; None takes the pictures' own, at most 224.

    Raises:
        DataError: if it is missing or empty, has one class, or holds a file that cannot be read.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"the data folder {folder} {what}", "check the path")
    below = {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    own = {part: next((below[n] for n in names if n in below), None) for part, names in _SPLITS.items()}
    if own["train"] is None:
        groups = {"train": _classes(folder)}
    else:
        groups = {part: _classes(p) for part, p in own.items() if p is not None}
        if "test" not in groups and "val" in groups:
            groups["test"] = groups.pop("val")
    names = _check(folder, groups)
    files = [f for g in groups.values() for fs in g.values() for f in fs]
    shorter, channels = _look(files)
    size = image_size or min(shorter, _LARGEST)
    parts = {part: _source(group, names, size, channels) for part, group in groups.items()}
    content = digest(*(f"{f.relative_to(folder).as_posix()}:{f.stat().st_size}\n" for f in files))
    return Raw(
        folder.resolve().name,
        parts["train"],
        tuple(names),
        content,
        val=parts.get("val"),
        test=parts.get("test"),
        augment="crop-flip",
    )


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Return class name -> files; the name is empty where the images lie in the folder itself."""
    groups = {}
    for below in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        groups[below.name] = sorted(f for f in below.rglob("*") if _is_image(f))
    if any(groups.values()):
        return groups
    flat = sorted(f for f in folder.iterdir() if _is_image(f))
    return {"": flat} if flat else {}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _check(folder: Path, groups: dict[str, dict[str, list[Path]]]) -> list[str]:
    """Return the class names; empty for unlabelled images."""
    for part, group in groups.items():
        if not group:
            where = folder if len(groups) == 1 else folder / part
            raise DataError(
                f"there are no images in {where}", "needed is folder/class/*.png, or *.png without classes"
            )
    names = sorted(groups["train"])
    if names == [""]:
        return []
    if len(names) == 1:
        raise DataError(
            f"the image folder {folder} has one class, {names[0]!r}",
            f"a classifier needs two; for unlabelled images give {folder / names[0]}",
        )
    for part, group in groups.items():
        strange = sorted(set(group) - set(names))
        if strange:
            raise DataError(f"the {part} folder of {folder} has a class that train lacks: {strange[0]!r}")
        empty = [name for name, files in group.items() if not files]
        if empty:
            raise DataError(f"the class folder {empty[0]!r} of {folder} has no images", "remove or fill it")
    return names


def _source(group: dict[str, list[Path]], names: list[str], size: int, channels: int) -> ImageSource:
    paths, labels = [], []
    for name, files in sorted(group.items()):
        paths += files
        labels += [names.index(name) if names else -1] * len(files)
    y = torch.tensor(labels, dtype=torch.long) if names else None
    return ImageSource(tuple(paths), size, channels, y, augment="crop-flip")


def _look(files: list[Path]) -> tuple[int, int]:
    """Look into the files; returns the median shorter side and the channels.

    Raises:
        DataError: if a file is not an image; names it.
    """
    step = -(-len(files) // _LOOKED_AT)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(_header, files[::step]))
    sides = sorted(side for side, _ in found)
    return sides[len(sides) // 2], 1 if all(grey for _, grey in found) else 3


def _header(path: Path) -> tuple[int, bool]:
    """Return the shorter side and whether an image is grey; checks what can be checked without decoding."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            side, grey = min(image.size), image.mode in ("L", "1", "I;16")
            image.verify()
    except Exception as error:  # PIL's plugins raise nearly anything on damaged files
        reason = "it is empty" if path.stat().st_size == 0 else str(error).replace(str(path), "it")
        raise DataError(
            f"{path} is not an image that can be read: {reason}", "repair or remove the file"
        ) from error
    return side, grey
