"""What makes a sub-network of a requested cost: a learned generator, or exact draws from a window.

ShiftNAS: Improving One-shot NAS via Probability Shift, ICCV 2023. The published repository holds no code;
what the text leaves open is marked "ours" and can be set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.cost_tables import CostTables
from netwright.supernets.samplers.relaxations import gumbel_one_hot, straight_through

_FIRST = torch.tensor([0])


@dataclass(frozen=True)
class Bins:
    """Equal parts of the range of costs; not of the choices, most of which are of medium cost.

    Attributes:
        lo: The least cost of any choice.
        hi: The greatest.
        count: How many parts.
    """

    lo: float
    hi: float
    count: int

    @classmethod
    def of(cls, tables: CostTables, count: int) -> Bins:
        """Those of a supernet.

        Args:
            tables: What its choices cost.
            count: How many parts.

        Raises:
            UsageError: if there would be none, or all choices cost the same.
        """
        whole = tables.space.constrained(tables.additive)
        lo, hi = tables.of(whole.min()), tables.of(whole.max())
        if count < 1 or lo >= hi:
            raise UsageError(f"costs from {lo} to {hi} are not split into {count} bins", "give 1 bin or more")
        return cls(lo, hi, count)

    @property
    def edges(self) -> np.ndarray:
        """(count + 1,) ascending."""
        return np.linspace(self.lo, self.hi, self.count + 1)

    @property
    def targets(self) -> np.ndarray:
        """(count,) the middle of each bin."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def index(self, cost: float) -> int:
        """The bin of a cost, the nearest one where it is outside.

        Args:
            cost: Of a choice.
        """
        place = int((cost - self.lo) / (self.hi - self.lo) * self.count)
        return min(max(place, 0), self.count - 1)


class RejectionGenerator:
    """Draws from all choices of a bin, every one equally likely; learns nothing.

    Args:
        tables: What choices cost.
        bins: Of the costs.
        share: Half width of the window around a requested cost, as a share of it; the whole bin of the cost
            where None.
    """

    def __init__(self, tables: CostTables, bins: Bins, share: float | None = None) -> None:
        self.tables, self.bins, self.share = tables, bins, share
        self._spaces: dict[tuple[float, float], object] = {}

    def choice(self, cost: float, rng: np.random.Generator) -> Choice:
        """A sub-network of the window.

        Args:
            cost: The request.
            rng: Of the draw.

        Raises:
            BudgetError: if the window is empty.
        """
        if self.share is None:
            lo, hi = self.bins.edges[self.bins.index(cost) :][:2]
        else:
            lo, hi = cost * (1 - self.share), cost * (1 + self.share)
        key = (float(lo), float(hi))
        if key not in self._spaces:
            self._spaces[key] = self.tables.space.constrained(self.tables.additive, *key)
        drawn: Choice = self._spaces[key].sample(rng)  # type: ignore[attr-defined]
        return drawn

    #: One draw is as likely as another.
    likely = choice


