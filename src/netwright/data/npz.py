"""NPZ files: arrays under the usual names, never a pickle."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from netwright.data.raw import Arrays, Raw, from_arrays
from netwright.errors import ArtefactError, DataError

_X = ("x", "X", "images", "data", "features")
_Y = ("y", "Y", "labels", "label", "target", "targets")
_PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read(path: Path, *, name: str | None = None, trust: bool = False) -> Raw:
    """Read an NPZ file.

    Known are ``x`` and ``y`` (also images/labels, data/target), with ``_train``, ``_val``, ``_test`` behind
    or ``train_`` before them; ``classes`` may hold the names.

    Args:
        path: The file.
        name: For people; None takes the file's.
        trust: Whether arrays of Python objects (pickles, which can run code) may be read.

    Raises:
        DataError: if it is missing, or its arrays do not make a data set.
        ArtefactError: if it is damaged or holds a pickle.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}", "give the path of an .npz file")
    try:
        with np.load(path, allow_pickle=trust) as file:
            arrays = {key: file[key] for key in file.files}
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickled" in str(error).lower():
            raise ArtefactError(
                f"{path} holds a pickle, which can run code; refused unless --trust",
                "save plain arrays with numpy.savez",
            ) from error
        raise ArtefactError(f"{path} is damaged or not an NPZ file: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, AttributeError, TypeError) as error:
        raise ArtefactError(
            f"{path} is damaged or not an NPZ file: {error}", "copy or create it again"
        ) from error
    title = name or path.stem
    parts = {part: _part(arrays, aliases) for part, aliases in _PARTS.items()}
    train = parts["train"] or _plain(arrays)
    if train is None:
        raise DataError(
            f"{path} has no examples under a known name; it holds {', '.join(sorted(arrays)) or 'nothing'}",
            "name the arrays x and y, or x_train, y_train, x_test, y_test",
        )
    classes = [str(c) for c in arrays["classes"]] if "classes" in arrays else None
    val, test = parts["val"], parts["test"]
    return from_arrays(title, train, val, test, classes=classes)


def _part(arrays: dict[str, np.ndarray], aliases: tuple[str, ...]) -> Arrays | None:
    def find(names: tuple[str, ...]) -> np.ndarray | None:
        keys = (k for n in names for a in aliases for k in (f"{n}_{a}", f"{a}_{n}"))
        return next((arrays[k] for k in keys if k in arrays), None)

    x = find(_X)
    return None if x is None else (x, find(_Y))


def _plain(arrays: dict[str, np.ndarray]) -> Arrays | None:
    x = next((arrays[k] for k in _X if k in arrays), None)
    return None if x is None else (x, next((arrays[k] for k in _Y if k in arrays), None))
