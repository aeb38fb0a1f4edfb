"""Files are written to a temporary name beside their target and renamed: none is ever half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from netwright.errors import from_os_error


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it over the target on success, remove it on
    failure.

    The temporary name keeps the target's suffix, because some writers choose their format by it. The bytes
    are flushed to the disk before the rename.

    Raises:
        ArtefactError: if the operating system refuses (no space, no permission).
    """
    target = Path(path)
    handle = temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem}-", suffix=f".tmp{target.suffix}", dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise from_os_error(error, f"writing {target}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write text atomically (UTF-8) and return the path."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write a value as indented JSON atomically and return the path."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n")


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors atomically as safetensors and return the path.

    Args:
        path: The file.
        tensors: Contiguous tensors on the CPU that share no memory.

    Raises:
        ArtefactError: if the operating system refuses (no space, no permission).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # it wraps what the operating system said
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
    return Path(path)


def sweep(folder: str | os.PathLike[str]) -> int:
    """Remove temporary files that a killed process left in a folder; returns how many."""
    left = [p for p in Path(folder).rglob(".*.tmp*") if p.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)
