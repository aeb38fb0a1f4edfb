"""Index maps: reordered, repeated and removed members, against hand-made networks and against each other."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.structure.nets import Net
from tests.structure.networks import SMALL
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from netwright.errors import StructureError, UsageError
from netwright.structure import (
    IndexMap,
    Structure,
    interchangeable,
    permute,
    remap,
    repeatable,
    shrink,
    sort_by,
    trace,
    widen,
    wider,
)
from netwright.structure.maps import Layout, draw_permutation
from netwright.structure.sizes import index_maps
from netwright.testing.surgery import draw_keep, randomise

D = torch.float64
EXACT = 1e-12


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if x.is_floating_point():
                noise = torch.randn(x.shape, generator=generator)
                x.copy_(noise.abs() + 0.3 if "var" in name else 0.5 * noise)
    return model.to(D).eval()


def attend(m: Net, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = m.qkv(x).reshape(b, n, 3, m.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=0.6).transpose(1, 2).flatten(2)
    return m.head((x + m.out(mixed)).mean(1))


def gated(m: Net, x: Tensor) -> Tensor:
    a, b = m.both(x).chunk(2, -1)
    return m.head(F.silu(a) * b)


def joined(m: Net, x: Tensor) -> Tensor:
    return m.head(torch.cat([m.a(x), m.c(x).tanh()], 1).flatten(1))


def split(m: Net, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.head(torch.cat([x[:, :4].relu(), x[:, 4:].tanh()], 1))


MADE: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "grouped": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)
        ),
        torch.randn(2, 3, 5, 5),
    ),
    "flattened": lambda: (
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(45, 4)),
        torch.randn(2, 3, 5, 5),
    ),
    "depthwise": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1)),
        torch.randn(2, 3, 5, 5),
    ),
    "fused heads": lambda: (
        Net(attend, qkv=nn.Linear(10, 36), out=nn.Linear(12, 10), head=nn.Linear(10, 3), heads=3),
        torch.randn(2, 4, 10),
    ),
    "gated": lambda: (Net(gated, both=nn.Linear(5, 14), head=nn.Linear(7, 3)), torch.randn(4, 5)),
    "joined": lambda: (
        Net(joined, a=nn.Conv2d(3, 4, 1), c=nn.Conv2d(3, 3, 1), head=nn.Linear(28, 2)),
        torch.randn(2, 3, 2, 2),
    ),
    "shuffled out": lambda: (
        nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(3, 2, 1)),
        torch.randn(2, 3, 3, 3),
    ),
    "recurrent": lambda: (
        Net(lambda m, x: m.head(m.r(x)[0][:, -1]), r=nn.GRU(3, 5, batch_first=True), head=nn.Linear(5, 2)),
        torch.randn(2, 4, 3),
    ),
}  # fmt: skip


@lru_cache
def made(name: str) -> tuple[nn.Module, Any, Structure]:
    model, example = MADE[name]()
    fill(model)
    example = example.to(D)
    return model, example, trace(model, example)


def same(a: nn.Module, b: nn.Module) -> None:
    """All parameters equal bit by bit."""
    left, right = a.state_dict(), b.state_dict()
    assert list(left) == list(right)
    for name, x in left.items():
        assert x.shape == right[name].shape, name
        assert torch.equal(x, right[name]), name


# --- tables ---


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(MADE)), st.integers(0, 10**6))
def test_a_mask_is_a_map_and_comes_back(name: str, seed: int) -> None:
    model, _, net = made(name)
    keep = draw_keep(net, seed)
    change = IndexMap.of_keep(net, keep)
    assert torch.equal(change.keep(net), keep)
    again = IndexMap.from_json(json.loads(json.dumps(change.to_json())))
    assert {k: v.tolist() for k, v in again.tables.items()} == change.to_json()
    layout, kept = Layout(net, change), index_maps(net.layers, keep)
    for parameter, dims in net.layers.items():
        for dim, layer in dims.items():
            found = layout.parameter(layer, dim)
            want = kept.get(parameter, {}).get(dim)
            assert (found is None) == (want is None)
            assert found is None or torch.equal(found[0], want)
    same(remap(model, net, change).model, shrink(model, net, keep).model)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(MADE)), st.integers(0, 10**6), st.integers(0, 10**6))
def test_permutations_compose_and_are_undone(name: str, first: int, second: int) -> None:
    model, example, net = made(name)
    p, q = draw_permutation(net, first), draw_permutation(net, second)
    once = permute(model, net, p)
    assert once.error <= EXACT
    net2 = trace(once.model, example)
    same(permute(once.model, net2, q).model, permute(model, net, q.after(p)).model)
    same(permute(once.model, net2, p.inverse).model, model)
    assert not Layout(net, p.inverse.after(p)).source.size


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(MADE)), st.integers(0, 10**6), st.integers(0, 10**6))
def test_keep_after_permute_is_one_map(name: str, first: int, second: int) -> None:
    model, example, net = made(name)
    p = draw_permutation(net, first)
    once = permute(model, net, p).model
    net2 = trace(once, example)
    keep = IndexMap.of_keep(net2, draw_keep(net2, second))
    both = remap(model, net, keep.after(p))
    assert both.error <= EXACT
    same(remap(once, net2, keep).model, both.model)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(MADE)), st.integers(0, 10**6), st.integers(1, 3), st.booleans())
def test_repeat_after_keep_or_permute_is_one_map(name: str, seed: int, times: int, keeps: bool) -> None:
    model, example, net = made(name)
    first = IndexMap.of_keep(net, draw_keep(net, seed)) if keeps else draw_permutation(net, seed)
    once = remap(model, net, first).model
    net2 = trace(once, example)
    assume([a.name for a in net2.prunable] == [a.name for a in net.prunable])  # a last member joins others
    twice = wider(net2, {a.name: a.size * times + times // 2 for a in net2.prunable})
    both = remap(model, net, twice.after(first))
    assert both.error <= EXACT
    after = remap(once, net2, twice)
    assert after.error <= EXACT
    same(after.model, both.model)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(MADE)), st.data())
def test_any_table_is_exact(name: str, data: st.DataObject) -> None:
    """Members in any order and number at once."""
    model, _, net = made(name)
    tables = {}
    for axis in net.prunable:
        size = data.draw(st.integers(1, axis.size + 3))
        entries = st.lists(st.integers(0, axis.size - 1), min_size=size, max_size=size)
        tables[axis.name] = torch.tensor([data.draw(entries) for _ in axis.cells])
    change = IndexMap(tables)
    found = remap(model, net, change)
    assert found.error <= EXACT
    shapes = {k: v.shape for k, v in found.model.state_dict().items()}
    for parameter, dims in found.kept.items():
        for dim, index in dims.items():
            assert shapes[parameter][dim] == index.shape[-1]


def test_a_composition_that_does_not_fit_is_refused() -> None:
    a, b = IndexMap({"x": torch.tensor([[0, 1]])}), IndexMap({"x": torch.tensor([[2]])})
    with pytest.raises(UsageError, match="do not follow each other"):
        b.after(a)
    with pytest.raises(UsageError, match="is no permutation"):
        _ = b.inverse
    for bad in (torch.tensor([0]), torch.tensor([[0.0]]), torch.zeros(1, 0, dtype=torch.int64)):
        with pytest.raises(UsageError):
            IndexMap({"x": bad})


def test_maps_that_the_network_cannot_take_are_refused() -> None:
    model, _, net = made("grouped")
    frozen = next(a for a in net.axes if not a.prunable and a.size > 1)
    for tables, words in [
        ({"nothing": torch.tensor([[0]])}, "no axis"),
        ({"0": torch.tensor([[0, 1]])}, "2 cells of 3"),
        ({"0": torch.tensor([[0, 1], [0, 3]])}, "positions 0 to 3"),
        ({frozen.name: torch.arange(frozen.size).flip(0)[None]}, "is frozen"),
    ]:
        with pytest.raises(UsageError, match=words):
            remap(model, net, IndexMap(tables))
    with pytest.raises(UsageError, match="no permutation"):
        permute(model, net, IndexMap({"0": torch.tensor([[0, 1, 1], [0, 1, 2]])}))
    with pytest.raises(UsageError, match="would be fewer"):
        wider(net, {"0": 2})
    with pytest.raises(UsageError, match="loses members"):
        widen(model, net, IndexMap({"0": torch.tensor([[0, 1, 1, 1], [0, 1, 2, 2]])}))
    with pytest.raises(UsageError, match="needs a generator"):
        widen(model, net, 2, noise=0.1)


# --- by hand ---


def test_a_permutation_by_hand() -> None:
    """A grouped convolution: each group has its own order."""
    model, x, net = made("grouped")
    table = torch.tensor([[2, 0, 1], [1, 2, 0]])
    found = permute(model, net, IndexMap({"0": table}))
    hand = copy.deepcopy(model)
    rows = torch.cat([table[0], 3 + table[1]])
    with torch.no_grad():
        hand[0].weight.copy_(model[0].weight[rows])
        hand[0].bias.copy_(model[0].bias[rows])
        for group in range(2):
            mine = slice(4 * group, 4 * group + 4)
            hand[2].weight[mine] = model[2].weight[mine][:, table[group]]
    same(found.model, hand)
    torch.testing.assert_close(found.model(x), model(x), rtol=1e-12, atol=1e-12)


def test_a_widened_network_by_hand() -> None:
    """Net2WiderNet: replicated rows, and columns divided by how often each is there."""
    model, x, net = made("flattened")
    found = widen(model, net, IndexMap({"0": torch.tensor([[0, 1, 2, 3, 4, 1, 1, 4]])}))
    source, times = [0, 1, 2, 3, 4, 1, 1, 4], torch.tensor([1.0, 3, 1, 1, 2], dtype=D)
    assert torch.equal(found.model[0].weight, model[0].weight[source])
    assert torch.equal(found.model[1].running_var, model[1].running_var[source])
    columns = model[4].weight.reshape(4, 5, 9) / times[:, None]
    torch.testing.assert_close(found.model[4].weight, columns[:, source].reshape(4, 72), rtol=1e-15, atol=0)
    assert (
        found.model[0].out_channels == found.model[1].num_features == 8 and found.model[4].in_features == 72
    )
    torch.testing.assert_close(found.model(x), model(x), rtol=1e-12, atol=1e-12)


def test_heads_by_hand() -> None:
    """Whole heads change places and repeat: all of their queries, keys and values."""
    model, x, net = made("fused heads")
    name = next(a.name for a in net.prunable if a.size == 3)
    found = remap(model, net, IndexMap({name: torch.tensor([[2, 0, 1, 2]])}))
    rows = torch.tensor(
        [[12 * part + 4 * h + d for h in (2, 0, 1, 2) for d in range(4)] for part in range(3)]
    )
    assert torch.equal(found.model.qkv.weight, model.qkv.weight[rows.reshape(-1)])
    columns = model.out.weight[:, rows[0]] * torch.tensor([0.5, 1, 1, 0.5], dtype=D).repeat_interleave(4)
    assert torch.equal(found.model.out.weight, columns)
    assert found.model.heads == 4
    torch.testing.assert_close(found.model(x), model(x), rtol=1e-12, atol=1e-12)


# --- order ---


@pytest.mark.parametrize("name", sorted(MADE))
def test_after_sorting_a_prefix_is_the_best(name: str) -> None:
    model, example, net = made(name)
    scores = torch.rand(net.count, generator=torch.Generator().manual_seed(3))
    order = sort_by(net, scores)
    ordered = permute(model, net, order).model
    net2 = trace(ordered, example)
    keep, prefix = net.everything.clone(), net2.everything.clone()
    for a, b in zip(net.prunable, net2.prunable, strict=True):
        count = (a.size + 1) // 2
        for cell in a.cells:
            keep[cell[torch.argsort(scores[cell], descending=True)[count:]]] = False
        prefix[b.cells[:, count:].reshape(-1)] = False
    best = shrink(model, net, keep).model
    first = shrink(ordered, net2, prefix).model
    torch.testing.assert_close(first(example), best(example), rtol=1e-12, atol=1e-12)
    one = [net.prunable[0].name]
    assert set(sort_by(net, scores, one).tables) <= set(one)
    with pytest.raises(UsageError, match="no axis"):
        sort_by(net, scores, ["nothing"])


def test_members_that_a_slice_parts_stay_on_their_sides() -> None:
    model = fill(Net(split, a=nn.Conv2d(3, 9, 1), head=nn.Conv2d(9, 2, 1)))
    net = trace(model, torch.randn(1, 3, 4, 4, dtype=D))
    axes = net.prunable
    kinds = torch.cat([interchangeable(net)[a.cells.reshape(-1)] for a in axes])
    assert len(kinds.unique()) == 2
    found = permute(model, net, draw_permutation(net, 1))
    assert found.error <= EXACT
    rows = found.kept["a.weight"][0]
    assert sorted(rows[:4].tolist()) == [0, 1, 2, 3] and rows.tolist() != list(range(9))
    whole = next((a for a in axes if a.size == 9), None)
    if whole is not None:
        with pytest.raises(UsageError, match="lie in different tensors"):
            permute(model, net, IndexMap({whole.name: torch.arange(9).flip(0)[None]}))


# --- heads among tokens that stay ---


def queries(m: Net, x: Tensor) -> Tensor:
    parts = [layer(m.table).reshape(1, 5, 3, 4).transpose(1, 2) for layer in (m.q, m.k, m.v)]
    mixed = F.scaled_dot_product_attention(*parts, scale=0.6).transpose(1, 2).flatten(2)
    return m.head(x + m.out(mixed))


def test_values_are_not_shared_over_the_tokens_that_they_are_mixed_over() -> None:
    """The queries of a detector are learned: they have units, which stay, and their values are mixed."""
    parts = {name: nn.Linear(6, 12) for name in "qkv"}
    model = fill(Net(queries, table=torch.randn(5, 6), out=nn.Linear(12, 6), head=nn.Linear(6, 2), **parts))
    net = trace(model, torch.randn(2, 5, 6, dtype=D))
    (heads,) = [a for a in net.prunable if a.size == 3]
    for size in (4, 6):
        made = widen(model, net, {heads.name: size}, generator=torch.Generator().manual_seed(0))
        assert made.error <= EXACT and set(made.factors) == {"out.weight"}


def test_what_meets_one_tensor_of_zeros_is_widened_together() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        bias = torch.zeros(1, m.a.out_features, dtype=x.dtype)
        return m.c((m.b((m.a(x) + bias).relu()) + bias).tanh())

    model = fill(Net(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 2)))
    net = trace(model, torch.randn(3, 5, dtype=D))
    (axis,) = net.prunable
    assert tuple(axis.cells.shape) == (2, 6)
    assert permute(model, net, draw_permutation(net)).error <= EXACT
    assert widen(model, net, {axis.name: 9}).error <= EXACT


def test_a_cut_of_tokens_in_a_rewritten_graph_leaves_them_where_heads_repeat() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).view(2, 4, 3, 4).transpose(1, 2)[:, :, 1:]  # literal sizes: only a graph can change
        return m.b(x.transpose(1, 2).flatten(2))

    model = fill(Net(forward, a=nn.Linear(5, 12), b=nn.Linear(12, 2)))
    net = trace(model, torch.randn(2, 4, 5, dtype=D), heads="width")
    made = widen(model, net, {a.name: a.size + 2 for a in net.prunable})
    assert made.how == "graph" and made.error <= EXACT and made.kept


def test_parts_of_unlike_sizes_are_repeated_all_alike() -> None:
    """A grouped convolution over a split, and the rest of the split beside it, as in Res2Net."""

    def forward(m: Net, x: Tensor) -> Tensor:
        a, b = m.a(x).split([6, 6], 1)
        return m.c(torch.cat([m.g(a).relu(), b.tanh()], 1))

    model = fill(Net(forward, a=nn.Conv1d(3, 12, 1), g=nn.Conv1d(6, 6, 1, groups=2), c=nn.Conv1d(12, 2, 1)))
    net = trace(model, torch.randn(2, 3, 5, dtype=D))
    axis = next(a for a in net.prunable if a.coupling is not None)
    verdict = next(r for r in repeatable(net) if r.axis == axis.name)
    assert verdict.kind == "alike" and verdict.node is not None
    size = axis.cells.shape[1]
    assert widen(model, net, {axis.name: 2 * size}).error <= EXACT
    with pytest.raises(StructureError, match="sizes that fit"):
        widen(model, net, {axis.name: size + 1})


class Widening(nn.Module):
    """A block that projects its input where the width changes, as those of Hiera do."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.dim, self.dim_out = dim, dim_out
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim_out) if dim != dim_out else nn.Identity()
        self.mix = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        shortcut, x = x, self.norm(x)
        if self.dim != self.dim_out:
            shortcut = self.proj(x)
        return shortcut + self.mix(x) + torch.ones(self.dim_out, dtype=x.dtype)


