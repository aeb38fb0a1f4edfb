"""The exhaustive tables: spaces small enough that every network is trained, with several seeds.

`nas.TabularBench` reads them. Fashion-MNIST at 14 x 14, since digits are too easy for a ranking.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from netwright._files import write_text
from netwright.data import Splits, load
from netwright.errors import UsageError
from netwright.models.zoo.cell_net import CELL_OPS, cell_edges, cell_net
from netwright.models.zoo.conv_macro import MACRO_SPACES, conv_macro
from netwright.models.zoo.pooled_resnet import pooled_resnet
from netwright.nas import Categorical, Choice, Ordinal, SearchSpace, Subset
from netwright.nas.bench import BenchEntry, TabularBench
from netwright.papers.run import drawing, one_thread
from netwright.structure import trace
from netwright.train import Recipe, evaluate, fit

#: Channels of the networks of cells and of the pooled ones.
WIDTH = 8
#: Batch of a judgement: networks without running statistics normalise batches by themselves.
TEST_BATCH = 250
#: Examples to train, to choose by and to test.
SIZES = (5_000, 2_000, 5_000)
#: How every network of every table is trained.
RECIPE = Recipe(
    epochs=4, batch_size=100, lr=0.1, schedule="cosine", precision="fp32", channels_last=True, augment=False
)


@dataclass(frozen=True)
class Bench:
    """A table that can be built.

    Attributes:
        name: Of the table.
        about: What it is, in one line.
        space: The choices.
        build: The network of a choice, with random weights.
        seeds: Trainings of each network.
    """

    name: str
    about: str
    space: SearchSpace
    build: Callable[[Mapping[str, Any]], nn.Module]
    seeds: tuple[int, ...]


def edge_name(source: int, target: int) -> str:
    """What the operation of an edge is called in supernets: a dim is "op:" and this.

    Args:
        source: Node that it comes from.
        target: Node that it goes to.
    """
    return f"{source}-{target}"


def _cell(choice: Mapping[str, Any]) -> nn.Module:
    return cell_net([choice[f"op:{edge_name(*e)}"] for e in cell_edges(3)], in_channels=1, width=WIDTH)


def _pooled(choice: Mapping[str, Any]) -> nn.Module:
    # Member m of the subset is the pooling in front of layer m + 1: none is in front of the stem.
    return pooled_resnet([m + 1 for m in choice["pools"]], 7, [WIDTH] * 7, in_channels=1)


def _macro(choice: Mapping[str, Any]) -> nn.Module:
    return conv_macro([choice[f"width:layers.{k}.0"] for k in range(4)], in_channels=1)


def _some(count: int, values: Sequence[int], layers: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Different networks of a space of widths that is too large for a table, drawn at random."""
    rng = np.random.default_rng(seed)
    found = [tuple(int(v) for v in rng.choice(values, layers)) for _ in range(2 * count)]
    return tuple(dict.fromkeys(found))[:count]


def _blocks(choice: Mapping[str, Any]) -> nn.Module:
    return conv_macro(choice["widths"], [3] * 6, in_channels=1, pools=(1, 3))


BENCHES: Mapping[str, Bench] = {
    bench.name: bench
    for bench in (
        Bench(
            "pool-15",
            "2 poolings in front of any of 6 residual blocks",
            SearchSpace([Subset("pools", 6, 2)]),
            _pooled,
            tuple(range(6)),
        ),
        Bench(
            "cell-64",
            "cells of 3 edges with one of 4 operations each",
            SearchSpace([Categorical(f"op:{edge_name(*e)}", CELL_OPS) for e in cell_edges(3)]),
            _cell,
            (0, 1, 2),
        ),
        Bench(
            "macro-81",
            "4 convolutions of one of 3 widths each",
            SearchSpace(
                [
                    Ordinal(f"width:layers.{k}.0", values)
                    for k, values in enumerate(MACRO_SPACES["macro-81"].widths)
                ]
            ),
            _macro,
            (0, 1, 2),
        ),
        Bench(
            "blocks-40",
            "40 of 4,096 networks: 3 blocks of 2 convolutions of one of 4 widths each",
            SearchSpace([Categorical("widths", _some(40, (8, 16, 24, 32), 6, seed=0))]),
            _blocks,
            tuple(range(12)),
        ),
    )
}


