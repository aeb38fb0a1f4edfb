"""Policies over the layers of a network, and the policy gradient that trains them.

A. Ashok, N. Rhinehart, F. Beainy and K. M. Kitani, N2N Learning: Network to Network Compression via Policy
Gradient Reinforcement Learning, ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

HIDDEN = 30
#: What an entry of a layer is multiplied by; the repeated half is a prior.
FACTORS = (0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Sample:
    """Actions that a policy drew.

    Attributes:
        actions: (T,) which stay, or (T, P) indices of factors.
        log_prob: Logarithm of their probability, with its gradient.
    """

    actions: Tensor
    log_prob: Tensor


class RemovalPolicy(nn.Module):
    """Keeps or removes every layer, all at once: a bidirectional recurrence over the layers.

    Args:
        features: Entries of a layer's encoding.
        hidden: Units of each direction.
    """

    def __init__(self, features: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, num_layers=2, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 2)

    def forward(self, layers: Tensor) -> Tensor:
        """Log-probabilities of (remove, keep): layers (T, features) -> (T, 2)."""
        answer, _ = self.lstm(layers[:, None])
        return self.head(answer[:, 0]).log_softmax(dim=-1)

    def sample(self, layers: Tensor, free: Tensor, generator: torch.Generator) -> Sample:
        """Draw one action a layer.

        Args:
            layers: (T, features).
            free: (T,) bool; other layers are kept, and do not count.
            generator: Of the draw.

        Returns:
            Actions (T,) bool, True keeps.
        """
        chances = self(layers)
        drawn = torch.multinomial(chances.detach().exp(), 1, generator=generator)[:, 0]
        drawn = torch.where(free, drawn, 1)
        chosen = chances.gather(1, drawn[:, None])[:, 0]
        return Sample(drawn.bool(), chosen[free].sum())


class ShrinkagePolicy(nn.Module):
    """Scales one entry of one layer after the other, and reads what it has made of the layers before.

    Args:
        features: Entries of a layer's encoding.
        hidden: Units.
        factors: What an entry can be multiplied by.
    """

    def __init__(self, features: int, hidden: int = HIDDEN, factors: Sequence[float] = FACTORS) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(features, hidden), nn.LSTMCell(hidden, hidden)
        self.head = nn.Linear(hidden, len(factors))
        self.register_buffer("factors", torch.tensor(factors))
        self.factors: Tensor

    def sample(self, layers: Tensor, free: Tensor, generator: torch.Generator) -> Sample:
        """Draw a factor for every free entry.

        Args:
            layers: (T, features).
            free: (T, features) bool, the entries that can be scaled.
            generator: Of the draw.

        Returns:
            Actions (T, features), indices of factors; that of 1 where an entry is not free.
        """
        none = int((self.factors == 1).nonzero()[0])
        actions = torch.full(layers.shape, none)
        state: tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor] | None] = (None, None)
        log_prob = layers.new_zeros(())
        for t, layer in enumerate(layers):
            current = layer.clone()
            for p in free[t].nonzero().reshape(-1).tolist():
                one = self.first(current[None], state[0])
                two = self.second(one[0], state[1])
                state = (one, two)
                chances = self.head(two[0]).log_softmax(dim=-1)[0]
                drawn = int(torch.multinomial(chances.detach().exp(), 1, generator=generator))
                actions[t, p] = drawn
                log_prob = log_prob + chances[drawn]
                current = current.clone()
                current[p] = current[p] * self.factors[drawn]
        return Sample(actions, log_prob)


class Reinforce:
    """The policy gradient with a running average of the rewards as baseline.

    Every rollout counts with its own advantage.

    Args:
        policy: What is trained.
        lr: Of Adam: 0.003 for removal in the paper's released run, 0.1 for shrinkage.
        decay: Share of the baseline that stays in one update.
    """

    def __init__(self, policy: nn.Module, lr: float = 0.003, decay: float = 0.8) -> None:
        self.policy, self.decay = policy, decay
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
        self.baseline: float | None = None

    def update(self, samples: Sequence[Sample], rewards: Sequence[float]) -> None:
        """One ascent of ``mean_i log pi(a_i) (R_i - b)``.

        Args:
            samples: One a rollout.
            rewards: One a rollout.
        """
        mean = sum(rewards) / len(rewards)
        base = mean if self.baseline is None else self.baseline
        terms = [s.log_prob * (r - base) for s, r in zip(samples, rewards, strict=True)]
        loss = -torch.stack(terms).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.baseline = (
            mean if self.baseline is None else self.decay * self.baseline + (1 - self.decay) * mean
        )
