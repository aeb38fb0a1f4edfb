"""`netwright elastic`: one supernet trained once, searched, and cut to any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from netwright.cli.elastic_parts import (
    CHECKPOINT,
    CLAIM,
    SAMPLERS,
    STATISTICS,
    calibration,
    claim,
    ends,
    measures,
    numbers,
    objectives,
    open_supernet,
    read_choice,
    sampler_named,
    show_table,
    sizes,
    source,
    strategy_named,
    training,
)
from netwright.cli.opening import check_output, open_model
from netwright.errors import UsageError

_DATA = typer.Option(None, help="Data; those that it was trained on when left out.")
_TRUST = typer.Option(False, "--trust", help="Allow files that can run code when opened.")
_DEVICE = typer.Option("auto", help="Where to compute: auto, cpu, cuda, mps.")
_JSON = typer.Option(False, "--json", help="One JSON document on stdout.")
_FOLDER = typer.Argument(..., metavar="SUP", help="The folder that `elastic train` wrote.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(no_args_is_help=True, help="One supernet: train once, cut any size out.")
    family.command("train")(train)
    family.command("search")(search)
    family.command("extract")(extract)
    family.command("rank")(rank)
    app.add_typer(family, name="elastic")


def train(
    model: str = typer.Argument(..., metavar="MODEL", help="A model's name, or file.py:callable."),
    data: str = typer.Option(..., help="A registered set, an image folder, a file, or file.py:callable."),
    output: Path = typer.Option(..., "-o", "--output", "--out", help="Folder of the supernet."),
    width: str | None = typer.Option(None, help="Shares of every axis: 0.25,0.5,0.75,1; or counts: 8,16,32."),
    depth: bool = typer.Option(False, "--depth", help="The last residual blocks of a stage can be left out."),
    kernel: str | None = typer.Option(None, help="Odd kernel sizes: 3,5."),
    heads: str | None = typer.Option(None, help="Shares or counts of attention heads (as --width)."),
    resolution: str | None = typer.Option(None, help="Side lengths of the images: 160,192,224."),
    pool: int | None = typer.Option(None, min=1, help="Poolings that move, for steps of stride 2."),
    unit: int = typer.Option(1, min=1, help="Widths are multiples of it."),
    share: str = typer.Option("axis", help="axis: every width by itself; network: one for all."),
    exclude: list[str] = typer.Option([], help="Module or parameter to leave alone; may be repeated."),
    sampler: str = typer.Option("sandwich", help=f"What a step trains: {', '.join(SAMPLERS)}."),
    sort: str | None = typer.Option(None, help="First put important channels first: magnitude, taylor …"),
    epochs: int | None = typer.Option(None, min=1, help="Passes over the training examples."),
    recipe: Path | None = typer.Option(None, help="JSON file with fields of the training recipe."),
    weights: Path | None = typer.Option(None, help="Weights of the model (safetensors)."),
    pretrained: bool = typer.Option(False, "--pretrained", help="Take the zoo's own weights."),
    num_classes: int | None = typer.Option(None, min=1, help="Classes of the model."),
    device: str = _DEVICE,
    seed: int = typer.Option(0, help="Decides splits, weights, order and sub-networks."),
    trust: bool = _TRUST,
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Say nothing but errors."),
    as_json: bool = _JSON,
) -> None:
    """Train one network so that its sub-networks work, too. The same command again resumes."""
    from netwright import shaping, supernets

    if check_output(output, "-o") != "folder":
        raise UsageError(f"{output}: a supernet is a folder", "give the name of a folder with -o")
    if supernets.is_saved(output):
        raise UsageError(f"{output} holds a trained supernet", "choose another folder with -o, or delete it")
    if sampler not in SAMPLERS:
        raise UsageError(f"there is no sampler {sampler!r}", f"choose from {', '.join(SAMPLERS)}")
    elastic: dict[str, Any] = {
        "width": numbers(width, "--width"),
        "depth": depth or None,
        "kernel": sizes(kernel, "--kernel"),
        "heads": numbers(heads, "--heads"),
        "resolution": sizes(resolution, "--resolution"),
        "pool": pool,
        "unit": unit,
        "share": share,
        "exclude": exclude,
    }
    opened = open_model(model, data, None, weights, pretrained, num_classes, trust, seed)
    assert opened.splits is not None
    if not opened.splits.labelled:
        raise UsageError(f"{data} has no labels", "a supernet learns from labels")
    how = training(opened, seed, epochs, recipe)
    identity = {
        "model": opened.loaded.name,
        "weights": str(weights) if weights else pretrained,
        "data": opened.splits.fingerprint,
        "elastic": elastic,
        "sampler": sampler,
        "sort": sort,
        "seed": seed,
        "recipe": json.loads(how.to_json()),
    }
    sup = supernets.elastic(opened.loaded.model, opened.example, **elastic)
    if sort is not None:
        supernets.sort_channels(sup, sort, opened.splits.train.head(STATISTICS))
    claim(output, identity)
    told = shaping.Reporter() if quiet or as_json else shaping.Console()
    told.stage(f"{opened.loaded.name}: {sup.space.size():,} sub-networks, {how.epochs} epochs")
    try:
        fitted = supernets.train(
            sup,
            opened.splits,
            how,
            sampler=sampler_named(sampler, seed),
            device=device,
            checkpoint=output / CHECKPOINT,
            progress=told.training,
        )
    finally:
        told.close()
    trained = fitted.model.cpu().eval()
    assert isinstance(trained, supernets.Elastic)
    supernets.save(
        trained,
        output,
        source=source(model, opened),
        history=fitted.history,
        notes={"data": data, "seed": seed, "sampler": sampler, "sort": sort, "recipe": identity["recipe"]},
    )
    for name in (CHECKPOINT, CLAIM):
        (output / name).unlink(missing_ok=True)
    rows = ends(trained, opened.splits, device)
    document = {"output": str(output), "sub_networks": str(sup.space.size()), "seconds": fitted.seconds}
    if as_json:
        print(json.dumps({**document, "ends": rows}, indent=2))
    elif not quiet:
        show_table(rows)
        print(f"\n{output}: {sup.space.size():,} sub-networks, trained in {fitted.seconds:.0f} s")


def search(
    folder: Path = _FOLDER,
    data: str | None = _DATA,
    budget: str | None = typer.Option(None, help='Limits on every sub-network: "macs<=0.5, latency<=8ms".'),
    strategy: str = typer.Option("evolution", help="random, evolution, coarse-to-fine, exhaustive, tpe …"),
    trials: int = typer.Option(100, min=1, help="Sub-networks that are judged."),
    objective: str = typer.Option("accuracy,macs", help="accuracy, macs, params, latency; the first counts."),
    storage: str | None = typer.Option(None, help="SQL URL of the Optuna study (SUP/study.db)."),
    seed: int = typer.Option(0, help="Decides what is tried."),
    device: str = _DEVICE,
    trust: bool = _TRUST,
    as_json: bool = _JSON,
) -> None:
    """Judge sub-networks with the supernet's own weights on the validation examples. Resumes like a study."""
    from netwright import supernets
    from netwright.shaping.state import fingerprint
    from netwright.structure import Budget

    names = objectives(objective)
    limits = Budget.parse(budget) if budget else Budget()
    names += [n for n in ("latency",) if n in limits.limits and n not in names]
    sup, splits = open_supernet(folder, data, trust)
    settings = {"objectives": names, "budget": str(limits), "strategy": strategy, "seed": seed}
    settings["data"] = splits.fingerprint
    found = supernets.search(
        sup,
        measures(names, splits, device),
        strategy=strategy_named(strategy, trials),
        budget=limits,
        trials=trials,
        seed=seed,
        storage=storage if storage is not None else folder / "study.db",
        name=f"elastic-{fingerprint(settings)}",
    )
    table = supernets.write_front(found, folder, {**settings, "trials": len(found.members)})
    members, full = supernets.read_front(sup, folder)
    rows = [{"network": str(i), **m.values} for i, m in enumerate(members)]
    if as_json:
        print(json.dumps({"front": rows, "full": full, "table": str(table)}, indent=2))
    else:
        show_table([*rows, {"network": "largest", **full}])
        print(f"\n{len(found.members)} judged, {len(rows)} on the front · {table}")


