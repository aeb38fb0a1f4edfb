"""Node classification: the protocol of the node-embedding papers.

One logistic regression a class on the vectors of a few labelled nodes; of every other node the k classes with
the highest scores are predicted, k being its true number of classes; micro and macro F1 over several
shuffles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.errors import DataError, UsageError


@dataclass(frozen=True)
class NodeScore:
    """Quality of a classification of nodes over several shuffles.

    Attributes:
        micro: Micro-F1 of each shuffle (the accuracy where every node has one class), (shuffles,).
        macro: Macro-F1 of each shuffle, over the classes that occur in its test nodes, (shuffles,).
        C: The regularisation that was used.
    """

    micro: NDArray[np.float64]
    macro: NDArray[np.float64]
    C: float

    @property
    def micro_f1(self) -> float:
        """Mean micro-F1."""
        return float(self.micro.mean())

    @property
    def macro_f1(self) -> float:
        """Mean macro-F1."""
        return float(self.macro.mean())


def standardise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Columns with mean 0 and variance 1 (a constant column becomes 0); uses no label."""
    spread = vectors.std(axis=0)
    return ((vectors - vectors.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)


def one_vs_rest(
    x: NDArray[np.float32],
    y: NDArray[np.bool_],
    C: float = 1.0,
    *,
    penalise_intercept: bool = True,
    max_iter: int = 200,
    tol: float = 1e-4,
) -> NDArray[np.float32]:
    """Fit one L2-regularised logistic regression a class, all classes in one L-BFGS run.

    The loss is scikit-learn's for each class: ``|w|^2 / 2 + C * sum(log loss)``, the intercept unpenalised.
    The classes do not interact, so that the joint minimum is the minimum of each.

    Args:
        x: Features, (n, d).
        y: Which classes each row has, (n, classes).
        C: Inverse strength of the regularisation.
        penalise_intercept: Whether the intercept counts as a weight (liblinear) or is free (scikit-learn's
            L-BFGS).
        max_iter: Most L-BFGS iterations.
        tol: Largest absolute gradient, as a share of C * n, at which to stop.

    Returns:
        Weights with the intercept in the last row, (d + 1, classes).
    """
    from scipy.optimize import minimize

    n, d = x.shape
    classes = y.shape[1]
    sign = np.where(y, 1.0, -1.0).astype(np.float32)
    scale = np.full((d + 1, 1), 1.0 / (C * n))  # the same minimum at a loss of order 1
    scale[d] *= penalise_intercept

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = flat.reshape(d + 1, classes)
        margin = sign * (x @ weights[:d].astype(np.float32) + weights[d].astype(np.float32))
        value = np.logaddexp(0, -margin).sum(dtype=np.float64) / n + 0.5 * float((scale * weights**2).sum())
        pull = -sign / (1 + np.exp(np.minimum(margin, 80)))  # (n, classes)
        gradient = scale * weights
        gradient[:d] += (x.T @ pull) / n
        gradient[d] += pull.sum(axis=0, dtype=np.float64) / n
        return float(value), gradient.ravel()

    start = np.zeros((d + 1, classes))
    share = np.clip(y.mean(axis=0), 1e-6, 1 - 1e-6)
    start[d] = np.log(share / (1 - share))
    options = {"maxiter": max_iter, "gtol": tol, "ftol": 0.0, "maxcor": 20}
    result = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(result.x.reshape(d + 1, classes), dtype=np.float32)


def top_labels(scores: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the counts[i] highest scores of row i, (n, classes) bool; a tie goes to the lower class."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None, :], axis=1)
    return ranks < np.asarray(counts)[:, None]


def f1_scores(truth: NDArray[np.bool_], guess: NDArray[np.bool_]) -> tuple[float, float]:
    """Micro-F1 and macro-F1; the macro mean is over the classes that occur in the truth or the guess."""
    hit = (truth & guess).sum(axis=0)
    total = truth.sum(axis=0) + guess.sum(axis=0)
    there = total > 0
    return float(2 * hit.sum() / max(total.sum(), 1)), float(
        (2 * hit[there] / total[there]).mean()
    ) if there.any() else 0.0


def evaluate_nodes(
    vectors: NDArray[np.float32],
    labels: Any,
    *,
    fraction: float = 0.1,
    shuffles: int = 5,
    C: float | Sequence[float] = 1.0,
    seed: int = 0,
    standard: bool = True,
) -> NodeScore:
    """Run the protocol on an embedding.

    Args:
        vectors: One vector a node, (n, dim).
        labels: Which classes each node has, (n, classes), dense or sparse; nodes without a class are left
            out.
        fraction: Share of the labelled nodes to train on.
        shuffles: Number of random splits; those of one seed are the same for every embedding.
        C: Inverse regularisation; of several, the best on a fifth of the first shuffle's training nodes is
            used.
        seed: Seed of the shuffles.
        standard: Standardise the columns first.

    Raises:
        DataError: if the labels do not fit the vectors or too few nodes have one.
    """
    truth = np.asarray(labels.toarray() if hasattr(labels, "toarray") else labels, dtype=bool)
    if len(truth) != len(vectors):
        raise DataError(f"labels of {len(truth)} nodes for {len(vectors)} vectors", "give one row a node")
    known = np.flatnonzero(truth.any(axis=1))
    x, y = (standardise(vectors) if standard else vectors)[known], truth[known]
    count = round(len(known) * fraction)
    if not 5 <= count < len(known):
        raise DataError(
            f"{fraction:.0%} of {len(known)} labelled nodes cannot be trained on", "use another fraction"
        )
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(known)) for _ in range(shuffles)]
    chosen = _choose(x, y, orders[0][:count], C)
    scores = [_split_score(x, y, order[:count], order[count:], chosen) for order in orders]
    micro, macro = (np.asarray(column) for column in zip(*scores, strict=True))
    return NodeScore(micro, macro, chosen)


def _choose(
    x: NDArray[np.float32], y: NDArray[np.bool_], train: NDArray[np.int64], C: float | Sequence[float]
) -> float:
    candidates = [float(C)] if isinstance(C, int | float) else [float(c) for c in C]
    if not candidates or min(candidates) <= 0:
        raise UsageError(f"C={C} is no regularisation", "give a positive number or several")
    if len(candidates) == 1:
        return candidates[0]
    cut = max(1, len(train) // 5)
    return max(candidates, key=lambda c: _split_score(x, y, train[cut:], train[:cut], c)[0])


def _split_score(
    x: NDArray[np.float32], y: NDArray[np.bool_], train: NDArray[np.int64], test: NDArray[np.int64], C: float
) -> tuple[float, float]:
    weights = one_vs_rest(x[train], y[train], C)
    scores = x[test] @ weights[:-1] + weights[-1]
    return f1_scores(y[test], top_labels(scores, y[test].sum(axis=1)))
