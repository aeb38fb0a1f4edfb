"""N2N: rewards and constraints, the policy gradient, children that fit together, the recipe."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from netwright import papers
from netwright.errors import StructureError, UsageError
from netwright.models import ResNetCifar
from netwright.nas.reinforce import FACTORS, Reinforce, RemovalPolicy, Sample, ShrinkagePolicy
from netwright.papers import Run, execute, save
from netwright.pruning.removal.rebuild import layers_of, rebuild, shrunk
from netwright.pruning.systems.n2n import DEGENERATE, LogitMatch, Rollout, Stage, reward, softness
from netwright.train import Step


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def chain():
    layers = []
    for inputs, outputs, pool in ((1, 12, False), (12, 16, True), (16, 16, False), (16, 24, True)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 9, 32), nn.ReLU(), nn.Linear(32, 10))


def test_rewards_are_those_of_the_paper():
    assert reward(0.9, 0.9, 100, 100) == 0
    assert reward(0.9, 0.9, 10, 100) == pytest.approx(0.99)
    assert reward(0.9, 0.9, 50, 100) == pytest.approx(0.75)
    assert reward(0.45, 0.9, 50, 100) == pytest.approx(0.375)


def test_constraints_harden():
    assert softness(0) == 1
    assert softness(15) == 0
    assert softness(20) == 0
    assert softness(5) == pytest.approx((2 / 3) ** 4, abs=1e-4)
    for violated in ({"least": 0.8}, {"most": 20}):
        assert reward(0.7, 0.9, 30, 100, update=15, **violated) == -1
        assert reward(0.7, 0.9, 30, 100, update=0, **violated) == pytest.approx(reward(0.7, 0.9, 30, 100))
        soft = softness(5)
        want = soft - 1 + soft * reward(0.7, 0.9, 30, 100)
        assert reward(0.7, 0.9, 30, 100, update=5, **violated) == pytest.approx(want)
    assert reward(0.85, 0.9, 10, 100, least=0.8, most=20) == reward(0.85, 0.9, 10, 100)


def test_the_gradient_is_that_of_the_expected_reward():
    """A bandit of two actions: E[(R - b) grad log p] has the closed form p0 p1 (R0 - R1)."""
    logit = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
    rewards, base = (1.0, 0.2), 0.5
    chance = float(torch.sigmoid(logit.detach()))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(10_000, generator=generator, dtype=torch.float64) < chance
    log = torch.where(drawn, torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit))
    worth = torch.where(drawn, rewards[0], rewards[1])
    holder = nn.Module()
    holder.logit = logit
    trainer = Reinforce(holder, lr=0.0)
    trainer.baseline = base
    trainer.update([Sample(torch.tensor(0), x) for x in log], worth.tolist())
    assert float(logit.grad) == pytest.approx(-chance * (1 - chance) * (rewards[0] - rewards[1]), abs=0.01)


def test_every_parameter_of_a_policy_learns():
    layers, generator = torch.rand(5, 5), torch.Generator().manual_seed(0)
    removal, shrinkage = RemovalPolicy(5), ShrinkagePolicy(5)
    free = torch.tensor([False, True, True, True, False])
    entries = torch.zeros(5, 5, dtype=torch.bool)
    entries[:, 1:4] = True
    for policy, mask in ((removal, free), (shrinkage, entries)):
        trainer = Reinforce(policy)
        trainer.baseline = 0.0
        trainer.update([policy.sample(layers, mask, generator) for _ in range(3)], [0.1, 0.9, 0.4])
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in policy.parameters())


def test_samples_leave_alone_what_is_not_free():
    layers, generator = torch.rand(4, 5), torch.Generator().manual_seed(0)
    free = torch.tensor([False, True, False, True])
    for _ in range(5):
        sample = RemovalPolicy(5).sample(layers, free, generator)
        assert bool(sample.actions[~free].all())
    entries = torch.zeros(4, 5, dtype=torch.bool)
    entries[1, 3] = True
    sample = ShrinkagePolicy(5).sample(layers, entries, generator)
    fixed = sample.actions[~entries]
    assert bool((torch.tensor(FACTORS)[fixed] == 1).all())


def test_layers_know_what_can_go():
    _, layers = layers_of(chain(), torch.randn(2, 1, 14, 14))
    assert [x.removable for x in layers] == [False, True, True, True, True, False]
    assert [x.out for x in layers] == [12, 16, 16, 24, 32, 10]
    assert layers[-1].widths is False
    _, residual = layers_of(ResNetCifar(8, 10, 1, (8, 16, 32)), torch.randn(2, 1, 14, 14))
    groups = {}
    for x in residual:
        groups.setdefault(x.group, []).append(x)
    assert any(len(g) > 1 for g in groups.values())
    assert not any(x.removable for x in residual if x.stride > 1)


def test_children_are_made_for_what_reaches_them():
    model, x = chain(), torch.randn(2, 1, 14, 14)
    _, layers = layers_of(model, x)
    changed = {
        layers[1].name: None,
        layers[2].name: shrunk(layers[2], out=0.75),
        layers[3].name: shrunk(layers[3], 0.4, out=0.5),
    }
    child = rebuild(model, x, changed)
    assert child(x).shape == (2, 10)
    convs = [m for m in child.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in convs] == [
        (1, 12, 3),
        (12, 12, 3),
        (12, 12, 1),
    ]
    norms = [m.num_features for m in child.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [12, 12, 12]
    head = [m for m in child.modules() if isinstance(m, nn.Linear)]
    by_hand = (
        (12 * 9 + 12) + (12 * 108 + 12) + (12 * 12 + 12) + 2 * 36 + (head[0].in_features * 32 + 32) + 330
    )
    assert sum(p.numel() for p in child.parameters()) == by_hand
    assert all(bool(p.isfinite().all()) for p in child.parameters())
    assert not torch.equal(child[0].weight, model[0].weight)


def test_what_does_not_fit_is_degenerate():
    model, x = ResNetCifar(8, 10, 1, (16, 32, 64)), torch.randn(2, 1, 14, 14)
    _, layers = layers_of(model, x)
    stream = next(x for x in layers if sum(y.group == x.group for y in layers) > 1)
    with pytest.raises(StructureError, match="do not fit"):
        rebuild(model, x, {stream.name: shrunk(stream, out=0.5)})
    stage = Stage(model, x, "shrinkage", lambda m: 0.5, 0.9, 1_000)
    assert stage._judged({stream.name: shrunk(stream, out=0.5)}) == (0, 0.0)
    stage.history.append(Rollout(0, {stream.name: shrunk(stream, out=0.5)}, 0, 0.0, DEGENERATE))
    assert sum(p.numel() for p in stage.student().parameters()) == stage.size
    with pytest.raises(UsageError, match="no stage"):
        Stage(model, x, "growth", lambda m: 0.5, 0.9, 1_000)


def test_a_policy_finds_what_is_rewarded():
    """Judged by size alone, children become smaller; each is judged once."""
    model, x = chain(), torch.randn(2, 1, 14, 14)
    size = sum(p.numel() for p in model.parameters())
    judged = []

    def judge(network):
        judged.append(sum(p.numel() for p in network.parameters()))
        return 0.9

    stage = Stage(model, x, "shrinkage", judge, 0.9, size, rollouts=4, lr=0.05, seed=1).run(25)
    assert sum(stage.means[-5:]) / 5 > sum(stage.means[:5]) / 5
    assert stage.best.params == sum(p.numel() for p in stage.build(stage.best).parameters())
    assert (
        len(judged)
        <= len({tuple(sorted((k, v) for k, v in r.layers.items() if v)) for r in stage.history}) + 1
    )


def test_full_size_children_of_resnet34_run():
    torchvision = pytest.importorskip("torchvision")
    model, x = torchvision.models.resnet34(num_classes=10), torch.randn(2, 3, 32, 32)
    stage = Stage(model, x, "removal", lambda m: 0.5, 0.9, 21_000_000, seed=0)
    fitting = 0
    for _ in range(20):
        layers = stage._proposed(stage._sample())
        try:
            child = rebuild(model, x, layers).eval()
        except StructureError:
            continue
        fitting += 1
        with torch.no_grad():
            assert child(x).shape == (2, 10)
        child.train()(x).square().sum().backward()
    assert fitting >= 1


def test_logits_are_matched_in_squared_distance():
    logits, teacher = torch.randn(4, 3), torch.randn(4, 3)
    loss = LogitMatch()(Step(logits, logits, torch.zeros(4), teacher=teacher))
    assert float(loss) == pytest.approx(float((logits - teacher).square().sum() / 12))
    assert math.isfinite(DEGENERATE)


@pytest.mark.recipe
@pytest.mark.data
def test_the_recipe_runs_in_its_quick_size(tmp_path):
    run = execute(Run(papers.load("n2n"), quick=True, out=tmp_path))
    assert {c.name for c in run.paper.claims if c.scope == ""} == set(run.measured)
    save(run, tmp_path, "netwright reproduce n2n --quick")
