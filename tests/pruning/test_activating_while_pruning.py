"""AP: what the waking half chooses, and that nothing else changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import netwright as nw
from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.metrics import dead_neurons
from netwright.pruning import AP, Context, MaskState, Sparsity, choose, movement, prunable_weights
from netwright.pruning.schedules import schedule as schedules
from netwright.pruning.schedules.cycles import CycleRun, lottery
from netwright.train import Recipe, fit


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3))


def tiny(count=96):
    torch.manual_seed(1)
    x = torch.rand(count, 8)
    part = Part.from_tensors(x, (x[:, 0] * 3).long())
    return Splits("tiny", part, part, part, tuple("012"))


def moved(model, seed=5):
    """Weights of the beginning of a cycle: the present ones and some movement."""
    generator = torch.Generator().manual_seed(seed)
    return {
        n: p.detach() + 0.1 * torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()
    }


def masks_of(model, density, seed=2):
    generator = torch.Generator().manual_seed(seed)
    weights = dict(model.named_parameters())
    return {n: torch.rand(weights[n].shape, generator=generator) < density for n in prunable_weights(model)}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_zeroing_negative_weights_never_kills_a_node(seed, share):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(9, 15)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(15, 9, generator=generator))
        layer.bias.copy_(torch.randn(15, generator=generator))
    x = torch.rand(30, 9, generator=generator)
    before = torch.relu(layer(x)) > 0
    total = dead_neurons(nn.Sequential(layer, nn.ReLU()), x)["1"].total
    with torch.no_grad():
        goes = (layer.weight < 0) & (torch.rand(15, 9, generator=generator) < share)
        layer.weight.mul_(~goes)
    assert bool(((torch.relu(layer(x)) > 0) | ~before).all())
    assert dead_neurons(nn.Sequential(layer, nn.ReLU()), x)["1"].total <= total


@pytest.mark.parametrize("q", [0.0, 0.02, 0.1])
def test_the_choice_is_that_of_the_definition(q):
    model = net()
    names, start, alive = prunable_weights(model), moved(model), masks_of(model, 0.7)
    with torch.no_grad():
        for n, m in alive.items():
            model.get_parameter(n).mul_(m)
    total, present = sum(m.numel() for m in alive.values()), sum(int(m.sum()) for m in alive.values())
    keep = round(0.8 * present) / total
    context = Context(None, alive, start, keep)
    chosen = choose(model, names, keep, importance=AP("magnitude", q), context=context, eligible=alive)
    # The same by hand, weight after weight.
    weights = [
        (n, i, float(v)) for n in names for i, v in enumerate(model.get_parameter(n).detach().flatten())
    ]
    live = [w for w in weights if bool(alive[w[0]].flatten()[w[1]])]
    going, wake = present - round(keep * total), int(q * present)
    live.sort(key=lambda w: abs(w[2]))
    gone, left = live[: going - wake], live[going - wake :]
    negative = [w for w in left if w[2] < 0]
    negative.sort(key=lambda w: abs(w[2] - float(start[w[0]].flatten()[w[1]])))
    gone += negative[:wake]
    expected = {n: m.clone() for n, m in alive.items()}
    for n, i, _ in gone:
        expected[n].view(-1)[i] = False
    assert all(torch.equal(chosen[n], expected[n]) for n in names)


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
@pytest.mark.parametrize("host", ["magnitude", "lamp", "random"])
def test_as_many_go_as_without(host, allocation):
    model = net()
    names, alive = prunable_weights(model), masks_of(net(), 0.9)
    context = Context(None, alive, moved(model), 0.5)
    plain, helped = (
        choose(model, names, 0.5, importance=i, allocation=allocation, context=context, eligible=alive)
        for i in (host, AP(host, 0.05))
    )
    count = {n: int(m.sum()) for n, m in helped.items()}
    assert sum(count.values()) == sum(int(m.sum()) for m in plain.values()) == round(0.5 * 436)
    assert not all(torch.equal(plain[n], helped[n]) for n in names)
    if allocation != "global":
        assert count == {n: int(m.sum()) for n, m in plain.items()}


def test_layers_that_read_negative_inputs_may_be_left_out():
    model = net()
    names, start = prunable_weights(model), moved(model)
    context = Context(None, {}, start, 0.8)
    plain = choose(model, names, 0.8 + 0.05, context=context)
    helped = choose(model, names, 0.8, importance=AP("magnitude", 0.05, exclude=("0",)), context=context)
    woken = {n: plain[n] & ~helped[n] for n in names}
    assert not bool(woken["0.weight"].any()) and sum(int(m.sum()) for m in woken.values()) >= 20
    assert all(bool((model.get_parameter(n)[m] < 0).all()) for n, m in woken.items())


def test_the_host_goes_on_where_no_negative_weight_is_left():
    model = net()
    with torch.no_grad():
        for p in model.parameters():
            p.abs_()
    context = Context(None, {}, moved(model), 0.5)
    names = prunable_weights(model)
    plain, helped = (
        choose(model, names, 0.5, importance=i, context=context) for i in ("magnitude", AP(q=0.1))
    )
    assert all(torch.equal(plain[n], helped[n]) for n in names)


def test_lite_acts_in_the_last_cycle_only():
    model, names = net(), prunable_weights(net())
    lite = AP("magnitude", 0.1, ap_cycles="last")
    plain = choose(model, names, 0.5, context=Context(None, {}, moved(model), 0.5))
    for last in (False, True):
        context = Context(None, {}, moved(model), 0.5, last=last)
        masks = choose(model, names, 0.5, importance=lite, context=context)
        assert all(torch.equal(plain[n], masks[n]) for n in names) is not last


def test_cycles_compare_with_the_beginning_of_their_own_cycle():
    recipe = Recipe(epochs=2, batch_size=32, lr=0.1, precision="fp32", augment=False)
    seen = []

    def spy(model, names, context):
        seen.append(({n: t.clone() for n, t in context.start.items()}, dict(context.masks), context.last))
        return movement(negative_only=True).function(model, names, context)

    waking = dataclasses.replace(movement(negative_only=True), function=spy)
    arms = {}
    for name, importance in (("host", "magnitude"), ("ap", AP("magnitude", 0.05, waking=waking))):
        run = CycleRun(net(), tiny(), recipe, lottery(0.2, 3, rewind=2), importance=importance, device="cpu")
        arms[name] = (run, list(run))
    counts = {name: [level.kept for level in levels] for name, (_, levels) in arms.items()}
    assert counts["host"] == counts["ap"]
    for level, (start, masks, last) in enumerate(seen):
        early = arms["ap"][0].early if level else dict(net().state_dict())
        for n in masks:
            expected = early[n] * masks[n]
            assert torch.equal(start[n], expected)
        assert last is (level == 2)
    for _, levels in arms.values():
        assert all(sum(int(m.sum()) for m in level.masks.values()) == level.kept for level in levels)


def test_it_runs_under_schedules_of_one_training():
    recipe = Recipe(epochs=4, batch_size=16, lr=0.05, precision="fp32", augment=False)
    for schedule in (schedules.granet(every=4), schedules.cubic(every=4)):
        ends = {}
        for name, importance in (("host", "magnitude"), ("ap", AP("magnitude", share=0.1))):
            callback = Sparsity(0.2, importance=importance, schedule=schedule)
            fitted = fit(net(), tiny(), recipe, device="cpu", callbacks=[callback])
            ends[name] = (MaskState.of(fitted.model), [(c.step, c.keep) for c in callback.changes])
        assert ends["host"][1] == ends["ap"][1]
        differ = [bool((ends["host"][0].masks[n] != m).any()) for n, m in ends["ap"][0].masks.items()]
        assert any(differ)
        assert sum(ends["ap"][0].kept.values()) == round(0.2 * 436)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError):
        AP(q=1.0)
    with pytest.raises(UsageError):
        AP(ap_cycles="some")
    with pytest.raises(UsageError, match="there is no importance"):
        AP("no-such")
    with pytest.raises(UsageError, match="earlier weights"):
        nw.sparsify(net(), keep=0.5, importance=AP(q=0.05))


def test_scales_of_normalisations_are_pruned_where_that_is_asked_for():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3))
    assert prunable_weights(model) == ["0.weight", "3.weight"]
    assert prunable_weights(model, select="norms") == ["0.weight", "1.weight", "3.weight"]
    assert prunable_weights(model, select=("3", "norms")) == ["1.weight", "3.weight"]
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1e-6, 1.0, 2e-6, 1.0]))
    sparse = nw.sparsify(model, keep=0.5, select="norms")
    assert sparse.model[1].weight.tolist() == [0.0, 1.0, 0.0, 1.0]
