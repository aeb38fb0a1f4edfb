"""`netwright prune`: channels removed, or anything finer masked, by any choice of parts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from netwright.cli.measure import parse_shape
from netwright.cli.opening import SHAPE_HINT, Opened, check_output, open_model
from netwright.cli.shape import read_recipe
from netwright.errors import ModelError, UsageError

if TYPE_CHECKING:
    from netwright.pruning import Pruned, Sparse
    from netwright.structure import Budget
    from netwright.train import Recipe

_ONNX = ".onnx"
#: Schedules that more options belong to, and which.
_SETTINGS = {
    "lottery": ("rewind", "rounds", "fraction"),
    "iterative": ("rounds", "fraction"),
    "rounds": ("rounds",),
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("prune")(prune)


def prune(
    model: str = typer.Argument(..., metavar="MODEL", help="A model's name, or file.py:callable."),
    output: Path = typer.Option(
        ..., "-o", "--output", help="NET.onnx, WEIGHTS.safetensors, or a folder that can be loaded again."
    ),
    budget: str | None = typer.Option(None, help='For instance "macs=0.5" or "params=2M, latency=8ms".'),
    keep: str | None = typer.Option(
        None, help="Instead of a budget: share of the axes, or weights, that stays."
    ),
    importance: str = typer.Option("magnitude", help="How what stays is chosen."),
    granularity: str = typer.Option(
        "channel",
        help="What goes as one piece: channel (removed); weight, row, kernel, block:4x4, 2:4 (masked).",
    ),
    allocation: str = typer.Option(
        "global",
        "--allocation",
        "--allocate",
        help="How the budget is spread: global, uniform, erk, from-snip, tas …",
    ),
    schedule: str = typer.Option("one-shot", help="When: one-shot, iterative, lottery, cubic, granet …"),
    rewind: str | None = typer.Option(None, help="Of lottery: where weights go back to, 1% or 500it."),
    rounds: int | None = typer.Option(None, min=1, help="Of lottery, iterative and rounds: how many."),
    fraction: float | None = typer.Option(
        None, help="Of lottery and iterative: share that goes each time (0.2)."
    ),
    ap: float | None = typer.Option(None, help="Share of the weights that is pruned to wake nodes up (AP)."),
    repair: str = typer.Option(
        "auto", help="What mends the weights that stay: auto, none, bn, absorb, obs, fine-tune."
    ),
    reinit: bool = typer.Option(False, "--reinit", help="Draw fresh weights: pruning before training."),
    distill: bool = typer.Option(False, "--distill", help="Follow the dense network in the training."),
    data: str | None = typer.Option(None, help="Data for the importance, the repair and the training."),
    epochs: int | None = typer.Option(
        None, min=0, help="Train so long: after the removal, or under the schedule."
    ),
    recipe: Path | None = typer.Option(None, help="JSON file with fields of the training recipe."),
    device: str = typer.Option("auto", help="Where to train: auto, cpu, cuda, mps."),
    exclude: list[str] = typer.Option([], help="Module or parameter to leave alone; may be repeated."),
    select: list[str] = typer.Option([], help="Only these weights (masks); may be repeated."),
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
    everything: bool = typer.Option(False, "--all", help="Show every axis or layer."),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Remove the least important channels and heads of a network until it fits a budget, or mask weights."""
    from netwright.cli import masked, removed

    masks = not granularity.startswith("channel")
    limits = _budget(budget, keep, needed=not (masks and ":" in granularity))
    if data is not None and input_shape is not None:
        raise UsageError("--data and --input-shape are both given", "the data have a shape: leave it out")
    kind = check_output(output, "-o")
    graph = model.lower().endswith(_ONNX)
    if graph and kind != "onnx":
        raise UsageError(f"{output}: what comes of an ONNX graph is one", "give -o NET.onnx")
    source = Path(model) if graph else weights
    if source is not None and output.resolve() == source.resolve():
        raise UsageError(f"the output {output} is the input", "choose another name with -o")
    settings: dict[str, Any] = {
        "granularity": granularity,
        "allocation": allocation,
        "schedule": _schedule(schedule, rewind=rewind, rounds=rounds, fraction=fraction),
        "importance": _importance(importance, ap, masks),
        "exclude": exclude,
        "seed": seed,
        "device": device,
        "recipe": _training(epochs, recipe, seed, tuned=not (masks or reinit or allocation == "tas")),
    }
    if masks:
        _check_masks(graph, repair, reinit, round_to, heads)
        settings |= {"select": select or None, "distill": distill}
    else:
        if select:
            raise UsageError("--select names weights to mask", "leave channels out with --exclude")
        settings |= {
            "repair": repair,
            "reinit": reinit,
            "distill": distill,
            "round_to": round_to,
            "heads": heads,
        }
    opened = open_model(model, data, parse_shape(input_shape), weights, pretrained, num_classes, trust, seed)
    done = _run(opened, limits, masks, settings)
    written: Any = masked if masks else removed
    written.write(done, output, kind, opened.example)
    notes = [*opened.loaded.notes, *done.notes]
    if opened.loaded.source not in ("file", "object") and not opened.loaded.pretrained and not done.history:
        notes.append("the weights are those the network starts with; give trained ones with --weights")
    if as_json:
        print(json.dumps(written.document(opened.loaded.name, done, output, notes), indent=2))
    else:
        written.show(done, output, notes, everything)


