"""Few-shot NAS with gradient matching and PA&DA: their recipes in the quick size, and what they count."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from netwright import papers
from netwright.papers import FURTHER, Run, execute, save
from netwright.papers import few_shot_nas_gm_algorithms as algorithms
from netwright.papers import few_shot_nas_gm_small as gm
from netwright.papers import few_shot_nas_gm_spaces as spaces
from netwright.papers import pa_da_further as further
from netwright.papers import pa_da_small as panda
from netwright.papers.supernet_cells import cell_supernet
from netwright.supernets import Node
from netwright.supernets.samplers import Uniform


@pytest.mark.parametrize("slug", ["few-shot-nas-gm", "pa-da"])
def test_the_papers_are_in_the_list(slug):
    found = papers.load(slug)
    assert papers.implemented(slug) and found.package == "supernets"
    assert {c.scope for c in found.claims} <= {"", FURTHER}


def test_arms_have_equal_steps_whatever_is_divided():
    once, twice = gm.ONCE, gm.TWICE
    assert once[0] + 4 * (1 - once[0]) == pytest.approx(gm.TIMES)
    assert twice[0] + 2 * (twice[1] - twice[0]) + 4 * (1 - twice[1]) == pytest.approx(gm.TIMES)
    assert gm.EPOCHS * gm.TIMES == int(gm.EPOCHS * gm.TIMES)
    assert panda.EPOCHS % 4 == 0 and panda.WIDTH_EPOCHS % 3 == 0  # FairNAS takes 4 or 3 paths a step


def test_arms_of_the_further_runs_have_equal_steps_too():
    for epochs in (*algorithms.EPOCHS.values(), spaces.SANDWICH_EPOCHS, spaces.CELL_EPOCHS):
        assert epochs * gm.TIMES == int(epochs * gm.TIMES)
    assert further.EPOCHS % 8 == 0  # SUMNAS makes two passes on each of four paths a step
    recipe, paths = panda._training(panda.SUM, cell_supernet(0, width=4), 16, 0, Uniform(0))
    assert recipe.epochs * 4 * paths.inner_steps == 16 and recipe.momentum == 0


def test_convolutions_are_apart_in_one_of_three_partitions():
    def root(group, rest):
        children = [Node({"op:0-1": g}, None) for g in (group, rest)]
        return Node({}, None, "op:0-1", 1.0, children)

    assert gm._apart(root(("skip", "avgpool"), ("conv1x1", "conv3x3"))) == 1
    assert gm._apart(root(("conv1x1", "conv3x3"), ("skip", "avgpool"))) == 1
    assert gm._apart(root(("skip", "conv3x3"), ("conv1x1", "avgpool"))) == 0


@pytest.mark.recipe
@pytest.mark.data
@pytest.mark.parametrize("slug", ["few-shot-nas-gm", "pa-da"])
def test_the_further_arms_measure_every_claim(slug, tmp_path):
    run = execute(Run(papers.load(slug), quick=True, scope=FURTHER))
    wanted = {c.name for c in run.paper.claims if c.scope == FURTHER}
    # In a quick run the patches' own table may be too noisy to judge by, and says so.
    noisy = {name for name in wanted if name.startswith("photo-patches") and run.tries}
    assert wanted - noisy <= set(run.measured) <= wanted
    titles = [t.title for t in run.tables]
    assert len(titles) == len(set(titles))
    save(run, tmp_path, "netwright reproduce")
    (picture,) = tmp_path.glob("*.svg")
    ET.fromstring(picture.read_text())


@pytest.mark.recipe
@pytest.mark.data
@pytest.mark.parametrize("slug", ["few-shot-nas-gm", "pa-da"])
def test_the_recipe_measures_every_claim(slug, tmp_path):
    run = execute(Run(papers.load(slug), quick=True))
    wanted = {c.name for c in run.paper.claims if c.scope == ""}
    assert set(run.measured) == wanted
    found = save(run, tmp_path, "netwright reproduce")
    assert found["verdict"] is None and found["tables"]
    (picture,) = tmp_path.glob("*.svg")
    ET.fromstring(picture.read_text())
    ranked = next(t for t in run.tables if t.title.startswith("Kendall"))
    rows = {row[0]: row for row in ranked.rows}
    if slug == "pa-da":
        # As many multiply-accumulates where the paths are as likely.
        assert rows["DA"][7] == rows["SPOS"][7]
    else:
        assert rows[gm.ONE][7] > rows[gm.LEAF][7]
