"""The one graph type: compressed sparse rows with node names beside them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netwright.errors import DataError

if TYPE_CHECKING:
    import networkx
    from scipy.sparse import csr_array


class CSRGraph:
    """An immutable graph in compressed sparse rows.

    Row ``u`` lists the neighbours of node ``u`` in ascending order, each once. An undirected edge is stored
    in both directions. Build one with `from_edges`, `from_scipy` or `from_networkx`.

    Args:
        indptr: Row starts, (n + 1,) int64.
        indices: Neighbours, (entries,) int32 or int64.
        weight: Edge weights, (entries,) float32, or None where every edge weighs 1.
        ids: Names of the nodes in index order, or None where a node's name is its index.

    Raises:
        DataError: if the arrays do not describe a graph.
    """

    def __init__(
        self,
        indptr: NDArray[np.int64],
        indices: NDArray[Any],
        weight: NDArray[np.float32] | None = None,
        ids: Sequence[Hashable] | None = None,
    ) -> None:
        self.indptr = np.ascontiguousarray(indptr, dtype=np.int64)
        kind = np.int32 if len(self.indptr) - 1 < 2**31 else np.int64
        self.indices = np.ascontiguousarray(indices, dtype=kind)
        self.weight = None if weight is None else np.ascontiguousarray(weight, dtype=np.float32)
        self.ids = None if ids is None else tuple(ids)
        self._check()
        for array in (self.indptr, self.indices, self.weight):
            if array is not None:
                array.flags.writeable = False

    def _check(self) -> None:
        n, entries = len(self.indptr) - 1, len(self.indices)
        if n < 0 or self.indptr[0] != 0 or self.indptr[-1] != entries or (np.diff(self.indptr) < 0).any():
            raise DataError(
                "the row starts of the graph do not fit its entries", "build it with CSRGraph.from_edges"
            )
        if entries and not (0 <= int(self.indices.min()) and int(self.indices.max()) < n):
            raise DataError(
                f"the graph has a neighbour outside 0..{n - 1}", "build it with CSRGraph.from_edges"
            )
        if self.weight is not None and (len(self.weight) != entries or not np.isfinite(self.weight).all()):
            raise DataError("the edge weights are not one finite number an entry", "mend the weight column")
        if self.ids is not None and len(self.ids) != n:
            raise DataError(f"{len(self.ids)} node names for {n} nodes", "give one name a node")

    @classmethod
    def from_edges(
        cls,
        source: NDArray[Any],
        target: NDArray[Any],
        n: int | None = None,
        *,
        weight: NDArray[Any] | None = None,
        directed: bool = False,
        loops: bool = False,
        sum_weights: bool = False,
        ids: Sequence[Hashable] | None = None,
    ) -> CSRGraph:
        """Build a graph from edges given as two index arrays.

        Args:
            source: First ends, (m,) integers.
            target: Second ends, (m,) integers.
            n: Number of nodes; the largest index plus one if None.
            weight: One weight an edge, (m,).
            directed: Keep the direction instead of storing both.
            loops: Keep edges from a node to itself.
            sum_weights: Give repeated edges the sum of their weights (an edge without weights counts 1);
                otherwise repeated edges are one edge of weight 1, or of their largest weight.
            ids: Names of the nodes.
        """
        u, v = np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)
        n = int(max(u.max(initial=-1), v.max(initial=-1)) + 1) if n is None else n
        if len(u) and (min(u.min(), v.min()) < 0 or max(u.max(), v.max()) >= n):
            raise DataError(f"an edge ends outside the {n} nodes", "node indices go from 0 to n - 1")
        w = None if weight is None else np.asarray(weight, dtype=np.float64)
        if w is None and sum_weights:
            w = np.ones(len(u))
        if not loops:
            keep = u != v
            u, v, w = u[keep], v[keep], None if w is None else w[keep]
        if not directed:
            if sum_weights:  # fold to one orientation first, so that a loop is not counted twice
                u, v = np.minimum(u, v), np.maximum(u, v)
            off = u != v
            u, v = np.concatenate([u, v[off]]), np.concatenate([v, u[off]])
            w = None if w is None else np.concatenate([w, w[off]])
        key, inverse = np.unique(u * n + v, return_inverse=True)
        merged = None
        if w is not None and sum_weights:
            merged = np.bincount(inverse, weights=w, minlength=len(key))
        elif w is not None:
            merged = np.full(len(key), -np.inf)
            np.maximum.at(merged, inverse, w)
        indptr = np.zeros(n + 1, dtype=np.int64)
        np.cumsum(np.bincount(key // max(n, 1), minlength=n), out=indptr[1:])
        return cls(indptr, key % max(n, 1), None if merged is None else merged.astype(np.float32), ids)

    @classmethod
    def from_scipy(cls, matrix: Any, ids: Sequence[Hashable] | None = None) -> CSRGraph:
        """Build a graph from a square scipy sparse matrix; explicit zeros and the diagonal are dropped."""
        if matrix.shape[0] != matrix.shape[1]:
            raise DataError(
                f"an adjacency matrix is square, this one is {matrix.shape}", "give an n x n matrix"
            )
        coo = matrix.tocoo()
        keep = coo.data != 0
        u, v, w = coo.row[keep], coo.col[keep], coo.data[keep]
        plain = bool((w == 1).all())
        return cls.from_edges(
            u, v, matrix.shape[0], weight=None if plain else w, directed=True, sum_weights=not plain, ids=ids
        )

    @classmethod
    def from_networkx(cls, graph: networkx.Graph) -> CSRGraph:
        """Build a graph from a NetworkX graph; the attribute ``weight`` is used where an edge has one."""
        ids = list(graph.nodes)
        index = {node: i for i, node in enumerate(ids)}
        rows = [(index[u], index[v], float(data.get("weight", 1.0))) for u, v, data in graph.edges(data=True)]
        u, v, w = (np.asarray(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
        plain = bool((w == 1).all())
        return cls.from_edges(
            u, v, len(ids), weight=None if plain else w, directed=graph.is_directed(), ids=ids
        )

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.indptr) - 1

    @property
    def entries(self) -> int:
        """Number of stored entries: twice the number of edges of an undirected graph without loops."""
        return len(self.indices)

    @cached_property
    def directed(self) -> bool:
        """Whether some edge lacks its counterpart."""
        difference = self.csr - self.csr.T
        return bool(difference.nnz and abs(difference).max() > 0)

    @cached_property
    def degree(self) -> NDArray[np.float64]:
        """Sum of a node's edge weights (number of edges where they have none), (n,) float64."""
        if self.weight is None:
            return np.diff(self.indptr).astype(np.float64)
        totals = np.concatenate([[0.0], np.cumsum(self.weight, dtype=np.float64)])
        return totals[self.indptr[1:]] - totals[self.indptr[:-1]]

    @cached_property
    def csr(self) -> csr_array:
        """The adjacency matrix as a float32 `scipy.sparse.csr_array`, (n, n)."""
        return self.matrix(np.float32)

    def matrix(self, dtype: type = np.float32) -> csr_array:
        """The adjacency matrix in a given floating type, (n, n)."""
        from scipy.sparse import csr_array

        data: NDArray[Any] = (
            np.ones(self.entries, dtype) if self.weight is None else self.weight.astype(dtype)
        )
        return csr_array((data, self.indices, self._starts()), shape=(self.n, self.n))

    def _starts(self) -> NDArray[Any]:
        # scipy wants both index arrays of one type
        return self.indptr.astype(self.indices.dtype) if self.entries < 2**31 else self.indptr

    def rownorm(self, dtype: type = np.float32) -> csr_array:
        """The transition matrix D^-1 A: rows sum to 1, the row of an isolated node is empty, (n, n)."""
        matrix = self.matrix(dtype)
        inverse = np.divide(1.0, self.degree, out=np.zeros(self.n), where=self.degree > 0)
        matrix.data = (matrix.data * np.repeat(inverse, np.diff(self.indptr))).astype(dtype)
        return matrix

    def sym(self) -> CSRGraph:
        """The undirected graph: an edge in either direction becomes one in both (largest weight)."""
        u, v = self.edges()
        return CSRGraph.from_edges(u, v, self.n, weight=self.weight, loops=True, ids=self.ids)

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All entries as (sources, targets), each (entries,) int64."""
        source = np.repeat(np.arange(self.n, dtype=np.int64), np.diff(self.indptr))
        return source, self.indices.astype(np.int64)

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The edges of an undirected graph once each, with u < v, as two (m,) int64 arrays."""
        u, v = self.edges()
        keep = u < v
        return u[keep], v[keep]

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        u, v = self.edges()
        return u * self.n + v  # ascending, because rows and the neighbours inside a row are

    def has_edge(self, u: NDArray[Any], v: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each pair (u[i], v[i]) is an entry, (k,) bool."""
        if not self.entries:
            return np.zeros(len(u), dtype=bool)
        key = np.asarray(u, dtype=np.int64) * self.n + np.asarray(v, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._keys, key), self.entries - 1)
        return self._keys[place] == key

    def subgraph(self, nodes: NDArray[Any]) -> CSRGraph:
        """The graph induced by some nodes, in the order given."""
        nodes = np.asarray(nodes, dtype=np.int64)
        place = np.full(self.n, -1, dtype=np.int64)
        place[nodes] = np.arange(len(nodes))
        u, v = self.edges()
        u, v = place[u], place[v]
        keep = (u >= 0) & (v >= 0)
        ids = nodes.tolist() if self.ids is None else [self.ids[i] for i in nodes]
        weight = None if self.weight is None else self.weight[keep]
        return CSRGraph.from_edges(
            u[keep], v[keep], len(nodes), weight=weight, directed=True, loops=True, ids=ids
        )

    def permuted(self, order: NDArray[Any]) -> CSRGraph:
        """The same graph with node ``order[i]`` at place i."""
        return self.subgraph(order)

    def __repr__(self) -> str:
        return f"CSRGraph(nodes={self.n:,}, entries={self.entries:,}, weighted={self.weight is not None})"


def largest_ball(graph: CSRGraph, size: int, start: int | None = None) -> NDArray[np.int64]:
    """The first nodes that a breadth-first search reaches: a connected subgraph of a chosen size.

    Args:
        graph: An undirected graph.
        size: How many nodes to take (fewer where the component is smaller).
        start: Where to begin; the node of largest degree if None.

    Returns:
        Node indices in the order they were reached.
    """
    from scipy.sparse.csgraph import breadth_first_order

    first = int(graph.degree.argmax()) if start is None else start
    order = breadth_first_order(graph.csr, first, directed=False, return_predecessors=False)
    return np.asarray(order[:size], dtype=np.int64)
