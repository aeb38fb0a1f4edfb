"""`netwright inspect` and `netwright prune`: what is tied in a network, and a smaller network of it."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from netwright.cli.measure import format_bytes, parse_shape
from netwright.errors import ArtefactError, ModelError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from netwright.data import Splits
    from netwright.models import Loaded
    from netwright.pruning import Pruned
    from netwright.structure import Budget, Inputs

_ONNX, _SAFETENSORS = ".onnx", ".safetensors"
#: Endings of files that are not written: a folder of such a name would only confuse.
_OTHER_FILES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".npz", ".h5", ".pb", ".tflite", ".json", ".zip")
_SHAPE_HINT = "say the shape of one example with --input-shape, for instance 3,32,32"
_AXES = 20
_WIDTH = 110
_INDENT: dict[str, Any] = {
    "initial_indent": "  ",
    "subsequent_indent": "    ",
    "break_long_words": False,
    "break_on_hyphens": False,
}


@dataclass(frozen=True)
class _Opened:
    """A network, an example for it, and the data that both were fitted to."""

    loaded: Loaded
    example: Tensor | Inputs
    splits: Splits | None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("inspect")(inspect)
    app.command("prune")(prune)


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
        _check_output(html, "--html")
    opened = _open(model, None, parse_shape(input_shape), weights, False, num_classes, trust, seed=0)
    try:
        net = structure.trace(opened.loaded.model, opened.example, exclude=exclude, heads=heads)
    except ModelError as error:
        raise ModelError(error.message, _SHAPE_HINT) from error
    if html is not None:
        picture.draw(net, html, title=opened.loaded.name)
    if as_json:
        print(json.dumps({"name": opened.loaded.name, **facts.describe(net)}, indent=2))
    else:
        print(draw.table(net, everything))
    if html is not None:
        print(f"drawn: {html}", file=sys.stderr if as_json else sys.stdout)


def prune(
    model: str = typer.Argument(..., metavar="MODEL", help="A model's name, or file.py:callable."),
    output: Path = typer.Option(
        ..., "-o", "--output", help="NET.onnx, WEIGHTS.safetensors, or a folder that can be loaded again."
    ),
    budget: str | None = typer.Option(None, help='For instance "macs=0.5" or "params=2M, latency=8ms".'),
    keep: str | None = typer.Option(None, help="Instead of a budget: share of the axes that stays."),
    importance: str = typer.Option("magnitude", help="How what stays is chosen."),
    allocation: str = typer.Option("global", help="How the budget is spread over the axes: global, uniform."),
    repair: str = typer.Option("auto", help="What mends the weights that stay: auto, none, bn, obs."),
    data: str | None = typer.Option(None, help="Data for the importance and the repair."),
    exclude: list[str] = typer.Option([], help="Module or parameter to leave alone; may be repeated."),
    round_to: int | None = typer.Option(None, help="Widths are multiples of this (8 on wide axes)."),
    heads: str = typer.Option(
        "auto",
        help="How attention shrinks: whole heads, their width, or what the code holds (whole, width, auto).",
    ),
    seed: int = typer.Option(0, help="Decides what is drawn at random."),
    input_shape: str | None = typer.Option(None, help="Shape of one example, for instance 3,224,224."),
    num_classes: int | None = typer.Option(None, min=1, help="Classes of the model."),
    weights: Path | None = typer.Option(None, help="Weights of the model (safetensors)."),
    pretrained: bool = typer.Option(False, "--pretrained", help="Take the zoo's own weights."),
    trust: bool = typer.Option(False, "--trust", help="Allow files that can run code when opened."),
    everything: bool = typer.Option(False, "--all", help="Show every axis."),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Remove the least important channels, heads and features of a network until it fits a budget."""
    from netwright import pruning

    limits = _budget(budget, keep)
    if data is not None and input_shape is not None:
        raise UsageError("--data and --input-shape are both given", "the data have a shape: leave it out")
    kind = _check_output(output, "-o")
    graph = model.lower().endswith(_ONNX)
    if graph and kind != "onnx":
        raise UsageError(f"{output}: what comes of an ONNX graph is one", "give -o NET.onnx")
    source = Path(model) if graph else weights
    if source is not None and output.resolve() == source.resolve():
        raise UsageError(f"the output {output} is the input", "choose another name with -o")
    opened = _open(model, data, parse_shape(input_shape), weights, pretrained, num_classes, trust, seed)
    try:
        pruned = pruning.prune(
            opened.loaded.model,
            opened.example,
            limits,
            importance=importance,
            allocation=allocation,
            repair=repair,
            data=None if opened.splits is None else opened.splits.train,
            seed=seed,
            exclude=exclude,
            round_to=round_to,
            heads=heads,
        )
    except ModelError as error:
        guessed = opened.splits is None and error.hint is not None
        raise (ModelError(error.message, _SHAPE_HINT) if guessed else error) from error
    _write(pruned, output, kind, opened.example)
    notes = [*opened.loaded.notes, *pruned.notes]
    if opened.loaded.source not in ("file", "object") and not opened.loaded.pretrained:
        notes.append("the weights are those the network starts with; give trained ones with --weights")
    if as_json:
        print(json.dumps(_document(opened.loaded.name, pruned, output, notes), indent=2))
    else:
        _show(pruned, output, notes, everything)


