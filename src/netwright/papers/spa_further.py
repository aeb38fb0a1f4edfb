"""Any time, any architecture, any framework: the further arms of SPA."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from netwright import models
from netwright.data import Splits
from netwright.errors import NetwrightError
from netwright.papers.run import Cell, Run
from netwright.papers.spa_parts import network, setting
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.pruning import prune, prune_onnx
from netwright.pruning.importances.elements import Context
from netwright.pruning.importances.importance import (
    Importance,
    find_elements,
    gather,
    normalise,
    reduced_dims,
)
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.statistics.examples import Examples
from netwright.quantization import export_onnx
from netwright.structure import Structure
from netwright.structure.onnx import OnnxNetwork, read_onnx
from netwright.train import evaluate, fit

_BEFORE = ("snip", "grasp", "crop", "magnitude-l1", "random")
_AFTER = {"magnitude-l1": "L1", "snip": "SNIP", "taylor": "Taylor"}
#: Name -> size of its images.
ARCHITECTURES = {
    "resnet18": 64, "resnext50_32x4d": 64, "densenet121": 64, "vgg11_bn": 64, "squeezenet1_1": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "efficientnet_b0": 64, "shufflenet_v2_x1_0": 64,
    "mnasnet0_5": 64, "regnet_y_400mf": 64, "googlenet": 64, "convnext_tiny": 64, "vit_b_32": 224,
    "swin_t": 224, "gru": 0, "lstm": 0,
}  # fmt: skip
_QUICK = ("resnet18", "mobilenet_v2", "gru")
_LABELLED = 512


def measure(run: Run) -> None:
    """Measure the claims that ``--all`` adds."""
    _before(run)
    _after(run)
    _architectures(run)
    _frameworks(run)


def _before(run: Run) -> None:
    """Half of the channels of every group gone before training."""
    data, recipe = setting(run)
    names = _BEFORE[-2:] if run.quick else _BEFORE
    scores: dict[str, list[float]] = {name: [] for name in names}
    with run.timed("before training"):
        for seed in run.seeds():
            model = network(run, data, seed)
            for name in names:
                small = _half(model, data, name, seed)
                own = dataclasses.replace(recipe, seed=seed)
                trained = fit(small, data, own, device=run.device).model
                scores[name].append(evaluate(trained, data.test, device=run.device).accuracy)
    rows: list[tuple[Cell, ...]] = []
    for name, values in scores.items():
        mean, deviation = mean_deviation(values)
        rows.append((name, 100 * mean, 100 * deviation, 100 * paired(values, scores["random"])[0]))
    run.table(
        "Pruned before training, then trained",
        ("importance", "accuracy, %", "deviation", "above random"),
        rows,
    )
    scored = [statistics.fmean(v) for v in zip(*(s for n, s in scores.items() if n != "random"), strict=True)]
    run.measure(
        "before training: mean of the group scores against random channels", *paired(scored, scores["random"])
    )


def _half(model: nn.Module, data: Splits, importance: str | Importance, seed: int) -> nn.Module:
    """Half of the channels of every group."""
    return prune(
        model,
        data.example(),
        0.5,
        importance=importance,
        allocation="uniform",
        repair="none",
        data=data.train.head(_LABELLED),
        seed=seed,
        round_to=1,
    ).model


def producer(importance: str) -> Callable[[Structure, nn.Module, Examples], Tensor]:
    """The importance on the weights that make a channel alone, as pruners without groups score it."""
    elements = find_elements(importance)

    def function(net: Structure, model: nn.Module, examples: Examples) -> Tensor:
        made = {c.name: c.dim_out for c in net.consumers if c.dim_out in net.layers.get(c.name, {})}
        found = elements.function(model, list(made), Context(examples, seed=examples.seed))
        sums = {}
        for name, dim in made.items():
            labels = net.layers[name][dim]
            out = reduced_dims(labels)
            sums[name] = {dim: found[name].sum(dim=out) if out else found[name]}
        return normalise(net, gather(net, sums))

    return function


def _after(run: Run) -> None:
    """Half of the channels gone after training, then fine-tuning; group scores and the producer's."""
    data, recipe = setting(run)
    tune = dataclasses.replace(recipe, epochs=1 if run.quick else 3, lr=0.02)
    importances = dict(list(_AFTER.items())[:1]) if run.quick else _AFTER
    scores: dict[str, list[float]] = {}
    with run.timed("after training, fine-tuned"):
        for seed in run.seeds():
            own = dataclasses.replace(recipe, seed=seed)
            model = fit(network(run, data, seed), data, own, device=run.device).model.cpu()
            for name, title in importances.items():
                for how, importance in (("group", name), ("producer", producer(name))):
                    small = _half(model, data, importance, seed)
                    tuned = fit(small, data, dataclasses.replace(tune, seed=seed), device=run.device).model
                    accuracy = evaluate(tuned, data.test, device=run.device).accuracy
                    scores.setdefault(f"{title}, {how}", []).append(accuracy)
    rows: list[tuple[Cell, ...]] = [(n, *(100 * v for v in mean_deviation(s))) for n, s in scores.items()]
    run.table(
        f"Pruned after training, {tune.epochs} epochs of fine-tuning",
        ("arm", "accuracy, %", "deviation"),
        rows,
    )
    for title in importances.values():
        difference = paired(scores[f"{title}, group"], scores[f"{title}, producer"])
        run.measure(f"fine-tuned: group against producer alone, {title}", *difference)


