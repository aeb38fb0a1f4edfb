"""Architecture parameters that are learned by gradient on a supernet's own entangled weights.

R. S. Sukthanker, A. Krishnakumar, M. Safari and F. Hutter, Weight-Entanglement Meets Gradient-Based Neural
Architecture Search, AutoML 2024: DARTS, GDAS and DrNAS draw the weights of a mixture that
`Elastic.set_mixture` forms in weight space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.base import Draw, Sampler
from netwright.supernets.samplers.gating import Gated, Gating
from netwright.supernets.samplers.relaxations import dirichlet, gumbel_one_hot, sparsemax
from netwright.train import State

METHODS = ("drnas", "darts", "darts-v2", "gdas", "spos")
#: Deviation of the parameters in the beginning.
_START = 1e-3


@dataclass(frozen=True)
class MixedDraw(Draw):
    """A pass through a convex combination of sub-networks.

    Attributes:
        weights: Name of a dim -> (values,) weights that sum to 1.
        norm: How normalisations are mixed; see `Elastic.set_mixture`.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    norm: str = "outputs"

    def apply(self, sup: Elastic, batch: int, device: Any = None) -> None:
        """Set a supernet to it."""
        sup.set_mixture(self.weights, norm=self.norm)


class GradientAlpha(Sampler):
    """One parameter for every value of every dim; each step draws the weights of a mixture from them.

    ``"darts"`` takes their softmax, ``"darts-v2"`` their sparsemax, which gives no weight and no gradient to
    values far below the best, ``"gdas"`` one path a step with the gradient of a softmax whose temperature
    falls, ``"drnas"`` draws from a Dirichlet distribution with concentration ``elu(alpha) + 1``,
    and ``"spos"`` draws one path a step, every value equally likely, and learns nothing.

    Args:
        method: One of `METHODS`.
        seed: Of first values and draws.
        lr: Of the Adam that moves the parameters.
        betas: Likewise.
        weight_decay: Likewise.
        anchor: Weight of the squared distance of the concentration from 1 ("drnas").
        tau: Temperature in the first and in the last epoch ("gdas").
        norm: How normalisations are mixed; see `Elastic.set_mixture`.
        gates: Whether the parameters of "gdas" learn by gates on the full network, see `gating`, instead of
            by the factor of one slice as published. A factor of all channels alike is undone by the next
            batch normalisation: in networks that have one after every layer it has no gradient.

    Attributes:
        alphas: Name of a dim -> its (values,) parameters.
        history: After each epoch: "step", "probabilities" and the "choice" that they favour.

    Raises:
        UsageError: if the method is not known.
    """

    def __init__(
        self,
        method: str = "drnas",
        seed: int = 0,
        *,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-3,
        anchor: float = 1e-3,
        tau: tuple[float, float] = (10.0, 0.1),
        norm: str = "outputs",
        gates: bool = False,
    ) -> None:
        super().__init__(seed)
        if method not in METHODS:
            raise UsageError(f"method={method!r} is not known", f"choose from {', '.join(METHODS)}")
        self.method, self.anchor, self.tau, self.norm = method, anchor, tau, norm
        self.gates = gates and method == "gdas"
        self._gating: Gating | None = None
        self._adam = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        self.alphas: dict[str, nn.Parameter] = {}
        self.history: list[dict[str, Any]] = []
        self._epoch, self._epochs = 0, 1

    def attach(self, sup: Elastic) -> None:
        """Begin with parameters near 0.

        Raises:
            UsageError: if the supernet has a dim that cannot be mixed.
        """
        super().attach(sup)
        if sup.blueprint.resolutions:
            raise UsageError("resolutions are not mixed", "make the supernet without resolution=")
        generator = torch.Generator().manual_seed(self.seed)
        self.alphas = {
            dim.name: nn.Parameter(_START * torch.randn(len(list(dim.each())), generator=generator))
            for dim in sup.space.dims
        }
        self._optimizer = torch.optim.Adam(list(self.alphas.values()), **self._adam)  # type: ignore[arg-type]
        self.history = []
        self._gating = Gating(sup) if self.gates else None

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn."""
        return self.method != "spos"

    @property
    def temperature(self) -> float:
        """Of the softmax of "gdas" now: linear from epoch to epoch."""
        first, last = self.tau
        return first + (last - first) * min(self._epoch / max(self._epochs - 1, 1), 1.0)

    def weights(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the weights of a mixture; gradients reach the parameters.

        Args:
            generator: Of the draw.

        Returns:
            Name of a dim -> (values,), sums of 1.
        """
        return {name: self._drawn(alpha, generator) for name, alpha in self.alphas.items()}

    def _drawn(self, alpha: Tensor, generator: torch.Generator) -> Tensor:
        if self.method == "darts":
            return alpha.softmax(dim=0)
        if self.method == "darts-v2":
            return sparsemax(alpha)
        if self.method == "gdas":
            return gumbel_one_hot(alpha, self.temperature, generator)
        if self.method == "drnas":
            return dirichlet(concentration(alpha), generator)
        return gumbel_one_hot(torch.zeros_like(alpha), 1.0, generator)

    def draw(self, step: int) -> list[Draw]:
        """One mixture; its weights are not learned here, but in `learn`."""
        drawn = {name: w.detach() for name, w in self.weights(self._generator(step, 1)).items()}
        if self.method in ("gdas", "spos"):
            return [Draw((self.favoured(drawn),))]
        return [self.mixture(drawn)]

    def mixture(self, weights: Mapping[str, Tensor]) -> MixedDraw:
        """The pass of some weights; it costs what the largest network does, or one path's slice.

        Args:
            weights: Name of a dim -> (values,).
        """
        assert self.space is not None
        one = self.method in ("gdas", "spos")
        choice = self.favoured(weights) if one else self.space.max()
        return MixedDraw((choice,), weights=weights, norm=self.norm)

    def to_learn(self, step: int) -> MixedDraw | Gated:
        """A mixture whose weights pass their gradient on to the parameters.

        Args:
            step: Its number.
        """
        self._optimizer.zero_grad()
        weights = self.weights(self._generator(step, 0))
        if self._gating is not None and self.space is not None:
            chosen = self.favoured(weights)
            return Gated((self.space.max(),), chosen=chosen, policies=weights, gating=self._gating)
        return self.mixture(weights)

    def learn(self) -> None:
        """Move the parameters by the gradients that they have."""
        if self.method == "drnas" and self.anchor:
            penalty = sum((concentration(a) - 1).square().sum() for a in self.alphas.values())
            (self.anchor * penalty).backward()  # type: ignore[union-attr]
        self._optimizer.step()

    def _generator(self, step: int, phase: int) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.rng(step).integers(2**62)) + phase)

    def probabilities(self) -> dict[str, Tensor]:
        """Name of a dim -> (values,) what the parameters make of its values on average."""
        with torch.no_grad():
            if self.method == "darts-v2":
                return {name: sparsemax(a) for name, a in self.alphas.items()}
            if self.method != "drnas":
                return {name: a.softmax(dim=0) for name, a in self.alphas.items()}
            return {name: concentration(a) / concentration(a).sum() for name, a in self.alphas.items()}

    def favoured(self, weights: Mapping[str, Tensor] | None = None) -> Choice:
        """The choice of the greatest weight in every dim.

        Args:
            weights: Name of a dim -> (values,); the parameters' own when None.
        """
        assert self.space is not None
        given = self.probabilities() if weights is None else weights
        values = {d.name: list(d.each())[int(given[d.name].argmax())] for d in self.space.dims}
        return self.space.canonical(Choice(values))

    def begin(self, state: State) -> None:
        """Know the epoch."""
        self.after_step(state)

    def after_step(self, state: State) -> None:
        """Know the epoch."""
        per = max(state.steps_per_epoch, 1)
        self._epoch, self._epochs = state.step // per, state.steps // per

    def after_epoch(self, state: State, record: Mapping[str, Any]) -> None:
        """Remember the parameters."""
        made = {name: p.tolist() for name, p in self.probabilities().items()}
        self.history.append({"step": state.step, "probabilities": made, "choice": self.favoured().to_json()})

    def state_dict(self) -> dict[str, Any]:
        """Parameters, their optimiser and the history."""
        return {
            "alphas": {name: a.detach().clone() for name, a in self.alphas.items()},
            "optimizer": self._optimizer.state_dict(),
            "history": list(self.history),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        with torch.no_grad():
            for name, alpha in self.alphas.items():
                alpha.copy_(state["alphas"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.history = list(state["history"])


def concentration(alpha: Tensor) -> Tensor:
    """The concentration of DrNAS' Dirichlet distribution.

    Args:
        alpha: (values,).

    Returns:
        As `alpha`, above 0.
    """
    return (F.elu(alpha) + 1).clamp(min=torch.finfo(alpha.dtype).tiny)
