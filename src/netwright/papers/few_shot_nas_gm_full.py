"""The paper's own spaces at their own size, a few steps on noise: that the method runs on them."""

from __future__ import annotations

import torch

from netwright.data import Part, Splits
from netwright.models.zoo.bignas import MBStage, bignas
from netwright.models.zoo.cell_net import NB201_OPS
from netwright.papers.run import Run, drawing
from netwright.papers.supernet_cells import OUTSIDE, cell_supernet
from netwright.supernets import Elastic, FewShot, InplaceDistill, RegionalAlpha, elastic, few_shot
from netwright.supernets.samplers.fixed import Sandwich
from netwright.train import Recipe

#: Stages of Once-for-All's largest network: width and stride; four blocks each, kernels of 7, expansion 6.
OFA_STAGES = ((24, 2), (40, 2), (80, 2), (112, 1), (160, 2))
OFA_KERNELS, OFA_DEPTHS, OFA_EXPANSIONS = (3, 5, 7), (2, 3, 4), (0.5, 2 / 3, 1.0)
_BATCH = 4


def measure(run: Run) -> None:
    """Divide both, and table what came of it."""
    rows = []
    for name, made, size in (
        ("NAS-Bench-201, 16 channels, 5 cells a stage, DARTS", *cells(run.seed)),
        ("Once-for-All's MobileNet, kernels of layers", *mobile(run.seed)),
    ):
        total = sum(leaf.space(made.store.space).size() for leaf in made.store.leaves)
        rows.append((name, float(size), len(made.store), float(total), made.steps, made.scoring))
    run.table(
        "Spaces of the paper, divided after a few steps on noise",
        ("space", "sub-networks", "leaves", "sub-networks of all leaves", "steps", "passes to decide"),
        rows,
        "That the method runs on them; nothing is ranked here.",
    )


def noise_of(side: int, seed: int) -> Splits:
    """A few images of noise in ten classes.

    Args:
        side: Of the images.
        seed: Of the noise.
    """
    x = torch.randn(2 * _BATCH, 3, side, side, generator=torch.Generator().manual_seed(seed))
    part = Part.from_tensors(x, torch.arange(2 * _BATCH) % 10)
    return Splits("noise", part, part, part, tuple("0123456789"))


def _recipe(seed: int) -> Recipe:
    return Recipe(epochs=2, batch_size=_BATCH, lr=0.025, precision="fp32", augment=False, seed=seed)


def cells(seed: int) -> tuple[FewShot, int]:
    """The cells of NAS-Bench-201 with all five operations on six edges, trained as DARTS does.

    Args:
        seed: Of everything.

    Returns:
        What was divided, and how many sub-networks there are.
    """
    sup = cell_supernet(seed, ops=NB201_OPS, kind="nb201", width=16, in_channels=3, side=32)
    data = noise_of(32, seed)
    made = few_shot(
        sup,
        data,
        _recipe(seed),
        splits=1,
        dims=["op:0-1", "op:2-3"],
        sampler=lambda number: RegionalAlpha("darts", number),
        held=data.val,
        repeats=1,
        batch_size=_BATCH,
        exclude=OUTSIDE,
        device="cpu",
    )
    return made, sup.space.size()


def ofa_supernet(seed: int, side: int = 64) -> Elastic:
    """The space of Once-for-All: kernel and expansion of every block, depth of every stage.

    Args:
        seed: Of the weights.
        side: Of the images.
    """
    stages = [MBStage(16, 1, 3, 1, 1), *(MBStage(w, 4, 7, 6, s) for w, s in OFA_STAGES)]
    with drawing(seed):
        net = bignas(stages, num_classes=10, stem=16, head=960)
    return elastic(
        net,
        torch.zeros(2, 3, side, side),
        kernel=list(OFA_KERNELS),
        depth=list(OFA_DEPTHS),
        width={"blocks.*.expand.0": list(OFA_EXPANSIONS)},
        unit=8,
    )


def mobile(seed: int) -> tuple[FewShot, int]:
    """Once-for-All's MobileNet, divided by the kernels of layers and trained with sandwiches.

    Args:
        seed: Of everything.

    Returns:
        What was divided, and how many sub-networks there are.
    """
    sup = ofa_supernet(seed)
    kernels = [d.name for d in sup.space.free if d.name.startswith("kernel:") and d.condition is None]
    made = few_shot(
        sup,
        noise_of(64, seed),
        _recipe(seed),
        splits=1,
        dims=[kernels[0], kernels[-1]],
        sampler=lambda number: Sandwich(1, number),
        rule=InplaceDistill(),
        repeats=1,
        batch_size=_BATCH,
        device="cpu",
    )
    return made, sup.space.size()
