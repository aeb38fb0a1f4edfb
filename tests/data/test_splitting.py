"""Three-way splits: disjoint, stratified, repeatable."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from netwright.data.splitting import hold_out, three_way

LABELS = st.lists(st.integers(-1, 4), min_size=3, max_size=80).map(torch.tensor)


@given(LABELS, st.integers(1, 60), st.integers(0, 5))
@settings(max_examples=80)
def test_hold_out_is_a_partition_by_shares(labels: torch.Tensor, count: int, seed: int) -> None:
    rest, held = hold_out(labels, count, seed)
    assert len(held) == min(count, len(labels))
    assert torch.equal(torch.cat((rest, held)).sort().values, torch.arange(len(labels)))
    share = len(held) / len(labels)
    for label in labels.unique():
        size = int((labels == label).sum())
        taken = int((labels[held] == label).sum())
        # Rounding moves a class by one; classes that must keep one example push the others further.
        assert abs(taken - share * size) <= 1 + len(labels.unique())
        if size >= 2 and len(labels) - count >= len(labels.unique()):
            assert size - taken >= 1


@given(LABELS, st.integers(0, 5))
def test_three_way_is_a_partition_that_the_seed_decides(labels: torch.Tensor, seed: int) -> None:
    parts = three_way(labels, (0.2, 0.2), seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels)))
    assert all(torch.equal(a, b) for a, b in zip(parts, three_way(labels, (0.2, 0.2), seed), strict=True))


def test_balanced_classes_stay_balanced() -> None:
    labels = torch.arange(10).repeat_interleave(50)
    train, val, test = three_way(labels, (0.2, 0.2), 0)
    for part, each in ((train, 30), (val, 10), (test, 10)):
        assert labels[part].bincount().tolist() == [each] * 10


def test_dense_labels_are_divided_at_random() -> None:
    rest, held = hold_out(torch.zeros(10, 4, 4, dtype=torch.long), 3, 0)
    assert (len(rest), len(held)) == (7, 3)