def extract(
    folder: Path = _FOLDER,
    output: Path = typer.Option(..., "-o", "--output", "--out", help="Folder, NET.onnx or .safetensors."),
    budget: str | None = typer.Option(None, help='For instance "latency=8ms" or "macs=0.5, accuracy>=-1%".'),
    choice: str | None = typer.Option(None, help="Instead: the choice, as JSON or a file that holds it."),
    onnx: bool = typer.Option(False, "--onnx", help="Also write model.onnx into the folder."),
    data: str | None = _DATA,
    everything: bool = typer.Option(False, "--all", help="Show every axis."),
    trust: bool = _TRUST,
    as_json: bool = _JSON,
) -> None:
    """Cut a sub-network out: the best of the front that keeps to a budget, else the largest that does."""
    from netwright import supernets
    from netwright.cli import removed

    kind = check_output(output, "-o")
    if onnx and kind != "folder":
        raise UsageError("--onnx writes into a folder", "give a folder, or -o NET.onnx")
    if (budget is None) == (choice is None):
        raise UsageError("say which sub-network", 'give --budget "macs=0.5" or --choice, one of them')
    if output.resolve() == folder.resolve():
        raise UsageError(f"{output} is the supernet's own folder", "choose another with -o")
    sup, splits = open_supernet(folder, data, trust)
    if budget is not None:
        front, full = supernets.read_front(sup, folder)
        picked, known = supernets.pick(sup, budget, front, full)
    else:
        assert choice is not None
        picked, known = sup.complete(read_choice(choice)), {}
    sup.calibrate(calibration(splits).batches(256), picked, limit=8)
    done = supernets.as_pruned(sup.eval(), picked)
    (example,) = sup.blueprint.at_resolution(picked).inputs.args
    removed.write(done, output, kind, example)
    if onnx:
        removed.write(done, output / "model.onnx", "onnx", example)
    notes = list(done.notes)
    name = str(supernets.describe(folder)["network"])
    if as_json:
        told = {"choice": json.loads(picked.to_json()), "known": known}
        print(json.dumps({**removed.document(name, done, output, notes), **told}, indent=2))
    else:
        removed.show(done, output, notes, everything)


