"""Hugging Face data sets on disk, with a stand-in for the library where the extra is not installed."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netwright import data
from netwright._imports import available
from netwright.errors import ArtefactError, DataError, MissingExtraError


class Column:
    """What the library's Dataset answers: rows by number, columns by name."""

    def __init__(self, columns: dict[str, list[Any]], names: list[str] | None = None) -> None:
        self.columns = columns
        self.column_names = list(columns)
        self.features = {"label": types.SimpleNamespace(names=names)}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        return self.columns[key] if isinstance(key, str) else {k: v[key] for k, v in self.columns.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dataset_dict.json").write_text("{}")
    return tmp_path


def install(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def load_from_disk(path: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_from_disk=load_from_disk))  # type: ignore[arg-type]


def pictures(count: int, key: str = "image") -> Column:
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (20 + i % 3, 24, 3), dtype=np.uint8)) for i in range(count)
    ]
    return Column({key: images, "label": [i % 2 for i in range(count)]}, ["cat", "dog"])


@pytest.mark.skipif(available("datasets"), reason="the extra is installed")
def test_the_extra_is_named(folder: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"netwright\[hf\]"):
        data.load(folder)


def test_splits_classes_and_squares(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"train": pictures(40), "test": pictures(10)})
    splits = data.load(folder)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 10)
    assert splits.classes == ("cat", "dog")
    assert splits.shape == (3, 20, 20)
    assert data.load(folder, image_size=16).shape == (3, 16, 16)


def test_one_unsplit_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, pictures(40))
    splits = data.load(folder)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (28, 6, 6)


def test_what_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"train": pictures(4, key="sound")})
    with pytest.raises(DataError, match="no column of examples; it has sound, label"):
        data.load(folder)
    install(monkeypatch, {"test": pictures(4)})
    with pytest.raises(DataError, match="no train split"):
        data.load(folder)
    install(monkeypatch, FileNotFoundError("arrow\nis gone"))
    with pytest.raises(ArtefactError, match="arrow is gone"):
        data.load(folder)
