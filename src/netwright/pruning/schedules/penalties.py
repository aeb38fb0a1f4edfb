"""Penalties on the scales of normalisation layers while training: sparsity that is learned.

A penalty adds its subgradient to the gradient of a scale before the optimiser's step, and nothing to the
loss, so that it is applied once. Where a mask says which channels will go, only their scales are penalised:
the others learn as in ordinary training.

N. Jiang, Z. Zhao, C. Liu et al., Pruning-aware Sparse Regularization for Network Pruning (MaskSparsity),
2022; with all scales penalised, Z. Liu et al., Network Slimming, ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netwright.errors import UsageError
from netwright.train import Callback, State


@dataclass(frozen=True)
class Penalty:
    """L1: ``strength * sign(scale)``. The base of the others.

    Attributes:
        strength: 5e-4 in the paper's released setting.
    """

    strength: float = 5e-4

    def gradient(self, scale: Tensor, lr: float) -> Tensor:
        """The subgradient; 0 where the scale is 0.

        Args:
            scale: (C,).
            lr: The present learning rate.
        """
        return self.strength * scale.sign()


@dataclass(frozen=True)
class L1(Penalty):
    """``strength * |scale|``."""


@dataclass(frozen=True)
class L2(Penalty):
    """``strength / 2 * scale^2``."""

    def gradient(self, scale: Tensor, lr: float) -> Tensor:
        """See `Penalty.gradient`."""
        return self.strength * scale


@dataclass(frozen=True)
class SmoothL1(Penalty):
    """L1 that is quadratic within one step of zero, so that scales do not oscillate around it."""

    def gradient(self, scale: Tensor, lr: float) -> Tensor:
        """See `Penalty.gradient`."""
        near = lr * self.strength
        if near <= 0:
            return self.strength * scale.sign()
        return torch.where(scale.abs() < near, self.strength * scale / near, self.strength * scale.sign())


class ScalePenalty(Callback):
    """Penalise scales in every step of a training.

    Args:
        on: Scale -> (C,) bool, which channels are penalised; "all" takes every scale of every normalisation.
        penalty: L1, L2 or SmoothL1.
        weights: Scale -> factor of its penalty, 1 where none is given (a cost of its channels, for instance).
        ramp: Steps over which the strength rises from 0, in a straight line.
    """

    def __init__(
        self,
        on: Mapping[str, Tensor] | str = "all",
        penalty: Penalty | None = None,
        weights: Mapping[str, float] | None = None,
        ramp: int = 0,
    ) -> None:
        if isinstance(on, str) and on != "all":
            raise UsageError(f"scales {on!r} are not known", 'give a mask for every scale, or "all"')
        self.on, self.penalty, self.weights = on, penalty or L1(), dict(weights or {})
        self.ramp = ramp
        self._names: list[str] = []

    def begin(self, state: State) -> None:
        """Find the scales.

        Raises:
            UsageError: if the network has none, or a mask fits none.
        """
        found = scales(state.model)
        if isinstance(self.on, str):
            self._names = list(found)
        else:
            for name, mask in self.on.items():
                if name not in found or found[name].shape != mask.shape:
                    raise UsageError(f"{name} of shape {tuple(mask.shape)} is no scale of the network")
            self._names = list(self.on)
        if not self._names:
            raise UsageError("no normalisation layer of the network has a scale", "penalise weights instead")

    @torch.no_grad()
    def before_step(self, state: State) -> None:
        """Add the subgradients."""
        found = scales(state.model)
        risen = min(state.step / self.ramp, 1.0) if self.ramp else 1.0
        rates = {id(p): g["lr"] for g in state.optimizer.param_groups for p in g["params"]}
        for name in self._names:
            scale = found[name]
            if scale.grad is None:
                continue
            factor = risen * self.weights.get(name, 1.0)
            more = self.penalty.gradient(scale.detach(), rates.get(id(scale), 0.0)) * factor
            if not isinstance(self.on, str):
                more = torch.where(self.on[name].to(more.device), more, 0.0)
            scale.grad.add_(more)


def scales(model: nn.Module) -> dict[str, nn.Parameter]:
    """The scales of all normalisation layers, by name."""
    known = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    found = {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        normalises = isinstance(module, known) or "Norm" in type(module).__name__
        if normalises and weight is not None and weight.dim() == 1:
            found[f"{path}.weight" if path else "weight"] = weight
    return found
