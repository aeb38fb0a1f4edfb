"""`netwright shape`: the main job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from netwright.errors import UsageError

if TYPE_CHECKING:
    from netwright.shaping import Front


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("shape")(shape)


def shape(
    model: str = typer.Argument("resnet8", help="A name in the zoo, or file.py:callable."),
    data: str = typer.Option(
        "digits", help="A registered set, an image folder, a file, or file.py:callable."
    ),
    budget: str = typer.Option("none", help='For instance "latency<=0.5, accuracy>=-1%".'),
    trials: int | None = typer.Option(None, help="Number of candidates (20)."),
    workers: int = typer.Option(1, help="Evaluations at a time, in processes of this machine."),
    ray: str | None = typer.Option(
        None, help='Evaluate on Ray: "local", "auto" or the address of a cluster.'
    ),
    device: str = typer.Option("auto", help="Where to train: auto, cpu, cuda, mps."),
    storage: str | None = typer.Option(None, help="SQL URL of the Optuna study (OUT/study.db)."),
    out: Path = typer.Option(Path("netwright-out"), help="Folder for everything that is written."),
    seed: int = typer.Option(0, help="Decides splits, training and search."),
    recovery: int | None = typer.Option(
        None, help="Epochs of training for each candidate; 0 repairs without any."
    ),
    epochs: int | None = typer.Option(None, help="Epochs of the dense network's training."),
    recipe: Path | None = typer.Option(None, help="JSON file with fields of the training recipe."),
    weights: Path | None = typer.Option(None, help="Weights of the dense network (safetensors)."),
    pretrained: bool = typer.Option(False, "--pretrained", help="Take the zoo's own weights."),
    threads: int = typer.Option(1, help="Threads of ONNX Runtime when files are measured."),
    sampler: str = typer.Option("tpe", help="How candidates are chosen: tpe, nsga2, random."),
    image_size: int | None = typer.Option(None, help="Side of the images."),
    limit: int | None = typer.Option(None, help="Most examples of each split."),
    trust: bool = typer.Option(False, "--trust", help="Allow files that can run code when opened."),
    choose: list[str] = typer.Option(
        [],
        "--choose",
        help="Limit what is searched, for instance importance=magnitude,taylor (also allocation, repair, "
        "schedule).",
    ),
    elastic: bool = typer.Option(
        False, "--elastic", help="Train one supernet and cut the candidates out of it; none recovers alone."
    ),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Say nothing but errors."),
    as_json: bool = typer.Option(False, "--json", help="Print the front as one JSON document."),
) -> None:
    """Find right-sized versions of a network: pruned, recovered, quantised, exported and measured.

    Without arguments: a small ResNet on handwritten digits. The same command again resumes where it was
    stopped. Exit codes: 0 done, 2 bad input, 3 no candidate meets the budget, 130 stopped.
    """
    from netwright import shaping

    front = shaping.shape(
        model,
        data,
        budget,
        trials=trials,
        workers=workers,
        ray=ray,
        device=device,
        storage=storage,
        out=out,
        seed=seed,
        recovery=recovery,
        epochs=epochs,
        recipe=None if recipe is None else read_recipe(recipe),
        weights=weights,
        pretrained=pretrained,
        threads=threads,
        sampler=sampler,
        image_size=image_size,
        limit=limit,
        trust=trust,
        choices=_choices(choose),
        elastic=elastic,
        progress=shaping.Reporter() if quiet else shaping.Console(),
    )
    if as_json:
        print(json.dumps(front.to_json(), indent=2))
    elif not quiet:
        _table(front)
    if not front.met:
        error = shaping.over_budget(front)
        typer.echo(f"netwright: {error}", err=True)
        raise typer.Exit(3)


def _choices(given: list[str]) -> dict[str, list[str]]:
    """Read ``kind=name,name`` options."""
    found: dict[str, list[str]] = {}
    for text in given:
        kind, sign, names = text.partition("=")
        if not sign or not names:
            raise UsageError(f"--choose {text} is not understood", "write importance=magnitude,taylor")
        found.setdefault(kind.strip(), []).extend(n.strip() for n in names.split(","))
    return found


def read_recipe(path: Path) -> dict[str, Any]:
    """Fields of a training recipe from a JSON file.

    Raises:
        UsageError: if the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the recipe {path} cannot be read: {error.strerror}", "check the path") from error
    except ValueError as error:
        raise UsageError(f"the recipe {path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"the recipe {path} is not a JSON object")
    return value


def _table(front: Front) -> None:
    """Print the front as a table."""
    from rich.console import Console
    from rich.table import Table

    from netwright.shaping.report import against_dense, count, legend, milliseconds, percent, remark, size

    table = Table(box=None, header_style="bold", pad_edge=False)
    quality = str(front.info["quality"])
    for column in ("network", quality, "change", "latency", "speed", "MACs", "file", ""):
        table.add_column(column, justify="left" if column in ("network", "") else "right")
    for network in front.networks:
        mark = " ←" if network.recommended else ""
        table.add_row(
            f"{network.name}{mark}",
            percent(network.quality),
            against_dense(network),
            milliseconds(network.latency_ms),
            f"{1 / max(network.ratio, 1e-9):.2f}×",
            f"{count(network.outcome.macs)} ({percent(network.outcome.macs / front.dense.outcome.macs, 0)})",
            size(network.outcome.size),
            remark(network) if network.on_front else "",
            style=None if network.on_front else "dim",
        )
    console = Console(highlight=False)
    console.print(table)
    if legend(front):
        console.print(f"[dim]{legend(front)}[/dim]")
    kept = sum(bool(n.reasons) for n in front)
    noise = f": {len(front) - kept} plainly, {kept} for the reason beside them" if kept else ""
    console.print(
        f"{len(front)} networks on the front{noise} · {front.folder / 'report.html'}", soft_wrap=True
    )
