"""ViT-ResNAS (#10): multi-stage vision transformers, found in a supernet that trains several at a time.

The ordinary run counts the published networks in their search spaces and trains small ones on Fashion-MNIST
at 16x16: several architectures a step by one, spatial reductions with and without their residual path, and an
evolved network by random ones. The further arms compare with a transformer of a single stage and cut a
sub-network out of the full-scale supernet.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_SEARCH = "better accuracy a multiply-accumulate than DeiT: 1.8, 2.8 and 4.5 GMACs at 80.8, 81.7 and 82.4 %"
_MULTI = "multi-architectural sampling improves weight-sharing NAS"
_RESIDUAL = "residual spatial reduction lets deeper networks train better"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("largest difference to the published multiply-accumulates", _SEARCH, "<= 0"),
    Claim("several architectures a step above one, mean of 30 sub-networks", _MULTI, "> 0"),
    Claim("spread of the sub-networks, one a step less several", _MULTI, ">= 0"),
    Claim("residual reductions above plain ones", _RESIDUAL, ">= 0"),
    Claim("training loss, plain reductions less residual ones", _RESIDUAL, "> 0"),
    Claim("evolved above the median random network, retrained", _SEARCH, "> 0"),
    Claim("residual reductions above plain ones at twice the depth", _RESIDUAL, ">= 0", FURTHER),
    Claim("loss spikes at twice the depth, plain less residual, share of seeds", _RESIDUAL, ">= 0", FURTHER),
    Claim("evolved above a single-stage transformer of as many MACs", _SEARCH, "> 0", FURTHER),
    Claim("images a second by the single-stage transformer's, PyTorch", _SEARCH, "> 1", FURTHER),
    Claim("images a second by the single-stage transformer's, ONNX Runtime", _SEARCH, "> 1", FURTHER),
    Claim("full-scale Tiny cut out less slice, largest difference", _SEARCH, "<= 1e-4", FURTHER),
)


@paper(
    slug="vit-resnas",
    number=10,
    title="Searching for Efficient Multi-Stage Vision Transformers",
    year=2021,
    link="https://arxiv.org/abs/2109.00642",
    package="supernets",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Fashion-MNIST at 16x16."""
    from netwright.papers import vit_resnas_further as more
    from netwright.papers import vit_resnas_small as small

    if run.scope == FURTHER:
        more.measure(run)
    else:
        small.measure(run)