class LSTMGenerator(nn.Module):
    """Writes one decision after the other, for a requested cost: one-hot, with straight-through gradients.

    Each step of the recurrence reads the bin of the request, the request itself, what was decided before and
    how much of the request is left when all else is smallest ("ours": the text names the recurrence and its
    policies alone).

    Args:
        tables: What choices cost.
        bins: Of the costs.
        hidden: Units of the recurrence (ours).
        seed: Of its weights.
        penalty: Weight of the distance from the request (ours: 2).
        tau: Temperature of the policies in the beginning and in the end (ours: 5 to 0.5).
    """

    def __init__(
        self,
        tables: CostTables,
        bins: Bins,
        hidden: int = 128,
        seed: int = 0,
        *,
        penalty: float = 2.0,
        tau: tuple[float, float] = (5.0, 0.5),
    ) -> None:
        super().__init__()
        self.tables, self.bins, self.penalty, self.tau = tables, bins, penalty, tau
        self.progress = 0.0
        sizes = [len(values) for values in tables.values.values()]
        self._widest = max(sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cell = nn.LSTMCell(bins.count + 3 + self._widest, hidden)
            self.heads = nn.ModuleList([nn.Linear(hidden, size) for size in sizes])

    @property
    def temperature(self) -> float:
        """Of the policies at the present `progress`, from 0 to 1; falls geometrically."""
        first, last = self.tau
        return first * (last / first) ** min(max(self.progress, 0.0), 1.0)

    def forward(self, costs: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Policies for requests.

        Args:
            costs: (B,) requests.
            generator: Of the Gumbel noise; the most probable decisions, without noise, when None.

        Returns:
            Name of a dim -> (B, values) one-hot.
        """
        request = self._request(costs)
        before = request.new_zeros(len(request), self._widest)
        state: tuple[Tensor, Tensor] | None = None
        policies = {}
        decided = {
            name: request.new_zeros(len(request), head.out_features).index_fill(
                1, _FIRST.to(request.device), 1
            )
            for name, head in zip(self.tables.values, self._linear, strict=True)
        }
        spent = self.tables.soft(decided)  # undecided dims at their smallest
        for name, head in zip(self.tables.values, self._linear, strict=True):
            left = (1 - spent / costs.to(spent)).to(request)[:, None]
            state = self.cell(torch.cat([request, left, before], dim=1), state)
            logits = head(state[0])
            if generator is None:
                policy = straight_through(logits.softmax(dim=-1))
            else:
                policy = gumbel_one_hot(logits, self.temperature, generator)
            policies[name] = policy
            spent = spent - self.tables.part(name, decided)
            decided[name] = policy.detach()
            spent = spent + self.tables.part(name, decided)
            before = nn.functional.pad(policy, (0, self._widest - policy.shape[1]))
        return policies

    @property
    def _linear(self) -> list[nn.Linear]:
        return [head for head in self.heads if isinstance(head, nn.Linear)]

    def _request(self, costs: Tensor) -> Tensor:
        """(B, bins + 2): the bin as one-hot, the request as a share of the range, and its logarithm."""
        weight = self.cell.weight_ih
        index = torch.tensor([self.bins.index(float(c)) for c in costs])
        share = (costs.double() - self.bins.lo) / (self.bins.hi - self.bins.lo)
        log = torch.log(costs.double() / self.bins.hi)
        near = nn.functional.one_hot(index, self.bins.count)
        return torch.cat([near.double(), share[:, None].cpu(), log[:, None].cpu()], dim=1).to(weight)

    def miss(self, policies: Mapping[str, Tensor], costs: Tensor) -> Tensor:
        """How far policies are from requests, weighted: ``penalty |cost - request| / request``.

        Args:
            policies: Name of a dim -> (B, values).
            costs: (B,) requests.

        Returns:
            Scalar, the mean.
        """
        made = self.tables.soft(policies)
        wanted = costs.to(made)
        return self.penalty * ((made - wanted).abs() / wanted).mean()

    def read(self, policies: Mapping[str, Tensor]) -> list[Choice]:
        """The canonical choices of one-hot policies.

        Args:
            policies: Name of a dim -> (B, values).
        """
        chosen = {name: policy.argmax(dim=-1).tolist() for name, policy in policies.items()}
        rows: Sequence[int] = range(len(next(iter(chosen.values()))))
        values = self.tables.values
        return [
            self.tables.space.canonical(Choice({n: values[n][places[row]] for n, places in chosen.items()}))
            for row in rows
        ]

    def choice(self, cost: float, rng: np.random.Generator) -> Choice:
        """The sub-network for a request, with noise.

        Args:
            cost: The request.
            rng: Of the noise.
        """
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        with torch.no_grad():
            return self.read(self(torch.tensor([float(cost)]), generator))[0]

    def likely(self, cost: float, rng: np.random.Generator | None = None) -> Choice:
        """The sub-network for a request, without noise.

        Args:
            cost: The request.
            rng: Unused; nothing is drawn.
        """
        with torch.no_grad():
            return self.read(self(torch.tensor([float(cost)])))[0]
