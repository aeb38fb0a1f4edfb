"""FastRP: node embeddings by very sparse random projection of high-order transition matrices.

Chen, Sultan, Tian, Chen, Skiena: Fast and Accurate Network Embeddings via Very Sparse Random Projection (CIKM
2019).

With the transition matrix S = D^-1 A and the column weights L = diag((d_j / 2m)^beta), the similarity of
order k is N_k = S^k L. It is never formed: U_1 = S (L R), U_k = S U_(k-1) for a random projection R (n, dim).
The rows of every U_k are scaled to length 1 and the embedding is their weighted sum (or their concatenation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.errors import UsageError
from netwright.graphs.csr import CSRGraph
from netwright.graphs.embedding import Embedding

#: Columns that one task handles. Fixed, so that the bytes do not depend on the number of threads.
_COLUMNS = 64


def random_projection(
    n: int, dim: int, kind: str | float = "very-sparse", seed: int = 0, dtype: type = np.float32
) -> Any:
    """Draw a random projection matrix with entries of mean 0 and variance 1.

    Args:
        n: Rows.
        dim: Columns.
        kind: ``"very-sparse"`` (s = sqrt(n), Li et al. 2006), ``"gaussian"``, or s itself: an entry is
            sqrt(s) * {+1 with probability 1/2s, 0 with 1 - 1/s, -1 with 1/2s} (s = 3 is Achlioptas', 1 has no
            zeros).
        seed: Seed of NumPy's PCG64.
        dtype: Floating type of the entries.

    Returns:
        An (n, dim) array for ``"gaussian"``, else a `scipy.sparse.csr_array`.

    Raises:
        UsageError: if `kind` is unknown or s is below 1.
    """
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        return rng.standard_normal((n, dim)).astype(dtype)
    s = math.sqrt(n) if kind == "very-sparse" else kind
    if not isinstance(s, int | float) or not s >= 1:
        raise UsageError(f"{kind!r} is no projection", "use 'very-sparse', 'gaussian' or a number s >= 1")
    from scipy.sparse import csr_array

    places = _bernoulli(n * dim, 1.0 / s, rng)
    values: NDArray[Any] = np.where(
        rng.integers(0, 2, len(places), dtype=np.int8) > 0, math.sqrt(s), -math.sqrt(s)
    ).astype(dtype)
    indptr = np.searchsorted(places, np.arange(n + 1, dtype=np.int64) * dim)
    return csr_array((values, (places % dim).astype(np.int32), indptr.astype(np.int32)), shape=(n, dim))


def _bernoulli(size: int, p: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending places of the successes among `size` independent trials, drawn as geometric gaps."""
    if p >= 1:
        return np.arange(size, dtype=np.int64)
    places = np.zeros(0, dtype=np.int64)
    last = -1
    while last < size:
        expected = (size - last) * p
        gaps = rng.geometric(p, int(expected + 4 * math.sqrt(expected) + 16))
        more = last + np.cumsum(gaps)
        places, last = np.concatenate([places, more]), int(more[-1])
    return places[: np.searchsorted(places, size)]


