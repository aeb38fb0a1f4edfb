"""The main job: from a network, data and a budget to a front of exported, measured networks and a report."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

import netwright
from netwright import train
from netwright.errors import BudgetError, UsageError
from netwright.shaping import baseline as dense_network
from netwright.shaping import elastic_mode, final, report
from netwright.shaping.front import Front
from netwright.shaping.pipeline import Factory, Pipeline, Settings
from netwright.shaping.plan import Plan, check_budget, check_latency, make_plan
from netwright.shaping.progress import Reporter
from netwright.shaping.propose import SAMPLERS
from netwright.shaping.source import Loaded, Source
from netwright.shaping.state import Folder, fingerprint
from netwright.shaping.study import Study, best_first, run
from netwright.shaping.workers import pool
from netwright.structure.budget import Budget

if TYPE_CHECKING:
    from netwright.data import Splits
    from netwright.train import Recipe


#: Trials of a study where the user does not say: the ladder and a few that the sampler chooses.
TRIALS = 20


@dataclass(frozen=True)
class _Prepared:
    """What is known before anything is written."""

    source: Source
    loaded: Loaded
    budget: Budget
    plan: Plan
    recipe: Recipe
    identity: dict[str, Any]
    recovery: int
    elastic: bool


def shape(
    model: str | Path | nn.Module = "resnet8",
    data: str | Path | Splits = "digits",
    budget: str | Budget | None = None,
    *,
    trials: int | None = None,
    workers: int = 1,
    device: str = "auto",
    storage: str | None = None,
    out: str | os.PathLike[str] = "netwright-out",
    seed: int = 0,
    recovery: int | None = None,
    epochs: int | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    threads: int = 1,
    ray: str | None = None,
    sampler: str = "tpe",
    image_size: int | None = None,
    limit: int | None = None,
    trust: bool = False,
    choices: Mapping[str, Sequence[str]] | None = None,
    elastic: bool = False,
    progress: Reporter | None = None,
) -> Front:
    """Shape a network: search compression pipelines, recover, export, measure, report.

    The same call with the same `out` resumes where an earlier one was stopped, and adds trials if `trials`
    grew.

    Args:
        model: Name in the zoo, ``file.py:callable`` or a module.
        data: Registered name, image folder, file, ``file.py:callable`` or splits.
        budget: For instance ``"latency<=0.5, accuracy>=-1%"``; None looks for the whole front.
        trials: Number of candidates; 20 if None.
        workers: Evaluations at a time, in processes of this machine (or as Ray actors).
        device: Where to train.
        storage: SQL URL of the Optuna study; an SQLite file in `out` if None.
        out: Folder for everything that is written.
        seed: Decides splits, training and search.
        recovery: Epochs of training for each candidate; 0 repairs without any; None chooses by the data's
            size.
        epochs: Epochs of the dense network's training, if it must be trained; None chooses by the data's
            size.
        recipe: Fields of `netwright.train.Recipe` to set, for that training.
        weights: Weights of the dense network.
        pretrained: Whether to take the zoo's own weights.
        threads: Threads of ONNX Runtime when files are measured.
        ray: Address of a Ray cluster or ``"local"``; None uses processes.
        sampler: ``"tpe"``, ``"nsga2"`` or ``"random"``.
        image_size: Side of the images.
        limit: Most training examples.
        trust: Whether files that can run code may be opened.
        choices: Limits what the search chooses from: "allocation", "importance", "repair" or "schedule" ->
            names; the plan's own where None.
        elastic: Train one supernet and cut the candidates out of it, instead of recovering each.
        progress: Told what happens.

    Returns:
        The front; also in `out` as front.csv, front.json, models/, study.db and report.html.

    Raises:
        NetwrightError: if an input is wrong; nothing is written then.
    """
    source = Source(
        model=model,
        data=data,
        seed=seed,
        weights=Path(weights) if weights is not None else None,
        pretrained=pretrained,
        image_size=image_size,
        limit=limit,
        trust=trust,
        device=device,
    )
    _check(workers=workers, threads=threads, trials=trials, recovery=recovery, epochs=epochs, sampler=sampler)
    told = progress or Reporter()
    folder = Folder(out)
    began = time.monotonic()
    with contextlib.closing(told):
        told.stage("reading model and data")
        prepared = _prepare(
            source,
            Budget.parse(budget or "none"),
            recovery,
            epochs,
            recipe,
            threads,
            sampler,
            choices,
            elastic,
        )
        for text in (*prepared.loaded.notes, prepared.plan.text):
            told.plan(text)
        folder.check(prepared.identity)
        _probe(prepared, folder, threads)
        with folder.lock():
            folder.claim(
                prepared.identity, {"command": sys.argv, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            )
            front = _run(
                prepared, folder, told, trials or TRIALS, workers, storage, ray, sampler, threads, began
            )
        told.stage(f"done: {folder.path / 'report.html'}")
    return front


def _check(*, sampler: str, **counts: int | None) -> None:
    for name, value in counts.items():
        least = 0 if name in ("recovery",) else 1
        if value is not None and value < least:
            raise UsageError(f"--{name} {value} is too small", f"give {least} or more")
    if sampler not in SAMPLERS:
        raise UsageError(f"there is no sampler {sampler!r}", f"choose from {', '.join(SAMPLERS)}")


def _prepare(
    source: Source,
    budget: Budget,
    recovery: int | None,
    epochs: int | None,
    recipe: Recipe | Mapping[str, Any] | None,
    threads: int,
    sampler: str,
    choices: Mapping[str, Sequence[str]] | None,
    elastic: bool,
) -> _Prepared:
    """Load and check everything, without writing anything."""
    loaded = source.load()
    model, splits = loaded.model, loaded.splits
    if isinstance(recipe, train.Recipe):
        chosen = recipe
    else:
        changes = {**(recipe or {}), **({"epochs": epochs} if epochs is not None else {})}
        chosen = dense_network.default_recipe(model, len(splits.train), source.seed, changes)
    if recovery is None:
        recovery = dense_network.recovery_epochs(len(splits.train)) if splits.labelled else 0
    plan = make_plan(
        model,
        splits.example(2),
        budget,
        labelled=splits.labelled,
        examples=len(splits.train),
        recovery=recovery,
        choices=choices,
    )
    check_budget(plan, budget)
    identity = {
        **loaded.identity(),
        "budget": str(budget),
        "seed": source.seed,
        "recovery": recovery,
        "recipe": chosen.to_json(),
        "sampler": sampler,
        "threads": threads,
        "version": netwright.__version__,
    }
    if choices:
        identity["choices"] = {kind: list(names) for kind, names in sorted(choices.items())}
    if elastic:
        if choices:
            raise UsageError("--choose is about pruning, --elastic prunes nothing", "give one of them")
        if not splits.labelled:
            raise UsageError("--elastic needs labels", "leave it out: candidates follow the dense network")
        elastic_mode.check(model, splits.example(2))
        identity["elastic"] = True
        plan = replace(plan, text=plan.text.partition("; candidates:")[0] + "; candidates: of one supernet")
    return _Prepared(source, loaded, budget, plan, chosen, identity, recovery, elastic)


def _probe(prepared: _Prepared, folder: Folder, threads: int) -> None:
    """Refuse a latency that even the smallest network does not reach, before anything is trained."""
    if prepared.budget.latency is None or folder.manifest.exists():
        return
    loaded = prepared.loaded
    with tempfile.TemporaryDirectory(prefix="netwright-") as place:
        check_latency(prepared.plan, prepared.budget, loaded.model, loaded.splits, Path(place), threads)


def _run(
    prepared: _Prepared,
    folder: Folder,
    told: Reporter,
    trials: int,
    workers: int,
    storage: str | None,
    ray: str | None,
    sampler: str,
    threads: int,
    began: float,
) -> Front:
    source, plan, loaded = prepared.source, prepared.plan, prepared.loaded
    told.stage(f"dense network: {loaded.name} on {loaded.splits.name}")
    base = dense_network.prepare(
        folder,
        loaded.model,
        loaded.splits,
        prepared.recipe,
        given=loaded.given,
        device=source.device,
        progress=told.training,
        note=told.plan,
    )
    if base.accuracy is not None:
        told.plan(f"validation accuracy {base.accuracy:.2%}")
    settings = Settings(prepared.recipe.to_json(), base.trained, plan.metric, threads, ways=plan.ways)
    factory = Factory(source, settings, folder.path)
    pipeline = Pipeline(source, settings, folder.path, loaded=loaded, progress=told.training)
    if prepared.elastic:
        space = elastic_mode.prepare(
            folder,
            base.model,
            loaded.splits,
            plan.space,
            prepared.recipe,
            from_scratch=base.trained,
            recovery=prepared.recovery,
            statistics=pipeline.statistics(),
            seed=source.seed,
            device=source.device,
            progress=told.training,
            note=told.plan,
        )
        plan = replace(plan, space=space)
    where = storage if storage is not None else folder.database
    study = Study(where, f"netwright-{fingerprint(prepared.identity)}", plan.space, ("error", plan.metric))
    epoch = base.seconds / max(prepared.recipe.epochs, 1) if base.trained else None
    told.search(trials, study.finished(), plan.estimate(epoch, trials))
    with pool(factory if workers > 1 or ray else lambda: pipeline, workers, ray) as crew:
        records = run(
            study, crew, trials, seed=source.seed, sampler=sampler, started=told.started, ended=told.ended
        )
    best_first(records)
    told.stage("final measurement")
    info = {
        "netwright": netwright.__version__,
        "study": fingerprint(prepared.identity),
        "model": loaded.name,
        "data": loaded.splits.name,
        "shape": list(loaded.splits.shape),
        "quality": "test accuracy" if loaded.splits.labelled else "agreement with the dense network",
        "source": loaded.how,
        "validation_examples": len(loaded.splits.val),
        "metric": plan.metric,
        "space": plan.text,
        "identity": prepared.identity,
        "baseline": {"trained": base.trained, "seconds": base.seconds, "validation_accuracy": base.accuracy},
        "environment": environment(threads, workers, source),
        "seconds": round(time.monotonic() - began, 1),
    }
    front = final.finish(
        folder,
        records,
        prepared.budget,
        info,
        measure=pipeline.measure,
        test=pipeline.test,
        answers=lambda record: pipeline.answers(record.candidate),
        loader=lambda network: pipeline.model(network.candidate),
        note=told.plan,
    )
    report.write(folder, front)
    return front


def environment(threads: int, workers: int, source: Source) -> dict[str, Any]:
    """Versions, processor and command: what a reader needs to judge the numbers."""
    import onnxruntime
    import optuna
    import torch

    return {
        "netwright": netwright.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "optuna": optuna.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "workers": workers,
        "device": source.device,
        "seed": source.seed,
        "command": " ".join(["netwright", *sys.argv[1:]])
        if sys.argv[0].endswith("netwright")
        else "(Python)",
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def over_budget(front: Front) -> BudgetError:
    """What to tell a user whose budget no candidate met."""
    near = front.nearest
    what = ", ".join(f"{name} by {value:.1%}" for name, value in near.misses.items())
    return BudgetError(
        f"no candidate meets {front.budget}; the nearest, {near.name}, misses {what}",
        f"see {front.folder / 'report.html'}; more --trials or --recovery may help",
    )