def _run(opened: Opened, limits: Budget | None, masks: bool, settings: dict[str, Any]) -> Pruned | Sparse:
    from netwright import pruning

    verb: Any = pruning.sparsify if masks else pruning.prune
    try:
        found: Pruned | Sparse = verb(
            opened.loaded.model, opened.example, limits, data=opened.splits, **settings
        )
        return found
    except ModelError as error:
        guessed = opened.splits is None and error.hint is not None
        raise (ModelError(error.message, SHAPE_HINT) if guessed else error) from error


def _budget(budget: str | None, keep: str | None, needed: bool = True) -> Budget | None:
    from netwright.structure import Budget

    if budget is not None and keep is not None:
        raise UsageError("both --budget and --keep are given", "give one of them")
    if keep is not None:
        return Budget(keep=keep)
    if budget is None:
        if not needed:
            return None  # an n:m pattern says it itself
        raise UsageError("how small is not said", 'give --budget "macs=0.5" or --keep 0.5')
    return Budget.parse(budget)


def _schedule(name: str, **settings: Any) -> Any:
    """The schedule with its settings, or its name where there are none."""
    from netwright.pruning.schedules import cycles
    from netwright.pruning.schedules.schedule import Rounds

    given = {key: value for key, value in settings.items() if value is not None}
    for key in given:
        if key not in _SETTINGS.get(name, ()):
            owners = " or ".join(n for n, keys in _SETTINGS.items() if key in keys)
            raise UsageError(
                f"--{key} is no option of schedule {name!r}", f"it belongs to --schedule {owners}"
            )
    if not given:
        return name
    if name == "rounds":
        return Rounds(**given)
    return (cycles.lottery if name == "lottery" else cycles.iterative)(**given)


def _importance(name: str, ap: float | None, masks: bool) -> Any:
    from netwright import pruning

    if ap is None:
        return name
    if not masks:
        raise UsageError(
            "--ap chooses single weights, and whole channels are removed", "add --granularity weight"
        )
    return pruning.AP(name, ap)


def _training(epochs: int | None, path: Path | None, seed: int, tuned: bool) -> Recipe | None:
    """How to train, None where nothing is said."""
    from netwright.pruning.structured import FINE_TUNE
    from netwright.train import Recipe

    if epochs is None and path is None:
        return None
    fields = {} if path is None else read_recipe(path)
    base = FINE_TUNE if tuned else Recipe()
    if epochs is not None:
        fields = {**fields, "epochs": epochs}
    return Recipe.from_json({**dataclasses.asdict(base), "seed": seed, **fields})


def _check_masks(graph: bool, repair: str, reinit: bool, round_to: int | None, heads: str) -> None:
    """Refuse options of removed channels where something finer is masked.

    Raises:
        UsageError: naming the option.
    """
    if graph:
        raise UsageError("masks lie on PyTorch networks, not on ONNX graphs", "take --granularity channel")
    given = {
        "--repair": repair != "auto",
        "--reinit": reinit,
        "--round-to": round_to is not None,
        "--heads": heads != "auto",
    }
    for option, there in given.items():
        if there:
            raise UsageError(f"{option} is about removed channels, and masks keep the shapes", "leave it out")
