"""ShiftNAS: costs as tables, gates that equal slices, generators, and probabilities that shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright import supernets
from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.models import ResNetCifar
from netwright.models.zoo import ConvMacro, char_lm
from netwright.supernets import Elastic
from netwright.supernets.network.cost_tables import CostTables, cost_tables
from netwright.supernets.samplers.gating import Gated, Gating
from netwright.supernets.samplers.generators import Bins, LSTMGenerator, RejectionGenerator
from netwright.supernets.samplers.relaxations import straight_through
from netwright.supernets.samplers.shift import ProbabilityShift, shifted
from netwright.train import Recipe, State


def _convolutions() -> Elastic:
    torch.manual_seed(0)
    model = ConvMacro((12,) * 4, (3,) * 4, in_channels=1, pools=(2,), num_classes=4)
    return supernets.elastic(model, torch.zeros(1, 1, 8, 8), width=[4, 8, 12])


def _kernels() -> Elastic:
    torch.manual_seed(0)
    model = ConvMacro((8,) * 2, (5,) * 2, in_channels=1, pools=(2,), num_classes=4)
    return supernets.elastic(model, torch.zeros(1, 1, 8, 8), width=[4, 8], kernel=[3, 5], resolution=[6, 8])


def _residual() -> Elastic:
    torch.manual_seed(0)
    model = ResNetCifar(8, in_channels=1, widths=(8, 12, 16))
    return supernets.elastic(model, torch.zeros(1, 1, 8, 8), width=[0.5, 1.0], depth=True)


def _transformer() -> Elastic:
    torch.manual_seed(0)
    lm = char_lm(16, 8, 12, 2, 2.0, 2, head_dim=4)
    return supernets.elastic(
        lm, torch.zeros(1, 8, dtype=torch.long), width=[0.5, 1.0], heads=[1, 2], depth=[1, 2]
    )


def _candidates() -> Elastic:
    torch.manual_seed(0)
    place = supernets.OneOf(
        {
            "plain": nn.Conv2d(6, 6, 1),
            "deep": nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 6, 1)),
        }
    )
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), place, nn.Flatten(), nn.Linear(96, 3))
    return supernets.elastic(model, torch.zeros(1, 1, 4, 4), width={"2.*.deep.0": [4, 8], "0": [3, 6]})


EVERY = [_convolutions, _kernels, _residual, _transformer, _candidates]


def _input(sup: Elastic, batch: int) -> Tensor:
    (example,) = sup.blueprint.structure.inputs.args
    generator = torch.Generator().manual_seed(1)
    if example.is_floating_point():
        return torch.randn(batch, *example.shape[1:], generator=generator)
    return torch.randint(0, 16, (batch, *example.shape[1:]), generator=generator)


def _one_hot(tables: CostTables, choice: Mapping[str, Any], double: bool = False) -> dict[str, Tensor]:
    kind = torch.float64 if double else torch.float32
    return {
        name: F.one_hot(torch.tensor(values.index(choice[name])), len(values)).to(kind).requires_grad_()
        for name, values in tables.values.items()
    }


@pytest.mark.parametrize("figure", ["macs", "params"])
@pytest.mark.parametrize("make", EVERY)
def test_tables_and_soft_costs_of_one_hot_policies_are_the_cost_exactly(make: Any, figure: str) -> None:
    sup = make()
    tables = cost_tables(sup, figure)
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice = sup.space.sample(rng)
        wanted = getattr(sup.cost(choice), figure)
        assert tables.of(choice) == wanted
        assert tables.soft(_one_hot(tables, choice)).item() == wanted
        assert tables.additive.of(choice, sup.space.active(choice)) == wanted


def test_soft_costs_are_expectations() -> None:
    sup = _convolutions()
    tables = cost_tables(sup)
    policies = {n: torch.full((len(v),), 1 / len(v), dtype=torch.float64) for n, v in tables.values.items()}
    mean = np.mean([sup.macs(c) for c in sup.space.enumerate()])
    assert tables.soft(policies).item() == pytest.approx(mean)


def test_counts_of_bins_are_those_of_all_choices() -> None:
    """The histogram of uniform sampling is the convolution of the layers' costs, which counts exactly."""
    sup = _convolutions()
    tables = cost_tables(sup)
    bins = Bins.of(tables, 8)
    costs = np.array([sup.macs(c) for c in sup.space.enumerate()])
    assert (bins.lo, bins.hi) == (costs.min(), costs.max())
    rng = np.random.default_rng(0)
    drawn = np.array([bins.index(tables.of(sup.space.sample(rng))) for _ in range(4000)])
    for k, (lo, hi) in enumerate(zip(bins.edges[:-1], bins.edges[1:], strict=True)):
        inside = int(((costs >= lo) & (costs <= hi)).sum())
        assert tables.space.constrained(tables.additive, lo, hi).size() == inside
        assert (drawn == k).mean() == pytest.approx(inside / len(costs), abs=0.03)


