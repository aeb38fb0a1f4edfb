"""A supernet whose weights lie on a line between two end points, at the place that the size decides.

E. Nunez, M. Horton, A. Prabhu et al., LCS: Learning Compressible Subspaces for Adaptive Network Compression
at Inference Time, WACV 2023 (arXiv:2110.04252), section 3: the network of a compression level is that level's
part of a point of its own, w(a) = a w1 + (1 - a) w2. The statistics of batch normalisation would differ from
point to point; the paper takes them from the instance (`models.with_instance_norm`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.dims import Ordinal
from netwright.nas.space import SearchSpace
from netwright.pruning.removal.initialisation import reinitialise_
from netwright.structure.thinning import middle
from netwright.supernets.network.binding import Plan, cut
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.stores.holding import Holding

#: Where on the line a choice is, in 0..1.
Position = Callable[[SearchSpace, Choice], float]


def size_position(space: SearchSpace, choice: Choice) -> float:
    """0 for the smallest and 1 for the largest of every ordinal dim, linear in its value; the mean of them.

    Args:
        space: Of the choice.
        choice: A choice.
    """
    dims = [d for d in space.free if isinstance(d, Ordinal)]
    found = [(choice[d.name] - min(d.values)) / (max(d.values) - min(d.values)) for d in dims]
    return float(fmean(found)) if found else 0.0


@dataclass(frozen=True)
class Line:
    """Two full sets of weights, of which every sub-network has the point between them at its place.

    Args:
        seed: Of the second end point, which is drawn anew.
        position: Where on the line a choice is; 0 is the first end point.
    """

    seed: int = 0
    position: Position = size_position

    def of(self, sup: Elastic) -> OnLine:
        """A supernet of the same choices; its first end point is the weights of the given one.

        Args:
            sup: An ordinary supernet; its network is used, not copied.

        Raises:
            UsageError: if every choice is a graph of its own.
        """
        if sup.blueprint.rules is None:
            raise UsageError("every choice of this network is a graph of its own", "use one set of weights")
        other = reinitialise_(copy.deepcopy(sup.network), self.seed)
        return OnLine(sup, self, nn.ParameterList(p.detach().clone() for p in other.parameters()))


class OnLine(Holding):
    """A supernet on a line; made by `Line`. A forward pass makes the point and runs one network.

    Args:
        sup: Holds the first end point.
        store: How it was made.
        end: The second end point, in the order of the network's parameters.

    Attributes:
        end: The second end point.
    """

    held = ("end",)

    def __init__(self, sup: Elastic, store: Line, end: nn.ParameterList) -> None:
        super().__init__(sup.network, sup.blueprint)
        self.choice, self.statistics, self.store, self.end = sup.choice, sup.statistics, store, end
        self.train(sup.training)

    def position(self, choice: Mapping[str, Any] | None = None) -> float:
        """Where on the line a choice is, in 0..1.

        Args:
            choice: A choice; the present one when None.

        Raises:
            UsageError: if the store's own position is not in 0..1.
        """
        chosen = self.choice if choice is None else self.complete(choice)
        found = float(self.store.position(self.space, chosen))
        if not 0.0 <= found <= 1.0:
            raise UsageError(f"position {found} is not on the line", "let position() answer in 0..1")
        return found

    def tensors(self, plan: Plan | None = None) -> dict[str, Tensor]:
        """See `Elastic.tensors`; every parameter is computed, of no more than what stays of it."""
        plan = self.plan if plan is None else plan
        return super().tensors(plan) | self._point(plan)

    def _point(self, plan: Plan) -> dict[str, Tensor]:
        at, found = self.position(), {}
        for (name, first), second in zip(self.network.named_parameters(), self.end, strict=True):
            one, two = (cut(t, plan.cuts.get(name, ())) for t in (first, second))
            if name in plan.crops:
                one, two = (middle(t, plan.crops[name]) for t in (one, two))
            found[name] = (1.0 - at) * one + at * two
        return found

    def whole(self) -> dict[str, Tensor]:
        """The point of the present choice."""
        return self._point(Plan())

    def __deepcopy__(self, memo: dict[int, Any]) -> OnLine:
        plain = Elastic(copy.deepcopy(self.network, memo), self.blueprint)
        plain.choice = self.choice
        plain.statistics = {c: {n: t.clone() for n, t in s.items()} for c, s in self.statistics.items()}
        return OnLine(plain.train(self.training), self.store, copy.deepcopy(self.end, memo))