def test_a_branch_that_an_attribute_chooses_reads_the_same_tensor_as_before() -> None:
    model = fill(nn.Sequential(nn.Linear(3, 4), Widening(4, 6), Widening(6, 6), nn.Linear(6, 2)))
    net = trace(model, torch.randn(3, 6, 3, dtype=D))  # six tokens, so that six is two sizes
    for axis in net.prunable:
        made = widen(model, net, {axis.name: 2 * axis.size})
        assert made.error <= EXACT and made.how == "in place"
        assert made.model[2].dim == made.model[2].dim_out


# --- what repeating would break ---


def norm(m: Net, x: Tensor) -> Tensor:
    return m.b(m.n(m.a(x)))


def tied(m: Net, x: Tensor) -> Tensor:
    return F.linear(m.mix(m.table(x)).tanh(), m.table.weight)


def tied_after_norm(m: Net, x: Tensor) -> Tensor:
    return F.linear(m.n(m.mix(m.table(x))), m.table.weight)


def scores(m: Net, x: Tensor) -> Tensor:
    q, k = m.q(x).sigmoid(), m.k(x).tanh()
    return m.v((q @ k.transpose(1, 2)) @ x)


def packed_scores(m: Net, x: Tensor) -> Tensor:
    q, k = m.n(m.qk(x.transpose(1, 2))).split([6, 6], 1)
    return m.v((q.relu().transpose(1, 2) @ k.tanh()) @ x)


