"""Several supernets that divide a space among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.space import SearchSpace
from netwright.structure import Cost
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.stores.matching import restricted


@dataclass
class Node:
    """A supernet for a part of the space, and how that was divided further.

    Attributes:
        region: Dim -> values that sub-networks of this part have; dims that are not there have all.
        sup: Its supernet; None where it was divided: the children have it.
        dim: The dim by which it was divided, or None.
        score: The distances between the groups, or None where nothing was measured.
        children: The parts.
    """

    region: Mapping[str, tuple[Any, ...]]
    sup: Elastic | None
    dim: str | None = None
    score: float | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def leaves(self) -> Iterator[Node]:
        """The parts that are not divided further, in order."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves

    def space(self, whole: SearchSpace) -> SearchSpace:
        """The part as a space.

        Args:
            whole: The space that it is a part of.
        """
        return restricted(whole, self.region) if self.region else whole

    def holds(self, choice: Mapping[str, Any]) -> bool:
        """Whether a choice is of this part.

        Args:
            choice: A canonical choice of the whole space.
        """
        return all(choice[name] in values for name, values in self.region.items())


class Split(nn.Module):
    """A tree of supernets; the leaves divide the space, and a sub-network runs in the leaf that holds it.

    Args:
        root: The tree.

    Attributes:
        tree: The tree.
        leaves: Its leaves.
        choice: The sub-network that runs.

    Raises:
        UsageError: if a leaf has no supernet.
    """

    def __init__(self, root: Node) -> None:
        super().__init__()
        self.tree = root
        self.leaves: Sequence[Node] = tuple(root.leaves)
        if any(leaf.sup is None for leaf in self.leaves):
            raise UsageError("a leaf of the tree has no supernet", "give every leaf one")
        self.supernets = nn.ModuleList(leaf.sup for leaf in self.leaves if leaf.sup is not None)
        self.choice: Choice = self._sup(0).blueprint.full

    @property
    def space(self) -> SearchSpace:
        """The whole space."""
        return self._sup(0).space

    def __len__(self) -> int:
        return len(self.leaves)

    def _sup(self, number: int) -> Elastic:
        sup = self.supernets[number]
        assert isinstance(sup, Elastic)
        return sup

    def number(self, choice: Mapping[str, Any]) -> int:
        """Position of the leaf that holds a choice.

        Args:
            choice: A choice of `space`.
        """
        canonical = self._sup(0).complete(choice)
        return next(i for i, leaf in enumerate(self.leaves) if leaf.holds(canonical))

    def of(self, choice: Mapping[str, Any]) -> Elastic:
        """The supernet of the leaf that holds a choice, set to it.

        Args:
            choice: A choice of `space`.
        """
        return self._sup(self.number(choice)).set(choice)

    def set(self, choice: Mapping[str, Any]) -> Split:
        """Choose the sub-network that runs from now on.

        Args:
            choice: A choice of `space`.
        """
        self.choice = self.of(choice).choice
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the chosen sub-network.

        Args:
            args: As the network takes them.
            kwargs: Likewise.
        """
        return self.of(self.choice)(*args, **kwargs)

    def cost(self, choice: Mapping[str, Any] | None = None) -> Cost:
        """What a sub-network costs for one example.

        Args:
            choice: A choice; the present one when None.
        """
        return self._sup(0).cost(self.choice if choice is None else choice)

    def extract(self, choice: Mapping[str, Any] | None = None) -> nn.Module:
        """A plain network of its own that computes what the sub-network computes; see `Elastic.extract`.

        Args:
            choice: A choice; the present one when None.
        """
        choice = self.choice if choice is None else choice
        return self.of(choice).extract(choice)
