"""SuperTickets: the ratios, what a removal changes, what an optimiser remembers, and what a ticket is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from netwright.data import Part, Splits
from netwright.errors import ArtefactError, ModelError, UsageError
from netwright.models import (
    ClassHead,
    KeypointHead,
    MixedBlock,
    MixedNet,
    MultiResolution,
    SegmentationHead,
    branch_paths,
    without,
)
from netwright.pruning import MaskState, Sparsity, load
from netwright.pruning.masks.masked import bare
from netwright.pruning.schedules.penalties import L1, ScalePenalty, scales
from netwright.pruning.schedules.schedule import Steps
from netwright.pruning.systems.hidden_channels import (
    channel_macs,
    choose_removal,
    cost_weights,
    hidden_scales,
    whole_branches,
)
from netwright.pruning.systems.joint import JointTraining, alive_mask
from netwright.pruning.systems.optimizer_slots import cut_slots, put_slots_, slots_of
from netwright.pruning.systems.supertickets import draw_ticket, supertickets
from netwright.structure import shrink, trace
from netwright.train import Average, Recipe, Snapshots, build_optimizer, fit

RECIPE = Recipe(
    epochs=6, batch_size=32, lr=0.05, ema=0.9, precision="fp32", augment=False, channels_last=False
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny(count=96, size=10):
    part = Part.from_tensors(torch.randn(count, 1, size, size), torch.arange(count) % 10)
    return Splits("tiny", part, part, part, tuple("0123456789"))


def small(**settings):
    return MixedNet(**{"width": 6, "hidden": 4, "strides": (1, 2), **settings})


def joint(data=None, model=None, recipe=RECIPE, **settings):
    data = data or tiny()
    settings = {"budget": "macs=0.5", "keep": 0.2, "every": 1 / 6, "device": "cpu", **settings}
    return JointTraining(model or small(), data.example(), data, recipe, **settings)


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(t, theirs[n]) for n, t in mine.items())


def dead(model, hidden, per=2, beta=0.0):
    """Give some channels of every scale a scale of zero; returns which stay."""
    alive = {}
    for name, labels in hidden.items():
        norm = model.get_submodule(name.rpartition(".")[0])
        with torch.no_grad():
            norm.bias.uniform_(-1, 1)
            norm.weight[:per] = 0
            norm.bias[:per] = beta
        alive[name] = torch.arange(len(labels)) >= per
    return alive


def settled(model, shape=(16, 1, 10, 10)):
    """In float64, with statistics that are not those of the beginning."""
    model = model.double().train()
    for _ in range(3):
        model(torch.randn(shape, dtype=torch.float64))
    return model.eval()


# The schedule


@pytest.mark.parametrize(("keep", "last"), [(0.2, 8), (0.1, 9), (0.05, 9)])
def test_the_ratios_are_a_tenth_more_at_every_interval_up_to_the_target(keep, last):
    schedule = Steps(every=5, size=0.1)
    shares = [schedule.event(5 * k, 60, keep).keep for k in range(1, 13)]
    assert shares[:last] == [round(1 - 0.1 * k, 12) for k in range(1, last + 1)]
    assert shares[-1] == keep and min(shares) == keep
    assert all(schedule.event(s, 60, keep) is None for s in range(61) if s % 5 or s == 0)


def test_the_intervals_of_a_training_have_exactly_these_densities():
    recipe = Recipe(**{**RECIPE.__dict__, "epochs": 12})
    training = joint(keep=0.05, every=3, budget=None, threshold=-1.0, recipe=recipe).run()
    total = sum(m.numel() for m in training.at.drawn.values())
    expected = [round(max(1 - 0.1 * k, 0.05) * total) / total for k in range(1, 12)]
    kept = [i.keep for i in training.at.intervals]
    assert kept == pytest.approx([*expected, round(0.05 * total) / total], abs=1e-12)


@pytest.mark.parametrize("mode", [True, "next", False])
def test_the_final_density_and_the_budget_are_exact(mode):
    data, model = tiny(), small()
    ticket = draw_ticket(joint(data, model, reactivate=mode).run(), data)
    total = sum(m.numel() for m in ticket.masks.values())
    assert sum(int(m.sum()) for m in ticket.masks.values()) == round(0.2 * total)
    weights = dict(ticket.model.named_parameters())
    assert all(not weights[n][~m].any() for n, m in ticket.masks.items())
    # The reported cost is that of the network that is there.
    net = trace(bare(ticket.model), data.example())
    assert ticket.pruned.after.macs == net.macs <= 0.5 * trace(model, data.example()).macs
    assert ticket.pruned.after.params == net.params


def test_a_search_is_over_once_its_budget_is_met():
    """Nothing is removed any more, and no penalty is felt: trainings of one budget end at equal costs."""
    training = joint(penalty=L1(1.0), ramp=0, threshold=0.1)
    while training.at.net.macs > 0.5 * training.dense:
        training.advance()
    assert not training.done
    twin = training.branch(training.keep)
    twin.penalty = L1(0.0)
    cost = training.at.net.macs
    assert same(training.run().at.model, twin.run().at.model)
    assert training.at.net.macs == cost


def test_a_mode_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="reactivate"):
        Steps(reactivate="sometimes")


# Reactivation


def test_reactivated_weights_have_their_values_and_train_on():
    model, data = small(), tiny()
    sparsity = Sparsity(0.1, schedule=Steps(every=3, size=0.5))
    recipe = Recipe(**{**RECIPE.__dict__, "epochs": 2, "ema": 0.0, "weight_decay": 0.0})
    plain, masked = Snapshots([3, 4]), Snapshots([3, 4])
    fit(model, data, recipe, device="cpu", callbacks=[plain])
    fitted = fit(model, data, recipe, device="cpu", callbacks=[sparsity, masked])
    assert [c.keep for c in sparsity.changes] == pytest.approx([0.5, 0.1], abs=1e-3)
    for name, mask in sparsity.drawn.items():
        owner = name.removesuffix(".weight")
        hidden = f"{owner}.parametrizations.weight.original"
        before, after = masked.taken[3][hidden], masked.taken[4][hidden]
        # The values that they had at the pruning, and the update that a network without masks gives them.
        assert torch.equal(before, plain.taken[3][name]) and torch.equal(after, plain.taken[4][name])
        assert bool(before[~mask].any()) or not bool((~mask).any())
        assert bool((masked.taken[3][f"_nw_mask.{name}"]).all())
    assert MaskState.of(fitted.model).density == pytest.approx(0.1, abs=1e-3)


def test_masked_until_the_next_pruning_keeps_values_and_chooses_anew():
    data = tiny()
    plain = Recipe(**{**RECIPE.__dict__, "momentum": 0.0, "weight_decay": 0.0})
    training = joint(data, recipe=plain, reactivate="next", budget=None, threshold=-1.0).run(3)
    state = MaskState.of(training.at.model)
    name, mask = max(state.masks.items(), key=lambda item: int((~item[1]).sum()))
    mask, before = mask.clone(), state.parameter(name).detach().clone()
    assert state.soft and bool(before[~mask].all())  # masked, not zeroed
    training.advance()
    after = MaskState.of(training.at.model).parameter(name).detach()
    assert torch.equal(after[~mask], before[~mask]) and not torch.equal(after[mask], before[mask])
    fast = joint(data, recipe=Recipe(**{**RECIPE.__dict__, "lr": 0.3}), reactivate="next").run()
    assert any(i.regrown for i in fast.at.intervals)


def test_without_reactivation_nothing_comes_back():
    training = joint(reactivate=False).run()
    assert all(i.regrown == 0 for i in training.at.intervals[1:])
    assert all(i.moved > 0 for i in training.at.intervals[1:])


def test_given_back_at_once_the_training_is_one_without_masks():
    data, model = tiny(), small()
    masked, plain = joint(data, model).run(), joint(data, model, prune=False, reactivate=False).run()
    other = joint(data, model, keep=0.7).run()
    for one in (masked, other):
        weights = dict(bare(plain.at.model).named_parameters())
        state = MaskState.of(one.at.model)
        assert all(torch.equal(state.parameter(n), weights[n]) for n in state.masks)
        assert one.at.net.macs == plain.at.net.macs


def test_a_training_that_branches_is_the_one_that_was_run_whole():
    data, model = tiny(), small()
    whole = joint(data, model, keep=0.7, reactivate="next").run()
    stem = joint(data, model, keep=0.1, reactivate="next").run(9)
    branched = stem.branch(0.7).run()
    assert same(whole.at.model, branched.at.model) and stem.at.step == 9
    assert whole.at.intervals == branched.at.intervals


# The penalty


def test_the_factors_of_the_penalty_are_costs_whose_mean_over_channels_is_one():
    model = small(strides=(1, 1), stem_stride=1, hidden=4)
    net = trace(model, torch.randn(2, 1, 10, 10))
    hidden = hidden_scales(net, model)
    weights = cost_weights(net, hidden)
    counts = {n: len(labels) for n, labels in hidden.items()}
    assert set(hidden) == {f"{b}.4.weight" for b in branch_paths(model)}
    assert sum(counts[n] * w for n, w in weights.items()) / sum(counts.values()) == pytest.approx(1)
    macs = channel_macs(net, hidden)
    for name, cost in macs.items():  # an expansion, a kernel and a projection for every pixel
        kernel = int(name.split(".k")[1][0])
        assert cost == 100 * (6 + kernel**2 + 6)
    costs = torch.tensor([macs[n] for n in weights], dtype=torch.float64)
    found = torch.tensor(list(weights.values()), dtype=torch.float64)
    assert torch.allclose(found / found[0], costs / costs[0]) and len(set(weights.values())) == 3


def test_the_penalty_rises_in_a_straight_line_and_is_weighted():
    model, data = small(), tiny()
    name = "blocks.0.branches.k3.4.weight"
    seen = []

    class Look(ScalePenalty):
        def before_step(self, state):
            before = scales(state.model)[name].grad.clone()
            super().before_step(state)
            seen.append(float((scales(state.model)[name].grad - before)[0]))

    on = {name: torch.ones(4, dtype=torch.bool)}
    recipe = Recipe(**{**RECIPE.__dict__, "epochs": 2, "ema": 0.0})
    fit(model, data, recipe, device="cpu", callbacks=[Look(on, L1(0.1), {name: 3.0}, ramp=4)])
    assert seen == pytest.approx([0.0, 0.075, 0.15, 0.225, 0.3, 0.3], abs=1e-5)


def test_a_network_without_depthwise_convolutions_is_searched_by_all_its_scales():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    net = trace(model, torch.randn(2, 1, 10, 10))
    assert list(hidden_scales(net, model)) == ["1.weight"]
    ticket = supertickets(
        model, tiny().example(), "macs=0.5", keep=0.5, data=tiny(), recipe=RECIPE, device="cpu"
    )
    assert ticket.pruned.after.macs <= 0.5 * net.macs and ticket.density == pytest.approx(0.5, abs=0.01)
    with pytest.raises(UsageError, match="no normalisation"):
        hidden_scales(trace(model[0], torch.randn(2, 1, 10, 10)), model[0])


# Removal


@pytest.mark.parametrize("build", [small, lambda: MultiResolution(ClassHead((6, 12), 10), 1, (6, 12), 2, 4)])
def test_removing_channels_of_zero_scale_and_offset_changes_nothing(build):
    model = settled(build())
    x = torch.randn(4, 1, 10, 10, dtype=torch.float64)
    net = trace(model, x)
    hidden = hidden_scales(net, model)
    alive = dead(model, hidden)
    done = shrink(model, net, alive_mask(net, hidden, alive), how="in place")
    assert torch.allclose(model(x), done.model(x), atol=1e-10, rtol=0)
    assert trace(done.model, x).macs < net.macs


def test_removing_channels_of_zero_scale_alone_takes_away_a_constant():
    model = settled(MixedBlock(4, 4, hidden=6), (16, 4, 10, 10))
    x = torch.randn(4, 4, 10, 10, dtype=torch.float64)
    net = trace(model, x)
    hidden = hidden_scales(net, model)
    alive = dead(model, hidden, beta=0.7)
    cut = shrink(model, net, alive_mask(net, hidden, alive), how="in place").model
    # relu(beta) of every dead channel, projected, and scaled as the block's norm scales.
    constant = sum(b[6].weight[:, :2, 0, 0].sum(1) * 0.7 for b in model.branches.values())
    constant = constant * model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    difference = model(x) - cut(x)
    assert torch.allclose(difference, constant[None, :, None, None].expand_as(difference), atol=1e-10)
    assert float(constant.abs().max()) > 1e-3


def test_the_optimiser_remembers_what_it_did_of_the_channels_that_stay():
    """The small network trains on as the large one whose dead channels are held at zero."""
    for recipe in (RECIPE, Recipe(**{**RECIPE.__dict__, "optimizer": "adamw", "lr": 1e-3})):
        large = settled(small()).train()
        optimizer = build_optimizer(large, recipe)
        batches = [(torch.randn(16, 1, 10, 10, dtype=torch.float64), torch.arange(16) % 10) for _ in range(8)]

        def step(model, optimizer, batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
            optimizer.step()

        for batch in batches[:3]:
            step(large, optimizer, batch)
        net = trace(large, batches[0][0])
        hidden = hidden_scales(net, large)
        alive = dead(large, hidden)
        for name, stays in alive.items():  # nothing may move what is dead
            norm = large.get_submodule(name.rpartition(".")[0])
            for parameter in (norm.weight, norm.bias):
                for slot in optimizer.state[parameter].values():
                    if isinstance(slot, torch.Tensor) and slot.dim():
                        slot[~stays] = 0
        done = shrink(large, net, alive_mask(net, hidden, alive), how="in place")
        slots = cut_slots(slots_of(optimizer, large), large, done.model, done.kept)
        fresh = copy.deepcopy(done.model)
        again, forgetful = build_optimizer(done.model, recipe), build_optimizer(fresh, recipe)
        put_slots_(again, done.model, slots)
        for batch in batches[3:]:
            step(large, optimizer, batch)
            step(done.model, again, batch)
            step(fresh, forgetful, batch)
        expected = shrink(large, net, alive_mask(net, hidden, alive), how="in place").model
        for (name, one), (_, other) in zip(
            done.model.named_parameters(), expected.named_parameters(), strict=True
        ):
            assert torch.allclose(one, other, atol=1e-9), name
        # Without what it remembers it would be elsewhere.
        assert not torch.allclose(fresh.head.weight, expected.head.weight, atol=1e-4)


def test_a_training_in_legs_is_the_training_in_one():
    model, data = small(), tiny()
    whole = fit(model, data, RECIPE, device="cpu").model
    legs = joint(data, model, budget=None, threshold=-1.0, penalty=L1(0.0), prune=False, reactivate=False)
    legs.run()
    assert legs.at.step == 18 and legs.at.average.updates == 18
    assert same(whole, bare(legs.at.average.model))


def test_a_moving_average_goes_on():
    model, data = small(), tiny()
    kept = []

    class Keep(Snapshots):
        def after_step(self, state):
            super().after_step(state)
            if state.step == 7:
                kept.append(copy.deepcopy(state.average))

    taken = Keep([7], optimizer=True)
    whole = fit(model, data, RECIPE, device="cpu", callbacks=[taken])
    average = Average(kept[0], RECIPE.ema)
    average.updates = 7
    middle = copy.deepcopy(model)
    middle.load_state_dict(taken.taken[7])
    rest = fit(middle, data, RECIPE, device="cpu", start=7, optimizer=taken.optimizers[7], average=average)
    assert same(whole.model, rest.model)


def test_network_average_slots_and_masks_are_cut_alike():
    data = tiny()
    training = joint(data, reactivate="next", threshold=-1.0)
    training.run(3)
    training.ceiling = None  # nothing goes in the next leg
    before = training._train()[0]
    removal = choose_removal(
        before.net,
        before.hidden,
        scales(before.average.model),
        threshold=-1.0,
        ceiling=0.7 * before.net.macs,
        branches=whole_branches(bare(before.model), before.hidden),
    )
    after = training._cut(before, removal)
    assert after.net.macs == removal.macs <= 0.7 * before.net.macs
    name = next(n for n, m in removal.alive.items() if not m.all())
    stays, branch = removal.alive[name], name.removesuffix(".4.weight")
    for model, cut in ((before.model, after.model), (before.average.model, after.average.model)):
        state, small_state = MaskState.of(model), MaskState.of(cut)
        for weight, slice_ in (
            (f"{branch}.0.weight", lambda t: t[stays]),
            (f"{branch}.6.weight", lambda t: t[:, stays]),
        ):
            assert torch.equal(slice_(state.parameter(weight)), small_state.parameter(weight))
            assert torch.equal(slice_(state.masks[weight]), small_state.masks[weight])
            slot = before.slots[weight]["momentum_buffer"]
            assert torch.equal(slice_(slot), after.slots[weight]["momentum_buffer"])
            assert torch.equal(slice_(before.drawn[weight]), after.drawn[weight])
    assert set(after.slots) == {n for n, _ in bare(after.model).named_parameters()}


def test_a_branch_without_channels_disappears():
    model, data = small(), tiny()
    net = trace(model, data.example())
    hidden = hidden_scales(net, model)
    branches = whole_branches(model, hidden)
    assert branches == branch_paths(model)
    with torch.no_grad():
        model.blocks[0].branches["k5"][4].weight.zero_()
        for branch in model.blocks[1].branches.values():
            branch[4].weight.zero_()
    removal = choose_removal(net, hidden, scales(model), branches=branches)
    gone = ("blocks.0.branches.k5", *(f"blocks.1.branches.k{k}" for k in (3, 5, 7)))
    assert removal.dropped == gone and removal.channels == 4 + 3 * 8
    assert trace(without(model, gone), data.example()).macs == removal.macs
    spared = choose_removal(net, hidden, scales(model))  # where no branch can go, one channel of each stays
    assert not spared.dropped and spared.channels == 3 + 3 * 7
    with pytest.raises(UsageError, match="cannot be met"):
        choose_removal(net, hidden, scales(model), ceiling=1)
    with pytest.raises(ModelError, match="no branch"):
        without(model, ["blocks.0.branches.k9"])


def test_dead_channels_stay_until_they_are_worth_it():
    data, model = tiny(), small()
    with torch.no_grad():
        model.blocks[0].branches["k5"][4].weight[0] = 0
        model.blocks[0].branches["k5"][4].bias[0] = 0
    settings = {"budget": None, "threshold": 1e-6, "penalty": L1(0.0), "prune": False, "reactivate": False}
    training = joint(data, model, **settings)
    assert training.advance().removed == 1
    waiting = joint(data, model, worth=10**9, **settings)
    assert waiting.advance().removed == 0


# Tickets


@pytest.fixture(scope="module")
def drawn():
    torch.manual_seed(0)
    data, model = tiny(), small()
    ticket = supertickets(
        model, data.example(), "macs=0.4", keep=0.2, data=data, recipe=RECIPE, every=1 / 6, device="cpu"
    )
    return model, data, ticket


def test_a_ticket_saves_as_indices_bits_and_weights(drawn, tmp_path):
    model, data, ticket = drawn
    assert ticket.pruned.dropped  # a branch is gone, and loading knows
    folder = ticket.save(tmp_path / "ticket")
    assert {p.name for p in folder.iterdir()} == {"kept.json", "model.safetensors"}
    back = load(folder, small())
    assert same(back, ticket.model)
    x = data.example()
    assert torch.equal(back.eval()(x), copy.deepcopy(ticket.model).eval()(x))
    with pytest.raises(ArtefactError):
        load(folder, without(model, [ticket.pruned.dropped[0]]))


def test_a_ticket_transfers_to_a_new_head(drawn):
    _, data, ticket = drawn
    moved = ticket.transfer(nn.Linear(12, 3))
    state = MaskState.of(moved)
    assert moved(data.example()).shape == (2, 3) and "head.weight" not in state.masks
    for name, mask in state.masks.items():
        assert torch.equal(mask, ticket.masks[name])
        assert torch.equal(moved.get_parameter(name), ticket.model.get_parameter(name))
    fresh = ticket.transfer(nn.Linear(12, 3), weights="fresh", seed=3)
    other = MaskState.of(ticket.transfer(nn.Linear(12, 3), shuffle=True))
    for name, mask in state.masks.items():
        weight = fresh.get_parameter(name)
        assert not weight[~mask].any()
        assert not mask.any() or not torch.equal(weight, moved.get_parameter(name))
        assert int(other.masks[name].sum()) == int(mask.sum())
    assert any(not torch.equal(other.masks[n], m) for n, m in state.masks.items())
    trained = fit(moved, data_of(3), Recipe(**{**RECIPE.__dict__, "epochs": 1}), device="cpu").model
    weights = dict(trained.named_parameters())
    assert all(not weights[n][~m].any() for n, m in MaskState.of(trained).masks.items())
    with pytest.raises(ModelError, match="no module"):
        ticket.transfer(nn.Linear(12, 3), at="classifier")


def data_of(classes, count=64):
    part = Part.from_tensors(torch.randn(count, 1, 10, 10), torch.arange(count) % classes)
    return Splits("three", part, part, part, tuple("abc"[:classes]))


def test_a_ticket_trains_on_with_its_masks(drawn):
    _, data, ticket = drawn
    again = ticket.retrain(data, Recipe(**{**RECIPE.__dict__, "epochs": 1}), "cpu")
    assert again.density == ticket.density and not same(again.model, ticket.model)
    assert all(torch.equal(m, ticket.masks[n]) for n, m in again.masks.items())


@pytest.mark.parametrize("size", [(32, 32), (30, 22)])
def test_the_heads_have_the_shapes_of_their_tasks(size):
    widths = (4, 6, 8)
    x = torch.randn(2, 3, *size)
    heads = {
        ClassHead(widths, 7): (2, 7),
        SegmentationHead(widths, 5): (2, 5, *size),
        KeypointHead(widths, 17): (2, 17, size[0] // 2, size[1] // 2),
    }
    for head, shape in heads.items():
        model = MultiResolution(head, 3, widths, stages=2, hidden=2)
        assert model(x).shape == shape
        net = trace(model, x)
        assert len(hidden_scales(net, model)) == 2 * 3 * 3  # stages, resolutions, kernels


def test_a_multi_resolution_ticket_takes_any_head():
    data, widths = tiny(), (4, 6)
    model = MultiResolution(ClassHead(widths, 10), 1, widths, 1, 4)
    ticket = supertickets(
        model, data.example(), "macs=0.8", keep=0.3, data=data, recipe=RECIPE, every=1 / 6, device="cpu"
    )
    x = data.example()
    assert ticket.transfer(SegmentationHead(widths, 4))(x).shape == (2, 4, 10, 10)
    assert ticket.transfer(KeypointHead(widths, 3))(x).shape == (2, 3, 5, 5)


def test_what_is_no_budget_of_a_search_is_refused():
    with pytest.raises(UsageError, match="macs"):
        joint(budget="params=0.5")
    with pytest.raises(UsageError, match="cannot be met"):
        joint(budget="macs=0.01")
    masked = small()
    MaskState(masked, {"head.weight": torch.ones(10, 12, dtype=torch.bool)})
    with pytest.raises(UsageError, match="masks already"):
        joint(model=masked)
