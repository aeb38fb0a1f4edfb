"""What the FastRP recipes share: one-thread timing, tuning on 1 % of the labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.graphs import CSRGraph, Embedding, fastrp
from netwright.metrics.node_classification import NodeScore, evaluate_nodes
from netwright.papers.run import Run

#: Inverse regularisations that a classifier's validation chooses from.
STRENGTHS = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Setting:
    """The two numbers that the paper tunes.

    Attributes:
        beta: Degree exponent.
        a4: Weight of order 4 beside 1 of order 3.
    """

    beta: float = -0.6
    a4: float = 4.0

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the orders."""
        return (0.0, 0.0, 1.0, self.a4)


def timed(make: Callable[[], Embedding], repeats: int = 1) -> tuple[Embedding, list[float]]:
    """Make an embedding `repeats` times; returns it and the CPU seconds of each time, ascending."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = make()
        seconds.append(max(time.process_time() - start, 1e-6))
    return result, sorted(seconds)


def ratio(slow: float, quick: list[float]) -> tuple[float, float]:
    """How many times `slow` is the median of `quick`, and half the range over its repeats."""
    ratios = [slow / seconds for seconds in quick]
    return float(np.median(ratios)), (max(ratios) - min(ratios)) / 2


def tune(run: Run, graph: CSRGraph, labels: Any, dim: int) -> Setting:
    """Choose beta and a4 by micro-F1 on 1 % of the labels, with 20 Optuna trials, as the paper does.

    The labelled nodes of the 1 % are split into halves to train and to judge on, five times.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = np.flatnonzero(np.asarray(labels.sum(axis=1)).ravel() > 0)
    count = max(round(len(known) * 0.01), min(100, len(known) // 2))
    sample = np.random.default_rng(run.seed).permutation(known)[:count]

    def objective(trial: optuna.Trial) -> float:
        setting = Setting(
            trial.suggest_float("beta", -1.0, 0.0), trial.suggest_float("a4", 1.0, 64.0, log=True)
        )
        vectors = fastrp(graph, dim, setting.weights, setting.beta, run.seed).vectors
        part = vectors[sample]
        return evaluate_nodes(part, labels[sample], fraction=0.5, shuffles=5, C=0.1, seed=run.seed).micro_f1

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=run.seed))
    study.enqueue_trial({"beta": -0.6, "a4": 4.0})
    study.optimize(objective, n_trials=3 if run.quick else 20)
    found = Setting(round(study.best_params["beta"], 3), round(study.best_params["a4"], 3))
    run.settings["tuned"] = {
        "beta": found.beta,
        "a4": found.a4,
        "labels": count,
        "micro_f1": study.best_value,
    }
    run.log(f"tuned on {count} labels: beta {found.beta}, a4 {found.a4}")
    return found


def over_seeds(
    run: Run, make: Callable[[int], NDArray[np.float32]], labels: Any, seeds: list[int], **protocol: Any
) -> NodeScore:
    """Score embeddings of several seeds on the same shuffles; a shuffle's score is the mean over seeds.

    The regularisation is chosen with the first seed.
    """
    scores: list[NodeScore] = []
    for seed in seeds:
        chosen = protocol | ({"C": scores[0].C} if scores else {})
        scores.append(evaluate_nodes(make(seed), labels, seed=run.seed, **chosen))
    micro, macro = (np.mean([getattr(s, name) for s in scores], axis=0) for name in ("micro", "macro"))
    return NodeScore(micro, macro, scores[0].C)
