"""The recipe of the balanced mixture of supernets in its quick size."""

import pytest

from netwright import papers
from netwright.papers import Run, execute, save


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
