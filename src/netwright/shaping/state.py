"""The study's folder: whose it is, who is using it, and where things lie in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import netwright
from netwright import _files
from netwright.errors import ArtefactError, from_os_error

MANIFEST = "run.json"


def fingerprint(identity: Mapping[str, Any]) -> str:
    """A short hash of what makes a study this study (model, data, budget, seed, version ...)."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Folder:
    """A study's output folder.

    Args:
        path: The folder; made when the study begins.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def manifest(self) -> Path:
        """Says whose folder it is."""
        return self.path / MANIFEST

    @property
    def database(self) -> Path:
        """The Optuna study, where no other storage was given."""
        return self.path / "study.db"

    @property
    def models(self) -> Path:
        """The networks on the front."""
        return self.path / "models"

    def cache(self, key: str) -> Path:
        """Everything about one network: weights, exported files, outcomes."""
        return self.path / "cache" / key

    def claim(self, identity: Mapping[str, Any], notes: Mapping[str, Any]) -> bool:
        """Take the folder for a study; True if the same study was here before.

        Args:
            identity: What makes the study this study.
            notes: More to write into the manifest (command, versions); it may differ between runs.

        Raises:
            ArtefactError: if it belongs to another study, or holds other files.
        """
        known = self.check(identity)
        if not known:
            value = {"netwright": netwright.__version__, "fingerprint": fingerprint(identity)}
            _files.write_json(self.manifest, {**value, "identity": dict(identity), **notes})
        _files.sweep(self.path)
        return known

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Whether the same study was here before; writes nothing.

        Raises:
            ArtefactError: as `claim`.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ArtefactError(f"{self.path} is a file, not a folder", "choose another folder with --out")
        if not self.manifest.exists():
            there = list(self.path.iterdir()) if self.path.exists() else []
            rest = [p for p in there if p.name != "run.lock" and not p.name.startswith(".run-")]
            if rest:
                raise ArtefactError(
                    f"{self.path} is not empty and holds no Netwright study ({rest[0].name}, ...)",
                    "choose another folder with --out",
                )
            return False
        known = self.read()
        if known.get("fingerprint") == fingerprint(identity):
            return True
        before = known.get("identity", {})
        changed = [k for k in identity if json.dumps(identity[k], default=str) != json.dumps(before.get(k))]
        raise ArtefactError(
            f"{self.path} belongs to another study (its {', '.join(changed) or 'version'} differs)",
            "choose another folder with --out, or delete this one",
        )

    def read(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            ArtefactError: if it is not one.
        """
        try:
            value = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise ArtefactError(f"{self.manifest} is corrupt", "choose another folder with --out") from error
        if not isinstance(value, dict):
            raise ArtefactError(f"{self.manifest} is corrupt", "choose another folder with --out")
        return value

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder, so that two runs do not write into it at once; a dead process's hold ends with it.

        Raises:
            ArtefactError: if another run holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise from_os_error(error, f"opening {self.path}") from error
        try:
            _hold(handle, self.path)
            yield
        finally:
            os.close(handle)


def _hold(handle: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # a system without advisory locks
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ArtefactError(
            f"another run is using {path}", "wait for it, or choose another folder"
        ) from error
