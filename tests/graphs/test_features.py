"""The 23 features of a graph's structure, against networkx called directly."""

from __future__ import annotations

import statistics

import networkx as nx
import pytest

from netwright.errors import DataError
from netwright.graphs import STRUCTURE_FEATURES, structure_features


@pytest.mark.parametrize(
    "graph",
    [
        nx.barabasi_albert_graph(20, 2, seed=1),
        nx.connected_watts_strogatz_graph(17, 4, 1.0, seed=2),
        nx.path_graph(4),
        nx.complete_graph(5),
    ],
)
def test_features_are_what_networkx_says(graph: nx.Graph) -> None:
    found = structure_features(graph)
    assert tuple(found) == STRUCTURE_FEATURES and len(found) == 23
    nodes, edges = len(graph.nodes), len(graph.edges)
    directed = nx.DiGraph([(min(e), max(e)) for e in graph.edges])
    assert found["layers"] == nx.dag_longest_path_length(directed) + 1
    assert found["sources"] == sum(d == 0 for _, d in directed.in_degree)
    assert found["sinks"] == sum(d == 0 for _, d in directed.out_degree)
    assert (found["nodes"], found["edges"]) == (nodes, edges)
    assert found["diameter"] == nx.diameter(graph)
    assert found["density"] == pytest.approx(nx.density(graph) / 2)
    assert found["mean path"] == pytest.approx(nx.average_shortest_path_length(graph))
    for name, values in {
        "eccentricity": nx.eccentricity(graph),
        "degree": nx.degree_centrality(graph),
        "closeness": nx.closeness_centrality(graph),
        "node betweenness": nx.betweenness_centrality(graph),
        "edge betweenness": nx.edge_betweenness_centrality(graph),
    }.items():
        sample = list(values.values())
        assert found[f"{name} mean"] == pytest.approx(statistics.mean(sample))
        assert found[f"{name} variance"] == pytest.approx(statistics.variance(sample))
        assert found[f"{name} std"] == pytest.approx(statistics.stdev(sample))


def test_two_nodes_have_one_edge_and_no_spread() -> None:
    assert structure_features(nx.path_graph(2))["edge betweenness std"] == 0


def test_graphs_in_pieces_are_refused() -> None:
    with pytest.raises(DataError, match="connected"):
        structure_features(nx.Graph([(0, 1), (2, 3)]))
    with pytest.raises(DataError):
        structure_features(nx.empty_graph(1))
