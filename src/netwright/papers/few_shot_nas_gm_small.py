"""Few-shot search with gradient matching on `cell-64`: one path a step, equal steps and steps of a leaf."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from netwright.data import Part, Splits
from netwright.models.zoo.bignas import MBStage, bignas
from netwright.models.zoo.cell_net import NB201_OPS
from netwright.nas import Choice, TabularBench
from netwright.nas.ranking import LEAST_CEILING
from netwright.papers import benches
from netwright.papers.noise import noise
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Run, drawing, one_thread
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.papers.supernet_cells import (
    OUTSIDE,
    Judge,
    Ranked,
    cell_supernet,
    few_data,
    for_fit,
    tau_table,
)
from netwright.supernets import Elastic, FewShot, Node, Paths, elastic, few_shot, train
from netwright.supernets.samplers.fixed import Uniform
from netwright.supernets.training.paths import HardLabels
from netwright.train import Recipe

ONE, LEAF, ALONE, RANDOM, MATCH = (
    "one supernet",
    "one supernet, steps of a leaf",
    "every operation alone",
    "random divisions",
    "gradient matching",
)
#: Epochs of a way from the root to a leaf; with the shares below all supernets together have 2.5 times those.
EPOCHS = 8
TIMES = 2.5
#: Shares of the way at which supernets are divided: 0.5 + 4 * 0.5 and 0.3 + 2 * 0.3 + 4 * 0.4 are both 2.5.
ONCE, TWICE = (0.5,), (0.3, 0.6)
REPEATS = 12
RECIPE = Recipe(
    epochs=EPOCHS,
    batch_size=100,
    lr=0.05,
    schedule="cosine",
    weight_decay=2.5e-4,
    clip_norm=5.0,
    precision="fp32",
    channels_last=True,
    augment=False,
)
_CONVOLUTIONS = {"conv1x1", "conv3x3"}


def measure(run: Run) -> None:
    """The headline: rankings at equal steps and at equal steps of a leaf, and what was kept apart."""
    bench = TabularBench.load("cell-64")
    choices = list(benches.find("cell-64").space.enumerate())
    with one_thread():
        data = few_data(run)
        arms, roots, counts = _arms(run, choices, data)
        spaces(run)
    for arm in arms.values():
        arm.judge(bench, choices)
    tau_table(run, "Kendall's tau with the stand-alone accuracy, cell-64", arms, bench, ONE, _note())
    _divisions(run, roots, counts)
    run.plot(figure("Few-shot NAS with gradient matching", [taus(arms)], width=640, height=320))
    if bench.ceiling < LEAST_CEILING:
        run.cannot_decide(f"the table ranks itself with tau {bench.ceiling:.2f} only")
        return
    for name, one, other in (
        ("gradient matching above random divisions, equal steps", MATCH, RANDOM),
        ("gradient matching above every operation alone, equal steps", MATCH, ALONE),
        ("every operation alone above one supernet, equal steps", ALONE, ONE),
        ("gradient matching above one supernet, equal steps", MATCH, ONE),
        ("gradient matching above one supernet, steps of a leaf", MATCH, LEAF),
    ):
        run.measure(f"tau: {name}", *paired(arms[one].taus, arms[other].taus))
    shares = [_apart(root) for root in roots[MATCH]]
    run.measure("share of divisions that keep convolutions apart", sum(shares) / len(shares), noise(shares))


def recipe_of(run: Run, seed: int, times: float = 1.0) -> Recipe:
    """How supernets are trained.

    Args:
        run: The run.
        seed: Of the weights and the order.
        times: Of the epochs of a way from the root to a leaf.
    """
    return dataclasses.replace(RECIPE, epochs=round((2 if run.quick else EPOCHS) * times), seed=seed)


def _arms(
    run: Run, choices: Sequence[Choice], data: Splits
) -> tuple[dict[str, Ranked], dict[str, list[Node]], dict[str, list[int]]]:
    run.settings["supernets"] = {
        "recipe": dataclasses.asdict(RECIPE),
        "data": f"Fashion-MNIST at 14x14, {len(data.train):,} to train, {len(data.val):,} to rank by",
        "one supernet": f"{TIMES:g} times the epochs",
        "divided at": {"every operation alone": ONCE, "two binary divisions": TWICE},
        "batches and paths a comparison of gradients": REPEATS,
    }
    judge, few = Judge(data.val), for_fit(data)
    arms = {name: Ranked() for name in (ONE, LEAF, ALONE, RANDOM, MATCH)}
    roots: dict[str, list[Node]] = {name: [] for name in (ALONE, RANDOM, MATCH)}
    counts: dict[str, list[int]] = {name: [] for name in arms}
    for seed in run.seeds(5):
        sup = cell_supernet(seed)
        for name in (ONE, LEAF):
            recipe = recipe_of(run, seed, TIMES if name == ONE else 1.0)
            paths = Paths(Uniform(seed), HardLabels())
            fitted = train(sup, few, recipe, paths=paths, device="cpu")
            assert isinstance(fitted.model, Elastic)
            arms[name].add(judge.accuracies(fitted.model, choices), paths.macs)
            counts[name].append(paths.passes)
        for name in (ALONE, RANDOM, MATCH):
            made = _divided(run, sup, few, seed, name)
            arms[name].add(judge.accuracies(made.store, choices), made.macs)
            roots[name].append(made.store.tree)
            counts[name] += [made.steps, made.scoring]
        told = ", ".join(f"{name} {100 * arm.inherited[-1]:.1f}" for name, arm in arms.items())
        run.log(f"cell-64, seed {seed}, mean inherited accuracy: {told}")
    return arms, roots, counts


def _divided(run: Run, sup: Elastic, data: Splits, seed: int, name: str) -> FewShot:
    kinds = {ALONE: "exhaustive", RANDOM: "random", MATCH: "gradient-match"}
    return few_shot(
        sup,
        data,
        recipe_of(run, seed),
        split_by=kinds[name],
        at=ONCE if name == ALONE else TWICE,
        repeats=2 if run.quick else REPEATS,
        batch_size=RECIPE.batch_size,
        exclude=OUTSIDE,
        device="cpu",
    )


def _note() -> str:
    return (
        "All arms but one spend the same steps; that one spends those of a way from the root to a leaf, as "
        "the paper compares."
    )


def divisions_of(node: Node) -> list[Node]:
    """All nodes of a tree that were divided.

    Args:
        node: Its root.
    """
    own = [] if node.dim is None else [node]
    return own + [found for child in node.children for found in divisions_of(child)]


def _apart(root: Node) -> float:
    """Share of the divisions of a tree that put the convolutions into one group and the rest into another."""
    nodes = divisions_of(root)
    return sum({frozenset(c.region[n.dim]) for c in n.children} == _WANTED for n in nodes if n.dim) / len(
        nodes
    )


_WANTED = {frozenset(_CONVOLUTIONS), frozenset({"skip", "avgpool"})}


def _divisions(run: Run, roots: dict[str, list[Node]], counts: dict[str, list[int]]) -> None:
    """Tables of what was divided, and of what it took."""
    rows = []
    for seed, root in zip(run.seeds(5), roots[MATCH], strict=True):
        for node in divisions_of(root):
            where = ", ".join(f"{d}: {'/'.join(v)}" for d, v in node.region.items()) or "the whole space"
            groups = " | ".join("/".join(c.region[node.dim]) for c in node.children if node.dim)
            rows.append((seed, where, node.dim, groups, node.score))
    run.table(
        "Divisions by gradient matching",
        ("seed", "of", "edge", "groups", "distance between them"),
        rows,
        "Two groups of two of four operations: one in three random ones keeps the convolutions apart.",
    )
    leaves = {name: sum(1 for _ in roots[name][0].leaves) for name in roots}
    edges = {
        name: mean_deviation([len({n.dim for n in divisions_of(r)}) for r in roots[name]])[0]
        for name in roots
    }
    run.table(
        "Leaves, edges and passes",
        ("arm", "leaves", "edges divided, mean", "steps", "passes to decide"),
        [
            *((name, 1, 0.0, counts[name][0], 0) for name in (ONE, LEAF)),
            *((name, leaves[name], edges[name], counts[name][0], counts[name][1]) for name in roots),
        ],
        "The passes to decide come on top of the steps.",
    )


def taus(arms: Mapping[str, Ranked], title: str = "Kendall's tau, cell-64") -> Panel:
    """Bars of the taus with their deviations.

    Args:
        arms: Name -> what they made.
        title: Of the panel.
    """
    panel = Panel(title, "tau")
    for name, arm in arms.items():
        panel.bar(name, *mean_deviation(arm.taus))
    return panel


def spaces(run: Run) -> None:
    """The paper's larger spaces, a few steps each: NAS-Bench-201's cells, and kernels of a mobile network."""
    generator = torch.Generator().manual_seed(run.seed)
    x = torch.randn(24, 3, 16, 16, generator=generator)
    part = Part.from_tensors(x, torch.arange(24) % 10)
    data = Splits("noise", part, part, part, tuple("0123456789"))
    recipe = dataclasses.replace(RECIPE, epochs=3, batch_size=8, seed=run.seed)
    stages = [MBStage(8, 1, 5, 1, 1), MBStage(8, 2, 5, 4, 2), MBStage(16, 2, 5, 4, 2)]
    with drawing(run.seed):
        mobile = bignas(stages, num_classes=10, stem=8, head=16)
    cells = cell_supernet(run.seed, ops=NB201_OPS, kind="nb201", width=4, in_channels=3, side=16)
    kernels = elastic(mobile, x[:2], kernel=[3, 5])
    same: dict[str, Any] = {"repeats": 1, "batch_size": 8, "device": "cpu"}
    rows = []
    asked: Sequence[tuple[str, Elastic, dict[str, Any]]] = (
        ("NAS-Bench-201", cells, {"dims": ["op:0-1", "op:2-3"], "exclude": OUTSIDE}),
        ("mobile network, kernels of 3 and 5", kernels, {}),
    )
    for name, sup, options in asked:
        made = few_shot(sup, data, recipe, **same, **options)
        total = sum(leaf.space(made.store.space).size() for leaf in made.store.leaves)
        rows.append((name, sup.space.size(), len(made.store), total, made.steps, made.scoring))
    run.table(
        "Larger spaces, divided after a few steps on noise",
        ("space", "sub-networks", "leaves", "sub-networks of all leaves", "steps", "passes to decide"),
        rows,
        "That the method runs on them; nothing is ranked here.",
    )
