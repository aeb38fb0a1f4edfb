"""Few-shot search with gradient matching: distances, cuts, trees of supernets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.supernets.cells import small_cells, tiny
from torch import nn

from netwright.errors import UsageError
from netwright.models.zoo.cell_net import cell_op
from netwright.papers.few_shot_nas_gm_full import cells, mobile, ofa_supernet
from netwright.papers.supernet_cells import OUTSIDE
from netwright.supernets import OneOf, Split, elastic, few_shot, gradient_distances, max_cut
from netwright.supernets.samplers import Uniform
from netwright.supernets.stores.belonging import Belongings
from netwright.supernets.stores.matching import partitions, restricted, shared_names
from netwright.supernets.stores.tree import Node
from netwright.supernets.training import dividing
from netwright.supernets.training.paths import train
from netwright.train import Recipe

RECIPE = Recipe(epochs=4, batch_size=8, lr=0.05, precision="fp32", augment=False)


@pytest.fixture(scope="module")
def sup():
    return small_cells()


class Kernels(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.mid = nn.Conv2d(4, 4, 5, padding=2)
        self.post = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.post(torch.relu(self.mid(torch.relu(self.stem(x))))).mean((2, 3)))


def test_distances_are_symmetric_with_a_zero_diagonal_and_at_most_2(sup):
    found = gradient_distances(sup, tiny().train, "op:0-2", repeats=3, batch_size=8, exclude=OUTSIDE)
    assert found.shape == (4, 4)
    assert torch.equal(found, found.T) and float(found.diagonal().abs().max()) <= 1e-6
    assert float(found.min()) >= 0 and float(found.max()) <= 2
    off = found[~torch.eye(4, dtype=torch.bool)]
    assert float(off.min()) > 1e-3  # different operations do give different gradients
    again = gradient_distances(sup, tiny().train, "op:0-2", repeats=3, batch_size=8, exclude=OUTSIDE)
    assert torch.equal(found, again)
    other = gradient_distances(sup, tiny().train, "op:0-2", repeats=3, batch_size=8, exclude=OUTSIDE, seed=1)
    assert not torch.equal(found, other)  # batches and paths are drawn


def test_equal_operations_are_at_distance_0(sup):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, padding=1)
            op = cell_op("conv3x3", 4)
            twin = cell_op("conv3x3", 4)
            twin.load_state_dict(op.state_dict())
            self.edge = OneOf({"a": op, "b": twin, "c": cell_op("conv1x1", 4)}, name="e")
            self.more = nn.Conv2d(4, 4, 3, padding=1)
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.more(self.edge(self.stem(x))).mean((2, 3)))

    made = elastic(Net(), torch.zeros(2, 1, 6, 6))
    found = gradient_distances(made, tiny().train, "op:e", repeats=2, batch_size=8)
    assert float(found[0, 1]) <= 1e-6 < float(found[0, 2])


def test_gradients_of_the_dim_itself_are_left_out(sup):
    for dim in ("op:0-1", "op:0-2", "op:1-2"):
        own = Belongings(sup).parameters[dim]
        shared = shared_names(sup, dim, OUTSIDE)
        assert own and not own & shared
        others = frozenset().union(*(Belongings(sup).parameters[d.name] for d in sup.space.free)) - own
        assert others == shared  # all other edges, without stem and classifier


def test_without_patterns_the_first_and_the_last_module_are_left_out(sup):
    names = {name for name, _ in sup.network.named_parameters()}
    left = names - Belongings(sup).parameters["op:0-1"] - shared_names(sup, "op:0-1")
    assert left == {"stem.0.weight", "fc.weight", "fc.bias"}


def test_kernels_are_compared_on_the_middle_that_they_share():
    torch.manual_seed(0)
    net = Kernels()
    made = elastic(net, torch.zeros(2, 1, 6, 6), kernel={"mid": [1, 3, 5]})
    assert "mid.weight" in shared_names(made, "kernel:mid")
    found = gradient_distances(made, tiny().train, "kernel:mid", repeats=2, batch_size=8)
    assert float(found[~torch.eye(3, dtype=torch.bool)].min()) > 1e-6
    with torch.no_grad():  # without a ring the kernels of 3 and 5 are the same
        ring = torch.ones(5, 5)
        ring[1:4, 1:4] = 0
        made.network.mid.weight *= 1 - ring
    found = gradient_distances(made, tiny().train, "kernel:mid", repeats=2, batch_size=8)
    assert float(found[1, 2]) <= 1e-6 < float(found[0, 2])


def _reference_cut(d):
    """The pair of five values that leaves the least inside it and inside the rest."""
    upper = np.triu(d, 1)
    costs = {}
    for pair in itertools.combinations(range(len(d)), 2):
        rest = [i for i in range(len(d)) if i not in pair]
        inside = upper[pair] + sum(upper[i, j] for i, j in itertools.combinations(rest, 2))
        costs[pair] = inside
    best = min(costs, key=costs.get)
    return {best, tuple(i for i in range(len(d)) if i not in best)}, upper.sum() - costs[best]


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_is_the_reference_routines(seed):
    d = np.random.default_rng(seed).random((5, 5))
    d = d + d.T
    groups, score = max_cut(torch.from_numpy(d))
    wanted, cut = _reference_cut(d)
    assert set(groups) == wanted and score == pytest.approx(cut)
    # Of four values, every partition into two.
    groups, score = max_cut(torch.from_numpy(d[:4, :4]), balanced=False)
    best = max(
        sum(d[i, j] for i in range(4) for j in range(4) if i in part and j not in part)
        for size in (1, 2)
        for part in itertools.combinations(range(4), size)
    )
    assert score == pytest.approx(best)
    assert sorted(i for g in groups for i in g) == [0, 1, 2, 3]


def test_there_are_as_many_partitions_as_stirling_says():
    assert [len(list(partitions(n, k))) for n, k in ((4, 2), (5, 2), (5, 3), (6, 3))] == [7, 15, 25, 90]


def test_children_equal_their_parent_on_all_that_they_hold(sup):
    data = tiny()
    parent = train(sup, data, RECIPE, stop=4, sampler=Uniform(0)).model
    node = Node({}, parent)
    rules = dividing._Rules(
        "gradient-match", 2, [d.name for d in sup.space.free], 2, True, 8, OUTSIDE, "cosine", 0
    )
    children, passes = dividing._divide(dividing._Grown(node, None, 0), data, rules, 0)
    assert len(children) == 2 and passes == 3 * 4 * 2 and node.sup is None
    x = torch.randn(3, 1, 6, 6)
    for choice in sup.space.enumerate():
        (child,) = [c.node for c in children if c.node.holds(choice)]
        assert torch.equal(child.sup.set(choice)(x), parent.set(choice)(x))


_STEPS = [("gradient-match", 4, 6 + 12 + 32), ("random", 4, 50), ("exhaustive", 4, 10 + 40)]


@pytest.mark.parametrize("by, leaves, steps", _STEPS)
def test_leaves_part_the_space_and_steps_add_up(sup, by, leaves, steps):
    at = (0.5,) if by == "exhaustive" else (0.3, 0.6)
    made = few_shot(sup, tiny(), RECIPE, split_by=by, at=at, repeats=1, batch_size=8, exclude=OUTSIDE)
    assert len(made.store) == leaves and made.steps == steps
    space = made.store.space
    parts = [set(leaf.space(space).enumerate()) for leaf in made.store.leaves]
    assert sum(map(len, parts)) == space.size() == len(set().union(*parts))
    assert sum(leaf.space(space).size() for leaf in made.store.leaves) == space.size()
    for number, part in enumerate(parts):
        assert all(made.store.number(choice) == number for choice in part)
    assert (made.scoring > 0) == (by == "gradient-match")
    mean = np.mean([sup.macs(c) for c in space.enumerate()])
    assert 0.5 * mean < made.macs / (8 * steps) < 1.5 * mean


def test_leaves_choose_their_own_dims_and_differ(sup):
    made = few_shot(sup, tiny(), RECIPE, split_by="random", splits=2, repeats=1)
    root = made.store.tree
    assert root.dim is not None and all(child.dim not in (None, root.dim) for child in root.children)
    x = torch.randn(2, 1, 6, 6)
    choice = sup.space.at(17)
    wanted = made.store.of(choice)(x)
    assert torch.equal(made.store.set(choice).eval()(x), wanted)
    assert torch.allclose(made.store.extract(choice).eval()(x), wanted, atol=1e-6)
    others = [s for s in made.store.supernets if s is not made.store.of(choice)]
    assert all(not torch.equal(s.set(choice)(x), wanted) for s in others)
    assert made.store.cost(choice) == sup.cost(choice)


def test_a_leaf_trains_only_what_it_holds(sup):
    made = few_shot(sup, tiny(), RECIPE, split_by="exhaustive", dims=["op:0-1"])
    regions = [leaf.region["op:0-1"] for leaf in made.store.leaves]
    assert regions == [("skip",), ("conv1x1",), ("conv3x3",), ("avgpool",)]
    skip, conv = (made.store.leaves[k].sup.network.state_dict() for k in (0, 1))
    name = "cells.0.edges.0.candidates.conv1x1.1.weight"
    third = made.store.leaves[2].sup.network.state_dict()
    assert torch.equal(skip[name], third[name]) and not torch.equal(conv[name], skip[name])


def test_a_restart_begins_with_the_first_weights(sup):
    few = Recipe(epochs=2, batch_size=8, lr=0.05, precision="fp32", augment=False)
    made = few_shot(sup, tiny(), few, split_by="random", splits=1, restart=True)
    assert made.steps == 5 + 2 * 10  # the leaves are trained from the beginning
    for number, leaf in enumerate(made.store.leaves):
        alone = train(sup, tiny(), few, sampler=Uniform(number), space=leaf.space(sup.space)).model
        for name, tensor in leaf.sup.network.state_dict().items():
            assert torch.equal(tensor, alone.network.state_dict()[name])


def test_elastic_dims_can_be_divided_too():
    made = elastic(Kernels(), torch.zeros(2, 1, 6, 6), width={"mid": [1, 2, 4]}, kernel={"mid": [1, 3, 5]})
    found = few_shot(made, tiny(), RECIPE, repeats=1, batch_size=8)
    sizes = [leaf.space(made.space).size() for leaf in found.store.leaves]
    assert sum(sizes) == made.space.size() == 9 and sorted(sizes) == [1, 2, 2, 4]


def test_requests_that_cannot_be_met_are_refused(sup):
    with pytest.raises(UsageError, match="split_by"):
        few_shot(sup, tiny(), RECIPE, split_by="best")
    with pytest.raises(UsageError, match="rising shares"):
        few_shot(sup, tiny(), RECIPE, split_by="random", at=(0.6, 0.3))
    with pytest.raises(UsageError, match="no dim left"):
        few_shot(sup, tiny(), RECIPE, split_by="random", splits=2, dims=["op:0-1"])
    with pytest.raises(UsageError, match="no dim 'op:9'"):
        few_shot(sup, tiny(), RECIPE, dims=["op:9"])
    with pytest.raises(UsageError, match="metric"):
        gradient_distances(sup, tiny().train, "op:0-1", metric="l1")
    with pytest.raises(UsageError, match="cannot be parted"):
        max_cut(torch.zeros(3, 3), 4)
    with pytest.raises(UsageError, match="not values"):
        restricted(sup.space, {"op:0-1": ("skip", "conv9x9")})
    with pytest.raises(UsageError, match="no supernet"):
        Split(Node({}, None))


def test_places_of_one_name_are_one_choice():
    class Net(nn.Module):
        def __init__(self, more):
            super().__init__()
            self.a = OneOf({"x": nn.Conv2d(1, 2, 1), "y": nn.Conv2d(1, 2, 3, padding=1)}, name="n")
            self.b = OneOf({"x": nn.Conv2d(2, 2, 1), more: nn.Conv2d(2, 2, 3, padding=1)}, name="n")

        def forward(self, x):
            return self.b(self.a(x)).mean((2, 3))

    made = elastic(Net("y"), torch.zeros(2, 1, 4, 4))
    assert [d.name for d in made.space.free] == ["op:n"] and made.space.size() == 2
    x = torch.randn(2, 1, 4, 4)
    for value in ("x", "y"):
        wanted = made.network.b.candidates[value](made.network.a.candidates[value](x)).mean((2, 3))
        assert torch.equal(made.set({"op:n": value})(x), wanted)
        assert torch.equal(made.extract({"op:n": value})(x), wanted)
    with pytest.raises(UsageError, match="different candidates"):
        elastic(Net("z"), torch.zeros(2, 1, 4, 4))


def test_the_published_space_of_mobile_networks_has_its_published_size():
    # Once-for-All: 3 kernels times 3 expansions a block, 2 to 4 blocks in each of 5 stages: "over 10^19".
    sup = ofa_supernet(0, side=32)
    assert sup.space.size() == (9**2 + 9**3 + 9**4) ** 5
    always = [d.name for d in sup.space.free if d.condition is None]
    assert sum(name.startswith("kernel:") for name in always) == 5  # a block of each stage is never skipped
    for block, side in ((1, 16 * 6), (17, 112 * 6)):
        expansions = {
            sup.extract(c).blocks[block].expand[0].out_channels for c in (sup.space.min(), sup.space.max())
        }
        assert expansions == {side // 2, side}


@pytest.mark.recipe
@pytest.mark.parametrize("divided", [cells, mobile])
def test_the_papers_own_spaces_can_be_divided(divided):
    made, size = divided(0)
    parts = [leaf.space(made.store.space).size() for leaf in made.store.leaves]
    assert len(parts) == 2 and sum(parts) == size and made.scoring > 0
