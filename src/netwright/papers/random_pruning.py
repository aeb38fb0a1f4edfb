"""Random pruning (#28): masks drawn at random before training, with sensible shares of the layers.

The ordinary run widens perceptrons on digits and residual networks on Fashion-MNIST. With ``--data`` it runs
the published networks on the user's own images: ResNets of several depths and widths for small ones, else the
Wide ResNet-50 with ERK+ at 20 %.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_WIDE = "random masks reach dense accuracy once the network is wide enough"
_DEEP = "random masks reach dense accuracy once the network is deep enough"
_SHARES = "sensible shares of the layers matter"
_SIDE = "random subnetworks are better at out-of-distribution detection, calibration, adversarial robustness"
CIFAR, IMAGENET = "cifar-10", "imagenet"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring: the gap at
    # the largest width at most 1 point, shrinking with width within the noise, ERK above uniform at 5 %.
    Claim("accuracy lost by random ERK masks, digits, width 512", _WIDE, "<= 0.01"),
    Claim("widenings that widen the gap beyond noise, digits", _WIDE, "<= 0"),
    Claim("gap at width 16 above gap at width 512, digits", _WIDE, "> 0"),
    Claim("ERK above uniform shares, digits, 5 % kept", _SHARES, "> 0"),
    Claim("accuracy lost by random ERK masks, Fashion-MNIST, width 32", _WIDE, "<= 0.01"),
    Claim("gap at width 8 above gap at width 32, Fashion-MNIST", _WIDE, "> 0"),
    Claim("gap at 8 layers above gap at 20 layers, Fashion-MNIST", _DEEP, "> 0", FURTHER),
    Claim("OOD AUROC of random masks above dense", _SIDE, "> 0", FURTHER),
    Claim("calibration error of random masks below dense", _SIDE, "> 0", FURTHER),
    Claim("log-likelihood of random masks above dense", _SIDE, "> 0", FURTHER),
    Claim("FGSM accuracy of random masks above dense", _SIDE, "> 0", FURTHER),
    Claim("CIFAR-10 accuracy lost by random ERK masks, ResNet-110, 20 % kept", _DEEP, "<= 0.01", CIFAR),
    Claim(
        "CIFAR-10 accuracy lost by random ERK masks, ResNet-20, width 24, 20 % kept", _WIDE, "<= 0.02", CIFAR
    ),
    Claim(
        "ImageNet Wide ResNet-50: random ERK+ masks above dense, 20 % kept",
        "a random subnetwork outperforms the dense Wide ResNet-50",
        "> 0",
        IMAGENET,
    ),
)


@paper(
    slug="random-pruning",
    number=28,
    title="The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive Baseline for Sparse "
    "Training",
    year=2022,
    link="https://arxiv.org/abs/2202.02643",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on digits and Fashion-MNIST, or on the images given with ``--data``."""
    from netwright.papers import random_pruning_full, random_pruning_further, random_pruning_small

    if run.data is not None:
        random_pruning_full.measure(run, run.data)
    elif run.scope == FURTHER:
        random_pruning_further.measure(run)
    else:
        random_pruning_small.measure(run)
