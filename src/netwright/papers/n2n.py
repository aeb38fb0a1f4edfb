"""N2N (#36): two policies compress a network, one by removing layers, one by shrinking those that are left.

The ordinary run compresses a network of six convolutions on Fashion-MNIST. With ``--data`` it compresses
ResNet-34 on the user's own images (CIFAR-10, for instance) with the published numbers of rollouts.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_LEARNS = "policies learn to compress"
_SMALL = "more than 10x smaller (ResNet-34) at similar accuracy"
_FAST = "policies of a small teacher transfer and learn faster"
FULL = "full scale"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("rise of the mean reward, shrinkage", _LEARNS, ">= 0.1"),
    Claim("mean reward of the policies above random actions", _LEARNS, "> 0"),
    Claim("compression of the best student", _SMALL, ">= 5"),
    Claim("accuracy lost by the best student", _SMALL, "<= 0.03"),
    Claim("first updates of a transferred policy above a fresh one's", _FAST, ">= 0", FURTHER),
    Claim("rollouts saved by transfer", _FAST, "> 0", FURTHER),
    Claim("compression of ResNet-34", _SMALL, ">= 10", FULL),
)


@paper(
    slug="n2n",
    number=36,
    title="N2N Learning: Network to Network Compression via Policy Gradient Reinforcement Learning",
    year=2018,
    link="https://arxiv.org/abs/1709.06030",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Fashion-MNIST, or on the images given with ``--data``."""
    from netwright.papers import n2n_parts as parts

    if run.data is not None:
        parts.full(run, run.data)
    elif run.scope == FURTHER:
        parts.transferred(run)
    else:
        parts.headline(run)
