"""Link prediction: how well scores tell held-out edges from pairs that are no edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netwright.errors import DataError


@dataclass(frozen=True)
class LinkSplit:
    """Edges to learn from, edges held out, and pairs that are no edges: the same for every method compared.

    Attributes:
        train: Edges that stay, (m, 2) int64.
        positive: Held-out edges, (k, 2) int64.
        negative: Pairs that are no edge, (k, 2) int64.
    """

    train: NDArray[np.int64]
    positive: NDArray[np.int64]
    negative: NDArray[np.int64]


@dataclass(frozen=True)
class LinkScore:
    """Quality of link scores.

    Attributes:
        auc: Probability that an edge scores above a pair that is none.
        ap: Average precision.
    """

    auc: float
    ap: float


def split_links(u: ArrayLike, v: ArrayLike, n: int, fraction: float = 0.1, seed: int = 0) -> LinkSplit:
    """Hold out a share of the edges and draw as many pairs that are no edges, uniformly.

    Args:
        u: One end of each undirected edge, (m,).
        v: The other end, (m,).
        n: Number of nodes.
        fraction: Share of the edges to hold out.
        seed: Seed of the split.

    Raises:
        DataError: if there are too few edges, or too few pairs that are none.
    """
    edges = np.sort(np.stack([np.asarray(u, np.int64), np.asarray(v, np.int64)], axis=1), axis=1)
    count = round(len(edges) * fraction)
    if count < 1 or len(edges) + count > n * (n - 1) // 2:
        raise DataError(
            f"{len(edges)} edges of {n} nodes leave nothing to predict", "give a larger or sparser graph"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(edges))
    known = np.unique(edges[:, 0] * n + edges[:, 1])
    found = np.zeros(0, dtype=np.int64)
    while len(found) < count:
        pair = np.sort(rng.integers(0, n, (2 * count, 2)), axis=1)
        key = (pair[:, 0] * n + pair[:, 1])[pair[:, 0] != pair[:, 1]]
        found = np.unique(np.concatenate([found, key[~np.isin(key, known)]]))
    found = rng.permutation(found)[:count]
    negative = np.stack([found // n, found % n], axis=1)
    return LinkSplit(edges[order[count:]], edges[order[:count]], negative)


def cosine(vectors: NDArray[np.float32]) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """The function that scores pairs (k, 2) by the cosine of their vectors (n, dim)."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)

    def score(pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.einsum("ij,ij->i", unit[pairs[:, 0]], unit[pairs[:, 1]]).astype(np.float64)

    return score


def evaluate_links(positive: ArrayLike, negative: ArrayLike) -> LinkScore:
    """AUC and average precision of scores.

    Args:
        positive: Scores of the held-out edges, (k,).
        negative: Scores of the pairs that are no edges, (j,).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    good, bad = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    truth = np.concatenate([np.ones(len(good)), np.zeros(len(bad))])
    scores = np.concatenate([good, bad])
    return LinkScore(float(roc_auc_score(truth, scores)), float(average_precision_score(truth, scores)))
