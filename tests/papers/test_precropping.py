"""PreCrop: its parts, its arms under one budget, and the recipe in its quick size."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from netwright import papers
from netwright.data import Part, Splits
from netwright.papers import Run, execute, save
from netwright.papers import precropping_nets as nets
from netwright.papers.noise import noise
from netwright.papers.precropping_parts import (
    ARMS,
    CONVEX,
    DENSE,
    MASKS,
    SHUFFLED,
    SYNFLOW,
    UNIFORM,
    Family,
    build,
    nonzero,
    step_costs,
)
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.structure import trace
from netwright.train import Recipe


def tiny(count=64):
    torch.manual_seed(0)
    part = Part.from_tensors(torch.randn(count, 1, 14, 14), torch.arange(count) % 10)
    return Splits("tiny", part, part, part, tuple("0123456789"))


def test_the_paper_is_in_the_list():
    found = papers.load("precropping")
    assert papers.implemented("precropping") and found.package == "pruning"
    assert {c.scope for c in found.claims} == {"", papers.FURTHER, "cifar-10", "imagenet"}


def test_noise_is_a_95_percent_interval_of_few_values():
    assert noise([0.5]) == 0.0
    assert noise([1.0, 2.0, 3.0]) == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)


def test_differences_are_taken_seed_by_seed():
    family = Family()
    model = nets.resnet(1, 10, quick=True)
    for a, b in ((0.8, 0.7), (0.9, 0.8), (0.6, 0.5)):
        family.add("a", model, a, 1)
        family.add("b", model, b, 1)
    value, spread = family.above("a", "b")
    assert value == pytest.approx(0.1) and spread == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("make", [lambda c, k: nets.resnet(c, k), nets.shufflenet, nets.mobilenet])
def test_every_arm_keeps_its_share(make):
    model = reinitialise_(make(1, 10), 3)
    net = trace(model, torch.randn(1, 1, 14, 14))
    arms = build(net, model, 0.25, 3, ARMS, rounds=5)
    assert set(arms) == set(ARMS)
    layers = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    kept = round(0.25 * layers) + net.params - layers
    assert nonzero(arms[MASKS]) == nonzero(arms[SHUFFLED]) == kept
    for name in (SYNFLOW, CONVEX, UNIFORM):
        assert 0.98 <= nonzero(arms[name]) / (0.25 * net.params) <= 1.0
        assert nonzero(arms[name]) == sum(p.numel() for p in arms[name].parameters())
    x = torch.randn(3, 1, 14, 14)
    assert all(arm(x).shape == (3, 10) for arm in arms.values())


def test_a_masked_network_starts_from_the_dense_one_and_is_really_shuffled():
    model = reinitialise_(nets.resnet(1, 10, quick=True), 0)
    net = trace(model, torch.randn(1, 1, 14, 14))
    arms = build(net, model, 0.25, 0, (MASKS, SHUFFLED), rounds=5)
    dense = model.layer3[0].conv2.weight
    weights = [arms[name].layer3[0].conv2.weight for name in (MASKS, SHUFFLED)]
    for weight in weights:
        assert torch.equal(weight[weight != 0], dense[weight != 0])
    assert int((weights[0] != 0).sum()) == int((weights[1] != 0).sum())
    assert not torch.equal(weights[0], weights[1])


def test_masks_cost_a_training_step_as_much_as_dense_and_crops_less():
    model = reinitialise_(nets.resnet(1, 10, quick=True), 0)
    net = trace(model, torch.randn(1, 1, 14, 14))
    arms = build(net, model, 0.25, 0, (MASKS, SYNFLOW), rounds=5)
    recipe = Recipe(batch_size=64, precision="fp32")
    run = Run(papers.load("precropping"), quick=True)
    costs = step_costs(run, {DENSE: model, **arms}, tiny(), recipe, rounds=2)
    assert costs[MASKS].macs == costs[DENSE].macs == 3 * 64 * net.macs
    assert costs[SYNFLOW].macs < 0.6 * costs[DENSE].macs
    assert costs[DENSE].bytes <= costs[MASKS].bytes < 1.2 * costs[DENSE].bytes
    assert costs[SYNFLOW].bytes < costs[DENSE].bytes


@pytest.mark.recipe
@pytest.mark.data
def test_the_recipe_in_its_quick_size(tmp_path):
    run = execute(Run(papers.load("precropping"), quick=True, out=tmp_path))
    assert run.verdict is None
    ordinary = {claim.name for claim in run.paper.claims if not claim.scope}
    assert set(run.measured) == ordinary
    found = save(run, tmp_path, "netwright reproduce precropping --quick")
    assert found["quick"] and (tmp_path / "precropping.quick.json").exists()
    assert found["tables"][0]["title"].startswith("ResNet")
    ET.fromstring((tmp_path / "precropping.quick.svg").read_text())
    by_name = {claim["name"]: claim for claim in found["claims"]}
    assert by_name["training MACs of the crop by dense, 25 %"]["measured"] < 1


@pytest.mark.recipe
def test_the_recipe_on_ones_own_images(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (120, 3, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=images, y=np.arange(120) % 4)
    run = execute(Run(papers.load("precropping"), quick=True, data=tmp_path / "mine.npz"))
    assert run.verdict is None and run.without_verdict is not None
    assert [t.title for t in run.tables] == [
        "ResNet-20, 25 % of the parameters",
        "ResNet-20, 10 % of the parameters",
    ]
