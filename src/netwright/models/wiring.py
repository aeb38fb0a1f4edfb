"""From an undirected graph to layers: edges point from lower to higher nodes, longest paths are depths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from netwright.errors import ModelError

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Wiring:
    """A directed acyclic graph in layers.

    Attributes:
        layers: The nodes of every layer, ascending; layer k holds those whose longest path from any source
            has k edges.
        edges: Pairs (from, to) of nodes.
    """

    layers: tuple[tuple[int, ...], ...]
    edges: frozenset[tuple[int, int]]

    @property
    def sizes(self) -> list[int]:
        """Nodes of every layer."""
        return [len(layer) for layer in self.layers]

    @property
    def sources(self) -> int:
        """Nodes that nothing points at."""
        return len(self.layers[0])

    @property
    def sinks(self) -> int:
        """Nodes that point at nothing."""
        return sum(map(len, self.layers)) - len({a for a, _ in self.edges})

    def mask(self, source: int, target: int) -> Tensor:
        """Which node of one layer points at which of another, (nodes of target, nodes of source) bool."""
        rows = [[(a, b) in self.edges for a in self.layers[source]] for b in self.layers[target]]
        return torch.tensor(rows, dtype=torch.bool)

    def inputs(self, target: int) -> list[int]:
        """The layers with an edge into a layer: the one before first, then those that skip, ascending."""
        found = [s for s in range(target - 1) if bool(self.mask(s, target).any())]
        return [target - 1, *found]


def wire(graph: nx.Graph | nx.DiGraph | Iterable[tuple[int, int]]) -> Wiring:
    """Put the nodes of a graph in layers.

    Args:
        graph: Of networkx, or edges. Every edge points from the lower to the higher of its two nodes, so that
            no circle arises.

    Raises:
        ModelError: if there is no node, or an edge leads from a node to itself.
    """
    import networkx as nx

    whole = graph if isinstance(graph, nx.Graph) else nx.Graph(list(graph))
    nodes = sorted(whole.nodes)
    if not nodes:
        raise ModelError("the graph has no nodes")
    if any(a == b for a, b in whole.edges):
        raise ModelError("an edge leads from a node to itself", "remove such edges from the graph")
    edges = frozenset((min(a, b), max(a, b)) for a, b in whole.edges)
    before: dict[int, list[int]] = {node: [] for node in nodes}
    for a, b in edges:
        before[b].append(a)
    depth: dict[int, int] = {}
    for node in nodes:
        depth[node] = max((depth[a] + 1 for a in before[node]), default=0)
    layers = [tuple(n for n in nodes if depth[n] == k) for k in range(max(depth.values()) + 1)]
    return Wiring(tuple(layers), edges)
