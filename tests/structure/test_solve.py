"""Counts under the constraints of blocks: parts of an axis that shrink together, though not alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.structure.nets import Net, conv, exact, pair
from torch import nn
from torch.nn import functional as F

from netwright.errors import UsageError
from netwright.pruning import prune, select
from netwright.structure import check, shrink, trace
from netwright.structure.blocks import Coupling, Parts
from netwright.testing.surgery import draw_keep, randomise


def shuffle(x: torch.Tensor, groups: int = 2) -> torch.Tensor:
    """Interleave groups of channels."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class Shuffled(nn.Module):
    """A chain of units that pass half of their channels on, and shuffle: as in ShuffleNetV2."""

    def __init__(self, width: int = 10, depth: int = 4, heads: int = 5) -> None:
        super().__init__()
        self.left, self.right = conv(3, width), conv(3, width)
        self.units = nn.ModuleList(
            nn.Sequential(conv(width, width), nn.BatchNorm2d(width), conv(width, width, 3, padding=1))
            for _ in range(depth)
        )
        self.last = conv(2 * width, heads)

    def forward(self, x):
        x = shuffle(torch.cat([self.left(x), self.right(x)], 1))
        for unit in self.units:
            first, second = x.chunk(2, 1)
            x = shuffle(torch.cat([first, unit(second).relu()], 1))
        return self.last(x)


def coupled(net):
    return [axis for axis in net.prunable if axis.coupling is not None]


@st.composite
def systems(draw):
    """Random equations between sums of parts, which the full sizes meet, and random dimensions."""
    count = draw(st.integers(2, 6))
    sizes = np.array(draw(st.lists(st.integers(1, 24), min_size=count, max_size=count)))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        left = draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1))
        row = np.array([1 if i in left else 0 for i in range(count)])
        right = sorted(set(range(count)) - left)
        row[right[: draw(st.integers(1, len(right)))]] = -1
        rows.append(row)
    matrix = np.array(rows)
    bound = matrix @ sizes  # frozen members make up for what is not equal
    slack = np.array(draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows))))
    groups = [np.ones(count, np.bool_)] + [np.eye(count, dtype=np.bool_)[i] for i in range(count)]
    floor = np.ones(len(groups), np.int64)
    return Coupling(sizes, matrix, bound - slack, bound, np.array(groups), floor, int(sizes.max()))


@settings(max_examples=40, deadline=None)
@given(systems())
def test_levels_meet_the_constraints_and_grow(coupling):
    table = coupling.table()
    assert (table[-1] == coupling.sizes).all()
    for counts in table:
        assert (counts >= 0).all() and (counts <= coupling.sizes).all()
        assert coupling.broken(counts) is None and not coupling.empty(counts)
    sums = table @ coupling.groups.T
    assert (np.diff(sums, axis=0) >= 0).all(), "a dimension shrinks as the level grows"
    assert coupling.least.sum() <= table.sum(axis=1).min()


@settings(max_examples=25, deadline=None)
@given(systems(), st.integers(0, 2**31))
def test_a_level_does_not_depend_on_what_was_asked_before(coupling, seed):
    again = Coupling(
        coupling.sizes, coupling.matrix, coupling.low, coupling.high, coupling.groups, coupling.floor,
        coupling.levels,
    )  # fmt: skip
    order = np.random.default_rng(seed).permutation(np.arange(1, coupling.levels + 1))
    found = {int(k): again.at(int(k)) for k in order}
    assert all((found[k] == coupling.at(k)).all() for k in found)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(2, 5), st.integers(2, 30))
def test_two_parts_in_a_fixed_ratio_keep_it(size, ratio, level):
    """n_1 = ratio * n_2: level k keeps the nearest whole multiple."""
    sizes = np.array([ratio * size, size])
    coupling = Coupling(
        sizes, np.array([[1, -ratio]]), np.zeros(1, np.int64), np.zeros(1, np.int64),
        np.eye(2, dtype=np.bool_), np.ones(2, np.int64), ratio * size,
    )  # fmt: skip
    level = min(level, coupling.levels)
    first, second = coupling.at(level).tolist()
    assert first == ratio * second
    assert abs(first - level) < ratio


