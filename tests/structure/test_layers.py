"""Label layers and index maps against plain loops."""

from __future__ import annotations

import itertools
from math import prod

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from netwright.structure.layers import align, compress, factor, reshape, varying
from netwright.structure.sizes import index_maps, take

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def reshapes(draw):
    """Two shapes of the same number of elements."""
    primes = draw(st.lists(st.sampled_from([2, 3]), min_size=1, max_size=5))

    def shape() -> tuple[int, ...]:
        cuts = sorted(draw(st.lists(st.integers(0, len(primes)), max_size=3)))
        ends = [0, *cuts, len(primes)]
        return tuple(prod(primes[a:b]) for a, b in itertools.pairwise(ends))

    return shape(), shape()


@given(reshapes())
def test_factor_pairs_runs_of_equal_product(shapes) -> None:
    old, new = shapes
    pairs = factor(old, new)
    assert [d for a, _ in pairs for d in a] == list(range(len(old)))
    assert [d for _, b in pairs for d in b] == list(range(len(new)))
    assert all(prod(old[d] for d in a) == prod(new[d] for d in b) for a, b in pairs)


@given(reshapes(), st.data())
def test_a_reshaped_layer_is_the_reshape_of_the_full_one(shapes, data) -> None:
    old, new = shapes
    dims = data.draw(st.sets(st.integers(0, len(old) - 1)))
    small = [n if d in dims else 1 for d, n in enumerate(old)]
    layer = torch.randint(0, 9, small)
    moved = reshape(layer, old, new)
    assert torch.equal(moved.expand(new), layer.expand(old).reshape(new))


def test_shapes_without_elements_are_one_run() -> None:
    assert factor((0, 3), (3, 0, 2)) == [((0, 1), (0, 1, 2))]


@given(SIZES, st.data())
def test_compress_keeps_the_labels_and_drops_constant_dimensions(sizes, data) -> None:
    dims = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    layer = torch.arange(prod(sizes)).reshape(sizes)
    for d in dims:
        layer = layer.narrow(d, 0, 1).expand((*layer.shape[:d], sizes[d], *layer.shape[d + 1 :]))
    small = compress(layer.contiguous())
    assert torch.equal(small.expand(sizes), layer)
    assert set(varying(small)) == {d for d, n in enumerate(sizes) if n > 1 and d not in dims}


def test_align_prepends_dimensions() -> None:
    assert align(torch.arange(3), 3).shape == (1, 1, 3)
    assert align(torch.zeros(2, 3), 2).shape == (2, 3)


@st.composite
def parameters(draw):
    """A parameter (rows, columns, 2), blocks of rows, and what each block keeps."""
    blocks, per, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    stay = draw(st.integers(1, columns))
    order = [draw(st.permutations(range(columns)))[:stay] for _ in range(blocks)]
    rows = draw(
        st.lists(st.integers(1, per), min_size=blocks, max_size=blocks).filter(lambda x: len(set(x)) == 1)
    )
    return blocks, per, columns, [sorted(o) for o in order], rows[0]


@settings(max_examples=60)
@given(parameters())
def test_take_slices_blocks_of_rows_like_a_loop(case) -> None:
    blocks, per, columns, stays, rows = case
    tensor = torch.randn(blocks * per, columns, 2)
    index = torch.tensor(stays)
    kept_rows = torch.tensor([b * per + r for b in range(blocks) for r in range(rows)])
    got = take(tensor, {0: kept_rows, 1: index})
    want = torch.stack([tensor[r][stays[r // per]] for r in kept_rows.tolist()])
    assert torch.equal(got, want)


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 5), st.data())
def test_index_maps_of_blocks_keep_what_the_mask_says(blocks, per, columns, data) -> None:
    stay = data.draw(st.integers(1, columns))
    units = torch.arange(1, 1 + blocks * columns).reshape(blocks, columns)
    keep = torch.ones(1 + blocks * columns, dtype=torch.bool)
    for row in units:
        order = data.draw(st.permutations(row.tolist()))
        keep[torch.tensor(order[stay:], dtype=torch.int64)] = False
    layer = units.repeat_interleave(per, 0) if blocks > 1 else units[:1]
    rows = blocks * per
    tensor = torch.randn(rows, columns)
    kept = index_maps({"w": {1: layer}}, keep).get("w", {})
    got = take(tensor, kept)
    want = torch.stack([tensor[r][keep[units[r // per]]] for r in range(rows)])
    assert torch.equal(got, want)


@given(st.integers(2, 6), st.data())
def test_taking_one_dimension_is_an_index_select(size, data) -> None:
    index = torch.tensor(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))
    tensor = torch.randn(3, size)
    got = take(tensor, {1: index})
    assert torch.equal(got, tensor[:, index]) and got.data_ptr() != tensor.data_ptr()


def test_taking_nothing_away_copies() -> None:
    tensor = torch.randn(3, 4)
    got = take(tensor, {})
    assert torch.equal(got, tensor) and got.data_ptr() != tensor.data_ptr()
