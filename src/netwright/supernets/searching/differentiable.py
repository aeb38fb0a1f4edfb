"""Search by gradient: train a supernet and its architecture parameters, then take what they favour."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from netwright.data import Part, Splits
from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.history import History
from netwright.nas.strategies import Strategy
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.gradient import GradientAlpha
from netwright.supernets.searching.family import Family, search
from netwright.supernets.searching.measures import Accuracy, Measure
from netwright.supernets.training.bilevel import Bilevel
from netwright.supernets.training.paths import train
from netwright.train import Recipe

#: Examples that measure the batch-norm statistics of a sub-network.
CALIBRATION = 512


@dataclass(frozen=True)
class Derived:
    """What a search by gradient found.

    Attributes:
        sup: The trained supernet.
        choice: What its architecture parameters favour; under "spos" the best of random ones.
        sampler: The architecture parameters, with their `history`.
        paths: What was computed.
    """

    sup: Elastic
    choice: Choice
    sampler: GradientAlpha
    paths: Bilevel

    @property
    def history(self) -> list[dict[str, Any]]:
        """After each epoch: step, probabilities and the choice that they favour."""
        return self.sampler.history


class Differentiable(Strategy):
    """Trains architecture parameters with the weights, and proposes what they favour.

    As a strategy of `nas.search` it proposes the favoured choice first, then others drawn from what the
    parameters make of every dim. It must have been trained (`train`) before.

    Args:
        method: Of `GradientAlpha`.
        seed: Of everything.
        share: Of the training split that the weights learn from; the architecture parameters have the rest.
        evaluations: Random sub-networks that are judged under "spos", on the second part.
        judged: Most examples that they are judged on; all where None.
        options: Others of `GradientAlpha`.

    Raises:
        UsageError: if the share leaves one of both nothing.
    """

    def __init__(
        self,
        method: str = "drnas",
        *,
        seed: int = 0,
        share: float = 0.5,
        evaluations: int = 100,
        judged: int | None = None,
        **options: Any,
    ) -> None:
        if not 0 < share < 1:
            raise UsageError(f"share={share} leaves weights or parameters no examples", "give 0 < share < 1")
        self.sampler = GradientAlpha(method, seed, **options)
        self.seed, self.share, self.evaluations, self.judged = seed, share, evaluations, judged
        self.derived: Derived | None = None

    def train(self, sup: Elastic, data: Splits, recipe: Recipe | None = None, **arguments: Any) -> Derived:
        """Search a supernet.

        Args:
            sup: The supernet; it is copied.
            data: Splits; only `train` is learned from.
            recipe: How the weights are trained.
            arguments: Further ones of `supernets.train`.
        """
        first, second = halves(data.train, self.share, self.seed)
        paths = Bilevel(self.sampler, held=second, seed=self.seed)
        own = dataclasses.replace(data, train=first)
        trained = train(sup, own, recipe, paths=paths, **arguments).model
        assert isinstance(trained, Elastic)
        if self.sampler.learns:
            choice = self.sampler.favoured()
        else:
            second = second if self.judged is None else second.head(self.judged)
            judge = Accuracy(second, first.head(CALIBRATION), device=str(next(trained.parameters()).device))
            family = search(trained, [judge], trials=self.evaluations, seed=self.seed)
            choice = family.found.best.candidate
        self.derived = Derived(trained, choice, self.sampler, paths)
        return self.derived

    def search(
        self,
        sup: Elastic,
        data: Splits,
        objectives: Sequence[Measure],
        recipe: Recipe | None = None,
        *,
        trials: int = 1,
        **arguments: Any,
    ) -> Family:
        """Train, then judge what the architecture parameters favour; `derived` holds choice and history.

        Args:
            sup: The supernet; it is copied.
            data: Splits; only `train` is learned from.
            objectives: Measures; see `supernets.search`.
            recipe: How the weights are trained.
            trials: How many are judged: the favoured choice, then draws.
            arguments: Further ones of `supernets.search`.
        """
        trained = self.train(sup, data, recipe).sup
        found: Family = search(trained, objectives, strategy=self, trials=trials, seed=self.seed, **arguments)
        return found

    def propose(self, history: History) -> Choice:
        """What the parameters favour, then draws from them.

        Raises:
            UsageError: if they were not trained.
        """
        if self.derived is None:
            raise UsageError("the architecture parameters were not trained", "call train(sup, data) first")
        if self.derived.choice not in history.seen:
            return self.derived.choice
        chances = {name: p.double().numpy() for name, p in self.sampler.probabilities().items()}
        return history.unseen(lambda: self._sample(chances, history.rng))

    def _sample(self, chances: dict[str, np.ndarray], rng: np.random.Generator) -> Choice:
        space = self.space
        drawn = {
            d.name: list(d.each())[int(rng.choice(len(p := chances[d.name]), p=p / p.sum()))]
            for d in space.dims
        }
        return space.canonical(Choice(drawn))


def halves(part: Part, share: float, seed: int) -> tuple[Part, Part]:
    """Two parts with nothing in common.

    Args:
        part: The examples.
        share: Of the first, in 0..1; both have at least two.
        seed: Of the draw.
    """
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    cut = min(max(round(share * len(part)), 2), len(part) - 2)
    return part.subset(order[:cut]), part.subset(order[cut:])