def packed_and_seen(m: Net, x: Tensor) -> Tensor:
    qk = m.qk(x)
    q, k = qk.chunk(2, -1)
    return m.v((q @ k.tanh().transpose(1, 2)) @ x) + m.w(qk.tanh())


def plain_scores(m: Net, x: Tensor) -> Tensor:
    q, k = m.q(x), m.k(x).tanh()
    return m.v((0.3 * q @ k.transpose(1, 2)) @ x)


COUNTED: dict[str, tuple[Callable[[], nn.Module], Tensor, str, str]] = {
    # name: network, example, kind, words of the reason
    "layer norm": (
        lambda: Net(norm, a=nn.Linear(5, 6), n=nn.LayerNorm(6), b=nn.Linear(6, 3)), torch.randn(4, 5),
        "alike", "native_layer_norm averages",
    ),
    "group norm": (
        lambda: Net(norm, a=nn.Conv1d(3, 6, 1), n=nn.GroupNorm(2, 6), b=nn.Conv1d(6, 2, 1)),
        torch.randn(2, 3, 4), "alike", "native_group_norm averages",
    ),
    "mean": (
        lambda: Net(lambda m, x: m.b(m.a(x)) * m.a(x).mean(1, keepdim=True), a=nn.Linear(5, 6),
                    b=nn.Linear(6, 3)), torch.randn(4, 5), "alike", "mean averages",
    ),
    "biased variance": (
        lambda: Net(lambda m, x: m.b(m.a(x)) * m.a(x).var(1, unbiased=False, keepdim=True), a=nn.Linear(5, 6),
                    b=nn.Linear(6, 3)), torch.randn(4, 5), "alike", "var averages",
    ),
    "variance": (
        lambda: Net(lambda m, x: m.b(m.a(x)) * m.a(x).var(1, keepdim=True), a=nn.Linear(5, 6),
                    b=nn.Linear(6, 3)), torch.randn(4, 5), "once", "var counts every copy",
    ),
    "sum": (
        lambda: Net(lambda m, x: m.b(m.a(x)) + m.a(x).sum(1, keepdim=True), a=nn.Linear(5, 6),
                    b=nn.Linear(6, 3)), torch.randn(4, 5), "once", "sum counts every copy",
    ),
    "vector norm": (
        lambda: Net(lambda m, x: m.b(F.normalize(m.a(x), dim=1)), a=nn.Linear(5, 6), b=nn.Linear(6, 3)),
        torch.randn(4, 5), "once", "linalg_vector_norm counts every copy",
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), weight_norm(nn.Linear(6, 3))),
        torch.randn(4, 5), "once", "",
    ),
    "two activations": (
        lambda: Net(scores, q=nn.Linear(5, 6), k=nn.Linear(5, 6), v=nn.Linear(5, 3)), torch.randn(2, 4, 5),
        "once", "two computed tensors are contracted",
    ),
    "two activations of which another reader sees the parts": (
        lambda: Net(packed_and_seen, qk=nn.Linear(5, 12), v=nn.Linear(5, 3), w=nn.Linear(12, 3)),
        torch.randn(2, 4, 5), "once", "two computed tensors are contracted",
    ),
    "tied table": (
        lambda: Net(tied, table=nn.Embedding(7, 6), mix=nn.Linear(6, 6)), torch.randint(0, 7, (2, 4)),
        "once", "table.weight is contracted over it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(COUNTED))
def test_where_copies_are_counted_they_are_refused_or_repeated_alike(name: str) -> None:
    build, example, kind, words = COUNTED[name]
    model = fill(build())
    example = example.to(D) if example.is_floating_point() else example
    net = trace(model, example, heads="width")
    found = {r.axis: r for r in repeatable(net)}
    assert found, [a.reason for a in net.axes]
    verdict = next(r for r in found.values() if r.kind == kind)
    assert words in verdict.reason, verdict
    size = next(a.size for a in net.axes if a.name == verdict.axis)
    with pytest.raises(StructureError, match="would change the function"):
        widen(model, net, {verdict.axis: size + 1})
    if kind == "alike":
        alike = {
            n: 3 * next(a.size for a in net.axes if a.name == n) for n in (verdict.axis, *verdict.together)
        }
        assert widen(model, net, alike).error <= EXACT
    else:
        with pytest.raises(StructureError, match=f"repeating {verdict.axis}"):
            widen(model, net, {verdict.axis: 2 * size})
    assert permute(model, net, draw_permutation(net)).error <= EXACT


MADE_GOOD: dict[str, tuple[Callable[[], nn.Module], Tensor, str, set[str]]] = {
    # name: network, example, axis, parameters of which copies carry shares
    "a norm before a tied table": (
        lambda: Net(tied_after_norm, table=nn.Embedding(7, 6), mix=nn.Linear(6, 6), n=nn.LayerNorm(6)),
        torch.randint(0, 7, (2, 4)), "mix", {"n.weight", "n.bias", "mix.weight"},
    ),
    "the query's own rows": (
        lambda: Net(plain_scores, q=nn.Linear(5, 6), k=nn.Linear(5, 6), v=nn.Linear(5, 3)),
        torch.randn(2, 4, 5), "q", {"q.weight", "q.bias"},
    ),
    "the query's part of a packed batch norm": (
        lambda: Net(packed_scores, qk=nn.Conv1d(5, 12, 1), n=nn.BatchNorm1d(12), v=nn.Linear(5, 3)),
        torch.randn(2, 4, 5), "qk", {"n.weight", "n.bias"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MADE_GOOD))
def test_what_makes_a_tensor_carries_the_shares_where_its_reader_cannot(name: str) -> None:
    build, example, axis, parameters = MADE_GOOD[name]
    model = fill(build())
    net = trace(model, example.to(D) if example.is_floating_point() else example, heads="width")
    found = {a.name: a.size for a in net.prunable}
    assert set(found) <= {axis, "table"} and 6 in found.values()
    wide = widen(model, net, 3)
    assert wide.error <= EXACT and set(wide.factors) == parameters
    assert set(wide.map.sizes().values()) == {18}


def test_axes_that_are_averaged_together_are_named() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.head(m.n(torch.cat([m.a(x), m.b(x)], 1)))

    model = fill(Net(forward, a=nn.Linear(5, 4), b=nn.Linear(5, 3), n=nn.LayerNorm(7), head=nn.Linear(7, 2)))
    net = trace(model, torch.randn(3, 5, dtype=D))
    together = {r.axis: r.together for r in repeatable(net)}
    assert together == {"a": ("b",), "b": ("a",)}
    with pytest.raises(StructureError, match="averages over it"):
        widen(model, net, {"a": 8})
    assert widen(model, net, {"a": 8, "b": 6}).error <= EXACT
    assert widen(model, net, 2).map.sizes() == {"a": 8, "b": 6}


def test_what_frozen_members_are_averaged_with_stays_single() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.head(m.n(torch.cat([m.a(x), x], 1)))

    model = fill(Net(forward, a=nn.Linear(5, 4), n=nn.LayerNorm(9), head=nn.Linear(9, 2)))
    net = trace(model, torch.randn(3, 5, dtype=D))
    (verdict,) = [r for r in repeatable(net) if r.axis == "a"]
    assert verdict.kind == "once" and "frozen members" in verdict.reason
    with pytest.raises(StructureError):
        widen(model, net, {"a": 8})


# --- widening ---


def test_drawn_shares_are_exact_and_let_copies_train_apart() -> None:
    model, x, net = made("flattened")
    plain = widen(model, net, {"0": 9})
    found = widen(model, net, {"0": 9}, generator=torch.Generator().manual_seed(1))
    again = widen(model, net, {"0": 9}, generator=torch.Generator().manual_seed(1))
    other = widen(model, net, {"0": 9}, generator=torch.Generator().manual_seed(2))
    assert max(plain.error, found.error) <= EXACT
    same(found.model, again.model)
    assert not torch.equal(found.model[4].weight, other.model[4].weight)

    def gap(network: nn.Module, table: Tensor) -> float:
        network = copy.deepcopy(network)
        (network(x) ** 2).sum().backward()
        rows = network[0].weight.grad.flatten(1)
        first, second = next(
            (i, j) for i in range(9) for j in range(i) if table[i] == table[j]
        )  # two copies of one member
        return float((rows[first] - rows[second]).abs().max() / rows.abs().max())

    assert gap(plain.model, plain.map.tables["0"][0]) < 1e-12
    assert gap(found.model, found.map.tables["0"][0]) > 1e-3


def test_noise_touches_copies_only() -> None:
    model, x, net = made("flattened")
    seed = torch.Generator().manual_seed
    still = widen(model, net, {"0": 7}, generator=seed(1))
    noisy = widen(model, net, {"0": 7}, generator=seed(1), noise=0.1)
    a, b = still.model[0].weight, noisy.model[0].weight
    changed = (a != b).flatten(1).any(1)
    table = still.map.tables["0"][0].tolist()
    copies = [table.index(t) != i for i, t in enumerate(table)]
    assert changed.tolist() == copies and sum(copies) == 2
    assert not torch.allclose(noisy.model(x), model(x))


def test_the_given_network_is_left_alone_and_the_wide_one_trains() -> None:
    model, x, net = made("fused heads")
    before = copy.deepcopy(model.state_dict())
    wide = widen(model, net, 2).model
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    optimiser = torch.optim.SGD(wide.parameters(), lr=1e-4)
    loss = (wide.train()(x) ** 2).mean()
    loss.backward()
    optimiser.step()
    assert (wide(x) ** 2).mean() < loss
    again = trace(wide, x)
    sizes = {a.name: a.size for a in net.prunable}
    assert {a.name: a.size for a in again.prunable} == {name: 2 * size for name, size in sizes.items()}


SLOW = {"googlenet", "regnet", "efficientnet b0", "resnet18"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in SMALL])
def test_every_kind_of_network_is_reordered_and_widened(name: str) -> None:
    torch.manual_seed(0)
    model, example = SMALL[name]()
    randomise(model).eval()
    net = trace(model, example)
    mixed = permute(model, net, draw_permutation(net, 1))
    assert mixed.error <= EXACT and mixed.map.tables
    verdicts = repeatable(net)
    assert all(r.reason for r in verdicts if r.kind != "any")
    twice = widen(model, net, 2)
    assert twice.error <= EXACT
    assert len(twice.map.tables) == sum(r.kind != "once" for r in verdicts)
    free = {
        a.name: a.size + (a.size + 1) // 2
        for a, r in zip(net.prunable, verdicts, strict=True)
        if r.kind == "any"
    }
    assert widen(model, net, free, generator=torch.Generator().manual_seed(0)).error <= EXACT
