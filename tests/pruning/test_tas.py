"""Transformable Architecture Search: published shapes, interpolation, draws, costs, gradients, the verb."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

from netwright import papers, pruning
from netwright.data import Part, Splits
from netwright.errors import BudgetError, StructureError, UsageError
from netwright.models import ResNetCifar
from netwright.papers import Run, execute
from netwright.papers.claims import FURTHER
from netwright.papers.tas_shapes import PUBLISHED, UNPRUNED, counted, published
from netwright.pruning import Tas, load, prune, save_pruned
from netwright.pruning.allocations.crop_widths import Ends
from netwright.pruning.systems.soft_network import SoftNetwork
from netwright.pruning.systems.soft_shapes import at_budget, random_shape, target_of
from netwright.pruning.systems.soft_width import (
    aligned_sum,
    candidate_depths,
    candidate_widths,
    draw,
    gumbel,
    interpolate_channels,
    soften,
)
from netwright.pruning.systems.tas import cost_loss, search, temperature
from netwright.structure import trace
from netwright.train import Recipe

IMAGES = torch.zeros(2, 3, 32, 32)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(depth=14):
    return ResNetCifar(depth, in_channels=1, widths=(8, 12, 16))


def example(size=8):
    return torch.randn(2, 1, size, size)


def tiny(count=96, classes=10):
    part = Part.from_tensors(torch.randn(count, 1, 8, 8), torch.arange(count) % classes)
    return Splits("tiny", part, part, part, tuple(str(k) for k in range(classes)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_cost_what_was_published(name):
    assert counted(name) == round(PUBLISHED[name].millions * 1e6)
    built = {"C010-ResNet56": 59_858_430, "C010-ResNet110": 119_259_258, "C100-ResNet56": 61_233_836}
    assert trace(published(name), IMAGES).macs == built.get(name, counted(name))


@pytest.mark.parametrize("depth", UNPRUNED)
def test_unpruned_networks_cost_what_was_published(depth):
    assert round(trace(ResNetCifar(depth), IMAGES[:1]).macs / 1e6, 5) == UNPRUNED[depth]


def test_candidates_are_those_of_the_paper():
    assert candidate_widths(16) == (4, 6, 8, 9, 11, 12, 14, 16)
    assert candidate_widths(64) == (19, 25, 32, 38, 44, 51, 57, 64)
    assert candidate_widths(3) == (1, 2, 3)
    assert candidate_widths(1) == (1,)
    assert all(
        candidate_widths(n) == tuple(sorted({int(n * r / 10) for r in range(3, 11)})) for n in range(4, 99)
    )
    assert candidate_depths(18) == (1, 3, 5, 7, 9, 11, 13, 15, 17, 18)
    assert candidate_depths(9) == (1, 3, 5, 7, 9)
    assert [candidate_depths(n) for n in (1, 2, 3)] == [(1,), (1, 2), (1, 2, 3)]


def test_interpolation_averages_over_channels():
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert interpolate_channels(x, 4).flatten().tolist() == [0.5, 1.5, 3.5, 4.5]
    assert interpolate_channels(x, 6) is x
    assert interpolate_channels(x.flatten(1), 4, -1).flatten().tolist() == [0.5, 1.5, 3.5, 4.5]


def test_interpolation_is_adaptive_average_pooling():
    for inputs, outputs in ((3, 8), (8, 3), (5, 7), (4, 4), (16, 19)):
        x = torch.randn(2, inputs, 3, 5)
        want = F.adaptive_avg_pool3d(x, (outputs, 3, 5))
        assert torch.allclose(interpolate_channels(x, outputs), want, atol=1e-6)


def test_maps_are_added_at_the_widest():
    parts = [torch.randn(2, c, 3, 3) for c in (2, 6, 3)]
    weights = torch.tensor([0.2, 0.5, 0.3])
    want = sum(w * F.adaptive_avg_pool3d(p, (6, 3, 3)) for p, w in zip(parts, weights, strict=True))
    assert torch.allclose(aligned_sum(parts, weights), want, atol=1e-6)


def test_draws_are_two_different_candidates_with_weights_of_a_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf], [0.0, 0.0, 0.0, 0.0]])
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        soft = soften(logits, gumbel(logits.shape, generator), 0.1)
        index, weights = draw(soft, 2, generator)
        assert (index[:, 0] != index[:, 1]).all() and (index[0] < 3).all()
        assert torch.allclose(weights, soft.gather(1, index).softmax(1))


def test_the_gumbel_maximum_has_the_probabilities_of_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    soft = soften(logits, gumbel(logits.shape, torch.Generator().manual_seed(0)), 1.0)
    shares = torch.bincount(soft.argmax(1), minlength=3) / len(logits)
    assert torch.allclose(shares, logits[0].softmax(0), atol=0.015)


def test_temperature_ends_where_it_should():
    assert temperature(0.0) == 5.0
    assert temperature(1.0) == pytest.approx(0.1)
    assert temperature(0.5) == pytest.approx((5 + 0.1) / 2)


def test_the_cost_pulls_towards_the_budget():
    expected = torch.tensor(20.0, requires_grad=True)
    above, below, between = (cost_loss(expected, now, 50.0, 5.0) for now in (50.1, 44.9, 47.0))
    assert float(above.detach()) == pytest.approx(torch.tensor(20.0).log().item())
    assert float(below.detach()) == pytest.approx(-torch.tensor(20.0).log().item())
    assert float(between.detach()) == 0
    signs = [
        torch.autograd.grad(term, expected, retain_graph=True)[0].item() for term in (above, below, between)
    ]
    assert signs[0] > 0 and signs[1] < 0 and signs[2] == 0


@pytest.mark.parametrize("training", [False, True])
def test_at_full_width_it_is_the_plain_network(training):
    model = small().train(training)
    soft = SoftNetwork(model, example())
    x = torch.randn(4, 1, 8, 8)
    soft.choose_(soft.full())
    assert soft.training is training
    assert torch.allclose(soft(x), model(x), atol=1e-5)


def test_at_any_candidates_it_is_the_smaller_network():
    """Norms of their own, first channels, blocks from the front: one choice is the surgery's network."""
    model = small(26).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.bias)
    soft = SoftNetwork(model, example()).eval()
    generator = torch.Generator().manual_seed(1)
    assert [s.depths for s in soft.stages] == [(1, 3, 4)] * 3
    x = torch.randn(4, 1, 8, 8)
    for _ in range(3):
        index = [int(torch.randint(len(c), (1,), generator=generator)) for c in soft.candidates]
        soft.choose_(index)
        shape = soft.shape(index)
        network, _ = soft.cut(shape)
        assert torch.allclose(soft(x), network(x), atol=1e-4)
        assert trace(network, x).macs == shape.macs == soft.macs(index)
        sizes = {a.name: w[j] for a, w, j in zip(soft.axes, soft.widths, index, strict=False)}
        assert sizes == shape.keep


