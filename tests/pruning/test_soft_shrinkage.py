"""Soft shrinkage: one step by the formula, its limits, the counts, the fast and the regularised variants."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import netwright as nw
from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.pruning import NM, Context, MaskState, Sparsity, choose, layer_counts, prunable_weights
from netwright.pruning.allocations.layerwise import Layers
from netwright.pruning.schedules import schedule as schedules
from netwright.pruning.schedules.soft import sampled_masks
from netwright.train import Recipe, fit


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 17), nn.ReLU(), nn.Linear(17, 3))


def tiny(count=96):
    torch.manual_seed(1)
    x = torch.randn(count, 10)
    part = Part.from_tensors(x, (x[:, 0] > 0).long())
    return Splits("tiny", part, part, part, ("0", "1", "2"))


RECIPE = Recipe(
    epochs=4, batch_size=16, lr=2e-3, optimizer="adamw", weight_decay=0.0, precision="fp32", augment=False
)


def loop(model, sparsity, steps, *, zero=False):
    """A loop of one's own over random batches; yields after every step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2, betas=(0.9, 0.99))
    sparsity.attach(model, optimizer, steps)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.zeros(8, 10) if zero else torch.randn(8, 10, generator=generator)
        nn.functional.cross_entropy(model(x), torch.arange(8) % 3).backward()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer.step()
        stepped = {n: p.detach().clone() for n, p in model.named_parameters()}
        sparsity.step()
        yield before, stepped, {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer.zero_grad()


def ends(ratio, size):
    return min(math.ceil(round(ratio * size, 9)), math.floor(0.995 * size))


def test_a_step_is_the_formula_and_the_choice_is_new_every_time():
    model = net()
    sparsity = Sparsity(0.1, schedule=schedules.shrink(0.95, until=20), allocation="layerwise")
    chosen = []
    for step, (_, stepped, after) in enumerate(loop(model, sparsity, 30)):
        if step + 1 >= 20:
            break
        small = {}
        for name in prunable_weights(model):
            w = stepped[name].numpy().ravel()
            goes = np.argsort(np.abs(w), kind="stable")[: ends(0.9, w.size)]
            expected = w.copy()
            expected[goes] = np.float32(0.95) * expected[goes]
            assert np.array_equal(after[name].numpy().ravel(), expected)
            small[name] = frozenset(goes.tolist())
        chosen.append(small)
        assert all(torch.equal(after[n], stepped[n]) for n in after if "bias" in n)
    assert any(a != b for a, b in itertools.pairwise(chosen))


@pytest.mark.parametrize("keep", [0.1, 0.05, 0.01, 0.001])
def test_the_counts_are_ceil_with_a_cap(keep):
    shapes = {"a": (30, 10), "b": (17, 30), "c": (3, 17), "d": (24, 24, 3, 3)}
    counts = layer_counts(Layers(shapes), keep, "layerwise")
    for name, shape in shapes.items():
        size = math.prod(shape)
        assert size - counts[name] == ends(1 - keep, size)


def test_alpha_one_is_dense_training_bit_for_bit():
    plain = fit(net(), tiny(), RECIPE, device="cpu").model
    callback = Sparsity(0.05, schedule=schedules.shrink(1.0, until=23), allocation="layerwise")
    soft = fit(net(), tiny(), RECIPE, device="cpu", callbacks=[callback], stop=22).model
    dense = fit(net(), tiny(), RECIPE, device="cpu", stop=22).model
    weights = dict(soft.named_parameters())
    assert all(torch.equal(weights[n], p) for n, p in dense.named_parameters())
    assert any(not torch.equal(p, dict(dense.named_parameters())[n]) for n, p in plain.named_parameters())


def test_alpha_zero_is_iterative_hard_thresholding():
    model = net()
    sparsity = Sparsity(0.2, schedule=schedules.shrink(0.0, until=15), allocation="layerwise")
    for step, (before, stepped, after) in enumerate(loop(model, sparsity, 15)):
        for name in prunable_weights(model):
            size = after[name].numel()
            kept = size - ends(0.8, size)
            largest = stepped[name].abs().flatten().sort(descending=True).values[kept - 1]
            assert torch.equal(after[name] != 0, stepped[name].abs() >= largest)
            # The gradient is dense: what was zero moves again, and may come back.
            assert step == 0 or step == 14 or bool(((before[name] == 0) & (stepped[name] != 0)).any())


def test_what_no_gradient_reaches_decays_as_a_power():
    model, alpha, steps = net(), 0.9, 12
    first = model[0].weight.detach().clone()  # inputs of zero: its gradient is zero
    sparsity = Sparsity(0.1, schedule=schedules.shrink(alpha, until=steps + 1), allocation="layerwise")
    *_, (_, _, after) = itertools.islice(loop(model, sparsity, 2 * steps, zero=True), steps)
    small = first.abs() <= first.abs().flatten().kthvalue(ends(0.9, first.numel())).values
    assert torch.allclose(after["0.weight"][small], first[small] * alpha**steps, rtol=1e-5)
    assert torch.equal(after["0.weight"][~small], first[~small])


def test_densities_are_exact_after_the_second_phase_and_adam_holds_them():
    callback = Sparsity(0.05, schedule=schedules.shrink(0.95, until=0.5), allocation="layerwise")
    fitted = fit(net(), tiny(), RECIPE, device="cpu", callbacks=[callback])
    state = MaskState.of(fitted.model)
    for name, kept in state.kept.items():
        size = state.masks[name].numel()
        assert size - kept == ends(0.95, size)
        assert not bool(fitted.model.get_parameter(name)[~state.masks[name]].any())
    assert len(callback.changes) == 1 and callback.changes[0].step == 12


def test_it_resumes_as_if_it_was_never_stopped(tmp_path):
    def callback():
        return Sparsity(
            0.1, schedule=schedules.penalise(growth=0.05, every=2, until=0.75), allocation="layerwise"
        )

    whole = fit(net(), tiny(), RECIPE, device="cpu", callbacks=[callback()]).model
    file = tmp_path / "half.pt"

    class StopError(Exception):
        pass

    def progress(p):
        if p.epoch == 3:
            raise StopError

    with pytest.raises(StopError):
        fit(net(), tiny(), RECIPE, device="cpu", callbacks=[callback()], checkpoint=file, progress=progress)
    again = fit(net(), tiny(), RECIPE, device="cpu", callbacks=[callback()], checkpoint=file).model
    weights = dict(again.named_parameters())
    assert all(torch.equal(weights[n], p) for n, p in whole.named_parameters())


def test_penalties_grow_on_what_would_be_pruned_and_enter_the_gradient():
    model, growth = net(), 0.25
    sparsity = Sparsity(
        0.5, schedule=schedules.penalise(growth=growth, every=1, limit=0.6, until=8), allocation="layerwise"
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity.attach(model, optimizer, 10)
    factors = {n: torch.zeros_like(model.get_parameter(n)) for n in prunable_weights(model)}
    generator = torch.Generator().manual_seed(0)
    for step in range(10):
        loss = nn.functional.cross_entropy(
            model(torch.randn(8, 10, generator=generator)), torch.arange(8) % 3
        )
        optimizer.zero_grad()
        loss.backward()
        expected = {}
        for n, f in factors.items():
            w = model.get_parameter(n)
            expected[n] = w.detach() - 0.1 * (w.grad + f * w.detach())
        masks = {n: m.clone() for n, m in MaskState.of(model).masks.items()}
        optimizer.step()
        for n, w in expected.items():
            # After the last event weights are pruned, and nothing is penalised any more.
            now = model.get_parameter(n).detach()
            assert torch.allclose(now * masks[n], w * masks[n], atol=1e-6)
        sparsity.step()
        for n, f in factors.items():
            w = model.get_parameter(n).detach()
            if step + 1 < 8:
                small = w.abs() <= w.abs().flatten().kthvalue(ends(0.5, w.numel())).values
                factors[n] = (f + growth * small).clamp(max=0.6)
            else:
                factors[n] = torch.zeros_like(f)
    assert MaskState.of(model).density == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_thresholds_of_a_sample_are_near_those_of_a_sort(share):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 100))
    names = prunable_weights(model)
    found = sampled_masks(model, names, 0.1, share, context=Context(seed=4))
    exact = choose(model, names, 0.1, allocation="uniform")
    for name in names:
        share_kept = float(found[name].double().mean())
        assert share_kept == pytest.approx(0.1, abs=0.015)
        # One threshold each: the one choice holds the other.
        assert not bool((found[name] & ~exact[name]).any()) or not bool((exact[name] & ~found[name]).any())
    other = sampled_masks(model, names, 0.1, share, context=Context(seed=5))
    assert any(not torch.equal(other[n], found[n]) for n in names)
    with pytest.raises(UsageError):
        sampled_masks(model, names, 0.1, 0.5, allocation="global")


