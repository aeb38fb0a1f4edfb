"""The two searches of N2N on a small teacher, beside random actions with as many trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from netwright import models
from netwright.data import Splits, load
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.pruning.systems.n2n import LogitMatch, Stage, distilled_student, rises
from netwright.train import Objective, Recipe, evaluate, fit

_REMOVAL, _SHRINKAGE = "removal", "shrinkage"
#: Of the policies. Removal learns at five times the published rate, since it has a fifth of the updates.
_RATES = {_REMOVAL: 0.015, _SHRINKAGE: 0.1}
_UPDATES, _ROLLOUTS = 20, 3


def vgg(convolutions: int, seed: int, classes: int = 10) -> nn.Module:
    """A chain of convolutions in VGG's manner for images of 14x14; six of them have about 150,000 weights."""
    widths = (16, 16, 32, 32, 64, 64)[-convolutions:] if convolutions < 6 else (16, 16, 32, 32, 64, 64)
    layers: list[nn.Module] = []
    inputs = 1
    for k, width in enumerate(widths):
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        if k % 2 and k < 4:
            layers.append(nn.MaxPool2d(2))
        inputs = width
    head = [nn.Flatten(), nn.Linear(inputs * 9, 128), nn.ReLU(), nn.Linear(128, classes)]
    return reinitialise_(nn.Sequential(*layers, *head), seed)


@dataclass(frozen=True)
class Setting:
    """Data, sizes and recipes."""

    data: Splits
    short: Splits
    teacher: Recipe
    judge: Recipe
    final: Recipe
    updates: int

    @property
    def example(self) -> Tensor:
        """Two images."""
        return self.data.example()


def setting(run: Run) -> Setting:
    """Fashion-MNIST at 14x14: 5,000 pictures, 2,000 of them for the short trainings."""
    splits = load("fashion-mnist", image_size=14)
    sizes = (128, 64, 64) if run.quick else (5_000, 2_000, 2_000)
    data = dataclasses.replace(
        splits,
        train=splits.train.head(sizes[0]),
        val=splits.val.head(sizes[1]),
        test=splits.test.head(sizes[2]),
    )
    short = dataclasses.replace(data, train=data.train.head(sizes[1]))
    teacher = Recipe(epochs=1 if run.quick else 3, batch_size=64, lr=0.1, schedule="one-cycle", augment=False)
    judge = Recipe(
        epochs=1,
        batch_size=32,
        lr=3e-3,
        optimizer="adam",
        weight_decay=5e-4,
        schedule="constant",
        augment=False,
    )
    final = dataclasses.replace(judge, epochs=1 if run.quick else 3, schedule="cosine")
    found = Setting(data, short, teacher, judge, final, 2 if run.quick else _UPDATES)
    run.settings |= {
        "data": f"Fashion-MNIST at 14x14, {len(data.train):,} to train",
        "pictures of a short training": len(short.train),
        "teacher": dataclasses.asdict(teacher),
        "short training": dataclasses.asdict(judge),
        "final training": dataclasses.asdict(final),
        "updates x rollouts": f"{found.updates} x {_ROLLOUTS} in each stage",
        "rates of the policies": _RATES,
    }
    return found


@dataclass
class Teacher:
    """A trained teacher and how its children are judged."""

    model: nn.Module
    validation: float
    test: float
    size: int


def teach(run: Run, given: Setting, convolutions: int, seed: int) -> Teacher:
    """Train a teacher."""
    recipe = dataclasses.replace(given.teacher, seed=seed)
    model = fit(vgg(convolutions, seed), given.data, recipe, device=run.device).model.cpu()
    judged, tested = (
        evaluate(model, part, device=run.device).accuracy for part in (given.data.val, given.data.test)
    )
    return Teacher(model, judged, tested, sum(p.numel() for p in model.parameters()))


def stage(
    run: Run, given: Setting, teacher: Teacher, parent: nn.Module, kind: str, seed: int, *,
    random: bool = False, policy: nn.Module | None = None,
) -> Stage:  # fmt: skip
    """One search to its end."""
    recipe = dataclasses.replace(given.judge, seed=seed)
    found = Stage(
        parent,
        given.example,
        kind,
        distilled_student(teacher.model, given.short, recipe, run.device),
        teacher.validation,
        teacher.size,
        policy=policy,
        random=random,
        rollouts=_ROLLOUTS,
        lr=_RATES[kind],
        seed=seed,
    )
    return found.run(given.updates)


@dataclass
class Scores:
    """One number a seed."""

    rises: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)

    def add(self, found: Sequence[Stage], rate: float, accuracy: float) -> None:
        """Add one seed's searches and their final student."""
        self.rises.append(rises(found[-1].means))
        self.mean.append(sum(r.reward for s in found for r in s.history) / sum(len(s.history) for s in found))
        self.curve.append([m for s in found for m in s.means])
        self.rate.append(rate)
        self.accuracy.append(accuracy)


def headline(run: Run) -> None:
    """Both stages with the policies and with random actions, and the students that come out."""
    given = setting(run)
    arms = {"policies": Scores(), "random actions": Scores()}
    alone: dict[str, Scores] = {_REMOVAL: Scores(), _SHRINKAGE: Scores()}
    teachers: list[float] = []
    with run.timed("searches"):
        for seed in run.seeds():
            teacher = teach(run, given, 6, seed)
            teachers.append(teacher.test)
            for name, scores in arms.items():
                random = name != "policies"
                first = stage(run, given, teacher, teacher.model, _REMOVAL, seed, random=random)
                parent = first.student()
                second = stage(run, given, teacher, parent, _SHRINKAGE, seed + 100, random=random)
                student = second.build(second.best) if second.best.reward > first.best.reward else parent
                scores.add([first, second], *_final(run, given, teacher, student, seed))
                if not random:
                    alone[_REMOVAL].add([first], *_final(run, given, teacher, parent, seed))
                run.log(f"seed {seed}, {name}: reward {scores.mean[-1]:.3f}, {scores.rate[-1]:.1f}x smaller")
    _tables(run, arms, alone, teachers)
    found = arms["policies"]
    run.measure("rise of the mean reward, shrinkage", *paired(found.rises, [0.0] * len(found.rises)))
    run.measure(
        "mean reward of the policies above random actions", *paired(found.mean, arms["random actions"].mean)
    )
    run.measure("compression of the best student", *paired(found.rate, [0.0] * len(found.rate)))
    run.measure("accuracy lost by the best student", *paired(teachers, found.accuracy))


