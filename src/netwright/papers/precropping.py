"""PreCrop (#1): channels cropped before training to layer-wise densities, against weight masks and uniform
widths.

The ordinary run trains ResNet-20 of width 8 on 10,000 pictures of Fashion-MNIST at 14x14; ``--all`` adds
networks in the manner of ShuffleNet and MobileNet. With ``--data`` it runs the published networks on the
user's own images: ResNet-20 where they are small, else ResNet-50, MobileNetV2 and ShuffleNetV2.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_FACTOR = "the layer-wise ratio is the main factor"
_SAME = "structured without sacrificing accuracy"
_BETTER = "widths follow the layer-wise ratios"
_FASTER = "real speed-up of dense networks on commodity hardware"
_CHEAPER = "training costs less time and memory"
_SPARSE = "weight masks need sparse kernels to be faster"
CIFAR, IMAGENET = "cifar-10", "imagenet"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring. Where the
    # sheet says "well below dense" and "equal to dense", at most 0.75 and within 0.1 of 1 are taken for it.
    Claim("accuracy lost by shuffling masks, 25 %", _FACTOR, "<= 0.02"),
    Claim("accuracy lost by shuffling masks, 10 %", _FACTOR, "<= 0.02"),
    Claim("accuracy lost by cropping against masks, 25 %", _SAME, "<= 0.02"),
    Claim("accuracy lost by cropping against masks, 10 %", _SAME, "<= 0.02"),
    Claim("SynFlow crop above uniform widths, 10 %", _BETTER, ">= 0"),
    Claim("convex crop above uniform widths, 10 %", _BETTER, ">= 0"),
    Claim("SynFlow crop above uniform widths, ShuffleNet, 25 %", _BETTER, ">= 0", FURTHER),
    Claim("convex crop above uniform widths, ShuffleNet, 25 %", _BETTER, ">= 0", FURTHER),
    Claim("SynFlow crop above uniform widths, MobileNet, 25 %", _BETTER, ">= 0", FURTHER),
    Claim("convex crop above uniform widths, MobileNet, 25 %", _BETTER, ">= 0", FURTHER),
    Claim("latency of the crop by dense, 25 %", _FASTER, "<= 0.75"),
    Claim("latency of the masks by dense, 25 %", _SPARSE, "within 0.1 of 1"),
    Claim("training MACs of the crop by dense, 25 %", _CHEAPER, "< 1"),
    Claim("training time of the crop by dense, 25 %", _CHEAPER, "< 1"),
    Claim("training memory of the crop by dense, 25 %", _CHEAPER, "< 1"),
    Claim("training time of the masks by dense, 25 %", _SPARSE, "within 0.1 of 1"),
    Claim("training memory of the masks by dense, 25 %", _SPARSE, "within 0.1 of 1"),
    Claim("CIFAR-10 accuracy lost by shuffling masks, 10 %", _FACTOR, "<= 0.02", CIFAR),
    Claim("CIFAR-10 accuracy lost by cropping against masks, 10 %", _SAME, "<= 0.02", CIFAR),
    Claim("CIFAR-10 convex crop above uniform widths, 10 %", _BETTER, ">= 0", CIFAR),
    Claim("ImageNet MobileNetV2: best crop above weight masks, 25 %", "up to +2.7 points", ">= 0", IMAGENET),
)


@paper(
    slug="precropping",
    number=1,
    title="Structured Pruning is All You Need for Pruning CNNs at Initialization",
    year=2022,
    link="https://arxiv.org/abs/2203.02549",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Fashion-MNIST, or on the images given with ``--data``."""
    from netwright.papers import precropping_full, precropping_small

    if run.data is not None:
        precropping_full.measure(run, run.data)
    elif run.scope == FURTHER:
        precropping_small.further(run)
    else:
        precropping_small.measure(run)
