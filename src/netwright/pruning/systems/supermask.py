"""Masks that are learned while the weights stay: scores trained through the choice of the best.

V. Ramanujan, M. Wortsman, A. Kembhavi, A. Farhadi and M. Rastegari, What's Hidden in a Randomly Weighted
Neural Network?, CVPR 2020 (edge-popup): the forward pass uses the best of |score|, the backward pass passes
the gradient on to every score as if the choice were not there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netwright.errors import UsageError
from netwright.pruning.allocations.choosing import prunable_weights
from netwright.pruning.masks.selection import Masks, top_k


class _Choice(torch.autograd.Function):
    """The best k as a mask of ones and zeros; the gradient passes through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, count: int) -> Tensor:
        return top_k(scores, count).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def kept_count(size: int, keep: float) -> int:
    """Weights of a layer that a supermask keeps: ``N - floor((1 - keep) N)``."""
    return size - math.floor((1 - keep) * size + 1e-9)


class Supermask(nn.Module):
    """Multiplies a weight by the best of its scores; registered as a parametrization.

    Args:
        weight: The weight; it is not trained.
        keep: Share of it that the mask keeps.
        generator: Of the first scores, uniform as Kaiming's with a = sqrt(5).
    """

    def __init__(self, weight: Tensor, keep: float, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(max(weight[0].numel(), 1))
        drawn = (torch.rand(weight.shape, generator=generator) * 2 - 1) * bound
        self.scores = nn.Parameter(drawn.to(weight))
        self.count = kept_count(weight.numel(), keep)

    @property
    def mask(self) -> Tensor:
        """The present choice, bool."""
        return top_k(self.scores.detach().abs(), self.count)

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight; only the scores get a gradient."""
        return weight.detach() * _Choice.apply(self.scores.abs(), self.count)


def with_scores(
    model: nn.Module,
    keep: float | Mapping[str, float],
    *,
    names: Iterable[str] | None = None,
    scores: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of a network whose weights are masked by trainable scores; nothing else is trained.

    Args:
        model: The network.
        keep: Share of each layer that stays, or one for every weight.
        names: The weights; those of `prunable_weights` where None.
        scores: First scores; drawn where None.
        seed: Of what is drawn.

    Returns:
        The copy. `masks_of` and `scores_in` read it.
    """
    twin = copy.deepcopy(model).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in list(names) if names is not None else prunable_weights(model):
        owner, _, leaf = name.rpartition(".")
        module = twin.get_submodule(owner)
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            raise UsageError(f"{name} cannot be masked in the forward pass alone", "exclude recurrent layers")
        share = keep[name] if isinstance(keep, Mapping) else keep
        if not 0 < share <= 1:
            raise UsageError(f"a share of {share:g} cannot stay", "give a share above 0, at most 1")
        held = Supermask(twin.get_parameter(name), share, generator)
        if scores is not None:
            with torch.no_grad():
                held.scores.copy_(scores[name])
        parametrize.register_parametrization(module, leaf, held)
    return twin


def _supermasks(model: nn.Module) -> dict[str, Supermask]:
    found: dict[str, Supermask] = {}
    for path, module in model.named_modules():
        held = getattr(module, "parametrizations", None)
        if not isinstance(held, nn.ModuleDict):
            continue
        for leaf, parts in held.items():
            for part in parts.children():
                if isinstance(part, Supermask):
                    found[f"{path}.{leaf}" if path else leaf] = part
    return found


def masks_of(model: nn.Module) -> Masks:
    """The masks that a network with scores has at present."""
    return {name: part.mask for name, part in _supermasks(model).items()}


def scores_in(model: nn.Module) -> dict[str, Tensor]:
    """The scores of a network with scores, copied."""
    return {name: part.scores.detach().clone() for name, part in _supermasks(model).items()}


def signed_constant_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every prunable weight the deviation of Kaiming's initialisation with a random sign, in place.

    Biases become zero; scales and shifts of normalisations one and zero. None of these is trained afterwards,
    since what tasks share must not move.

    Args:
        model: The network.
        seed: Of the signs.
    """
    generator = torch.Generator().manual_seed(seed)
    names = set(prunable_weights(model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                fan_in = max(parameter[0].numel(), 1)
                signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
                parameter.copy_(signs.to(parameter) * math.sqrt(2 / fan_in))
            elif parameter.dim() <= 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                parameter.requires_grad_(False)
    return model
