"""BigNAS: the sandwich's gradient, its teacher, blocks that begin as identities, the schedule."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import netwright as nw
from netwright.data import load
from netwright.errors import UsageError
from netwright.models import Residual
from netwright.nas import Choice
from netwright.supernets import InplaceDistill, Paths, samplers
from netwright.supernets.samplers.base import Draw
from netwright.supernets.samplers.progressive import ProgressiveShrinking
from netwright.train import Batch, Objective, Recipe, State, Step, cross_entropy, factor


def supernet(*, zero: bool = False, dtype: torch.dtype = torch.float32) -> nw.Elastic:
    torch.manual_seed(0)
    net = Residual((8, 8), depth=2, kernel=5).to(dtype)
    x = torch.randn(2, 1, 12, 12, dtype=dtype)
    return nw.elastic(
        net.zero_last_gamma() if zero else net,
        x,
        width=[0.5, 1.0],
        depth=True,
        kernel=[3, 5],
        resolution=[8, 12],
    )


def run_of(sup: nw.Elastic, seen: list[Step]):
    def run(batch: Batch, objective: Objective | None = None, weight: float = 1.0):
        logits = sup(batch.inputs)
        step = Step(batch.inputs, logits, batch.targets)
        loss = objective(step) if objective else cross_entropy(logits, batch.targets)
        (loss * weight).backward()
        seen.append(step)
        return step, loss.detach()

    return run


def gradients(sup: nw.Elastic) -> dict[str, torch.Tensor]:
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in sup.named_parameters()}


def test_gradient_of_a_step_is_the_sum_of_the_childrens() -> None:
    sup = supernet(dtype=torch.float64).train()
    batch = Batch(torch.randn(6, 1, 12, 12, dtype=torch.float64), torch.arange(6))
    sampler = samplers.Sandwich(2, seed=3)
    sampler.attach(sup)
    paths = Paths(sampler, InplaceDistill(), "max-only")
    state = State(sup, torch.optim.SGD(sup.parameters(), 0.1), 1, 1)
    seen: list[Step] = []
    paths(run_of(sup, seen), batch, sup, state)
    whole = gradients(sup)
    draws = sampler.draw(0)
    assert [d.role for d in draws] == ["max", "min", "random", "random"] and len(seen) == 4
    assert draws[0].choice == sup.space.max() and draws[1].choice == sup.space.min()
    soft = torch.softmax(seen[0].logits.detach(), 1)
    total = {n: torch.zeros_like(p) for n, p in sup.named_parameters()}
    for draw in draws:
        other = copy.deepcopy(sup)
        other.zero_grad()
        logits = other.set(draw.choice)(batch.inputs)
        cross_entropy(logits, batch.targets if draw.role == "max" else soft).backward()
        for name, gradient in gradients(other).items():
            total[name] += gradient
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, total[name], rtol=0, atol=1e-12)
    assert paths.passes == 4
    assert paths.macs == 6 * sum(sup.macs(d.choice) for d in draws)


def test_nothing_flows_through_the_teachers_answers() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    student = torch.randn(3, 4, requires_grad=True)
    first = Step(torch.zeros(3), logits, torch.zeros(3, dtype=torch.int64))
    for temperature in (1.0, 2.0):
        objective = InplaceDistill(temperature).objective(Draw(()), first)
        assert objective is not None
        objective(Step(torch.zeros(3), student, first.targets)).backward()
        assert logits.grad is None and student.grad is not None
    with pytest.raises(UsageError, match="largest"):
        InplaceDistill().objective(Draw(()), None)


def test_every_child_begins_as_the_shallowest() -> None:
    """Of the same widths and resolution: whatever depths and kernels are, blocks give back what they get."""
    sup = supernet(zero=True).eval()
    x = torch.randn(3, 1, 12, 12)
    shallow = {d.name: min(d.values) for d in sup.blueprint.depths}
    rng = np.random.default_rng(0)
    drawn = [sup.space.sample(rng) for _ in range(40)]
    for choice in [sup.space.min(), sup.space.max(), *drawn]:
        reference = sup.set({**choice, **shallow})(x)
        torch.testing.assert_close(sup.set(choice)(x), reference, rtol=0, atol=0)
    names = [*shallow, "resolution", *(w.name for w in sup.blueprint.widths)]
    assert all(len({c[name] for c in drawn}) > 1 for name in names)


def test_both_ends_cut_out_are_what_they_were() -> None:
    sup = supernet().eval()
    for choice in (sup.space.min(), sup.space.max()):
        side = choice["resolution"]
        x = torch.randn(3, 1, side, side)
        torch.testing.assert_close(sup.extract(choice)(x), sup.set(choice)(x), rtol=0, atol=1e-6)


def test_dropout_acts_on_the_largest_alone() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    sup = nw.elastic(net, torch.randn(2, 1, 8, 8), width=[0.5, 1.0]).train()
    sampler = samplers.Sandwich(1)
    sampler.attach(sup)
    dropping: list[bool] = []
    sup.network[1].register_forward_pre_hook(lambda m, _: dropping.append(m.training))
    state = State(sup, torch.optim.SGD(sup.parameters(), 0.1), 1, 1)
    batch = Batch(torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    Paths(sampler, InplaceDistill(), "max-only")(run_of(sup, []), batch, sup, state)
    assert dropping == [True, False, False] and sup.network[1].training


def test_exponential_schedule_with_a_floor() -> None:
    rates = [factor("exponential", k, 1000, gamma=0.97, period=2.4, floor=0.05) for k in range(1000)]
    for k in (0, 1, 24, 100):
        assert rates[k] == pytest.approx(max(0.05, 0.97 ** (k / 2.4)))
    assert rates[0] == 1.0 and rates[-1] == 0.05 and rates == sorted(rates, reverse=True)


def test_calibration_twice_gives_the_same_buffers() -> None:
    sup = supernet()
    batches = [torch.randn(4, 1, 12, 12) for _ in range(3)]
    choice = sup.space.min()
    sup.calibrate(batches, choice)
    first = {n: t.clone() for n, t in sup.statistics[choice].items()}
    sup.calibrate(batches, choice)
    assert all(torch.equal(t, first[n]) for n, t in sup.statistics[choice].items())


def test_decay_counts_once_in_a_step() -> None:
    """One optimiser step a batch, however many children: parameters without gradients shrink by one decay."""
    data = load("digits")
    net = nw.elastic(Residual((8, 8), depth=1, kernel=3), next(data.train.batches(2))[0], width=[0.5, 1.0])
    recipe = Recipe(
        epochs=1,
        limit=64,
        batch_size=64,
        lr=0.1,
        momentum=0.0,
        weight_decay=0.5,
        precision="fp32",
        schedule="constant",
    )
    silent = Paths(samplers.Sandwich(2), _Silent())
    made = nw.supernets.train(net, data, recipe, paths=silent, device="cpu").model
    before, after = net.network.stages[0][1].conv1.weight, made.network.stages[0][1].conv1.weight
    torch.testing.assert_close(after, before * (1 - 0.1 * 0.5), rtol=1e-5, atol=1e-7)


class _Silent:
    def objective(self, draw: Draw, first: Step | None) -> Objective:
        return Objective(((0.0, lambda step: step.logits.sum()),))


def test_kinds_are_opened_one_by_one() -> None:
    sup = supernet()
    sampler = ProgressiveShrinking(draws=2)
    sampler.attach(sup)
    sampler.begin(State(sup, torch.optim.SGD(sup.parameters(), 0.1), 80, 10))
    full = sup.space.max()

    def smaller(choice: Choice, name: str) -> bool:
        """Whether a dim matters and is not as large as it can be."""
        return sup.space.canonical(choice.replace(**{name: full[name]})) != choice

    free: list[set[str]] = []
    for start in (0, 20, 40, 60):
        names: set[str] = set()
        for step in range(start, start + 20):
            for draw in sampler.draw(step):
                names |= {n.partition(":")[0] for n in full if smaller(draw.choice, n)}
        free.append(names)
    assert free[0] == {"resolution"} and free[1] == {"resolution", "kernel"}
    assert free[2] == {"resolution", "kernel", "depth"} and free[3] == {
        "resolution",
        "kernel",
        "depth",
        "width",
    }
