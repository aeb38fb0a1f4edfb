"""GraNet on the user's own images: the published networks with the published recipes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from netwright.papers import sparse_full as full
from netwright.papers.granet_small import GMP, GMP_HALF, GRANET, RIGL, STATIC, Panels, bars, report, train_arm
from netwright.papers.plot import figure
from netwright.papers.run import Run
from netwright.papers.sparse_parts import paired
from netwright.pruning.schedules import schedule as schedules
from netwright.pruning.schedules.schedule import Gradual

_SHARES = {True: (0.1, 0.05, 0.02), False: (0.2, 0.1)}


def arms(small: bool, per_epoch: int, quick: bool = False) -> dict[str, Gradual]:
    """The schedules of the paper: 1000 steps between events and pruning until epoch 110, or 4000 and 30."""
    every, end = (1000, 110 * per_epoch) if small else (4000, 30 * per_epoch)
    if quick:
        every, end = 1, 3
    same = {"begin": 0, "end": end, "every": every}
    return {
        STATIC: schedules.static(**same),
        RIGL: schedules.rigl(rate=0.3, **same),
        GMP: schedules.cubic(**same),
        GMP_HALF: schedules.granet(rate=0.0, **same),
        GRANET: schedules.granet(**same),
    }


def measure(run: Run, path: Path) -> None:
    """Train every arm on the images of a folder or file; judge where they are CIFAR-10 or ImageNet."""
    data, small = full.read(run, path)
    recipe = full.recipe_for(run, small)
    nets = {
        name: full.published(name, data) for name in (["vgg19_bn", "resnet50"] if small else ["resnet50"])
    }
    if run.quick:
        nets = (
            {"small": full.residual(data, 8, 8)} if small else {"resnet18": full.published("resnet18", data)}
        )
    run.settings |= {"recipe": dataclasses.asdict(recipe), "networks": list(nets)}
    per_epoch = -(-min(len(data.train), recipe.limit or len(data.train)) // recipe.batch_size)
    panels = []
    for name, make in nets.items():
        for share in _SHARES[small][-1:] if run.quick else _SHARES[small]:
            found = Panels()
            for arm, schedule in arms(small, per_epoch, run.quick).items():
                train_arm(run, found, arm, schedule, share, data, recipe, run.seeds(3), make)
            where = f"{name}, {share * 100:.0f} % kept"
            report(run, where, found)
            panels.append(bars(where, found))
            _claim(run, name, share, found)
    run.plot(figure(f"GraNet on {data.name}", panels, columns=2))


def _claim(run: Run, name: str, share: float, found: Panels) -> None:
    if run.scope == full.CIFAR and name == "vgg19_bn" and share == 0.02:
        for arm in (RIGL, GMP):
            value = paired(found.scores[GRANET], found.scores[arm])
            run.measure(f"CIFAR-10 VGG-19: GraNet above {arm}, 2 % kept", *value)
    if run.scope == full.IMAGENET and share == 0.2:
        scores = found.scores[GRANET]
        run.measure("ImageNet ResNet-50: top-1 of GraNet, 20 % kept", sum(scores) / len(scores))
