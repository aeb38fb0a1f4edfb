"""SortedNet beside other ways to train one network for many widths, at equal forward and backward passes.

Each way has the passes a step that its authors give it: two sorted prefixes; one point of a line between two
end points, whose normalisations take their statistics from the instance (LCS, arXiv:2110.04252); all four
widths at once with normalisations of their own (slimmable networks, arXiv:1812.08928).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from safetensors.torch import save as serialised

from netwright.data import Splits
from netwright.models import Residual, with_instance_norm
from netwright.nas import Choice
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import fashion, paired
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.supernets import (
    Elastic,
    HardLabels,
    Line,
    Paths,
    SwitchableNorm,
    elastic,
    samplers,
    train,
)
from netwright.supernets.samplers.base import Sampler
from netwright.supernets.stores.holding import Holding
from netwright.train import Recipe, evaluate

WIDTH, BLOCKS, LEAST = 32, 5, 8
#: The widths that all ways have.
COMMON = (8, 16, 24, 32)
SORTED, LINE, SLIMMABLE = "sorted", "line of two end points", "switchable norms"
#: Batches for the statistics of a sub-model.
_CALIBRATION = 10


@dataclass(frozen=True)
class Way:
    """How one network is trained for many widths.

    Attributes:
        widths: That can be drawn.
        passes: Sub-networks a step.
        store: Where their weights are.
        instance: Whether statistics are those of the instance.
    """

    widths: tuple[int, ...]
    passes: int
    store: Any = None
    instance: bool = False

    def supernet(self, data: Splits, seed: int) -> Elastic:
        """The supernet, drawn with a seed."""
        net = reinitialise_(Residual((WIDTH,), depth=BLOCKS, kernel=3), seed)
        net = with_instance_norm(net) if self.instance else net
        store = dataclasses.replace(self.store, seed=seed + 100) if self.instance else self.store
        x = data.example(2)
        return elastic(net, x, width=self.widths, share="network", store=store)

    def sampler(self, seed: int) -> Sampler:
        """All widths in every step where there are as many, else independent draws."""
        if self.passes == len(self.widths):
            return samplers.FairCycle(seed)
        return samplers.SortedPrefix(self.passes, seed)


_ALL = tuple(range(LEAST, WIDTH + 1))
WAYS = {
    SORTED: Way(_ALL, 2),
    LINE: Way(_ALL, 1, Line(), instance=True),
    SLIMMABLE: Way(COMMON, 4, SwitchableNorm()),
}


def measure(run: Run) -> None:
    """Measure the claims on dynamic training, and the size of a checkpoint."""
    data = fashion(200, 100) if run.quick else fashion(2_500, 2_000)
    recipe = Recipe(
        epochs=2 if run.quick else 8,
        batch_size=50,
        lr=0.1,
        weight_decay=1e-4,
        augment=False,
        precision="fp32",
    )
    run.settings["against dynamic training"] = {
        "data": f"Fashion-MNIST, 14 px, {len(data.train):,} and {len(data.test):,} pictures",
        "widths": f"{LEAST} to {WIDTH} channels, every number; {COMMON} with switchable norms",
        "passes": "2 x 8 epochs sorted, 1 x 16 on the line, 4 x 4 with switchable norms",
        "recipe": dataclasses.asdict(recipe),
        "reduced": "the sheet's 10,000 pictures to 2,500",
    }
    found: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    rows: list[tuple[Cell, ...]] = []
    with one_thread():
        for seed in run.seeds():
            for name, way in WAYS.items():
                made, passes = _trained(run, way, data, recipe, seed)
                found[name].append(_accuracies(made, data, run.device))
                more = made.extra_parameters() if isinstance(made, Holding) else 0
                rows.append((seed, name, passes, more, *(100 * a for a in found[name][-1])))
                run.log(f"seed {seed}: {name} {fmean(found[name][-1]):.4f}")
    full = [seed[-1] for seed in found[SORTED]]
    relative = {n: [fmean(s) / f for s, f in zip(v, full, strict=True)] for n, v in found.items()}
    claim = "sorted above {}, mean relative accuracy of 4 widths"
    note = "relative to the full sorted model of the same seed"
    run.measure(
        claim.format("a line of two end points (LCS)"), *paired(relative[SORTED], relative[LINE]), note
    )
    run.measure(
        claim.format("switchable norms (slimmable)"), *paired(relative[SORTED], relative[SLIMMABLE]), note
    )
    run.table(
        "Against dynamic training",
        ("seed", "training", "passes", "further parameters", *(f"{w} channels, %" for w in COMMON)),
        rows,
        "Forward and backward passes of batches; statistics of sorted sub-models are measured anew.",
    )
    run.measure("checkpoint of all sub-models by the plain network's, bytes", _checkpoint(data))


def _trained(run: Run, way: Way, data: Splits, recipe: Recipe, seed: int) -> tuple[Elastic, int]:
    """The trained supernet and how many passes it took: the same for every way."""
    paths = Paths(way.sampler(seed), HardLabels())
    own = dataclasses.replace(recipe, seed=seed, epochs=2 * recipe.epochs // way.passes)
    made = train(way.supernet(data, seed), data, own, paths=paths, device=run.device).model
    assert isinstance(made, Elastic)
    return made.eval(), paths.passes


def _accuracies(sup: Elastic, data: Splits, device: str) -> list[float]:
    """Test accuracies of the common widths."""
    found = []
    for width in COMMON:
        choice: Choice = sup.complete({"width": width})
        # Nothing is measured where a width has its own statistics or takes them from the instance.
        sup.calibrate(data.train.batches(50), choice, limit=_CALIBRATION)
        found.append(evaluate(sup.set(choice), data.test, device=device).accuracy)
    return found


def _checkpoint(data: Splits) -> float:
    sup = WAYS[SORTED].supernet(data, 0)
    plain = Residual((WIDTH,), depth=BLOCKS, kernel=3)
    return len(serialised(sup.state_dict())) / len(serialised(plain.state_dict()))
