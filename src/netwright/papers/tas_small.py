"""The small runs of Transformable Architecture Search: a ResNet-14 on Fashion-MNIST, halved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from netwright.data import Splits
from netwright.models import ResNetCifar
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run, one_thread
from netwright.papers.sparse_parts import accuracy_table, fashion, mean_deviation, paired
from netwright.pruning import prune
from netwright.pruning.removal.crop import count_uniform
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.systems.soft_network import Shape, SoftNetwork
from netwright.pruning.systems.soft_shapes import random_shape
from netwright.pruning.systems.tas import DISTILL, Searched, Tas, search
from netwright.structure import Budget
from netwright.train import Recipe, evaluate, fit

_TARGET = 0.5
_DRAWS = 5
#: Images to train in the further arms: many more trainings than in the ordinary run.
_FEWER = 3_500
UNIFORM, RANDOM, BEST, TAS, TAS_KD = "uniform", "random, mean", "random, best", "TAS", "TAS + KD"
_DENSE = "dense"


@dataclass(frozen=True)
class Setting:
    """Data and recipes."""

    data: Splits
    search: Tas
    recipe: Recipe
    draws: int

    @property
    def example(self) -> Tensor:
        """Two images."""
        return self.data.example()


def setting(run: Run, images: int = 10_000) -> Setting:
    """Fashion-MNIST at 14x14: some images to search and to train, 5,000 others to test."""
    data = fashion(*((256, 128) if run.quick else (images, 5_000)))
    recipe = Recipe(epochs=10, batch_size=64, lr=0.1, warmup_epochs=0.5, augment=False, precision="fp32")
    looking = dataclasses.replace(recipe, epochs=6, warmup_epochs=0.0)
    if run.quick:
        recipe = dataclasses.replace(recipe, epochs=1)
        looking = dataclasses.replace(looking, epochs=1, batch_size=32)
    found = Setting(data, Tas(looking), recipe, 2 if run.quick else _DRAWS)
    run.settings |= {
        "data": "Fashion-MNIST at 14x14",
        "images to search and to train, to test": [len(data.train), len(data.test)],
        "network": "ResNet-14, 8, 12 and 16 wide",
        "target": f"{_TARGET:.0%} of the multiply-accumulates",
        "search": dataclasses.asdict(found.search),
        "training": dataclasses.asdict(recipe),
        "distillation": f"{DISTILL} of the loss, at temperature {recipe.distill_temperature}",
        "random shapes": f"{found.draws} draws of widths and depths, at most 2 % below the searched cost",
        "threads": 1,
    }
    return found


def network(seed: int) -> nn.Module:
    """The network before it is pruned."""
    return reinitialise_(ResNetCifar(14, in_channels=1, widths=(8, 12, 16)), seed)


@dataclass
class Case:
    """One seed: the trained dense network and the searched shape.

    Attributes:
        dense: The trained network.
        accuracy: On the test split.
        found: The search's result.
    """

    run: Run
    given: Setting
    seed: int
    dense: nn.Module
    accuracy: float
    found: Searched

    @classmethod
    def make(cls, run: Run, given: Setting, seed: int) -> Case:
        """Train and search."""
        recipe = dataclasses.replace(given.recipe, seed=seed)
        dense = fit(network(seed), given.data, recipe, device=run.device).model.cpu()
        accuracy = evaluate(dense, given.data.test, device=run.device).accuracy
        with run.timed("search"):
            found = search(
                dense, given.example, given.data.train, Budget(macs=_TARGET), given.search,
                seed=seed, device=run.device,
            )  # fmt: skip
        run.log(f"seed {seed}: dense {accuracy:.4f}, searched {found.raw.macs:,} of {found.target:,.0f} macs")
        return cls(run, given, seed, dense, accuracy, found)

    @property
    def soft(self) -> SoftNetwork:
        """The network of all shapes."""
        return self.found.soft

    def train(self, shape: Shape, *, distill: bool = False, prefix: bool = False) -> float:
        """Test accuracy of a shape, trained from scratch or from the dense network's first channels."""
        model, _ = self.soft.cut(shape, self.dense, None if prefix else self.seed)
        recipe = dataclasses.replace(
            self.given.recipe, seed=self.seed, distill_weight=DISTILL if distill else 0.0
        )
        teacher = self.dense if distill else None
        with self.run.timed("training"):
            trained = fit(model, self.given.data, recipe, teacher=teacher, device=self.run.device).model
        return evaluate(trained, self.given.data.test, device=self.run.device).accuracy

    def longer(self, times: int) -> Case:
        """The same shapes where everything, the dense network included, is trained longer."""
        recipe = dataclasses.replace(self.given.recipe, epochs=times * self.given.recipe.epochs)
        dense = fit(
            network(self.seed),
            self.given.data,
            dataclasses.replace(recipe, seed=self.seed),
            device=self.run.device,
        ).model.cpu()
        accuracy = evaluate(dense, self.given.data.test, device=self.run.device).accuracy
        return dataclasses.replace(
            self, given=dataclasses.replace(self.given, recipe=recipe), dense=dense, accuracy=accuracy
        )

    def uniform(self) -> Shape:
        """One width for all, at full depth, at the searched shape's cost."""
        budget = Budget(macs=f"{self.found.shape.macs}")
        counts = count_uniform(self.soft.net, self.dense, budget)
        plain = Shape((), counts, {}, (), 0)
        return dataclasses.replace(plain, macs=self.soft.net.cost(self.soft.mask(plain)).macs)

    def random(self, count: int) -> list[Shape]:
        """Shapes drawn at the searched shape's cost."""
        generator = torch.Generator().manual_seed(1000 + self.seed)
        return [random_shape(self.soft, self.found.shape.macs, generator) for _ in range(count)]


