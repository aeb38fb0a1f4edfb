"""Folders of image pairs: large images to train on, test sets by name, small ones beside them or made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from netwright.data.folders import SUFFIXES
from netwright.data.parts import Part, Splits
from netwright.data.raw import digest
from netwright.data.super_resolution import PairSource, read_pixels, super_resolution
from netwright.errors import DataError

_HIGH, _LOW = ("HR", "hr", "high"), ("LR", "lr", "low")


@dataclass(frozen=True)
class PairSets:
    """What super-resolution is trained and tested on.

    Attributes:
        splits: Patches to train on; its other splits are some of them, whole.
        tests: Name of a test set -> its pairs of whole images.
    """

    splits: Splits
    tests: dict[str, PairSource]


def load_pairs(folder: str | Path, scale: int, *, patch: int = 64, channels: int = 3) -> PairSets:
    """Read a folder with large images ``train/HR/*.png`` and test sets ``test/NAME/HR/*.png``.

    Small images are read from ``LR`` beside ``HR`` (or ``LR/X2``, ``LR_bicubic/X2`` and the like) where it
    is there, in the order of their names; else they are made by `super_resolution` in memory.

    Args:
        folder: The folder.
        scale: How many times larger the large images are.
        patch: Height and width of the small patches that are trained on.
        channels: 1 or 3.

    Raises:
        DataError: if a folder is missing or empty, or the pairs are not as many on either side.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}", "give one with train/HR/*.png and test/NAME/HR/*.png")
    train, names = _source(root / "train", scale, channels, patch)
    tests = {
        p.name: _source(p, scale, channels, None)[0] for p in sorted((root / "test").glob("*")) if p.is_dir()
    }
    part = Part(train)
    content = digest(*(f"{n}:{scale}:{patch}\n" for n in names))
    splits = Splits(root.resolve().name, part, part.head(1), part.head(1), (), "dihedral", content)
    return PairSets(splits, tests)


def _source(folder: Path, scale: int, channels: int, patch: int | None) -> tuple[PairSource, list[str]]:
    high = _images(next((folder / n for n in _HIGH if (folder / n).is_dir()), folder / _HIGH[0]))
    near = [folder / n for n in _LOW] + sorted(folder.glob("LR_*"))
    candidates = [p / f"{x}{scale}" for p in near for x in "Xx"] + near
    found = next((p for p in candidates if p.is_dir() and _listed(p)), None)
    if found is not None:
        low: list[Tensor | Path] = list(_images(found))
        if len(low) != len(high):
            raise DataError(
                f"{folder} has {len(high)} large images and {len(low)} small ones", "they are pairs"
            )
        return PairSource(low, high, scale, channels, patch), [f.name for f in high]
    made = [super_resolution(read_pixels(f, channels), scale) for f in high]
    source = PairSource([m[0] for m in made], [m[1] for m in made], scale, channels, patch)
    return source, [f.name for f in high]


def _listed(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    files = _listed(folder) if folder.is_dir() else []
    if not files:
        raise DataError(f"there are no images in {folder}", "needed is HR/*.png")
    return files


def patches(images: Tensor, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Cut squares at random places of one image (C, H, W); returns (count, C, size, size)."""
    height, width = images.shape[-2:]
    tops = torch.randint(0, height - size + 1, (count,), generator=generator)
    lefts = torch.randint(0, width - size + 1, (count,), generator=generator)
    return torch.stack(
        [
            images[:, t : t + size, left : left + size]
            for t, left in zip(tops.tolist(), lefts.tolist(), strict=True)
        ]
    )