def test_bins_split_the_range_and_not_the_choices() -> None:
    bins = Bins(10.0, 90.0, 4)
    assert bins.edges.tolist() == [10, 30, 50, 70, 90]
    assert bins.targets.tolist() == [20, 40, 60, 80]
    assert [bins.index(c) for c in (0, 10, 29, 31, 90, 100)] == [0, 0, 0, 1, 3, 3]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", EVERY)
def test_gated_networks_equal_slices(make: Any, training: bool) -> None:
    sup = make().train(training)
    tables, gating = cost_tables(sup), Gating(sup)
    x, rng = _input(sup, 6), np.random.default_rng(0)
    for _ in range(4):
        choice = sup.space.sample(rng)
        full = sup.space.max()
        if "resolution" in choice:
            full = full.replace(resolution=choice["resolution"])
        policies = {n: p for n, p in _one_hot(tables, choice).items() if n != "resolution"}
        Gated((full,), policies=policies, gating=gating).apply(sup, 6)
        got = sup(x)
        torch.testing.assert_close(got, sup.set(choice)(x), atol=1e-6, rtol=0)


def test_a_gate_is_the_policy_times_the_matrix_of_prefixes_and_its_gradient_reaches_every_width() -> None:
    sup = _convolutions()
    tables, gating = cost_tables(sup), Gating(sup)
    choice = sup.space.min()
    policies = _one_hot(tables, choice)
    name = next(iter(policies))
    gates = gating._gates(gating._mixing.check(policies))
    prefixes = torch.tensor([[1.0] * w + [0.0] * (12 - w) for w in (4, 8, 12)])
    axis = sup.blueprint.structure.axes[sup.blueprint.widths[0].axes[0]]
    torch.testing.assert_close(gates[axis.parts[0]], policies[name] @ prefixes)
    Gated((sup.space.max(),), policies=policies, gating=gating).apply(sup, 6)
    sup(_input(sup, 6)).square().sum().backward()
    gradient = policies[name].grad
    assert gradient is not None and len(set(gradient.tolist())) == 3


def test_straight_through_is_exactly_one_hot() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    hard = straight_through(logits.softmax(1))
    assert set(hard.unique().tolist()) == {0.0, 1.0} and bool((hard.sum(1) == 1).all())
    (gradient,) = torch.autograd.grad(hard[:, 0].sum(), logits)
    (wanted,) = torch.autograd.grad(logits.softmax(1)[:, 0].sum(), logits)
    torch.testing.assert_close(gradient, wanted)


def test_probabilities_sum_to_one_stay_above_the_floor_and_are_equal_for_equal_improvements() -> None:
    improvement = np.array([0.0, 0.5, 0.01, 0.02])
    p = shifted(improvement, epsilon=0.1)
    assert p.sum() == pytest.approx(1)
    assert p.min() >= 0.1 / 4
    assert p.argmax() == 1 and p.argmin() == 0
    np.testing.assert_allclose(shifted(np.full(4, 0.3)), 0.25)
    np.testing.assert_allclose(shifted(np.zeros(4), least=1e-3), 0.25)
    tiny = shifted(np.array([0.0, 1e-7, 0.0, 0.0]), least=1e-3)  # what has converged is not blown up
    np.testing.assert_allclose(tiny, 0.25, atol=1e-3)


def test_bins_are_drawn_by_their_probabilities() -> None:
    from scipy.stats import chisquare

    sampler = ProbabilityShift(bins=4, generator="rejection", seed=5)
    sampler.attach(_convolutions())
    sampler.p = np.array([0.1, 0.2, 0.3, 0.4])
    seen = np.zeros(4)
    for step in range(2000):
        (draw,) = sampler.draw(step)
        seen[sampler.bins.index(sampler.tables.of(draw.choice))] += 1
    assert chisquare(sampler.counts, 2000 * sampler.p).pvalue > 1e-3
    assert chisquare(seen, 2000 * sampler.p).pvalue > 1e-3


def test_exact_draws_lie_in_their_bin() -> None:
    tables = cost_tables(_convolutions())
    bins, rng = Bins.of(tables, 6), np.random.default_rng(0)
    exact = RejectionGenerator(tables, bins)
    near = RejectionGenerator(tables, bins, share=0.1)
    for place, cost in enumerate(bins.targets):
        assert all(bins.index(tables.of(exact.choice(cost, rng))) == place for _ in range(5))
        assert abs(tables.of(near.choice(cost, rng)) / cost - 1) <= 0.1


