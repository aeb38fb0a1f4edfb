"""The exact checks of FastRP: closed form, projection, equivariance, bytes, an independent reference."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, diags, issparse

from netwright.errors import UsageError
from netwright.graphs import CSRGraph, fastrp, random_projection
from netwright.graphs.projection import degree_weights


def unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


@pytest.fixture(scope="module")
def karate():
    return CSRGraph.from_networkx(nx.karate_club_graph())


def random_graph(n, m, seed=0):
    rng = np.random.default_rng(seed)
    return CSRGraph.from_edges(rng.integers(0, n, m), rng.integers(0, n, m), n)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["very-sparse", "gaussian", 3.0])
def test_order_k_is_the_closed_form_on_karate(karate, order, kind):
    beta, dim = -0.6, 20
    adjacency = nx.to_numpy_array(nx.karate_club_graph())  # weighted, in node order
    degree = adjacency.sum(axis=1)
    transition = adjacency / degree[:, None]
    scale = np.diag((degree / degree.sum()) ** beta)
    projection = random_projection(34, dim, kind, seed=7, dtype=np.float64)
    dense = projection.toarray() if issparse(projection) else projection
    expected = np.linalg.matrix_power(transition, order) @ scale @ dense
    weights = [0.0] * (order - 1) + [1.0]
    found = fastrp(karate, dim, weights, beta, 7, kind, normalize=False, dtype=np.float64).vectors
    assert np.abs(found - expected).max() < 1e-10


def test_identity_projection_gives_the_weighted_powers(karate):
    transition = karate.rownorm(np.float64).toarray()
    weights = (0.5, 0.0, 1.0, 4.0)
    powers = [np.linalg.matrix_power(transition, k) for k in range(1, 5)]
    expected = sum(a * unit(p) for a, p in zip(weights, powers, strict=True))
    found = fastrp(karate, 34, weights, 0.0, projection=np.eye(34), dtype=np.float64).vectors
    assert np.abs(found - expected).max() < 1e-12


@pytest.mark.parametrize("s", [1.0, 3.0, 30.0])
def test_projection_frequencies_and_second_moment(s):
    n, dim = 1000, 256
    matrix = random_projection(n, dim, s, seed=1, dtype=np.float64)
    p = 1 / s
    allowance = 4 * math.sqrt(n * dim * p * (1 - p))
    assert abs(matrix.nnz - n * dim * p) <= allowance
    values = matrix.data
    assert set(np.round(np.abs(values), 12)) == {round(math.sqrt(s), 12)}
    assert abs((values > 0).sum() - matrix.nnz / 2) < 4 * math.sqrt(matrix.nnz / 4)
    gram = (matrix @ matrix.T).toarray() / dim
    off = gram[~np.eye(n, dtype=bool)]
    assert abs(np.diag(gram).mean() - 1) < 0.05
    assert abs(off.mean()) < 0.005 and abs(off.std() - 1 / math.sqrt(dim)) < 0.01


def test_very_sparse_uses_the_square_root_of_n():
    matrix = random_projection(10_000, 64, "very-sparse", seed=0)
    assert np.allclose(np.abs(matrix.data), 10.0)


@pytest.mark.parametrize("kind", ["very-sparse", "gaussian", 3.0])
def test_distances_survive_the_projection(kind):
    rng = np.random.default_rng(3)
    points = rng.standard_normal((60, 4000)).astype(np.float32)
    projected = points @ random_projection(4000, 512, kind, seed=5) / math.sqrt(512)
    projected = projected.toarray() if issparse(projected) else np.asarray(projected)
    i, j = np.triu_indices(60, 1)
    before = np.linalg.norm(points[i] - points[j], axis=1)
    after = np.linalg.norm(projected[i] - projected[j], axis=1)
    assert np.median(np.abs(after / before - 1)) < 0.1


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), m=st.integers(1, 120), seed=st.integers(0, 99))
def test_rows_of_the_transition_matrix_sum_to_one(n, m, seed):
    graph = random_graph(n, m, seed)
    sums = np.asarray(graph.rownorm(np.float64).sum(axis=1)).ravel()
    assert np.allclose(sums, (graph.degree > 0).astype(float), atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_permuting_nodes_and_projection_permutes_the_vectors(seed):
    graph = random_graph(50, 140, seed)
    order = np.random.default_rng(seed).permutation(50)
    projection = np.random.default_rng(seed + 1).standard_normal((50, 16))
    plain = fastrp(graph, 16, projection=projection, dtype=np.float64).vectors
    moved = fastrp(graph.permuted(order), 16, projection=projection[order], dtype=np.float64).vectors
    assert np.allclose(moved, plain[order], atol=1e-10)


@pytest.mark.parametrize("projection", ["very-sparse", "gaussian"])
def test_same_bytes_for_any_number_of_threads(projection):
    graph = random_graph(400, 3000)
    results = [fastrp(graph, 200, seed=3, projection=projection, threads=k).vectors for k in (1, 2, 5)]
    assert results[0].dtype == np.float32
    assert all(result.tobytes() == results[0].tobytes() for result in results)
    assert fastrp(graph, 200, seed=4, projection=projection).vectors.tobytes() != results[0].tobytes()


def test_column_chunks_do_not_change_the_vectors():
    graph = random_graph(300, 2000)
    whole, parts = (fastrp(graph, 96, chunk=c).vectors for c in (96, 7))
    assert np.allclose(whole, parts, atol=1e-6)


def reference(adjacency, projection, weights, alpha, normalise):
    """FastRP written another way: column format, every order kept, scikit-learn's normalisation."""
    from sklearn.preprocessing import normalize

    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    transition = diags(1 / degree) @ csc_matrix(adjacency)
    components = projection.T @ diags(degree**alpha)  # (dim, n), as a fitted transformer holds them
    current = (components @ transition.T).T
    orders = [current]
    for _ in weights[1:]:
        current = transition @ current
        orders.append(current)
    orders = [normalize(order, axis=1) if normalise else order for order in orders]
    return (
        np.concatenate(orders, axis=1)
        if all(w is None for w in weights)
        else sum(w * order for w, order in zip(weights, orders, strict=True))
    )


