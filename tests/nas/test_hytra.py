"""The HyTra space: its paths are as many as the paper's."""

import itertools

import pytest

from netwright.errors import UsageError
from netwright.nas import Ordinal, SearchSpace
from netwright.nas.hytra import hytra_paths, letters, scale_of, scales_after


def test_blocks_of_four_layers_have_the_published_numbers_of_paths():
    assert [len(hytra_paths(s)) for s in (4, 3, 2, 1)] == [131, 115, 80, 16]
    assert [len(hytra_paths(s, restricted=True)) for s in (4, 3, 2, 1)] == [51, 99, 80, 16]
    assert len(hytra_paths(4, drop=None)) == 201


@pytest.mark.parametrize("drop", [1, None])
def test_scales_never_rise_and_fall_by_no_more_than_allowed(drop):
    paths = hytra_paths(4, drop=drop)
    assert len(set(paths)) == len(paths)
    for path in paths:
        falls = [scale_of(a) - scale_of(b) for a, b in itertools.pairwise(path)]
        assert min(falls) >= 0 and (drop is None or max(falls) <= drop)
    assert set(hytra_paths(4)) <= set(hytra_paths(4, drop=None))
    assert set(hytra_paths(3, restricted=True)) < set(hytra_paths(3))


def test_a_block_goes_on_where_the_one_before_ended():
    assert scales_after((5, 5, 4, 3)) == 2  # at 14 x 14: there and at 7 x 7
    assert scales_after((1, 0)) == 1
    assert letters((5, 4, 2, 1)) == "ccac"
    with pytest.raises(UsageError, match="no operation 6"):
        scale_of(6)
    with pytest.raises(UsageError, match="1 to 4 scales"):
        hytra_paths(5)


def test_the_size_space_of_nats_bench_has_its_size():
    space = SearchSpace([Ordinal(f"width:{k}", range(8, 65, 8)) for k in range(5)])
    assert space.size() == 32_768