def _budget(budget: str | None, keep: str | None) -> Budget:
    from netwright.structure import Budget

    if budget is not None and keep is not None:
        raise UsageError("both --budget and --keep are given", "give one of them")
    if keep is not None:
        return Budget(keep=keep)
    if budget is None:
        raise UsageError("how small is not said", 'give --budget "macs=0.5" or --keep 0.5')
    return Budget.parse(budget)


def _check_output(path: Path, option: str) -> str:
    """Find out what is to be written, and refuse early what cannot be: the work before may take long.

    Returns:
        "onnx", "safetensors", "folder" or, for any other file, "page".
    """
    page = option == "--html"
    suffix = path.suffix.lower()
    file = page or suffix in (_ONNX, _SAFETENSORS)
    if not page and suffix in _OTHER_FILES:
        raise UsageError(
            f"a {suffix} file is not written", f"{option} takes NET.onnx, WEIGHTS.safetensors or a folder"
        )
    if file and path.is_dir():
        raise UsageError(f"{path} is a folder", f"give the name of a file with {option}")
    if not file and path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file", f"{option} takes NET.onnx, WEIGHTS.safetensors or a folder")
    folder = path.absolute().parent if file else path.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ArtefactError(f"{path} cannot be written: {folder} is not a folder", f"change {option}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ArtefactError(f"{path} cannot be written: no permission in {folder}", f"change {option}")
    return "page" if page else {_ONNX: "onnx", _SAFETENSORS: "safetensors"}.get(suffix, "folder")


def _open(
    spec: str,
    data: str | None,
    shape: Sequence[int] | None,
    weights: Path | None,
    pretrained: bool,
    num_classes: int | None,
    trust: bool,
    seed: int,
) -> _Opened:
    """Build the model for the data or the shape, and a batch of two examples for it."""
    import torch

    from netwright import data as datasets
    from netwright import models

    splits = None if data is None else datasets.load(data, seed=seed, trust=trust)
    if spec.lower().endswith(_ONNX):
        for option, given in (
            ("--weights", weights),
            ("--pretrained", pretrained),
            ("--num-classes", num_classes),
        ):
            if given:
                raise UsageError(f"{option} is no option for an ONNX graph", "its weights are in the file")
        return _open_onnx(spec, splits, shape, seed)
    if splits is not None:
        shape = splits.shape
        num_classes = splits.num_classes if num_classes is None and splits.labelled else num_classes
    square = shape is not None and len(shape) == 3 and shape[1] == shape[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded = models.load(
            spec,
            num_classes=num_classes,
            in_channels=3 if shape is None else models.input_channels(tuple(shape)),
            pretrained=pretrained,
            weights=weights,
            trust=trust,
            image_size=shape[1] if shape is not None and square else None,
        )
    if splits is not None and data is not None:
        if loaded.pretrained and loaded.statistics is not None:
            splits = datasets.load(data, seed=seed, trust=trust, statistics=loaded.statistics)
        return _Opened(loaded, splits.example(2), splits)
    if shape is None:
        shape = models.natural_shape(loaded)
    return _Opened(loaded, torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)), None)


