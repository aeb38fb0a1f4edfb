"""Hugging Face data sets that were saved to disk; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from netwright._imports import require
from netwright.data.callables import one_line
from netwright.data.items import DatasetSource
from netwright.data.raw import Raw, digest
from netwright.data.sources import Source
from netwright.errors import ArtefactError, DataError

_IMAGES = ("image", "img", "pixel_values", "x")
_LABELS = ("label", "labels", "fine_label", "y", "target")
_SPLITS = {"train": ("train",), "val": ("validation", "valid", "val"), "test": ("test",)}


def is_folder(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    )


class _Columns:
    """The examples of one split as (image, label); pictures are resized to one square where they differ."""

    def __init__(self, dataset: Any, image: str, label: str | None, size: int | None) -> None:
        self.dataset, self.image, self.label, self.size = dataset, image, label, size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        item = self.dataset[index]
        picture = item[self.image]
        if self.size is not None and hasattr(picture, "resize"):
            side = min(picture.size)
            left, upper = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.convert("RGB") if picture.mode not in ("L", "RGB") else picture
            picture = square.crop((left, upper, left + side, upper + side)).resize((self.size, self.size))
        return picture, None if self.label is None else item[self.label]


def read(folder: Path, image_size: int | None) -> Raw:
    """Read a data set saved with ``save_to_disk``.

    Args:
        folder: The folder.
        image_size: Height and width of the pictures; None takes those of the first, at most 224.

    Raises:
        MissingExtraError: without the extra ``hf``.
        DataError: if no column holds examples.
        ArtefactError: if it cannot be read.
    """
    datasets = require("datasets", extra="hf")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise ArtefactError(f"{folder} is not a data set that can be read: {one_line(error)}") from error
    named = loaded if isinstance(loaded, dict) else {"train": loaded}
    found = {part: next((named[k] for k in keys if k in named), None) for part, keys in _SPLITS.items()}
    if found["train"] is None or len(found["train"]) == 0:
        raise DataError(f"{folder} has no train split with examples; it has {', '.join(map(str, named))}")
    columns = list(found["train"].column_names)
    image = next((c for c in _IMAGES if c in columns), None)
    if image is None:
        raise DataError(f"{folder} has no column of examples; it has {', '.join(columns)}", "name it image")
    label = next((c for c in _LABELS if c in columns), None)
    first = found["train"][0][image]
    size = (image_size or min(*first.size, 224)) if hasattr(first, "getbands") else None
    sources = {
        part: DatasetSource(_Columns(split, image, label, size), _labels(split, label))
        for part, split in found.items()
        if split is not None
    }
    classes = _classes(found["train"], label, list(sources.values()))
    summary = "".join(
        f"{part}:{len(s)}:{getattr(found[part], '_fingerprint', '')}" for part, s in sources.items()
    )
    val, test = sources.get("val"), sources.get("test")
    return Raw(folder.resolve().name, sources["train"], classes, digest(summary), val=val, test=test)


def _labels(split: Any, label: str | None) -> torch.Tensor | None:
    if label is None:
        return None
    try:
        return torch.tensor(list(split[label]), dtype=torch.long)
    except (TypeError, ValueError) as error:
        raise DataError(f"the column {label} does not hold class numbers: {one_line(error)}") from error


def _classes(train: Any, label: str | None, sources: Sequence[Source]) -> tuple[str, ...]:
    if label is None:
        return ()
    names = getattr(train.features.get(label), "names", None)
    if names:
        return tuple(names)
    return tuple(str(i) for i in range(max(int(s.labels.max()) for s in sources) + 1))
