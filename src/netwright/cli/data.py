"""`netwright data`: what there is, fetching it once, and where it lies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from netwright.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(no_args_is_help=True, help="Real data sets: list them, fetch them, find them.")
    family.command("list")(list_sets)
    family.command("fetch")(fetch_sets)
    family.command("path")(show_path)
    app.add_typer(family, name="data")


def list_sets(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the data sets and weights that can be fetched, and which are there."""
    from netwright import data

    if as_json:
        records = [{**r.to_dict(), "fetched": data.is_fetched(r.name)} for r in data.catalogue()]
        print(json.dumps({"root": str(data.root()), "sets": records}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "there", "MB", "from", "contents"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "MB" else "left")
    for record in data.catalogue():
        there = "yes" if data.is_fetched(record.name) else "no"
        size = f"{record.size / 1e6:.1f}" if record.size else "-"
        table.add_row(record.name, there, size, record.source, record.title)
    Console().print(table)
    print(f"They are kept in {data.root()} (set NETWRIGHT_DATA to choose another folder).", file=sys.stderr)


def fetch_sets(
    name: Annotated[str | None, typer.Argument(help="Name of a data set.")] = None,
    all_small: Annotated[bool, typer.Option("--all-small", help="Fetch every small set.")] = False,
    archive: Annotated[
        Path | None, typer.Option("--archive", help="The archive, downloaded by other means.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fetch a data set with the ordinary client of its package, check it, and keep its files."""
    from netwright import data

    if (name is None) == (not all_small):
        raise UsageError("give the name of one data set, or --all-small", "run: netwright data list")
    if all_small and archive is not None:
        raise UsageError("--archive belongs to one data set", "give its name instead of --all-small")
    names = [name] if name is not None else [r.name for r in data.catalogue() if r.small]
    folders = {}
    for wanted in names:
        already = data.is_fetched(wanted)
        folders[wanted] = str(data.fetch(wanted, archive=archive))
        print(f"{wanted}: {'already there' if already else 'fetched'}", file=sys.stderr)
        # An embedded set has no folder of its own.
        if not as_json and Path(folders[wanted]) != data.root():
            print(folders[wanted])
    if as_json:
        print(json.dumps(folders, indent=2))


def show_path(
    name: Annotated[str, typer.Argument(help="Name of a fetched data set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the folder of a fetched data set."""
    from netwright import data

    folder = str(data.path(name))
    print(json.dumps({name: folder}) if as_json else folder)
