"""FastRP (#31): node embeddings by very sparse random projection, against DeepWalk and node2vec.

The ordinary run measures on WordNet (117,659 synsets, 45 lexicographer files as labels) and on the
SocioPatterns contacts. With ``--data blogcatalog.mat`` it repeats the published table; with any other graph
file it embeds that graph.
"""

from __future__ import annotations

from netwright.papers.claims import Claim
from netwright.papers.frame import paper
from netwright.papers.run import Run

BLOGCATALOG = "blogcatalog"
_WWW = "www-200k"

CLAIMS = (
    # The expectations stand in the project's sheet of this paper, from a pilot on another graph.
    Claim("times faster than DeepWalk", "over 4,000x (on graphs of up to 1.1 M nodes)", ">= 100x"),
    Claim("micro-F1 above DeepWalk's", "comparable or even better", ">= -0.02"),
    Claim("macro-F1 above DeepWalk's", "comparable or even better", ">= -0.02"),
    Claim("link prediction AUC above DeepWalk's", "comparable or even better on various tasks", ">= -0.02"),
    Claim("micro-F1 of orders 3 and 4 above orders 1 and 2", "high orders are needed", ">= 0.1"),
    Claim("micro-F1 of very sparse above dense projection", "no loss", "within 0.03 of 0"),
    Claim("growth of time with edges (exponent)", "linear: O(q m d)", "within 0.25 of 1"),
    Claim(
        "similarity matters more than reduction, contacts (times)", "the similarity is what counts", ">= 3x"
    ),
    Claim(
        "similarity matters more than reduction, WordNet (times)", "the similarity is what counts", ">= 3x"
    ),
    Claim("times faster than DeepWalk at the paper's scale", "over 4,000x", ">= 4000x", _WWW),
    Claim("BlogCatalog micro-F1, 10 % labelled", "0.376", "within 0.02 of 0.376", BLOGCATALOG),
    Claim("BlogCatalog macro-F1, 10 % labelled", "0.232", "within 0.02 of 0.232", BLOGCATALOG),
    Claim("BlogCatalog micro-F1 above DeepWalk's", "0.376 against 0.364: +0.012", ">= -0.02", BLOGCATALOG),
    Claim("BlogCatalog macro-F1 above DeepWalk's", "0.232 against 0.213: +0.019", ">= -0.02", BLOGCATALOG),
    Claim("BlogCatalog times faster than DeepWalk", "over 4,000x", ">= 100x", BLOGCATALOG),
)


@paper(
    slug="fastrp",
    number=31,
    title="Fast and Accurate Network Embeddings via Very Sparse Random Projection",
    year=2019,
    link="https://arxiv.org/abs/1908.11512",
    package="graphs",
    claims=CLAIMS,
)
def reproduce(run: Run) -> None:
    """Measure the claims on WordNet and contacts, or on the graph given with ``--data``."""
    from netwright.papers import fastrp_data, fastrp_wordnet

    if run.data is None:
        fastrp_wordnet.measure(run)
    else:
        fastrp_data.measure(run, run.data)
