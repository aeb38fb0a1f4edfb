"""Strategies: which choice of a space is judged next."""

from netwright.nas.strategies.base import Strategy
from netwright.nas.strategies.coarse_to_fine import CoarseToFine
from netwright.nas.strategies.evolution import Evolution
from netwright.nas.strategies.local_search import LocalSearch
from netwright.nas.strategies.uniform import Exhaustive, Random

#: Name -> strategy, as it is settled.
BY_NAME: dict[str, type[Strategy]] = {
    "random": Random,
    "exhaustive": Exhaustive,
    "evolution": Evolution,
    "coarse-to-fine": CoarseToFine,
    "local-search": LocalSearch,
}

__all__ = ["BY_NAME", "CoarseToFine", "Evolution", "Exhaustive", "LocalSearch", "Random", "Strategy"]
