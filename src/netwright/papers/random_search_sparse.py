"""Random search of sparse sub-networks by their loss before training (#57): a negative result.

The ordinary run takes the digits of scikit-learn, a perceptron 64-256-256-10, 200 configurations a search and
ten seeds. ``--all`` varies the length of the search, and repeats the comparison with Fashion-MNIST and with a
convolutional network. ``--data`` compares on images of one's own, with a perceptron like the ordinary run's;
the paper names no data to judge that by.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_PRESERVED = "a significant level of performance is preserved at high sparsity"
_NEUTRAL = "neither perform better nor converge more efficiently than random counterparts"
_POSITIONED = "positioned more advantageously in the loss landscape"
#: Sparsities at which half a point can be told from noise; above, accuracies of one arm differ by more.
RESOLVED = (0.25, 0.5, 0.75, 0.9)
SPARSITIES = (*RESOLVED, 0.95, 0.99)

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring. For a "clear
    # drop" more than the point is taken that counts as no drop. "Beyond noise" is outside intervals that hold
    # for all sparsities together (95 %, by Bonferroni).
    Claim("accuracy lost against the parent, 50 %", _PRESERVED, "<= 0.01"),
    Claim("accuracy lost against the parent, 75 %", _PRESERVED, "<= 0.01"),
    Claim("accuracy lost against the parent, 95 %", _PRESERVED, "> 0.01"),
    Claim("accuracy lost against the parent, 99 %", _PRESERVED, "> 0.01"),
    *(
        Claim(f"accuracy of found less random, {100 * s:.0f} %", _NEUTRAL, "within 0.005 of 0")
        for s in RESOLVED
    ),
    Claim("sparsities where accuracy differs beyond noise", _NEUTRAL, "<= 0"),
    Claim("sparsities where found is significantly better", _NEUTRAL, "<= 3"),
    Claim("sparsities where epochs to 90 % differ beyond noise", _NEUTRAL, "<= 0"),
    *(Claim(f"initial loss of found by random, {100 * s:.0f} %", _POSITIONED, "< 1") for s in SPARSITIES),
    Claim("accuracy of found less random after 1,000 trials, 75 %", _NEUTRAL, "within 0.005 of 0", FURTHER),
    Claim("accuracy of found less random, Fashion-MNIST, 75 %", _NEUTRAL, "within 0.005 of 0", FURTHER),
    Claim("accuracy of found less random, ResNet-8, 50 %", _NEUTRAL, "within 0.005 of 0", FURTHER),
)


@paper(
    slug="random-search-sparse",
    number=57,
    title="Random Search as a Baseline for Sparse Neural Network Architecture Search",
    year=2024,
    link="https://arxiv.org/abs/2403.08265",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on small networks; the user's own labelled images are compared without a verdict."""
    from netwright.papers import random_search_sparse_full
    from netwright.papers import random_search_sparse_small as small

    if run.data is not None:
        random_search_sparse_full.measure(run, run.data)
    elif run.scope == FURTHER:
        small.measure_further(run)
    else:
        small.measure(run)