def _open_onnx(path: str, splits: Splits | None, shape: Sequence[int] | None, seed: int) -> _Opened:
    """Read an ONNX graph, and make an example of the sizes that it states, or that the data have."""
    from netwright import models
    from netwright.pruning.onnx_files import assumed_sizes
    from netwright.structure.onnx import read_onnx

    network = read_onnx(path)
    shape = splits.shape if splits is not None else shape
    example = network.example(shape=shape, seed=seed)
    notes = tuple(assumed_sizes(network, shape))
    return _Opened(models.Loaded(network, Path(path).name, "file", notes=notes), example, splits)


def _write(pruned: Pruned, path: Path, kind: str, example: Any) -> None:
    """Write the smaller network, complete or not at all."""
    from netwright.structure.onnx import OnnxNetwork

    if isinstance(pruned.model, OnnxNetwork):
        pruned.model.save(path)
    elif kind == "onnx":
        from netwright.quantization import export_onnx

        export_onnx(pruned.model, example, path)
    elif kind == "safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import save_model

        from netwright import _files

        with _files.atomic(path) as temporary:
            try:
                save_model(pruned.model, str(temporary), metadata={"format": "pt"})
            except SafetensorError as error:
                raise ArtefactError(f"{path} cannot be written: {error}", "is the disk full?") from error
    else:
        from netwright.pruning import save_pruned

        save_pruned(pruned, path)


def _document(name: str, pruned: Pruned, output: Path, notes: list[str]) -> dict[str, Any]:
    from netwright.structure import facts

    net = pruned.net
    widths = {axis: {"before": before, "after": after} for axis, (after, before) in pruned.widths.items()}
    frozen = []
    for axis in net.axes:
        if not axis.prunable:
            at = {} if axis.node is None else facts.call(axis.node)
            frozen.append({"axis": axis.name, "reason": axis.reason, **at})
    return {
        "model": name,
        "output": str(output),
        "bytes": _bytes(output),
        "before": vars(pruned.before),
        "after": vars(pruned.after),
        "latency_ms": pruned.latency,
        "axes": widths,
        "frozen": frozen,
        "how": pruned.how,
        "notes": notes,
        "seconds": round(pruned.seconds, 3),
    }


def _bytes(output: Path) -> int:
    """Bytes of what was written: a file (with weights beside it), or the weights in a folder."""
    from netwright.metrics import file_bytes

    if output.is_dir():
        return sum(file.stat().st_size for file in output.glob("*.safetensors"))
    return file_bytes(output) if output.suffix == _ONNX else output.stat().st_size


def _show(pruned: Pruned, output: Path, notes: list[str], everything: bool) -> None:
    """Print what it costs before and after, the axes, and what stayed and why."""
    from rich.console import Console
    from rich.table import Table

    from netwright.structure.draw import bytes_text, count_text, frozen_text
    from netwright.structure.facts import frozen

    before, after = pruned.before, pruned.after
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", "before", "after", "share"):
        table.add_column(heading, justify="left" if not heading else "right")

    def line(name: str, old: float, new: float, text: Any) -> None:
        table.add_row(name, text(old), text(new), f"{new / old:.1%}" if old else "–")

    line("MACs", before.macs, after.macs, count_text)
    line("parameters", before.params, after.params, count_text)
    line("activations", before.activation_bytes, after.activation_bytes, bytes_text)
    if pruned.latency is not None:
        line("latency", pruned.latency["before"], pruned.latency["after"], lambda ms: f"{ms:.3g} ms")
    console = Console(highlight=False)
    console.print(table)
    widths = list(pruned.widths.items())
    shown = widths if everything else [(n, w) for n, w in widths if w[0] < w[1]][:_AXES]
    if shown:
        axes = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("axis", "before", "after", "share"):
            axes.add_column(heading, justify="left" if heading == "axis" else "right", overflow="fold")
        for name, (kept, size) in shown:
            axes.add_row(name, str(size), str(kept), f"{kept / size:.1%}")
        console.print()
        console.print(axes)
    changed = sum(kept < size for _, (kept, size) in widths)
    if len(shown) < changed:
        print(f"… and {changed - len(shown)} more (--all shows them)")
    groups = frozen(pruned.net)
    if groups:
        print("\nleft alone:")
    for group in groups:
        print(textwrap.fill(frozen_text(group, everything), _WIDTH, **_INDENT))
    if notes:
        print()
    for note in notes:
        print(textwrap.fill(f"- {note}", _WIDTH, subsequent_indent="  "))
    print(f"\n{output}: {format_bytes(_bytes(output))}, pruned {pruned.how} in {pruned.seconds:.1f} s")