def rank(
    folder: Path = _FOLDER,
    truth: Path | None = typer.Option(None, help="Table of networks trained alone (nas.TabularBench, JSON)."),
    alone: int | None = typer.Option(None, min=2, help="Instead: train so many sub-networks alone."),
    seeds: int = typer.Option(2, min=2, help="Of --alone: trainings of each."),
    epochs: int | None = typer.Option(None, min=1, help="Of --alone: of each training."),
    data: str | None = _DATA,
    device: str = _DEVICE,
    seed: int = typer.Option(0, help="Decides which are trained."),
    trust: bool = _TRUST,
    as_json: bool = _JSON,
) -> None:
    """Say how well the supernet's accuracies rank networks that were trained alone."""
    import dataclasses

    from netwright import supernets
    from netwright.nas.bench import TabularBench
    from netwright.train import Recipe

    if (truth is None) == (alone is None):
        raise UsageError("say what the ranking is judged by", "give --truth TABLE.json or --alone 10")
    sup, splits = open_supernet(folder, data, trust)
    if truth is not None:
        table = TabularBench.read(truth)
        foreign = [c for c in table.choices if set(c) != set(sup.blueprint.full)]
        if foreign:
            raise UsageError(f"{truth} is a table of another space", "its dims must be those of the supernet")
    else:
        assert alone is not None
        fields = supernets.describe(folder).get("recipe") or {}
        how = Recipe.from_json({**fields, **({"epochs": epochs} if epochs else {})})
        table = supernets.train_alone(
            sup,
            supernets.spread(sup, alone, seed),
            splits,
            how,
            seeds=range(seeds),
            file=folder / "alone.json",
            device=device,
            say=lambda line: typer.echo(line, err=True),
        )
        chosen = set(supernets.spread(sup, alone, seed))
        table = table.restricted([c for c in table.choices if sup.complete(c) in chosen])
    (measure,) = measures(["accuracy"], splits, device)
    scores = [measure(sup, sup.complete(c)) for c in table.choices]
    report = table.report(scores)
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        print(report)
