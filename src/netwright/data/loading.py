"""From a name, a path or a callable to three normalised splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from netwright.data import builtin, folders, huggingface, idx, npz, users
from netwright.data.callables import is_callable_spec
from netwright.data.items import DatasetSource
from netwright.data.parts import Part, Splits
from netwright.data.raw import Raw, digest
from netwright.data.records import RECORDS, nearest
from netwright.data.sources import ArraySource, Source
from netwright.data.splitting import hold_out, share, three_way
from netwright.errors import DataError, UsageError

_VAL_SHARE = 0.1


def load(
    spec: str | Path | Splits,
    *,
    seed: int = 0,
    limit: int | None = None,
    image_size: int | None = None,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    trust: bool = False,
) -> Splits:
    """Load a data set as three fixed splits, normalised by the mean and deviation of the training split.

    Candidates are judged on validation data; test data are touched once, at the end. A set's own test split
    is kept; validation is held out from train, class by class.

    Args:
        spec: A name of the catalogue (fetched where missing), an image folder, an .npz file, a folder of IDX
            files, a Hugging Face data set on disk, ``file.py:callable``, or splits (returned as they are,
            or limited).
        seed: Of the split and the order.
        limit: At most this many examples in each split, class by class.
        image_size: Height and width that images are resized to; None leaves them, photographs become 224.
        statistics: Mean and deviation by channel, where a pretrained network expects its own.
        trust: Whether an .npz file may hold pickles.

    Raises:
        DataError: if the data are missing, empty, or do not fit together.
        ArtefactError: if a file is damaged or not to be trusted.
        UsageError: if an argument makes no sense.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} leaves no examples", "give at least 1")
    if image_size is not None and image_size < 1:
        raise UsageError(f"an image size of {image_size} is too small", "give at least 1")
    raw = spec if isinstance(spec, Splits) else _read(str(spec), image_size, trust)
    splits = raw if isinstance(raw, Splits) else _split(raw, seed, image_size, statistics)
    return splits if limit is None else _limited(splits, limit, seed)


def _read(spec: str, image_size: int | None, trust: bool) -> Raw | Splits:
    if not spec.strip():
        raise UsageError("no data are named", "give a name, a folder, a file or file.py:callable")
    if spec in {r.name for r in RECORDS}:
        return builtin.read(spec, image_size)
    if is_callable_spec(spec):
        return users.read(spec)
    path = Path(spec).expanduser()
    if path.suffix.lower() == ".npz":
        return npz.read(path, trust=trust)
    if path.is_dir():
        if huggingface.is_folder(path):
            return huggingface.read(path, image_size)
        return idx.read(path) if idx.is_folder(path) else folders.read(path, image_size)
    if path.is_file():
        raise DataError(f"{path} is not a data set", "give a folder of images or IDX files, or an .npz file")
    if path.suffix or len(path.parts) > 1 or spec.startswith((".", "~")):
        raise DataError(f"the data folder {path} does not exist", "check the path")
    raise DataError(f"there is no data set named {spec!r}, and no such folder", nearest(spec))


def _split(
    raw: Raw,
    seed: int,
    image_size: int | None,
    statistics: tuple[Sequence[float], Sequence[float]] | None,
) -> Splits:
    train, val, test = (
        None if s is None else Part(_resized(s, image_size)) for s in (raw.train, raw.val, raw.test)
    )
    assert train is not None
    _check_classes(raw, [p for p in (train, val, test) if p is not None])
    if test is None and val is None:
        a, b, c = three_way(train.labels, raw.fractions, seed)
        train, val, test = train.subset(a), train.subset(b), train.subset(c)
    elif test is None:
        rest, held = hold_out(train.labels, share(len(train), _VAL_SHARE), seed)
        train, test = train.subset(rest), train.subset(held)
    elif val is None:
        rest, held = hold_out(train.labels, raw.val_count or share(len(train), _VAL_SHARE), seed)
        train, val = train.subset(rest), train.subset(held)
    assert val is not None
    assert test is not None
    parts = [_mixed(p, seed + 2 + i) for i, p in enumerate((train, val, test))]
    if any(len(p) == 0 for p in parts):
        total = sum(len(p) for p in parts)
        raise DataError(
            f"{raw.name} has {total} examples, too few for three splits", "give at least one for each"
        )
    mean, std = _statistics(raw, parts[0], statistics)
    if mean:
        parts = _normalised(parts, mean, std)
    how = digest(raw.content, f"{raw.name}|{seed}|{image_size}|{mean}|{std}")
    return Splits(raw.name, parts[0], parts[1], parts[2], raw.classes, raw.augment, how, mean, std)


def _mixed(part: Part, seed: int) -> Part:
    """Shuffle a split once: many sets are sorted by class, and the first examples should show them all."""
    return part.subset(torch.randperm(len(part), generator=torch.Generator().manual_seed(seed)))


def _resized(source: Source, size: int | None) -> Source:
    if size is not None and isinstance(source, ArraySource) and source.labels.dim() > 1:
        raise UsageError("images with a class for every pixel cannot be resized", "leave out the image size")
    if size is None or not isinstance(source, (ArraySource, DatasetSource)) or len(source.shape) != 3:
        return source
    return dataclasses.replace(source, size=size)


def _statistics(
    raw: Raw, train: Part, asked: tuple[Sequence[float], Sequence[float]] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if asked is None and raw.as_is:
        return (), ()
    given = asked or raw.statistics or train.source.statistics(train.indices)
    mean, std = tuple(map(float, given[0])), tuple(map(float, given[1]))
    channels = train.shape[0] if len(train.shape) >= 3 else train.shape[-1]
    if len(mean) == len(std) == channels:
        return mean, std
    if asked is not None and channels == 1 and len(mean) == len(std):
        return (sum(mean) / len(mean),), (sum(std) / len(std),)
    raise UsageError(f"statistics for {len(mean)} channels do not fit the {channels} of {raw.name}")


def _normalised(parts: list[Part], mean: Sequence[float], std: Sequence[float]) -> list[Part]:
    """Normalise the parts; those that share a source share it afterwards."""
    sources = {id(p.source): p.source.normalised(mean, std) for p in parts}
    return [Part(sources[id(p.source)], p.indices) for p in parts]


def _check_classes(raw: Raw, parts: list[Part]) -> None:
    if not parts[0].labelled:
        return
    used = torch.cat([p.labels.flatten() for p in parts]).unique()
    used = used[used >= 0]
    if len(used) < 2:
        raise DataError(f"{raw.name} has one class only", "a classifier needs at least two")
    if int(used[-1]) >= len(raw.classes):
        raise DataError(
            f"{raw.name} has the class number {int(used[-1])} and {len(raw.classes)} class names",
            "class numbers begin at 0",
        )


def _limited(splits: Splits, limit: int, seed: int) -> Splits:
    def fewer(part: Part) -> Part:
        return part if len(part) <= limit else part.subset(hold_out(part.labels, limit, seed)[1])

    return dataclasses.replace(
        splits,
        train=fewer(splits.train),
        val=fewer(splits.val),
        test=fewer(splits.test),
        fingerprint=digest(splits.fingerprint, f"limit={limit}|{seed}"),
    )
