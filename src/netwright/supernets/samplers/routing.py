"""Which supernet of a mixture trains which sub-network: routing by quality, balanced.

M. J. Roshtkhari, M. Toews and M. Pedersoli, Balanced Mixture of SuperNets for Learning the CNN Pooling
Architecture, AutoML 2023, section 4 and algorithm 1; settings as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.data import Part
from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.base import Draw, Sampler
from netwright.supernets.stores.mixture import Supernets, choices_of
from netwright.train import State, evaluate, evaluating
from netwright.train.scoring import tally

#: Most divisions of one balancing.
_ROUNDS = 100_000


def divergence(marginal: Tensor) -> float:
    """Kullback-Leibler divergence of a distribution from the uniform one, in nats.

    Args:
        marginal: (M,) that sum to 1.
    """
    share = marginal[marginal > 0]
    return abs(float((share * (share * len(marginal)).log()).sum()))


def balance(probabilities: Tensor, tol: float = 1e-4) -> tuple[Tensor, list[Tensor]]:
    """Divide columns by their means and rows by their sums until all columns weigh the same.

    These are Sinkhorn's iterations towards row sums of 1 and column sums of A / M.

    Args:
        probabilities: (A, M), rows sum to 1.
        tol: Largest `divergence` of the column means that is left.

    Returns:
        (A, M) balanced, rows sum to 1; and the column means (M,) that were divided by, in order.

    Raises:
        UsageError: if it does not come to an end, because too many entries are zero.
    """
    divided: list[Tensor] = []
    marginal = probabilities.mean(dim=0)
    while divergence(marginal) > tol:
        if len(divided) >= _ROUNDS or not bool((marginal > 0).all()):
            raise UsageError("the routing cannot be balanced: a supernet is nobody's", "lower temperature")
        divided.append(marginal)
        probabilities = replay(probabilities, [marginal])
        marginal = probabilities.mean(dim=0)
    return probabilities, divided


def replay(probabilities: Tensor, divided: Sequence[Tensor]) -> Tensor:
    """Divide by column means that were found before, rows by their sums after each.

    Args:
        probabilities: (A, M).
        divided: (M,) each.
    """
    for marginal in divided:
        probabilities = probabilities / marginal
        probabilities = probabilities / probabilities.sum(dim=1, keepdim=True)
    return probabilities


@dataclass(frozen=True)
class RoutedDraw(Draw):
    """A draw of one supernet of a mixture.

    Attributes:
        member: Its number.
        path: Number of the sub-network.
    """

    member: int = 0
    path: int = 0

    def apply(self, sup: Elastic, batch: int, device: Any = None) -> None:
        """Set the mixture to it.

        Args:
            sup: The mixture.
            batch: Number of examples.
            device: Where they are.
        """
        if not isinstance(sup, Supernets):
            raise UsageError("there is one supernet to route to", "make it with store=supernets.Mixture(4)")
        super().apply(sup.use(self.member), batch, device)


class BalancedRouter(Sampler):
    """Trains one supernet of a mixture on one sub-network a step, the one that serves it well, all as often.

    Every sub-network is as likely; the supernet is drawn from the softmax of its validation accuracies with
    that sub-network so far, divided as `balance` found at the beginning of the epoch. After the step the
    accuracy on one validation batch goes into a moving average. Networks are evaluated as they are: with
    batch normalisation whose running statistics all sub-networks share the accuracies mean little.

    Args:
        validation: Labelled examples that are not trained on.
        temperature: What accuracies are multiplied by, in the first epoch and in the last.
        ema: Weight of the past in the moving average of the accuracies.
        tol: See `balance`.
        seed: Of the draws.
        balanced: False leaves the softmax as it is, for comparison.
        batch_size: Examples of a validation batch.

    Attributes:
        quality: (A, M) moving averages, all 1 in the beginning.
        counts: (A, M) steps so far.
    """

    def __init__(
        self,
        validation: Part,
        temperature: tuple[float, float] = (1.0, 100.0),
        ema: float = 0.9,
        tol: float = 1e-4,
        seed: int = 0,
        *,
        balanced: bool = True,
        batch_size: int = 128,
    ) -> None:
        super().__init__(seed)
        if not 0 <= ema < 1 or tol <= 0 or not all(math.isfinite(t) and t > 0 for t in temperature):
            raise UsageError(f"temperature={temperature}, ema={ema}, tol={tol} do not route", "see the docs")
        self.validation, self.temperature, self.ema, self.tol = validation, temperature, ema, tol
        self.balanced, self.batch_size = balanced, batch_size
        self.paths: list[Choice] = []
        self.quality, self.counts = torch.ones(0, 0), torch.zeros(0, 0, dtype=torch.int64)
        self.steps, self.per_epoch, self.epoch = 1, 1, -1
        self._divided: list[Tensor] = []
        self._drawn: RoutedDraw | None = None
        self._batches: Iterator[tuple[Tensor, Tensor]] = iter(())
        self._rounds = 0

    def attach(self, sup: Elastic) -> None:
        """Know the sub-networks and how many supernets there are."""
        super().attach(sup)
        if not isinstance(sup, Supernets):
            raise UsageError("there is one supernet to route to", "make it with store=supernets.Mixture(4)")
        self.paths = choices_of(sup)
        self.quality = torch.ones(len(self.paths), len(sup.members), dtype=torch.float64)
        self.counts = torch.zeros(self.quality.shape, dtype=torch.int64)
        self.epoch = -1

    def begin(self, state: State) -> None:
        """Know how long the training is."""
        self.steps, self.per_epoch = state.steps, max(state.steps_per_epoch, 1)

    def heat(self, epoch: int) -> float:
        """The temperature of an epoch: linear from the first to the last.

        Args:
            epoch: From 0.
        """
        first, last = self.temperature
        return first + (last - first) * epoch / max(self.steps // self.per_epoch - 1, 1)

    def probabilities(self) -> Tensor:
        """(A, M) the supernet of each sub-network, as the present step draws it."""
        raw = torch.softmax(self.quality * self.heat(max(self.epoch, 0)), dim=1)
        return replay(raw, self._divided)

    def draw(self, step: int) -> list[Draw]:
        """One sub-network and its supernet."""
        epoch = step // self.per_epoch
        if epoch != self.epoch:
            self.epoch, self._divided = epoch, []
            if self.balanced:
                _, self._divided = balance(self.probabilities(), self.tol)
        rng = self.rng(step)
        path = int(rng.integers(len(self.paths)))
        shares = self.probabilities()[path].numpy()
        member = int(rng.choice(len(shares), p=shares / shares.sum()))
        self._drawn = RoutedDraw((self.paths[path],), member=member, path=path)
        return [self._drawn]

    def after_step(self, state: State) -> None:
        """Let the accuracy of what was trained, on one validation batch, count."""
        drawn, sup = self._drawn, state.model
        assert drawn is not None and isinstance(sup, Supernets)
        x, y = self._validate()
        device = next(sup.parameters()).device
        drawn.apply(sup, len(x), device)
        with torch.no_grad(), evaluating(sup):
            right, _, seen = tally(sup(x.to(device)), y.to(device))
        sup.set(sup.blueprint.full)
        old = float(self.quality[drawn.path, drawn.member])
        self.quality[drawn.path, drawn.member] = self.ema * old + (1 - self.ema) * float(right) / seen
        self.counts[drawn.path, drawn.member] += 1

    def _validate(self) -> tuple[Tensor, Tensor]:
        """The next validation batch of a shuffled order; orders are drawn again and again."""
        found = next(self._batches, None)
        while found is None:
            seed = int(np.random.default_rng((self.seed, 7, self._rounds)).integers(2**62))
            generator = torch.Generator().manual_seed(seed)
            self._rounds += 1
            size = min(self.batch_size, len(self.validation))
            self._batches = self.validation.batches(size, shuffle=True, generator=generator, drop_last=True)
            found = next(self._batches, None)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Accuracies, counts and the divisions of the epoch; a resumed training draws validation anew."""
        return {
            "quality": self.quality,
            "counts": self.counts,
            "epoch": self.epoch,
            "divided": self._divided,
            "rounds": self._rounds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.quality, self.counts = state["quality"].clone(), state["counts"].clone()
        self.epoch, self._divided = int(state["epoch"]), list(state["divided"])
        self._rounds = int(state["rounds"])

    @property
    def marginal(self) -> Tensor:
        """(M,) the share of each supernet, over sub-networks that are all as likely."""
        return self.probabilities().mean(dim=0)


def accuracies(sup: Supernets, part: Part, choices: Sequence[Choice] | None = None) -> Tensor:
    """Accuracy of every sub-network with the weights of every supernet, (choices, supernets).

    A sub-network's score is the best of its row (`amax(dim=1)`).

    Args:
        sup: The mixture.
        part: Labelled examples, not those of the test.
        choices: Which sub-networks; all when None.
    """
    found = choices_of(sup) if choices is None else list(choices)
    device = next(sup.parameters()).device
    before = sup.active
    rows = [
        [evaluate(sup.use(m).set(choice), part, device=device).accuracy for m in range(len(sup.members))]
        for choice in found
    ]
    sup.use(before)
    return torch.tensor(rows, dtype=torch.float64)
