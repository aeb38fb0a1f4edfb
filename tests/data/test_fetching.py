"""Fetching: checked, whole or not at all, once."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from netwright import data
from netwright.data import fetching, records
from netwright.errors import ArtefactError, DataError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NETWRIGHT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


MEMBERS = {"toy/a.txt": b"first", "toy/b.txt": b"second" * 1000, "toy/unwanted.txt": b"third"}


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarball(mode: str, prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def deb() -> bytes:
    content = b"!<arch>\n"
    for name, part in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd"),
        ("data.tar.xz", tarball("w:xz", "./")),
    ):
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode()
            + part
            + b"\n" * (len(part) % 2)
        )
    return content


ARCHIVES = {"pypi": wheel(), "npm": tarball("w:gz"), "deb": deb()}


def toy(source: str, content: bytes) -> records.Record:
    return records.Record(
        name="toy",
        title="a toy",
        source=source,  # type: ignore[arg-type]
        package="toy",
        version="1.0",
        licence="none",
        citation="none",
        loader="",
        archive="toy.archive",
        sha256=hashlib.sha256(content).hexdigest(),
        members=("toy/a.txt", "toy/b.txt"),
    )


def register(monkeypatch: pytest.MonkeyPatch, source: str, content: bytes) -> records.Record:
    made = toy(source, content)
    monkeypatch.setattr(records, "RECORDS", (*records.RECORDS, made))
    return made


@pytest.mark.parametrize("source", ["pypi", "npm", "deb"])
def test_only_the_listed_members_appear(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    register(monkeypatch, source, ARCHIVES[source])
    (tmp_path / "given").write_bytes(ARCHIVES[source])
    folder = data.fetch("toy", archive=tmp_path / "given")
    assert folder == root / "toy" == data.path("toy")
    assert sorted(p.name for p in folder.iterdir()) == ["a.txt", "b.txt", "record.json"]
    assert (folder / "b.txt").read_bytes() == MEMBERS["toy/b.txt"]
    assert json.loads((folder / "record.json").read_text())["version"] == "1.0"
    assert [p.name for p in root.iterdir()] == ["toy"]


def test_wrong_digest_leaves_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "pypi", ARCHIVES["pypi"])
    (tmp_path / "given").write_bytes(ARCHIVES["pypi"] + b"!")
    with pytest.raises(ArtefactError, match="the catalogue says"):
        data.fetch("toy", archive=tmp_path / "given")
    assert list(root.iterdir()) == []
    assert not data.is_fetched("toy")


def test_missing_member_leaves_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = toy("pypi", ARCHIVES["pypi"])
    monkeypatch.setattr(records, "RECORDS", (replace(made, members=("toy/absent.txt",)),))
    (tmp_path / "given").write_bytes(ARCHIVES["pypi"])
    with pytest.raises(ArtefactError, match=r"absent\.txt"):
        data.fetch("toy", archive=tmp_path / "given")
    assert list(root.iterdir()) == []


class Client:
    """Stands for pip, apt-get and npm."""

    def __init__(self, content: bytes = b"", code: int = 0, said: str = "") -> None:
        self.content, self.code, self.said = content, code, said
        self.calls: list[list[str]] = []

    def __call__(
        self, command: list[str], *, cwd: Path, **options: object
    ) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if self.code == 0:
            (Path(cwd) / "toy.archive").write_bytes(self.content)
        return subprocess.CompletedProcess(command, self.code, "", self.said)


def use(monkeypatch: pytest.MonkeyPatch, client: Client) -> Client:
    monkeypatch.setattr(fetching.subprocess, "run", client)
    return client


@pytest.mark.parametrize(
    ("source", "begins", "contains"),
    [
        ("pypi", [sys.executable, "-m", "pip", "download"], ["--no-deps", "--only-binary=:all:", "toy==1.0"]),
        ("deb", ["apt-get", "download"], ["toy=1.0"]),
        ("npm", ["npm", "pack"], ["toy@1.0"]),
    ],
)
def test_the_ordinary_client_is_asked_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, source: str, begins: list[str], contains: list[str]
) -> None:
    register(monkeypatch, source, ARCHIVES[source])
    client = use(monkeypatch, Client(ARCHIVES[source]))
    assert data.fetch("toy") == data.fetch("toy")
    assert len(client.calls) == 1
    assert client.calls[0][: len(begins)] == begins
    assert set(contains) <= set(client.calls[0])


def test_a_damaged_set_is_fetched_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "pypi", ARCHIVES["pypi"])
    client = use(monkeypatch, Client(ARCHIVES["pypi"]))
    folder = data.fetch("toy")
    (folder / "a.txt").unlink()
    assert not data.is_fetched("toy")
    data.fetch("toy")
    assert (folder / "a.txt").read_bytes() == b"first"
    (folder / "record.json").write_text("[]")
    data.fetch("toy")
    assert len(client.calls) == 3
    assert [p.name for p in root.iterdir()] == ["toy"]


@pytest.mark.parametrize(
    ("source", "said", "message"),
    [
        ("deb", "E: Version '1.0' for 'toy' was not found", r"do not have toy 1\.0 — run: apt-get update"),
        ("deb", "E: Could not get lock", "apt-get could not fetch toy 1.0: E: Could not get lock"),
        ("pypi", "/usr/bin/python: No module named pip", "run: python -m ensurepip"),
        ("pypi", "WARNING: x\nERROR: no network\n", "pip could not fetch toy 1.0: ERROR: no network"),
        ("npm", "", "npm could not fetch toy 1.0: no reason"),
    ],
)
def test_a_client_that_fails_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str, message: str
) -> None:
    register(monkeypatch, source, b"")
    use(monkeypatch, Client(code=1, said=said))
    with pytest.raises(DataError, match=message) as error:
        data.fetch("toy")
    assert "\n" not in str(error.value)
    assert list(root.iterdir()) == []


def test_what_a_killed_process_left_is_swept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "pypi", ARCHIVES["pypi"])
    use(monkeypatch, Client(ARCHIVES["pypi"]))
    for name, age in ((".toy-old", 1e5), (".toy-young", 0)):
        (root / name / "set").mkdir(parents=True)
        os.utime(root / name, (time.time() - age,) * 2)
    data.fetch("toy")
    assert sorted(p.name for p in root.iterdir()) == [".toy-young", "toy"]


def test_a_client_that_is_not_installed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "npm", b"")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"with npm, which is not installed — .*--archive FILE"):
        data.fetch("toy")


def test_offline_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWRIGHT_OFFLINE", "1")
    with pytest.raises(DataError, match="NETWRIGHT_OFFLINE"):
        data.load("fashion-mnist")


def test_path_of_what_is_not_there(root: Path) -> None:
    with pytest.raises(DataError, match="run: netwright data fetch photos"):
        data.path("photos")
    with pytest.raises(DataError, match="has no folder"):
        data.path("digits")
    with pytest.raises(DataError, match="did you mean photos"):
        data.path("photo")
    assert not root.exists()


def test_a_root_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NETWRIGHT_DATA", str(tmp_path / "file"))
    with pytest.raises(ArtefactError, match=r"fetching photos to .* set NETWRIGHT_DATA"):
        data.fetch("photos")


def test_a_full_disk_leaves_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "pypi", ARCHIVES["pypi"])
    (tmp_path / "given").write_bytes(ARCHIVES["pypi"])

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtefactError, match="no space left on the disk while fetching toy"):
        data.fetch("toy", archive=tmp_path / "given")
    assert list(root.iterdir()) == []


def _fetch_toy(archive: str, folder: str, content: bytes, start: float) -> None:
    os.environ["NETWRIGHT_DATA"] = folder
    records.RECORDS = (toy("pypi", content),)
    time.sleep(max(0.0, start - time.time()))
    for _ in range(20):
        assert data.fetch("toy", archive=archive) == Path(folder) / "toy"
        assert (Path(folder) / "toy" / "b.txt").read_bytes() == MEMBERS["toy/b.txt"]


def test_processes_that_fetch_at_once(root: Path, tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(ARCHIVES["pypi"])
    context = multiprocessing.get_context("fork")
    start = time.time() + 0.3
    workers = [
        context.Process(target=_fetch_toy, args=(str(tmp_path / "given"), str(root), ARCHIVES["pypi"], start))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 4
    assert [p.name for p in root.iterdir()] == ["toy"]


def test_the_catalogue_is_whole() -> None:
    names = [r.name for r in data.catalogue()]
    assert len(set(names)) == len(names) >= 6
    for record in data.catalogue():
        assert record.title
        assert record.licence
        assert record.citation
        if record.source in ("pypi", "deb", "npm"):
            assert len(record.sha256) == 64
            assert record.members
            assert record.size > 0
            assert len({Path(m).name for m in record.members}) == len(record.members)
