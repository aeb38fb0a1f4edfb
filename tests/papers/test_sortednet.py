"""SortedNet's recipe in its quick size, and what its arms count on."""

import pytest
import torch

from netwright import papers
from netwright.data import fetch
from netwright.data.wordpiece import WordPiece
from netwright.errors import DataError
from netwright.papers import FURTHER, Run, execute
from netwright.papers.sortednet_dynamic import COMMON, LINE, SLIMMABLE, SORTED, WAYS
from netwright.papers.sortednet_pretrained import glosses, read_glosses
from netwright.papers.sparse_parts import fashion


@pytest.mark.recipe
@pytest.mark.data
@pytest.mark.parametrize("scope", ["", FURTHER])
def test_the_recipe_measures_all_claims(scope):
    run = execute(Run(papers.load("sortednet"), quick=True, scope=scope))
    assert {c.name for c in run.paper.claims if c.scope == scope} == set(run.measured)


@pytest.mark.data
def test_every_way_takes_the_same_passes_and_has_the_common_widths():
    data = fashion(20, 10)
    for way in WAYS.values():
        assert set(COMMON) <= set(way.widths)
        assert 8 % way.passes == 0  # whole epochs at equal passes
        sup = way.supernet(data, 0)
        sampler = way.sampler(0)
        sampler.attach(sup)
        assert len(sampler.draw(0)) == way.passes
    drawn = {d.choice["width"] for d in sampler.draw(0)}
    assert drawn == set(COMMON)  # all four at once with switchable norms
    held = {n: WAYS[n].supernet(data, 0) for n in (SORTED, LINE, SLIMMABLE)}
    parameters = sum(p.numel() for p in held[SORTED].parameters())
    assert held[LINE].extra_parameters() == parameters
    assert 0 < held[SLIMMABLE].extra_parameters() < parameters / 10


@pytest.mark.data
def test_glosses_have_their_lexicographer_files(tmp_path):
    folder = fetch("wordnet")
    every = read_glosses(folder)
    assert len(every) == 117_659
    assert len({label for _, label in every}) == 45
    text, label = every[0]
    assert text.startswith("that which is perceived") and label == 3  # noun.Tops
    words = WordPiece.read(fetch("minilm-l6") / "vocab.txt")
    data = glosses(folder, words, 40, 10, length=8)
    x, y = next(data.train.batches(40))
    assert x.shape == (40, 8) and (x[:, 0] == words.number["[CLS]"]).all() and int(y.max()) < 45
    other, _ = next(data.test.batches(10))
    assert not any(torch.equal(a, b) for a in x for b in other)
    with pytest.raises(DataError, match="fewer"):
        glosses(folder, words, 200_000, 10)
    with pytest.raises(DataError, match="netwright data fetch wordnet"):
        read_glosses(tmp_path)