def test_norms_of_candidates_keep_statistics_of_their_own():
    soft = SoftNetwork(small(8).train(), example())
    norms = [m for m in soft.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 4 * len(soft.axes)
    soft.choose_([0] * len(soft.candidates))
    soft(torch.randn(8, 1, 8, 8) + 1)
    touched = sum(int(m.num_batches_tracked) for m in norms)
    assert touched == len([m for m in small(8).modules() if isinstance(m, nn.BatchNorm2d)])


def test_expected_cost_is_that_of_independent_choices():
    """Sizes of different axes are independent, so the expectation is the mean over all choices."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    soft = SoftNetwork(model, example())
    with torch.no_grad():
        soft.alpha.normal_()
    logs = soft.log_probabilities()
    mean = sum(
        float((logs[0][i] + logs[1][j]).exp()) * soft.macs((i, j))
        for i in range(len(logs[0])) for j in range(len(logs[1]))
    )  # fmt: skip
    assert float(soft.expected().detach()) == pytest.approx(mean, rel=1e-5)


def test_the_expected_cost_of_depth_weighs_blocks_by_their_chance():
    soft = SoftNetwork(small(), example())
    with torch.no_grad():
        soft.alpha.fill_(-100.0)
        soft.alpha[torch.arange(len(soft.axes)), torch.tensor([len(w) - 1 for w in soft.widths])] = 100.0
        soft.beta.zero_()
    full = soft.full()
    half = [
        (*full[: len(soft.axes)], *(k if s == t else 1 for t in range(3))) for s in range(3) for k in (0,)
    ]
    saved = sum(soft.macs(full) - soft.macs(index) for index in half)
    assert float(soft.expected().detach()) == pytest.approx(soft.macs(full) - saved / 2, rel=1e-9)


def test_gradients_reach_the_logits():
    """Finite differences under fixed noise, through draws, norms, interpolation, depths and cost."""
    model = small(14).double()
    soft = SoftNetwork(model, example().double()).double().train()
    x, y = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.arange(8)

    def loss():
        soft.draw_(1.0, torch.Generator().manual_seed(3))
        return F.cross_entropy(soft(x), y) + 2 * (soft.expected() / 1e6).log()

    gradients = torch.autograd.grad(loss(), soft.architecture)
    for parameter, gradient in zip(soft.architecture, gradients, strict=True):
        assert float(gradient.abs().max()) > 0
        where = int(gradient.abs().argmax())
        flat = parameter.data.view(-1)
        values = []
        for step in (1e-6, -2e-6):
            flat[where] += step
            values.append(float(loss().detach()))
        flat[where] += 1e-6
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(gradient.view(-1)[where]), rel=1e-4)


def test_grouped_concatenated_and_depthwise_channels():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(16)
            self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
            self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.last = nn.BatchNorm2d(16)
            self.fc = nn.Linear(16, 3)

        def forward(self, x):
            x = self.norm(torch.cat([self.a(x), self.b(x)], 1)).relu()
            return self.fc(self.last(self.depthwise(self.grouped(x))).relu().mean((2, 3)))

    model = Mixed().eval()
    soft = SoftNetwork(model, example()).eval()
    assert len(soft.axes) >= 2
    x = torch.randn(4, 1, 8, 8)
    for j in (0, 2):
        index = [j] * len(soft.candidates)
        soft.choose_(index)
        assert torch.allclose(soft(x), soft.cut(soft.shape(index))[0](x), atol=1e-5)


def test_shares_of_concatenated_ends_are_not_rounded():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(1, 7, 3, padding=1) for _ in range(3))
            self.last = nn.Conv2d(21, 9, 3, padding=1)

        def forward(self, x):
            return self.last(torch.cat([layer(x) for layer in self.layers], 1)).relu().mean((2, 3))

    rows = Ends.of(trace(Dense(), example())).shares["last.weight"]
    shares = np.concatenate(rows)
    thirds = shares[(shares > 0) & (shares < 1)]
    assert len(thirds) == 3 and (thirds == 1 / 3).all()


def test_what_does_not_keep_zeros_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Sigmoid(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3, padding=1))
    with torch.no_grad():
        SoftNetwork(nn.Sequential(model[0], nn.ReLU(), model[2], model[3]), example())
    with pytest.raises(StructureError, match="differs from its smaller versions"):
        SoftNetwork(nn.Sequential(*model, nn.Flatten(), nn.Linear(36, 2)), example())
    with pytest.raises(StructureError, match="no width or depth"):
        SoftNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), example())


def test_lowering_and_drawing_meet_the_budget():
    soft = SoftNetwork(small(), example())
    target = 0.5 * soft.net.macs
    index = at_budget(soft, soft.full(), target)
    assert 0.95 * target < soft.macs(index) <= target
    assert at_budget(soft, index, target) == index
    generator = torch.Generator().manual_seed(0)
    drawn = [random_shape(soft, target, generator, within=0.03) for _ in range(3)]
    assert all(0.97 * target <= s.macs <= target for s in drawn)
    assert len({s.index for s in drawn}) == 3
    with pytest.raises(BudgetError, match="cannot be met"):
        target_of(soft, "macs=0.01")
    with pytest.raises(BudgetError, match="limit of macs"):
        target_of(soft, "params=0.5")


@pytest.fixture(scope="module")
def choices():
    torch.manual_seed(0)
    return SoftNetwork(small(20), example())


def tell_(soft, seed):
    """Have the network believe anything, from even chances to near certainty."""
    generator = torch.Generator().manual_seed(seed)
    for logits in soft.architecture:
        with torch.no_grad():
            logits.copy_(torch.randn(logits.shape, generator=generator) * 10 ** (seed % 4 - 2))


@given(
    seed=st.integers(0, 10_000), share=st.floats(0.2, 1.0), start=st.sampled_from(["best", "full", "least"])
)
@examples(max_examples=40, deadline=None)
def test_shapes_at_a_budget_are_within_it_and_no_larger_one_is(choices, seed, share, start):
    soft = choices
    tell_(soft, seed)
    target = share * soft.net.macs
    least = [0] * len(soft.candidates)
    begin = {"best": soft.best(), "full": soft.full(), "least": least}[start]
    index = at_budget(soft, begin, target)
    cost = soft.macs(index)
    assert cost <= target
    for k, widths in enumerate(soft.candidates):
        if index[k] + 1 < len(widths):
            larger = soft.macs([*index[:k], index[k] + 1, *index[k + 1 :]])
            assert larger > target or larger == cost
    assert at_budget(soft, index, target) == index


def test_what_is_certain_is_touched_last(choices):
    soft = choices
    tell_(soft, 0)
    with torch.no_grad():
        soft.alpha[0] = torch.where(torch.arange(soft.alpha.shape[1]) == 3, 50.0, 0.0)
    index = at_budget(soft, soft.best(), 0.5 * soft.net.macs)
    assert index[0] == 3
    with pytest.raises(BudgetError, match="cannot be met"):
        at_budget(soft, soft.best(), soft.macs([0] * len(soft.candidates)) - 1)


def test_a_small_overshoot_is_not_paid_with_a_block(choices):
    """A whole block would save most for what it loses; a channel is all that is needed."""
    soft = choices
    with torch.no_grad():
        for logits in soft.architecture:
            logits.zero_()
        soft.alpha[:, -1] = 2.0  # the last one is the full width of the widest axes
        soft.beta[:, 0] = -1.0
    full = soft.full()
    index = at_budget(soft, full, soft.macs(full) - 1)
    assert index[len(soft.axes) :] == full[len(soft.axes) :]


def test_the_search_comes_to_the_budget_and_repeats_itself():
    data = tiny(256)
    settings = Tas(Recipe(epochs=6, batch_size=16, lr=0.05), lr=0.05)
    one = search(small(8), example(), data.train, "macs=0.5", settings, device="cpu")
    two = search(small(8), example(), data.train, "macs=0.5", settings, device="cpu")
    assert one.shape == two.shape and one.history == two.history
    assert one.shape.macs <= one.target
    assert abs(one.raw.macs / one.soft.net.macs - 0.5) < 0.15
    assert [r["epoch"] for r in one.history] == [1, 2, 3, 4, 5, 6]
    assert one.history[-1]["tau"] == pytest.approx(0.1)
    assert one.history[-1]["loss"] < one.history[0]["loss"]


@pytest.mark.recipe
def test_the_recipe_runs_in_its_quick_size():
    found = papers.load("tas")
    assert papers.implemented("tas") and {c.scope for c in found.claims} == {"", FURTHER, "cifar-10"}
    run = execute(Run(found, quick=True))
    assert set(run.measured) == {c.name for c in found.claims if not c.scope}
    assert run.verdict is None and run.svg is not None
    assert all(row[1] <= 1.0 for row in run.tables[1].rows if row[0] in ("uniform", "random, mean", "TAS"))


@pytest.mark.recipe
def test_the_further_arms_run_in_their_quick_size():
    run = Run(papers.load("tas"), quick=True, scope=FURTHER)
    execute(run)
    assert set(run.measured) == {c.name for c in run.paper.claims if c.scope == FURTHER}
    assert len(run.tables[0].rows) == 14


@pytest.mark.slow
def test_a_step_of_the_search_at_full_size():
    """ResNet-110 for CIFAR: 57 axes, three stages of ten depths."""
    soft = SoftNetwork(ResNetCifar(110), torch.randn(2, 3, 32, 32)).train()
    assert len(soft.axes) == 57 and [len(s.depths) for s in soft.stages] == [10] * 3
    soft.draw_(5.0, torch.Generator().manual_seed(0))
    loss = F.cross_entropy(soft(torch.randn(8, 3, 32, 32)), torch.arange(8))
    gradients = torch.autograd.grad(loss + soft.expected().log(), soft.architecture)
    assert all(bool(torch.isfinite(g).all()) and float(g.abs().max()) > 0 for g in gradients)


def test_the_verb_prunes_trains_and_can_be_saved(tmp_path):
    model, data = small(), tiny()
    settings = Tas(Recipe(epochs=1, batch_size=16), lr=0.5)
    found = prune(
        model, example(), "macs=0.35", allocation=settings, data=data, distill=True,
        recipe=Recipe(epochs=1, batch_size=16), device="cpu",
    )  # fmt: skip
    assert found.after.macs <= 0.35 * found.before.macs
    assert trace(found.model, example()).macs == found.after.macs
    assert len(found.history) == 1
    again = load(save_pruned(found, tmp_path / "net"), model)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(again.eval()(x), found.model.eval()(x))


def test_shapes_with_fewer_blocks_can_be_saved(tmp_path):
    model, data = small(), tiny()
    fewer = Tas(Recipe(epochs=1, batch_size=16), lr=0.5, tenths=(10,))
    found = prune(model, example(), "macs=0.7", allocation=fewer, data=data, device="cpu")
    assert found.skipped and "fresh" in found.notes[-1] + "".join(found.notes)
    again = load(save_pruned(found, tmp_path / "net"), model)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(again.eval()(x), found.model.eval()(x))


def test_the_verb_by_name_takes_the_training_recipe_twice_as_long():
    found = prune(
        small(8), example(), "macs=0.5", allocation="tas", data=tiny(), device="cpu",
        recipe=Recipe(epochs=1, batch_size=16),
    )  # fmt: skip
    assert found.after.macs <= 0.5 * found.before.macs


def test_what_the_search_has_no_use_for_is_refused():
    with pytest.raises(UsageError, match="does not take importance"):
        prune(small(8), example(), "macs=0.5", allocation="tas", data=tiny(), importance="l2-nonsense")
    with pytest.raises(UsageError, match="searches on data"):
        prune(small(8), example(), "macs=0.5", allocation="tas")


def test_the_rate_of_the_logits_follows_the_number_of_steps():
    assert Tas().rate(58_800) == pytest.approx(1e-3)
    assert Tas().rate(588) == pytest.approx(0.1)
    assert Tas().rate(10**6) == pytest.approx(1e-3)
    assert dataclasses.replace(Tas(), lr=0.3).rate(5) == 0.3
    assert pruning.Tas is Tas
