"""SPA: published counts of networks halved in every group, the refit's closed forms, the recipe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import netwright as nw
from netwright import papers
from netwright.papers import Run, execute, save
from netwright.papers.spa_further import producer
from netwright.pruning.importances.importance import score
from netwright.pruning.importances.obs import refit, saliency
from netwright.pruning.statistics.examples import Examples
from netwright.structure import trace

#: Parameters when every group keeps half of its channels, agreeing with an independent tool.
HALVED = {
    "resnet18": (11_689_512, 3_055_880),
    "resnet34": (21_797_672, 5_584_776),
    "resnet50": (25_557_032, 6_917_640),
    "resnet101": (44_549_160, 11_678_728),
    "wide_resnet50_2": (68_883_240, 17_752_968),
    "vgg16_bn": (138_365_992, 35_621_896),
    "vgg19_bn": (143_678_248, 36_950_920),
    "mobilenet_v2": (3_504_872, 1_221_768),
    "efficientnet_b0": (5_288_548, 1_701_446),
    "densenet121": (7_978_856, 2_274_728),
}


@pytest.mark.parametrize("name", HALVED)
def test_half_of_every_group_has_the_published_count(name):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    net = trace(model, torch.empty(1, 3, 224, 224, device="meta"))
    keep = net.everything.clone()
    for axis in net.prunable:
        for part, count in zip(axis.parts, axis.counts((axis.size + 1) // 2).tolist(), strict=True):
            keep[part[count:]] = False
    assert (net.params, net.cost(keep).params) == HALVED[name]


def test_groups_of_a_resnet_are_those_of_the_paper():
    torchvision = pytest.importorskip("torchvision")
    net = trace(torchvision.models.resnet18(), torch.randn(1, 3, 64, 64))
    stream = next(a for a in net.prunable if any(m.name == "conv1.weight" for m in net.members(a)))
    found = {(m.name, m.dim) for m in net.members(stream)}
    made = {(f"layer1.{b}.conv2.weight", 0) for b in (0, 1)} | {("conv1.weight", 0)}
    read = {(f"layer1.{b}.conv1.weight", 1) for b in (0, 1)} | {
        ("layer2.0.conv1.weight", 1),
        ("layer2.0.downsample.0.weight", 1),
    }
    norms = {
        (f"{n}.{leaf}", 0) for n in ("bn1", "layer1.0.bn2", "layer1.1.bn2") for leaf in ("weight", "bias")
    }
    assert made | read | norms <= found
    assert {n for n, _ in found if n.endswith(("weight", "bias"))} == {n for n, _ in made | read | norms}


def test_a_flattened_channel_has_as_many_columns_as_pixels():
    model = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 49, 10))
    net = trace(model, torch.randn(1, 1, 7, 7))
    axis = net.prunable[0]
    columns = next(m.index for m in net.members(axis) if m.name == "3.weight")
    assert (columns >= 0).all() and bool((torch.bincount(columns) == 49).all())


@pytest.fixture
def layer():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 5, 12, generator=g, dtype=torch.float64)
    x = torch.randn(12, 400, generator=g, dtype=torch.float64)
    return weight, x, (x @ x.T / x.shape[1])[None]


def test_the_refit_is_masked_least_squares_and_its_loss_the_score(layer):
    weight, x, second = layer
    gone = torch.tensor([2, 5, 7])
    stay = torch.tensor([[k for k in range(12) if k not in gone]])
    new = refit(weight, second, stay, damping=0.0)
    target = weight[0] @ x
    best = torch.linalg.lstsq(x[stay[0]].T, target.T).solution.T
    torch.testing.assert_close(new[0], best, rtol=1e-6, atol=1e-9)
    loss = (target - new[0] @ x[stay[0]]).square().sum() / x.shape[1]
    inverse = torch.linalg.inv(second[0])
    w = weight[0][:, gone]
    closed = (w @ torch.linalg.inv(inverse[gone][:, gone]) @ w.T).trace()
    torch.testing.assert_close(loss, closed, rtol=1e-6, atol=1e-9)
    update = weight[0] - w @ torch.linalg.inv(inverse[gone][:, gone]) @ inverse[gone]
    torch.testing.assert_close(update[:, stay[0]], new[0], rtol=1e-6, atol=1e-9)


def test_the_score_of_one_block_is_half_its_loss(layer):
    weight, x, second = layer
    scores = saliency(weight, second, 3, damping=0.0).reshape(-1)
    for block in range(4):
        stay = torch.tensor([[k for k in range(12) if k // 3 != block]])
        new = refit(weight, second, stay, damping=0.0)
        loss = (weight[0] @ x - new[0] @ x[stay[0]]).square().sum() / x.shape[1]
        assert float(scores[block]) == pytest.approx(float(loss) / 2, rel=1e-6)


def test_blocks_removed_one_after_the_other_are_the_same_as_at_once(layer):
    weight, _, second = layer
    first = torch.tensor([[k for k in range(12) if k >= 3]])
    both = torch.tensor([[k for k in range(12) if k >= 6]])
    at_once = refit(weight, second, both, damping=0.0)
    step = refit(weight, second, first, damping=0.0)
    rest = second[:, first[0]][:, :, first[0]]
    then = refit(step, rest, torch.arange(3, 9)[None], damping=0.0)
    torch.testing.assert_close(then, at_once, rtol=1e-8, atol=1e-10)


def test_removing_nothing_is_the_identity(layer):
    weight, _, second = layer
    new = refit(weight, second, torch.arange(12)[None], damping=0.0)
    torch.testing.assert_close(new, weight, rtol=1e-9, atol=1e-12)


def test_noise_stands_for_data_that_are_missing():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(4, 6)
    plain = nw.prune(model, x, 0.5, repair="none").model
    found = nw.prune(model, x, 0.5, repair="obs", seed=1).model
    probe = torch.randn(500, 6)
    with torch.no_grad():
        errors = [float((m(probe) - model(probe)).square().mean()) for m in (found, plain)]
    assert errors[0] < errors[1]
    batches = [inputs.args[0] for inputs, y in Examples("uniform", x, limit=200) if y is None]
    drawn = torch.cat(batches)
    assert len(drawn) >= 200 and abs(float(drawn.mean())) < 0.1 and abs(float(drawn.var()) - 1) < 0.1


def test_the_producers_score_is_that_of_the_weights_that_make_a_channel():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    net = trace(model, torch.randn(2, 4))
    scores = score(net, model, producer("magnitude-l1"), Examples(None, net.inputs))
    classes = net.layers["0.weight"][0].reshape(-1)
    want = model[0].weight.detach().abs().sum(dim=1)
    torch.testing.assert_close(scores[classes], (want / want.mean()).double())


@pytest.mark.recipe
@pytest.mark.data
def test_the_recipe_runs_in_its_quick_size(tmp_path):
    for scope in ("", papers.FURTHER):
        run = execute(Run(papers.load("spa"), quick=True, out=tmp_path, scope=scope))
        wanted = {c.name for c in run.paper.claims if c.scope == scope}
        missing = wanted - set(run.measured)
        assert all("SNIP" in name or "Taylor" in name for name in missing)
        save(run, tmp_path, "netwright reproduce spa --quick")
