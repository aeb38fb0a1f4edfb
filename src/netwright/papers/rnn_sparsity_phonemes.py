"""A trained recurrent network of the real world, pruned in the same way: letters to phonemes."""

from __future__ import annotations

import difflib
from pathlib import Path

from netwright.data import fetch
from netwright.models import GraphemeToPhoneme
from netwright.papers.rnn_sparsity_pruning import CAMPAIGNS, LEVELS, masks_at
from netwright.papers.run import Cell, Run
from netwright.pruning import MaskState


def measure_phonemes(run: Run) -> None:
    """Tabulate how far the pruned networks agree with the dense one; there is no claim about it."""
    folder = fetch("g2p-en")
    words = read_words(folder / "homographs.en")[: 20 if run.quick else None]
    dense = GraphemeToPhoneme.from_npz(folder / "checkpoint20.npz").spell(words)
    rows: list[tuple[Cell, ...]] = []
    for campaign in CAMPAIGNS:
        for level in LEVELS:
            model = GraphemeToPhoneme.from_npz(folder / "checkpoint20.npz")
            MaskState(model, masks_at(model, level, CAMPAIGNS[campaign]))
            rows.append((campaign, f"{100 * level:.0f} %", *agreement(dense, model.spell(words))))
    run.table(
        "Grapheme to phoneme: agreement with the dense network",
        ("pruned", "share", "whole words", "phonemes"),
        rows,
        f"g2pE's GRU, {len(words)} words, not retrained. Phonemes: twice the matching ones by all of both.",
    )


def read_words(path: Path) -> list[str]:
    """The headwords of g2pE's list, once each, in order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [line.split("|")[0].lower() for line in lines if line and not line.startswith("#")]
    return list(dict.fromkeys(word for word in found if word.isalpha() and word.isascii()))


def agreement(one: list[list[str]], other: list[list[str]]) -> tuple[float, float]:
    """Share of words that are the same, and mean likeness of their phonemes."""
    same = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    ratios = [
        difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in zip(one, other, strict=True)
    ]
    return same, sum(ratios) / len(ratios)
