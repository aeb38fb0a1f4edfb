"""LARS: stochastic gradient descent whose step is a share of the weight's own norm, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from netwright.errors import UsageError


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (Y. You, I. Gitman and B. Ginsburg, 2017, equation 6).

    The gradient of a tensor, decay included, is multiplied by ``trust * |w| / (|g| + decay * |w|)``. Not
    scaled are groups with ``scaled`` False (biases and norms, as is usual), and tensors whose norm or
    gradient is zero. Parameters without a gradient are left alone.

    Args:
        params: Tensors or groups.
        lr: Learning rate.
        momentum: Of the scaled gradient.
        weight_decay: Decay, part of the gradient.
        trust: The trust coefficient.

    Raises:
        UsageError: if a number is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or trust <= 0:
            raise UsageError(
                f"lr={lr}, momentum={momentum}, weight_decay={weight_decay}, trust={trust} are no LARS",
                "give lr >= 0, momentum in 0..1, weight_decay >= 0, trust > 0",
            )
        numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, {**numbers, "scaled": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step.

        Args:
            closure: Computes the loss again; optional.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, decay = parameter.grad, group["weight_decay"]
        assert gradient is not None
        size, slope = parameter.norm(), gradient.norm()
        gradient = gradient + decay * parameter if decay else gradient
        if group["scaled"]:
            share = group["trust"] * size / (slope + decay * size)
            gradient = gradient * torch.where((size > 0) & (slope > 0), share, torch.ones_like(share))
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
        parameter.sub_(state["momentum"])
