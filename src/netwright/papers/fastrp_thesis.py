"""FastRP's thesis as a table: which similarity of nodes is reduced, against how it is reduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.graphs import CSRGraph, GraphData, degree_weights, random_projection
from netwright.metrics.node_classification import evaluate_nodes
from netwright.papers.run import Run

_BETA, _A4 = -0.6, 4.0
_REDUCTIONS = ("very sparse", "Gaussian", "truncated SVD")


@dataclass(frozen=True)
class TwoWay:
    """Scores by similarity and reduction.

    Attributes:
        similarities: Names of the rows.
        reductions: Names of the columns.
        repeats: Scores of every repetition, (repeats, rows, columns).
    """

    similarities: tuple[str, ...]
    reductions: tuple[str, ...]
    repeats: NDArray[np.float64]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Mean scores, (rows, columns)."""
        return np.asarray(self.repeats.mean(axis=0))

    def ratio(self) -> tuple[float, float]:
        """Range of the row means over the range of the column means, and half its 90 % bootstrap interval."""
        rng = np.random.default_rng(0)
        count = len(self.repeats)
        draws = [_ratio(self.repeats[rng.integers(0, count, count)].mean(axis=0)) for _ in range(500)]
        low, high = np.quantile(draws, [0.05, 0.95])
        return _ratio(self.scores), float(high - low) / 2 if count > 1 else 0.0


def _ratio(table: NDArray[np.float64]) -> float:
    return float(np.ptp(table.mean(axis=1)) / max(np.ptp(table.mean(axis=0)), 1e-3))


def similarity_against_reduction(run: Run, data: GraphData, dim: int, fraction: float) -> TwoWay:
    """Score every pair of a similarity and a reduction on a small graph where the exact SVD finishes.

    Args:
        run: Gives the seeds.
        data: An undirected graph with labels.
        dim: Dimensions to reduce to.
        fraction: Share of the labelled nodes to train on.
    """
    matrices = _similarities(data.graph)
    exact = [_truncated(matrix, dim) for matrix in matrices.values()]  # has no seed
    repeats = []
    for seed in run.seeds(5):
        table = np.zeros((len(matrices), len(_REDUCTIONS)))
        for r, matrix in enumerate(matrices.values()):
            for c, kind in enumerate(_REDUCTIONS):
                vectors = exact[r] if kind == "truncated SVD" else _reduce(matrix, kind, dim, seed)
                table[r, c] = evaluate_nodes(
                    vectors, data.labels, fraction=fraction, C=0.1, seed=seed
                ).micro_f1
        repeats.append(table)
    return TwoWay(tuple(matrices), _REDUCTIONS, np.asarray(repeats))


def _similarities(graph: CSRGraph) -> dict[str, NDArray[np.float32]]:
    """Adjacency, transition, FastRP's orders 3 and 4, each without and with degree weights; (n, n)."""
    plain, step = graph.csr.toarray(), graph.rownorm().toarray()
    third = graph.rownorm() @ (graph.rownorm() @ step)
    fourth = graph.rownorm() @ third
    scale = degree_weights(graph, _BETA).astype(np.float32)
    found = {}
    for name, parts in {"A": (plain,), "S": (step,), "S³ + 4 S⁴": (third, fourth)}.items():
        found[name] = _combined(parts)
        found[f"{name}, degrees"] = _combined(tuple(part * scale for part in parts))
    return found


def _combined(parts: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    return parts[0] if len(parts) == 1 else (_unit(parts[0]) + _A4 * _unit(parts[1])).astype(np.float32)


def _reduce(matrix: NDArray[np.float32], kind: str, dim: int, seed: int) -> NDArray[np.float32]:
    name = "gaussian" if kind == "Gaussian" else "very-sparse"
    projection: Any = random_projection(len(matrix), dim, name, seed)
    return np.asarray(matrix @ projection, dtype=np.float32)


def _truncated(matrix: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """U Sigma of the exact singular value decomposition: rows with the best inner products of rank dim."""
    from scipy.sparse.linalg import svds

    start = np.ones(len(matrix), dtype=np.float32)
    left, values, _ = svds(matrix, k=dim, v0=start, return_singular_vectors="u")
    return np.asarray(left * values, dtype=np.float32)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)
