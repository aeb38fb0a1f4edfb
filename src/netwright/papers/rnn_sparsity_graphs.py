"""Recurrent networks wired like random graphs: their accuracy, and what of the graph's structure tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netwright.data import Splits
from netwright.graphs import structure_features
from netwright.models import GraphRNN, TokenClassifier
from netwright.papers.rnn_sparsity_pruning import CELLS
from netwright.papers.run import drawing
from netwright.train import Recipe, evaluate, fit

if TYPE_CHECKING:
    import networkx as nx

BARABASI, WATTS = "Barabasi-Albert", "Watts-Strogatz"
#: Fewer graphs than this say nothing about how structure and accuracy go together.
ENOUGH = 20
_FOLDS, _REPEATS, _TREES = 5, 5, 100


@dataclass(frozen=True)
class GraphSize:
    """How large the experiment is.

    Attributes:
        pairs: Graphs of each of the two kinds.
        fewest: Nodes of a graph, at least.
        most: At most.
        strings: Strings to train on, at most.
        epochs: Of every network.
        batch: Strings of one step.
        lr: Of Adam.
    """

    pairs: int = 12
    fewest: int = 10
    most: int = 25
    strings: int = 3_000
    epochs: int = 6
    batch: int = 64
    lr: float = 1e-2


QUICK_GRAPHS = GraphSize(pairs=2, most=12, strings=64, epochs=1)
#: The thesis' own.
FULL_GRAPHS = GraphSize(100, 10, 50, 18_750, 15, 128, 1e-3)


@dataclass(frozen=True)
class Wired:
    """A trained network and its graph.

    Attributes:
        kind: Of graph.
        accuracy: On the test split.
        features: See `netwright.graphs.structure_features`.
    """

    kind: str
    accuracy: float
    features: dict[str, float]


def random_graph(kind: str, nodes: int, seed: int) -> nx.Graph:
    """A connected random graph as the thesis draws them.

    Args:
        kind: `BARABASI` (each node joins nodes // 10 others) or `WATTS` (rings of nodes // 5 neighbours, all
            rewired).
        nodes: At least 10.
        seed: Of what is drawn; the next ones are tried where ten rewirings of a ring are not connected.
    """
    import networkx as nx

    if kind == BARABASI:
        return nx.barabasi_albert_graph(nodes, nodes // 10, seed=seed)
    while True:
        try:
            return nx.connected_watts_strogatz_graph(nodes, nodes // 5, 1.0, tries=10, seed=seed)
        except nx.NetworkXError:
            seed += 1_000_003


def train_graphs(
    cell: str, data: Splits, size: GraphSize, seed: int, device: str = "cpu"
) -> dict[str, list[Wired]]:
    """Train a network on every graph; graphs of the two kinds come in pairs with as many nodes."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Wired]] = {BARABASI: [], WATTS: []}
    for k in range(size.pairs):
        nodes = int(rng.integers(size.fewest, size.most + 1))
        for kind, wired in found.items():
            graph = random_graph(kind, nodes, seed * 10_007 + k)
            accuracy = train_graph(graph, cell, data, size, seed * 10_007 + k, device)
            wired.append(Wired(kind, accuracy, structure_features(graph)))
    return found


def train_graph(
    graph: nx.Graph, cell: str, data: Splits, size: GraphSize, seed: int, device: str = "cpu"
) -> float:
    """Test accuracy of a network wired like a graph."""
    with drawing(seed):
        model = TokenClassifier(GraphRNN(graph, CELLS[cell]))  # type: ignore[arg-type]
    recipe = Recipe(
        epochs=size.epochs,
        batch_size=size.batch,
        lr=size.lr,
        optimizer="adamw",
        weight_decay=0.0,
        schedule="constant",
        clip_norm=5.0,
        precision="fp32",
        seed=seed,
        limit=size.strings,
    )
    fitted = fit(model, data, recipe, device=device)
    return evaluate(fitted.model, data.test, device=device).accuracy


@dataclass(frozen=True)
class Explained:
    """How well structure tells accuracy.

    Attributes:
        r2: Regressor -> R² of predictions for graphs that were not fitted (mean of the repeats).
        spread: The same -> half a 95 % interval from resampling the graphs.
        correlations: Feature -> Pearson's correlation with accuracy.
        importances: Feature -> importance in a random forest on all graphs.
    """

    r2: dict[str, float]
    spread: dict[str, float]
    correlations: dict[str, float]
    importances: dict[str, float]


def explain(wired: Sequence[Wired], seed: int = 0) -> Explained:
    """Predict accuracy from the 23 features, scaled to 0..1, by cross-validation in five folds, repeated."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.preprocessing import minmax_scale

    names = list(wired[0].features)
    x = minmax_scale(np.array([[w.features[n] for n in names] for w in wired]))
    y = np.array([w.accuracy for w in wired])
    r2, spread = {}, {}
    for name in _regressors(seed):
        predictions = [_held_out(name, x, y, seed + k) for k in range(_REPEATS)]
        r2[name] = float(np.mean([_r2(y, p) for p in predictions]))
        spread[name] = _resampled(y, np.array(predictions), seed)
    varied = [k for k in range(len(names)) if np.ptp(x[:, k]) > 0 and np.ptp(y) > 0]
    correlations = {names[k]: float(np.corrcoef(x[:, k], y)[0, 1]) for k in varied}
    forest = RandomForestRegressor(_TREES, random_state=seed).fit(x, y)
    return Explained(r2, spread, correlations, dict(zip(names, forest.feature_importances_, strict=True)))


def _regressors(seed: int) -> dict[str, Any]:
    from sklearn.ensemble import AdaBoostRegressor, RandomForestRegressor
    from sklearn.linear_model import BayesianRidge

    return {
        "Bayesian ridge": BayesianRidge(),
        "random forest": RandomForestRegressor(_TREES, random_state=seed),
        "AdaBoost": AdaBoostRegressor(random_state=seed),
    }


def _held_out(name: str, x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Predictions of a regressor for every graph from the other folds, (N,)."""
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(min(_FOLDS, len(y)), shuffle=True, random_state=seed)
    return np.asarray(cross_val_predict(_regressors(seed)[name], x, y, cv=folds))


def _r2(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    total = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - predicted) ** 2).sum()) / total if total else 0.0


def _resampled(y: NDArray[np.float64], predictions: NDArray[np.float64], seed: int) -> float:
    """Half a 95 % interval of the mean R² when graphs are drawn again with replacement."""
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(500):
        chosen = rng.integers(0, len(y), len(y))
        draws.append(np.mean([_r2(y[chosen], p[chosen]) for p in predictions]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(high - low) / 2