def test_levels_are_near_their_share():
    net = trace(Shuffled(58, 4).eval(), torch.zeros(1, 3, 4, 4))
    (axis,) = coupled(net)
    assert axis.size == 58
    for level in (8, 16, 29, 40, 57):
        counts = axis.coupling.at(level)
        widths = axis.coupling.groups @ counts
        full = axis.coupling.groups @ axis.coupling.sizes
        assert np.abs(widths - level / 58 * full).max() <= 1
    # Every unit's outputs are one dimension of 58: level k keeps k of them.
    weights = {n: d[0] for n, d in net.layers.items() if n.endswith("2.weight") and 0 in d}
    keep = Parts([axis]).first(torch.tensor([24]), net.count)
    assert {int(keep[layer].sum()) for layer in weights.values()} == {24}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_shuffled_halves_shrink_exactly(seed, depth):
    torch.manual_seed(seed)
    model = randomise(Shuffled(10, depth), seed).eval()
    net = trace(model, torch.randn(2, 3, 5, 5))
    assert len(coupled(net)) == 1
    exact(model, net, seed)


def test_a_shuffle_with_its_sizes_written_out_shrinks_as_a_graph():
    class Literal(Shuffled):
        def forward(self, x):
            x = self.mix(torch.cat([self.left(x), self.right(x)], 1))
            for unit in self.units:
                first, second = x.chunk(2, 1)
                x = self.mix(torch.cat([first, unit(second)], 1))
            return self.last(x)

        @staticmethod
        def mix(x):
            return x.view(2, 2, 10, 5, 5).transpose(1, 2).reshape(2, 20, 5, 5)

    model = randomise(Literal(10, 2)).eval()
    net = trace(model, torch.randn(2, 3, 5, 5))
    keep = draw_keep(net)
    small = shrink(model, net, keep)
    assert small.how == "graph"
    assert check(model, net, keep, small.model).error <= 1e-10


def test_shuffled_parts_choose_members_of_their_own():
    model = randomise(pair(lambda m, x: shuffle(x))).eval()
    net = trace(model, torch.randn(2, 3, 4, 4))
    keep = net.everything.clone()
    first, second = net.layers["a.weight"][0].reshape(2, 4)
    keep[first[[0, 1]]] = keep[second[[2, 3]]] = False
    small = shrink(model, net, keep)
    assert small.kept["b.weight"][1].tolist() == [4, 1, 6, 3]  # a2 b0 a3 b1, where the shuffle puts them


def test_what_meets_its_own_shuffle_is_tied():
    model = randomise(pair(lambda m, x: x + shuffle(x))).eval()
    net = trace(model, torch.randn(2, 3, 4, 4))
    assert not coupled(net)
    if net.prunable:
        exact(model, net)


@pytest.mark.parametrize("seed", range(3))
def test_groups_across_a_concatenation_shrink(seed):
    """Two groups of 6 over 8 + 4 channels: n(first 6) = n(last 2) + n(4)."""
    torch.manual_seed(0)
    model = Net(
        lambda m, x: m.c(m.n(torch.cat([m.a(x), m.b(x)], 1)).relu()),
        a=conv(3, 8), b=conv(3, 4), n=nn.GroupNorm(2, 12), c=conv(12, 5),
    )  # fmt: skip
    model = randomise(model).eval()
    net = trace(model, torch.randn(2, 3, 4, 4))
    (axis,) = net.prunable
    assert sorted(len(part) for part in axis.parts) == [2, 4, 6]
    assert sorted(axis.counts(3).tolist()) == [1, 2, 3]
    exact(model, net, seed)


