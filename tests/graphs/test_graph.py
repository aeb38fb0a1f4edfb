"""The graph type, its readers and saved embeddings."""

from __future__ import annotations

import gzip

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from scipy.sparse import csr_matrix, load_npz

from netwright.errors import ArtefactError, DataError, UsageError
from netwright.graphs import (
    CSRGraph,
    Embedding,
    fastrp,
    largest_ball,
    read,
    read_contacts,
    read_edges,
    read_wordnet,
    save_npz,
)

edges = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(edges)
def test_from_edges_is_networkx(pairs):
    graph = CSRGraph.from_edges(*np.array(pairs).T, 12)
    expected = nx.Graph([(u, v) for u, v in pairs if u != v])
    expected.add_nodes_from(range(12))
    assert np.array_equal(graph.csr.toarray(), nx.to_numpy_array(expected, nodelist=range(12)))
    assert graph.degree.tolist() == [expected.degree[k] for k in range(12)]
    assert not graph.directed
    u, v = (grid.ravel() for grid in np.meshgrid(range(12), range(12)))
    assert graph.has_edge(u, v).tolist() == [expected.has_edge(a, b) for a, b in zip(u, v, strict=True)]


@settings(max_examples=30, deadline=None)
@given(edges)
def test_weights_are_summed_or_the_largest(pairs):
    u, v = np.array(pairs).T
    w = np.arange(1.0, len(pairs) + 1)
    summed = CSRGraph.from_edges(u, v, 12, weight=w, sum_weights=True).csr.toarray()
    largest = CSRGraph.from_edges(u, v, 12, weight=w).csr.toarray()
    for a in range(12):
        for b in range(12):
            given_weights = [x for (p, q), x in zip(pairs, w, strict=True) if {p, q} == {a, b} and p != q]
            assert summed[a, b] == sum(given_weights)
            assert largest[a, b] == max(given_weights, default=0)


def test_networkx_names_and_weights_survive():
    source = nx.les_miserables_graph()
    graph = CSRGraph.from_networkx(source)
    assert graph.ids[0] == "Napoleon" and graph.n == 77
    assert np.array_equal(graph.csr.toarray(), nx.to_numpy_array(source))


def test_the_arrays_cannot_be_changed_and_must_fit():
    graph = CSRGraph.from_edges(np.array([0]), np.array([1]))
    with pytest.raises(ValueError):
        graph.indices[0] = 5
    with pytest.raises(DataError, match="outside"):
        CSRGraph(np.array([0, 1]), np.array([3]))
    with pytest.raises(DataError, match="row starts"):
        CSRGraph(np.array([0, 2]), np.array([0]))
    with pytest.raises(DataError, match="outside the 2 nodes"):
        CSRGraph.from_edges(np.array([0]), np.array([7]), 2)


def test_largest_ball_is_connected():
    graph = CSRGraph.from_networkx(nx.path_graph(30))
    ball = graph.subgraph(largest_ball(graph, 10))
    assert ball.n == 10 and nx.is_connected(nx.from_numpy_array(ball.csr.toarray()))


def test_edge_list_plain_gzipped_commented_and_named(tmp_path):
    text = "# FromNode ToNode\n0\t1\n1\t2\n2\t0\n2\t0\n"
    (tmp_path / "a.txt").write_text(text)
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write(text)
    (tmp_path / "c.csv").write_text("x,y\ny,z\nz,x\n")
    graphs = [read(tmp_path / name).graph for name in ("a.txt", "b.txt.gz", "c.csv")]
    assert all(g.n == 3 and g.entries == 6 for g in graphs)
    assert graphs[0].ids is None and graphs[2].ids == ("x", "y", "z")


def test_edge_list_weights_and_sparse_numbers(tmp_path):
    (tmp_path / "a.txt").write_text("10 20 2.5\n20 30 1\n")
    data = read_edges(tmp_path / "a.txt", weighted=True)
    assert data.graph.ids == (10, 20, 30) and data.graph.csr[0, 1] == 2.5
    assert read_edges(tmp_path / "a.txt").graph.weight is None


def test_labels_beside_an_edge_list(tmp_path):
    (tmp_path / "a.txt").write_text("0 1\n1 2\n")
    (tmp_path / "a.labels").write_text("0 red\n1 blue\n1 red\n")
    data = read(tmp_path / "a.txt")
    assert data.classes == ("blue", "red")
    assert data.labels.toarray().tolist() == [[False, True], [True, True], [False, False]]
    (tmp_path / "a.labels").write_text("9 red\n")
    with pytest.raises(DataError, match="no node"):
        read(tmp_path / "a.txt")


