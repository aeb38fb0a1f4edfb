"""The grapheme-to-phoneme network: its published weights against its published arithmetic."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from netwright.data import fetch
from netwright.errors import ArtefactError
from netwright.models import GraphemeToPhoneme
from netwright.models.zoo.phonemes import GRAPHEMES, PHONEMES, word_symbols


def cell(x, h, w_ih, w_hh, b_ih, b_hh):
    """A gated recurrent unit in numpy: (features,), (hidden,) -> (hidden,)."""
    given, kept = (m.reshape(3, -1) for m in (w_ih @ x + b_ih, w_hh @ h + b_hh))
    r, z = (1 / (1 + np.exp(-(given[k] + kept[k]))) for k in (0, 1))
    return (1 - z) * np.tanh(given[2] + r * kept[2]) + z * h


def spelled(arrays, word: str) -> list[str]:
    """One word, letter by letter and phoneme by phoneme."""
    parts = {s: [arrays[f"{s}_{k}"] for k in ("w_ih", "w_hh", "b_ih", "b_hh")] for s in ("enc", "dec")}
    h = np.zeros(arrays["enc_w_hh"].shape[1], np.float32)
    for symbol in [*word, "</s>"]:
        h = cell(arrays["enc_emb"][GRAPHEMES.index(symbol)], h, *parts["enc"])
    last, out = PHONEMES.index("<s>"), []
    for _ in range(20):
        h = cell(arrays["dec_emb"][last], h, *parts["dec"])
        last = int((arrays["fc_w"] @ h + arrays["fc_b"]).argmax())
        if PHONEMES[last] == "</s>":
            break
        out.append(PHONEMES[last])
    return out


@pytest.mark.data
@pytest.mark.skipif(bool(os.environ.get("NETWRIGHT_OFFLINE")), reason="NETWRIGHT_OFFLINE is set")
def test_words_are_spelled_as_the_published_arithmetic_does() -> None:
    path = fetch("g2p-en") / "checkpoint20.npz"
    model = GraphemeToPhoneme.from_npz(path)
    assert sum(p.numel() for p in model.parameters()) == 834_890
    words = ["sparse", "recurrent", "network", "a", "pruning", "grammar"]
    with np.load(path) as arrays:
        assert model.spell(words) == [spelled(arrays, word) for word in words]


def test_words_of_any_length_go_together() -> None:
    torch.manual_seed(0)
    model = GraphemeToPhoneme(8, 8)
    words = ["a", "banana", "pear"]
    assert model.spell(words) == [model.spell([word])[0] for word in words]
    assert word_symbols(["Ab!"]).tolist() == [[3, 4, 1, 2]]


def test_forced_phonemes_get_the_logits_of_the_step_by_step_decoder() -> None:
    torch.manual_seed(0)
    model = GraphemeToPhoneme(8, 8)
    letters, before = word_symbols(["pear", "fig"]), torch.tensor([[2, 9, 11], [2, 30, 4]])
    logits = model(letters, before)
    assert logits.shape == (2, len(PHONEMES), 3)
    state = model.encode(letters)
    for k in range(3):
        y, state = model.decoder(model.dec_emb(before[:, k : k + 1]), state)
        torch.testing.assert_close(model.fc(y)[:, 0], logits[:, :, k])


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ArtefactError):
        GraphemeToPhoneme.from_npz(tmp_path / "other.npz")
