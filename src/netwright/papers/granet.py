"""GraNet (#68): gradual pruning that regrows as much as it exchanges, against pruning and regrowing alone.

The ordinary run trains perceptrons on digits and a residual network on Fashion-MNIST. With ``--data`` it runs
the published networks on the user's own images: VGG-19 and ResNet-50 for small ones, else ResNet-50 with 4000
steps between two events.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_RIGL = "ImageNet, 80 / 90 % sparse: GraNet 76.0 / 74.5 top-1, RigL 74.6 / 72.0 (not verified)"
_GMP = "better than gradual magnitude pruning at 90, 95 and 98 % on CIFAR"
_STATIC = "better than static sparse training"
_PLASTIC = "regenerating connections raises pruning plasticity"
_RATE = "a dropped learning rate lowers pruning plasticity (sign not verified)"
_FREE = "without extending the training time"
CIFAR, IMAGENET = "cifar-10", "imagenet"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    *(Claim(f"GraNet above RigL, digits, {s} % kept", _RIGL, "> 0") for s in (5, 2, 1)),
    *(Claim(f"GraNet above static masks, digits, {s} % kept", _STATIC, "> 0") for s in (5, 2, 1)),
    Claim("GraNet above GMP, digits, 1 % kept", _GMP, "> 0"),
    Claim("GraNet above RigL, Fashion-MNIST, 2 % kept", _RIGL, "> 0"),
    Claim("GraNet above GMP, Fashion-MNIST, 2 % kept", _GMP, "> 0"),
    Claim("plasticity gained by regeneration, 50 % pruned", _PLASTIC, "> 0"),
    Claim("training MACs of GraNet by GMP", "sparse from the start", "< 1"),
    Claim("time that regeneration adds to training", _FREE, "< 2%"),
    *(
        Claim(f"plasticity gained by regrowing all, {p} % pruned", _PLASTIC, "> 0", FURTHER)
        for p in (20, 50, 90, 98)
    ),
    *(
        Claim(f"plasticity gained by the exchange, {p} % pruned", _PLASTIC, "> 0", FURTHER)
        for p in (20, 50, 90, 98)
    ),
    *(
        Claim(f"plasticity lost by a small rate, {p} % pruned", _RATE, "> 0", FURTHER)
        for p in (20, 50, 90, 98)
    ),
    Claim("CIFAR-10 VGG-19: GraNet above RigL, 2 % kept", _RIGL, "> 0", CIFAR),
    Claim("CIFAR-10 VGG-19: GraNet above GMP, 2 % kept", _GMP, "> 0", CIFAR),
    Claim("ImageNet ResNet-50: top-1 of GraNet, 20 % kept", "76.0", ">= 0.75", IMAGENET),
)


@paper(
    slug="granet",
    number=68,
    title="Sparse Training via Boosting Pruning Plasticity with Neuroregeneration",
    year=2021,
    link="https://arxiv.org/abs/2106.10404",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on digits and Fashion-MNIST, or on the images given with ``--data``."""
    from netwright.papers import granet_full, granet_plasticity, granet_small

    if run.data is not None:
        granet_full.measure(run, run.data)
    elif run.scope == FURTHER:
        granet_plasticity.measure(run)
    else:
        granet_small.measure(run)
