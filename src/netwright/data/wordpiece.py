"""Text as pieces of words, as BERT reads it.

M. Schuster and K. Nakajima, Japanese and Korean Voice Search, ICASSP 2012; the form is that of J. Devlin et
al., BERT, 2019: lower case without accents, split at spaces and punctuation, then the longest known pieces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from netwright.errors import ArtefactError, DataError

_UNKNOWN, _BEGIN, _END = "[UNK]", "[CLS]", "[SEP]"
#: Longer words are unknown.
_LONGEST = 100


class WordPiece:
    """A vocabulary of pieces; those that begin with ``##`` go on with a word.

    Args:
        pieces: One a number; the first fills up.

    Raises:
        DataError: if one of BERT's marks is missing.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = tuple(pieces)
        self.number = {piece: number for number, piece in enumerate(self.pieces)}
        for mark in (_UNKNOWN, _BEGIN, _END):
            if mark not in self.number:
                raise DataError(f"the vocabulary has no {mark}", "give the vocab.txt of a BERT")

    @classmethod
    def read(cls, path: Path) -> WordPiece:
        """Read a ``vocab.txt``.

        Raises:
            ArtefactError: if the file cannot be read.
        """
        try:
            return cls(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ArtefactError(f"{path} is no vocabulary: {error}") from error

    def __len__(self) -> int:
        return len(self.pieces)

    def split(self, text: str) -> list[str]:
        """The pieces of a text, without marks at its ends."""
        return [piece for word in _words(text) for piece in self._pieces(word)]

    def _pieces(self, word: str) -> list[str]:
        found, begin = [], 0
        while begin < len(word):
            head = "##" if begin else ""
            ends = range(len(word), begin, -1)
            end = next((e for e in ends if head + word[begin:e] in self.number), None)
            if end is None or len(word) > _LONGEST:
                return [_UNKNOWN]
            found.append(head + word[begin:end])
            begin = end
        return found

    def encode(self, texts: Iterable[str], length: int) -> Tensor:
        """Texts as numbers, a mark before and after each, filled up with 0: (N, length) int64.

        Args:
            texts: Any.
            length: Of every row; what is longer is cut.
        """
        rows = []
        for text in texts:
            pieces = (_BEGIN, *self.split(text)[: length - 2], _END)
            numbers = [self.number[p] for p in pieces]
            rows.append(numbers + [0] * (length - len(numbers)))
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, length)


def _words(text: str) -> Iterator[str]:
    """Lower-cased words and single marks of punctuation."""
    plain = unicodedata.normalize("NFD", text.lower())
    word = ""
    for character in plain:
        category = unicodedata.category(character)
        if category == "Mn" or (category.startswith("C") and character not in "\t\n\r"):
            continue
        if character.isspace() or _punctuation(character, category):
            if word:
                yield word
            word = ""
            if not character.isspace():
                yield character
        else:
            word += character
    if word:
        yield word


def _punctuation(character: str, category: str) -> bool:
    """ASCII signs count, too, though Unicode has some of them as symbols; Chinese signs are words."""
    signs = 33 <= ord(character) <= 47 or 58 <= ord(character) <= 64
    more = 91 <= ord(character) <= 96 or 123 <= ord(character) <= 126
    return signs or more or category.startswith("P") or 0x4E00 <= ord(character) <= 0x9FFF
