"""A split in memory: order, augmentation, normalisation."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from netwright.data import Part, Splits
from netwright.errors import DataError


def coded(count: int, *, augment: str = "none") -> Part:
    """Examples whose every pixel is their number."""
    x = torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(count, 3, 8, 8)
    return Part.from_tensors(x, torch.arange(count) % 3, augment=augment)


@given(st.integers(1, 40), st.integers(1, 17), st.booleans(), st.booleans(), st.none() | st.integers(0, 50))
@settings(max_examples=60)
def test_batches_cover_each_example_once(
    n: int, size: int, shuffle: bool, drop: bool, limit: int | None
) -> None:
    part = coded(n)
    generator = torch.Generator().manual_seed(3)
    batches = list(part.batches(size, shuffle=shuffle, generator=generator, drop_last=drop, limit=limit))
    seen = torch.cat([x[:, 0, 0, 0] for x, _ in batches]).long() if batches else torch.empty(0).long()
    labels = torch.cat([y for _, y in batches]) if batches else seen
    wanted = n if limit is None else min(n, limit)
    assert len(seen) == (wanted // size * size if drop else wanted)
    assert len(seen.unique()) == len(seen)
    assert torch.equal(labels, seen % 3)
    if not shuffle:
        assert torch.equal(seen, torch.arange(len(seen)))


def test_shuffle_is_decided_by_the_generator() -> None:
    part = coded(30)

    def order(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [int(v) for x, _ in part.batches(7, shuffle=True, generator=generator) for v in x[:, 0, 0, 0]]

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize("augment", ["flip", "crop-flip"])
def test_augments_only_when_asked(augment: str) -> None:
    x = torch.rand(16, 3, 8, 8)
    part = Part.from_tensors(x, augment=augment)
    (plain, _), *_ = part.batches(16)
    (changed, _), *_ = part.batches(16, augment=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain, x)
    assert not torch.equal(changed, x)


def test_flip_mirrors_about_half() -> None:
    x = torch.rand(400, 1, 4, 6)
    (y, _), *_ = Part.from_tensors(x, augment="flip").batches(
        400, augment=True, generator=torch.Generator().manual_seed(0)
    )
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    same = (y == x).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 150 < int(mirrored.sum()) < 250


def test_crop_shifts_within_an_eighth() -> None:
    x = torch.zeros(300, 1, 16, 16)
    x[:, :, 8, 8] = 1
    (y, _), *_ = Part.from_tensors(x, augment="crop-flip").batches(
        300, augment=True, generator=torch.Generator().manual_seed(0)
    )
    rows = {int(r) for r in y.nonzero()[:, 2]}
    columns = {int(c) for c in y.nonzero()[:, 3]}
    assert rows == set(range(6, 11))
    assert columns == set(range(5, 11))  # the mirror of column 8 is 7


def test_a_plain_loop_agrees_with_the_gather() -> None:
    """Flip and crop at once are the same as one after the other, example by example."""
    from netwright.data import augmenting

    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, 256, (20, 3, 9, 17), dtype=torch.uint8)
    numbers = augmenting.draw(20, "crop-flip", generator)
    assert numbers is not None
    fast = augmenting.flip_and_crop(x, "crop-flip", numbers)
    for i in range(20):
        padded = torch.nn.functional.pad(x[i], (2, 2, 1, 1))
        top, left = int(numbers[i, 1] * 3), int(numbers[i, 2] * 5)
        slow = padded[:, top : top + 9, left : left + 17]
        assert torch.equal(fast[i], slow.flip(2) if numbers[i, 0] < 0.5 else slow)


def test_bytes_stand_for_0_to_1_and_are_normalised_by_channel() -> None:
    x = torch.randint(0, 256, (10, 2, 4, 4), dtype=torch.uint8)
    part = Part.from_tensors(x, mean=(0.25, 0.5), std=(0.5, 2.0))
    expected = (x / 255 - torch.tensor([0.25, 0.5]).view(1, 2, 1, 1)) / torch.tensor([0.5, 2.0]).view(
        1, 2, 1, 1
    )
    (y, _), *_ = part.batches(10)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(part[3][0], expected[3])
    assert part[3][1] == -1


def test_subset_and_head_keep_positions() -> None:
    part = coded(10).subset([7, 2, 5])
    assert [part[i][1] for i in range(3)] == [1, 2, 2]
    assert len(part.head(2)) == 2
    assert float(part.subset([2])[0][0].max()) == 5
    with pytest.raises(IndexError):
        part[3]


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="4 examples and 3 labels"):
        Part.from_tensors(torch.rand(4, 1, 2, 2), torch.zeros(3))


def test_example_repeats_where_there_are_few() -> None:
    part = coded(2)
    splits = Splits("s", part.head(1), part, part, ("a", "b"))
    assert splits.example(3).shape == (3, 3, 8, 8)
    assert splits.num_classes == 2
    assert splits.labelled
