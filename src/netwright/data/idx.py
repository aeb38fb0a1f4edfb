"""IDX files, the format of MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from netwright.data.raw import Arrays, Raw, from_arrays
from netwright.errors import ArtefactError, DataError

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_TRAIN, _TEST = ("train",), ("t10k", "test")


def is_folder(folder: Path) -> bool:
    """Whether a folder holds IDX files under the names of MNIST."""
    return _find(folder, _TRAIN, "images") is not None


def read(folder: Path, *, name: str | None = None, augment: str = "none") -> Raw:
    """Read train-images-idx3-ubyte, train-labels-idx1-ubyte and the t10k pair, with .gz or without.

    Raises:
        DataError: if a file is missing or does not fit the others.
        ArtefactError: if one is damaged.
    """
    train = _pair(folder, _TRAIN)
    if train is None:
        raise DataError(f"{folder} has no train-images-idx3-ubyte", "keep the names of MNIST")
    return from_arrays(name or folder.resolve().name, train, test=_pair(folder, _TEST), augment=augment)


def _find(folder: Path, prefixes: tuple[str, ...], kind: str) -> Path | None:
    """Return the file of one kind, with the dot or the hyphen that copies of MNIST have."""
    found = (p for prefix in prefixes for p in sorted(folder.glob(f"{prefix}-{kind}[-.]idx*-ubyte*")))
    return next((p for p in found if p.suffix in ("", ".gz") or p.suffix.startswith(".idx")), None)


def _pair(folder: Path, prefixes: tuple[str, ...]) -> Arrays | None:
    images, labels = (_find(folder, prefixes, kind) for kind in ("images", "labels"))
    if images is None:
        return None
    return parse(images), None if labels is None else parse(labels)


def parse(path: Path) -> np.ndarray:
    """Read one IDX file into an array.

    Raises:
        ArtefactError: if it is damaged.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArtefactError(f"{path} is damaged: {error}", "copy or fetch it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise ArtefactError(
            f"{path} is not an IDX file", "its first four bytes must be 0, 0, type, dimensions"
        )
    dims, dtype = content[3], np.dtype(_TYPES[content[2]])
    head = 4 + 4 * dims
    if len(content) < head:
        raise ArtefactError(f"{path} is cut off in its header", "copy or fetch it again")
    shape = struct.unpack(f">{dims}I", content[4:head])
    needed = head + int(np.prod(shape)) * dtype.itemsize
    if len(content) != needed:
        raise ArtefactError(
            f"{path} has {len(content)} bytes and should have {needed}", "copy or fetch it again"
        )
    array = np.frombuffer(content, dtype, offset=head).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
