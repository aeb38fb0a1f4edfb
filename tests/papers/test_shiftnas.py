"""The recipe of ShiftNAS: its networks by bin, and its paths in their quick sizes."""

from __future__ import annotations

import numpy as np
import pytest

from netwright import papers
from netwright.papers import FURTHER, Run, execute, save
from netwright.papers.shiftnas_small import BINS, ends, middle, networks, supernet
from netwright.supernets import Bins, cost_tables


def test_the_networks_that_are_judged_lie_in_their_bins():
    tables = cost_tables(supernet(0))
    assert tables.space.size() == 46_656
    bins = Bins.of(tables, BINS)
    for place, some in enumerate(networks(tables, 0, 4)):
        assert len(set(some)) == 4
        assert all(bins.index(tables.of(choice)) == place for choice in some)


def test_ends_and_middle_are_all_bins():
    bins = [0.1, 0.2, 0.3, 0.6]
    assert ends(bins) == pytest.approx(0.35)
    assert middle(bins) == pytest.approx(0.25)


@pytest.mark.recipe
@pytest.mark.data
@pytest.mark.parametrize("scope", ["", FURTHER])
def test_the_recipe_in_its_quick_size(tmp_path, scope):
    run = execute(Run(papers.load("shiftnas"), quick=True, scope=scope))
    assert run.verdict is None
    assert {c.name for c in run.paper.claims if c.scope == scope} == set(run.measured)
    save(run, tmp_path, "netwright reproduce shiftnas --quick")


@pytest.mark.recipe
def test_a_residual_network_is_sampled_on_images_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (160, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=images, y=np.arange(160) % 4)
    run = execute(Run(papers.load("shiftnas"), quick=True, data=tmp_path / "mine.npz"))
    assert run.without_verdict and len(run.tables[0].rows) == 2