def test_matlab_file_and_npz(tmp_path):
    matrix = csr_matrix(nx.to_numpy_array(nx.cycle_graph(6)))
    groups = csr_matrix(np.eye(6)[:, :4])
    savemat(tmp_path / "g.mat", {"network": matrix, "group": groups})
    data = read(tmp_path / "g.mat")
    assert data.graph.entries == 12 and data.labels.shape == (6, 4) and data.labels.dtype == bool
    save_npz(tmp_path / "g.npz", data.graph)
    assert np.array_equal(read(tmp_path / "g.npz").graph.csr.toarray(), matrix.toarray())
    assert load_npz(tmp_path / "g.npz").nnz == 12


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", b""),
        ("one-column.txt", b"1\n2\n"),
        ("torn.gz", b"\x1f\x8b\x08\x00broken"),
        ("bad.mat", b"not a matlab file"),
        ("bad.npz", b"not a zip"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read(tmp_path / name)


def test_missing_paths_are_refused(tmp_path):
    for path in (tmp_path / "nothing.txt", tmp_path):
        with pytest.raises(DataError):
            read(path)
    with pytest.raises(DataError, match=r"data\.noun"):
        read_wordnet(tmp_path)
    with pytest.raises(DataError, match="fetch contacts"):
        read_contacts(tmp_path / "no.csv")


def test_wordnet_lines(tmp_path):
    lines = {
        "noun": "00000001 03 n 02 entity 0 thing 0 002 ~ 00000002 n 0000 + 00000001 v 0101 | what is\n"
        "00000002 18 n 01 person 0 001 @ 00000001 n 0000 | a human\n",
        "verb": "00000001 42 v 01 be 0 000 01 + 02 00 | exist\n",
        "adj": "00000001 00 s 01 real 0 001 & 00000002 a 0000 | \n00000002 01 a 01 true 0 000 | \n",
        "adv": "  1 the licence\n00000001 02 r 01 really 0 001 \\ 00000001 a 0101 | \n",
    }
    for kind, text in lines.items():
        (tmp_path / f"data.{kind}").write_text(text)
    found = read_wordnet(tmp_path)
    assert found.data.graph.ids == (
        "n:00000001",
        "n:00000002",
        "v:00000001",
        "a:00000001",
        "a:00000002",
        "r:00000001",
    )
    assert list(zip(found.source.tolist(), found.symbol.tolist(), found.target.tolist(), strict=True)) == [
        (0, "~", 1),
        (0, "+", 2),
        (1, "@", 0),
        (3, "&", 4),
        (5, "\\", 3),
    ]
    assert found.data.labels.toarray().argmax(axis=1).tolist() == [3, 18, 42, 0, 1, 2]
    (tmp_path / "data.adv").write_text("00000001 02 r zz really\n")
    with pytest.raises(DataError, match=r"data\.adv, line 1"):
        read_wordnet(tmp_path)


def test_contacts(tmp_path):
    (tmp_path / "c.csv").write_text("20\t7\t9\t1A\t1B\n20\t9\t7\t1B\t1A\n40\t7\t8\t1A\t1A\n")
    found = read_contacts(tmp_path / "c.csv")
    assert found.t.tolist() == [20, 20, 40] and found.data.graph.ids == (7, 8, 9)
    assert found.data.graph.csr[0, 2] == 2 and found.data.classes == ("1A", "1B")
    assert found.data.labels.toarray().argmax(axis=1).tolist() == [0, 0, 1]
    (tmp_path / "c.csv").write_text("20\t7\t9\n")
    with pytest.raises(DataError, match="line 1"):
        read_contacts(tmp_path / "c.csv")


def test_embedding_saves_loads_and_finds_neighbours(tmp_path):
    embedding = fastrp(CSRGraph.from_networkx(nx.les_miserables_graph()), 32, projection="gaussian")
    again = Embedding.load(embedding.save(tmp_path / "e.npz"))
    assert np.array_equal(again.vectors, embedding.vectors) and again.ids == embedding.ids
    near = again.nearest("Valjean", 5)
    unit = embedding.vectors / np.linalg.norm(embedding.vectors, axis=1, keepdims=True)
    cosine = unit @ unit[embedding.row("Valjean")]
    assert "Valjean" not in [name for name, _ in near]
    assert np.allclose([value for _, value in near], np.sort(cosine)[::-1][1:6], atol=1e-6)  # some are tied
    assert np.allclose([cosine[again.row(name)] for name, _ in near], [value for _, value in near], atol=1e-6)
    assert len(again.nearest("Valjean", 1000)) == 76
    with pytest.raises(UsageError, match="Nobody"):
        again.nearest("Nobody")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(ArtefactError):
        Embedding.load(tmp_path / "bad.npz")
