"""`netwright data`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from netwright.cli import data as command
from netwright.errors import DataError, UsageError


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()

    @made.callback()
    def nothing() -> None:
        """Make the application a group."""

    command.register(made)
    return made


def run(app: typer.Typer, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_list_and_json(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWRIGHT_DATA", str(tmp_path / "none"))
    assert "fashion-mnist" in run(app, "list")
    listed = json.loads(run(app, "list", "--json"))
    assert listed["root"] == str(tmp_path / "none")
    assert {s["name"]: s["fetched"] for s in listed["sets"]}["photos"] is False
    assert not (tmp_path / "none").exists()


def test_fetch_and_path(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWRIGHT_DATA", str(tmp_path))
    assert json.loads(run(app, "fetch", "digits", "--json")) == {"digits": str(tmp_path)}
    with pytest.raises(DataError, match="netwright data fetch photos"):
        run(app, "path", "photos")
    with pytest.raises(UsageError, match="--all-small"):
        run(app, "fetch")
    with pytest.raises(UsageError, match="--archive belongs"):
        run(app, "fetch", "--all-small", "--archive", "x")
