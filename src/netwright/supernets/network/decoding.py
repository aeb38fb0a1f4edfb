"""Text from a language model that drafts with a smaller sub-network of itself and verifies with the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from netwright.errors import UsageError
from netwright.supernets.network.elastic import Elastic


@dataclass(frozen=True)
class Decoded:
    """What was written.

    Attributes:
        symbols: (T,) the prompt and what follows it.
        passes: Forward passes of the whole network.
        drafts: Forward passes of the sub-network.
    """

    symbols: Tensor
    passes: int
    drafts: int = 0


def greedy(sup: Elastic, prompt: Tensor, length: int) -> Decoded:
    """The likeliest symbol after each other, by the present sub-network.

    Args:
        sup: A language model, (B, T) symbols to scores (B, T, V) or (B, V, T).
        prompt: (T,) symbols.
        length: How many follow.
    """
    symbols, passes = prompt.clone(), 0
    with torch.no_grad():
        for _ in range(length):
            symbols = torch.cat([symbols, _next(sup, symbols)[-1:]])
            passes += 1
    return Decoded(symbols, passes)


def speculative(
    sup: Elastic, draft: Mapping[str, Any], prompt: Tensor, length: int, *, ahead: int = 4
) -> Decoded:
    """The same text as `greedy` with the whole network, in fewer of its passes.

    The sub-network drafts some symbols; one pass of the whole network says how far it agrees, and its own
    symbol follows (self-speculative decoding).

    Args:
        sup: A language model whose scores of a symbol do not depend on those after it.
        draft: The choice that drafts.
        prompt: (T,) symbols.
        length: How many follow.
        ahead: Symbols of a draft.

    Raises:
        UsageError: if `ahead` is no number of symbols.
    """
    if ahead < 1:
        raise UsageError(f"ahead={ahead} is no number of symbols", "give 1 or more")
    whole, small = sup.blueprint.full, sup.complete(draft)
    symbols, goal = prompt.clone(), len(prompt) + length
    passes = drafts = 0
    before = sup.choice
    try:
        with torch.no_grad():
            while len(symbols) < goal:
                guess = symbols
                sup.set(small)
                for _ in range(min(ahead, goal - len(symbols) - 1)):
                    guess = torch.cat([guess, _next(sup, guess)[-1:]])
                    drafts += 1
                likeliest = _next(sup.set(whole), guess)  # after every symbol of the guess
                passes += 1
                at = len(symbols)
                while at < len(guess) and guess[at] == likeliest[at - 1]:
                    at += 1
                symbols = torch.cat([guess[:at], likeliest[at - 1 : at]])
    finally:
        sup.set(before)
    return Decoded(symbols[:goal], passes, drafts)


def _next(sup: Elastic, symbols: Tensor) -> Tensor:
    """The likeliest symbol after each, (T,)."""
    scores = sup(symbols[None])[0]
    classes = 0 if getattr(sup.network, "classes_first", False) else 1
    return scores.argmax(dim=classes).to(symbols.dtype)  # type: ignore[no-any-return]
