"""What the authors measured: ResNet-20 on CIFAR-10, stand-alone and with 1, 2, 4 and 8 supernets.

From ``results/resnet20_baselines_mixture.csv`` of mehravehj/Balanced-Mixture-of-SuperNets.
"""

from __future__ import annotations

import numpy as np
import torch

from netwright.models.zoo.pooled_resnet import POOLING_SPACES, pooled_resnet, resolutions_of
from netwright.nas.ranking import kendall
from netwright.papers.run import Run
from netwright.supernets import elastic
from netwright.supernets.stores.mixture import choices_of

#: Numbers of supernets.
COUNTS = (1, 2, 4, 8)
#: Accuracy in per cent of the 36 networks, poolings in lexicographic order: stand-alone, then by supernets.
PUBLISHED = (
    (87.447, 76.430, 77.890, 79.067, 78.600),
    (87.690, 78.120, 80.120, 80.343, 79.763),
    (87.892, 79.620, 81.080, 81.200, 80.133),
    (88.602, 80.780, 81.490, 81.250, 81.413),
    (89.383, 80.420, 81.920, 82.143, 82.323),
    (90.127, 79.850, 81.540, 82.290, 81.977),
    (90.163, 79.370, 81.220, 82.183, 81.170),
    (89.406, 78.870, 81.130, 81.863, 81.240),
    (88.783, 79.770, 80.570, 81.170, 80.927),
    (89.025, 81.010, 81.200, 81.963, 82.253),
    (90.415, 82.850, 82.990, 83.393, 82.903),
    (90.568, 82.640, 83.860, 83.677, 83.917),
    (90.892, 82.120, 83.710, 84.127, 83.910),
    (91.005, 82.160, 83.600, 83.340, 83.153),
    (90.217, 81.730, 83.550, 83.197, 83.113),
    (89.102, 80.240, 81.690, 81.787, 82.337),
    (89.702, 83.080, 82.740, 83.417, 83.480),
    (90.607, 82.980, 83.830, 83.893, 84.173),
    (90.922, 82.580, 83.940, 84.107, 84.283),
    (90.875, 82.220, 83.780, 83.540, 84.107),
    (90.140, 81.860, 83.630, 83.337, 84.060),
    (89.678, 83.640, 83.240, 83.693, 83.820),
    (90.342, 83.710, 84.270, 84.670, 84.597),
    (90.517, 83.110, 84.320, 84.357, 84.643),
    (90.845, 83.180, 83.910, 84.080, 84.340),
    (89.705, 82.830, 83.910, 84.013, 84.317),
    (91.048, 82.350, 83.390, 84.760, 85.420),
    (90.957, 81.830, 83.070, 84.827, 85.663),
    (91.547, 82.290, 83.090, 84.353, 84.840),
    (89.840, 82.030, 82.990, 84.150, 84.650),
    (91.775, 79.780, 82.770, 84.003, 84.613),
    (91.830, 80.200, 82.810, 84.403, 84.127),
    (90.963, 79.610, 82.430, 84.310, 84.073),
    (92.012, 78.060, 80.980, 83.510, 83.637),
    (90.468, 77.490, 80.640, 83.343, 83.627),
    (89.992, 73.730, 77.580, 81.260, 81.940),
)


def published() -> dict[int, float]:
    """Number of supernets -> Kendall's tau of their accuracies with the stand-alone ones."""
    table = np.array(PUBLISHED)
    return {count: kendall(table[:, k + 1], table[:, 0]) for k, count in enumerate(COUNTS)}


def report(run: Run) -> None:
    """Add the table of what the authors' numbers say, with that of the costs alone."""
    sup = elastic(pooled_resnet(layers=10), torch.zeros(2, 3, 32, 32), pool=2)
    macs = sup.costs(choices_of(sup))[:, 0]
    truth = np.array(PUBLISHED)[:, 0]
    rows = [(f"{count} supernets", tau) for count, tau in published().items()]
    run.table(
        "The authors' numbers, ResNet-20 on CIFAR-10",
        ("ranked by", "tau with stand-alone accuracies"),
        [*rows, ("MACs alone", kendall(macs, truth))],
        "36 networks; the best one, [7, 1, 2], has 91.1 M MACs, the usual one, [4, 3, 3], 40.8 M.",
    )
    run.table(
        "The full-scale spaces, built and counted",
        ("network", "layers", "poolings", "places", "usual"),
        [_counted(name) for name in ("resnet20", "resnet18", "resnet50")],
        "Layers at each size of the images where the usual network pools.",
    )


def _counted(name: str) -> tuple[str, int, int, int, str]:
    space = POOLING_SPACES[name]
    layers = len(space.widths)
    usual = str(resolutions_of(space.default, layers))
    return name, layers, space.pools, len(space.positions), usual
