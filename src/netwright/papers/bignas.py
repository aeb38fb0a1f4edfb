"""BigNAS (#40): one training of shared weights, from which networks of every size are used as they are.

The ordinary run trains a small elastic residual network on Fashion-MNIST at 14x14 and compares eight children
along the range of costs with the same networks trained alone.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_NO_RETRAINING = "child models from 200 to 1000 MFLOPs usable with no retraining or fine-tuning"
_ABOVE = "above EfficientNets and OFA"
_NEEDED = "six ingredients, all needed"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("children's multiply-accumulates, largest by smallest", _NO_RETRAINING, ">= 5"),
    Claim("inherited less trained alone, mean of eight children", _NO_RETRAINING, "within 0.01 of 0"),
    Claim("inherited less trained alone, the worst child", _NO_RETRAINING, ">= -0.02"),
    Claim("BigNAS above single-path training, mean of eight children", _NO_RETRAINING, "> 0.01"),
    Claim("accuracy lost without batch-norm calibration, middle children", _NEEDED, ">= 0.1"),
    Claim("in-place distillation's gain, smallest child less largest", _NEEDED, "> 0", FURTHER),
    Claim("BigNAS above training without the smallest child, smallest child", _NEEDED, "> 0", FURTHER),
    Claim("BigNAS above blocks that do not begin as identities", _NEEDED, ">= 0", FURTHER),
    Claim("BigNAS above a learning rate that ends at zero", _NEEDED, ">= 0", FURTHER),
    Claim(
        "inherited less trained alone, three children, four times the steps",
        _NO_RETRAINING,
        "within 0.01 of 0",
        FURTHER,
    ),
    Claim("BigNAS above progressive shrinking, mean of eight children", _ABOVE, ">= 0", FURTHER),
    Claim("BigNAS above compound scaling, mean of four children", _ABOVE, ">= 0", FURTHER),
)


@paper(
    slug="bignas",
    number=40,
    title="BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models",
    year=2020,
    link="https://arxiv.org/abs/2003.11142",
    package="supernets",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Fashion-MNIST at 14x14."""
    from netwright.papers import bignas_further, bignas_parts

    if run.scope == FURTHER:
        bignas_further.further(run)
    else:
        bignas_parts.headline(run)