def fastrp(
    graph: CSRGraph,
    dim: int = 512,
    weights: Sequence[float] | None = (0.0, 0.0, 1.0, 4.0),
    beta: float = -0.6,
    seed: int = 0,
    projection: str | float | NDArray[Any] | Any = "very-sparse",
    normalize: bool = True,
    chunk: int | None = None,
    threads: int | None = None,
    *,
    orders: int | None = None,
    dtype: type = np.float32,
) -> Embedding:
    """Embed the nodes of a graph by FastRP.

    A directed graph is made undirected first. An isolated node has the zero vector. The result is the same,
    byte for byte, whatever `threads` is. Memory is about (number of weights that are not 0) * n * dim * 4
    bytes.

    Args:
        graph: The graph, weighted or not.
        dim: Width of the vectors.
        weights: Weight of each order, from 1 up; None puts the orders side by side, (n, orders * dim).
        beta: Degree exponent in [-1, 0]: -1 undoes the pull of high-degree nodes, 0 keeps it.
        seed: Seed of the projection.
        projection: What `random_projection` takes, or a given (n, dim) matrix, dense or sparse.
        normalize: Scale the rows of every order to length 1 before they are combined.
        chunk: Columns that one task handles (64 if None): smaller needs less memory beside the result.
        threads: Tasks at a time; 1 if None.
        orders: Number of orders where `weights` is None (4 if None).
        dtype: Floating type of the computation; the vectors are float32 unless this is float64.

    Raises:
        UsageError: if an argument makes no sense.
    """
    if weights is not None and (not len(weights) or not any(weights)):
        raise UsageError("fastrp needs a weight that is not 0", "weights=(0, 0, 1, 4) takes orders 3 and 4")
    if chunk is not None and chunk < 1:
        raise UsageError(f"chunk={chunk} columns cannot be computed", "use 1 or more")
    if graph.n == 0 or dim < 1:
        raise UsageError(f"{graph.n} nodes cannot be embedded into {dim} dimensions", "use 1 or more of each")
    undirected = graph.sym() if graph.directed else graph
    count = (orders or 4) if weights is None else max(k for k, a in enumerate(weights, 1) if a)
    scales = (
        dict.fromkeys(range(1, count + 1), 1.0) if weights is None else dict(enumerate(weights[:count], 1))
    )
    scales = {k: float(a) for k, a in scales.items() if a}
    first = _first_order(undirected, beta, _matrix(projection, undirected.n, dim, seed, dtype), dtype)
    parts = _powers(undirected.rownorm(dtype), first, count, sorted(scales), chunk or _COLUMNS, threads or 1)
    if normalize:
        for part in parts.values():
            _unit_rows(part)
    if weights is None:
        return Embedding(np.concatenate([parts[k] for k in sorted(parts)], axis=1), graph.ids)
    total = parts.pop(min(scales))
    total *= total.dtype.type(scales[min(scales)])
    for k in sorted(parts):
        part = parts.pop(k)
        part *= part.dtype.type(scales[k])
        total += part
    return Embedding(total, graph.ids)


def _matrix(projection: Any, n: int, dim: int, seed: int, dtype: type) -> Any:
    if isinstance(projection, str | int | float):
        return random_projection(n, dim, projection, seed, dtype)
    if projection.shape != (n, dim):
        raise UsageError(f"the projection is {projection.shape}, not {(n, dim)}", "give an n x dim matrix")
    return projection.astype(dtype)


def degree_weights(graph: CSRGraph, beta: float) -> NDArray[np.float64]:
    """The diagonal of L: (d_j / 2m)^beta, 0 for isolated nodes, (n,) float64."""
    degree = graph.degree
    share = np.divide(degree, degree.sum(), out=np.ones(graph.n), where=degree > 0)
    return np.where(degree > 0, share**beta, 0.0)


def _first_order(graph: CSRGraph, beta: float, matrix: Any, dtype: type) -> Any:
    """U_1 = S (L R): sparse where R is sparse, so that very sparse projections save the first product."""
    from scipy.sparse import issparse

    scale: NDArray[Any] = degree_weights(graph, beta).astype(dtype)
    step = graph.rownorm(dtype)
    if issparse(matrix) and matrix.nnz * 16 < matrix.shape[0] * matrix.shape[1]:
        scaled = matrix.tocsr(copy=True)
        scaled.data *= np.repeat(scale, np.diff(scaled.indptr))
        return (step @ scaled).tocsc()
    dense: NDArray[Any] = np.array(
        matrix.toarray() if issparse(matrix) else matrix, dtype=dtype
    )  # a copy: scaled in place
    dense *= scale[:, None]
    return step @ dense


def _powers(
    step: Any, first: Any, count: int, wanted: list[int], chunk: int, threads: int
) -> dict[int, NDArray[Any]]:
    """U_k for the wanted orders, computed in column chunks that do not depend on one another."""
    from scipy.sparse import issparse

    n, dim = first.shape
    parts = {k: np.empty((n, dim), dtype=step.dtype) for k in wanted}

    def task(start: int) -> None:
        columns = slice(start, min(start + chunk, dim))
        block = first[:, columns]
        current = np.ascontiguousarray(block.toarray(order="C") if issparse(block) else block)
        for k in range(1, count + 1):
            current = current if k == 1 else step @ current
            if k in parts:
                parts[k][:, columns] = current

    starts = range(0, dim, chunk)
    if threads == 1:
        for start in starts:
            task(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(task, starts))
    return parts


def _unit_rows(vectors: NDArray[Any]) -> None:
    """Scale rows to length 1 in place; a zero row stays."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    vectors /= np.where(lengths > 0, lengths, 1)[:, None]
