"""SortedNet (#49): one training gives up to 160 nested networks that need no search.

The ordinary run trains 5 depths x 32 widths of a residual network on Fashion-MNIST at 14x14 and a six-layer
language model of characters, which drafts with its own first two layers.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_KEEP = ">= 96 % of the main model's performance for up to 160 nested sub-models"
_FREE = "search-free selection, storage of one model"
_SPECULATIVE = "self-speculative decoding"
_PRETRAINED = "various architectures and tasks, from pre-trained models"
_DYNAMIC = "better than dynamic training at the same cost"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring.
    Claim("share of the 160 sub-models that keep 96 % of the full model's accuracy", _KEEP, ">= 0.5"),
    Claim("mean relative accuracy from a quarter of the width and two blocks on", _KEEP, ">= 0.96"),
    Claim("full sorted model less the model trained alone", _KEEP, ">= -0.015"),
    Claim("sorted above a model cut down without training, mean of 160", _DYNAMIC, "> 0.05"),
    Claim("rank correlation of accuracy with cost", _FREE, ">= 0.8"),
    Claim("parameters stored beyond the full model's", _FREE, "<= 0"),
    Claim("seconds of 1,000 changes of the sub-model", _FREE, "<= 1"),
    Claim("text drafted and verified equals the full model's", _SPECULATIVE, ">= 1"),
    Claim("full passes saved by drafting with the first two of six layers", _SPECULATIVE, ">= 1.2x"),
    Claim("sorted above random channels of the same number, mean of 160", _DYNAMIC, "> 0", FURTHER),
    Claim("sorted less a sandwich with distillation, mean of 160", _DYNAMIC, "within 0.02 of 0", FURTHER),
    Claim("from a trained network above from scratch, mean of 160", _PRETRAINED, "> 0", FURTHER),
    Claim(
        "sorted above a line of two end points (LCS), mean relative accuracy of 4 widths",
        _DYNAMIC,
        "> 0",
        FURTHER,
    ),
    Claim(
        "sorted above switchable norms (slimmable), mean relative accuracy of 4 widths",
        _DYNAMIC,
        "> 0",
        FURTHER,
    ),
    Claim("checkpoint of all sub-models by the plain network's, bytes", _FREE, "<= 1.01", FURTHER),
    Claim("MiniLM: from its weights above from scratch, mean of 15", _PRETRAINED, "> 0", FURTHER),
)


@paper(
    slug="sortednet",
    number=49,
    title="SortedNet, a Place for Every Network and Every Network in its Place: Towards a Generalized "
    "Solution for Training Many-in-One Neural Networks",
    year=2023,
    link="https://arxiv.org/abs/2309.00255",
    package="supernets",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Fashion-MNIST at 14x14 and on English text."""
    from netwright.papers import sortednet_dynamic as dynamic
    from netwright.papers import sortednet_parts as parts
    from netwright.papers import sortednet_pretrained as pretrained

    if run.scope == FURTHER:
        parts.further(run)
        dynamic.measure(run)
        pretrained.measure(run)
    else:
        parts.headline(run)
