"""Importances of channels by what they compute, and how members' scores become a channel's."""

import math

import pytest
import torch
from torch import nn

from netwright import pruning, structure
from netwright.errors import UsageError
from netwright.pruning import Examples
from netwright.pruning.importances.members import (
    aggregate,
    members,
    normalised,
    score_channels,
)
from netwright.pruning.importances.responses import ranks
from netwright.pruning.importances.voting import conceded_at
from netwright.pruning.masks.granularity import Channel, find_granularity


class Branches(nn.Module):
    """A stream that two layers write to and a grouped convolution and a flattened classifier read."""

    def __init__(self, groups=2):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.side = nn.Conv2d(4, 4, 1)
        self.side_norm = nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(4, 6, 3, padding=1, groups=groups)
        self.head = nn.Linear(6 * 16, 3)

    def forward(self, x):
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(y + self.side_norm(self.side(y)))
        return self.head(torch.relu(self.wide(y)).flatten(1))


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = Branches().train()
    for norm in (model.norm, model.side_norm):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.5)
    x = torch.randn(16, 2, 4, 4)
    return model, structure.trace(model, x[:2]), Examples([x[:8], x[8:]], x[:2]), x


def seen(model, x):
    """What the three readers see, and the classes' axes by the layer that writes them."""
    found = {}
    handles = [
        getattr(model, n).register_forward_pre_hook(lambda m, a, n=n: found.update({n: a[0].detach()}))
        for n in ("side", "wide", "head")
    ]
    mode = model.training
    with torch.no_grad():
        model.eval()(x)
    model.train(mode)
    for handle in handles:
        handle.remove()
    return found


def rank_of(maps):
    return torch.tensor(
        [[float(torch.linalg.matrix_rank(m)) for m in example] for example in maps]
    )  # (B, C), one at a time


STATISTICS = {
    "activation": lambda x: x.abs().flatten(2).mean(dim=2),
    "apoz": lambda x: 1 - (x == 0).double().flatten(2).mean(dim=2),
    "hrank": rank_of,
}


@pytest.mark.parametrize("name", list(STATISTICS))
def test_channels_are_scored_as_their_readers_see_them(name, case):
    model, net, examples, x = case
    found, statistic = seen(model, x), STATISTICS[name]
    stream = (statistic(found["side"]).mean(0) + statistic(found["wide"]).mean(0)) / 2
    inner = found["head"][:, :, None]  # a column of the classifier is a map of one number
    one = {
        "activation": lambda v: v.abs().mean(dim=(0, 2)),
        "apoz": lambda v: (v != 0).double().mean(dim=(0, 2)),
        "hrank": lambda v: (v != 0).double().mean(dim=(0, 2)),
    }[name](inner)
    expected = {"stem.weight": stream, "wide.weight": one.reshape(6, 16).mean(dim=1)}
    function, _ = pruning.importances.importance.find_importance(name)
    scores = function(net, model, examples)
    for weight, values in expected.items():
        classes = net.layers[weight][0].reshape(-1)
        merged = torch.zeros(net.count, dtype=torch.float64).index_add(0, classes, values.double())
        merged /= torch.bincount(classes, minlength=net.count).clamp(min=1)
        torch.testing.assert_close(scores[classes], merged[classes], rtol=1e-5, atol=1e-7)


def test_ranks_of_hand_made_maps():
    one = torch.ones(4, 4)
    maps = torch.stack([torch.zeros(4, 4), one, torch.eye(4), torch.diag(torch.tensor([1.0, 2, 0, 0]))])
    assert ranks(maps[None]).tolist() == [[0, 1, 4, 2]]
    assert ranks(torch.tensor([[0.0, 3.0]])).tolist() == [[0, 1]]


def test_fpgm_is_the_sum_of_distances_to_the_other_filters(case):
    model, net, examples, _ = case
    function, _ = pruning.importances.importance.find_importance("fpgm")
    scores = function(net, model, examples)
    classes = net.layers["wide.weight"][0].reshape(-1)
    filters = model.wide.weight.detach().double().flatten(1)
    naive = torch.zeros(net.count, dtype=torch.float64)
    for i, one in enumerate(filters):
        naive[classes[i]] += sum((one - other).norm() for other in filters)
    torch.testing.assert_close(scores[classes], naive[classes], rtol=1e-6, atol=0)


def test_duplicate_filters_at_the_median_go_first():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight[2] = model[0].weight.mean(dim=0)
    net = structure.trace(model, torch.zeros(2, 5))
    scores = pruning.score(net, model, "fpgm")
    classes = net.layers["0.weight"][0].reshape(-1)
    assert int(scores[classes].argmin()) == 2


def test_the_default_granularity_is_what_prune_always_did(case):
    model, net, examples, _ = case
    for importance in ("magnitude", "activation", "obs"):
        first = pruning.score(net, model, importance, examples)
        assert torch.equal(score_channels(net, model, importance, examples), first)


