"""Random-walk embeddings, the baselines: DeepWalk and node2vec.

Perozzi, Al-Rfou, Skiena: DeepWalk (KDD 2014); Grover, Leskovec: node2vec (KDD 2016). Both train a skip-gram
model with negative sampling (SGNS, Mikolov et al. 2013) on random walks; they differ in how a walk takes its
next step.

The training is written to be quick on a CPU, so that comparisons with it are fair: a whole batch of walks is
scored by matrix products (all pairs of a walk at once, the window as a mask), the noise nodes are shared by
the centres of a walk and weighted so that the expected loss is that of `negatives` noise nodes a pair (Ji et
al. 2016 share them likewise), gradients are written out by hand and touch only the rows that occur. Batches
are small, so that the steps are nearly those of word2vec's sequential SGD.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.errors import TrainingError, UsageError
from netwright.graphs.csr import CSRGraph
from netwright.graphs.embedding import Embedding

#: Most pairs whose gradients one step sums for a row: more, all taken at the same point, overshoot
#: where a hub is in every walk. Sequential SGD would see the effect of each pair before the next.
_MOST = 70.0

Progress = Callable[[int, int], None]


def random_walks(
    graph: CSRGraph,
    starts: NDArray[np.int64],
    length: int = 40,
    *,
    p: float = 1.0,
    q: float = 1.0,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Walk from each start along the edges, all walks at once.

    Args:
        graph: The graph; weighted edges are taken in proportion to their weight.
        starts: First node of each walk, (walks,).
        length: Nodes in a walk.
        p: node2vec's return parameter: going back has weight 1/p.
        q: node2vec's in-out parameter: going to a node that is no neighbour of the last one has weight 1/q.
        rng: Source of randomness.

    Returns:
        The nodes of each walk, (walks, length) int64; a walk stays on a node without neighbours.
    """
    if p <= 0 or q <= 0:
        raise UsageError(f"p={p} and q={q} cannot both steer a walk", "use positive numbers")
    walks = np.empty((len(starts), length), dtype=np.int64)
    walks[:, 0] = starts
    cumulative = None if graph.weight is None else np.cumsum(graph.weight, dtype=np.float64)
    second_order = p != 1 or q != 1
    for step in range(1, length):
        here = walks[:, step - 1]
        if not second_order or step == 1:
            walks[:, step] = _neighbour(graph, here, cumulative, rng)
            continue
        walks[:, step] = _biased(graph, walks[:, step - 2], here, cumulative, p, q, rng)
    return walks


