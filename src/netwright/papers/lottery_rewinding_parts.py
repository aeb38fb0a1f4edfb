"""What the recipes of lottery rewinding share: the dense training, the tickets of one step, their figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from netwright.data import Splits
from netwright.papers.run import Run
from netwright.pruning import Stability, stability
from netwright.pruning.masks.selection import Masks
from netwright.pruning.schedules.cycles import CycleRun, lottery
from netwright.pruning.schedules.schedule import When, steps_at
from netwright.train import Recipe, Snapshots, evaluate, fit

#: Share of the remaining weights that goes at each level.
FRACTION = 0.4
#: Added to the seed for the second order of the data.
OTHER = 1_000


@dataclass
class Setting:
    """One network with its data and recipe.

    Attributes:
        data: Trained and tested on.
        recipe: Of every training.
        rounds: Levels after the dense one.
        exclude: Weights that are not pruned.
    """

    data: Splits
    recipe: Recipe
    rounds: int
    exclude: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Steps of one training."""
        return self.recipe.epochs * -(-len(self.data.train) // self.recipe.batch_size)


@dataclass
class Dense:
    """A dense training.

    Attributes:
        seed: Of its weights and of the order of the data.
        model: At initialisation.
        trained: In the end.
        early: Step -> state there.
        accuracy: On the test split.
    """

    seed: int
    model: nn.Module
    trained: nn.Module
    early: Mapping[int, Mapping[str, Tensor]]
    accuracy: float


@dataclass
class Tickets:
    """The tickets of one rewinding step, level by level.

    Attributes:
        run: Trains more of them.
        kept: Share of the prunable weights that stays.
        masks: Of every level.
        accuracy: On the test split.
        to_full: Against the dense network's result.
        to_other: Against the ticket trained in another order, where that was done.
    """

    run: CycleRun
    kept: list[float] = field(default_factory=list)
    masks: list[Masks] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    to_full: list[Stability] = field(default_factory=list)
    to_other: dict[int, Stability] = field(default_factory=dict)


def train_dense(run: Run, model: nn.Module, setting: Setting, seed: int, rewinds: Sequence[When]) -> Dense:
    """Train a dense network and keep its state at the steps that are rewound to."""
    snapshots = Snapshots({steps_at(when, setting.steps) for when in rewinds})
    recipe = dataclasses.replace(setting.recipe, seed=seed)
    trained = fit(model, setting.data, recipe, device=run.device, callbacks=[snapshots]).model
    return Dense(seed, model, trained, snapshots.taken, score(run, trained, setting))


def score(run: Run, model: nn.Module, setting: Setting) -> float:
    """Accuracy on the test split."""
    precision = setting.recipe.precision
    return evaluate(model, setting.data.test, device=run.device, precision=precision).accuracy


def find_tickets(
    run: Run, dense: Dense, setting: Setting, rewind: When, *, orders: Sequence[int] = ()
) -> Tickets:
    """Prune level by level, rewinding to one step.

    Args:
        run: Gives the device.
        dense: Where it begins.
        setting: Network, data and recipe.
        rewind: The step.
        orders: Levels whose tickets are trained in a second order of the data, counted from the last: -1, -2.
    """
    step = steps_at(rewind, setting.steps)
    cycles = CycleRun(
        dense.model,
        setting.data,
        dataclasses.replace(setting.recipe, seed=dense.seed),
        lottery(FRACTION, setting.rounds, rewind=step),
        exclude=setting.exclude,
        seed=dense.seed,
        device=run.device,
        dense=dense.trained,
        early=dense.early[step],
    )
    found = Tickets(cycles)
    again = {order % setting.rounds for order in orders}
    for level in cycles:
        if level.level == 0:
            continue
        place = level.level - 1
        found.kept.append(level.keep)
        found.masks.append(level.masks)
        found.accuracy.append(score(run, level.model, setting))
        found.to_full.append(stability(dense.trained, level.model, cycles.early, level.masks))
        if place in again:
            other = cycles.train_ticket(level.masks, order=dense.seed + OTHER).model
            found.to_other[place] = stability(level.model, other, cycles.early, level.masks)
    return found
