"""Mixture-of-Supernets (#19): a sub-network's weights are a blend of experts, as its architecture decides.

The ordinary run trains supernets of a language model of characters, on the manual that comes with Python, and
compares what 27 sub-networks inherit with the same networks trained alone. The further arms fill in masked
symbols, count the steps of retraining and the memory of one, and translate spellings to phonemes.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

_GAP = "closes most of the gap between inherited weights and training from scratch"
_ROUTING = (
    "the architecture decides the blend: neuron-wise routing is best, a plain ensemble of weights is not"
)
_TIME = "negligible overhead; retraining time is minimised or removed"
_MT = "better latency and BLEU than HAT on machine translation"
_BERT = "better task-agnostic BERT models than NAS-BERT and AutoDistil at several sizes"

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring. Gaps are in
    # bits a character, inherited less trained alone, means over the 27 sub-networks.
    Claim("neuron-wise gap by one store's", _GAP, "<= 0.85"),
    Claim("neuron-wise below one store, bits a character", _GAP, "> 0"),
    Claim("layer-wise below one store, bits a character", _GAP, "> 0"),
    Claim("neuron-wise below layer-wise, bits a character", _ROUTING, ">= 0"),
    Claim("neuron-wise below a constant encoding, bits a character", _ROUTING, "> 0"),
    Claim("gain of neuron-wise routing, smallest third less largest third", _GAP, "> 0"),
    Claim("processor time of a step, neuron-wise by one store", _TIME, "< 1.3"),
    Claim("masked symbols: neuron-wise below one store, bits a symbol", _BERT, "> 0", FURTHER),
    Claim("masked symbols: winner of the small budget below one store's", _BERT, ">= 0", FURTHER),
    Claim("masked symbols: winner of the middle budget below one store's", _BERT, ">= 0", FURTHER),
    Claim("steps of retraining, neuron-wise by one store", _TIME, "< 1", FURTHER),
    Claim("peak memory of a step, neuron-wise by one store", _TIME, "< 1.3", FURTHER),
    Claim("translation: hypervolume of latency and BLEU, neuron-wise less one store's", _MT, ">= 0", FURTHER),
)


@paper(
    slug="mixture-of-supernets",
    number=19,
    title="Mixture-of-Supernets: Improving Weight-Sharing Supernet Training with Architecture-Routed "
    "Mixture-of-Experts",
    year=2024,
    link="https://arxiv.org/abs/2306.04845",
    package="supernets",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on text that comes with Python."""
    from netwright.papers import mixture_of_supernets_further as more
    from netwright.papers import mixture_of_supernets_small as small
    from netwright.papers import mixture_of_supernets_translation as translation

    if run.scope == FURTHER:
        more.measure(run)
        translation.measure(run)
    else:
        small.measure(run)