def _neighbour(
    graph: CSRGraph, here: NDArray[np.int64], cumulative: NDArray[np.float64] | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """One neighbour of each node, in proportion to the edge weights."""
    low, high = graph.indptr[here], graph.indptr[here + 1]
    if cumulative is None:
        place = low + (rng.random(len(here)) * (high - low)).astype(np.int64)
    else:
        floor = np.where(low > 0, cumulative[np.maximum(low - 1, 0)], 0.0)
        aim = floor + rng.random(len(here)) * graph.degree[here]
        place = np.searchsorted(cumulative, aim, side="right")
    place = np.clip(place, low, np.maximum(high - 1, low))
    stay = high == low
    place[stay] = 0
    return np.where(stay, here, graph.indices[place] if graph.entries else here)


def _biased(
    graph: CSRGraph,
    before: NDArray[np.int64],
    here: NDArray[np.int64],
    cumulative: NDArray[np.float64] | None,
    p: float,
    q: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """node2vec's second-order step by rejection: exact, without a table for each edge."""
    bound = max(1.0, 1 / p, 1 / q)
    result = here.copy()
    waiting = np.flatnonzero(np.diff(graph.indptr)[here] > 0)
    while len(waiting):
        candidate = _neighbour(graph, here[waiting], cumulative, rng)
        weight = np.where(graph.has_edge(before[waiting], candidate), 1.0, 1 / q)
        weight = np.where(candidate == before[waiting], 1 / p, weight)
        taken = rng.random(len(waiting)) * bound < weight
        result[waiting[taken]] = candidate[taken]
        waiting = waiting[~taken]
    return result


def deepwalk(
    graph: CSRGraph,
    dim: int = 128,
    *,
    walks: int = 10,
    length: int = 40,
    window: int = 10,
    negatives: int = 5,
    p: float = 1.0,
    q: float = 1.0,
    lr: float = 0.05,
    seed: int = 0,
    batch: int = 16,
    threads: int = 1,
    progress: Progress | None = None,
) -> Embedding:
    """Embed the nodes by skip-gram over random walks; p and q other than 1 give node2vec.

    Args:
        graph: An undirected graph.
        dim: Width of the vectors.
        walks: Walks from each node.
        length: Nodes in a walk.
        window: A pair is at most this far apart; as in word2vec each centre draws its reach from 1..window.
        negatives: Noise nodes a pair, drawn by (count in walks)^0.75.
        p: node2vec's return parameter.
        q: node2vec's in-out parameter.
        lr: Step size a pair, falling linearly to a tenth.
        seed: Seed of the walks, the vectors and the noise.
        batch: Walks in a batch; fewer on graphs of less than 64 * batch nodes.
        threads: Threads of the matrix products.
        progress: Called with (batches done, batches in all).

    Returns:
        The input vectors of the skip-gram model, (n, dim) float32.
    """
    if graph.entries == 0:
        raise UsageError("random walks need a graph with edges", "give a graph with one edge at least")
    rng = np.random.default_rng(seed)
    batch = max(1, min(batch, graph.n // 64))  # few nodes: many walks at once would step on the same rows
    model = _SkipGram(graph, dim, window, negatives, rng)
    rounds = -(-graph.n // batch)
    with _threads(threads):
        for turn in range(walks):
            order = rng.permutation(graph.n)
            paths = torch.from_numpy(random_walks(graph, order, length, p=p, q=q, rng=rng))
            for k in range(rounds):
                done = turn * rounds + k
                model.step(paths[k * batch : (k + 1) * batch], lr * (1 - 0.9 * done / (walks * rounds)))
                if progress is not None:
                    progress(done + 1, walks * rounds)
    if not bool(torch.isfinite(model.inputs).all()):
        raise TrainingError(f"the skip-gram vectors overflowed at lr={lr}", "use a smaller lr or batch")
    return Embedding(model.inputs.numpy(), graph.ids)


def node2vec(graph: CSRGraph, dim: int = 128, *, p: float = 1.0, q: float = 1.0, seed: int = 0) -> Embedding:
    """DeepWalk whose walks go back with weight 1/p and outwards with weight 1/q, other settings alike."""
    return deepwalk(graph, dim, p=p, q=q, seed=seed)


class _SkipGram:
    """Two tables of vectors and the gradient of the skip-gram loss on a batch of walks."""

    def __init__(
        self, graph: CSRGraph, dim: int, window: int, negatives: int, rng: np.random.Generator
    ) -> None:
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        self.inputs = (torch.rand(graph.n, dim, generator=generator) - 0.5) / dim
        self.outputs = torch.zeros(graph.n, dim)
        self._pairs = torch.zeros(graph.n)  # scratch: how many pairs of the batch meet a row
        # A walk visits nodes in proportion to their degree, except for its start, which is uniform.
        noise = (graph.degree / max(graph.degree.sum(), 1.0) + 1e-3 / graph.n) ** 0.75
        self._noise = np.cumsum(noise / noise.sum())
        self._window, self._negatives, self._rng = window, negatives, rng

    def step(self, paths: Tensor, lr: float) -> None:
        """Train on a batch of walks, (batch, length)."""
        walks, length = paths.shape
        inputs, outputs = self.inputs[paths], self.outputs[paths]  # (batch, length, dim)
        mask = self._mask(walks, length)
        drawn = np.searchsorted(self._noise, self._rng.random((walks, length)))
        shared = torch.from_numpy(drawn.clip(max=len(self.inputs) - 1))
        noise = self.outputs[shared]  # (batch, length, dim)
        # Loss of a pair: -log s(u.v) - negatives * E[log s(-u.z)]; the derivative by a score is s(score) -
        # target.
        pull = (
            torch.sigmoid(torch.bmm(inputs, outputs.transpose(1, 2))) - 1
        ) * mask  # (batch, length, length)
        share = mask.sum(2, keepdim=True) * (self._negatives / length)
        push = torch.sigmoid(torch.bmm(inputs, noise.transpose(1, 2))) * share  # (batch, length, length)
        by_input = torch.bmm(pull, outputs) + torch.bmm(push, noise)
        pairs = mask.sum(2)
        self._update(self.inputs, paths, by_input, pairs * (1 + self._negatives), lr)
        for rows, scores, weight in (
            (paths, pull, pairs),
            (shared, push, share.sum(1).expand(walks, length)),
        ):
            self._update(self.outputs, rows, torch.bmm(scores.transpose(1, 2), inputs), weight, lr)

    def _update(self, table: Tensor, rows: Tensor, gradient: Tensor, pairs: Tensor, lr: float) -> None:
        """Subtract summed gradients; a row that a batch meets in very many pairs moves as if in `_MOST`."""
        flat = rows.reshape(-1)
        self._pairs.index_add_(0, flat, pairs.reshape(-1))
        share = _MOST / self._pairs[flat].clamp(min=_MOST)
        self._pairs[flat] = 0
        table.index_add_(0, flat, gradient.flatten(0, 1) * share[:, None], alpha=-lr)

    def _mask(self, walks: int, length: int) -> Tensor:
        """Which places are each centre's context, (batch, length, length) of 0 and 1."""
        reach = torch.from_numpy(self._rng.integers(1, self._window + 1, (walks, length, 1)))
        place = torch.arange(length)
        apart = (place[None, :] - place[:, None]).abs()
        return ((apart > 0) & (apart <= reach)).float()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
