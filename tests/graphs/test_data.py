"""The fixed graphs have exactly the sizes that the literature gives."""

from __future__ import annotations

import numpy as np
import pytest

from netwright.errors import DataError
from netwright.graphs import contacts, wordnet


@pytest.mark.data
def test_wordnet_has_its_published_size():
    found = wordnet()
    assert found.data.graph.n == 117_659 and len(found.source) == 377_592
    counts = np.asarray(found.data.labels.sum(axis=0)).ravel()
    assert len(counts) == 45 and (counts > 0).all() and counts.sum() == 117_659
    assert found.data.graph.ids[0] == "n:00001740"  # entity
    topics = found.symbol == ";c"
    assert topics.sum() == 6_654 and len(np.unique(found.source[topics])) == 6_437


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count", "people", "pairs", "classes"),
    [
        ("Primary_School", 125_773, 242, 8_317, 11),
        ("thiers_2012", 45_047, 180, 2_220, 5),
        ("Contacts_Hospital", 32_424, 75, 1_139, 4),
    ],
)
def test_contacts_have_their_published_size(name, count, people, pairs, classes):
    found = contacts(name)
    assert len(found.t) == count and found.data.graph.n == people
    assert found.data.graph.entries == 2 * pairs and len(found.data.classes) == classes
    assert found.data.graph.degree.sum() == 2 * count


def test_an_unknown_stream_is_refused():
    with pytest.raises(DataError, match="Primary_School"):
        contacts("secondary_school")
