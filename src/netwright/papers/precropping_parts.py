"""What the PreCrop recipes share: the arms, their training, and what one training step costs."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from netwright.data import Splits
from netwright.papers.noise import noise
from netwright.papers.plot import Panel
from netwright.papers.run import Cell, Run
from netwright.pruning.importances.densities import synflow_masks
from netwright.pruning.masks.mask_state import MaskState
from netwright.pruning.masks.selection import densities_of, shuffled
from netwright.pruning.removal import crop as cropping
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.structure import Structure, trace
from netwright.train import Recipe, Runtime, build_optimizer, cross_entropy, evaluate, fit, resolve_device

DENSE = "dense"
MASKS, SHUFFLED = "SynFlow masks", "shuffled masks"
SYNFLOW, CONVEX, UNIFORM = "SynFlow crop", "convex crop", "uniform crop"
CHAIN = "chain crop"
ARMS = (MASKS, SHUFFLED, SYNFLOW, CONVEX, UNIFORM)
CROPS = (SYNFLOW, CONVEX, UNIFORM)

_ROUNDS = 100


def build(
    net: Structure, model: nn.Module, share: float, seed: int, names: Iterable[str], rounds: int = _ROUNDS
) -> dict[str, nn.Module]:
    """The networks of some arms, not trained yet.

    Masks keep `share` of the weights of convolutions and linear maps; norms and biases stay. Crops have at
    most `share` of all the parameters, so they are never larger than a masked network.

    Args:
        net: The structure of the model.
        model: The dense network at initialisation.
        share: What stays.
        seed: Of shuffling and fresh weights.
        names: Names of the arms.
        rounds: Of SynFlow.
    """
    names, budget = list(names), f"params={share}"
    masks = synflow_masks(net, model, share, rounds) if {MASKS, SHUFFLED, SYNFLOW} & set(names) else {}
    found: dict[str, nn.Module] = {}
    for name in names:
        if name in (MASKS, SHUFFLED):
            # In the forward pass, so that whatever trains the network needs to know nothing of them.
            found[name] = copy.deepcopy(model)
            MaskState(found[name], masks if name == MASKS else shuffled(masks, seed), soft=True)
            continue
        if name == SYNFLOW:
            counts = cropping.count_densities(net, model, densities_of(masks), budget)
        elif name == UNIFORM:
            counts = cropping.count_uniform(net, model, budget)
        else:
            counts = cropping.count_convex(net, model, budget, branches=name == CONVEX)
        found[name] = cropping.crop(net, model, counts, seed).model
    return found


def nonzero(model: nn.Module) -> int:
    """Parameters that are not masked."""
    state = MaskState.of(model)
    masks = state.masks.values() if state else ()
    return sum(p.numel() for p in model.parameters()) - sum(int((~m).sum()) for m in masks)


def _score(run: Run, model: nn.Module, data: Splits, recipe: Recipe) -> float:
    """Train a network with the recipe of the dense one; returns its accuracy on the test split."""
    fitted = fit(model, data, recipe, device=run.device)
    return evaluate(fitted.model, data.test, device=run.device, precision="auto").accuracy


@dataclass
class Family:
    """What was measured of one family at one budget.

    Attributes:
        scores: Arm -> test accuracy of each seed.
        params: Arm -> parameters of each seed's network (of masks, those that are kept).
        macs: Arm -> multiply-accumulates of each seed's network.
        first: Arm -> the first seed's network before training.
    """

    scores: dict[str, list[float]] = field(default_factory=dict)
    params: dict[str, list[int]] = field(default_factory=dict)
    macs: dict[str, list[int]] = field(default_factory=dict)
    first: dict[str, nn.Module] = field(default_factory=dict)

    def add(self, name: str, model: nn.Module, accuracy: float, macs: int) -> None:
        """Add one training."""
        self.scores.setdefault(name, []).append(accuracy)
        self.params.setdefault(name, []).append(nonzero(model))
        self.macs.setdefault(name, []).append(macs)
        self.first.setdefault(name, model)

    def above(self, name: str, other: str) -> tuple[float, float]:
        """Mean of an arm's accuracy above another's, seed by seed, and its noise."""
        pairs = zip(self.scores[name], self.scores[other], strict=True)
        differences = [a - b for a, b in pairs]
        return sum(differences) / len(differences), noise(differences)


def train_family(
    run: Run,
    name: str,
    make: Callable[[int, int], nn.Module],
    data: Splits,
    recipe: Recipe,
    arms: Sequence[str],
    shares: Sequence[float],
) -> dict[float, Family]:
    """Train the dense network and the arms of every budget, with every seed.

    Args:
        run: Gives the seeds and the device; gets a table for every budget.
        name: Of the family.
        make: From channels and classes to a network.
        data: Trained and tested on.
        recipe: The dense network's; the arms have the same.
        arms: Names of the arms.
        shares: The budgets.

    Returns:
        Budget -> what was measured.
    """
    found = {share: Family() for share in shares}
    rounds = 10 if run.quick else _ROUNDS
    with run.timed(f"{name}: training"):
        for seed in run.seeds():
            model = reinitialise_(make(data.shape[0], data.num_classes), seed)
            net = trace(model, data.example(1))
            seeded = dataclasses.replace(recipe, seed=seed)
            dense = _score(run, model, data, seeded)
            run.log(f"{name}, seed {seed}: dense {dense:.4f}")
            for share in shares:
                found[share].add(DENSE, model, dense, net.macs)
                for arm, small in build(net, model, share, seed, arms, rounds).items():
                    macs = net.macs if arm in (MASKS, SHUFFLED) else trace(small, data.example(1)).macs
                    found[share].add(arm, small, _score(run, small, data, seeded), macs)
                    run.log(
                        f"{name}, seed {seed}, {share * 100:.0f} %: {arm} {found[share].scores[arm][-1]:.4f}"
                    )
    for share in shares:
        add_table(run, f"{name}, {share * 100:.0f} % of the parameters", found[share])
    return found


def add_table(run: Run, title: str, family: Family) -> None:
    """Add the table of a family at one budget."""
    rows: list[tuple[Cell, ...]] = []
    for name, scores in family.scores.items():
        lost, spread = (0.0, 0.0) if name == DENSE else family.above(DENSE, name)
        mean = sum(scores) / len(scores)
        deviation = (sum((s - mean) ** 2 for s in scores) / max(len(scores) - 1, 1)) ** 0.5
        params, macs = (sum(v[name]) / len(v[name]) for v in (family.params, family.macs))
        rows.append((name, mean, deviation, 100 * lost, 100 * spread, round(params), round(macs)))
    columns = ("arm", "accuracy", "deviation", "points lost", "±", "parameters", "MACs")
    note = "Means over the seeds; ± is half a 95 % interval of the paired loss against dense."
    if CHAIN in family.scores:
        note += f" {CHAIN.capitalize()}: convex widths with all layers counted as one chain."
    run.table(title, columns, rows, note)


def accuracy_panel(title: str, family: Family) -> Panel:
    """Bars of the test error of each arm, in percent, with its noise over the seeds."""
    panel = Panel(title, "test error, %")
    for name, scores in family.scores.items():
        panel.bar(name, 100 * (1 - sum(scores) / len(scores)), 100 * noise(scores))
    return panel


@dataclass(frozen=True)
class StepCost:
    """What one training step costs.

    Attributes:
        macs: Multiply-accumulates of forward and backward.
        seconds: Median wall time.
        ratio: Median over rounds of the time by that of the dense network.
        spread: Half the range between the quartiles of that ratio.
        bytes: What autograd keeps, parameters, gradients and optimiser state together.
    """

    macs: int
    seconds: float
    ratio: float
    spread: float
    bytes: int


def step_costs(
    run: Run, nets: Mapping[str, nn.Module], data: Splits, recipe: Recipe, rounds: int
) -> dict[str, StepCost]:
    """Take training steps with each network in turn, so that the machine's drift meets all alike.

    Args:
        run: Gives the device.
        nets: Networks by name; one is `DENSE`.
        data: Gives one batch.
        recipe: Gives batch size, optimiser, precision.
        rounds: Steps of each network that are timed.
    """
    x, y = next(data.train.batches(recipe.batch_size))
    steps = {name: _Step(run, model, x, y, recipe) for name, model in nets.items()}
    for step in steps.values():
        step.take()
        step.take()
    times: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(rounds):
        for name, step in steps.items():
            step.take()
            times[name].append(min(step.take(), step.take()))
    found = {}
    for name, step in steps.items():
        ratios = [a / b for a, b in zip(times[name], times[DENSE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        macs = 3 * len(x) * trace(nets[name], x[:1]).macs
        found[name] = StepCost(macs, statistics.median(times[name]), middle, (high - low) / 2, step.bytes())
    return found


class _Step:
    """One network, one batch, and the optimiser's state."""

    def __init__(self, run: Run, model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> None:
        self.device = resolve_device(run.device)
        self.runtime = Runtime.choose(
            self.device, x, precision=recipe.precision, channels_last=recipe.channels_last
        )
        self.model = self.runtime.place(copy.deepcopy(model)).train()
        self.x, self.y = self.runtime.move(x), y.to(self.device)
        self.optimizer = build_optimizer(self.model, recipe)

    def take(self) -> float:
        """Take one step; returns its seconds."""
        self._wait()
        start = time.perf_counter()
        loss = cross_entropy(self.runtime.forward(self.model, self.x), self.y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def bytes(self) -> int:
        """Bytes of a step, counted: every storage that autograd keeps, and three sets of weights."""
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = cross_entropy(self.runtime.forward(self.model, self.x), self.y)
        del loss
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        return sum(kept.values()) + 3 * weights
