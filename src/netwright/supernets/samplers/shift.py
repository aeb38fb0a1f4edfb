"""Sampling by cost, whose probability shifts to the costs that still improve.

ShiftNAS: Improving One-shot NAS via Probability Shift, ICCV 2023. Sums of many independent choices are
bell-shaped, so uniform sampling hardly trains small and large sub-networks. The range of costs is split into
bins of equal width; a step draws a bin, then a generator makes a sub-network of its cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netwright.data import Part
from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.cost_tables import CostTables, cost_tables
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.network.generating import Generator
from netwright.supernets.samplers.base import Draw, Sampler
from netwright.supernets.samplers.gating import Gated, Gating
from netwright.supernets.samplers.generators import Bins, LSTMGenerator, RejectionGenerator
from netwright.train import State
from netwright.train.losses import cross_entropy

Floats = NDArray[np.float64]
#: Makes a generator for tables and bins.
Maker = Callable[[CostTables, Bins], Generator]
GENERATORS: Mapping[str, Maker] = {"lstm": LSTMGenerator, "rejection": RejectionGenerator}


class ProbabilityShift(Sampler):
    """A bin of costs, then a sub-network of that cost; bins whose loss falls fastest become more likely.

    Every `probe_every` steps the loss L of a fixed sub-network of each bin is measured on the same held-out
    examples. With ``g = max(0, L_before - L) / L_before``, smoothed, a bin has the probability
    ``(1 - epsilon) softmax(standardised g / tau) + epsilon / bins``.

    A learned generator is trained by the same backward pass as the weights, and by the distance of its costs
    from requests in every bin; in the first steps by that distance alone. What the published text leaves open
    is marked "ours".

    Args:
        held: Labelled examples of the probes; None never shifts: all bins stay equally likely.
        bins: How many (ours: 8).
        seed: Of draws, probes and the generator.
        generator: "lstm", "rejection", or what makes a generator.
        probe_every: Steps between probes; a quarter of an epoch where None (ours).
        probes: Examples of a probe.
        smooth: Share of the smoothed improvement that stays at a probe (ours: 0.9).
        tau: Temperature of the probabilities (ours: 1).
        epsilon: Share that is spread over all bins (ours: 0.1).
        least: Deviation of improvements below which they are not blown up (ours).
        lr: Of the Adam that trains the generator, in the beginning; it falls to 0 as a cosine, since a
            generator whose weights still move misses requests (ours).
        per_bin: Requests of each bin that the generator's costs are trained by in a step (ours).
        warmup: Share of the training in which it learns costs alone (ours: 0.05).
        gates: Whether the training's loss reaches the generator, through gates on the full network; without,
            sub-networks run as slices, and it learns costs alone.

    Attributes:
        p: (bins,) probabilities.
        counts: (bins,) draws so far.
        trace: After each probe: "step", "losses", "improvement" and "p".

    Raises:
        UsageError: if the generator is not known, or a share is out of range.
    """

    def __init__(
        self,
        held: Part | None = None,
        bins: int = 8,
        seed: int = 0,
        *,
        generator: str | Maker = "lstm",
        probe_every: int | None = None,
        probes: int = 128,
        smooth: float = 0.9,
        tau: float = 1.0,
        epsilon: float = 0.1,
        least: float = 1e-3,
        lr: float = 1e-3,
        per_bin: int = 8,
        warmup: float = 0.05,
        gates: bool = True,
    ) -> None:
        super().__init__(seed)
        if isinstance(generator, str) and generator not in GENERATORS:
            raise UsageError(f"generator={generator!r} is not known", f"choose from {', '.join(GENERATORS)}")
        if not 0 <= epsilon <= 1 or not 0 <= smooth < 1 or tau <= 0:
            raise UsageError(f"epsilon={epsilon}, smooth={smooth}, tau={tau} give no probabilities")
        self.held, self.bin_count = held, bins
        self.maker: Maker = GENERATORS[generator] if isinstance(generator, str) else generator
        self.probe_every, self.probes, self.least = probe_every, probes, least
        self.smooth, self.tau, self.epsilon = smooth, tau, epsilon
        self.lr, self.per_bin, self.warmup, self.gates = lr, per_bin, warmup, gates

    def attach(self, sup: Elastic) -> None:
        """Table the costs, make the generator, and draw the probes."""
        super().attach(sup)
        self.tables = cost_tables(sup)
        self.bins = Bins.of(self.tables, self.bin_count)
        self.generator = self.maker(self.tables, self.bins)
        self._optimizer = None
        if isinstance(self.generator, LSTMGenerator):
            self._optimizer = torch.optim.Adam(self.generator.parameters(), lr=self.lr)
        self._gating = Gating(sup) if self.gates and self._optimizer is not None else None
        exact = RejectionGenerator(self.tables, self.bins)
        rng = np.random.default_rng((self.seed, 0x5817))
        self.probed: list[Choice] = [exact.choice(cost, rng) for cost in self.bins.targets]
        self.p: Floats = np.full(self.bin_count, 1.0 / self.bin_count)
        self.counts = np.zeros(self.bin_count, np.int64)
        self.improvement: Floats = np.zeros(self.bin_count)
        self.losses: Floats | None = None
        self.trace: list[dict[str, Any]] = []

    def draw(self, step: int) -> list[Draw]:
        """One sub-network of a drawn bin."""
        rng = self.rng(step)
        place = int(rng.choice(self.bin_count, p=self.p))
        self.counts[place] += 1
        cost = float(rng.uniform(*self.bins.edges[place : place + 2]))
        generator = self.generator
        learning = isinstance(generator, LSTMGenerator) and generator.progress >= self.warmup
        if self._gating is None or not learning or not isinstance(generator, LSTMGenerator):
            return [Draw((generator.choice(cost, rng),))]
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        policies = generator(torch.tensor([cost]), noise)
        drawn = generator.read(policies)[0]
        assert self.space is not None
        full = self.space.max()  # what is computed
        if "resolution" in drawn:
            full = full.replace(resolution=drawn["resolution"])
        alone = {name: policy[0] for name, policy in policies.items() if name != "resolution"}
        return [Gated((full,), chosen=drawn, policies=alone, gating=self._gating)]

    def before_step(self, state: State) -> None:
        """Train the generator: the gradients of the pass are there, those of the costs are added."""
        if self._optimizer is None or not isinstance(self.generator, LSTMGenerator):
            return
        noise = torch.Generator().manual_seed(
            int(np.random.default_rng((self.seed, state.step, 1)).integers(2**62))
        )
        edges = torch.from_numpy(self.bins.edges)
        places = torch.arange(self.bin_count).repeat_interleave(self.per_bin)
        costs = edges[places] + torch.rand(len(places), generator=noise) * (edges[1] - edges[0])
        self.generator.miss(self.generator(costs, noise), costs).backward()
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * (1 + math.cos(math.pi * self.generator.progress)) / 2
        self._optimizer.step()
        self._optimizer.zero_grad()

    def begin(self, state: State) -> None:
        """Measure the probes before the first step."""
        self._know(state)
        if self.held is not None and self.losses is None and isinstance(state.model, Elastic):
            self.losses = self.probe(state.model)

    def after_step(self, state: State) -> None:
        """Probe and shift, where it is time."""
        self._know(state)
        every = self.probe_every or max(state.steps_per_epoch // 4, 1)
        if self.held is None or state.step % every or not isinstance(state.model, Elastic):
            return
        before, now = self.losses, self.probe(state.model)
        if before is not None:
            gain = np.maximum(before - now, 0) / before
            self.improvement = self.smooth * self.improvement + (1 - self.smooth) * gain
            if isinstance(self.generator, RejectionGenerator) or self._warm(state):
                self.p = shifted(self.improvement, self.tau, self.epsilon, self.least)
        self.losses = now
        self.trace.append(
            {
                "step": state.step,
                "losses": now.tolist(),
                "improvement": self.improvement.tolist(),
                "p": self.p.tolist(),
            }
        )

    def _warm(self, state: State) -> bool:
        return state.step >= self.warmup * state.steps

    def _know(self, state: State) -> None:
        if isinstance(self.generator, LSTMGenerator):
            self.generator.progress = state.step / max(state.steps, 1)

    def probe(self, sup: Elastic) -> Floats:
        """The loss of every bin's probe on the held-out examples, (bins,), by batch statistics.

        Args:
            sup: The supernet; it is not changed.
        """
        assert self.held is not None
        x, y = next(iter(self.held.batches(self.probes)))
        device = next(sup.parameters()).device
        x, y = x.to(device), y.to(device)
        found = []
        before = sup.choice
        with torch.no_grad(), _batch_statistics(sup):
            for choice in self.probed:
                found.append(cross_entropy(sup.set(choice)(x), y).double())
        sup.set(before)
        losses: Floats = torch.stack(found).cpu().numpy()
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Probabilities, what was seen, and the generator."""
        learned = {}
        if self._optimizer is not None and isinstance(self.generator, LSTMGenerator):
            learned = {"generator": self.generator.state_dict(), "optimizer": self._optimizer.state_dict()}
        return {
            "p": self.p.tolist(),
            "counts": self.counts.tolist(),
            "improvement": self.improvement.tolist(),
            "losses": None if self.losses is None else self.losses.tolist(),
            "trace": list(self.trace),
            **learned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.p, self.counts = np.array(state["p"]), np.array(state["counts"], np.int64)
        self.improvement = np.array(state["improvement"])
        self.losses = None if state["losses"] is None else np.array(state["losses"])
        self.trace = list(state["trace"])
        if self._optimizer is not None and isinstance(self.generator, LSTMGenerator):
            self.generator.load_state_dict(state["generator"])
            self._optimizer.load_state_dict(state["optimizer"])


def shifted(improvement: Floats, tau: float = 1.0, epsilon: float = 0.1, least: float = 0.0) -> Floats:
    """Probabilities of bins: more to those that improve.

    Args:
        improvement: (bins,) smoothed relative improvements.
        tau: Temperature.
        epsilon: Share that is spread evenly.
        least: Deviations below it are not blown up to one.

    Returns:
        (bins,), a sum of 1, none below ``epsilon / bins``; all equal where the improvements are.
    """
    spread = max(float(improvement.std()), least)
    standard = (improvement - improvement.mean()) / spread if spread > 0 else np.zeros_like(improvement)
    powers = np.exp((standard - standard.max()) / tau)
    found: Floats = (1 - epsilon) * powers / powers.sum() + epsilon / len(improvement)
    return found / found.sum()


@contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    """Evaluate, normalising by the statistics of each batch and keeping the running ones."""
    modes = {m: m.training for m in model.modules()}
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    kept: list[tuple[float | None, Tensor | None]] = [(m.momentum, m.num_batches_tracked) for m in norms]
    try:
        model.eval()
        for norm in norms:
            norm.training, norm.momentum, norm.num_batches_tracked = True, 0.0, None
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, (momentum, tracked) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked  # type: ignore[assignment]
