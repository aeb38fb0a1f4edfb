"""AP: its arms, paired figures, and the recipe in its quick sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from netwright import papers
from netwright.metrics import DeadRates
from netwright.papers import Run, execute
from netwright.papers.activating_parts import AWAKE, HOST, POSITIVE, RANDOM, Panel, Point, arms, convolutional
from netwright.papers.activating_while_pruning import CIFAR
from netwright.papers.claims import FURTHER
from netwright.pruning import Context, choose, prunable_weights


def test_controls_choose_what_they_say():
    model = convolutional(0)
    names = prunable_weights(model)
    generator = torch.Generator().manual_seed(0)
    start = {n: p + torch.randn(p.shape, generator=generator) * 0.1 for n, p in model.named_parameters()}
    context = Context(None, {}, start, 0.8)
    chosen = {a: choose(model, names, 0.8, importance=i, context=context) for a, i in arms().items()}
    assert len({sum(int(m.sum()) for m in masks.values()) for masks in chosen.values()}) == 1
    total = sum(m.numel() for m in chosen[HOST].values())
    host = choose(model, names, round(0.8 * total + int(0.02 * total)) / total, context=context)
    gone = {}
    for arm in (AWAKE, POSITIVE, RANDOM):
        gone[arm] = {n: host[n] & ~chosen[arm][n] for n in names}
        weights = torch.cat([model.get_parameter(n)[m] for n, m in gone[arm].items()])
        assert len(weights) == int(0.02 * total)
        assert bool((weights > 0).all()) if arm == POSITIVE else bool((weights < 0).all())
    moved = {
        a: sum(float((model.get_parameter(n) - start[n])[m].detach().abs().sum()) for n, m in g.items())
        for a, g in gone.items()
    }
    assert moved[AWAKE] < moved[RANDOM]


def test_differences_are_paired_by_seed():
    panel = Panel()
    for host, ap in ((0.5, 0.6), (0.7, 0.8)):
        panel.add(HOST, {3: Point(10, 0.1, host, DeadRates(0.5, 0.2, 4, 9))})
        panel.add(AWAKE, {3: Point(10, 0.1, ap, DeadRates(0.4, 0.2, 4, 9))})
    assert panel.gain(AWAKE, HOST, 3) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-9))
    assert panel.drop(AWAKE, HOST, 3)[0] == pytest.approx(-0.1)
    assert panel.counts_differ() == 0
    panel.points[AWAKE][3][1].kept = 12
    assert panel.counts_differ() == 2


@pytest.mark.recipe
def test_the_recipe_in_its_quick_size():
    run = execute(Run(papers.load("activating-while-pruning"), quick=True))
    assert run.verdict is None
    assert set(run.measured) == {c.name for c in run.paper.claims if not c.scope}
    assert run.measured["weights kept, AP minus host, at most"].value == 0


@pytest.mark.recipe
def test_the_further_arms_in_their_quick_size():
    pytest.importorskip("timm")
    run = execute(Run(papers.load("activating-while-pruning"), quick=True, scope=FURTHER))
    assert set(run.measured) == {c.name for c in run.paper.claims if c.scope == FURTHER}


@pytest.mark.recipe
def test_the_recipe_on_images_like_those_of_cifar(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (120, 3, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=images, y=np.arange(120) % 10)
    run = execute(Run(papers.load("activating-while-pruning"), quick=True, data=tmp_path / "mine.npz"))
    assert run.scope == CIFAR
    assert set(run.measured) == {c.name for c in run.paper.claims if c.scope == CIFAR}
