"""Tickets and rewinding: what each level begins with, and what it is trained on."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from netwright.data import Part, Splits
from netwright.pruning import MaskState, stability
from netwright.pruning.schedules.cycles import CycleRun, Cycles, iterative, lottery
from netwright.train import Callback, Recipe, Snapshots, factor, fit

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.1, precision="fp32", augment=False, schedule="step")
PER_EPOCH = 6
STEPS = 18


class Seen(nn.Module):
    """Passes on what it gets and remembers it while training."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x):
        if self.training:
            self.batches.append(x.clone())
        return x


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        Seen(),
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def data():
    generator = torch.Generator().manual_seed(1)
    part = Part.from_tensors(torch.randn(96, 1, 6, 6, generator=generator), torch.arange(96) % 4)
    return Splits("noise", part, part, part, tuple("abcd"))


class Rates(Callback):
    """Learning rates by step, and where the training began."""

    def __init__(self):
        self.rates = {}
        self.first = None

    def begin(self, state):
        self.first = {n: t.clone() for n, t in state.model.state_dict().items()}

    def before_step(self, state):
        self.rates[state.step] = state.optimizer.param_groups[0]["lr"]


def levels(plan, seen=None, **settings):
    rates = {}

    def callbacks(level):
        rates[level] = Rates()
        return [rates[level]]

    run = CycleRun(
        network(), data(), RECIPE, plan, exclude=["9"], device="cpu", callbacks=callbacks, **settings
    )
    return run, list(run), rates


def weights(model):
    return {n: t for n, t in model.state_dict().items() if not n.startswith("_nw_mask.")}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_each_level_prunes_the_fraction_of_what_remains_rounded_up():
    assert lottery(0.2, 5).counts(1003, 0.1) == [1003, 802, 641, 512, 409, 327]
    remaining = [1003]
    for _ in range(5):
        remaining.append(remaining[-1] - math.ceil(0.2 * remaining[-1]))
    _run, found, _ = levels(lottery(0.2, 5, rewind=0))
    total = 8 * 9 + 8 * 8 * 9
    r = total
    for level in found:
        assert level.kept == sum(int(m.sum()) for m in level.masks.values()) == r
        assert sum(MaskState.of(level.model).kept.values()) == r
        r -= math.ceil(0.2 * r)
    assert list(found[0].masks) == ["1.weight", "4.weight"], "the output layer, norms and biases stay"


def test_masks_are_nested_and_cut_the_smallest_trained_weights():
    _, found, _ = levels(lottery(0.3, 3, rewind=4))
    for before, after in itertools.pairwise(found):
        trained = weights(before.model)
        kept, gone = [], []
        for name, mask in after.masks.items():
            assert bool((before.masks[name] | ~mask).all())
            kept.append(trained[name][mask].abs())
            gone.append(trained[name][before.masks[name] & ~mask].abs())
        assert float(torch.cat(gone).max()) <= float(torch.cat(kept).min())


def test_level_0_is_the_dense_training_bit_for_bit():
    _, found, _ = levels(lottery(0.2, 1, rewind=5))
    assert equal(weights(found[0].model), weights(fit(network(), data(), RECIPE, device="cpu").model))


def test_rewinding_to_0_is_training_the_masked_beginning_from_scratch():
    _, found, _ = levels(lottery(0.5, 2, rewind=0))
    for level in found[1:]:
        begin = network()
        state = MaskState(begin, level.masks)

        class Hold(Callback):
            def after_step(self, now):
                MaskState.of(now.model).apply_(now.optimizer)

        for name, mask in state.masks.items():
            assert torch.equal(
                dict(begin.named_parameters())[name], dict(network().named_parameters())[name] * mask
            )
        scratch = fit(begin, data(), RECIPE, device="cpu", callbacks=[Hold()])
        assert equal(weights(scratch.model), weights(level.model))


