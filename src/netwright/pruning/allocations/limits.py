"""A budget as numbers that a choice of widths meets or misses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from netwright.errors import BudgetError, UsageError
from netwright.pruning.allocations.widths import Widths
from netwright.structure import Budget
from netwright.structure.facts import obstacles

#: What can be computed from the widths alone. Size is that of the weights and `_GRAPH_BYTES` an operator.
ANALYTIC = ("keep", "macs", "params", "size")
_GRAPH_BYTES = 300


class Limits:
    """The analytic limits of a budget for one network.

    Args:
        widths: The network's axes.
        budget: The budget; its latency is left to `netwright.pruning.allocations.latency`.
        item_bytes: Bytes of one parameter.

    """

    def __init__(self, widths: Widths, budget: Budget, item_bytes: float = 4) -> None:
        self._widths, self._budget = widths, budget
        operators = len(widths.net.operators) if budget.size is not None else 0
        self._item, self._graph = item_bytes, float(_GRAPH_BYTES * operators)
        self.names = [name for name in ANALYTIC if getattr(budget, name) is not None]
        self._columns = [ANALYTIC.index(name) for name in self.names]
        self.dense = self.figures(widths.sizes[None])[0]
        given = [getattr(budget, name) for name in self.names]
        ceilings = [limit.against(float(d)) for limit, d in zip(given, self.dense, strict=True)]
        self.ceilings = torch.tensor(ceilings, dtype=torch.float64)

    def also(self, budget: Budget) -> Limits:
        """The same limits and another one, which replaces one of its name where it is lower."""
        given = {name: limit for name, limit in self._budget.limits.items() if name in ANALYTIC}
        both = dict(given)
        for name, limit in budget.limits.items():
            if name in ANALYTIC:
                dense = float(self._figures(self._widths.sizes[None])[0, ANALYTIC.index(name)])
                old = given.get(name)
                both[name] = limit if old is None or limit.against(dense) < old.against(dense) else old
        return Limits(self._widths, Budget(**both), self._item)  # type: ignore[arg-type]

    def figures(self, counts: Tensor) -> Tensor:
        """What the limits are about.

        Args:
            counts: (settings, A).

        Returns:
            (settings, limits) float64, in the order of `names`.
        """
        if self.names == ["keep"]:
            return self._share(counts)[:, None]
        return self._figures(counts)[:, self._columns]

    def _share(self, counts: Tensor) -> Tensor:
        return self._widths.kept(counts).double() / max(float(self._widths.totals.sum()), 1.0)

    def _figures(self, counts: Tensor) -> Tensor:
        cost = self._widths.net.costs(self._widths.mask(counts)).double()  # (settings, 3)
        share = self._share(counts)
        size = cost[:, 1] * self._item + self._graph
        return torch.stack([share, cost[:, 0], cost[:, 1], size], dim=1)

    def fits(self, counts: Tensor) -> Tensor:
        """Whether choices meet all limits, (settings,) bool.

        Args:
            counts: (settings, A).
        """
        return (self.figures(counts) <= self.ceilings * (1 + 1e-12)).all(dim=1)

    def spent(self, counts: Tensor) -> float:
        """The share of the tightest limit that a choice uses, up to 1."""
        return float((self.figures(counts[None])[0] / self.ceilings).amax()) if self.names else 0.0

    def unmet(self, smallest: Tensor, hint: str | None = None) -> BudgetError:
        """The error for a budget that even the smallest network misses.

        Args:
            smallest: (A,) counts of the smallest network.
            hint: What else could be done.
        """
        least = self.figures(smallest[None])[0]
        worst = int((least / self.ceilings).argmax())
        name, dense = self.names[worst], float(self.dense[worst])
        share = math.ceil(float(least[worst]) / dense * 1000) / 1000
        more = f", {hint}" if hint else ""
        held = obstacles(self._widths.net)
        more += f"; {held}" if held else ""
        return BudgetError(
            f"{name} of at most {_number(float(self.ceilings[worst]))} cannot be met: "
            f"the smallest network has {_number(float(least[worst]))}",
            f"ask for {name}={share:g} or more{more}",
        )


def check_budget(budget: Budget) -> None:
    """Refuse a budget that pruning alone cannot be held to.

    Raises:
        UsageError: saying why.
    """
    if budget.accuracy is not None:
        raise UsageError(
            "an accuracy cannot be promised by pruning alone", "leave it out here, or use `netwright shape`"
        )
    if not budget:
        raise UsageError("the budget limits nothing", 'give one, for instance "macs=0.5"')


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
