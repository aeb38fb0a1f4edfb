"""GraNet, random pruning and lottery rewinding: the recipes in their quick size, and on one's own images."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from netwright import papers
from netwright.papers import FURTHER, Run, execute, save
from netwright.papers import sparse_full as full
from netwright.papers.sparse_parts import digits, mlp, paired
from netwright.pruning import prunable_weights

SLUGS = ("granet", "random-pruning", "lottery-rewinding")


@pytest.mark.parametrize("slug", SLUGS)
def test_the_paper_is_in_the_list(slug):
    found = papers.load(slug)
    assert papers.implemented(slug) and found.package == "pruning"
    assert {c.scope for c in found.claims} == {"", FURTHER, full.CIFAR, full.IMAGENET}


def test_the_digits_are_split_70_to_30_class_by_class():
    data = digits()
    count = len(data.train) + len(data.test)
    assert count == 1797 and len(data.test) == pytest.approx(0.3 * count, abs=5)
    assert not set(data.train.indices.tolist()) & set(data.test.indices.tolist())
    shares = torch.bincount(data.test.labels, minlength=10) / (
        torch.bincount(data.train.labels, minlength=10) + torch.bincount(data.test.labels, minlength=10)
    )
    assert bool(((shares - 0.3).abs() < 0.01).all())


def test_differences_are_taken_seed_by_seed():
    value, half = paired([0.9, 0.8, 0.7], [0.8, 0.7, 0.6])
    assert value == pytest.approx(0.1) and half == pytest.approx(0, abs=1e-9)
    one, other = mlp((4, 3, 2), 5), mlp((4, 3, 2), 5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.recipe
@pytest.mark.data
@pytest.mark.parametrize("scope", ["", FURTHER])
@pytest.mark.parametrize("slug", SLUGS)
def test_the_recipe_in_its_quick_size(slug, scope, tmp_path):
    run = execute(Run(papers.load(slug), quick=True, out=tmp_path, scope=scope))
    assert run.verdict is None and run.measured
    assert {run.paper.claim(name).scope for name in run.measured} == {scope}
    found = save(run, tmp_path, f"netwright reproduce {slug} --quick")
    assert found["quick"] and found["tables"]
    ET.fromstring(next(tmp_path.glob("*.svg")).read_text())


@pytest.mark.recipe
@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize("size", [32, pytest.param(72, marks=pytest.mark.slow)])
def test_the_recipe_on_ones_own_images(slug, size, tmp_path):
    """Small images get the networks for CIFAR, larger ones those for ImageNet."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (90, 3, size, size), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=images, y=np.arange(90) % 3)
    run = execute(Run(papers.load(slug), quick=True, data=tmp_path / "mine.npz", out=tmp_path))
    assert run.verdict is None and run.without_verdict is not None
    assert run.tables and run.svg


def test_the_published_networks_for_small_images():
    from netwright.data import Part, Splits

    part = Part.from_tensors(torch.randn(4, 3, 32, 32), torch.arange(4))
    data = Splits("tiny", part, part, part, tuple("abcd"))
    vgg, resnet = (full.published(name, data)(0) for name in ("vgg19_bn", "resnet50"))
    for model in (vgg, resnet):
        assert model(part.source.get(torch.arange(2), None)).shape == (2, 4)
    # VGG-19 of small images: 16 convolutions and one linear map.
    assert len(prunable_weights(vgg)) == 17
    assert resnet.conv1.kernel_size == (3, 3) and resnet.conv1.stride == (1, 1)