def find(name: str) -> Bench:
    """The bench of a name.

    Args:
        name: One of `BENCHES`.

    Raises:
        UsageError: if there is none.
    """
    if name not in BENCHES:
        raise UsageError(f"there is no bench {name!r}", f"choose from {', '.join(BENCHES)}")
    return BENCHES[name]


def bench_data(train: int = SIZES[0], val: int = SIZES[1], test: int = SIZES[2]) -> Splits:
    """What the networks are trained on, chosen by and tested on: three parts without a common example.

    Args:
        train: Examples to train.
        val: Examples to choose by; the tables do not use them.
        test: Examples to test.
    """
    splits = load("fashion-mnist", image_size=14)
    return dataclasses.replace(
        splits, train=splits.train.head(train), val=splits.val.head(val), test=splits.test.head(test)
    )


def train_entry(bench: Bench, choice: Choice, seed: int, data: Splits) -> float:
    """Test accuracy of one network after one training, in 0..1.

    Args:
        bench: Of which space.
        choice: Which network.
        seed: Of its weights and of the order of the examples.
        data: As `bench_data` gives them.
    """
    with one_thread(), drawing(seed):
        model = bench.build(choice)
        few = dataclasses.replace(data, val=data.val.head(100))  # nothing is chosen by validation
        fitted = fit(model, few, dataclasses.replace(RECIPE, seed=seed), device="cpu")
        return evaluate(fitted.model, data.test, device="cpu", batch_size=TEST_BATCH).accuracy


def made_here() -> dict[str, str]:
    """What decides the last digits of a training on this machine."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def build(
    name: str,
    path: Path,
    *,
    seeds: Sequence[int] | None = None,
    say: Callable[[str], None] | None = None,
) -> TabularBench:
    """Train every network of a bench with every seed; goes on where a file is begun.

    Args:
        name: One of `BENCHES`.
        path: File of the table; beside it lies what is not whole yet, ``NAME.part.json``.
        seeds: Of the trainings; the bench's own when None.
        say: Receives a line for every seed.

    Returns:
        The table, which is also written.
    """
    bench = find(name)
    wanted = tuple(bench.seeds if seeds is None else seeds)
    begun = path.with_name(f"{path.stem}.part.json")
    found = _begun(bench, path, begun)
    data, example = bench_data(), torch.zeros(2, 1, 14, 14)
    choices = list(bench.space.enumerate())
    nets = {choice: trace(bench.build(choice), example) for choice in choices}
    costs = {choice: net.cost(net.everything) for choice, net in nets.items()}
    for seed in wanted:
        for choice in choices:
            if seed in found.get(choice, {}):
                continue
            found.setdefault(choice, {})[seed] = train_entry(bench, choice, seed, data)
            _keep(begun, found)
        if say is not None:
            say(f"{name}: seed {seed} of {len(wanted)} done")
    entries = tuple(
        BenchEntry(c, costs[c].macs, costs[c].params, tuple(found[c][s] for s in wanted)) for c in choices
    )
    table = TabularBench(name, bench.space, wanted, entries, settings(bench), made_here())
    table.write(path)
    begun.unlink(missing_ok=True)
    return table


def settings(bench: Bench) -> dict[str, Any]:
    """How the networks of a bench are trained, as plain values.

    Args:
        bench: Which.
    """
    found: dict[str, Any] = {
        "about": bench.about,
        "data": f"Fashion-MNIST at 14x14, {SIZES[0]:,} to train, {SIZES[2]:,} to test",
        "test_batch": TEST_BATCH,
        "recipe": dataclasses.asdict(RECIPE),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _begun(bench: Bench, path: Path, begun: Path) -> dict[Choice, dict[int, float]]:
    """What was trained before, in a whole table of the same settings or in one that was begun."""
    found: dict[Choice, dict[int, float]] = {}
    if path.exists():
        table = TabularBench.read(path)
        if (table.settings, table.made) == (settings(bench), made_here()):
            for entry in table.entries:
                found[entry.choice] = dict(zip(table.seeds, entry.accuracies, strict=True))
    if begun.exists():
        for values, accuracies in json.loads(begun.read_text(encoding="utf-8")):
            choice = bench.space.canonical(Choice(values))
            found.setdefault(choice, {}).update({int(s): a for s, a in accuracies.items()})
    return found


def _keep(begun: Path, found: Mapping[Choice, Mapping[int, float]]) -> None:
    write_text(begun, json.dumps([[dict(c), {str(s): a for s, a in v.items()}] for c, v in found.items()]))
