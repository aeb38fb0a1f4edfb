"""Random pruning on the user's own images: the published networks with the published recipes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from netwright.data import Splits
from netwright.papers import sparse_full as full
from netwright.papers.plot import figure
from netwright.papers.random_pruning_small import DENSE, ERK, UNIFORM, Make, gap_panel, scores
from netwright.papers.run import Run
from netwright.papers.sparse_parts import paired
from netwright.pruning.allocations.choosing import Allocations
from netwright.train import Recipe

_SHARES = (0.05, 0.2, 0.5, 0.8)
_DEPTHS, _WIDTHS = (20, 32, 44, 56, 110), (8, 16, 24)


def measure(run: Run, path: Path) -> None:
    """Train dense and random networks; judge where the images are CIFAR-10 or ImageNet."""
    data, small = full.read(run, path)
    recipe = full.recipe_for(run, small)
    recipe = recipe if small else dataclasses.replace(recipe, batch_size=16 if run.quick else 768)
    run.settings |= {"recipe": dataclasses.asdict(recipe)}
    if small:
        _residual(run, data, recipe)
    else:
        _wide(run, data, recipe)


def _residual(run: Run, data: Splits, recipe: Recipe) -> None:
    """Deeper and wider residual networks at several shares."""
    depths, widths = ((8,), (8,)) if run.quick else (_DEPTHS, _WIDTHS)
    panels = []
    for share in _SHARES[1:2] if run.quick else _SHARES:
        arms: dict[str, tuple[float, Allocations]] = {
            DENSE: (1.0, "erk"),
            ERK: (share, "erk"),
            UNIFORM: (share, "uniform"),
        }

        def trained(make: Make, arms: dict[str, tuple[float, Allocations]] = arms) -> dict[str, list[float]]:
            return scores(run, make, data, recipe, run.seeds(3), arms)

        where = f"{100 * share:.0f} % kept"
        deep = {d: trained(full.residual(data, d, 16)) for d in depths}
        wide = {w: trained(full.residual(data, depths[0], w)) for w in widths}
        panels.append(gap_panel(run, f"Residual networks of width 16, {where}", "layers", deep))
        panels.append(gap_panel(run, f"ResNet-{depths[0]}, {where}", "width", wide))
        if run.scope == full.CIFAR and share == 0.2 and not run.quick:
            lost = paired(deep[110][DENSE], deep[110][ERK])
            run.measure(f"CIFAR-10 accuracy lost by random ERK masks, ResNet-110, {where}", *lost)
            lost = paired(wide[24][DENSE], wide[24][ERK])
            run.measure(f"CIFAR-10 accuracy lost by random ERK masks, width 24, {where}", *lost)
    run.plot(figure(f"Random pruning on {data.name}", panels, columns=2))


def _wide(run: Run, data: Splits, recipe: Recipe) -> None:
    """The Wide ResNet-50 with a fifth of its weights, the classifier whole."""
    arms: dict[str, tuple[float, Allocations]] = {DENSE: (1.0, "erk"), ERK: (0.2, "erk-plus")}
    make = full.published("resnet18" if run.quick else "wide_resnet50_2", data)
    found = scores(run, make, data, recipe, run.seeds(1), arms)
    panel = gap_panel(run, "Wide ResNet-50, 20 % kept by ERK+", "run", {1: found})
    if run.scope == full.IMAGENET:
        above = paired(found[ERK], found[DENSE])
        run.measure("ImageNet Wide ResNet-50: random ERK+ masks above dense, 20 % kept", *above)
    run.plot(figure(f"Random pruning on {data.name}", [panel]))
