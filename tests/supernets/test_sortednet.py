"""SortedNet: nested sub-models, their gradients and draws, one checkpoint, and text drafted by a prefix."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tests.supernets.test_bignas import gradients, run_of

import netwright as nw
from netwright.data import characters
from netwright.errors import DataError, UsageError
from netwright.models import Residual, char_lm
from netwright.nas import Choice
from netwright.supernets import HardLabels, Paths, for_budget, samplers
from netwright.supernets.network import binding
from netwright.supernets.network.decoding import greedy, speculative
from netwright.supernets.samplers.fixed import nested
from netwright.supernets.samplers.subsets import RandomSubsets
from netwright.train import State, cross_entropy


def supernet(width: int = 8, blocks: int = 3) -> nw.Elastic:
    torch.manual_seed(0)
    net = Residual((width,), depth=blocks, kernel=3)
    counts, depths = list(range(1, width + 1)), list(range(1, blocks + 1))
    return nw.elastic(net, torch.randn(2, 1, 8, 8), width=counts, depth=depths, share="network")


def test_the_grid_of_the_claim_has_160_sub_models() -> None:
    sup = supernet(32, 5)
    assert sup.space.size() == 160 == len(set(sup.space.enumerate()))


def _held(sup: nw.Elastic, choice: dict) -> dict[str, set[int]]:
    """Places of the storages that a sub-model reads."""
    sup.set(choice)
    held = {}
    for name, parameter in sup.network.named_parameters():
        tensor = sup.tensors().get(name, parameter)
        places = torch.arange(parameter.numel()).reshape(parameter.shape)
        cut = binding.cut(places, sup.plan.cuts.get(name, ()))
        assert cut.shape == tensor.shape
        skipped = any(name.startswith(f"{p}.") for p in sup.plan.skips)
        held[name] = set() if skipped else set(cut.reshape(-1).tolist())
    return held


def test_what_is_smaller_in_every_way_is_contained() -> None:
    """Inclusion of what the parameters of one read in what those of the other read, storage by storage."""
    sup = supernet()
    grid = [{"width": w, "depth:stages.0": d} for w in range(1, 9) for d in (1, 2, 3)]
    held = [_held(sup, choice) for choice in grid]
    pairs = 0
    for one, a in zip(grid, held, strict=True):
        for other, b in zip(grid, held, strict=True):
            smaller = all(one[n] <= other[n] for n in one)
            assert all(a[n] <= b[n] for n in a) == smaller
            pairs += smaller
    assert pairs == 36 * 6
    chain = [{"width": w, "depth:stages.0": d} for w, d in ((1, 1), (2, 1), (2, 2), (5, 3), (8, 3))]
    points = [sup.complete(c) for c in chain]
    assert nested(sup.space, points)
    assert not nested(sup.space, [*points, sup.complete({"width": 8, "depth:stages.0": 1})])


def test_gradient_of_a_step_is_the_mean_and_units_outside_stay() -> None:
    sup = supernet().train()
    family = [{"width": 2, "depth:stages.0": 1}, {"width": 4, "depth:stages.0": 2}]
    sampler = samplers.SortedPrefix(3, seed=1, members=family)
    sampler.attach(sup)
    from netwright.train import Batch

    batch = Batch(torch.randn(6, 1, 8, 8), torch.arange(6))
    optimizer = torch.optim.SGD(sup.parameters(), lr=0.1)
    Paths(sampler, HardLabels())(run_of(sup, []), batch, sup, State(sup, optimizer, 1, 1))
    whole = gradients(sup)
    total = {n: torch.zeros_like(p) for n, p in sup.named_parameters()}
    for draw in sampler.draw(0):
        sup.zero_grad()
        cross_entropy(sup.set(draw.choice)(batch.inputs), batch.targets).backward()
        for name, gradient in gradients(sup).items():
            total[name] += gradient / 3
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, total[name], rtol=1e-4, atol=1e-6)
    sup.zero_grad()
    for name, parameter in sup.named_parameters():
        parameter.grad = whole[name]
    before = {n: p.detach().clone() for n, p in sup.named_parameters()}
    optimizer.step()
    weight = "network.stages.0.1.conv1.weight"
    assert bool((whole[weight][4:] == 0).all()) and bool((whole[weight][:, 4:] == 0).all())
    assert bool((whole[weight][:4, :4] != 0).any())
    assert torch.equal(dict(sup.named_parameters())[weight][4:], before[weight][4:])
    third = "network.stages.0.3.conv1.weight"
    assert bool((whole[third] == 0).all())


def test_draws_follow_the_distribution_and_units_are_updated_accordingly() -> None:
    sup = supernet(8, 1)
    sampler = samplers.SortedPrefix(2, seed=0)
    sampler.attach(sup)
    drawn = Counter(d.choice["width"] for step in range(2000) for d in sampler.draw(step))
    assert chisquare([drawn[w] for w in range(1, 9)]).pvalue > 1e-3
    for unit in range(1, 9):
        share = sum(n for w, n in drawn.items() if w >= unit) / 4000
        assert share == pytest.approx((8 - unit + 1) / 8, abs=0.03)
    small, large = (sup.complete({"width": w}) for w in (2, 8))
    weighted = samplers.SortedPrefix(1, seed=0, members={small: 3.0, large: 1.0})
    weighted.attach(sup)
    count = sum(weighted.draw(step)[0].choice == small for step in range(2000))
    assert count / 2000 == pytest.approx(0.75, abs=0.03)


def test_one_checkpoint_holds_all() -> None:
    sup = supernet()
    plain = Residual((8,), depth=3, kernel=3).state_dict()
    assert {n: t.shape for n, t in sup.state_dict().items()} == {n: t.shape for n, t in plain.items()}


def test_the_largest_that_fits_is_found_without_search() -> None:
    sup = supernet()
    table = {c: sup.cost(c) for c in sup.space.enumerate()}
    for share in (0.1, 0.4, 1.0):
        choice = for_budget(sup, f"macs={share}")
        limit = share * sup.cost().macs
        assert table[choice].macs == max(c.macs for c in table.values() if c.macs <= limit)
    with pytest.raises(UsageError, match="keeps to"):
        for_budget(sup, "macs=0.0001")
    with pytest.raises(UsageError, match="counting"):
        for_budget(sup, "latency=8ms")


def test_random_subsets_have_the_sizes_but_not_the_place() -> None:
    sup = supernet().train()
    sampler = RandomSubsets(1, seed=0)
    sampler.attach(sup)
    x, places = torch.randn(4, 1, 8, 8), set()
    for step in range(6):
        (draw,) = sampler.draw(step)
        sup.zero_grad()
        draw.apply(sup, 4)
        sup(x).square().sum().backward()
        gradient = dict(sup.named_parameters())["network.stages.0.0.0.weight"].grad
        assert gradient is not None
        rows = gradient.abs().sum(dim=(1, 2, 3)).nonzero().reshape(-1).tolist()
        assert len(rows) == draw.choice["width"]
        places.add(tuple(rows))
    assert any(rows != tuple(range(len(rows))) for rows in places)


@pytest.mark.parametrize("ahead", [1, 3, 8])
def test_drafted_text_is_the_greedy_text(ahead: int) -> None:
    torch.manual_seed(0)
    model = char_lm(30, context=48, width=32, heads=2, depth=4, classes_first=True)
    sup = nw.elastic(model, torch.randint(0, 30, (1, 8)), depth=[1, 2, 4]).eval()
    prompt = torch.randint(0, 30, (5,))
    wanted = greedy(sup.set({}), prompt, 40)
    (name,) = [d.name for d in sup.space.dims]
    for draft in (1, 2, 4):
        got = speculative(sup, {name: draft}, prompt, 40, ahead=ahead)
        assert torch.equal(got.symbols, wanted.symbols)
        assert got.passes <= wanted.passes
    assert got.passes == -(-40 // (ahead + 1))  # what drafts for itself is always right
    with pytest.raises(UsageError):
        speculative(sup, {name: 1}, prompt, 4, ahead=0)


def test_text_is_cut_into_pieces_with_what_follows() -> None:
    splits = characters(16, limit=4000)
    x, y = next(splits.train.batches(8))
    assert x.shape == y.shape == (8, 16)
    assert torch.equal(x[:, 1:].long(), y[:, :-1])
    assert len(splits.classes) <= 96 and int(y.max()) < len(splits.classes)
    ends = [len(p) for p in (splits.train, splits.val, splits.test)]
    assert ends[0] == (int(0.8 * 4000) - 1) // 16 and min(ends) > 0
    with pytest.raises(DataError):
        characters(16, text="short")


def test_draws_of_a_step_depend_on_seed_and_step_alone() -> None:
    sup = supernet()
    for make in (samplers.Uniform, samplers.FairCycle, samplers.SortedPrefix, samplers.MultiArch):
        one, other = (make(seed=5) if make is not samplers.SortedPrefix else make(2, 5) for _ in range(2))
        one.attach(sup), other.attach(sup)
        assert [d.choices for d in one.draw(7)] == [d.choices for d in other.draw(7)]
    fair = samplers.FairCycle(0)
    fair.attach(sup)
    for step in range(3):
        used = Counter(d.choice["width"] for d in fair.draw(step))
        assert used == Counter(range(1, 9))
    assert isinstance(fair.draw(0)[0].choice, Choice) and np.isclose(sum(d.weight for d in fair.draw(0)), 1.0)
