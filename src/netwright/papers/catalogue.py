"""The 69 papers as plain data. Whether one is implemented is not written here: see `frame.implemented`.

Each group of papers is listed in a module of its own, ``catalogue_GROUP``.
"""

from __future__ import annotations

from netwright.papers.catalogue_architectures import ARCHITECTURES
from netwright.papers.catalogue_compose import COMPOSE
from netwright.papers.catalogue_graphs import GRAPHS
from netwright.papers.catalogue_pruning import PRUNING
from netwright.papers.catalogue_science import SCIENCE
from netwright.papers.catalogue_search import SEARCH
from netwright.papers.catalogue_supernets import SUPERNETS
from netwright.papers.entry import Entry

__all__ = ["LISTING", "Entry"]

_GROUPS = (ARCHITECTURES, COMPOSE, GRAPHS, PRUNING, SCIENCE, SEARCH, SUPERNETS)

#: Every paper, in the order of the numbers.
LISTING: tuple[Entry, ...] = tuple(
    sorted((entry for group in _GROUPS for entry in group), key=lambda entry: entry.number)
)