def test_frozen_members_count_in_their_part():
    """Two groups of 4 over 2 channels of the input and 6 others: 2 + n(2) = n(4)."""
    model = Net(
        lambda m, x: m.c(m.n(torch.cat([x, m.a(x)], 1))), a=conv(2, 6), n=nn.GroupNorm(2, 8), c=conv(8, 5)
    )
    model = randomise(model).eval()
    net = trace(model, torch.randn(2, 2, 4, 4))
    (axis,) = net.prunable
    assert sorted(axis.counts(3).tolist()) == [1, 3]
    exact(model, net)


def test_a_mask_that_breaks_a_block_is_refused_in_words():
    model = Shuffled(10, 1).eval()
    net = trace(model, torch.zeros(1, 3, 4, 4))
    (axis,) = coupled(net)
    keep = net.everything.clone()
    keep[axis.parts[0][0]] = False
    with pytest.raises(UsageError, match=r"do not fit together: .* of part .* should") as error:
        shrink(model, net, keep)
    assert "axis.counts" in error.value.hint
    keep[axis.cells] = False
    with pytest.raises(UsageError, match="nothing would stay"):
        shrink(model, net, keep)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_coupled_axes_are_allocated_like_others(allocation):
    torch.manual_seed(0)
    model = randomise(Shuffled(32, 3)).eval()
    x = torch.randn(2, 3, 4, 4)
    pruned = prune(model, x, "params=0.4", allocation=allocation, check=True)
    assert 0.2 < pruned.after.params / pruned.before.params <= 0.4
    assert pruned.error <= 1e-10
    assert pruned.model(x).shape == model(x).shape


def test_widths_of_coupled_axes_are_multiples_too():
    model = Shuffled(64, 3).eval()
    net = trace(model, torch.zeros(1, 3, 4, 4))
    keep = select(
        net, torch.rand(net.count, generator=torch.Generator().manual_seed(0)), "keep=0.5", "uniform"
    )
    small = shrink(model, net, keep).model
    assert {m.out_channels % 8 for m in small.units.modules() if isinstance(m, nn.Conv2d)} == {0}


class Rotary(nn.Module):
    """Attention whose queries and keys are turned by a table of one head's width, or normalised over it."""

    def __init__(self, turn: str, heads: int = 4, width: int = 6) -> None:
        super().__init__()
        self.heads, self.turn = heads, turn
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 3 * heads * width)
        self.out = nn.Linear(heads * width, 16)
        self.last = nn.Linear(16, 3)
        if turn == "buffer":
            self.register_buffer("table", torch.randn(5, width))
        elif turn == "norm":
            self.q_norm, self.k_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def rotate(self, x):
        if self.turn == "buffer":
            table = self.table
        else:
            place = torch.arange(x.shape[-2], dtype=x.dtype, device=x.device)
            table = place[:, None] * torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
        first, second = x.chunk(2, -1)
        return x * table.cos() + torch.cat([-second, first], -1) * table.sin()

    def forward(self, x):
        y = self.norm(x)
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (self.q_norm(q), self.k_norm(k)) if self.turn == "norm" else (self.rotate(q), self.rotate(k))
        return self.last(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("turn", ["buffer", "computed", "norm"])
def test_heads_with_a_table_of_their_width_go_whole(turn):
    model = randomise(Rotary(turn)).eval()
    net = trace(model, torch.randn(2, 5, 16))
    heads = next(axis for axis in net.prunable if axis.name == "qkv")
    assert tuple(heads.cells.shape) == (1, 4)
    for seed in range(3):
        exact(model, net, seed)


def test_a_table_over_groups_that_are_no_heads_is_shared():
    """Without a product of attention, position r of all groups is one unit, as ever."""

    def forward(m, x):
        rows = m.a(x).unflatten(-1, (3, 4)) * m.s
        return m.b(rows.flatten(-2))

    model = randomise(Net(forward, a=nn.Linear(6, 12), b=nn.Linear(12, 5), s=torch.randn(4))).eval()
    net = trace(model, torch.randn(2, 6))
    assert {axis.name: tuple(axis.cells.shape) for axis in net.prunable} == {"a": (1, 4)}
    exact(model, net)
