"""Few-shot search in other spaces and on other images: kernels and widths, cells on patches of photographs.

Kernels and widths share their weights as in Once-for-All: a sandwich of sub-networks a step, the largest
teaching the others. Of the 1,296 networks the 81 with kernels of 3 have a table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from netwright.data import Splits, load
from netwright.models.zoo.cell_net import cell_edges, cell_net
from netwright.models.zoo.conv_macro import MACRO_SPACES, conv_macro
from netwright.nas import BenchEntry, Choice, TabularBench
from netwright.nas.ranking import LEAST_CEILING
from netwright.papers import benches
from netwright.papers.few_shot_nas_gm_small import (
    ALONE,
    MATCH,
    ONCE,
    ONE,
    RANDOM,
    RECIPE,
    TIMES,
    TWICE,
    divisions_of,
    taus,
)
from netwright.papers.plot import Panel
from netwright.papers.run import Cell, Run, drawing
from netwright.papers.sparse_parts import paired
from netwright.papers.supernet_cells import (
    OUTSIDE,
    Judge,
    Ranked,
    cell_supernet,
    few_data,
    for_fit,
    tau_table,
)
from netwright.structure import trace
from netwright.supernets import Elastic, InplaceDistill, Split, elastic, few_shot, train
from netwright.supernets.samplers.base import Sampler
from netwright.supernets.samplers.fixed import Sandwich, Uniform
from netwright.supernets.training.paths import HardLabels, Paths, Rule
from netwright.train import evaluate, fit

KINDS = {ALONE: "exhaustive", RANDOM: "random", MATCH: "gradient-match"}
KERNELS = (3, 5)
#: Epochs of a way from the root to a leaf: a step of a sandwich is four passes.
SANDWICH_EPOCHS, CELL_EPOCHS = 2, 4
#: Batches and paths of a comparison of gradients.
REPEATS = 4
#: Networks of cells that are trained alone on the patches, and how often.
NETWORKS, TRUTH_SEEDS = 16, 2
#: Patches to train, to judge by and to test.
PATCHES = (3_000, 750, 1_000)


@dataclasses.dataclass(frozen=True)
class Ways:
    """How the supernets of a space are trained.

    Attributes:
        epochs: Of a way from the root to a leaf.
        sampler: Seed -> sampler.
        rule: What paths learn from.
        exclude: Patterns of parameters that are not compared; see `few_shot`.
    """

    epochs: int
    sampler: Callable[[int], Sampler]
    rule: Rule
    exclude: Sequence[str] | None = None


def kernels_and_widths(run: Run) -> Panel:
    """Two divisions of an entangled space, trained with sandwiches; returns a panel of the taus."""
    bench, data = TabularBench.load("macro-81"), few_data(run)
    convs = [f"layers.{k}.0" for k in range(4)]
    choices = [
        Choice({**entry.choice, **{f"kernel:{conv}": KERNELS[0] for conv in convs}})
        for entry in bench.entries
    ]
    ways = Ways(SANDWICH_EPOCHS, lambda seed: Sandwich(2, seed), InplaceDistill())
    arms: dict[str, Ranked] = {name: Ranked() for name in (ONE, RANDOM, MATCH)}
    rows: list[tuple[Cell, ...]] = []
    for seed in run.seeds(2):
        sup = _entangled(convs, seed)
        for name, arm in arms.items():
            store, macs = supernet(run, name, sup, for_fit(data), ways, seed)
            _calibrate(store, choices, data)
            arm.add(Judge(data.val).accuracies(store, choices), macs)
            if isinstance(store, Split):
                rows += [(name, seed, *row) for row in _divisions(store)]
        _log(run, "kernels and widths", seed, arms)
    for arm in arms.values():
        arm.judge(bench, bench.choices)
    run.table(
        "Divisions of kernels and widths",
        ("arm", "seed", "of", "dim", "groups"),
        rows,
        f"Kernels of {KERNELS[0]} and {KERNELS[1]}, three widths in each of four layers.",
    )
    note = "A sandwich of four networks a step, equal steps; only networks with kernels of 3 are ranked."
    tau_table(run, "Kendall's tau, kernels and widths", arms, bench, ONE, note)
    if bench.ceiling >= LEAST_CEILING:
        for other in (ONE, RANDOM):
            name = f"kernels and widths: tau of gradient matching above {other}"
            run.measure(name, *paired(arms[MATCH].taus, arms[other].taus))
    return taus(arms, "Kendall's tau, kernels and widths")


def photographs(run: Run) -> Panel:
    """Cells on a second data set, against a part of the 64 trained alone; returns a panel of the taus."""
    data = patches(run.quick)
    bench = _truth(run, data)
    ways = Ways(CELL_EPOCHS, Uniform, HardLabels(), OUTSIDE)
    arms: dict[str, Ranked] = {name: Ranked() for name in (ONE, ALONE, RANDOM, MATCH)}
    for seed in run.seeds(2):
        sup = cell_supernet(seed, in_channels=3, num_classes=data.num_classes)
        for name, arm in arms.items():
            store, macs = supernet(run, name, sup, for_fit(data), ways, seed)
            arm.add(Judge(data.val).accuracies(store, bench.choices), macs)
        _log(run, "photo-patches", seed, arms)
    for arm in arms.values():
        arm.judge(bench, bench.choices)
    note = f"Equal steps; {len(bench)} of the 64 networks were trained alone, {len(bench.seeds)} times each."
    tau_table(run, "Kendall's tau on photo-patches, cells", arms, bench, ONE, note)
    if bench.ceiling >= LEAST_CEILING:
        for other in (ONE, ALONE):
            name = f"photo-patches: tau of gradient matching above {other}"
            run.measure(name, *paired(arms[MATCH].taus, arms[other].taus))
    else:
        run.tried(f"photo-patches: the trainings alone rank themselves with tau {bench.ceiling:.2f} only")
    return taus(arms, "Kendall's tau, cells on photo-patches")


def supernet(
    run: Run, name: str, sup: Elastic, data: Splits, ways: Ways, seed: int
) -> tuple[Elastic | Split, int]:
    """One supernet or several of an arm, with as many steps, and the multiply-accumulates of its passes.

    Args:
        run: The run.
        name: Of the arm.
        sup: Untrained.
        data: To train on.
        ways: How.
        seed: Of everything.
    """
    recipe = dataclasses.replace(RECIPE, epochs=2 if run.quick else ways.epochs, seed=seed)
    if name == ONE:
        recipe = dataclasses.replace(recipe, epochs=round(recipe.epochs * TIMES))
        paths = Paths(ways.sampler(seed), ways.rule)
        model = train(sup, data, recipe, paths=paths, device="cpu").model
        assert isinstance(model, Elastic)
        return model, paths.macs
    options: dict[str, Any] = {"sampler": ways.sampler, "rule": ways.rule, "exclude": ways.exclude}
    made = few_shot(
        sup,
        data,
        recipe,
        split_by=KINDS[name],
        at=ONCE if name == ALONE else TWICE,
        repeats=1 if run.quick else REPEATS,
        batch_size=recipe.batch_size,
        device="cpu",
        **options,
    )
    return made.store, made.macs


def _entangled(convs: Sequence[str], seed: int) -> Elastic:
    with drawing(seed):
        net = conv_macro(kernels=[KERNELS[-1]] * len(convs), in_channels=1)
    widths = dict(zip(convs, map(list, MACRO_SPACES["macro-81"].widths), strict=True))
    kernels: Mapping[str, Sequence[int]] = {conv: list(KERNELS) for conv in convs}
    return elastic(net, torch.zeros(2, 1, 14, 14), width=widths, kernel=kernels)


def _calibrate(store: Elastic | Split, choices: Sequence[Choice], data: Splits) -> None:
    """Measure the batch-norm statistics of every network on 500 training examples."""
    batches = [x for x, _ in data.train.head(500).batches(250)]
    for choice in choices:
        (store if isinstance(store, Elastic) else store.of(choice)).calibrate(batches, choice)


def _divisions(store: Split) -> list[tuple[Cell, ...]]:
    """Where, by which dim and into which groups it was divided."""
    rows: list[tuple[Cell, ...]] = []
    for node in divisions_of(store.tree):
        where = ", ".join(f"{d}: {'/'.join(map(str, v))}" for d, v in node.region.items())
        groups = " | ".join("/".join(map(str, c.region[node.dim])) for c in node.children if node.dim)
        rows.append((where or "the whole space", node.dim, groups))
    return rows


def patches(quick: bool) -> Splits:
    """Patches of photographs at 14 x 14, in colour.

    Args:
        quick: Hardly any of them.
    """
    data = load("photo-patches", image_size=14)
    sizes = (200, 250, 250) if quick else PATCHES
    parts = zip((data.train, data.val, data.test), sizes, strict=True)
    train_part, val, test = (part.head(size) for part, size in parts)
    return dataclasses.replace(data, train=train_part, val=val, test=test)


def _truth(run: Run, data: Splits) -> TabularBench:
    """Some of the 64 networks, drawn at random, trained alone as those of the tables are."""
    space = benches.find("cell-64").space
    every, few = list(space.enumerate()), for_fit(data)
    numbers = np.random.default_rng(0).permutation(len(every))[: 3 if run.quick else NETWORKS]
    entries = []
    for choice in (every[i] for i in sorted(numbers.tolist())):
        reached = []
        for seed in range(TRUTH_SEEDS):
            model = _network(choice, data, seed)
            fitted = fit(model, few, dataclasses.replace(benches.RECIPE, seed=seed), device="cpu").model
            batch = benches.TEST_BATCH
            reached.append(evaluate(fitted, data.test, device="cpu", batch_size=batch).accuracy)
        net = trace(_network(choice, data, 0), data.example())
        cost = net.cost(net.everything)
        entries.append(BenchEntry(choice, cost.macs, cost.params, tuple(reached)))
        run.log(f"photo-patches, {'/'.join(map(str, choice.values()))}: {np.mean(reached):.3f}")
    return TabularBench("cells on patches", space, tuple(range(TRUTH_SEEDS)), tuple(entries))


def _network(choice: Choice, data: Splits, seed: int) -> torch.nn.Module:
    ops = [choice[f"op:{benches.edge_name(*edge)}"] for edge in cell_edges(3)]
    with drawing(seed):
        return cell_net(ops, in_channels=3, width=benches.WIDTH, num_classes=data.num_classes)


def _log(run: Run, name: str, seed: int, arms: Mapping[str, Ranked]) -> None:
    told = ", ".join(f"{n} {100 * a.inherited[-1]:.1f}" for n, a in arms.items())
    run.log(f"{name}, seed {seed}, mean inherited accuracy: {told}")
