"""BLEU against hand counts and another implementation; allocated bytes and hypervolumes of known sizes."""

from __future__ import annotations

import math
import random

import pytest
import torch

from netwright.errors import UsageError
from netwright.metrics import allocated_peak, bleu
from netwright.nas import hypervolume


def test_bleu_of_a_sentence_counted_by_hand() -> None:
    given, wanted = "the cat the cat on the mat".split(), "the cat is on the mat".split()
    # 5 of 7 tokens, 3 of 6 pairs, 1 of 5 triples; no penalty, as it is longer.
    assert bleu([given], [wanted], order=3) == pytest.approx((5 / 7 * 3 / 6 * 1 / 5) ** (1 / 3))
    assert bleu([given], [wanted]) == 0.0
    assert bleu([wanted], [wanted]) == 1.0
    assert bleu([wanted[:5]], [wanted]) == pytest.approx(math.exp(1 - 6 / 5))
    with pytest.raises(UsageError):
        bleu([], [])
    with pytest.raises(UsageError):
        bleu([wanted], [])
    with pytest.raises(UsageError):
        bleu([wanted], [wanted], order=0)


def test_bleu_of_a_corpus_is_that_of_torchmetrics() -> None:
    text = pytest.importorskip("torchmetrics.functional.text")
    rng = random.Random(0)
    wanted = [[rng.choice("abcde") for _ in range(rng.randint(6, 12))] for _ in range(40)]
    given = [[t if rng.random() < 0.8 else "a" for t in row][: rng.randint(4, 12)] for row in wanted]
    other = text.bleu_score([" ".join(g) for g in given], [[" ".join(w)] for w in wanted])
    assert bleu(given, wanted) == pytest.approx(float(other), abs=1e-6)


def test_the_peak_is_the_largest_sum_of_live_tensors() -> None:
    def call() -> None:
        a = torch.zeros(1000, 1000)
        b = a + 1
        del a
        c = b * 2
        del b, c

    assert 8_000_000 <= allocated_peak(call) < 8_100_000
    there = torch.zeros(1000, 1000)
    assert allocated_peak(lambda: there.add_(1)) < 100_000


def test_hypervolume_is_the_area_of_the_union_of_rectangles() -> None:
    front = [(1.0, 0.5), (2.0, 0.8), (3.0, 0.9)]
    assert hypervolume(front, (4.0, 0.0)) == pytest.approx(3 * 0.5 + 2 * 0.3 + 1 * 0.1)
    dominated = [(2.5, 0.4), (1.0, 0.3), (5.0, 1.0), (0.5, -1.0)]
    assert hypervolume([*dominated, *front], (4.0, 0.0)) == pytest.approx(2.2)
    assert hypervolume([], (1.0, 0.0)) == 0.0
    assert hypervolume([*front, (0.5, 0.5)], (4.0, 0.0)) > 2.2
    with pytest.raises(UsageError):
        hypervolume([(1.0, math.nan)], (2.0, 0.0))
