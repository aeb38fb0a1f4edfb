"""`netwright list`: the names that options take, with a line on each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable

import typer

from netwright.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("list")(list_)


def list_(
    kind: str | None = typer.Argument(
        None, help="importance, granularity, allocation, schedule, repair or models."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """List the importances, granularities, allocations, schedules and repairs there are; or the models."""
    kinds = _kinds() | {"models": _models}
    if kind is not None and kind not in kinds:
        raise UsageError(f"there is no kind {kind!r} of choices", f"choose from {', '.join(kinds)}")
    # Of models there are a thousand and more, so they are listed on request only.
    found = {name: kinds[name]() for name in ([kind] if kind else _kinds())}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    widest = max(len(name) for entries in found.values() for name in entries)
    for name, entries in found.items():
        if kind is None:
            print(name)
        for entry, text in entries.items():
            print(f"  {entry:{widest}}  {text}")


def _kinds() -> dict[str, Callable[[], dict[str, str]]]:
    return {
        "importance": _importances,
        "granularity": _granularities,
        "allocation": _allocations,
        "schedule": _schedules,
        "repair": _repairs,
    }


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _models() -> dict[str, str]:
    from netwright.models import list_models, torchvision_models
    from netwright.models.zoo import BUILDERS

    own = {name: _first_line(getattr(builder, "func", builder)) for name, builder in BUILDERS.items()}
    theirs = torchvision_models.names()
    return {name: own.get(name) or ("torchvision" if name in theirs else "timm") for name in list_models()}


def _importances() -> dict[str, str]:
    from netwright import pruning
    from netwright.pruning.importances.importance import find_elements, find_importance

    weights = pruning.list_importances("weight")
    found = {}
    for name in pruning.list_importances():
        function, _ = find_importance(name)
        single = name in weights
        text = _first_line(find_elements(name).function if single else function)
        found[name] = text + ("" if single else " (channels only)")
    return found


def _granularities() -> dict[str, str]:
    return {
        "channel": "Whole channels, heads and features, which are removed; also channel:mean:lamp etc.",
        "weight": "Single weights, masked.",
        "row": "All that makes one output of a weight, masked.",
        "column": "All that reads one input of a weight, masked.",
        "kernel": "One kernel of a convolution, masked.",
        "block:4x4": "Blocks of the matrix (outputs, everything else), masked.",
        "2:4": "Two of every four consecutive inputs, masked; any n:m.",
    }


def _allocations() -> dict[str, str]:
    from netwright.pruning.allocations.allocation import find_allocation
    from netwright.pruning.allocations.density_allocation import names
    from netwright.pruning.allocations.layerwise import find_layer_allocation, list_layer_allocations

    found = {
        "convex": "The widths that carry most of SynFlow's expected flow (channels only).",
        "from-scores": "The shares that one threshold leaves of single weights; from-snip: of other scores.",
        "tas": "Widths and depths searched by gradient on data, trained from scratch (channels only).",
    }
    layers = list_layer_allocations()
    for name in names():
        if name in layers:
            found[name] = _first_line(find_layer_allocation(name))
        elif name not in found:
            found[name] = f"{_first_line(find_allocation(name))} (channels only)"
    return dict(sorted(found.items()))


def _schedules() -> dict[str, str]:
    from netwright.pruning.schedules.cycles import iterative, lottery
    from netwright.pruning.schedules.schedule import explain_schedule, list_schedules

    found = {name: explain_schedule(name) for name in list_schedules()}
    found |= {"lottery": _first_line(lottery), "iterative": _first_line(iterative)}
    found["mask-sparsity"] = "Penalise what a mask will remove, then remove it (channels only)."
    return dict(sorted(found.items()))


def _repairs() -> dict[str, str]:
    from netwright.pruning import list_repairs

    texts = {
        "none": "Leave the slices as they are.",
        "bn": "Recompute the statistics of batch norms.",
        "absorb": "Add what removed channels gave on average to the biases of their readers.",
        "obs": "Refit every operator to the dense network's outputs, by least squares.",
        "auto": "obs where there are data, none where there are not.",
    }
    return {name: texts[name] for name in list_repairs()} | {"fine-tune": "Train instead."}
