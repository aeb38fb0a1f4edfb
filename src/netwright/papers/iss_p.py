"""ISS-P (#51): super-resolution networks pruned from random weights by shrinking the small ones a little.

The ordinary run trains a small EDSR on Fashion-MNIST and on two photographs. With ``--data`` it trains
EDSR-Large and SwinIR-Light on the user's own image folders (DF2K in the paper).
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

#: The published test sets: the scope of `--data` where one of them is there.
BENCHMARK = "super-resolution benchmark"
SETS = ("Fashion", "photographs")
_BETTER = "better than training from scratch with a fixed mask, L1-norm pruning, ASSL and SRP"
_DYNAMIC = "dynamically learns the sparse structure"
_GRADIENT = "more regularised gradient throughput"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring: "ISS-P > IHT
    # >= scratch by 0.1-0.5 dB, all > bicubic"; PSNR differences in dB at 95 % sparsity.
    *(Claim(f"ISS-P above random mask, {s}, dB", _BETTER, ">= 0.1") for s in SETS),
    *(Claim(f"ISS-P above IHT, {s}, dB", "soft beats hard shrinkage", "> 0") for s in SETS),
    *(Claim(f"IHT above random mask, {s}, dB", _BETTER, ">= 0") for s in SETS),
    Claim("ISS-P above L1 at initialisation, Fashion, dB", _BETTER, "> 0"),
    Claim("ISS-P above L1 from a dense network, Fashion, dB", _BETTER, "> 0"),
    *(Claim(f"worst arm above bicubic, {s}, dB", "all are useful", "> 0") for s in SETS),
    Claim("variance of gradient norms, ISS-P by IHT, log10", _GRADIENT, "< 0"),
    Claim("share of small weights that changes, end of phase 1", _DYNAMIC, "> 0"),
    Claim("share of small weights that changes, end minus beginning", _DYNAMIC, "< 0"),
    Claim("ISS-P above random mask, SwinIR, Fashion, dB", "diverse network architectures", ">= 0.1", FURTHER),
    Claim("ISS-P above IHT, SwinIR, Fashion, dB", "diverse network architectures", "> 0", FURTHER),
    Claim("ISS-P above L1 from a dense network, SwinIR, Fashion, dB", _BETTER, "> 0", FURTHER),
    Claim("fast ISS-P minus ISS-P, Fashion, dB", "a sampled threshold costs nothing", ">= -0.1", FURTHER),
    Claim("ISS-P above its regularised sibling, Fashion, dB", "shrinkage beats growing L2", "> 0", FURTHER),
    Claim("ISS-P above random mask, EDSR-Large, dB", _BETTER, "> 0", BENCHMARK),
    Claim("ISS-P above random mask, SwinIR-Light, dB", _BETTER, "> 0", BENCHMARK),
)


@paper(
    slug="iss-p",
    number=51,
    title="Iterative Soft Shrinkage Learning for Efficient Image Super-Resolution",
    year=2023,
    link="https://arxiv.org/abs/2303.09650",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on small images, or on the folders given with ``--data``."""
    from netwright.papers import iss_p_full, iss_p_further, iss_p_small

    if run.data is not None:
        iss_p_full.measure(run, run.data)
    elif run.scope == FURTHER:
        iss_p_further.measure(run)
    else:
        iss_p_small.measure(run)
