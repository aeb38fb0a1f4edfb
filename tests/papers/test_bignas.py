"""BigNAS' recipe in its quick size, and what its arms compare."""

import numpy as np
import pytest

from netwright import papers
from netwright.papers import FURTHER, Run, execute
from netwright.papers.bignas_further import compound
from netwright.papers.bignas_parts import CHILDREN, children, network, small, supernet


@pytest.mark.recipe
@pytest.mark.data
@pytest.mark.parametrize("scope", ["", FURTHER])
def test_the_recipe_measures_all_claims(scope):
    run = execute(Run(papers.load("bignas"), quick=True, scope=scope))
    assert {c.name for c in run.paper.claims if c.scope == scope} == set(run.measured)


@pytest.mark.data
def test_children_span_the_costs_and_scaled_networks_have_theirs():
    sup = supernet(network(0), small(Run(papers.load("bignas"), quick=True)))
    chosen = children(sup)
    macs = sup.costs(chosen)[:, 0]
    assert len(chosen) == CHILDREN and (np.diff(macs) > 0).all()
    assert chosen[0] == sup.space.min() and chosen[-1] == sup.space.max() and macs[-1] >= 5 * macs[0]
    scaled = compound(sup, chosen)
    assert len(scaled) == CHILDREN // 2
    # The least and the greatest of one multiplier are the ends of the space.
    assert sup.costs([scaled[-1]])[0, 0] == macs[-1]
    for one in scaled:
        depths = {v for n, v in one.items() if n.startswith("depth")}
        assert len(depths) == 1
