"""Readers of the catalogue's data sets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from netwright.data import emoji, idx, npz
from netwright.data.fetching import fetch
from netwright.data.patches import natural_crops
from netwright.data.raw import Raw, from_arrays
from netwright.data.records import record
from netwright.errors import ArtefactError

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read(name: str, image_size: int | None) -> Raw:
    """Read a data set of the catalogue, fetching it where it is missing.

    Raises:
        DataError: if it is unknown, holds no examples, or cannot be fetched.
    """
    from netwright.errors import DataError

    wanted = record(name)
    if not wanted.loader:
        raise DataError(
            f"{name} holds weights or a graph, not examples", "see netwright data list for data sets"
        )
    return _READERS[wanted.loader](fetch(name), image_size)


def _digits(folder: Path, image_size: int | None) -> Raw:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (bunch.images / 16).astype(np.float32)[:, None]
    raw = from_arrays("digits", (x, bunch.target), augment="none")
    return dataclasses.replace(raw, fractions=(0.2, 0.2))


def _fashion_mnist(folder: Path, image_size: int | None) -> Raw:
    raw = idx.read(folder, name="fashion-mnist", augment="flip")
    return dataclasses.replace(
        raw, classes=FASHION_CLASSES, val_count=5000, statistics=((0.2860,), (0.3530,))
    )


def _mnist10k(folder: Path, image_size: int | None) -> Raw:
    x, y = [], []
    for digit in range(10):
        file = folder / f"{digit}.json"
        try:
            values = np.array(json.loads(file.read_text(encoding="utf-8"))["data"], dtype=np.float32)
            x.append(values.reshape(-1, 1, 28, 28))
        except (ValueError, KeyError) as error:
            raise ArtefactError(f"{file} is damaged: {error}", f"remove {folder} and fetch again") from error
        y.append(np.full(len(x[-1]), digit))
    raw = from_arrays("mnist10k", (np.concatenate(x), np.concatenate(y)), augment="none")
    return dataclasses.replace(raw, fractions=(0.1, 0.2))


def _photos(folder: Path, image_size: int | None) -> Raw:
    crops = natural_crops(folder, image_size or 224)
    train, val, test = ((crops[part], None) for part in ("train", "val", "test"))
    return from_arrays("photos", train, val, test, augment="flip")


def _photo_patches(folder: Path, image_size: int | None) -> Raw:
    return npz.read(folder / "patches.npz", name="photo-patches")


_READERS: dict[str, Callable[[Path, int | None], Raw]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "mnist10k": _mnist10k,
    "photos": _photos,
    "photo_patches": _photo_patches,
    "emoji": lambda folder, image_size: emoji.read(folder),
}
