"""BossNAS (#29): rating architectures block by block, without labels.

The ordinary run rates 40 networks of the table "blocks-40" (six convolutions of one of four widths each, on
Fashion-MNIST at 14x14) without labels, block by block with labels, and by a supervised one-shot supernet. The
further arms take the ensemble away, rate kernels and expansions, and search hybrids of convolution and
attention, with the places where images are halved, on coloured pictures.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_RATING = "Kendall's tau 0.65 (MBConv space, ImageNet), 0.53 (NATS-Bench size space, CIFAR-10)"
_ABOVE = "rates architectures better than supervised one-shot methods"
_ENSEMBLE = "the ensemble of paths is what blocks are to learn from"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("tau of BossNAS", _RATING, ">= 0.4"),
    Claim("tau of BossNAS above a supervised one-shot supernet", _ABOVE, ">= 0"),
    Claim("tau of the ensemble above a single path's target", _ENSEMBLE, "> 0", FURTHER),
    Claim("tau of the ensemble above each path's own moving average", _ENSEMBLE, "> 0", FURTHER),
    Claim("tau of BossNAS, kernels and expansions", _RATING, ">= 0.4", FURTHER),
    Claim(
        "tau of BossNAS above a supervised one-shot supernet, kernels and expansions", _ABOVE, ">= 0", FURTHER
    ),
    Claim(
        "hybrid found above the median random one, equal time",
        "hybrids found reach 82.5 %, 2.4 points above EfficientNet at equal compute time",
        ">= 0",
        FURTHER,
    ),
)


@paper(
    slug="bossnas",
    number=29,
    title="BossNAS: Exploring Hybrid CNN-transformers with Block-wisely Self-supervised Neural Architecture "
    "Search",
    year=2021,
    link="https://arxiv.org/abs/2103.12424",
    package="supernets",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims against the table."""
    from netwright.papers import bossnas_hybrid as hybrid
    from netwright.papers import bossnas_mbconv as mbconv
    from netwright.papers import bossnas_small as small

    if run.scope == FURTHER:
        panels = hybrid.measure(run) + mbconv.measure(run) + small.measure_further(run)
        small.show(run, panels)
    else:
        small.measure(run)
