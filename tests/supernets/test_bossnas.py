"""BossNAS: blocks trained one after another, by what their own paths make of two views."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright import supernets
from netwright.data import load
from netwright.errors import DataError, UsageError
from netwright.structure import trace
from netwright.supernets import EnsembleBootstrap, LocalLabels, OneOf, Siamese, train_blockwise
from netwright.supernets.stores.siamese import Neck, distance, rising
from netwright.supernets.training.blocks import Block, Feeder, dims_of
from netwright.supernets.training.bootstrapping import drawn
from netwright.train import Recipe

BLOCKS = ("first", "second")
RECIPE = Recipe(epochs=1, batch_size=32, lr=0.05, weight_decay=1e-6, precision="fp32", seed=0)


def _layer(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first = nn.Sequential(_layer(4, 8), _layer(8, 8, 2))
        self.second = nn.Sequential(_layer(8, 8), OneOf({"conv": _layer(8, 8), "none": nn.Identity()}))
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.second(self.first(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def sup():
    torch.manual_seed(0)
    net = trace(Net(), torch.zeros(2, 1, 8, 8))
    names = [a.name for a in net.axes if a.prunable and a.name.startswith(("first", "second.0"))]
    return supernets.elastic(Net(), torch.zeros(2, 1, 8, 8), width={n: [4, 8] for n in names})


@pytest.fixture(scope="module")
def data():
    whole = load("digits")
    return dataclasses.replace(whole, train=whole.train.head(96), val=whole.train.subset(range(96, 160)))


LOSS = EnsembleBootstrap(paths=3, hidden=16, vector=8)


def _learner(sup, data, loss=LOSS, number=0, fixed=None):
    modules = [[b] for b in BLOCKS]
    work = copy.deepcopy(sup)
    dims = dims_of(work.blueprint, modules)[number]
    block = Block(work, modules[number], dims, fixed or {}, number == 0, modules)
    x = next(data.train.batches(32))[0]
    torch.manual_seed(1)
    return loss.learner(block, Feeder(None, "first"), x[:2]), x, block.names()


def test_every_choice_belongs_to_one_block(sup):
    dims = dims_of(sup.blueprint, [[b] for b in BLOCKS])
    assert sorted(d for some in dims for d in some) == sorted(d.name for d in sup.space.free)
    assert all("first" in name for name in dims[0]) and any(name.startswith("op:") for name in dims[1])
    with pytest.raises(UsageError, match="choice of no block"):
        dims_of(sup.blueprint, [["first"]])


def test_the_moving_average_has_its_closed_form():
    model = nn.Linear(3, 3)
    pair = Siamese(model)
    with torch.no_grad():
        model.weight += 1.0
    start = pair.target.weight.clone()
    for _ in range(7):
        pair.follow(0.9)
    expected = model.weight + 0.9**7 * (start - model.weight)
    torch.testing.assert_close(pair.target.weight, expected.detach())
    assert not any(p.requires_grad for p in pair.target.parameters())
    assert rising(0.99, 0, 10) == pytest.approx(0.99) and rising(0.99, 10, 10) == pytest.approx(1.0)
    assert rising(0.99, 5, 10) == pytest.approx(0.995)


def test_one_path_and_no_momentum_is_byol(sup, data):
    """P = 1, m = 0, shared views: the loss is BYOL's of that path with a copy as the target."""
    loss = EnsembleBootstrap(paths=1, momentum=0.0, hidden=16, vector=8, views="shared")
    learner, x, _ = _learner(sup, data, loss)
    learner.after_step(0, 10)  # the target becomes a copy
    for a, b in zip(learner.weights.online.parameters(), learner.weights.target.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(learner.necks.online.parameters(), learner.necks.target.parameters(), strict=True):
        assert torch.equal(a, b)
    rng = np.random.default_rng(5)
    (path,) = drawn(learner.block, 1, rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    one, two = loss.view(x, generator), loss.view(x, generator)
    plain = copy.deepcopy(sup).extract(path)  # what the block is, by itself
    body = nn.Sequential(plain.stem, plain.first).train()
    neck, head = copy.deepcopy(learner.necks.online), copy.deepcopy(learner.predictor)

    def byol(a, b):
        p, z = head(neck(body(a))), neck(body(b)).detach()
        return (F.normalize(p, dim=1) - F.normalize(z, dim=1)).square().sum(dim=1).mean() - 2

    expected = float((byol(one, two) + byol(two, one)).detach())
    assert learner.step(x, torch.zeros(32), np.random.default_rng(5)) == pytest.approx(expected, abs=1e-5)


def test_no_view_foresees_its_own_target_and_targets_are_the_mean_of_unit_vectors(sup, data):
    learner, x, _ = _learner(sup, data)
    paths = learner.block.paths[:3]
    pairs = [learner._pair(x, torch.Generator().manual_seed(k)) for k in range(3)]
    learner.mode(True)
    targets = learner._targets(paths, pairs, np.random.default_rng(0))
    mean = torch.stack(
        [F.normalize(learner.project(p, h[0]), dim=1) for p, h in zip(paths, pairs, strict=True)]
    )
    torch.testing.assert_close(targets[0][0], mean.mean(dim=0))
    assert not torch.allclose(targets[0][0], targets[0][1])  # a pair has two views
    assert all(t[0] is targets[0][0] for t in targets)
    own = dataclasses.replace(LOSS, target="own")
    learner.loss = own
    one, _ = learner._targets(paths, pairs, np.random.default_rng(0))[1]
    torch.testing.assert_close(one, F.normalize(learner.project(paths[1], pairs[1][0]), dim=1))


def test_the_target_gets_no_gradient_and_the_labels_are_not_read(sup, data):
    learner, x, names = _learner(sup, data)
    first = learner.step(x, torch.zeros(32), np.random.default_rng(0))
    assert all(p.grad is None for p in learner.weights.target.parameters())
    assert all(p.grad is None for p in learner.necks.target.parameters())
    named = dict(learner.block.sup.named_parameters())
    assert "network.stem.weight" in names and named["network.stem.weight"].grad is not None
    assert all(p.grad is None for n, p in named.items() if n not in names)
    again, _, _ = _learner(sup, data)
    assert again.step(x, torch.ones(32), np.random.default_rng(0)) == first
    labels = data.train.source.labels
    rated = train_blockwise(sup, BLOCKS, data, loss=LOSS, recipe=RECIPE).scores
    before = labels.clone()
    try:
        labels.zero_()
        assert train_blockwise(sup, BLOCKS, data, loss=LOSS, recipe=RECIPE).scores == rated
    finally:
        labels.copy_(before)


def test_a_training_is_the_same_again_and_is_watched(sup, data):
    seen = {}

    def watch(block, epoch, loss):
        seen[block, epoch] = loss

    one = train_blockwise(sup, BLOCKS, data, loss=LOSS, recipe=RECIPE, progress=watch)
    assert sorted(seen) == [(0, 0), (1, 0)] and all(-4 <= v <= 4 for v in seen.values())
    again = train_blockwise(sup, BLOCKS, data, loss=LOSS, recipe=RECIPE)
    assert again.scores == one.scores and again.best == one.best
    original, other = dict(sup.network.named_parameters()), dict(again.sup.network.named_parameters())
    for name, parameter in one.sup.network.named_parameters():
        assert torch.equal(parameter, other[name])
        assert torch.equal(parameter, original[name]) == name.startswith("fc")  # which is of no block


def test_the_second_block_leaves_the_first_bit_identical(sup, data, monkeypatch):
    from netwright.supernets.training import blockwise

    kept = []
    fit = blockwise._fit

    def spy(learner, parameters, *rest):
        state = {n: t.clone() for n, t in learner.block.sup.network.state_dict().items()}  # with statistics
        found = fit(learner, parameters, *rest)
        kept.append((state, {n: t.clone() for n, t in learner.block.sup.network.state_dict().items()}))
        return found

    monkeypatch.setattr(blockwise, "_fit", spy)
    train_blockwise(sup, BLOCKS, data, loss=LOSS, recipe=RECIPE)
    before, after = kept[1]
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved and all(n.startswith("second") for n in moved)
    before, after = kept[0]
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved and all(n.startswith(("first", "stem")) for n in moved)


def test_the_centre_is_of_all_paths_and_norms_are_measured_for_each(sup, data):
    learner, x, _ = _learner(sup, data)
    learner.step(x, torch.zeros(32), np.random.default_rng(0))
    val = next(data.val.batches(64))[0]
    scores = learner.score(x, val, torch.zeros(64), 3)
    assert len(scores) == len(learner.block.paths) == 4
    generator = torch.Generator().manual_seed(3)
    view = LOSS.view
    both = torch.cat([view(x, generator), view(x, generator)])
    one, two = view(val, generator), view(val, generator)
    made = []
    for path in learner.block.paths:  # each as a network of its own with the statistics of that batch
        plain = {}
        for side, sup_of, neck in (
            ("online", learner.weights.online, learner.necks.online),
            ("target", learner.weights.target, learner.necks.target),
        ):
            net = sup_of.extract(path)
            layers = [net.stem, net.first, copy.deepcopy(neck)]
            if side == "online":
                layers.append(copy.deepcopy(learner.predictor))
            body = nn.Sequential(*layers).train()
            for m in body.modules():
                if isinstance(m, nn.modules.batchnorm._BatchNorm):
                    m.momentum = 1.0
            with torch.no_grad():
                body(both)
                plain[side] = [body.eval()(v) for v in (one, two)]
        made.append(plain)
    centre = [torch.stack([m["target"][k] for m in made]).mean(dim=0) for k in (0, 1)]
    expected = [
        float(distance(m["online"][0], centre[1]) + distance(m["online"][1], centre[0])) for m in made
    ]
    assert scores == pytest.approx(expected, abs=1e-4)
    assert len({round(s, 6) for s in scores}) > 1


def test_a_network_is_rated_by_the_sum_of_its_blocks(sup, data):
    found = train_blockwise(sup, BLOCKS, data, loss=LOSS, recipe=RECIPE)
    best = min(sup.space.enumerate(), key=found.rate)
    assert found.rate(best) == pytest.approx(sum(min(s.values()) for s in found.scores))
    assert found.rate(found.best) == found.rate(best)
    assert [len(s) for s in found.scores] == [4, 4]
    labelled = train_blockwise(sup, BLOCKS, data, loss=LocalLabels(10, paths=2), recipe=RECIPE)
    assert all(v > 0 for s in labelled.scores for v in s.values())


def test_fair_steps_have_every_value_once(sup, data):
    learner, _, _ = _learner(sup, data)
    for seed in range(5):
        paths = drawn(learner.block, 4, np.random.default_rng(seed), fair=True)
        for name in learner.block.dims:
            assert sorted(p[name] for p in paths) == [4, 8]


def test_what_cannot_be_rated_is_refused(sup, data):
    with pytest.raises(DataError, match="validation split"):
        train_blockwise(sup, BLOCKS, dataclasses.replace(data, val=data.val.head(0)), recipe=RECIPE)
    with pytest.raises(UsageError, match="target is one of"):
        EnsembleBootstrap(target="teacher")


def test_outputs_of_other_widths_are_made_alike():
    neck = Neck([4, 8], 16, 5)
    for count in (4, 8):
        assert neck(torch.randn(3, count, 6, 6)).shape == (3, 5)
    assert not len(Neck([8], 16, 5).align.fixes)