def _architectures(run: Run) -> None:
    """Trace, prune half, run, and compare with ONNX Runtime."""
    rows: list[tuple[Cell, ...]] = []
    errors: list[float] = []
    names = _QUICK if run.quick else tuple(ARCHITECTURES)
    with run.timed("architectures"):
        for name in names:
            try:
                kept, error = _one(name, ARCHITECTURES[name])
            except NetwrightError as failure:
                rows.append((name, None, None, failure.message))
                continue
            errors.append(error)
            rows.append((name, 100 * kept, error, ""))
    run.table(
        "Half of the channels gone",
        ("network", "parameters kept, %", "ONNX Runtime differs by", "failure"),
        rows,
    )
    run.measure("architectures pruned, run and exported", len(errors) / len(names))
    run.measure("largest difference from ONNX Runtime", max(errors))


def _one(name: str, size: int) -> tuple[float, float]:
    """Share of the parameters kept, and the largest difference of the exported network."""
    import onnxruntime

    loaded = models.load(name, num_classes=100 if size else 10, in_channels=3 if size else 8)
    model = reinitialise_(loaded.model).eval()
    shape = (2, 3, size, size) if size else (2, 12, 8)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pruned = prune(
        model, example, 0.5, importance="magnitude-l1", allocation="uniform", repair="none", round_to=1
    )
    small = pruned.model.eval()
    with tempfile.TemporaryDirectory(prefix="netwright-spa-") as folder:
        path = Path(folder) / "small.onnx"
        export_onnx(small, example, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (answer,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})[:1]
    with torch.no_grad():
        want = small(example).numpy()
    return pruned.after.params / pruned.before.params, float(np.abs(answer - want).max())


def _frameworks(run: Run) -> None:
    """A network of scikit-learn, trained and exported there, pruned as a file."""
    import importlib.util

    rows: list[tuple[str, float, float, int]] = []
    for name, build in (("scikit-learn MLP", _sklearn),):
        if importlib.util.find_spec("skl2onnx") is None:
            run.tried("scikit-learn's exporter skl2onnx is not installed: its arm was left out")
            continue
        rows.append((name, *build()))
    run.table(
        "Files of other frameworks, half of the units gone",
        ("network", "dense, %", "pruned, %", "runs"),
        rows,
    )
    if rows:
        run.measure("files of other frameworks pruned and run", sum(r[-1] for r in rows) / len(rows))


def _sklearn() -> tuple[float, float, int]:
    """Accuracy of a digits classifier before and after, and whether its file runs."""
    import onnxruntime
    import skl2onnx
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    fitted = MLPClassifier((64, 32), max_iter=60, random_state=0).fit(x[:1200], y[:1200])
    content = skl2onnx.to_onnx(fitted, x[:1]).SerializeToString()
    pruned = prune_onnx(read_onnx(content), 0.5, repair="obs", data=torch.from_numpy(x[:1200]))
    assert isinstance(pruned.model, OnnxNetwork)
    small = pruned.model.proto().SerializeToString()
    labels = onnxruntime.InferenceSession(small).run(None, {"X": x[1200:]})[0]
    return 100 * fitted.score(x[1200:], y[1200:]), 100 * float((labels == y[1200:]).mean()), 1