@dataclass
class Costs:
    """Multiply-accumulates of the arms as shares of the target, one a seed."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, arm: str, shapes: Sequence[Shape], target: float) -> None:
        """Add the mean of some shapes."""
        self.values.setdefault(arm, []).append(sum(s.macs for s in shapes) / len(shapes) / target)


def headline(run: Run) -> None:
    """The searched shape with and without distillation, beside uniform and random shapes of equal cost."""
    given = setting(run)
    scores: dict[str, list[float]] = {n: [] for n in (_DENSE, UNIFORM, RANDOM, BEST, TAS, TAS_KD)}
    costs, cases = Costs(), []
    with one_thread():
        for seed in run.seeds():
            case = Case.make(run, given, seed)
            shape, target = case.found.shape, case.found.target
            uniform, random = case.uniform(), case.random(given.draws)
            drawn = [case.train(s) for s in random]
            found = {
                _DENSE: case.accuracy,
                UNIFORM: case.train(uniform),
                RANDOM: sum(drawn) / len(drawn),
                BEST: max(drawn),
                TAS: case.train(shape),
                TAS_KD: case.train(shape, distill=True),
            }
            for arm, value in found.items():
                scores[arm].append(value)
            costs.add(UNIFORM, [uniform], target)
            costs.add(RANDOM, random, target)
            costs.add(TAS, [shape], target)
            costs.add("TAS, most probable", [case.found.raw], target)
            cases.append(case)
            run.log(f"seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()))
    accuracy_table(
        run, "Test accuracy at equal cost", scores, RANDOM, "All but the last arm without a teacher."
    )
    _tables(run, cases, costs)
    run.tried(
        "A smaller learning rate of the logits, 1e-3 times the square root of how many fewer steps than "
        "published there are (0.011): the first seed ended 13.7 % below the target. It is now raised in "
        "proportion, so that the logits can move as far as published; nothing else was changed."
    )
    run.tried(
        "Shapes made smaller until they fit and never larger than most probable, trained on 5,000 of the "
        "10,000 images: final shapes 17.0 %, 3.7 % and 8.1 % below the target; TAS above random 0.62 points "
        "(+- 0.52), TAS with distillation above random -0.32 (1.25) and above TAS -0.94 (1.34). Shapes "
        "are now brought to the budget and trained on all 10,000 images."
    )
    for name, shapes in (
        ("final", [c.found.shape for c in cases]),
        ("most probable", [c.found.raw for c in cases]),
    ):
        distances = [abs(s.macs / c.found.target - 1) for s, c in zip(shapes, cases, strict=True)]
        note = "by seed: " + ", ".join(f"{d:.1%}" for d in distances)
        run.measure(f"largest distance of the {name} shape's MACs from the target", max(distances), note=note)
    run.measure(
        "TAS with distillation above the mean of random shapes", *paired(scores[TAS_KD], scores[RANDOM])
    )
    run.measure("TAS with distillation above TAS without", *paired(scores[TAS_KD], scores[TAS]))
    run.measure(
        "TAS above the mean of random shapes, both without distillation", *paired(scores[TAS], scores[RANDOM])
    )


def _tables(run: Run, cases: Sequence[Case], costs: Costs) -> None:
    rows: list[tuple[Cell, ...]] = [(arm, *mean_deviation(v)) for arm, v in costs.values.items()]
    run.table("Cost as a share of the target", ("arm", "mean", "deviation"), rows)
    shapes: list[tuple[Cell, ...]] = []
    for case in cases:
        shape = case.found.shape
        widths = ", ".join(f"{k} {v}" for k, v in shape.keep.items())
        depths = ", ".join(f"{k} {v}" for k, v in shape.depth.items())
        shapes.append((case.seed, shape.macs, case.found.raw.macs, depths, widths))
    columns = ("seed", "macs", "macs, most probable", "blocks kept", "channels kept")
    run.table("Searched shapes", columns, shapes, f"Dense: {cases[0].soft.net.macs:,} macs.")
    panel = Panel("cost while searching, as a share of the target", "share", "epoch")
    for name, key in (("expected", "expected"), ("most probable shape", "macs")):
        curves = zip(*[[r[key] / c.found.target for r in c.found.history] for c in cases], strict=True)
        panel.line(name, [(k + 1.0, sum(v) / len(v)) for k, v in enumerate(curves)])
    run.plot(figure("TAS on Fashion-MNIST", [panel], columns=1, width=640, height=320))


def components(run: Run) -> None:
    """Shape by transfer, distillation in a longer training, and a traditional pruner.

    The last one removes channels by L1 norm and is fine-tuned for as long as search and training take.
    """
    given = setting(run, _FEWER)
    kinds: Mapping[str, dict[str, bool]] = {"none": {}, "prefix": {"prefix": True}, "KD": {"distill": True}}
    scores: dict[str, list[float]] = {}
    with one_thread():
        for seed in run.seeds():
            case = Case.make(run, given, seed)
            shapes = {"uniform": case.uniform(), "random": case.random(1)[0], "TAS": case.found.shape}
            for shape, kept in shapes.items():
                for kind, how in kinds.items():
                    scores.setdefault(f"{shape}, {kind}", []).append(case.train(kept, **how))
            longer = case.longer(2)
            for kind in ("none", "KD"):
                value = longer.train(case.found.shape, **kinds[kind])
                scores.setdefault(f"TAS, {kind}, twice as long", []).append(value)
            scores.setdefault(_DENSE, []).append(case.accuracy)
            scores.setdefault(f"{_DENSE}, twice as long", []).append(longer.accuracy)
            scores.setdefault("L1 channels, fine-tuned", []).append(_traditional(case))
            run.log(f"seed {seed}: " + ", ".join(f"{k} {v[-1]:.4f}" for k, v in scores.items()))
    note = (
        "KD: 0.9 of the loss follows the dense network; prefix: its first channels are where weights begin."
    )
    accuracy_table(run, "Shape and transfer at equal cost", scores, "random, none", note)

    def mean(arms: Sequence[str]) -> list[float]:
        return [sum(v) / len(v) for v in zip(*[scores[a] for a in arms], strict=True)]

    forms = ("uniform", "random", "TAS")
    run.measure(
        "distillation above training alone, mean of three shapes",
        *paired(mean([f"{f}, KD" for f in forms]), mean([f"{f}, none" for f in forms])),
    )
    gaps = zip(scores[f"{_DENSE}, twice as long"], scores["TAS, none, twice as long"], strict=True)
    run.measure(
        "distillation above training alone, TAS, trained twice as long",
        *paired(scores["TAS, KD, twice as long"], scores["TAS, none, twice as long"]),
        note="points of the dense network, trained as long, above TAS alone, by seed: "
        + ", ".join(f"{100 * (one - other):.1f}" for one, other in gaps),
    )
    run.measure(
        "TAS above a random shape, mean of three kinds of transfer",
        *paired(mean([f"TAS, {k}" for k in kinds]), mean([f"random, {k}" for k in kinds])),
    )
    run.measure(
        "TAS with distillation above L1 channels, fine-tuned as long",
        *paired(scores["TAS, KD"], scores["L1 channels, fine-tuned"]),
    )


def _traditional(case: Case) -> float:
    """Channels by L1 norm of the dense network, fine-tuned for the epochs of search and training together."""
    given, looking = case.given, case.given.search.recipe
    assert looking is not None
    epochs = given.recipe.epochs + looking.epochs
    recipe = dataclasses.replace(given.recipe, epochs=epochs, lr=0.01, seed=case.seed)
    found = prune(
        case.dense, given.example, Budget(macs=f"{case.found.shape.macs}"), importance="magnitude-l1",
        repair="fine-tune", data=given.data, recipe=recipe, round_to=1, device=case.run.device,
    )  # fmt: skip
    return evaluate(found.model, given.data.test, device=case.run.device).accuracy
