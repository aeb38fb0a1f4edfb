"""MaskSparsity: its subgradient, its votes, its two limits, and what absorbing a constant preserves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from netwright import papers
from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.models import ResNetCifar
from netwright.papers import Run, execute, save
from netwright.pruning.importances.voting import agree
from netwright.pruning.removal.cut import cut
from netwright.pruning.removal.mask_sparsity import mask_sparsity, sparse_train
from netwright.pruning.removal.scale_masks import below, by_energy, mask_from, removed_scales
from netwright.pruning.schedules.penalties import L1, L2, ScalePenalty, SmoothL1, scales
from netwright.structure import trace
from netwright.train import Recipe, fit

FAST = Recipe(epochs=1, batch_size=16, lr=0.05, precision="fp32", augment=False, channels_last=False)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny(count=64, size=8):
    part = Part.from_tensors(torch.randn(count, 1, size, size), torch.arange(count) % 10)
    return Splits("tiny", part, part, part, tuple("0123456789"))


def small():
    return ResNetCifar(8, in_channels=1, widths=(8, 8, 16))


def same(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_subgradients_at_and_around_zero():
    scale = torch.tensor([-2.0, 0.0, 1e-6, 3.0])
    assert L1(0.1).gradient(scale, 0.1).tolist() == pytest.approx([-0.1, 0.0, 0.1, 0.1])
    assert L2(0.1).gradient(scale, 0.1).tolist() == pytest.approx([-0.2, 0.0, 1e-7, 0.3])
    smooth = SmoothL1(0.1).gradient(scale, 0.1)
    assert smooth.tolist() == pytest.approx([-0.1, 0.0, 0.1 * 1e-6 / 0.01, 0.1])


def test_no_mask_is_plain_training_and_a_full_one_network_slimming():
    model, data = small(), tiny()
    off = {n: torch.zeros(len(s), dtype=torch.bool) for n, s in scales(model).items()}
    assert same(
        sparse_train(model, data, FAST, L1(0.05), off, "cpu").model,
        fit(model, data, FAST, device="cpu").model,
    )
    on = {n: torch.ones(len(s), dtype=torch.bool) for n, s in scales(model).items()}
    penalised = sparse_train(model, data, FAST, L1(0.05), on, "cpu").model
    assert same(penalised, slimmed(model, data, FAST, 0.05))
    assert same(penalised, sparse_train(model, data, FAST, L1(0.05), "all", "cpu").model)


def slimmed(model, data, recipe, strength):
    """Network slimming by its definition: the subgradient of every scale in a hook of the optimiser."""

    class Slim(ScalePenalty):
        def begin(self, state):
            norms = [m for m in state.model.modules() if isinstance(m, nn.BatchNorm2d)]

            def add(optimizer, args, kwargs):
                for m in norms:
                    m.weight.grad.add_(strength * torch.sign(m.weight.data))

            state.optimizer.register_step_pre_hook(add)

        def before_step(self, state):
            pass

    return fit(model, data, recipe, device="cpu", callbacks=[Slim()]).model


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 12))))
@settings(max_examples=80, deadline=None)
def test_votes_are_the_most_that_the_most_modest_layer_allows(asked):
    asked = torch.from_numpy(asked)
    goes, fewest = agree(asked), int(asked.sum(dim=1).min())
    votes = asked.sum(dim=0)
    if fewest == 0:
        assert not bool(goes.any())
        return
    level = int(votes[goes].min())
    assert torch.equal(goes, votes >= level) and int(goes.sum()) >= fewest
    assert level == len(asked) or int((votes >= level + 1).sum()) < fewest


def test_votes_on_masks_made_by_hand():
    asked = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 1], [1, 0, 1, 0, 0]], dtype=torch.bool)
    # The most modest ask for two; three votes has only channel 0, two votes have channels 0, 1 and 2.
    assert agree(asked).tolist() == [True, True, True, False, False]


def test_thresholds_leave_the_largest_and_count_energy():
    scale = torch.tensor([0.001, -0.01, 0.5, 0.0])
    assert below(scale).tolist() == [True, True, False, True]
    assert below(scale / 100).tolist() == [True, True, False, True]
    assert by_energy(torch.tensor([1.0, 0.001, 0.5, 0.002])).tolist() == [False, True, False, True]
    assert by_energy(torch.full((4,), 1e-4)).sum() == 3


def test_coupled_layers_vote_over_a_residual_stream():
    model = small()
    net = trace(model, torch.randn(2, 1, 8, 8))
    stream = [n for n in ("bn1.weight", "layer1.0.bn2.weight") if n in scales(model)]
    names = stream or [n for n, s in scales(model).items() if len(s) == 8][::2]
    axis = next(
        a for a in net.prunable if (net.layers[names[0]][0].reshape(-1)[:, None] == a.cells.reshape(-1)).any()
    )
    readers = [
        n for n in scales(model) if (net.layers[n][0].reshape(-1)[:, None] == axis.cells.reshape(-1)).any()
    ]
    with torch.no_grad():
        for name in readers:
            model.get_parameter(name)[:3] = 0
        model.get_parameter(readers[0])[3] = 0  # one layer alone asks for a fourth
    keep = mask_from(net, model)
    classes = net.layers[readers[0]][0].reshape(-1)
    expected = [False] * 3 + [len(readers) > 1] + [True] * (len(classes) - 4)
    assert keep[classes].tolist() == expected


@pytest.mark.parametrize("padding", [0, 1])
def test_absorbing_the_constant_of_a_dead_channel_preserves_the_answer(padding):
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=padding),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, padding=padding),
        nn.Tanh(),
        nn.Conv2d(5, 2, 1),
    ).eval()
    with torch.no_grad():
        model[1].weight[::2] = 0.0
        model[1].bias.copy_(torch.tensor([0.7, 0.1, -0.4, 0.2, 1.3, 0.0]))
    x = torch.randn(3, 1, 9, 9)
    net = trace(model, x)
    keep = net.everything.clone()
    keep[net.layers["1.weight"][0].reshape(-1)[::2]] = False
    plain, absorbed = cut(net, model, keep), cut(net, model, keep, repair="absorb")
    inside = slice(2, -2) if padding else slice(None)
    want = model(x)[..., inside, inside].detach()
    assert not torch.allclose(plain.model(x)[..., inside, inside], want, atol=1e-2)
    torch.testing.assert_close(absorbed.model(x)[..., inside, inside], want, atol=1e-5, rtol=1e-5)


def test_absorbing_reaches_batch_norms_where_there_is_no_bias():
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).eval()
    with torch.no_grad():
        model[1].weight[:2] = 0.0
        model[1].bias[:2] = torch.tensor([0.7, 0.3])
        for norm in (model[1], model[4]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    x = torch.randn(4, 1, 9, 9)
    net = trace(model, x)
    keep = net.everything.clone()
    keep[net.layers["1.weight"][0].reshape(-1)[:2]] = False
    torch.testing.assert_close(
        cut(net, model, keep, repair="absorb").model(x), model(x), atol=1e-5, rtol=1e-5
    )


def test_all_stages_on_one_network_and_its_costs_are_those_of_the_result():
    data, model = tiny(), small()
    pruned = mask_sparsity(
        model, data.example(), "macs=0.5", data, FAST, penalty=L1(0.05), tune=FAST, device="cpu"
    )
    assert pruned.after.macs <= 0.5 * pruned.before.macs
    assert trace(pruned.model, data.example()).macs == pruned.after.macs
    assert pruned.net.cost(pruned.keep).params == sum(p.numel() for p in pruned.model.parameters())


def test_the_penalised_scales_fall_and_the_others_learn():
    data, model = tiny(), small()
    net = trace(model, data.example())
    keep = mask_from(net, model, "budget", budget="macs=0.5", importance="random")
    on = removed_scales(net, model, keep)
    sparse = sparse_train(model, data, Recipe(**{**FAST.__dict__, "epochs": 3}), L1(1.0), on, "cpu").model
    found = scales(sparse)
    gone = torch.cat([found[n][m] for n, m in on.items()]).abs().mean()
    kept = torch.cat([found[n][~m] for n, m in on.items()]).abs().mean()
    assert gone.item() < 0.5 < kept.item()


def test_what_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(UsageError, match="no normalisation layer"):
        sparse_train(model, tiny(), FAST, device="cpu")
    with pytest.raises(UsageError, match="is no scale"):
        sparse_train(small(), tiny(), FAST, on={"fc.weight": torch.ones(3, dtype=torch.bool)}, device="cpu")
    net = trace(small(), torch.randn(2, 1, 8, 8))
    with pytest.raises(UsageError, match="no rule"):
        mask_from(net, copy.deepcopy(small()), "nothing")


@pytest.mark.recipe
@pytest.mark.data
def test_the_recipe_runs_in_its_quick_size(tmp_path):
    for scope in ("", papers.FURTHER):
        run = execute(Run(papers.load("masksparsity"), quick=True, out=tmp_path, scope=scope))
        assert {c.name for c in run.paper.claims if c.scope == scope} == set(run.measured)
        assert run.verdict is None
        save(run, tmp_path, "netwright reproduce masksparsity --quick")
