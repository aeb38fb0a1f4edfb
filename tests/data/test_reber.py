"""Reber strings: what the automaton accepts, near misses, and that no string is there twice."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
import torch

from netwright.data import reber
from netwright.data.grammars import EMBEDDED_REBER, REBER, encode, reber_strings
from netwright.errors import DataError


@pytest.mark.parametrize("embedded", [False, True])
def test_valid_strings_are_accepted_and_near_misses_rejected(embedded: bool) -> None:
    grammar = EMBEDDED_REBER if embedded else REBER
    strings, valid = reber_strings(1_000, 3, embedded)
    assert sum(valid) == 500 and len(set(strings)) == 1_000
    assert all(grammar.accepts(s) == bool(v) for s, v in zip(strings, valid, strict=True))
    assert all(10 <= len(s) <= 54 for s in strings)


@pytest.mark.parametrize("embedded", [False, True])
def test_a_near_miss_is_one_letter_away_from_a_valid_string(embedded: bool) -> None:
    grammar = EMBEDDED_REBER if embedded else REBER
    strings, valid = reber_strings(200, 0, embedded)
    for string in (s for s, v in zip(strings, valid, strict=True) if not v):
        places = itertools.product(range(1, len(string) - 1), grammar.letters)
        assert any(grammar.accepts(string[:k] + letter + string[k + 1 :]) for k, letter in places)


@pytest.mark.parametrize(("count", "longest"), [(1_000, 54), (4_000, 24)])
def test_length_tells_nothing(count: int, longest: int) -> None:
    """Valid strings that are different run out among the short ones; near misses never would."""
    strings, valid = reber_strings(count, 0, longest=longest)
    lengths = [
        collections.Counter(len(s) for s, v in zip(strings, valid, strict=True) if v == k) for k in (0, 1)
    ]
    assert lengths[0] == lengths[1] and len(lengths[0]) > 10


def test_the_automaton_knows_strings_of_the_literature() -> None:
    assert all(map(REBER.accepts, ("BTXSE", "BPVVE", "BTSSXXTVVE", "BPTVPXVPXTVPXTTTTTTVPSE")))
    assert not any(map(REBER.accepts, ("", "B", "BTXS", "BTXSEE", "BPVPXTTVPSX", "TXSE", "BPTVPXVPXTTVXVE")))
    assert EMBEDDED_REBER.accepts("BTBPVVETE") and EMBEDDED_REBER.accepts("BPBTXSEPE")
    assert not EMBEDDED_REBER.accepts("BTBPVVEPE"), "the second letter must come back"


def test_counting_letters_does_not_tell_all_of_them_apart() -> None:
    """One wrong letter changes the counts, too; but a linear model of counts must leave a good deal over."""
    from sklearn.linear_model import LogisticRegression

    strings, valid = reber_strings(3_000, 0)
    counts = np.array([[s.count(letter) for letter in REBER.letters] for s in strings])
    model = LogisticRegression(max_iter=1_000).fit(counts[:2_000], valid[:2_000])
    assert model.score(counts[2_000:], valid[2_000:]) < 0.75


def test_strings_of_a_length_are_drawn_evenly() -> None:
    """There are 12 of 8 letters: all must come, about as often."""
    rng = np.random.default_rng(0)
    letters = "".join(REBER.letters)
    every = {w for w in map("".join, itertools.product("B", *[letters] * 6, "E")) if REBER.accepts(w)}
    drawn = [REBER.draw_length(rng, 8) for _ in range(200 * len(every))]
    assert set(drawn) == every
    assert all(abs(drawn.count(word) - 200) < 4.5 * 200**0.5 for word in every)
    assert REBER.draw_length(rng, 4) == "", "the shortest have five"


def test_there_are_as_many_strings_as_the_thesis_has() -> None:
    strings, valid = reber_strings(25_000)
    assert len(set(strings)) == 25_000 and sum(valid) == 12_500
    assert max(map(len, strings)) <= 54


def test_splits_are_disjoint_padded_and_repeatable() -> None:
    data = reber(400, 1, longest=20)
    assert (len(data.train), len(data.val), len(data.test)) == (260, 40, 100)
    rows = torch.cat([part.source.get(part.indices, None) for part in (data.train, data.val, data.test)])
    assert rows.shape == (400, 20) and len(rows.unique(dim=0)) == 400
    ends = (rows != 0).sum(dim=1)
    assert bool((rows.gather(1, ends[:, None] - 1) == ord("E")).all()), "the last symbol before the zeros"
    assert all(bool((row[end:] == 0).all()) for row, end in zip(rows, ends.tolist(), strict=True))
    again = reber(400, 1, longest=20)
    assert torch.equal(data.train.labels, again.train.labels)
    assert torch.equal(
        data.train.source.get(data.train.indices, None), again.train.source.get(again.train.indices, None)
    )
    assert reber(400, 2, longest=20).fingerprint != data.fingerprint


def test_codes_are_ascii() -> None:
    assert encode(["BT", "A"], 3).tolist() == [[66, 84, 0], [65, 0, 0]]
    with pytest.raises(DataError):
        encode(["toolong"], 3)


def test_more_strings_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="hardly any new one"):
        reber_strings(500, longest=10)
    with pytest.raises(DataError):
        reber(10, val=0.5, test=0.5)