def _trained() -> tuple[CostTables, LSTMGenerator, float, float]:
    tables = cost_tables(_convolutions())
    bins = Bins.of(tables, 4)
    generator = LSTMGenerator(tables, bins, hidden=32, seed=0)
    wanted = torch.from_numpy(bins.targets).repeat_interleave(8)
    noise = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(generator.parameters(), lr=5e-3)
    misses = []
    for step in range(150):
        generator.progress = step / 150
        loss = generator.miss(generator(wanted, noise), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        misses.append(loss.item())
    return tables, generator, float(np.mean(misses[:10])), float(np.mean(misses[-10:]))


def test_a_generator_learns_to_meet_requests() -> None:
    tables, generator, before, after = _trained()
    assert after < before / 2.5
    rng = np.random.default_rng(0)
    small = [tables.of(generator.choice(generator.bins.targets[0], rng)) for _ in range(10)]
    large = [tables.of(generator.choice(generator.bins.targets[-1], rng)) for _ in range(10)]
    assert np.mean(small) < np.mean(large) / 2
    assert len(set(small)) > 1  # it draws: no table of one answer a bin


def test_a_supernet_generates_for_a_budget_exactly_enough() -> None:
    _, generator, _, _ = _trained()
    sup = _convolutions()
    for choice in list(sup.space.enumerate())[::10]:
        cost = sup.macs(choice)  # so that there is one
        made = sup.generate(generator, f"macs={cost}", within=0.02)
        assert abs(sup.macs(made) / cost - 1) <= 0.02
    half = sup.macs(sup.generate(generator, "macs=0.5", within=0.1))
    assert half == pytest.approx(0.5 * sup.macs(sup.space.max()), rel=0.1)
    with pytest.raises(UsageError, match="macs alone"):
        sup.generate(generator, "params=0.5")


def _data() -> Splits:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 4
    x = torch.randn(96, 1, 8, 8, generator=generator) + y.reshape(-1, 1, 1, 1)
    part = Part.from_tensors(x, y)
    return Splits("steps", part, part.head(2), part, tuple("abcd"))


@pytest.mark.parametrize("gates", [True, False])
def test_training_shifts_probes_and_trains_the_generator_with_the_weights(gates: bool) -> None:
    sup, data = _convolutions(), _data()
    sampler = ProbabilityShift(data.train.head(48), bins=4, probe_every=3, per_bin=2, gates=gates, warmup=0.2)
    recipe = Recipe(epochs=4, batch_size=16, lr=0.05, augment=False, precision="fp32")
    trained = supernets.train(sup, data, recipe, sampler=sampler).model
    assert isinstance(trained, Elastic)
    assert sampler.counts.sum() == 24
    assert [line["step"] for line in sampler.trace] == list(range(3, 25, 3))
    assert sampler.trace[-1]["p"] != [0.25] * 4
    assert min(sampler.trace[-1]["p"]) >= 0.1 / 4
    fresh = LSTMGenerator(sampler.tables, sampler.bins)
    assert isinstance(sampler.generator, LSTMGenerator)
    assert not torch.equal(sampler.generator.cell.weight_ih, fresh.cell.weight_ih)
    again = ProbabilityShift(data.train.head(48), bins=4, per_bin=2, gates=gates)
    again.attach(sup)
    again.load_state_dict(sampler.state_dict())
    again.begin(State(trained, torch.optim.SGD(trained.parameters(), lr=0.1), 24, 6, step=24))
    assert again.draw(30)[0].choices == sampler.draw(30)[0].choices


def test_the_loss_of_the_training_reaches_the_generator_through_gates() -> None:
    sampler = ProbabilityShift(bins=4, warmup=0.0)
    sup = _convolutions()
    sampler.attach(sup)
    (draw,) = sampler.draw(0)
    draw.apply(sup, 6)
    assert isinstance(draw, Gated) and draw.chosen is not None
    torch.testing.assert_close(
        sup(_input(sup, 6)), sup.set(draw.chosen)(_input(sup, 6)), atol=1e-6, rtol=1e-5
    )
    draw.apply(sup, 6)
    sup(_input(sup, 6)).square().sum().backward()
    assert isinstance(sampler.generator, LSTMGenerator)
    gradients = [p.grad for p in sampler.generator.heads.parameters()]
    assert all(g is not None and bool(g.any()) for g in gradients)


def test_probes_change_nothing_and_repeat() -> None:
    sup, data = _convolutions().train(), _data()
    sampler = ProbabilityShift(data.train, bins=4)
    sampler.attach(sup)
    before = {name: t.clone() for name, t in sup.state_dict().items()}
    first, second = sampler.probe(sup), sampler.probe(sup)
    np.testing.assert_array_equal(first, second)
    assert all(torch.equal(t, before[name]) for name, t in sup.state_dict().items())
    assert all(module.training for module in sup.modules())
    assert len({sampler.bins.index(sampler.tables.of(c)) for c in sampler.probed}) == 4


def test_without_probes_bins_stay_equally_likely() -> None:
    sampler = ProbabilityShift(bins=4, generator="rejection", probe_every=1)
    sup = _convolutions()
    sampler.attach(sup)
    state = State(sup, torch.optim.SGD(sup.parameters(), lr=0.1), 10, 5, step=5)
    sampler.after_step(state)
    np.testing.assert_allclose(sampler.p, 0.25)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(UsageError, match="generator"):
        ProbabilityShift(generator="oracle")
    with pytest.raises(UsageError, match="epsilon"):
        ProbabilityShift(epsilon=2.0)
    with pytest.raises(UsageError, match="figure"):
        cost_tables(_convolutions(), "latency")
    tables = cost_tables(_convolutions())
    with pytest.raises(UsageError, match="budget"):
        supernets.generate(RejectionGenerator(tables, Bins.of(tables, 4)), -1.0)