def test_the_fast_variant_ends_with_exact_counts():
    callback = Sparsity(0.1, schedule=schedules.shrink(0.9, until=0.5, sample=0.3), allocation="layerwise")
    state = MaskState.of(fit(net(), tiny(), RECIPE, device="cpu", callbacks=[callback]).model)
    assert all(m.numel() - int(m.sum()) == ends(0.9, m.numel()) for m in state.masks.values())


@pytest.mark.parametrize(("n", "m"), [(1, 10), (1, 20), (1, 90)])
def test_of_every_run_enough_is_zero(n, m):
    conv = nn.Sequential(nn.Conv2d(5, 7, 3), nn.ReLU(), nn.Conv2d(7, 4, 3))
    weights = [conv[0].weight, conv[2].weight]
    sparse = nw.sparsify(conv, granularity=NM(n, m, dim=None), allocation="uniform")
    for weight, mask in zip(weights, sparse.masks.values(), strict=True):
        flat = mask.flatten()
        size = weight.abs().flatten()
        for run, magnitude in zip(flat.split(m), size.split(m), strict=True):
            assert int((~run).sum()) >= len(run) - n
            assert len(run) < m or bool(run[magnitude.argmax()])
    callback = Sparsity(
        0.1, schedule=schedules.shrink(0.95, until=0.5), granularity=NM(n, m, dim=None), allocation="uniform"
    )
    state = MaskState.of(fit(net(), tiny(), RECIPE, device="cpu", callbacks=[callback]).model)
    for mask in state.masks.values():
        assert all(int(run.sum()) <= n for run in mask.flatten().split(m))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError):
        schedules.shrink(1.5)
    with pytest.raises(UsageError):
        schedules.shrink(sample=0)
    with pytest.raises(UsageError):
        schedules.penalise(growth=0)
