"""ISS-P: its data, its arms, and the recipe in its quick sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from netwright import papers
from netwright.data import PairSource, Part, Splits, super_resolution
from netwright.models import EDSR
from netwright.papers import Run, execute
from netwright.papers.claims import FURTHER
from netwright.papers.iss_p import BENCHMARK
from netwright.papers.iss_p_parts import (
    DENSE,
    FAST,
    HEADLINE,
    INITIAL,
    ISSP,
    PENALTY,
    RANDOM,
    RUNS,
    TRAINED,
    Data,
    train_arm,
)
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.train import Recipe


def tiny():
    high = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    low, high = super_resolution(high, 2)
    pairs = PairSource(low, high, 2, channels=1)
    part = Part(pairs)
    return Data(Splits("tiny", part, part.head(2), part.head(2), ()), {"own": pairs})


RECIPE = Recipe(epochs=4, batch_size=4, lr=3e-2, optimizer="adamw", weight_decay=0.0, precision="fp32")


@pytest.mark.parametrize("arm", [*HEADLINE, FAST, PENALTY, RUNS, DENSE])
def test_every_arm_ends_at_its_share_layer_by_layer(arm):
    model = reinitialise_(EDSR(2, 1, 8, 1, share=1.0), 0)
    run = Run(papers.load("iss-p"), quick=True)
    found = train_arm(run, model, tiny(), RECIPE, arm, 0.1, every=3)
    sizes = {n: p.numel() for n, p in model.named_parameters() if p.dim() > 1}
    assert set(found.norms) == set(sizes) and len(found.steps) == len(found.norms["head.weight"])
    if arm == DENSE:
        assert found.kept == {} and found.churn == {}
    elif arm == RUNS:
        assert all(found.kept[n] == -(-size // 20) for n, size in sizes.items())
    else:
        assert all(size - found.kept[n] == math.ceil(round(0.9 * size, 6)) for n, size in sizes.items())
    if arm in (RANDOM, INITIAL):
        assert set(found.churn.values()) == {0.0}
    if arm == ISSP:
        assert max(found.churn.values()) > 0
    if arm == TRAINED:
        assert set(found.churn) and set(found.churn.values()) == {0.0}
    assert np.isfinite(found.quality["own"].psnr)


@pytest.mark.recipe
@pytest.mark.data
def test_the_recipe_in_its_quick_size():
    run = execute(Run(papers.load("iss-p"), quick=True))
    assert run.verdict is None
    assert set(run.measured) == {c.name for c in run.paper.claims if not c.scope}


@pytest.mark.recipe
@pytest.mark.data
def test_the_further_arms_in_their_quick_size():
    run = execute(Run(papers.load("iss-p"), quick=True, scope=FURTHER))
    assert set(run.measured) == {c.name for c in run.paper.claims if c.scope == FURTHER}


@pytest.mark.recipe
def test_the_recipe_on_ones_own_folders(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("train", 80), ("test/Set5", 48), ("test/mine", 44)):
        (tmp_path / name / "HR").mkdir(parents=True)
        for k in range(2):
            pixels = rng.integers(0, 256, (size, size + 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / "HR" / f"{k}.png")
    run = execute(Run(papers.load("iss-p"), quick=True, data=tmp_path))
    assert run.scope == BENCHMARK
    assert set(run.measured) == {c.name for c in run.paper.claims if c.scope == BENCHMARK}
