"""How well networks are ranked: correlations with the truth, what the top is worth, and what limits both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from netwright.errors import UsageError

#: Two arrays of (networks,) -> a number.
Metric = Callable[[np.ndarray, np.ndarray], float]
#: Below this the truth ranks its own networks too poorly to judge a predictor by.
LEAST_CEILING = 0.5


@dataclass(frozen=True)
class Interval:
    """A number and how sure it is.

    Attributes:
        value: Of all networks.
        lo: Lower end of the bootstrap interval.
        hi: Upper end.
    """

    value: float
    lo: float
    hi: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.lo:.3f}, {self.hi:.3f}]"


def _pair(predicted: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.asarray(v, dtype=np.float64) for v in (predicted, truth))
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise UsageError(
            f"scores of shapes {a.shape} and {b.shape} cannot be compared",
            "give one of each network, 2 or more",
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UsageError("scores that are not finite cannot be ranked", "leave those networks out")
    return a, b


def _correlation(name: str, predicted: ArrayLike, truth: ArrayLike) -> float:
    a, b = _pair(predicted, truth)
    if (a == a[0]).all() or (b == b[0]).all():
        return math.nan
    from scipy import stats

    return float(getattr(stats, name)(a, b).statistic)


def kendall(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b: pairs in the same order less pairs in the opposite one, ties corrected for.

    Args:
        predicted: (networks,).
        truth: (networks,).

    Returns:
        From -1 to 1; NaN where one of both is constant.
    """
    return _correlation("kendalltau", predicted, truth)


