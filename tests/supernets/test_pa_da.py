"""PA&DA: paths and examples drawn by gradient norms, and the variance that is left."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from tests.supernets.cells import small_cells, tiny

from netwright.data import ImportanceSampler, logit_gradient_norm
from netwright.errors import UsageError
from netwright.supernets import ImportancePath, gradient_variance
from netwright.supernets.samplers.base import Draw, Sampler
from netwright.supernets.samplers.fixed import FairCycle, Uniform
from netwright.supernets.training.paths import train
from netwright.train import Callback, Recipe, cross_entropy, fit

RECIPE = Recipe(epochs=4, batch_size=8, lr=0.05, precision="fp32", augment=False, clip_norm=5.0)
OPS = ["skip", "conv1x1", "conv3x3", "avgpool"]


@pytest.fixture(scope="module")
def sup():
    return small_cells()


def _variance(g, p):
    """Of the estimate g_i / (N p_i) with i drawn from p."""
    n = len(g)
    mean = g.mean(0)
    return float(((g**2).sum(1) / (n**2 * p)).sum() - mean @ mean)


def test_the_least_variance_is_at_probabilities_proportional_to_the_norms():
    rng = np.random.default_rng(0)
    g = rng.normal(size=(50, 7)) * rng.exponential(size=(50, 1))
    norms = np.linalg.norm(g, axis=1)
    least = norms.sum() ** 2 / 50**2 - float(g.mean(0) @ g.mean(0))
    assert _variance(g, norms / norms.sum()) == pytest.approx(least, abs=1e-10)
    for _ in range(200):
        p = rng.dirichlet(np.ones(50))
        assert _variance(g, p) >= least
    assert _variance(g, np.full(50, 1 / 50)) > least


def test_the_norm_at_the_logits_is_that_of_the_gradient():
    torch.manual_seed(0)
    logits = (4 * torch.randn(64, 5)).requires_grad_()
    targets = torch.randint(0, 5, (64,))
    cross_entropy(logits, targets).mul(64).backward()
    found = logit_gradient_norm(logits.detach(), targets)
    assert float((found - logits.grad.norm(dim=1)).abs().max()) <= 1e-6
    assert float(found.min()) >= 0 and float(found.max()) < math.sqrt(2)


def test_without_importance_paths_and_examples_are_the_plain_ones_bit_for_bit(sup):
    data = tiny()
    plain = train(sup, data, RECIPE, sampler=Uniform(3)).model
    order = ImportanceSampler(data.train, schedule="none")
    same = train(sup, data, RECIPE, sampler=ImportancePath(3, schedule="none"), order=order).model
    for a, b in zip(plain.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    full = train(sup, data, RECIPE, sampler=ImportancePath(3), order=ImportanceSampler(data.train)).model
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), full.parameters(), strict=True))


class Watch(Callback):
    def __init__(self, path, order):
        self.path, self.order, self.rows = path, order, []

    def after_epoch(self, state, record):
        (shares,) = self.path.probabilities.values()
        self.rows.append((self.path.strength, shares.copy(), self.order.strength, self.order.probabilities))


def test_probabilities_sum_to_1_and_importance_grows_linearly(sup):
    path, order = ImportancePath(0), ImportanceSampler(40)
    watch = Watch(path, order)
    train(sup, tiny(), RECIPE, sampler=path, order=order, callbacks=(watch,))
    assert [row[0] for row in watch.rows] == [0, 0.25, 0.5, 0.75] == [row[2] for row in watch.rows]
    for strength, shares, _, probabilities in watch.rows:
        assert shares.sum() == pytest.approx(1, abs=1e-12)
        assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
        # What has no parameters has no gradient.
        assert shares[0] == shares[3] == pytest.approx((1 - strength) / 4)
        assert float(probabilities.min()) >= (1 - strength) / 40 - 1e-12
    assert watch.rows[-1][1][1] > 0.0625 < watch.rows[-1][1][2]


class Norms(Callback):
    """What PA is defined by, written out: norms of the clipped gradients, operation by operation."""

    def __init__(self, sampler):
        self.sampler, self.value, self.epochs = sampler, dict.fromkeys(OPS, 0.0), []
        self.largest = 0.0

    def before_step(self, state):
        (draw,) = self.sampler.draw(state.step)
        grads = {n: p.grad for n, p in state.model.named_parameters() if p.grad is not None}
        self.largest = max(self.largest, float(torch.stack([g.norm() for g in grads.values()]).norm()))
        counts = Counter(draw.choice.values())
        for op, times in counts.items():
            sums = [
                float(g.norm())
                for n, g in grads.items()
                for k, edge in enumerate(("op:0-1", "op:0-2", "op:1-2"))
                if draw.choice[edge] == op and f".edges.{k}.candidates.{op}." in n
            ]
            if sums:
                self.value[op] = (self.value[op] + sum(sums) / times) / 2

    def after_epoch(self, state, record):
        self.epochs.append(np.array([self.value[op] for op in OPS]))
        self.value = dict.fromkeys(OPS, 0.0)


def test_path_norms_are_those_of_the_clipped_gradients(sup):
    recipe = Recipe(epochs=2, batch_size=8, lr=0.05, precision="fp32", augment=False, clip_norm=0.05)
    # The callback that writes the norms out comes before the sampler only in the list of its own.
    path = ImportancePath(0, schedule=lambda share: 1.0)
    mine = Norms(Uniform(0))
    mine.sampler.attach(sup)
    seen = []

    class After(Callback):
        def after_epoch(self, state, record):
            seen.append(path.probabilities["op:0-1"].copy())

    train(sup, tiny(), recipe, sampler=path, callbacks=(mine, After()), stop=5)
    assert mine.largest <= 0.05 * (1 + 1e-4)
    assert seen[0] == pytest.approx(mine.epochs[0] / mine.epochs[0].sum(), abs=1e-5)
    assert set(path.probabilities) == {"op:0-1"}  # one distribution for all edges


def test_paths_are_drawn_as_often_as_their_probability_says(sup):
    path = ImportancePath(0)
    path.attach(sup)
    path.strength, path.probabilities = 0.5, {"op:0-1": np.array([0.1, 0.2, 0.6, 0.1])}
    drawn = Counter(v for step in range(1500) for v in path.draw(step)[0].choice.values())
    expected = 4500 * np.array([0.1, 0.2, 0.6, 0.1])
    statistic = sum((drawn[op] - e) ** 2 / e for op, e in zip(OPS, expected, strict=True))
    assert statistic < chi2.ppf(0.999, 3)
    total = 0.0
    for choice in sup.space.enumerate():
        share = float(np.prod([path.probabilities["op:0-1"][OPS.index(v)] for v in choice.values()]))
        assert path.correction(choice) == pytest.approx(1 / (64 * share))
        total += share * path.correction(choice)
    assert total == pytest.approx(1)


def test_edges_may_have_distributions_of_their_own_and_norms_be_per_parameter(sup):
    path = ImportancePath(0, shared=False, per_parameter=True)
    train(sup, tiny(), RECIPE, sampler=path)
    assert set(path.probabilities) == {"op:0-1", "op:0-2", "op:1-2"}
    assert len({tuple(p) for p in path.probabilities.values()}) == 3
    path = ImportancePath(0, schedule=lambda share: 1.0)
    each = ImportancePath(0, schedule=lambda share: 1.0, per_parameter=True)
    for sampler in (path, each):
        train(sup, tiny(), RECIPE, sampler=sampler, stop=5)
    # 3 cells of 4 x 4 (x 9) numbers: the ratio of the two operations changes by the root of 9.
    a, b = path.probabilities["op:0-1"], each.probabilities["op:0-1"]
    assert a[2] / a[1] == pytest.approx(3 * b[2] / b[1], rel=1e-4)


def test_examples_are_drawn_as_often_as_their_probability_says():
    order = ImportanceSampler(20)
    order.scores = torch.arange(20, dtype=torch.float64)
    order.after_epoch(3, 4)
    wanted = 0.75 * order.scores / order.scores.sum() + 0.25 / 20
    assert torch.allclose(order.probabilities, wanted)
    counts = torch.zeros(20, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(400):
        counts += torch.bincount(order.draw(epoch, 20, generator), minlength=20)
    expected = 400 * 20 * wanted
    assert float(((counts - expected) ** 2 / expected).sum()) < chi2.ppf(0.999, 19)


def test_scores_average_pairwise_and_unseen_examples_have_none_unless_kept():
    targets = torch.tensor([0, 1, 1])
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    a, b, c = logit_gradient_norm(logits, targets).double().tolist()
    for keep in (False, True):
        order = ImportanceSampler(4, keep_unseen=keep)
        order.scores[2] = 0.5
        order.observe(torch.tensor([3, 1, 3]), logits, targets)
        order.observe(torch.tensor([3]), logits[:1], targets[:1])
        order.after_epoch(0, 2)
        assert order.strength == 0
        assert order.scores.tolist() == pytest.approx([0, b, 0.5 * keep, ((a + c) / 2 + a) / 2])


def test_unbiased_weights_give_the_gradient_of_all_examples(sup):
    data, model = tiny(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4)).double()
    x, y = next(data.train.batches(40))
    order = ImportanceSampler(40, unbiased=True)
    order.observe(torch.arange(40), model(x.double()).detach(), y)
    order.after_epoch(3, 4)
    assert float(order.probabilities.max() / order.probabilities.min()) > 1.05

    def gradient(positions, weights):
        model.zero_grad()
        cross_entropy(model(x[positions].double()), y[positions], weights=weights).backward()
        return torch.cat([p.grad.reshape(-1) for p in model.parameters()])

    whole = gradient(torch.arange(40), None)
    expected = torch.zeros_like(whole)
    for i in range(40):
        at = torch.tensor([i])
        expected += order.probabilities[i] * gradient(at, order.weights(at).double())
    assert torch.allclose(expected, whole, atol=1e-7)
    assert ImportanceSampler(40).weights(torch.arange(3)) is None


def test_a_training_uses_the_order_and_its_weights():
    data = tiny()
    seen = []

    class Fixed(ImportanceSampler):
        def draw(self, epoch, count, generator):
            return torch.tensor([3] * 8 + [5] * 4)

        def observe(self, positions, logits, targets):
            seen.append((positions.tolist(), targets.tolist()))
            super().observe(positions, logits, targets)

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4))
    one = Recipe(epochs=1, batch_size=8, lr=0.1, precision="fp32", augment=False)
    plain = fit(model, data, one, order=Fixed(40)).model
    assert seen[0] == ([3] * 8, [3] * 8) and seen[1] == ([5] * 4, [1] * 4)

    class Nothing(Fixed):
        def weights(self, positions):
            return torch.zeros(len(positions))

    still = fit(
        model,
        data,
        Recipe(epochs=1, batch_size=8, lr=0.1, weight_decay=0, precision="fp32"),
        order=Nothing(40),
    )
    assert torch.equal(still.model[1].weight, model[1].weight) != torch.equal(
        plain[1].weight, model[1].weight
    )
    with pytest.raises(UsageError, match="one device"):
        fit(model, data, one, order=Fixed(40), devices=2)
    with pytest.raises(UsageError, match="for 7 examples"):
        fit(model, data, one, order=ImportanceSampler(7))


class StopHereError(Exception):
    pass


class Break(Callback):
    def after_epoch(self, state, record):
        if record["epoch"] == 3:
            raise StopHereError


def test_a_resumed_training_is_the_one_that_was_never_stopped(sup, tmp_path):
    data = tiny()

    def run(**options):
        return train(sup, data, RECIPE, sampler=ImportancePath(1), order=ImportanceSampler(40), **options)

    whole = run().model
    with pytest.raises(StopHereError):
        run(checkpoint=tmp_path / "c.pt", callbacks=(Break(),))
    again = run(checkpoint=tmp_path / "c.pt", callbacks=(Callback(),)).model
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_fair_cycle_uses_every_operation_of_every_edge_once_a_step(sup):
    fair = FairCycle(0)
    fair.attach(sup)
    for step in range(20):
        draws = fair.draw(step)
        for dim in sup.space.free:
            assert sorted(d.choice[dim.name] for d in draws) == sorted(OPS)


class Two(Sampler):
    """One of two paths, the first with a probability of 3 quarters."""

    def __init__(self, first, second):
        super().__init__()
        self.paths = first, second

    def draw(self, step):
        return [Draw((self.paths[int(step % 4 == 3)],))]

    def correction(self, choice):
        return 0.5 / 0.75 if choice == self.paths[0] else 0.5 / 0.25


def test_the_variance_is_that_of_the_gradients_written_out(sup):
    data = tiny().train
    paths = sup.space.at(21), sup.space.at(42)

    def gradient(choice):
        sup.zero_grad(set_to_none=True)
        x, y = next(data.batches(40))
        cross_entropy(sup.train().set(choice)(x), y).backward()
        return torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).double()
                for p in sup.parameters()
            ]
        )

    a, b = gradient(paths[0]), gradient(paths[1])
    sampler = Two(*paths)
    sampler.attach(sup)
    sup.zero_grad(set_to_none=True)
    same = {"n": 8, "batch_size": 40}
    for weighted, (wa, wb) in ((False, (1, 1)), (True, (2 / 3, 2))):
        found = gradient_variance(sup, sampler, data, weighted=weighted, **same)
        square = float(0.75 * (wa * a) @ (wa * a) + 0.25 * (wb * b) @ (wb * b))
        mean = 0.75 * wa * a + 0.25 * wb * b
        assert found.square == pytest.approx(square, rel=1e-4)
        assert found.variance == pytest.approx((square - float(mean @ mean)) * 8 / 7, rel=1e-4)
    always = Two(paths[0], paths[0])
    always.attach(sup)
    found = gradient_variance(sup, always, data, weighted=False, **same)
    assert found.variance == pytest.approx(0, abs=1e-6 * found.square)
    with pytest.raises(UsageError, match="no variance"):
        gradient_variance(sup, always, data, n=1)


def test_schedules_that_are_not_known_are_refused():
    with pytest.raises(UsageError, match="schedule"):
        ImportancePath(schedule="cosine")
    with pytest.raises(UsageError, match="0 examples"):
        ImportanceSampler(0)