@pytest.mark.parametrize("start", [4, PER_EPOCH, 2 * PER_EPOCH + 1])
def test_a_level_goes_on_from_the_step_it_is_rewound_to(start):
    snapshots = Snapshots([start])
    dense = fit(network(), data(), RECIPE, device="cpu", callbacks=[snapshots])
    run, found, rates = levels(lottery(0.4, 2, rewind=start))
    early = snapshots.taken[start]
    batches = dense.model[0].batches
    for level in found[1:]:
        first = rates[level.level].first
        for name, tensor in early.items():
            expected = tensor * level.masks[name] if name in level.masks else tensor
            assert torch.equal(first[name], expected), name
        assert not torch.equal(first["2.running_mean"], network().state_dict()["2.running_mean"])
        assert list(rates[level.level].rates) == list(range(start, STEPS))
        for step, lr in rates[level.level].rates.items():
            assert lr == pytest.approx(RECIPE.lr * factor("step", step, STEPS))
        seen = level.model[0].batches
        assert len(seen) == STEPS - start
        # The dense run saw them at the same steps, in the same order.
        offset = len(batches) - STEPS
        assert all(torch.equal(a, b) for a, b in zip(batches[offset + start :], seen, strict=True))
    assert run.start == start


def test_steps_are_told_in_every_way():
    for text, step in (("50%", 9), ("1ep", 6), ("5it", 5), (0.5, 9), (7, 7)):
        assert Cycles(rewind=text).step(STEPS, PER_EPOCH) == step


def test_a_level_that_rewinds_the_learning_rate_alone_keeps_its_weights():
    _, found, rates = levels(Cycles(0.4, 1, 6, what="lr"))
    trained, first = weights(found[0].model), rates[1].first
    for name, tensor in trained.items():
        mask = found[1].masks.get(name, torch.ones((), dtype=torch.bool))
        assert torch.equal(first[name], tensor * mask)
    assert min(rates[1].rates) == 6
    short = Recipe(epochs=1, batch_size=16, lr=0.01, precision="fp32", schedule="constant")
    _, _, tuned = levels(iterative(0.4, 1, retrain=short))
    assert set(tuned[1].rates.values()) == {0.01} and len(tuned[1].rates) == PER_EPOCH


def test_a_dense_training_that_was_done_is_not_done_again():
    snapshots = Snapshots([4])
    dense = fit(network(), data(), RECIPE, device="cpu", callbacks=[snapshots])
    _, slow, _ = levels(lottery(0.4, 2, rewind=4))
    _, fast, rates = levels(lottery(0.4, 2, rewind=4), dense=dense.model, early=snapshots.taken[4])
    assert 0 not in rates or not rates[0].rates
    for one, other in zip(slow, fast, strict=True):
        assert equal(weights(one.model), weights(other.model)) and equal(one.masks, other.masks)


def test_a_ticket_trains_in_another_order_and_from_other_weights():
    run, found, _ = levels(lottery(0.4, 1, rewind=4))
    last = found[-1]
    same = run.train_ticket(last.masks)
    assert equal(weights(same.model), weights(last.model))
    other = run.train_ticket(last.masks, order=99)
    fresh = run.train_ticket(last.masks, weights=network(7).state_dict())
    apart = stability(last.model, other.model, run.early, last.masks)
    assert apart.distance > 0 and 0 < apart.angle < 180
    assert stability(last.model, same.model, run.early, last.masks).distance == 0
    assert not equal(weights(fresh.model), weights(last.model))
    for model in (other.model, fresh.model):
        assert all(not model.get_parameter(n)[~m].any() for n, m in last.masks.items())


def test_levels_resume_where_they_stopped(tmp_path):
    _, whole, _ = levels(lottery(0.4, 2, rewind=4))
    run = CycleRun(
        network(), data(), RECIPE, lottery(0.4, 2, rewind=4), exclude=["9"], device="cpu", folder=tmp_path
    )
    iterator = iter(run)
    next(iterator), next(iterator)
    del iterator, run
    again = CycleRun(
        network(), data(), RECIPE, lottery(0.4, 2, rewind=4), exclude=["9"], device="cpu", folder=tmp_path
    )
    for one, other in zip(whole, again, strict=True):
        assert equal(weights(one.model), weights(other.model))
    assert len(list(tmp_path.glob("level-*.pt"))) == 3


def test_a_ticket_loads_into_any_network_of_its_shapes():
    run, found, _ = levels(lottery(0.4, 1, rewind=4))
    ticket = run.ticket(found[-1].masks)
    one, other = ticket.build(network(3)), ticket.build(copy.deepcopy(network(4)))
    assert equal(weights(one), weights(other)) and equal(MaskState.of(one).masks, found[-1].masks)
