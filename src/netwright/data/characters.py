"""English text that comes with Python, as symbols: what a small language model of characters learns from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from netwright.data.parts import Part, Splits
from netwright.errors import DataError


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text.

    Attributes:
        symbols: One a number; numbers beyond are unknown.
    """

    symbols: str

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> Tensor:
        """Text as numbers (n,) int64; characters that are none of the symbols are spaces.

        Args:
            text: Any.
        """
        known = {symbol: number for number, symbol in enumerate(self.symbols)}
        return torch.tensor([known.get(c, known.get(" ", 0)) for c in text], dtype=torch.int64)

    def decode(self, numbers: Tensor) -> str:
        """Numbers (n,) as text."""
        return "".join(self.symbols[int(n)] for n in numbers)


@cache
def manual() -> str:
    """Python's own manual of its topics, some 460,000 characters of English; it comes with every Python."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def vocabulary(text: str | None = None, most: int = 96) -> Vocabulary:
    """The symbols of a text, the commonest first.

    Args:
        text: The text; Python's manual when None.
        most: At most so many.
    """
    text = manual() if text is None else text
    counts = {c: text.count(c) for c in set(text)}
    return Vocabulary("".join(sorted(counts, key=lambda c: (-counts[c], c))[:most]))


def characters(
    context: int = 64, *, text: str | None = None, limit: int | None = None, symbols: int = 96
) -> Splits:
    """Pieces of a text, with the following symbol of every symbol as its label.

    The first 80 % of the text are trained on, then come 10 % to judge candidates by and 10 % for the end.

    Args:
        context: Symbols of an example, (N, context) floats of whole numbers; labels are (N, context).
        text: The text; Python's manual when None.
        limit: Most characters of it.
        symbols: Most different symbols.

    Raises:
        DataError: if the text is too short for an example in every split.
    """
    given = manual() if text is None else text
    given = given[:limit] if limit is not None else given
    known = vocabulary(given, symbols)
    numbers = known.encode(given)
    first, second = int(0.8 * len(numbers)), int(0.9 * len(numbers))
    parts = [_pieces(numbers[a:b], context) for a, b in ((0, first), (first, second), (second, len(numbers)))]
    return Splits(
        "characters",
        train=parts[0],
        val=parts[1],
        test=parts[2],
        classes=tuple(known.symbols),
        fingerprint=f"characters-{context}-{len(given)}-{symbols}-{_hash(given)}",
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _pieces(numbers: Tensor, context: int) -> Part:
    count = (len(numbers) - 1) // context
    if count < 1:
        raise DataError(f"a text of {len(numbers)} characters has no piece of {context}", "give more text")
    x = numbers[: count * context].reshape(count, context)
    y = numbers[1 : count * context + 1].reshape(count, context)
    return Part.from_tensors(x.float(), y)
