"""`netwright bench`: the exhaustive tables that rankings are judged by."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Exhaustively trained spaces: list or rebuild the tables.")
    group.command("list")(list_tables)
    group.command("build")(build_table)
    app.add_typer(group, name="bench")


def list_tables() -> None:
    """List the tables with the noise that is left in them."""
    from rich.console import Console
    from rich.table import Table

    from netwright.nas.bench import TabularBench, benches
    from netwright.papers.benches import BENCHES

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("bench", "networks", "seeds", "accuracy, %", "noise, points", "ceiling", "what"):
        table.add_column(column)
    for name, bench in BENCHES.items():
        if name not in benches():
            table.add_row(name, f"{bench.space.size():,}", "", "", "", "not built", bench.about)
            continue
        found = TabularBench.load(name)
        low, high = 100 * found.truth.min(), 100 * found.truth.max()
        table.add_row(
            name,
            f"{len(found):,}",
            str(len(found.seeds)),
            f"{low:.1f} to {high:.1f}",
            f"{100 * found.noise:.2f}",
            f"{found.ceiling:.2f}",
            bench.about,
        )
    Console().print(table)


def build_table(
    name: str = typer.Argument(..., help="Which bench; `netwright bench list` lists them."),
    out: Path | None = typer.Option(None, "--out", "-o", help="File of the table; NAME.json when not given."),
    seeds: int | None = typer.Option(None, "--seeds", help="Trainings of each network."),
) -> None:
    """Train every network of a space; the same command goes on where it was stopped."""
    from netwright.papers import benches

    path = Path(f"{benches.find(name).name}.json") if out is None else out
    table = benches.build(
        name,
        path,
        seeds=None if seeds is None else range(seeds),
        say=lambda line: typer.echo(line, err=True),
    )
    typer.echo(f"{path}: {len(table)} networks, {len(table.seeds)} seeds, noise ceiling {table.ceiling:.3f}")
