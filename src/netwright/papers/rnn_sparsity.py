"""Sparsity in recurrent networks (#15): pruned at once and retrained, or wired like random graphs.

The ordinary run takes 8,000 Reber strings of at most 24 letters and networks of 3 layers of 32, three seeds;
the random graphs are those of GRUs. ``--all`` runs every campaign of pruning with up to three epochs of
retraining, the graphs of the other cells, and a trained grapheme-to-phoneme network. With ``--data`` the
thesis' own strings are taken (a folder with its ``train_data.csv`` and ``test_data.csv``), in its sizes.
"""

from __future__ import annotations

from netwright.papers.claims import FURTHER, Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

THESIS = "the thesis' strings"
_LOSS = "60 % pruned: tanh 0.937 -> 0.937, relu 1.000 -> 0.993, LSTM and GRU 1.000 -> 1.000"
_COLLAPSE = "90 % pruned, before retraining: tanh 0.656, relu 0.503, LSTM 0.495, GRU 0.551"
_REGAIN = "80 % pruned, one epoch later: tanh 0.933 of 0.937, the others 1.000"
_CELLS = ("tanh", "relu", "LSTM", "GRU")

CLAIMS = (
    # The expectations are those of the project's sheet of this paper, written before measuring. Where it says
    # "collapse", a fifth of the accuracy is taken for it; for "recovers" and "never recovers" after all of
    # one kind of weights went, 0.9 and 0.1 around chance.
    *(Claim(f"accuracy lost at 60 %, {cell}", _LOSS, "<= 0.01") for cell in _CELLS),
    *(Claim(f"accuracy lost at 90 %, {cell}", _COLLAPSE, ">= 0.2") for cell in _CELLS),
    *(Claim(f"accuracy lost at 80 % and one epoch, {cell}", _REGAIN, "<= 0.01") for cell in _CELLS),
    *(
        Claim(f"accuracy without i2h after one epoch, {cell}", "about 0.5", "within 0.1 of 0.5")
        for cell in _CELLS
    ),
    Claim("accuracy without h2h after one epoch, tanh", "about 0.5", "within 0.1 of 0.5"),
    Claim("accuracy without h2h after one epoch, relu", "about 0.5", "within 0.1 of 0.5"),
    Claim("accuracy without h2h after one epoch, LSTM", "0.988", ">= 0.9"),
    Claim("accuracy without h2h after one epoch, GRU", "0.974", ">= 0.9"),
    Claim("Watts-Strogatz above Barabasi-Albert, GRU", "0.984 against 0.928", "> 0"),
    Claim("R² of the random forest, GRU", "0.876", "> 0"),
    *(
        Claim(f"Watts-Strogatz above Barabasi-Albert, {cell}", published, "> 0", FURTHER)
        for cell, published in (
            ("tanh", "0.893 against 0.842"),
            ("relu", "0.829 against 0.728"),
            ("LSTM", "0.976 against 0.915"),
        )
    ),
    *(Claim(f"epochs to regain after 80 %, {cell}", _REGAIN, "<= 1", FURTHER) for cell in _CELLS),
    *(Claim(f"{THESIS}: accuracy lost at 60 %, {cell}", _LOSS, "<= 0.01", THESIS) for cell in _CELLS),
    *(
        Claim(f"{THESIS}: accuracy lost at 80 % and one epoch, {cell}", _REGAIN, "<= 0.01", THESIS)
        for cell in _CELLS
    ),
)


@paper(
    slug="rnn-sparsity",
    number=15,
    title="Investigating Sparsity in Recurrent Neural Networks",
    year=2024,
    link="https://arxiv.org/abs/2407.20601",
    package="pruning",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on Reber strings."""
    from netwright.papers import rnn_sparsity_full, rnn_sparsity_small

    if run.data is not None:
        rnn_sparsity_full.measure(run, run.data)
    elif run.scope == FURTHER:
        rnn_sparsity_small.measure_further(run)
    else:
        rnn_sparsity_small.measure(run)
