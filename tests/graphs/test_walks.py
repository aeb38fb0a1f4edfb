"""Random walks follow edges with the right odds; the skip-gram baseline learns communities."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from netwright.errors import UsageError
from netwright.graphs import CSRGraph, deepwalk, random_walks
from netwright.metrics.node_classification import evaluate_nodes


def communities(blocks=4, size=40, seed=0):
    source = nx.stochastic_block_model(
        [size] * blocks, np.full((blocks, blocks), 0.01) + np.eye(blocks) * 0.3, seed=seed
    )
    labels = np.repeat(np.eye(blocks, dtype=bool), size, axis=0)
    return CSRGraph.from_networkx(nx.Graph(source)), labels


def test_walks_follow_edges_and_stay_on_isolated_nodes():
    graph = CSRGraph.from_edges(np.array([0, 1, 2, 3]), np.array([1, 2, 3, 0]), 5)
    walks = random_walks(graph, np.arange(5), 20, p=0.5, q=2.0, rng=np.random.default_rng(0))
    assert walks.shape == (5, 20) and (walks[4] == 4).all()
    assert graph.has_edge(walks[:4, :-1].ravel(), walks[:4, 1:].ravel()).all()


def test_a_weighted_edge_is_taken_in_proportion():
    graph = CSRGraph.from_edges(np.array([0, 0]), np.array([1, 2]), 3, weight=np.array([1.0, 3.0]))
    walks = random_walks(graph, np.zeros(20_000, dtype=np.int64), 2, rng=np.random.default_rng(0))
    assert abs((walks[:, 1] == 2).mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 20_000)


def test_second_order_odds_are_those_of_node2vec():
    # From 0 to 1; then back to 0 (1/p), to 2, a neighbour of 0 (1), or to 3, none (1/q).
    graph = CSRGraph.from_edges(np.array([0, 1, 1, 0]), np.array([1, 2, 3, 2]), 4)
    p, q = 0.5, 4.0
    walks = random_walks(graph, np.zeros(60_000, dtype=np.int64), 3, p=p, q=q, rng=np.random.default_rng(1))
    third = walks[walks[:, 1] == 1, 2]
    odds = np.array([1 / p, 1.0, 1 / q])
    for node, expected in zip((0, 2, 3), odds / odds.sum(), strict=True):
        assert abs((third == node).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(third))


def test_the_baseline_learns_and_repeats():
    graph, labels = communities()
    found = deepwalk(graph, 32, walks=10, length=20, window=5, seed=1)
    again = deepwalk(graph, 32, walks=10, length=20, window=5, seed=1)
    assert found.vectors.tobytes() == again.vectors.tobytes()
    assert evaluate_nodes(found.vectors, labels, fraction=0.3, C=1.0).micro_f1 > 0.9


def test_a_hub_does_not_blow_the_vectors_up():
    star = CSRGraph.from_networkx(nx.star_graph(600))
    assert np.abs(deepwalk(star, 16, walks=5, length=20).vectors).max() < 10


def test_senseless_arguments_are_refused():
    graph, _ = communities(2, 10)
    with pytest.raises(UsageError):
        random_walks(graph, np.arange(3), p=0.0, rng=np.random.default_rng(0))
    with pytest.raises(UsageError, match="edges"):
        deepwalk(CSRGraph.from_edges(np.zeros(0), np.zeros(0), 4), 8)
