"""The fetched sets themselves: how many, which shapes, disjoint. They are fetched where they are missing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netwright import data
from netwright.data.patches import build, natural_crops
from netwright.data.records import COLOUR_PHOTOS, GREY_PHOTOS

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(bool(os.environ.get("NETWRIGHT_OFFLINE")), reason="NETWRIGHT_OFFLINE is set"),
]


def counts(splits: data.Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.val), len(splits.test)


def test_fashion_mnist() -> None:
    splits = data.load("fashion-mnist")
    assert counts(splits) == (55_000, 5_000, 10_000)
    assert splits.shape == (1, 28, 28)
    assert splits.augment == "flip"
    assert (splits.mean, splits.std) == ((0.2860,), (0.3530,))
    assert splits.train.labels.bincount().tolist() == [5_500] * 10
    assert splits.val.labels.bincount().tolist() == [500] * 10
    assert splits.test.labels.bincount().tolist() == [1_000] * 10
    assert len(torch.cat((splits.train.indices, splits.val.indices)).unique()) == 60_000
    (x, _), *_ = splits.train.batches(10_000)
    assert abs(float(x.mean())) < 0.02
    assert abs(float(x.std()) - 1) < 0.02


def test_mnist10k() -> None:
    splits = data.load("mnist10k")
    assert counts(splits) == (7_000, 1_000, 2_000)
    labels = torch.cat([p.labels for p in (splits.train, splits.val, splits.test)])
    assert labels.bincount().tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert splits.shape == (1, 28, 28)
    assert splits.augment == "none"


def test_photos() -> None:
    folder = data.fetch("photos")
    assert {p.name for p in folder.iterdir()} >= {*COLOUR_PHOTOS, *GREY_PHOTOS}
    splits = data.load("photos", image_size=64)
    assert not splits.labelled
    assert splits.shape == (3, 64, 64)
    assert counts(splits) == (510, 170, 340)


def test_photo_patches() -> None:
    splits = data.load("photo-patches")
    assert counts(splits) == (5_000, 1_000, 1_000)
    assert splits.classes[:2] == ("astronaut", "chelsea")
    assert splits.train.labels.bincount().tolist() == [500] * 10
    assert splits.test.labels.bincount().tolist() == [100] * 10
    assert splits.augment == "crop-flip"


def test_emoji() -> None:
    splits = data.load("emoji")
    assert sum(counts(splits)) == 1_906 and splits.shape == (3, 32, 32)
    labels = torch.cat([part.labels for part in (splits.train, splits.val, splits.test)])
    names = dict(zip(splits.classes, labels.bincount().tolist(), strict=True))
    assert names["People & Body"] == 386 and names["Activities"] == 85 and len(names) == 9


def test_patches_repeat_and_come_from_their_own_strip(tmp_path: Path) -> None:
    """A photograph whose columns say where they are shows where its patches were cut."""
    columns = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None].repeat(2, 1), (300, 512, 3))
    for name in (*COLOUR_PHOTOS, *GREY_PHOTOS):
        options = {"quality": 100, "subsampling": 0} if name.endswith("jpg") else {}
        Image.fromarray(np.ascontiguousarray(columns)).save(tmp_path / name, **options)
    build(tmp_path, tmp_path / "a.npz")
    build(tmp_path, tmp_path / "b.npz")
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert all(np.array_equal(a[k], b[k]) for k in a.files)
        for part, low, high in (("train", 0, 0.58), ("val", 0.58, 0.7), ("test", 0.7, 1)):
            x = a[f"x_{part}"].astype(int)
            assert x.min() >= low * 256 - 3
            assert x.max() <= high * 256 + 3
    crops = natural_crops(tmp_path, 16)
    assert crops["train"].max() <= 128 + 3
    assert min(crops["val"].min(), crops["test"].min()) >= 128 - 3
