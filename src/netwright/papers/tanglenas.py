"""TangleNAS (#21): gradient-based search on entangled weights, at the memory of one network.

The ordinary run searches `macro-81`, whose 81 networks were all trained alone, and measures what a mixture
costs on the larger space with kernels. With ``--data`` it searches AutoFormer's space on images of the user.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_BETTER = "gradient-based search beats two-stage search on entangled spaces"
_ONE = "memory of one set of weights, one forward pass"
_ANY = "better any-time performance"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("regret: DrNAS above SPOS with random search", _BETTER, "<= 0"),
    Claim("regret: DrNAS above a network drawn at random", _BETTER, "< 0"),
    Claim("share of networks better than the best method's choice", _BETTER, "<= 10%"),
    Claim("stored activations: mixture by one network", _ONE, "<= 1.3"),
    Claim("stored activations: separate operations by mixture", _ONE, ">= 5"),
    Claim("time: separate operations by mixture", _ONE, ">= 3"),
    Claim("any-time accuracy: least of the gradient methods above SPOS", _ANY, ">= 0", FURTHER),
    Claim("regret: DrNAS above SPOS with random search, weights learn from 80 %", _BETTER, "<= 0", FURTHER),
    Claim("language model: bits of DrNAS' network above SPOS'", _BETTER, "<= 0", FURTHER),
)


@paper(
    slug="tanglenas",
    number=21,
    title="Weight-Entanglement Meets Gradient-Based Neural Architecture Search",
    year=2024,
    link="https://arxiv.org/abs/2312.10440",
    package="supernets",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on the exhaustive table, or search with the images given with ``--data``."""
    from netwright.papers import tanglenas_full, tanglenas_further, tanglenas_small

    if run.data is not None:
        tanglenas_full.measure(run, run.data)
    elif run.scope == FURTHER:
        tanglenas_further.measure(run)
    else:
        tanglenas_small.headline(run)