def spearman(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rho: the correlation of ranks; arguments as of `kendall`."""
    return _correlation("spearmanr", predicted, truth)


def pearson(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Pearson's r: the linear correlation; arguments as of `kendall`."""
    return _correlation("pearsonr", predicted, truth)


def _share_in_top(scores: np.ndarray, k: int) -> np.ndarray:
    """Probability of each to be among the k greatest when ties are broken at random, (networks,)."""
    if not 1 <= k <= len(scores):
        raise UsageError(f"there is no top {k} of {len(scores)} networks", f"give 1 to {len(scores)}")
    last = np.sort(scores)[-k]
    above, tied = scores > last, scores == last
    return above + tied * ((k - above.sum()) / tied.sum())


def precision_at_top_k(predicted: ArrayLike, truth: ArrayLike, k: int) -> float:
    """Which share of the k networks predicted best is among the k that are best.

    Args:
        predicted: (networks,), greater is better; ties count as broken at random.
        truth: (networks,), likewise.
        k: How many.
    """
    a, b = _pair(predicted, truth)
    return float((_share_in_top(a, k) * _share_in_top(b, k)).sum() / k)


def top_k_regret(predicted: ArrayLike, truth: ArrayLike, k: int) -> float:
    """How much the best of the k networks predicted best falls short of the best of all.

    Args:
        predicted: (networks,), greater is better; the mean over all ways to break ties.
        truth: (networks,), greater is better.
        k: How many are looked at.

    Returns:
        In units of the truth, not below 0.
    """
    a, b = _pair(predicted, truth)
    share = _share_in_top(a, k)
    tied = np.sort(b[(share > 0) & (share < 1)])
    sure = b[share == 1].max(initial=-np.inf)
    if not len(tied):
        return float(b.max() - sure)
    drawn = k - int((share == 1).sum())
    # The greatest of as many drawn from the tied is the i-th smallest with this probability.
    ways = np.array([math.comb(i, drawn - 1) / math.comb(len(tied), drawn) for i in range(len(tied))])
    return float(b.max() - (ways * np.maximum(tied, sure)).sum())


def bootstrap(
    metric: Metric,
    predicted: ArrayLike,
    truth: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A metric with the percentile interval of networks drawn with replacement.

    Args:
        metric: Of scores and truth.
        predicted: (networks,).
        truth: (networks,).
        resamples: How many draws; those in which the metric is not defined are left out.
        level: Probability that the interval is meant to have.
        seed: Of the draws.
    """
    a, b = _pair(predicted, truth)
    if resamples < 1 or not 0 < level < 1:
        raise UsageError(f"resamples={resamples}, level={level} give no interval", "give >= 1, and 0 to 1")
    rng = np.random.default_rng(seed)
    drawn = np.array([metric(a[i], b[i]) for i in rng.integers(len(a), size=(resamples, len(a)))])
    drawn = drawn[~np.isnan(drawn)]
    ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (math.nan, math.nan)
    return Interval(metric(a, b), float(ends[0]), float(ends[1]))


def _table(truth_per_seed: ArrayLike) -> np.ndarray:
    table = np.asarray(truth_per_seed, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2 or len(table) < 2:
        raise UsageError(
            f"a table of shape {table.shape} has no noise ceiling",
            "give (networks, seeds), 2 or more of each",
        )
    return table


def noise_ceiling(truth_per_seed: ArrayLike, *, splits: int = 100, seed: int = 0) -> float:
    """Kendall's tau between the means of two disjoint halves of the seeds, averaged over splits.

    What ranks better than the truth ranks itself has seen the truth. All splits are taken where they are no
    more than ``splits``, else as many at random; of an odd number of seeds one is left out of each.

    Args:
        truth_per_seed: (networks, seeds), what each network reached in each training.
        splits: How many.
        seed: Of the draw of splits.

    Raises:
        UsageError: if there are fewer than two seeds.
    """
    table = _table(truth_per_seed)
    seeds = table.shape[1]
    half = seeds // 2
    if math.comb(seeds, half) * math.comb(seeds - half, half) // 2 <= splits:
        pairs = [
            (first, second)
            for first in itertools.combinations(range(seeds), half)
            for second in itertools.combinations(sorted(set(range(seeds)) - set(first)), half)
            if first < second
        ]
    else:
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(seeds).tolist() for _ in range(splits)]
        pairs = [(tuple(order[:half]), tuple(order[half : 2 * half])) for order in orders]
    taus = [kendall(table[:, list(a)].mean(1), table[:, list(b)].mean(1)) for a, b in pairs]
    return float(np.mean(taus))


@dataclass(frozen=True)
class RankingReport:
    """How well networks were ranked, beside what could be reached and what costs nothing.

    Attributes:
        networks: How many.
        seeds: Trainings of each.
        k: Size of the top.
        kendall: Tau-b.
        spearman: Rho.
        pearson: r.
        regret: Of the top k, in units of the truth.
        precision: Of the top k.
        ceiling: Tau between halves of the seeds.
        macs: Tau-b of the multiply-accumulates alone, in the better direction.
        over_macs: Tau-b less that, on the same resamples.
    """

    networks: int
    seeds: int
    k: int
    kendall: Interval
    spearman: Interval
    pearson: Interval
    regret: Interval
    precision: Interval
    ceiling: float
    macs: Interval
    over_macs: Interval

    @property
    def beats_macs(self) -> bool:
        """Whether it ranks better than the costs alone, by more than chance."""
        return self.over_macs.lo > 0

    @property
    def conclusive(self) -> bool:
        """Whether the truth ranks its own networks well enough to judge by."""
        return self.ceiling >= LEAST_CEILING

    @property
    def too_good(self) -> bool:
        """Whether it ranks better than the truth ranks itself, by more than chance: then it has seen it."""
        return self.kendall.lo > self.ceiling

    def __str__(self) -> str:
        lines = [
            f"{self.networks} networks, {self.seeds} seeds",
            f"Kendall tau-b    {self.kendall}",
            f"  noise ceiling  {self.ceiling:.3f}" + ("" if self.conclusive else "  (inconclusive)"),
            f"  MACs alone     {self.macs}",
            f"  over MACs      {self.over_macs}",
            f"Spearman rho     {self.spearman}",
            f"Pearson r        {self.pearson}",
            f"top-{self.k} regret     {self.regret}",
            f"P@top-{self.k}          {self.precision}",
        ]
        return "\n".join(lines + (["above the noise ceiling: look for a leak"] if self.too_good else []))


def ranking_report(
    predicted: ArrayLike,
    truth_per_seed: ArrayLike,
    macs: ArrayLike,
    *,
    k: int = 5,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> RankingReport:
    """Compare predictions with the mean over seeds, always beside the noise ceiling and the costs alone.

    Args:
        predicted: (networks,), greater is better.
        truth_per_seed: (networks, seeds), greater is better.
        macs: (networks,), multiply-accumulates.
        k: Size of the top; no more than there are networks.
        resamples: Of every bootstrap interval.
        level: Of every bootstrap interval.
        seed: Of every bootstrap, and of the splits of the ceiling.

    Raises:
        UsageError: if the shapes do not fit, or there are fewer than two seeds.
    """
    table = _table(truth_per_seed)
    scores, truth = _pair(predicted, table.mean(1))
    costs, _ = _pair(macs, truth)
    k = min(k, len(truth))
    costs = costs if not kendall(costs, truth) < 0 else -costs

    def interval(metric: Metric, of: np.ndarray = scores) -> Interval:
        return bootstrap(metric, of, truth, resamples=resamples, level=level, seed=seed)

    index = np.arange(len(truth), dtype=np.float64)

    def lead(i: np.ndarray, b: np.ndarray) -> float:
        drawn = i.astype(np.int64)
        return kendall(scores[drawn], b) - kendall(costs[drawn], b)

    return RankingReport(
        networks=len(truth),
        seeds=table.shape[1],
        k=k,
        kendall=interval(kendall),
        spearman=interval(spearman),
        pearson=interval(pearson),
        regret=interval(lambda a, b: top_k_regret(a, b, k)),
        precision=interval(lambda a, b: precision_at_top_k(a, b, k)),
        ceiling=noise_ceiling(table, seed=seed),
        macs=interval(kendall, costs),
        over_macs=interval(lead, index),
    )
