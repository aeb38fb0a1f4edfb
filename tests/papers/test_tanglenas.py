"""The recipe of TangleNAS: its measures, and its paths in their quick sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from netwright import papers
from netwright.papers import FURTHER, Run, execute, save
from netwright.papers.tanglenas_further import area
from netwright.papers.tanglenas_parts import agreement, costs, stored_bytes


@pytest.mark.parametrize("space", ["macro-81", "convmacro"])
def test_separate_operations_compute_what_the_mixture_computes(space):
    assert agreement(space) < 1e-6


def test_mixtures_store_little_more_than_one_network_and_separate_operations_many_times_as_much():
    found = costs("convmacro", 32, 1)
    one, mixed, apart = (found[n][0] for n in ("one network", "mixture", "separate operations"))
    assert one <= mixed < 1.5 * one < apart


def test_stored_bytes_are_those_of_the_activations():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sigmoid())
    x = torch.randn(8, 4)
    assert stored_bytes(model, lambda: model(x)) == 2 * 8 * 4 * 4  # the input and the sigmoid's output


def test_the_area_under_a_curve_is_its_mean_over_time():
    assert area([(1.0, 0.5), (3.0, 0.9)], until=4.0) == pytest.approx((0.1 + 2 * 0.5 + 0.9) / 4)
    assert area([(1.0, 0.5), (3.0, 0.9)], until=2.0) == pytest.approx((0.1 + 0.5) / 2)


@pytest.mark.recipe
@pytest.mark.data
@pytest.mark.parametrize("scope", ["", FURTHER])
def test_the_recipe_in_its_quick_size(tmp_path, scope):
    run = execute(Run(papers.load("tanglenas"), quick=True, scope=scope))
    assert run.verdict is None
    assert {c.name for c in run.paper.claims if c.scope == scope} == set(run.measured)
    save(run, tmp_path, "netwright reproduce tanglenas --quick")


@pytest.mark.recipe
def test_the_space_of_autoformer_is_searched_on_images_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (120, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=images, y=np.arange(120) % 4)
    run = execute(Run(papers.load("tanglenas"), quick=True, data=tmp_path / "mine.npz"))
    assert run.without_verdict and run.tables[0].rows[0][1] in (12, 13, 14)
