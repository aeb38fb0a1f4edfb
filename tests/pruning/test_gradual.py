"""Gradual pruning with regrowth: GraNet, and GMP, RigL and static training as the same loop."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.pruning import MaskState, Sparsity, TrainingCost, plasticity
from netwright.pruning.schedules import schedule as schedules
from netwright.structure import trace
from netwright.train import Recipe, Snapshots, evaluate, fit

STEPS = 60


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))


def data(count=256):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 12, generator=generator)
    part = Part.from_tensors(x, (x[:, :4] + x[:, 4:8] ** 2).argmax(1))
    return Splits("blobs", part, part, part, tuple("abcd"))


def walk(schedule, keep=0.1, *, seed=0, steps=STEPS, look=None, **settings):
    """Train in a loop of one's own; `look` sees the masks before and after every event."""
    model = network(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsity = Sparsity(keep, schedule=schedule, seed=seed, **settings).attach(model, optimizer, steps)
    batches = list(data().train.batches(32)) * (steps // 8 + 1)
    for x, y in batches[:steps]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        before = copy.deepcopy(model.state_dict())
        events = len(sparsity.changes)
        sparsity.step()
        if look and len(sparsity.changes) > events:
            look(sparsity, model, optimizer, before)
    return model, sparsity


def masks_in(state):
    return {n.removeprefix("_nw_mask."): t for n, t in state.items() if n.startswith("_nw_mask.")}


def test_the_share_falls_as_a_cube_from_end_to_end():
    granet = schedules.granet(initial=1.0, begin=0, end=100, every=1, rate=0.0)
    kept = [granet.event(step, 200, 0.1).keep for step in range(1, 101)]
    assert kept[49] == pytest.approx(1 - 0.7875)
    assert kept[-1] == 0.1 and all(a > b for a, b in itertools.pairwise(kept))
    assert kept[0] == pytest.approx(0.1 + 0.9 * 0.99**3)
    # Ends that the interval does not divide still reach the target, at the last event before them.
    uneven = schedules.cubic(begin=3, end=100, every=7)
    events = {s: e.keep for s in range(201) if (e := uneven.event(s, 200, 0.1))}
    assert max(events) <= 100 and events[max(events)] == 0.1


def test_what_is_exchanged_falls_as_a_cosine_over_the_whole_training():
    granet = schedules.granet(rate=0.5)
    assert granet.exchanged(0, 1000) == pytest.approx(0.5)
    assert granet.exchanged(500, 1000) == pytest.approx((0.5 + 0.005) / 2)
    assert granet.exchanged(1000, 1000) == pytest.approx(0.005)
    # It goes on after the share is reached, and can be made to end.
    assert granet.event(900, 1000, 0.1).rate > 0 and granet.event(900, 1000, 0.1).keep is None
    assert schedules.granet(until=0.6).event(900, 1000, 0.1) is None
    assert schedules.granet(until=0.6).event(600, 1000, 0.1).rate > 0


@pytest.mark.parametrize("allocation", ["global", "uniform-last"])
@pytest.mark.parametrize("initial", [1.0, 0.5])
def test_every_event_meets_its_share_and_the_end_is_exact(initial, allocation):
    found = []

    def look(sparsity, model, optimizer, before):
        event = sparsity.schedule.event(sparsity.changes[-1].step, STEPS, 0.1)
        total = sum(m.numel() for m in MaskState.of(model).masks.values())
        kept = sum(MaskState.of(model).kept.values())
        found.append(event.keep)
        if event.keep is not None:
            assert abs(kept - event.keep * total) <= 1
        else:
            assert kept == round(0.1 * total)

    model, sparsity = walk(schedules.granet(initial=initial, every=4), look=look, allocation=allocation)
    assert found.count(None) >= 3 and len([f for f in found if f]) == 9
    masks = MaskState.of(model)
    total = sum(m.numel() for m in masks.masks.values())
    assert sum(masks.kept.values()) == round(0.1 * total)
    assert sum(int((p != 0).sum()) for n, p in model.named_parameters() if n in masks.masks) <= round(
        0.1 * total
    )
    assert sparsity.changes[0].keep == pytest.approx(0.5, abs=1 / total) or initial == 1.0


def test_grown_weights_are_zero_without_momentum_where_the_gradient_was_largest():
    checked = []

    def look(sparsity, model, optimizer, before):
        step = sparsity.changes[-1].step
        event = sparsity.schedule.event(step, STEPS, 0.1)
        old, new = masks_in(before), MaskState.of(model).masks
        share = sparsity.keep if event.keep is None else event.keep
        pruned = prune_all(before, old, share)
        for name, mask in new.items():
            weight = dict(model.named_parameters())[name]
            assert int(mask.sum()) == int(pruned[name].sum()), "the exchange keeps every layer's count"
            expected = exchanged(before[name], pruned[name], weight.grad, event.rate)
            assert torch.equal(mask, expected)
            grown = mask & ~stays(before[name], pruned[name], event.rate)
            assert not weight[grown].any() and not weight[~mask].any()
            slot = optimizer.state[weight]["momentum_buffer"]
            assert not slot[grown].any() and not slot[~mask].any()
            assert bool((weight[mask & ~grown] == before[name][mask & ~grown]).all())
            checked.append(int(grown.sum()))

    walk(schedules.granet(initial=0.5, every=4), look=look)
    assert sum(checked) > 100


def prune_all(state, masks, share):
    """One threshold over all layers, by sorting: the reference."""
    names = list(masks)
    scores = np.concatenate([np.where(masks[n], state[n].abs(), -1.0).ravel() for n in names])
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[: round(share * len(scores))]] = True
    parts = np.split(kept, np.cumsum([masks[n].numel() for n in names])[:-1])
    return {n: torch.tensor(p).reshape(masks[n].shape) for n, p in zip(names, parts, strict=True)}


def moved(mask, rate):
    return min(round(rate * int(mask.sum())), int((~mask).sum()))


def stays(weight, mask, rate):
    flat = np.where(mask, weight.abs(), -1.0).ravel()
    kept = np.zeros(len(flat), dtype=bool)
    kept[np.argsort(-flat, kind="stable")[: int(mask.sum()) - moved(mask, rate)]] = True
    return torch.tensor(kept).reshape(mask.shape)


def exchanged(weight, mask, gradient, rate):
    """Drop the smallest, grow where the gradient is largest among all zeros, those just dropped included."""
    left = stays(weight, mask, rate)
    wanted = np.where(left, -1.0, gradient.abs()).ravel()
    grown = np.argsort(-wanted, kind="stable")[: moved(mask, rate)]
    flat = left.reshape(-1).clone()
    flat[torch.tensor(grown.copy())] = True
    return flat.reshape(mask.shape)


def test_the_gradient_to_grow_by_is_that_of_the_last_batch_at_all_weights():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = list(data().train.batches(32))
    sparsity = Sparsity(0.2, schedule=schedules.rigl(rate=0.5, every=2)).attach(model, optimizer, STEPS)
    for x, y in batches[:2]:
        before = copy.deepcopy(model.state_dict())
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        mid = copy.deepcopy(model.state_dict())
        sparsity.step()
    twin = network()
    twin.load_state_dict({n: t for n, t in before.items() if not n.startswith("_nw_mask.")})
    nn.functional.cross_entropy(twin(x), y).backward()
    gradients = dict(twin.named_parameters())
    rate = sparsity.schedule.exchanged(2, STEPS)
    for name, mask in masks_in(before).items():
        assert bool((gradients[name].grad[~mask] != 0).any()), "gradients of masked weights are dense"
        held = torch.where(mask, mid[name], 0)
        expected = exchanged(held, mask, gradients[name].grad, rate)
        assert torch.equal(MaskState.of(model).masks[name], expected)


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_without_exchange_it_is_gradual_magnitude_pruning_bit_for_bit():
    one, _ = walk(schedules.granet(initial=1.0, rate=0.0, every=4))
    other, _ = walk(schedules.cubic(every=4))
    third, _ = walk(schedules.granet(initial=1.0, every=4))
    assert same(one, other) and not same(one, third)


def test_from_the_final_share_it_is_rigl_and_without_exchange_static():
    rigl, _ = walk(schedules.rigl(rate=0.5, every=4))
    assert same(walk(schedules.granet(initial=0.1, rate=0.5, every=4))[0], rigl)
    static, run = walk(schedules.granet(initial=0.1, rate=0.0, every=4))
    assert same(static, walk(schedules.static(every=4))[0])
    assert len(run.changes) == 1 and not same(static, rigl)


def test_set_grows_elsewhere_than_rigl_and_explores_more_than_static():
    runs = {n: walk(n)[1] for n in ("set", "rigl", "static")}
    explored = {n: r.changes[-1].explored for n, r in runs.items()}
    assert explored["static"] == pytest.approx(0.1, abs=0.01)
    assert min(explored["set"], explored["rigl"]) > 1.3 * explored["static"]


def test_the_trainer_and_a_loop_of_ones_own_make_the_same_network():
    """The callback sees the gradient of the step, and no optimiser is made anew at an event."""
    recipe = Recipe(epochs=4, batch_size=32, precision="fp32", weight_decay=0.0, schedule="constant")
    settings = {"keep": 0.1, "schedule": schedules.granet(every=4)}
    fitted = fit(network(), data(), recipe, device="cpu", callbacks=[Sparsity(**settings)])
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    sparsity = Sparsity(**settings).attach(model, optimizer, 32)
    for epoch in range(4):
        generator = torch.Generator().manual_seed(epoch * 1_009 * 1_000_003)
        for x, y in data().train.batches(32, shuffle=True, generator=generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            sparsity.step()
    assert same(fitted.model, model)


def test_an_allocation_never_brings_masked_weights_back():
    """From random masks by ERK to equal shares: small layers have less than is asked of them."""

    def look(sparsity, model, optimizer, before):
        old = masks_in(before)
        assert all(bool((old[n] | ~m).all()) for n, m in MaskState.of(model).masks.items())

    for initial in ("uniform", {"0.weight": 0.1, "2.weight": 0.9}):
        schedule = schedules.Gradual(initial=0.5, every=4, initial_allocation=initial)
        model, _ = walk(schedule, 0.3, look=look, allocation="uniform")
        masks = MaskState.of(model).masks
        assert sum(int(m.sum()) for m in masks.values()) == round(
            0.3 * sum(m.numel() for m in masks.values())
        )


def test_the_cost_of_a_training_counts_what_is_kept_and_dense_gradients():
    model, splits = network(), data()
    net = trace(model, splits.example(2))
    recipe = Recipe(epochs=4, batch_size=32, precision="fp32")
    steps = 32

    def cost(schedule, keep=0.1):
        sparsity = Sparsity(keep, schedule=schedule)
        counter = TrainingCost(net, sparsity)
        fit(model, splits, recipe, device="cpu", callbacks=[sparsity, counter])
        return counter

    dense = 3 * steps * net.macs
    static = cost(schedules.static())
    assert static.dense == dense
    kept = (
        1
        - sum((1 - k / m.numel()) * m.numel() for m, k in zip(*masks_and_kept(static.sparsity), strict=True))
        / net.macs
    )
    assert static.macs == pytest.approx(dense * kept)
    rigl = cost(schedules.rigl(every=8))
    grows = sum(c.grown > 0 for c in rigl.sparsity.changes[1:])
    assert grows == 3  # not at the very end
    assert rigl.macs == pytest.approx(static.macs + grows * net.macs * (1 - kept), rel=1e-6)
    gmp, granet = cost(schedules.cubic(every=4)), cost(schedules.granet(every=4))
    assert static.macs < granet.macs < gmp.macs < dense


def masks_and_kept(sparsity):
    model = network()
    names = [n for n, p in model.named_parameters() if p.dim() > 1]
    masks = [dict(model.named_parameters())[n] for n in names]
    share = sparsity.changes[-1].keep
    from netwright.pruning import Layers, layer_counts

    counts = layer_counts(Layers({n: m.shape for n, m in zip(names, masks, strict=True)}), 0.1, "erk")
    assert share == pytest.approx(sum(counts.values()) / sum(m.numel() for m in masks))
    return masks, [counts[n] for n in names]


def test_plasticity_is_the_accuracy_gained_since_the_checkpoint():
    model, splits = network(), data()
    recipe = Recipe(epochs=6, batch_size=32, precision="fp32", augment=False)
    snapshots = Snapshots([0, 16], optimizer=True)
    fit(model, splits, recipe, device="cpu", callbacks=[snapshots])
    found = plasticity(model, snapshots.taken, splits, recipe, prune=0.5, steps=20, device="cpu")
    assert [f.step for f in found] == [0, 16]
    for one in found:
        twin = network()
        twin.load_state_dict(snapshots.taken[one.step])
        assert one.before == evaluate(twin, splits.val, device="cpu").accuracy
        assert one.gain == pytest.approx(one.after - one.before)
    # Nothing learnt before the first step, so the most is gained there.
    assert found[0].gain > found[1].gain
    # The same points, all but everything pruned: less is left to recover with.
    harder = plasticity(model, snapshots.taken, splits, recipe, prune=0.98, steps=20, device="cpu")
    assert harder[1].after < found[1].after
    whole = plasticity(
        model, snapshots.taken, splits, recipe, prune=0.98, steps=20, regenerate="all", device="cpu"
    )
    assert whole[1].after > harder[1].after
    with pytest.raises(UsageError, match="ended"):
        plasticity(model, {48: snapshots.taken[16]}, splits, recipe, steps=20, device="cpu")


def test_what_is_pruned_and_put_back_begins_anew_at_zero():
    event = schedules.Event
    plan = schedules.Custom(events={2: event(0.1), 3: event(restore=True)})
    found = {}

    def look(sparsity, model, optimizer, before):
        found[sparsity.changes[-1].step] = copy.deepcopy(model.state_dict())

    model, _ = walk(plan, look=look, steps=4)
    pruned, back = masks_in(found[2]), masks_in(found[3])
    assert all(bool(m.all()) for m in back.values()) and not all(bool(m.all()) for m in pruned.values())
    for name, mask in pruned.items():
        assert not found[3][name][~mask].any()
    after = dict(model.named_parameters())
    assert any(bool(after[n][~m].any()) for n, m in pruned.items()), "and trains on from there"


def test_a_training_that_stops_early_is_the_beginning_of_the_whole():
    splits, recipe = data(), Recipe(epochs=4, batch_size=32, precision="fp32")
    snapshots = Snapshots([11])
    fit(network(), splits, recipe, device="cpu", callbacks=[snapshots])
    short = fit(network(), splits, recipe, device="cpu", stop=11)
    state = short.model.state_dict()
    assert all(torch.equal(state[n], t) for n, t in snapshots.taken[11].items())
    assert len(short.history) == 2 and math.isfinite(short.history[-1]["loss"])
    with pytest.raises(UsageError, match="cannot stop"):
        fit(network(), splits, recipe, device="cpu", start=11, stop=11)


@pytest.mark.slow
def test_resnet50_by_the_interval_of_imagenet():
    """The full-size path on random weights: dT = 4000, events as in a training of 100 epochs."""
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet50()
    steps = 100 * 5004  # 1,281,167 pictures, 256 a step
    schedule = schedules.granet(initial=0.5, begin=0, end=30 * 5004, every=4000)
    events = [s for s in range(0, steps + 1, 1000) if schedule.event(s, steps, 0.2)]
    assert events[:3] == [0, 4000, 8000]
    assert schedule.event(37 * 4000, steps, 0.2).keep == 0.2
    assert schedule.event(38 * 4000, steps, 0.2).keep is None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    quick = schedules.granet(initial=0.5, begin=0, end=1, every=1)
    sparsity = Sparsity(0.2, schedule=quick).attach(model, optimizer, 10)
    nn.functional.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])).backward()
    optimizer.step()
    sparsity.step()
    masks = MaskState.of(model)
    assert sum(masks.kept.values()) == round(0.2 * sum(m.numel() for m in masks.masks.values()))
    assert len(masks.masks) == 54 and sparsity.changes[-1].grown > 0