def test_parity_with_an_independent_reference():
    graph = random_graph(300, 3000)
    assert graph.degree.min() > 0
    projection = np.random.default_rng(0).standard_normal((300, 32))
    weights = (0.0, 0.0, 7.81, 45.28)
    expected = reference(graph.matrix(np.float64), projection, weights, -0.628, True)
    found = fastrp(graph, 32, weights, -0.628, projection=projection, dtype=np.float64).vectors
    assert np.abs(found - expected).max() < 1e-9
    expected = reference(graph.matrix(np.float64), projection, (None,) * 3, -0.5, True)
    side = fastrp(graph, 32, None, -0.5, projection=projection, orders=3, dtype=np.float64).vectors
    assert side.shape == (300, 96) and np.abs(side - expected).max() < 1e-9


def test_isolated_nodes_have_the_zero_vector_and_nothing_is_nan():
    graph = CSRGraph.from_edges(np.array([0, 1]), np.array([1, 2]), 5)
    vectors = fastrp(graph, 8, beta=-1.0, projection="gaussian").vectors
    assert np.isfinite(vectors).all() and (vectors[3:] == 0).all() and (vectors[:3] != 0).any()
    assert (degree_weights(graph, -1.0)[3:] == 0).all()


def test_a_directed_graph_is_made_undirected():
    arcs = CSRGraph.from_edges(np.array([0, 1, 2]), np.array([1, 2, 3]), 4, directed=True)
    assert arcs.directed and not arcs.sym().directed
    assert np.array_equal(fastrp(arcs, 8).vectors, fastrp(arcs.sym(), 8).vectors)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": ()},
        {"weights": (0.0, 0.0)},
        {"projection": "sparse"},
        {"projection": 0.5},
        {"chunk": 0},
        {"dim": 0},
    ],
)
def test_senseless_arguments_are_refused(karate, options):
    with pytest.raises(UsageError):
        fastrp(karate, **({"dim": 8} | options))


def test_a_projection_of_the_wrong_shape_is_refused(karate):
    with pytest.raises(UsageError, match="34"):
        fastrp(karate, 8, projection=np.ones((8, 34)))
