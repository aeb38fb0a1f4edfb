"""Random pruning, further arms: depth, the side claims, other shares of the layers, small dense networks."""

from __future__ import annotations

import itertools

from netwright.data import Splits, load
from netwright.metrics import calibration_error, fgsm_accuracy, negative_log_likelihood, outlier_auroc
from netwright.papers.plot import Panel, figure
from netwright.papers.random_pruning_small import (
    DENSE,
    ERK,
    digits_recipe,
    fashion_data,
    gap_panel,
    perceptron,
    resnet,
    scores,
    train,
)
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import accuracy_table, digits, mean_deviation, mlp, paired
from netwright.pruning import Examples, prunable_weights, ratios
from netwright.pruning.allocations.choosing import Allocations
from netwright.train import Recipe, logits

_KEPT = 0.1
_EPSILON = 8 / 255
#: Measure -> (the claim, whether less is better).
_SIDES = {
    "OOD AUROC": ("OOD AUROC of random masks above dense", False),
    "calibration error": ("calibration error of random masks below dense", True),
    "negative log-likelihood": ("log-likelihood of random masks above dense", True),
    "FGSM accuracy": ("FGSM accuracy of random masks above dense", False),
}


def measure(run: Run) -> None:
    """Depth, the side claims, SNIP's and GraSP's shares, and dense networks with as many weights."""
    with one_thread():
        data, recipe = fashion_data(run, 5_000)
        panels = [_depth(run, data, recipe)]
        _sides(run, data, recipe)
        _ratios(run)
        panels.append(_small_dense(run))
    run.plot(figure("Random pruning, further arms", panels, columns=2, width=520, height=320))


def _depth(run: Run, data: Splits, recipe: Recipe) -> Panel:
    arms: dict[str, tuple[float, Allocations]] = {DENSE: (1.0, "erk"), ERK: (_KEPT, "erk")}
    found = {}
    for depth in (8, 20) if run.quick else (8, 14, 20):
        found[depth] = scores(run, resnet(data, depth, 16), data, recipe, run.seeds(3), arms)
        run.log(f"ResNet-{depth}: {found[depth]}")
    panel = gap_panel(run, "Residual networks of width 16 on Fashion-MNIST, 10 % kept", "layers", found)
    gaps = [[a - b for a, b in zip(found[d][DENSE], found[d][ERK], strict=True)] for d in (8, 20)]
    run.measure("gap at 8 layers above gap at 20 layers, Fashion-MNIST", *paired(*gaps))
    return panel


def _sides(run: Run, data: Splits, recipe: Recipe) -> None:
    """What else dense and random networks of the largest width are good at."""
    size = data.shape[-1]
    outside = load("mnist10k", image_size=size, statistics=(data.mean, data.std)).test
    outside = outside.head(100) if run.quick else outside
    found: dict[str, dict[str, list[float]]] = {m: {DENSE: [], ERK: []} for m in ("accuracy", *_SIDES)}
    labels = data.test.labels
    for seed in run.seeds(3):
        for name, share in ((DENSE, 1.0), (ERK, _KEPT)):
            model = train(run, resnet(data, 8, 32)(seed), data, recipe, seed, share)
            inside = logits(model, data.test, device=run.device)
            values = {
                "accuracy": float((inside.argmax(dim=1) == labels).double().mean()),
                "OOD AUROC": outlier_auroc(inside, logits(model, outside, device=run.device)),
                "calibration error": calibration_error(inside, labels),
                "negative log-likelihood": negative_log_likelihood(inside, labels),
                "FGSM accuracy": fgsm_accuracy(
                    model, data.test, _EPSILON, mean=data.mean, std=data.std, device=run.device
                ),
            }
            for measure_, value in values.items():
                found[measure_][name].append(value)
    rows: list[tuple[Cell, ...]] = []
    for measure_, one in found.items():
        above, half = paired(one[ERK], one[DENSE])
        means = [mean_deviation(one[n]) for n in (DENSE, ERK)]
        word = _word(above, half, measure_ in _SIDES and _SIDES[measure_][1])
        rows.append((measure_, *(cell for pair in means for cell in pair), above, half, word))
    columns = ("measure", "dense", "deviation", "random ERK", "deviation ", "difference", "±", "random is")
    run.table(
        "ResNet-8 of width 32, 10 % kept: what else it is good at",
        columns,
        rows,
        "Fashion-MNIST within, digits of MNIST without; calibration with 15 bins; FGSM by 8/255. "
        "Better or worse where the 95 % interval of the paired difference excludes 0.",
    )
    for measure_, (claim, less) in _SIDES.items():
        value, half = paired(found[measure_][ERK], found[measure_][DENSE])
        run.measure(claim, -value if less else value, half)


def _word(value: float, half: float, less: bool) -> str:
    if abs(value) <= half:
        return "equal within noise"
    return "better" if (value < 0) == less else "worse"


def _ratios(run: Run) -> None:
    """Shares of the layers by several rules, the masks within them at random."""
    data, recipe = digits(run.quick), digits_recipe(run)
    found: dict[str, list[float]] = {}
    for seed in run.seeds(5):
        model = mlp((64, 300, 100, 10), seed)
        names = prunable_weights(model)
        # 25 of each class for GraSP; SNIP looks at one batch.
        examples = {
            "SNIP ratio": Examples(data.train.head(128), data.example(), seed=seed),
            "GraSP ratio": Examples(data.train.head(250), data.example(), seed=seed),
        }
        rules: dict[str, Allocations] = {
            "ERK": "erk",
            "uniform": "uniform",
            "SNIP ratio": ratios("snip", model, names, examples["SNIP ratio"], seed=seed),
            "GraSP ratio": ratios("grasp", model, names, examples["GraSP ratio"], seed=seed),
        }
        for name, rule in rules.items():
            arm = {name: (0.05, rule)}
            found.setdefault(name, []).extend(
                scores(run, lambda s, m=model: m, data, recipe, [seed], arm)[name]  # type: ignore[misc]
            )
    accuracy_table(
        run,
        "Digits, 64-300-100-10, 5 % kept: shares of the layers",
        found,
        "ERK",
        "Uniform-plus has no place here: its first layer alone, whole, is 38 % of the network.",
    )


def _small_dense(run: Run) -> Panel:
    """Random masks against dense networks with as many weights: another claim, shown apart."""
    data, recipe = digits(run.quick), digits_recipe(run)
    found: dict[int, dict[str, list[float]]] = {}
    for width in (64,) if run.quick else (64, 128, 256, 512):
        kept = round(_KEPT * _weights((64, width, width, 10)))
        small = min(range(1, width), key=lambda w: abs(_weights((64, w, w, 10)) - kept))
        masked: dict[str, tuple[float, Allocations]] = {ERK: (_KEPT, "erk")}
        dense: dict[str, tuple[float, Allocations]] = {DENSE: (1.0, "erk")}
        one = scores(run, perceptron(64, width, width, 10), data, recipe, run.seeds(3), masked)
        narrow = scores(run, perceptron(64, small, small, 10), data, recipe, run.seeds(3), dense)
        found[width] = {DENSE: narrow[DENSE], ERK: one[ERK]}
        run.log(f"width {width} with {kept} weights: dense of width {small}")
    title = "Digits: random masks against a small dense network with as many weights"
    return gap_panel(run, title, "width of the masked", found)


def _weights(sizes: tuple[int, ...]) -> int:
    return sum(a * b for a, b in itertools.pairwise(sizes))
