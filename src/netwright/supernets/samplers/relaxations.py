"""Draws of weights over a few options that gradients pass through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def sparsemax(logits: Tensor) -> Tensor:
    """The nearest weights to logits: a softmax that gives exact zeros to what lies far below.

    A. Martins and R. Astudillo, From Softmax to Sparsemax, ICML 2016, algorithm 1. The gradient is that of
    the projection: on the support its deviation from the mean, zero elsewhere.

    Args:
        logits: (..., options).

    Returns:
        As `logits`, sums of 1 along the last dimension.
    """
    falling = logits.detach().sort(dim=-1, descending=True).values
    ranks = torch.arange(1, logits.shape[-1] + 1, device=logits.device, dtype=logits.dtype)
    held = (1 + ranks * falling > falling.cumsum(dim=-1)).sum(dim=-1, keepdim=True)  # options with a weight
    support = logits.detach() >= falling.gather(-1, held - 1)
    threshold = (torch.where(support, logits, 0.0).sum(dim=-1, keepdim=True) - 1) / support.sum(-1, True)
    return torch.where(support, logits - threshold, 0.0)


def straight_through(probabilities: Tensor) -> Tensor:
    """The most probable option as exact zeros and a one, with the gradient of the probabilities.

    Args:
        probabilities: (..., options).

    Returns:
        As `probabilities`.
    """
    hard = F.one_hot(probabilities.argmax(dim=-1), probabilities.shape[-1]).to(probabilities.dtype)
    return hard + (probabilities - probabilities.detach())  # the difference is exactly zero


def gumbel_softmax(logits: Tensor, tau: float, generator: torch.Generator | None = None) -> Tensor:
    """A softmax of logits with Gumbel noise: nearly one option drawn by its probability where `tau` is small.

    Args:
        logits: (..., options); minus infinity for options that are never drawn.
        tau: Temperature, above 0.
        generator: Of the noise, on the CPU.

    Returns:
        As `logits`, sums of 1 along the last dimension.
    """
    tiny = torch.finfo(logits.dtype).tiny
    noise = torch.empty(logits.shape, dtype=logits.dtype).exponential_(generator=generator).clamp(min=tiny)
    noisy = logits.log_softmax(dim=-1) - noise.log().to(logits.device)
    return (noisy / tau).softmax(dim=-1)


def gumbel_one_hot(logits: Tensor, tau: float, generator: torch.Generator | None = None) -> Tensor:
    """One option drawn by its probability, with the gradient of a softmax (E. Jang et al., 2017).

    Args:
        logits: (..., options).
        tau: Temperature of the softmax, above 0; the draw does not depend on it.
        generator: Of the noise, on the CPU.

    Returns:
        As `logits`: exact zeros and a one.
    """
    return straight_through(gumbel_softmax(logits, tau, generator))


class _Dirichlet(torch.autograd.Function):
    """PyTorch's reparameterised draw, from a generator of one's own."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, generator: torch.Generator | None) -> Tensor:
        drawn = torch._sample_dirichlet(concentration, generator=generator)
        ctx.save_for_backward(drawn, concentration)
        return drawn

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        drawn, concentration = ctx.saved_tensors
        total = concentration.sum(-1, keepdim=True).expand_as(concentration)
        slope = torch._dirichlet_grad(drawn, concentration, total)
        return slope * (gradient - (drawn * gradient).sum(-1, keepdim=True)), None


def dirichlet(concentration: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Weights from a Dirichlet distribution, reparameterised.

    Args:
        concentration: (..., options), above 0; on the device of the generator.
        generator: Of the draw.

    Returns:
        As `concentration`, sums of 1 along the last dimension.
    """
    drawn: Tensor = _Dirichlet.apply(concentration, generator)
    return drawn
