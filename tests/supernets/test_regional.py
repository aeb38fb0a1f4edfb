"""Divided supernets that are trained as mixtures, what is decided in them, and paths of Reptile."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tests.supernets.cells import small_cells, tiny

from netwright.errors import UsageError
from netwright.papers.supernet_cells import OUTSIDE
from netwright.supernets import RegionalAlpha, Reptile, few_shot, gradient_distances, project
from netwright.supernets.samplers.base import Draw, Sampler
from netwright.supernets.samplers.fixed import FairCycle, Uniform
from netwright.supernets.samplers.relaxations import gumbel_softmax
from netwright.supernets.stores.matching import only, restricted
from netwright.supernets.training.paths import HardLabels, Paths, train
from netwright.train import Callback, Recipe, cross_entropy

RECIPE = Recipe(epochs=4, batch_size=8, lr=0.05, precision="fp32", augment=False)
PART = {"op:0-1": ("skip", "conv3x3")}


@pytest.fixture(scope="module")
def sup():
    return small_cells()


def _part(sampler, sup):
    sampler.attach(sup)
    sampler.space = restricted(sup.space, PART)
    return sampler


@pytest.mark.parametrize("method", ["darts", "snas"])
def test_values_outside_of_the_part_have_no_weight_and_do_not_learn(sup, method):
    sampler = _part(RegionalAlpha(method, 3, weight_decay=0.0, lr=0.1), sup)
    before = {n: a.detach().clone() for n, a in sampler.alphas.items()}
    draw = sampler.to_learn(0)
    for name, weights in draw.weights.items():
        assert weights.shape == (4,) and float(weights.detach().sum()) == pytest.approx(1, abs=1e-6)
        assert (weights == 0).tolist() == [False, name == "op:0-1", False, name == "op:0-1"]
    assert set(draw.choice.values()) == {"conv3x3"}  # what it is counted as
    draw.apply(sup, 8)
    x, y = next(tiny().train.batches(8))
    cross_entropy(sup.train()(x), y).backward()
    sampler.learn()
    moved = {n: (a.detach() != before[n]).tolist() for n, a in sampler.alphas.items()}
    assert moved["op:0-1"] == [True, False, True, False]
    assert moved["op:0-2"] == [True] * 4
    assert sampler.favoured()["op:0-1"] in PART["op:0-1"]
    again = _part(RegionalAlpha(method, 3), sup)
    drawn = [torch.stack(list(again.weights(again._generator(k, 1)).values())) for k in (0, 1)]
    assert torch.equal(*drawn) == (method == "darts")  # the other one has noise
    sup.zero_grad(set_to_none=True)


def test_the_noisy_softmax_follows_the_probabilities_and_its_temperature():
    logits = torch.tensor([0.7, 0.2, 0.1, 0.0]).log()
    generator = torch.Generator().manual_seed(0)
    cold = torch.stack([gumbel_softmax(logits, 0.01, generator) for _ in range(2000)])
    assert bool((cold[:, 3] == 0).all()) and float((cold.max(1).values > 0.95).float().mean()) > 0.9
    counts = torch.bincount(cold.argmax(1), minlength=4) / 2000
    assert torch.allclose(counts[:3], torch.tensor([0.7, 0.2, 0.1]), atol=0.04)
    hot = gumbel_softmax(logits, 1e4, generator)
    assert torch.allclose(hot[:3], torch.full((3,), 1 / 3), atol=1e-2)


def test_leaves_inherit_the_parameters_which_learn_after_the_last_division_alone(sup):
    data = tiny()
    seen = []

    class Watched(RegionalAlpha):
        def begin(self, state):
            super().begin(state)
            seen.append([state.step])

        def before_step(self, state):
            if len(seen[-1]) == 1:  # nothing was learned since the beginning
                seen[-1].append({n: a.detach().clone() for n, a in self.alphas.items()})

        def learn(self):
            seen[-1][0] = -1
            if len(seen[-1]) == 1:
                seen[-1].append({n: a.detach().clone() for n, a in self.alphas.items()})
            super().learn()

    same = {"repeats": 1, "batch_size": 8, "exclude": OUTSIDE}
    made = few_shot(sup, data, RECIPE, held=data.val, sampler=lambda seed: Watched("darts", seed), **same)
    learned = [mark == -1 for mark, _ in seen]
    assert learned == [False] * 3 + [True] * 4  # a root, two children, four leaves
    root = seen[0][1]
    assert all(torch.equal(alphas[n], root[n]) for _, alphas in seen for n in root)
    assert len(made.samplers) == len(made.store) == 4
    for leaf, sampler in zip(made.store.leaves, made.samplers, strict=True):
        assert leaf.holds(sampler.favoured())
        assert any(not torch.equal(sampler.alphas[n], root[n]) for n in root)


def test_gradients_are_compared_on_the_mixture_when_there_is_one(sup):
    part = tiny().train
    same = {"repeats": 2, "batch_size": 8, "exclude": OUTSIDE}
    soft = {d.name: torch.full((4,), 0.25) for d in sup.space.free}
    mixed = gradient_distances(sup, part, "op:0-2", weights=soft, **same)
    assert torch.equal(mixed, mixed.T) and float(mixed.diagonal().abs().max()) == 0
    assert not torch.allclose(mixed, gradient_distances(sup, part, "op:0-2", **same), rtol=1e-2)
    # A mixture that is one path is that path.
    path = {d.name: only(sup.space, d.name, "conv1x1") for d in sup.space.free}
    ones = restricted(sup.space, dict.fromkeys(("op:0-1", "op:1-2"), ("conv1x1",)))
    wanted = gradient_distances(sup, part, "op:0-2", space=ones, **same)
    found = gradient_distances(sup, part, "op:0-2", weights=path, **same)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_projection_takes_what_is_judged_best_dim_after_dim(sup):
    weights = {d.name: torch.full((4,), 0.25) for d in sup.space.free}
    wanted = {"op:0-1": "skip", "op:0-2": "conv3x3", "op:1-2": "avgpool"}
    x = torch.randn(4, 1, 6, 6)
    with torch.no_grad():
        target = copy.deepcopy(sup).eval().set(wanted)(x)

        def near(model):
            return -float((model(x) - target).square().sum())

        tried = []

        def near_noted(model):
            tried.append(near(model))
            return tried[-1]

        found = project(sup, weights, near_noted, seed=1)
        assert len(tried) == 12 and sup.choice == found
        # The last dim is decided among whole networks: no other value of it is nearer.
        best = near(sup.eval().set(found))
        assert best == pytest.approx(max(tried[-4:]), rel=1e-4)
    part = restricted(sup.space, PART)
    assert project(sup, weights, near, space=part)["op:0-1"] in PART["op:0-1"]


class Chosen(Sampler):
    """Always the same paths, whose weights differ."""

    def draw(self, step):
        return [Draw((self.space.at(i),), weight=w) for i, w in ((21, 1.0), (42, 3.0))]


def test_a_step_of_reptile_is_the_weighted_mean_of_the_paths_own_steps(sup):
    data = tiny(8)
    outer = Recipe(epochs=1, batch_size=8, lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant")
    outer = dataclasses.replace(outer, precision="fp32", augment=False)
    paths = Reptile(Chosen(), HardLabels(), inner_momentum=0.9, clip_norm=None)
    found = train(sup, data, outer, paths=paths).model
    assert paths.passes == 4
    inner = Recipe(epochs=2, batch_size=8, lr=0.05, momentum=0.9, weight_decay=0.0, schedule="constant")
    before = dict(sup.network.named_parameters())
    ends = []
    for number in (21, 42):
        model = copy.deepcopy(sup).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=inner.lr, momentum=inner.momentum)
        x, y = next(data.train.batches(8))
        for _ in range(2):
            optimizer.zero_grad()
            cross_entropy(model.set(sup.space.at(number))(x), y).backward()
            optimizer.step()
        ends.append(dict(model.network.named_parameters()))
    for name, moved in found.network.named_parameters():
        wanted = before[name] + sum(
            w * (e[name] - before[name]) for w, e in zip((0.25, 0.75), ends, strict=True)
        )
        assert torch.allclose(moved, wanted, atol=1e-5)


def test_reptile_with_one_inner_step_is_a_plain_step(sup):
    data = tiny()
    plain = dataclasses.replace(RECIPE, momentum=0.0, weight_decay=0.0, schedule="constant")
    one = train(sup, data, plain, paths=Paths(FairCycle(1), HardLabels())).model
    outer = dataclasses.replace(plain, lr=1.0)
    paths = Reptile(FairCycle(1), HardLabels(), inner_steps=1, inner_lr=0.05, clip_norm=None)
    other = train(sup, data, outer, paths=paths).model
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_kept_momentum_goes_further_and_else_a_resumed_training_is_the_whole_one(sup, tmp_path):
    data = tiny()
    outer = dataclasses.replace(RECIPE, lr=1.0, momentum=0.0)

    def reach(keep, **options):
        paths = Reptile(FairCycle(1), HardLabels(), keep=keep)
        return train(sup, data, outer, paths=paths, **options).model

    def way(model):
        pairs = zip(model.parameters(), sup.parameters(), strict=True)
        return sum(float((a - b).detach().square().sum()) for a, b in pairs)

    whole = reach(False)
    assert way(reach(True)) > way(whole) > 0
    with pytest.raises(StopHereError):
        reach(False, checkpoint=tmp_path / "c.pt", callbacks=(Break(),))
    again = reach(False, checkpoint=tmp_path / "c.pt", callbacks=(Callback(),))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


class StopHereError(Exception):
    pass


class Break(Callback):
    def after_epoch(self, state, record):
        if record["epoch"] == 3:
            raise StopHereError


def test_requests_that_cannot_be_met_are_refused():
    with pytest.raises(UsageError, match="method"):
        RegionalAlpha("gdas")
    with pytest.raises(UsageError, match="inner_steps"):
        Reptile(Uniform(0), inner_steps=0)
