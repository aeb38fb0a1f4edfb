"""Architecture parameters over a part of a space: what DARTS and SNAS learn in a leaf of a divided supernet.

H. Liu, K. Simonyan and Y. Yang, DARTS: Differentiable Architecture Search, ICLR 2019; S. Xie, H. Zheng, C.
Liu and L. Lin, SNAS: Stochastic Neural Architecture Search, ICLR 2019; run as in S. Hu et al., Generalizing
Few-Shot NAS with Gradient Matching, ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from netwright.errors import UsageError
from netwright.nas.choice import Choice
from netwright.nas.space import SearchSpace
from netwright.supernets.network.elastic import Elastic
from netwright.supernets.samplers.gradient import GradientAlpha, MixedDraw
from netwright.supernets.samplers.relaxations import gumbel_softmax

RELAXATIONS = ("darts", "snas")


class RegionalAlpha(GradientAlpha):
    """Parameters of all values of a supernet, of which only those of a part of the space get weight.

    Every pass runs a mixture of all sub-networks of the part: ``"darts"`` weights values by the softmax of
    their parameters, ``"snas"`` by a softmax with Gumbel noise whose temperature falls. The part is that
    which `supernets.train(space=)` sets: values outside of it have weight zero and do not learn. So the
    parameters of a divided supernet can go on in its parts.

    Args:
        method: One of `RELAXATIONS`.
        seed: Of first values and draws.
        options: ``lr``, ``betas``, ``weight_decay``, ``tau`` and ``norm`` of `GradientAlpha`.

    Raises:
        UsageError: if the method is not known.
    """

    def __init__(self, method: str = "darts", seed: int = 0, **options: Any) -> None:
        if method not in RELAXATIONS:
            raise UsageError(f"method={method!r} is not known", f"choose from {', '.join(RELAXATIONS)}")
        super().__init__("darts", seed, **options)
        self.noisy = method == "snas"
        self._whole: SearchSpace | None = None
        self._costs: dict[str, dict[Any, int]] = {}

    def attach(self, sup: Elastic) -> None:
        """Begin with parameters near 0, on the whole space."""
        super().attach(sup)
        self._whole, base = sup.space, sup.space.max()
        for dim in sup.space.free:
            if dim.condition is None:
                cost = {value: sup.macs(base.replace(**{dim.name: value})) for value in dim.each()}
                self._costs[dim.name] = cost

    def weights(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the weights of a mixture; gradients reach the parameters.

        Args:
            generator: Of the draw.

        Returns:
            Name of a dim -> (values of the whole space,), sums of 1, zeros outside of the part.
        """
        logits = self._logits()
        if self.noisy:
            return {n: gumbel_softmax(z, self.temperature, generator) for n, z in logits.items()}
        return {n: z.softmax(dim=0) for n, z in logits.items()}

    def probabilities(self) -> dict[str, Tensor]:
        """Name of a dim -> (values of the whole space,) what the parameters make of them on average."""
        with torch.no_grad():
            return {name: z.softmax(dim=0) for name, z in self._logits().items()}

    def favoured(self, weights: Mapping[str, Tensor] | None = None) -> Choice:
        """The choice of the greatest weight in every dim.

        Args:
            weights: Name of a dim -> (values of the whole space,); the parameters' own when None.
        """
        assert self._whole is not None
        given = self.probabilities() if weights is None else weights
        values = {d.name: list(d.each())[int(given[d.name].argmax())] for d in self._whole.dims}
        return self._whole.canonical(Choice(values))

    def mixture(self, weights: Mapping[str, Tensor]) -> MixedDraw:
        """The pass of some weights; counted as the part's costliest network, of which it runs no less.

        Args:
            weights: Name of a dim -> (values of the whole space,).
        """
        assert self.space is not None and self._whole is not None
        values = dict(self.space.max())
        for name, costs in self._costs.items():
            values[name] = max(self.space.dim(name).each(), key=costs.__getitem__)
        return MixedDraw((self._whole.canonical(Choice(values)),), weights=weights, norm=self.norm)

    def _logits(self) -> dict[str, Tensor]:
        """The parameters, minus infinity where a value is not of the part."""
        assert self.space is not None and self._whole is not None
        found = {}
        for dim in self._whole.dims:
            kept = set(self.space.dim(dim.name).each())
            outside = torch.tensor([value not in kept for value in dim.each()])
            alpha = self.alphas[dim.name]
            found[dim.name] = alpha.masked_fill(outside.to(alpha.device), -torch.inf)
        return found