@pytest.mark.parametrize("how", ["sum", "mean", "max", "first", "prod"])
def test_aggregates_against_a_loop(how, case):
    model, net, examples, _ = case
    found = members(net, model, "magnitude", examples)
    expected = torch.zeros(net.count, dtype=torch.float64)
    for c in range(net.count):
        values = []
        for name, parameter in model.named_parameters():
            for labels in net.layers.get(name, {}).values():
                wide = labels.expand(parameter.shape)
                if bool((wide == c).any()):
                    mean = parameter.detach().double().abs().sum() / len(labels.unique())
                    value = float(parameter.detach().double()[wide == c].abs().sum())
                    values.append(value / float(mean) if how == "prod" else value)
        if values:
            expected[c] = {
                "sum": sum(values),
                "mean": sum(values) / len(values),
                "max": max(values),
                "first": values[0],
                "prod": math.prod(values),
            }[how]
    torch.testing.assert_close(aggregate(net, found, how), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("how", ["mean", "sum", "max", "gaussian", "lamp", "none"])
def test_normalisations_against_their_definitions(how, case):
    _, net, _, _ = case
    scores = torch.rand(net.count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = normalised(net, scores, how)
    for axis in net.prunable:
        s = scores[axis.cells.reshape(-1)]
        expected = {
            "mean": s / s.mean(),
            "sum": s / s.sum(),
            "max": s / s.max(),
            "gaussian": (s - s.mean()) / s.std(correction=0),
            "lamp": torch.stack([v / s[s >= v].sum() for v in s]),
            "none": s,
        }[how]
        torch.testing.assert_close(found[axis.cells.reshape(-1)], expected)


def removed(scores, threshold):
    """The conservative vote at one threshold, as it is written down."""
    asks = scores <= threshold  # (L, C)
    modest = int(asks.sum(dim=1).min())
    needed = max(i for i in range(1, len(scores) + 1) if int((asks.sum(dim=0) >= i).sum()) >= modest)
    return asks.sum(dim=0) >= needed


def test_votes_by_hand():
    # Two layers agree on channel 0; each wants another one besides.
    scores = torch.tensor([[0.1, 0.2, 0.9, 0.8], [0.1, 0.9, 0.2, 0.8]])
    assert removed(scores, 0.1).tolist() == [True, False, False, False]
    # Both ask for two, only one has both votes: a single vote is enough then, and three go.
    assert removed(scores, 0.2).tolist() == [True, True, True, False]
    torch.testing.assert_close(conceded_at(scores), torch.tensor([0.1, 0.2, 0.2, 0.8]))


@pytest.mark.parametrize("seed", range(20))
def test_the_vote_is_the_first_threshold_that_removes(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 12, (3, 7), generator=generator).double()
    expected = torch.full((7,), torch.inf, dtype=torch.float64)
    for threshold in sorted(scores.reshape(-1).unique().tolist(), reverse=True):
        expected[removed(scores, threshold)] = threshold
    assert torch.equal(conceded_at(scores), expected)


def test_one_layer_votes_with_its_scores():
    scores = torch.rand(1, 9)
    assert torch.equal(conceded_at(scores), scores[0])


def test_votes_of_batch_norms_decide():
    model = Branches(groups=1)
    net = structure.trace(model, torch.zeros(2, 2, 4, 4))
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([0.1, 0.2, 0.9, 0.8]))
        model.side_norm.weight.copy_(torch.tensor([0.1, 0.9, 0.2, 0.8]))
    scores = score_channels(net, model, "bn-scale", None, Channel("vote", "none"))
    expected = torch.tensor([0.1, 0.2, 0.2, 0.8], dtype=torch.float64)
    classes = net.layers["norm.weight"][0].reshape(-1)
    torch.testing.assert_close(scores[classes], expected, rtol=1e-6, atol=0)


def test_channels_whose_members_have_no_scores_are_refused(case):
    model, net, examples, _ = case
    with pytest.raises(UsageError, match="no members to aggregate"):
        score_channels(net, model, "hrank", examples, Channel("max"))


def test_names_of_channel_granularities():
    assert find_granularity("channel") == Channel()
    assert find_granularity("channel:mean:lamp") == Channel("mean", "lamp")
    assert find_granularity(Channel("max").name) == Channel("max")
    with pytest.raises(UsageError, match="choose from sum"):
        find_granularity("channel:best")


@pytest.mark.parametrize("name", ["activation", "apoz", "hrank", "fpgm", "bn-scale", "obs"])
def test_nothing_of_the_network_changes(name, case):
    model, net, examples, _ = case
    state = {n: t.clone() for n, t in model.state_dict().items()}
    model.side.eval()
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    pruning.score(net, model, name, examples)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(bool((p.grad == 3).all()) for p in model.parameters())
