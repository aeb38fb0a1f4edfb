"""Strings of the Reber grammar and near misses.

One wrong letter also changes the counts of letters, which the grammar ties together: counts alone tell two
thirds of the strings of the plain grammar. The rest takes the order.

A. S. Reber, Implicit learning of artificial grammars, Journal of Verbal Learning and Verbal Behavior 6, 1967;
the embedded grammar is that of S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, Neural Computation
9(8), 1997, section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from netwright.data.parts import Part, Splits
from netwright.errors import DataError

#: Codes of strings are ASCII, and 0 after their end.
VOCABULARY = 128
#: Strings drawn for one that is wanted, before another way is taken, and before giving up.
_TRIES = 1_000


@dataclass(frozen=True)
class Grammar:
    """A finite automaton that draws strings and recognises them.

    Attributes:
        moves: State -> {letter: next state}; the states are numbered from 0, where strings begin.
        end: The state in which a string is complete; it has no moves.
    """

    moves: Sequence[Mapping[str, int]]
    end: int

    @property
    def letters(self) -> str:
        """All letters, in alphabetical order."""
        return "".join(sorted({letter for move in self.moves for letter in move}))

    def accepts(self, string: str) -> bool:
        """Whether a string is one of the grammar, from beginning to end."""
        state = 0
        for letter in string:
            if letter not in self.moves[state]:
                return False
            state = self.moves[state][letter]
        return state == self.end

    def draw(self, rng: np.random.Generator) -> str:
        """Walk through the automaton, every move out of a state with the same chance."""
        choices = self._choices
        state, letters = 0, []
        while state != self.end:
            moves = choices[state]
            # A number from 0 to 1 costs a fraction of a random integer.
            letter, state = moves[int(rng.random() * len(moves))] if len(moves) > 1 else moves[0]
            letters.append(letter)
        return "".join(letters)

    def draw_length(self, rng: np.random.Generator, length: int) -> str:
        """A string of so many letters, all of them with the same chance; empty where there is none."""
        if not self._ways(length)[0]:
            return ""
        state, letters = 0, []
        for left in range(length - 1, -1, -1):
            ways = self._ways(left)
            at = rng.random() * self._ways(left + 1)[state]
            for letter, target in self._choices[state]:
                chosen, at = (letter, target), at - ways[target]
                if at < 0 and ways[target]:
                    break
            letters.append(chosen[0])
            state = chosen[1]
        return "".join(letters)

    def _ways(self, length: int) -> list[int]:
        """From every state, how many strings of so many letters end."""
        known = self._known
        while len(known) <= length:
            known.append([sum(known[-1][target] for _, target in moves) for moves in self._choices])
        return known[length]

    @cached_property
    def _known(self) -> list[list[int]]:
        return [[int(state == self.end) for state in range(len(self.moves))]]

    @cached_property
    def _choices(self) -> list[list[tuple[str, int]]]:
        return [list(move.items()) for move in self.moves]


REBER = Grammar(
    (
        {"B": 1},
        {"T": 2, "P": 3},
        {"S": 2, "X": 4},
        {"T": 3, "V": 5},
        {"X": 3, "S": 6},
        {"P": 4, "V": 6},
        {"E": 7},
        {},
    ),
    7,
)


def _embedded(inner: Grammar) -> Grammar:
    """B, T or P, a string of `inner`, the same letter again, E: it must be remembered all the while."""
    count = len(inner.moves)
    moves: list[dict[str, int]] = [{"B": 1}, {"T": 2, "P": 2 + count}]
    last = 2 + 2 * count
    for first, letter in ((2, "T"), (2 + count, "P")):
        for state, move in enumerate(inner.moves):
            through = {symbol: first + target for symbol, target in move.items()}
            moves.append({letter: last} if state == inner.end else through)
    return Grammar((*moves, {"E": last + 1}, {}), last + 1)


EMBEDDED_REBER = _embedded(REBER)


def reber_strings(
    count: int, seed: int = 0, embedded: bool = False, *, shortest: int = 10, longest: int = 54
) -> tuple[list[str], list[int]]:
    """Draw different strings, every second one a near miss.

    Valid strings are walks through the automaton, most of them short, until a thousand walks find no new one;
    from there on every length is as likely. A near miss is another valid string of the same length as the one
    before, with one letter, neither the first nor the last, replaced by another letter of the grammar so that
    the automaton rejects it: the lengths of both kinds are the same, so that length tells nothing.

    Args:
        count: How many.
        seed: Of all that is drawn.
        embedded: Take the embedded grammar.
        shortest: Letters of a string, at least.
        longest: Letters of a string, at most.

    Returns:
        The strings, and 1 for each that is valid, else 0.

    Raises:
        DataError: if there are hardly so many different strings of these lengths.
    """
    grammar = EMBEDDED_REBER if embedded else REBER
    rng = np.random.default_rng(seed)
    strings: dict[str, int] = {}
    walking, length = True, 0
    while len(strings) < count:
        valid = len(strings) % 2 == 0
        for _ in range(_TRIES):
            if not valid:
                string = _corrupted(grammar.draw_length(rng, length), grammar, rng)
            elif walking:
                string = grammar.draw(rng)
            else:
                string = grammar.draw_length(rng, int(rng.integers(shortest, longest + 1)))
            fits = shortest <= len(string) <= longest and string not in strings
            if fits and grammar.accepts(string) == valid:
                strings[string], length = int(valid), len(string)
                break
        else:
            if not (valid and walking):
                raise DataError(
                    f"after {len(strings)} strings of {shortest} to {longest} letters hardly any new one is "
                    "found",
                    "ask for fewer, or allow longer ones",
                )
            walking = False
    return list(strings), list(strings.values())


def _corrupted(string: str, grammar: Grammar, rng: np.random.Generator) -> str:
    at = int(rng.integers(1, len(string) - 1))
    others = [letter for letter in grammar.letters if letter != string[at]]
    return string[:at] + others[rng.integers(len(others))] + string[at + 1 :]


def encode(strings: Sequence[str], length: int | None = None) -> Tensor:
    """Strings as ASCII codes, filled up with 0.

    Args:
        strings: N strings.
        length: Of the result; that of the longest string where None.

    Returns:
        (N, length) int16.

    Raises:
        DataError: if a string is longer, or holds other characters.
    """
    longest = max((len(s) for s in strings), default=0)
    length = longest if length is None else length
    if longest > length or not all(s.isascii() for s in strings):
        raise DataError(f"strings must have at most {length} letters, all ASCII")
    table = np.zeros((len(strings), length), dtype=np.int16)
    for row, string in zip(table, strings, strict=True):
        row[: len(string)] = np.frombuffer(string.encode("ascii"), dtype=np.uint8)
    return torch.from_numpy(table)


def reber(
    count: int,
    seed: int = 0,
    embedded: bool = False,
    *,
    shortest: int = 10,
    longest: int = 54,
    val: float = 0.1,
    test: float = 0.25,
) -> Splits:
    """Valid and nearly valid strings of the Reber grammar, no string twice.

    An example is a row of `longest` ASCII codes, 0 after the end of the string (floats, as those of every
    data set: ``x.long()`` are the codes).

    Args:
        count: Strings of all splits together.
        seed: Of all that is drawn.
        embedded: Take the embedded grammar.
        shortest: Letters of a string, at least.
        longest: Letters of a string, at most.
        val: Share that candidates are judged by.
        test: Share that is touched once at the end.

    Raises:
        DataError: if the shares leave nothing to train on, or there are hardly so many strings.
    """
    if not (0 <= val and 0 <= test and val + test < 1):
        raise DataError(f"val={val:g} and test={test:g} leave nothing to train on")
    strings, valid = reber_strings(count, seed, embedded, shortest=shortest, longest=longest)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    whole = Part.from_tensors(encode(strings, longest)[order], torch.tensor(valid)[order])
    first, second = round(count * test), round(count * test) + round(count * val)
    name = "embedded-reber" if embedded else "reber"
    return Splits(
        name,
        train=whole.subset(torch.arange(second, count)),
        val=whole.subset(torch.arange(first, second)),
        test=whole.subset(torch.arange(first)),
        classes=("invalid", "valid"),
        fingerprint=f"{name}-{count}-{seed}-{shortest}-{longest}-{val:g}-{test:g}",
    )
