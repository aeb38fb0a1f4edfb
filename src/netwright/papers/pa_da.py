"""PA&DA (#60): paths and training examples drawn by the norms of their gradients, for consistent rankings.

On `cell-64`, whose 64 networks were all trained alone: uniform paths (SPOS), paths, examples or both by
importance, and all operations in turn (FairNAS), at equal forward and backward passes.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_TAU = "higher Kendall's tau than SPOS, FairNAS and others on NAS-Bench-201 (about 0.71; not verified)"
_VARIANCE = "lower gradient variance in the training of the supernet"
_COST = "negligible cost"
_GENERAL = "the supernet generalises better"
_FOUND = "better networks are found"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("gradient variance of PA&DA by SPOS, importance weighted", _VARIANCE, "< 1"),
    Claim("gradient variance of PA&DA by SPOS, steps as trained", _VARIANCE, "< 1"),
    Claim("tau of PA&DA above SPOS", _TAU, ">= 0.02"),
    Claim("tau of PA&DA above FairNAS", _TAU, ">= 0"),
    Claim("time of PA&DA by SPOS, same paths and examples", _COST, "< 1.05"),
    Claim("inherited accuracy of 30 networks, PA&DA above SPOS, points", _GENERAL, "> 0"),
    Claim("stand-alone accuracy of the chosen network, PA&DA above SPOS, points", _FOUND, ">= 0"),
    Claim("macro-81: tau of PA&DA above SPOS", _TAU, ">= 0.02", FURTHER),
    Claim("macro-81: tau of PA&DA above FairNAS", _TAU, ">= 0", FURTHER),
    Claim(
        "macro-81: stand-alone accuracy of the chosen network, PA&DA above SPOS, points",
        _FOUND,
        ">= 0",
        FURTHER,
    ),
    Claim("tau of PA&DA above SUMNAS", _TAU, ">= 0", FURTHER),
    Claim("inherited accuracy of 30 networks, PA&DA above SUMNAS, points", _GENERAL, "> 0", FURTHER),
    Claim("with a zero: gradient variance of PA&DA by SPOS, importance weighted", _VARIANCE, "< 1", FURTHER),
    Claim("with a zero: gradient variance of PA&DA by SPOS, steps as trained", _VARIANCE, "< 1", FURTHER),
    Claim(
        "with a zero: inherited accuracy of 30 networks, PA&DA above SPOS, points", _GENERAL, "> 0", FURTHER
    ),
)


@paper(
    slug="pa-da",
    number=60,
    title="PA&DA: Jointly Sampling PAth and DAta for Consistent NAS",
    year=2023,
    link="https://arxiv.org/abs/2302.14772",
    package="supernets",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on the table of cells; with ``--all`` on widths, beside SUMNAS and with a zero."""
    from netwright.papers import pa_da_further, pa_da_small

    if run.scope == FURTHER:
        pa_da_further.measure(run)
    else:
        pa_da_small.measure(run)