def _final(run: Run, given: Setting, teacher: Teacher, student: nn.Module, seed: int) -> tuple[float, float]:
    """How many times smaller a student is, and its test accuracy after the final training."""
    quiet = dataclasses.replace(given.data, val=given.data.val.head(0))
    trained = fit(
        student,
        quiet,
        dataclasses.replace(given.final, seed=seed),
        teacher=teacher.model,
        device=run.device,
        objective=Objective(((1.0, LogitMatch()),)),
    ).model
    size = sum(p.numel() for p in trained.parameters())
    return teacher.size / size, evaluate(trained, given.data.test, device=run.device).accuracy


def _tables(run: Run, arms: dict[str, Scores], alone: dict[str, Scores], teachers: Sequence[float]) -> None:
    rows: list[tuple[Cell, ...]] = []
    for name, scores in (*arms.items(), ("policy, removal alone", alone[_REMOVAL])):
        cells = (scores.mean, scores.rises, scores.rate)
        rows.append((name, *(mean_deviation(v)[0] for v in cells), 100 * mean_deviation(scores.accuracy)[0]))
    columns = ("arm", "mean reward", "rise, last stage", "times smaller", "accuracy, %")
    note = f"Teacher: {100 * mean_deviation(teachers)[0]:.1f} %. As many trainings in both arms."
    run.table("Removal, then shrinkage", columns, rows, note)
    panel = Panel("mean reward of each update", "reward", "update")
    for name, scores in arms.items():
        curve = [sum(v) / len(v) for v in zip(*scores.curve, strict=True)]
        panel.line(name, [(k + 1, v) for k, v in enumerate(curve)])
    run.plot(figure("N2N on Fashion-MNIST", [panel], columns=1, width=640, height=320))


def transferred(run: Run) -> None:
    """A shrinkage policy trained on a teacher of four convolutions, on one of six."""
    given = setting(run)
    first: list[float] = []
    fresh: list[float] = []
    saved: list[float] = []
    with run.timed("transfer"):
        for seed in run.seeds():
            small, large = teach(run, given, 4, seed), teach(run, given, 6, seed)
            source = stage(run, given, small, small.model, _SHRINKAGE, seed)
            scratch = stage(run, given, large, large.model, _SHRINKAGE, seed + 100)
            moved = stage(run, given, large, large.model, _SHRINKAGE, seed + 100, policy=source.policy)
            span = min(5, given.updates)
            first.append(sum(moved.means[:span]) / span)
            fresh.append(sum(scratch.means[:span]) / span)
            goal = sum(scratch.means[-span:]) / span
            saved.append(float(_until(scratch.means, goal) - _until(moved.means, goal)) * _ROLLOUTS)
    run.measure("first updates of a transferred policy above a fresh one's", *paired(first, fresh))
    run.measure("rollouts saved by transfer", *paired(saved, [0.0] * len(saved)))
    rows: list[tuple[Cell, ...]] = [
        ("fresh", *mean_deviation(fresh)),
        ("transferred", *mean_deviation(first)),
    ]
    run.table("Mean reward of the first five updates", ("policy", "reward", "deviation"), rows)


def _until(means: Sequence[float], goal: float) -> int:
    """Updates until the running mean of five first reaches a goal; all of them where it never does."""
    for k in range(len(means)):
        window = means[max(0, k - 4) : k + 1]
        if sum(window) / len(window) >= goal:
            return k + 1
    return len(means)


def full(run: Run, path: Path) -> None:
    """ResNet-34 on the user's images, with the published rollouts."""
    from netwright.papers.n2n import FULL

    run.scope = FULL
    data = load(str(path))
    if run.quick:
        data = dataclasses.replace(
            data, train=data.train.head(64), val=data.val.head(32), test=data.test.head(32)
        )
    model = models.load("resnet34", num_classes=data.num_classes, in_channels=data.shape[0]).model
    model = reinitialise_(model, run.seed)
    recipe = Recipe(epochs=1 if run.quick else 200, batch_size=16 if run.quick else 128, seed=run.seed)
    teacher = fit(model, data, recipe, device=run.device).model.cpu()
    size = sum(p.numel() for p in teacher.parameters())
    accuracy = evaluate(teacher, data.val, device=run.device).accuracy
    judge = distilled_student(teacher, data, None, run.device)
    parent, found = teacher, []
    for kind, rate in ((_REMOVAL, 0.003), (_SHRINKAGE, 0.1)):
        search = Stage(
            parent, data.example(), kind, judge, max(accuracy, 1e-6), size, rollouts=5, lr=rate, seed=run.seed
        ).run(1 if run.quick else 100, run.log)
        found.append(search)
        parent = search.student()
    run.measure("compression of ResNet-34", size / sum(p.numel() for p in parent.parameters()))
    rows = [(s.kind, s.best.params, 100 * s.best.accuracy, s.best.reward) for s in found]
    run.table("Best children", ("stage", "parameters", "accuracy, %", "reward"), rows)
