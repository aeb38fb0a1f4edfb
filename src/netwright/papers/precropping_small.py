"""The ordinary PreCrop run: three families of small networks on Fashion-MNIST."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import nn

from netwright.data import Splits, load
from netwright.metrics import Latency, latencies
from netwright.models import ResNetCifar
from netwright.papers import precropping_nets as nets
from netwright.papers.plot import Panel, figure
from netwright.papers.precropping_parts import (
    ARMS,
    CHAIN,
    CONVEX,
    CROPS,
    DENSE,
    MASKS,
    SHUFFLED,
    SYNFLOW,
    UNIFORM,
    Family,
    StepCost,
    accuracy_panel,
    build,
    step_costs,
    train_family,
)
from netwright.papers.run import Cell, Run, one_thread
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.quantization import export_onnx
from netwright.structure import trace
from netwright.train import Recipe

_SHARES = (0.25, 0.1)
_COSTED = 0.25
_BATCH = 64


def measure(run: Run) -> None:
    """Measure every claim of the ordinary scope."""
    with one_thread():
        _measure(run)


def further(run: Run) -> None:
    """Measure the claims on networks in the manner of ShuffleNet and MobileNet."""
    with one_thread():
        _further(run)


def _prepared(run: Run) -> tuple[Splits, Recipe]:
    data, recipe = _data(run), _recipe(run)
    run.settings |= {
        "data": f"Fashion-MNIST at 14x14, {len(data.train):,} to train, {len(data.test):,} to test",
        "recipe": dataclasses.asdict(recipe),
        "masks keep": "a share of the weights of convolutions and linear maps; norms and biases stay",
        "crops keep": "at most that share of all parameters",
        "threads": 1,
    }
    return data, recipe


def _measure(run: Run) -> None:
    data, recipe = _prepared(run)
    residual = train_family(
        run, "ResNet", lambda c, k: nets.resnet(c, k, run.quick), data, recipe, ARMS, _SHARES
    )
    _claim_masks(run, residual)
    panels = [accuracy_panel(f"ResNet-20, {share * 100:.0f} % kept", residual[share]) for share in _SHARES]
    panels += [_latency(run, residual, data), _training(run, residual[_COSTED], data, recipe)]
    _wide(run, data)
    run.plot(figure("PreCrop on Fashion-MNIST", panels, columns=2, width=520, height=320))


def _further(run: Run) -> None:
    data, recipe = _prepared(run)
    panels = []
    chains = train_family(
        run, "ResNet", lambda c, k: nets.resnet(c, k, run.quick), data, recipe, (UNIFORM, CHAIN), _SHARES
    )
    for share, family in chains.items():
        gain, spread = family.above(CHAIN, UNIFORM)
        run.tried(
            f"ResNet, {share * 100:.0f} %: convex widths with all layers as one chain, above uniform widths: "
            f"{100 * gain:+.1f} ± {100 * spread:.1f} points"
        )
    others: list[tuple[str, Callable[[int, int], nn.Module]]] = [
        ("ShuffleNet", nets.shufflenet),
        ("MobileNet", nets.mobilenet),
    ]
    for name, make in others:
        found = train_family(run, name, make, data, recipe, CROPS, (_COSTED,))[_COSTED]
        _claim_uniform(run, found, f"{name}, 25 %")
        panels.append(accuracy_panel(f"{name} style, 25 % kept", found))
    run.plot(figure("PreCrop on Fashion-MNIST, other families", panels, columns=2, width=520, height=320))


def _data(run: Run) -> Splits:
    splits = load("fashion-mnist", image_size=14)
    train, test = (256, 100) if run.quick else (10_000, 5_000)
    # Nothing is chosen by validation here, so none is spent on it.
    return dataclasses.replace(
        splits, train=splits.train.head(train), val=splits.val.head(2), test=splits.test.head(test)
    )


def _recipe(run: Run) -> Recipe:
    epochs = 1 if run.quick else 6
    return Recipe(epochs=epochs, batch_size=128, lr=0.1, schedule="one-cycle", augment=False)


def _claim_masks(run: Run, found: Mapping[float, Family]) -> None:
    for share, family in found.items():
        where = f"{share * 100:.0f} %"
        run.measure(f"accuracy lost by shuffling masks, {where}", *family.above(MASKS, SHUFFLED))
        run.measure(f"accuracy lost by cropping against masks, {where}", *family.above(MASKS, SYNFLOW))
    _claim_uniform(run, found[0.1], "10 %")


def _claim_uniform(run: Run, family: Family, where: str) -> None:
    run.measure(f"SynFlow crop above uniform widths, {where}", *family.above(SYNFLOW, UNIFORM))
    run.measure(f"convex crop above uniform widths, {where}", *family.above(CONVEX, UNIFORM))


def _latency(run: Run, found: Mapping[float, Family], data: Splits) -> Panel:
    """Latency of the exported networks against dense, in turn, one thread."""
    with run.timed("latency"), tempfile.TemporaryDirectory(prefix="netwright-precropping-") as folder:
        files: dict[str, Path] = {}
        for share, family in found.items():
            for name, model in family.first.items():
                label = DENSE if name == DENSE else f"{name}, {share * 100:.0f} %"
                if label not in files:
                    target = Path(folder) / f"{len(files)}.onnx"
                    files[label] = export_onnx(model, data.example(2), target).path
        few, short = (3, 0.001) if run.quick else (50, 0.5)
        batches = {
            batch: latencies(
                dict(files), data.example(batch), baseline=DENSE, min_runs=few, min_seconds=short
            )
            for batch in (1, _BATCH)
        }
    rows: list[tuple[Cell, ...]] = [
        (
            label,
            *(cell for times in batches.values() for cell in (times[label].median_ms, times[label].ratio)),
        )
        for label in files
    ]
    columns = ("network", "ms, batch 1", "by dense", f"ms, batch {_BATCH}", "by dense ")
    run.table("Latency in ONNX Runtime", columns, rows, "One thread, the networks in turn, median of runs.")
    panel = Panel(f"Latency by dense, batch {_BATCH}, ONNX Runtime", "milliseconds by dense", limit=1.0)
    for label in files:
        if label.startswith((MASKS, SYNFLOW, CONVEX, UNIFORM)):
            caption = label.replace("SynFlow masks", "masks").replace(" crop", "").replace(",", "")
            panel.bar(caption, *_ratio(batches[_BATCH][label]))
    for name, kind in ((SYNFLOW, "crop"), (MASKS, "masks")):
        value, spread = _ratio(batches[_BATCH][f"{name}, 25 %"])
        run.measure(
            f"latency of the {kind} by dense, 25 %",
            value,
            spread,
            f"ONNX Runtime, batch {_BATCH}, one thread",
        )
    return panel


def _wide(run: Run, data: Splits) -> None:
    """The same latency for a network eight times wider, untrained: hardware is made for wide layers."""
    widths = (16, 32, 64) if run.quick else (64, 128, 256)
    model = reinitialise_(ResNetCifar(20, data.num_classes, data.shape[0], widths), run.seed)
    net = trace(model, data.example(1))
    with run.timed("latency, wide"), tempfile.TemporaryDirectory(prefix="netwright-precropping-") as folder:
        files = {DENSE: export_onnx(model, data.example(2), Path(folder) / "dense.onnx").path}
        for name, small in build(net, model, _COSTED, run.seed, (SYNFLOW,), rounds=10).items():
            files[name] = export_onnx(small, data.example(2), Path(folder) / "crop.onnx").path
        few, short = (5, 0.01) if run.quick else (20, 1.0)
        times = latencies(dict(files), data.example(8), baseline=DENSE, min_runs=few, min_seconds=short)
    run.tried(
        f"latency of ResNet-20 of width {widths[0]} (not trained, batch 8), SynFlow crop to 25 % of the "
        f"parameters, by dense: {_ratio(times[SYNFLOW])[0]:.2f}"
    )


def _ratio(found: Latency) -> tuple[float, float]:
    assert found.ratio is not None
    assert found.ratio_q1 is not None
    assert found.ratio_q3 is not None
    return found.ratio, (found.ratio_q3 - found.ratio_q1) / 2


def _training(run: Run, family: Family, data: Splits, recipe: Recipe) -> Panel:
    """Time, memory and multiply-accumulates of one training step against dense."""
    chosen = {name: family.first[name] for name in (DENSE, MASKS, SYNFLOW, CONVEX, UNIFORM)}
    with run.timed("training steps"):
        costs = step_costs(run, chosen, data, recipe, 5 if run.quick else 40)
    dense = costs[DENSE]
    rows: list[tuple[Cell, ...]] = [
        (name, c.macs, 1e3 * c.seconds, c.ratio, c.bytes / 2**20, c.bytes / dense.bytes)
        for name, c in costs.items()
    ]
    columns = ("network", "MACs", "ms", "by dense", "MiB", "by dense ")
    note = (
        f"One step with {recipe.batch_size} examples, one thread. Memory is counted: what autograd keeps, "
        "parameters, gradients and momentum."
    )
    run.table("One training step, 25 % of the parameters", columns, rows, note)
    _claim_step(run, "crop", costs[SYNFLOW], dense)
    _claim_step(run, "masks", costs[MASKS], dense)
    return _bars("Time of a training step by dense, 25 % kept", "seconds by dense", costs.items())


def _claim_step(run: Run, kind: str, cost: StepCost, dense: StepCost) -> None:
    run.measure(f"training time of the {kind} by dense, 25 %", cost.ratio, cost.spread)
    run.measure(f"training memory of the {kind} by dense, 25 %", cost.bytes / dense.bytes)
    if kind == "crop":
        run.measure(f"training MACs of the {kind} by dense, 25 %", cost.macs / dense.macs)


def _bars(title: str, y: str, costs: Iterable[tuple[str, StepCost]]) -> Panel:
    panel = Panel(title, y, limit=1.0)
    for name, cost in costs:
        if name != DENSE:
            panel.bar(name, cost.ratio, cost.spread)
    return panel
