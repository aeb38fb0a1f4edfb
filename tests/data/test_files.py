"""One's own files: NPZ, IDX and image folders, and what is wrong with them in one line."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netwright import data
from netwright.errors import ArtefactError, DataError, NetwrightError, UsageError

RNG = np.random.default_rng(0)
Make = Callable[..., Path]


def pixels(part: data.Part, splits: data.Splits) -> torch.Tensor:
    """Return the examples as they were before normalisation, in 0..255."""
    (x, _), *_ = part.batches(len(part))
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (splits.mean, splits.std))
    return ((x * std + mean) * 255).round()


def one_line(error: pytest.ExceptionInfo[NetwrightError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert error.value.hint
    return text


# -- NPZ


def test_npz_round_trip(tmp_path: Path) -> None:
    x, y = RNG.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "set.npz", x=x, y=y)
    splits = data.load(tmp_path / "set.npz")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (28, 6, 6)
    assert splits.shape == (3, 6, 5)
    assert (splits.num_classes, splits.augment, splits.name) == (4, "crop-flip", "set")
    seen = torch.cat([pixels(p, splits) for p in (splits.train, splits.val, splits.test)])
    given = torch.from_numpy(x).permute(0, 3, 1, 2).float()
    assert sorted(map(tuple, seen.flatten(1).tolist())) == sorted(map(tuple, given.flatten(1).tolist()))
    torch.testing.assert_close(
        torch.tensor(splits.mean), (pixels(splits.train, splits) / 255).mean((0, 2, 3)), rtol=0, atol=1e-5
    )


def test_npz_keeps_its_own_test_split(tmp_path: Path) -> None:
    x, test = RNG.random((50, 8, 8), dtype=np.float32), RNG.random((9, 8, 8), dtype=np.float32)
    np.savez(
        tmp_path / "set.npz",
        train_images=x,
        train_labels=(np.arange(50) % 2)[:, None],
        test_images=test,
        test_labels=(np.arange(9) % 2)[:, None],
    )
    splits = data.load(tmp_path / "set.npz")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (45, 5, 9)
    assert splits.shape == (1, 8, 8)
    assert splits.augment == "none"
    (x_test, _), *_ = splits.test.batches(9)
    back = x_test * splits.std[0] + splits.mean[0]
    assert sorted(np.round(back.sum((1, 2, 3)).tolist(), 3)) == sorted(np.round(test.sum((1, 2)).tolist(), 3))


def test_sequences_and_tables_are_normalised_by_feature(tmp_path: Path) -> None:
    scale = np.array([1.0, 100.0, 0.01], dtype=np.float32)
    np.savez(
        tmp_path / "seq.npz",
        x=RNG.standard_normal((60, 7, 3)).astype(np.float32) * scale,
        y=np.arange(60) % 2,
    )
    splits = data.load(tmp_path / "seq.npz")
    (x, _), *_ = splits.train.batches(100)
    assert splits.shape == (7, 3)
    torch.testing.assert_close(x.std((0, 1), correction=0), torch.ones(3))


def test_named_labels_and_no_labels(tmp_path: Path) -> None:
    x = RNG.random((20, 1, 4, 4))
    np.savez(tmp_path / "named.npz", x=x, y=np.array(["cat", "ant"] * 10))
    np.savez(tmp_path / "bare.npz", x=x)
    assert data.load(tmp_path / "named.npz").classes == ("ant", "cat")
    bare = data.load(tmp_path / "bare.npz")
    assert not bare.labelled
    assert bare.num_classes == 0
    assert bare.train[0][1] == -1


def test_npz_pickle_is_refused_unless_trusted(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object), y=np.zeros(1))
    with pytest.raises(ArtefactError, match="pickle, which can run code; refused unless --trust") as error:
        data.load(tmp_path / "evil.npz")
    one_line(error)


def test_a_class_for_every_pixel(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (30, 3, 8, 9), dtype=np.uint8)
    np.savez(tmp_path / "dense.npz", x=x, y=(x[:, 0] > 127).astype(np.uint8))
    splits = data.load(tmp_path / "dense.npz")
    assert (splits.num_classes, splits.augment) == (2, "none")
    for images, labels in splits.train.batches(7, augment=True):
        assert torch.equal(labels, ((images[:, 0] * splits.std[0] + splits.mean[0]) > 0.5).long())
    assert splits.train[0][1].shape == (8, 9)
    with pytest.raises(UsageError, match="cannot be resized"):
        data.load(tmp_path / "dense.npz", image_size=16)


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, 0.99])
def test_damaged_npz_is_one_line(tmp_path: Path, keep: float) -> None:
    np.savez_compressed(tmp_path / "whole.npz", x=RNG.random((30, 8, 8)), y=np.arange(30) % 2)
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: int(keep * len(content) if keep < 1 else keep)])
    with pytest.raises(ArtefactError, match=r"cut\.npz is damaged") as error:
        data.load(tmp_path / "cut.npz")
    one_line(error)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((5, 4, 4)), "y": np.arange(4)}, "5 examples and 4 labels"),
        ({"x": np.zeros((6, 4, 4)), "y": np.zeros(6, int)}, "one class only"),
        ({"x": np.full((6, 4, 4), np.nan), "y": np.arange(6)}, "not finite"),
        ({"x": np.zeros((6, 4, 4)), "y": np.linspace(0, 1, 6)}, "labels are of type float64"),
        ({"x": np.zeros(6), "y": np.arange(6)}, "shape"),
        ({"x": np.array(["a", "b"]), "y": np.arange(2)}, "not numbers"),
        ({"other": np.zeros(3)}, "holds other"),
        ({"x": np.zeros((2, 4, 4)), "y": np.arange(2)}, "too few for three splits"),
        (
            {
                "x_train": np.zeros((9, 4, 4)),
                "y_train": np.arange(9) % 2,
                "x_test": np.zeros((9, 5, 5)),
                "y_test": np.arange(9) % 2,
            },
            "different shapes",
        ),
        (
            {"x_train": np.zeros((9, 4, 4)), "y_train": np.arange(9) % 2, "x_test": np.zeros((9, 4, 4))},
            "some have none",
        ),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=says) as error:
        data.load(tmp_path / "bad.npz")
    assert "\n" not in str(error.value)


# -- IDX


def write_idx(path: Path, array: np.ndarray, *, zipped: bool) -> None:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)


def idx_folder(folder: Path, *, zipped: bool = True, dot: bool = False) -> np.ndarray:
    folder.mkdir()
    x = RNG.integers(0, 256, (60, 7, 9), dtype=np.uint8)
    y = (np.arange(60) % 3).astype(np.uint8)
    end, joint = ".gz" if zipped else "", "." if dot else "-"
    for name, part in (("train", slice(0, 50)), ("t10k", slice(50, 60))):
        write_idx(folder / f"{name}-images{joint}idx3-ubyte{end}", x[part], zipped=zipped)
        write_idx(folder / f"{name}-labels{joint}idx1-ubyte{end}", y[part], zipped=zipped)
    return x


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dot", [True, False])
def test_idx_round_trip(tmp_path: Path, zipped: bool, dot: bool) -> None:
    x = idx_folder(tmp_path / "set", zipped=zipped, dot=dot)
    splits = data.load(tmp_path / "set")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (45, 5, 10)
    seen = pixels(splits.test, splits).flatten(1)
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, x[50:].reshape(10, -1).tolist()))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: c[: len(c) // 2], "is damaged"),
        (lambda c: gzip.compress(gzip.decompress(c)[:-3]), "bytes and should have"),
        (lambda c: gzip.compress(b"nonsense"), "is not an IDX file"),
        (lambda c: b"nonsense", "is damaged"),
        (lambda c: gzip.compress(gzip.decompress(c)[:6]), "cut off in its header"),
    ],
)
def test_damaged_idx_is_one_line(tmp_path: Path, spoil: Callable[[bytes], bytes], says: str) -> None:
    idx_folder(tmp_path / "set")
    file = tmp_path / "set" / "train-images-idx3-ubyte.gz"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ArtefactError, match=says) as error:
        data.load(tmp_path / "set")
    assert "train-images" in one_line(error)


# -- image folders


def test_image_folder_is_split_by_class(make_images: Make) -> None:
    folder = make_images({"ant": 20, "bee": 40})
    splits = data.load(folder)
    assert splits.classes == ("ant", "bee")
    assert splits.shape == (3, 10, 10)
    assert [p.labels.bincount().tolist() for p in (splits.train, splits.val, splits.test)] == [
        [14, 28], [3, 6], [3, 6],
    ]  # fmt: skip
    chosen = torch.cat([p.indices for p in (splits.train, splits.val, splits.test)])
    assert len(chosen.unique()) == 60


def test_image_folder_decodes_what_was_written(make_images: Make) -> None:
    folder = make_images({"a": 10, "b": 10}, size=(8, 8))
    splits = data.load(folder)
    source = splits.train.source
    expected = np.stack([np.asarray(Image.open(source.paths[i])) for i in splits.train.indices])  # type: ignore[attr-defined]
    assert torch.equal(pixels(splits.train, splits), torch.from_numpy(expected).permute(0, 3, 1, 2).float())


def test_splits_of_an_image_folder_are_kept(make_images: Make) -> None:
    folder = make_images({f"{p}/{c}": n for p, n in (("train", 20), ("val", 4), ("test", 3)) for c in "ab"})
    splits = data.load(folder)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (40, 8, 6)
    folder = make_images(
        {f"{p}/{c}": n for p, n in (("train", 20), ("val", 4)) for c in "ab"}, name="imagenet"
    )
    splits = data.load(folder)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 8)


def test_flat_folder_is_unlabelled_and_grey_stays_grey(make_images: Make) -> None:
    splits = data.load(make_images({".": 12}, mode="L"))
    assert not splits.labelled
    assert splits.shape == (1, 10, 10)
    assert splits.classes == ()


def test_image_augmentation_repeats_and_only_when_asked(make_images: Make) -> None:
    splits = data.load(make_images({"a": 12, "b": 12}, size=(30, 20)), image_size=16)

    def batch(**options: object) -> torch.Tensor:
        return torch.cat([x for x, _ in splits.train.batches(5, **options)])  # type: ignore[arg-type]

    plain = batch()
    assert plain.shape[1:] == (3, 16, 16)
    assert torch.equal(plain, batch())
    first = batch(augment=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, batch(augment=True, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(first, plain)


def test_stopping_early_leaves_no_thread_behind(make_images: Make) -> None:
    import threading

    splits = data.load(make_images({"a": 12, "b": 12}))
    before = threading.active_count()
    batches = splits.train.batches(2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_photographs_become_224(make_images: Make) -> None:
    assert data.load(make_images({"a": 4, "b": 4}, size=(300, 260))).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"ant": 5}, "has one class, 'ant'"),
        ({"ant": 5, "bee": 0}, "'bee' of .* has no images"),
        ({}, "no images in"),
    ],
)
def test_image_folder_that_is_no_data_set(
    tmp_path: Path, make_images: Make, tree: dict[str, int], says: str
) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=says) as error:
        data.load(make_images(tree))
    one_line(error)


def test_unreadable_image_is_named_before_anything_starts(make_images: Make) -> None:
    folder = make_images({"a": 5, "b": 5})
    (folder / "b" / "002.png").write_bytes((folder / "b" / "002.png").read_bytes()[:90])
    with pytest.raises(DataError, match=r"b/002\.png is not an image") as error:
        data.load(folder)
    one_line(error)
    (folder / "b" / "002.png").write_text("no picture")
    with pytest.raises(DataError, match=r"b/002\.png is not an image") as error:
        data.load(folder)
    one_line(error)


def test_image_that_breaks_in_its_pixels_is_named(make_images: Make) -> None:
    """A cut JPEG has a whole header; it is found when it is decoded."""
    folder = make_images({"a": 8, "b": 8}, size=(40, 40))
    for png in sorted(folder.rglob("*.png")):
        Image.open(png).save(png.with_suffix(".jpg"))
        png.unlink()
    splits = data.load(folder)
    victim = splits.train.source.paths[int(splits.train.indices[0])]  # type: ignore[attr-defined]
    victim.write_bytes(victim.read_bytes()[:-400])
    with pytest.raises(DataError, match=victim.name) as error:
        next(splits.train.batches(4))
    one_line(error)


# -- what is asked for


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("fashon-mnist", "no data set named 'fashon-mnist'.*did you mean fashion-mnist"),
        ("zzz", "known are digits"),
        ("./missing", "data folder missing does not exist"),
        ("missing.npz", "no file missing.npz"),
        ("efficientnet-lite0", "holds weights or a graph, not examples"),
    ],
)
def test_data_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=says) as error:
        data.load(spec)
    one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="is not a data set"):
        data.load(tmp_path / "notes.txt")


def test_nothing_is_named() -> None:
    with pytest.raises(UsageError, match="no data are named"):
        data.load("")


@pytest.mark.parametrize("options", [{"limit": 0}, {"image_size": 0}, {"statistics": ((0.5, 0.5), (0.5,))}])
def test_arguments_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        data.load("digits", **options)  # type: ignore[arg-type]


# -- digits, which need no fetching


def test_digits_are_stratified_and_decided_by_the_seed() -> None:
    splits = data.load("digits")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1079, 359, 359)
    chosen = torch.cat([p.indices for p in (splits.train, splits.val, splits.test)])
    assert torch.equal(chosen.sort().values, torch.arange(1797))
    assert splits.shape == (1, 8, 8)
    assert splits.augment == "none"
    again, other = data.load("digits"), data.load("digits", seed=1)
    assert torch.equal(again.train.indices, splits.train.indices)
    assert again.fingerprint == splits.fingerprint != other.fingerprint
    (x, _), *_ = splits.train.batches(2000)
    assert abs(float(x.mean())) < 1e-4
    assert abs(float(x.std()) - 1) < 1e-3


def test_limit_takes_every_class_by_its_share() -> None:
    splits, whole = data.load("digits", limit=50), data.load("digits")
    assert splits.train.labels.bincount().tolist() == [5] * 10
    assert len(splits.val) == len(splits.test) == 50
    assert set(splits.train.indices.tolist()) <= set(whole.train.indices.tolist())
    assert splits.fingerprint != whole.fingerprint


def test_images_are_resized_and_statistics_can_be_given() -> None:
    splits = data.load("digits", image_size=32, statistics=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert splits.example(3).shape == (3, 1, 32, 32)
    assert splits.mean == pytest.approx((0.449,))
    assert data.load(splits) is splits
