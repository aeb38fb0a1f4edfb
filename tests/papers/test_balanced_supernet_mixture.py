"""The recipe of the balanced mixture of supernets in its quick size."""

import pytest

from netwright import papers
from netwright.models.zoo.pooled_resnet import POOLING_SPACES, resolutions_of
from netwright.papers import Run, execute, save
from netwright.papers import balanced_supernet_mixture_published as published


def test_the_published_numbers_rank_as_the_sheet_says():
    taus = published.published()
    assert [round(taus[count], 2) for count in (1, 2, 4, 8)] == [0.14, 0.31, 0.60, 0.53]
    alone = {
        tuple(resolutions_of(positions, 10)): row[0]
        for positions, row in zip(POOLING_SPACES["resnet20"].positions, published.PUBLISHED, strict=True)
    }
    assert alone[4, 3, 3] == pytest.approx(90.52, abs=0.005)
    assert max(alone, key=alone.get) == (7, 1, 2) and alone[7, 1, 2] == pytest.approx(92.01, abs=0.005)


@pytest.mark.recipe
@pytest.mark.data
def test_the_recipe_runs_and_writes_its_evidence(tmp_path):
    run = execute(Run(papers.load("balanced-supernet-mixture"), quick=True))
    assert {c.name for c in run.paper.claims if not c.scope} == set(run.measured)
    save(run, tmp_path, "netwright reproduce balanced-supernet-mixture --quick")
    assert any(tmp_path.iterdir())


@pytest.mark.recipe
@pytest.mark.data
def test_the_further_arms_run():
    run = execute(Run(papers.load("balanced-supernet-mixture"), quick=True, scope="all"))
    assert {c.name for c in run.paper.claims if c.scope == "all"} == set(run.measured)
