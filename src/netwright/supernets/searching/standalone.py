"""Some sub-networks trained alone, from fresh weights: the truth that a supernet's ranking is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from netwright.data import Splits
from netwright.errors import ArtefactError
from netwright.nas.bench import BenchEntry, TabularBench
from netwright.nas.choice import Choice
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.supernets.network.elastic import Elastic
from netwright.train import Recipe, evaluate, fit

#: Sub-networks drawn for each that is kept: kept ones are spread evenly over the costs.
_DRAWN = 20


def spread(sup: Elastic, count: int, seed: int = 0) -> list[Choice]:
    """Sub-networks whose costs are spread evenly between the smallest and the largest.

    Args:
        sup: The supernet.
        count: How many; fewer where the space has fewer.
        seed: Of the draw.
    """
    if sup.space.size() <= count:
        return list(sup.space.enumerate())
    rng = np.random.default_rng(seed)
    drawn = dict.fromkeys([sup.space.min(), sup.blueprint.full])
    drawn |= dict.fromkeys(sup.space.sample(rng) for _ in range(_DRAWN * count))
    order = sorted(drawn, key=sup.macs)
    macs = np.array([sup.macs(c) for c in order], dtype=np.float64)
    kept: list[Choice] = []
    for target in np.geomspace(macs[0], macs[-1], count):
        near = [order[i] for i in np.argsort(np.abs(np.log(macs / target)), kind="stable")]
        kept.append(next(c for c in near if c not in kept))
    return sorted(kept, key=sup.macs)


def train_alone(
    sup: Elastic,
    choices: Iterable[Mapping[str, Any]],
    data: Splits,
    recipe: Recipe,
    *,
    seeds: Sequence[int] = (0, 1),
    file: str | Path | None = None,
    device: str = "auto",
    say: Callable[[str], None] | None = None,
) -> TabularBench:
    """Train sub-networks by themselves.

    Args:
        sup: The supernet; its weights are not used.
        choices: Which.
        data: Splits; accuracies are those of the test split.
        recipe: How to train each.
        seeds: Of the trainings of each.
        file: A table that is written after every network and gone on with where it is there.
        device: Where to train.
        say: Told of every network.

    Returns:
        The table.

    Raises:
        ArtefactError: if the file holds a table of other networks or another training.
    """
    settings = {**asdict(recipe), "seed": 0, "data": data.fingerprint}
    path = Path(file) if file is not None else None
    table = TabularBench("alone", sup.space, tuple(seeds), (), settings)
    if path is not None and path.exists():
        known = TabularBench.read(path)
        mine = (table.space, table.seeds, _as_read(settings))
        same = (known.space, known.seeds, dict(known.settings)) == mine
        if not same:
            raise ArtefactError(f"{path} belongs to other trainings", "move it away, or choose another file")
        table = known
    done = {sup.complete(c) for c in table.choices}
    for choice in [sup.complete(c) for c in choices]:
        if choice in done:
            continue
        accuracies = []
        for seed in seeds:
            fresh = reinitialise_(sup.extract(choice), seed)
            fitted = fit(fresh, data, replace(recipe, seed=seed), device=device)
            accuracies.append(evaluate(fitted.model, data.test, device=device).accuracy)
        cost = sup.cost(choice)
        entry = BenchEntry(choice, cost.macs, cost.params, tuple(accuracies))
        table = replace(table, entries=(*table.entries, entry))
        if path is not None:
            table.write(path)
        if say is not None:
            say(f"{len(table.entries)}: {cost.macs:,} macs, accuracy {entry.accuracy:.1%}")
    return table


def _as_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
