"""`netwright inspect`: what is tied in a network, what it costs, what can be removed together."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from netwright.cli.measure import parse_shape
from netwright.cli.opening import SHAPE_HINT, check_output, open_model
from netwright.errors import ModelError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    model: str = typer.Argument(..., metavar="MODEL", help="A model's name, or file.py:callable."),
    input_shape: str | None = typer.Option(None, help="Shape of one example, for instance 3,224,224."),
    html: Path | None = typer.Option(None, help="Also draw it: a page that opens in any browser."),
    everything: bool = typer.Option(False, "--all", help="Leave nothing out of the tables."),
    exclude: list[str] = typer.Option([], help="Module or parameter to leave alone; may be repeated."),
    heads: str = typer.Option(
        "whole", help="Attention heads go whole, or all shrink in width: whole, width."
    ),
    num_classes: int | None = typer.Option(None, min=1, help="Classes of the model."),
    weights: Path | None = typer.Option(None, help="Weights to load (safetensors)."),
    trust: bool = typer.Option(False, "--trust", help="Allow weights that run code when they are loaded."),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout, complete."),
) -> None:
    """Show a network's layers, costs and tied axes: what can be removed together, and why the rest cannot."""
    from netwright import structure
    from netwright.structure import draw, facts, picture

    if html is not None:
        check_output(html, "--html")
    opened = open_model(model, None, parse_shape(input_shape), weights, False, num_classes, trust, seed=0)
    try:
        net = structure.trace(opened.loaded.model, opened.example, exclude=exclude, heads=heads)
    except ModelError as error:
        raise ModelError(error.message, SHAPE_HINT) from error
    if html is not None:
        picture.draw(net, html, title=opened.loaded.name)
    if as_json:
        print(json.dumps({"name": opened.loaded.name, **facts.describe(net)}, indent=2))
    else:
        print(draw.table(net, everything))
    if html is not None:
        print(f"drawn: {html}", file=sys.stderr if as_json else sys.stdout)
