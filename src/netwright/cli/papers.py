"""`netwright papers` and `netwright reproduce`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from netwright.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("papers")(papers)
    app.command("reproduce")(reproduce)


def papers(
    pattern: str = typer.Argument("", help="Words to look for, or a number like '#31'."),
    package: str | None = typer.Option(None, "--package", help="Only papers whose method lives here."),
    state: str | None = typer.Option(None, "--state", help="'implemented' or 'not yet'."),
    evidence: Path = typer.Option(Path("evidence"), "--evidence", help="Folder with evidence of full runs."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    html: Path | None = typer.Option(None, "--html", help="Write the list as an HTML page."),
) -> None:
    """List the 69 papers, what is implemented, and what came of it."""
    from netwright._files import write_text
    from netwright.papers import implemented, listing
    from netwright.papers.page import render

    found = listing(pattern, package, state)
    verdicts = _verdicts(evidence)
    built = {entry.slug: implemented(entry.slug) for entry in found}
    states = {
        slug: (verdicts.get(slug) or "implemented") if there else "not yet" for slug, there in built.items()
    }
    if html is not None:
        write_text(html, render(found, states))
    if as_json:
        rows = [
            {
                "number": e.number,
                "slug": e.slug,
                "title": e.title,
                "package": e.package,
                "what": e.what,
                "state": "implemented" if built[e.slug] else "not yet",
                "verdict": verdicts.get(e.slug) if built[e.slug] else None,
            }
            for e in found
        ]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    _list(found, states)
    if html is not None:
        typer.echo(f"wrote {html}", err=True)


def _verdicts(folder: Path) -> dict[str, str]:
    """Verdict of each slug's ordinary run, where the folder has evidence of it."""
    from netwright.papers import read_folder

    if not folder.is_dir():
        return {}
    return {f["slug"]: f["verdict"] for f in read_folder(folder) if f["verdict"] and not f.get("scope")}


def _list(found: list[Any], states: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right")
    table.add_column("paper", no_wrap=True)
    table.add_column("title")
    table.add_column("package")
    table.add_column("state")
    for e in found:
        style = "" if states[e.slug] != "not yet" else "dim"
        table.add_row(str(e.number), e.slug, e.title, e.package, states[e.slug], style=style)
    console = Console()
    console.print(table)
    done = sum(state != "not yet" for state in states.values())
    console.print(f"{len(found)} papers, {done} implemented", style="dim")


def reproduce(
    slug: str = typer.Argument(..., help="Which paper; `netwright papers` lists them."),
    quick: bool = typer.Option(False, "--quick", help="The same path in seconds; gives no verdict."),
    seed: int = typer.Option(0, "--seed", help="First seed."),
    out: Path = typer.Option(Path("netwright-reproduce"), "--out", "-o", help="Folder for the evidence."),
    data: Path | None = typer.Option(
        None, "--data", help="Your copy of the paper's own data, at full scale."
    ),
    everything: bool = typer.Option(
        False, "--all", help="Also the further arms, whose evidence is a file of its own."
    ),
    device: str = typer.Option("cpu", "--device", help="Where to compute: cpu, cuda, cuda:1 ..."),
    as_json: bool = typer.Option(False, "--json", help="Print the evidence as one JSON document."),
) -> None:
    """Measure a paper's claims and give the verdict they allow."""
    from rich.console import Console

    from netwright.papers import FURTHER, Run, execute, load, save

    paper = load(slug)
    notes = Console(stderr=True, highlight=False)
    if everything and not any(claim.scope == FURTHER for claim in paper.claims):
        raise UsageError(f"{slug} has no further arms", "leave --all out")
    options = ["--quick"] if quick else []
    options += [] if seed == 0 else ["--seed", str(seed)]
    options += [] if device == "cpu" else ["--device", device]
    # The evidence is committed: it names the file, not where it lay on somebody's disk.
    options += [] if data is None else ["--data", data.name]
    documents = []
    for scope in ("", FURTHER) if everything else ("",):
        run = Run(paper, quick=quick, seed=seed, data=data, out=out, device=device, scope=scope)
        run.say = lambda line: notes.print(line, style="dim", markup=False)
        execute(run)
        more = ["--all"] if scope == FURTHER else []
        documents.append(save(run, out, shlex.join(["netwright", "reproduce", slug, *options, *more])))
    if as_json:
        shown = documents if everything else documents[0]
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for found in documents:
        _report(found, Console())


def _report(found: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    from netwright.papers.evidence import cell_text, claim_rows

    for content in found["tables"]:
        shown = Table(
            *content["columns"], title=content["title"], title_justify="left", box=None, pad_edge=False
        )
        for row in content["rows"]:
            shown.add_row(*(cell_text(cell) for cell in row))
        console.print(shown)
        if content["note"]:
            console.print(content["note"], style="dim", markup=False)
        console.print()
    styles = {
        "holds": "green",
        "does not hold": "red",
        "within the noise": "yellow",
        "not measured": "yellow",
    }
    table = Table(title=f"#{found['number']} {found['title']}", title_justify="left", pad_edge=False)
    for column in ("claim", "published", "expected here", "measured", "verdict"):
        table.add_column(column)
    for *cells, state in claim_rows(found):
        table.add_row(*cells, state, style=styles.get(state, "dim"))
    console.print(table)
    for note in found["tried"]:
        console.print(f"tried: {note}", markup=False)
    for note in found.get("undecided", ()):
        console.print(f"undecided: {note}", markup=False)
    reason = f"none ({found['why_no_verdict']})"
    console.print(f"Verdict: {found['verdict'] or reason}", style="bold", markup=False)
