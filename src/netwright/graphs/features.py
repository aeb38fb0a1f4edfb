"""Statistics of a graph's structure, as numbers that a regression can take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING

from netwright.errors import DataError

if TYPE_CHECKING:
    import networkx as nx

#: What has a value for every node or edge, of which mean, variance and deviation are features.
_SPREAD = ("eccentricity", "degree", "closeness", "node betweenness", "edge betweenness")
_SINGLE = ("layers", "nodes", "edges", "sources", "sinks", "diameter", "density", "mean path")
#: Names of the features, in order.
STRUCTURE_FEATURES = (*_SINGLE, *(f"{name} {of}" for name in _SPREAD for of in ("mean", "variance", "std")))


def structure_features(graph: nx.Graph) -> dict[str, float]:
    """The 23 features of a connected undirected graph that H. Darji's thesis regresses accuracy on.

    Layers, sources and sinks are those of the graph whose edges point from lower to higher nodes (see
    `netwright.models.wire`). Density is edges / (nodes (nodes - 1)), half of networkx's for undirected
    graphs. Centralities are networkx's; variance and deviation are those of a sample.

    Args:
        graph: Of networkx, connected, at least two nodes.

    Returns:
        `STRUCTURE_FEATURES` -> value.

    Raises:
        DataError: if the graph is not connected or has a single node.
    """
    import networkx as nx

    from netwright.models import wire

    nodes, edges = graph.number_of_nodes(), graph.number_of_edges()
    if nodes < 2 or not nx.is_connected(graph):
        raise DataError("structure needs a connected graph of at least two nodes", "take its largest part")
    wiring = wire(graph)
    eccentricity = nx.eccentricity(graph)
    values = [
        float(len(wiring.layers)),
        float(nodes),
        float(edges),
        float(wiring.sources),
        float(wiring.sinks),
        float(nx.diameter(graph, eccentricity)),
        edges / (nodes * (nodes - 1)),
        nx.average_shortest_path_length(graph),
        *_moments(eccentricity.values()),
        *_moments(nx.degree_centrality(graph).values()),
        *_moments(nx.closeness_centrality(graph).values()),
        *_moments(nx.betweenness_centrality(graph).values()),
        *_moments(nx.edge_betweenness_centrality(graph).values()),
    ]
    return dict(zip(STRUCTURE_FEATURES, values, strict=True))


def _moments(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean, variance and deviation of a sample; no spread of a single value."""
    found = [float(v) for v in values]
    if len(found) < 2:
        return found[0], 0.0, 0.0
    return statistics.fmean(found), statistics.variance(found), statistics.stdev(found)
