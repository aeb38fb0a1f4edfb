"""Lottery rewinding on the user's own images: the published networks, one resumable training a level."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from netwright.papers import sparse_full as full
from netwright.papers.plot import Panel, figure
from netwright.papers.run import Cell, Run
from netwright.papers.sparse_parts import mean_deviation, paired
from netwright.pruning import prunable_weights
from netwright.pruning.schedules.cycles import CycleRun, lottery
from netwright.pruning.schedules.schedule import When
from netwright.train import evaluate

#: Network -> the steps that it is rewound to.
_SMALL: dict[str, tuple[When | str, ...]] = {
    "ResNet-20": (0, "500it", "5%"),
    "VGG-19": (0, "100it", "5%"),
}
_LARGE: dict[str, tuple[When | str, ...]] = {"ResNet-50": (0, "6ep")}
_ROUNDS = 8


def measure(run: Run, path: Path) -> None:
    """Prune level by level on the images of a folder or file; judge where they are CIFAR-10 or ImageNet."""
    data, small = full.read(run, path)
    recipe = full.recipe_for(run, small, weight_decay=1e-4)
    if not small and not run.quick:
        recipe = dataclasses.replace(recipe, epochs=90, batch_size=1024)
    nets = _SMALL if small else _LARGE
    nets = dict(list(nets.items())[:1]) if run.quick else nets
    rounds = 1 if run.quick else _ROUNDS
    run.settings |= {"recipe": dataclasses.asdict(recipe), "networks": list(nets), "rounds": rounds}
    panels = []
    for name, rewinds in nets.items():
        make = {
            "ResNet-20": full.residual(data),
            "VGG-19": full.published("vgg19_bn", data),
            "ResNet-50": full.published("resnet18" if run.quick else "resnet50", data),
        }[name]
        found: dict[str, dict[int, list[float]]] = {}
        kept: list[float] = []
        for seed in run.seeds(3):
            for rewind in ("1it", 0) if run.quick else rewinds:
                # A folder of its own for every training, so that the same command goes on where it stopped.
                folder = run.out / "lottery" / f"{name}-{seed}-{rewind}" if run.out else None
                model = make(seed)
                cycles = CycleRun(
                    model,
                    data,
                    dataclasses.replace(recipe, seed=seed),
                    lottery(0.2, rounds, rewind=rewind),
                    exclude=prunable_weights(model)[-1:],
                    seed=seed,
                    device=run.device,
                    folder=folder,
                )
                kept = []
                for level in cycles:
                    accuracy = evaluate(level.model, data.test, device=run.device, precision="auto").accuracy
                    found.setdefault(str(rewind), {}).setdefault(level.level, []).append(accuracy)
                    kept.append(level.keep)
                    run.log(
                        f"{name}, seed {seed}, rewound to {rewind}, {100 * level.keep:.1f} %: {accuracy:.4f}"
                    )
        _report(run, name, found, kept)
        panel = Panel(f"{name} on {data.name}", "test accuracy, %", x="weights kept, %", log_x=True)
        for rewind, levels in found.items():
            points = [(100 * kept[k], 100 * mean_deviation(v)[0]) for k, v in levels.items()]
            panel.line(f"rewound to {rewind}", points)
        panels.append(panel)
        _claim(run, name, found)
    run.plot(figure(f"Lottery tickets on {data.name}", panels, columns=2))


def _report(run: Run, name: str, found: dict[str, dict[int, list[float]]], kept: list[float]) -> None:
    rows: list[tuple[Cell, ...]] = [
        (rewind, *(100 * mean_deviation(levels[k])[0] for k in range(len(kept))))
        for rewind, levels in found.items()
    ]
    columns = ("rewound to", *(f"{100 * k:.1f} % kept" for k in kept))
    run.table(f"Test accuracy of {name}, %", columns, rows, "Means over the seeds.")


def _claim(run: Run, name: str, found: dict[str, dict[int, list[float]]]) -> None:
    if run.quick:
        return
    if run.scope == full.CIFAR and name == "ResNet-20":
        value = paired(found["500it"][_ROUNDS], found["0"][_ROUNDS])
        run.measure("CIFAR-10 ResNet-20: rewinding to 500 steps above step 0, 17 % kept", *value)
    if run.scope == full.IMAGENET:
        # Level 7 keeps 21 %, level 8 keeps 17 %: the first that is at least 80 % sparse.
        lost = paired(found["6ep"][0], found["6ep"][_ROUNDS])
        run.measure("ImageNet ResNet-50: accuracy lost, rewound to epoch 6, 17 % kept", *lost)
