"""From letters to phonemes: an encoder and a decoder of gated recurrent units.

The network and the weights of K. Park and J. Kim, g2pE, 2018 (github.com/Kyubyong/g2p, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import ArtefactError

#: Symbols of words; 0 fills up.
GRAPHEMES = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
_VOWELS = "AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2"
_REST = (
    "B CH D DH EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 "
    "OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH"
)
#: Phonemes in the ARPABET of the CMU dictionary, after four marks.
PHONEMES = ("<pad>", "<unk>", "<s>", "</s>", *_VOWELS.split(), *_REST.split())
_START, _STOP = 2, 3


class GraphemeToPhoneme(nn.Module):
    """One GRU reads a word, another one spells its phonemes.

    Args:
        embedding: Features of a letter and of a phoneme.
        hidden: Width of both.
    """

    def __init__(self, embedding: int = 256, hidden: int = 256) -> None:
        super().__init__()
        self.enc_emb = nn.Embedding(len(GRAPHEMES), embedding)
        self.encoder = nn.GRU(embedding, hidden, batch_first=True)
        self.dec_emb = nn.Embedding(len(PHONEMES), embedding)
        self.decoder = nn.GRU(embedding, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, len(PHONEMES))

    @classmethod
    def from_npz(cls, path: Path) -> GraphemeToPhoneme:
        """Load the published weights (``checkpoint20.npz``).

        Raises:
            ArtefactError: if the file cannot be read, or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name].astype(np.float32)) for name in file.files}
            model = cls(arrays["enc_emb"].shape[1], arrays["enc_w_hh"].shape[1])
            model.load_state_dict(
                {
                    "enc_emb.weight": arrays["enc_emb"],
                    "dec_emb.weight": arrays["dec_emb"],
                    "fc.weight": arrays["fc_w"],
                    "fc.bias": arrays["fc_b"],
                    **{
                        f"{long}.{kind}_{part}_l0": arrays[f"{short}_{kind[0]}_{part}"]
                        for short, long in (("enc", "encoder"), ("dec", "decoder"))
                        for kind in ("weight", "bias")
                        for part in ("ih", "hh")
                    },
                }
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ArtefactError(f"{path} holds no weights of this network: {reason}") from error
        return model

    def encode(self, letters: Tensor) -> Tensor:
        """State after the last letter of every word: (B, T) symbols, 0 after the end -> (1, B, hidden)."""
        y, _ = self.encoder(self.enc_emb(letters))
        at = (letters != 0).sum(dim=1) - 1
        return y.gather(1, at[:, None, None].expand(-1, 1, y.shape[2])).transpose(0, 1).contiguous()

    def forward(self, letters: Tensor, before: Tensor) -> Tensor:
        """Logits of each next phoneme.

        Args:
            letters: (B, T) symbols of words, the end mark included, filled up with 0.
            before: (B, S) phonemes before each, the start mark first.

        Returns:
            (B, phonemes, S).
        """
        y, _ = self.decoder(self.dec_emb(before), self.encode(letters))
        return self.fc(y).transpose(1, 2)

    @torch.no_grad()
    def spell(self, words: Sequence[str], longest: int = 20) -> list[list[str]]:
        """The likeliest phoneme at every step, until the end mark.

        Args:
            words: Any; letters but a to z are unknown.
            longest: Phonemes of a word, at most.
        """
        device = self.fc.weight.device
        letters = word_symbols(words).to(device)
        state = self.encode(letters)
        last = torch.full((len(words), 1), _START, device=device)
        steps = []
        for _ in range(longest):
            y, state = self.decoder(self.dec_emb(last), state)
            last = self.fc(y).argmax(dim=2)
            steps.append(last)
        rows = torch.cat(steps, dim=1).tolist()
        ends = [row.index(_STOP) if _STOP in row else len(row) for row in rows]
        return [[PHONEMES[k] for k in row[:end]] for row, end in zip(rows, ends, strict=True)]


def word_symbols(words: Sequence[str]) -> Tensor:
    """Words as numbers of `GRAPHEMES`, the end mark after each, filled up with 0: (B, T) int64."""
    rows = [[*(GRAPHEMES.index(c) if c in GRAPHEMES else 1 for c in word.lower()), 2] for word in words]
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
