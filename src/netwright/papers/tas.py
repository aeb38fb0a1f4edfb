"""Transformable Architecture Search (#26): widths and depths by gradient, then distillation.

The ordinary run halves a ResNet-14 on Fashion-MNIST. With ``--data`` it searches ResNet-56 and trains what it
finds on the user's own images (CIFAR-10, for instance) with the published recipe.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_BUDGET = "widths and depths are learned for a given cost"
_BETTER = "searching the shape beats setting it by hand"
_TRANSFER = "knowledge distillation from the unpruned network helps"
#: Scope of the claims about CIFAR-10.
CIFAR = "cifar-10"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("largest distance of the final shape's MACs from the target", _BUDGET, "<= 0.05"),
    Claim("largest distance of the most probable shape's MACs from the target", _BUDGET, "<= 0.05"),
    Claim("TAS with distillation above the mean of random shapes", _BETTER, ">= 0.005"),
    Claim("TAS with distillation above TAS without", _TRANSFER, ">= 0"),
    Claim("TAS above the mean of random shapes, both without distillation", _BETTER, ">= 0"),
    Claim("distillation above training alone, mean of three shapes", _TRANSFER, ">= 0", FURTHER),
    Claim("distillation above training alone, TAS, trained twice as long", _TRANSFER, ">= 0", FURTHER),
    Claim("TAS above a random shape, mean of three kinds of transfer", _BETTER, ">= 0", FURTHER),
    Claim("TAS with distillation above L1 channels, fine-tuned as long", _BETTER, ">= 0", FURTHER),
    Claim("CIFAR-10 ResNet-56: distance of the searched shape's MACs from 47 %", "46.1 %", "<= 0.05", CIFAR),
    Claim("CIFAR-10 ResNet-56: accuracy of the searched shape", "93.69 % at 52.7 % fewer", ">= 0.93", CIFAR),
)


@paper(
    slug="tas",
    number=26,
    title="Network Pruning via Transformable Architecture Search",
    year=2019,
    link="https://arxiv.org/abs/1905.09717",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Fashion-MNIST, or on the images given with ``--data``."""
    from netwright.papers import tas_full, tas_small

    if run.data is not None:
        tas_full.measure(run, run.data)
    elif run.scope == FURTHER:
        tas_small.components(run)
    else:
        tas_small.headline(run)
