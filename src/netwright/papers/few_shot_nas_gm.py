"""Few-shot NAS with gradient matching (#48): divide a supernet where the gradients of its choices disagree.

On `cell-64`, whose 64 networks were all trained alone: one supernet, and the same number of steps spent on
four supernets that divide the space, by one edge with every operation alone, by two binary divisions at
random, and by two where gradients disagree. With ``--all`` the same for several search algorithms, for
kernels and widths, on a second data set, and the paper's own spaces for a few steps.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_BETTER = "few-shot search with gradient matching finds better networks than few-shot and one-shot search"
_DERIVED = "DARTS, SNAS and RSPS find better networks with gradient matching on NAS-Bench-201"
_SPACES = "also in the spaces of ProxylessNAS and Once-for-All"
_FEW = "several supernets rank better than one"
_GROUPS = "operations with parameters are kept apart from those without"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("tau: gradient matching above random divisions, equal steps", _BETTER, "> 0"),
    Claim("tau: gradient matching above every operation alone, equal steps", _BETTER, ">= 0"),
    Claim("tau: every operation alone above one supernet, equal steps", _FEW, ">= 0"),
    Claim("tau: gradient matching above one supernet, equal steps", _BETTER, ">= 0.05"),
    Claim("tau: gradient matching above one supernet, steps of a leaf", _BETTER, ">= 0.05"),
    Claim("share of divisions that keep convolutions apart", _GROUPS, ">= 0.75"),
    *(
        Claim(
            f"{algorithm}: derived network, gradient matching above {other}, points",
            _DERIVED,
            ">= 0",
            FURTHER,
        )
        for algorithm in ("RSPS", "DARTS", "SNAS")
        for other in ("one supernet", "every operation alone")
    ),
    *(
        Claim(f"{place}: tau of gradient matching above {other}", published, expected, FURTHER)
        for place, published, other, expected in (
            ("DARTS", _BETTER, "one supernet", ">= 0.05"),
            ("DARTS", _BETTER, "every operation alone", ">= 0"),
            ("SNAS", _BETTER, "one supernet", ">= 0.05"),
            ("SNAS", _BETTER, "every operation alone", ">= 0"),
            ("kernels and widths", _SPACES, "one supernet", ">= 0.05"),
            ("kernels and widths", _SPACES, "random divisions", "> 0"),
            ("photo-patches", _BETTER, "one supernet", ">= 0.05"),
            ("photo-patches", _BETTER, "every operation alone", ">= 0"),
        )
    ),
)


@paper(
    slug="few-shot-nas-gm",
    number=48,
    title="Generalizing Few-Shot NAS with Gradient Matching",
    year=2022,
    link="https://arxiv.org/abs/2203.15207",
    package="supernets",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on the exhaustive table of cells; with ``--all`` those of the further arms."""
    from netwright.papers import few_shot_nas_gm_further, few_shot_nas_gm_small

    if run.scope == FURTHER:
        few_shot_nas_gm_further.measure(run)
    else:
        few_shot_nas_gm_small.measure(run)
