"""ShiftNAS (#24): sample a supernet by cost, and shift the probability to the costs that still improve.

The ordinary run trains an elastic network of six convolutions on Fashion-MNIST three ways, with equal steps,
and judges networks of every eighth of the range of costs by inherited accuracy.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_WHOLE = "better inherited accuracy over the whole range of FLOPs"
_BELL = "uniform sampling concentrates on networks of medium cost"
_DIRECT = "the generator gives the network of a budget without a search"
_FREE = "without additional consumption"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("share of uniform draws in the highest tenth of the range", _BELL, "< 1%"),
    Claim("share of uniform draws in the lowest tenth of the range", _BELL, "< 1%"),
    Claim("worst bin: shift above uniform sampling", _WHOLE, "> 0"),
    Claim("smallest and largest bin: shift above uniform sampling", _WHOLE, ">= 0.005"),
    Claim("other bins: shift above uniform sampling", _WHOLE, ">= -0.003"),
    Claim("share of generated networks within 5 % of the request", _DIRECT, ">= 95%"),
    Claim("equal time: worst bin, shift above uniform sampling", _FREE, "> 0", FURTHER),
    Claim("probes and generator as a share of the training time", _FREE, "<= 10%", FURTHER),
    Claim("generated networks above evolution's, mean of the budgets", _DIRECT, ">= -0.005", FURTHER),
    # Not in the sheet: added once a first run had shown that a generator trains the networks it gives.
    Claim("generated networks above evolution's on uniform sampling's weights", _WHOLE, "> 0", FURTHER),
    Claim("transformer: worst bin, shift above uniform sampling", _WHOLE, "> 0", FURTHER),
)


@paper(
    slug="shiftnas",
    number=24,
    title="ShiftNAS: Improving One-shot NAS via Probability Shift",
    year=2023,
    link="https://arxiv.org/abs/2307.08300",
    package="supernets",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Fashion-MNIST, or say what the bins of the user's own images reach."""
    from netwright.papers import shiftnas_full, shiftnas_further, shiftnas_small

    if run.data is not None:
        shiftnas_full.measure(run, run.data)
    elif run.scope == FURTHER:
        shiftnas_further.measure(run)
    else:
        shiftnas_small.headline(run)
