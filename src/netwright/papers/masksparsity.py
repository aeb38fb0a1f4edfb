"""MaskSparsity (#32): regularise only the channels that a mask removes, not those that stay.

The ordinary run trains a residual network on 10,000 pictures of Fashion-MNIST at 14x14 and prunes it at one
mask of half the multiply-accumulates in three ways. With ``--data`` it runs the published networks:
ResNet-110 on small images, ResNet-50 on large ones.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_LOSSLESS = "-63.03 % FLOPs of ResNet-110 on CIFAR-10 without loss of top-1"
_LESS = "-51.07 % FLOPs of ResNet-50 on ImageNet, -0.76 points of top-1"
_UNDERFIT = "regularising what is kept under-fits"
_ANY = "the mask may come from many rules"
FULL = "full scale"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("accuracy lost at removal after MaskSparsity", _LOSSLESS, "< 0.01"),
    Claim("accuracy lost at removal without sparse training", "what sparse training is for", ">= 0.1"),
    Claim("MaskSparsity above global L1 after fine-tuning", _LESS, ">= 0"),
    Claim("mean kept scale of MaskSparsity by global L1's", _UNDERFIT, "> 1"),
    Claim("final training loss of global L1 above plain training", _UNDERFIT, "> 0"),
    Claim("accuracy of MaskSparsity before removal against plain training", _UNDERFIT, "within 0.01 of 0"),
    Claim("accuracy lost at removal, mask by L1 norm", _ANY, "<= 0.03", FURTHER),
    Claim("accuracy lost at removal, mask by FPGM", _ANY, "<= 0.03", FURTHER),
    Claim("accuracy lost at removal, mask at random", _ANY, "<= 0.03", FURTHER),
    Claim("accuracy lost by pruning, fine-tuned, full scale", _LOSSLESS, "<= 0.0076", FULL),
)


@paper(
    slug="masksparsity",
    number=32,
    title="Pruning-aware Sparse Regularization for Network Pruning",
    year=2022,
    link="https://arxiv.org/abs/2201.06776",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Fashion-MNIST, or on the images given with ``--data``."""
    from netwright.papers import masksparsity_parts as parts

    if run.data is not None:
        parts.full(run, run.data)
    elif run.scope == FURTHER:
        parts.masks(run)
    else:
        parts.headline(run)
