"""Fresh weights for a network of any shape, by each module's own rule."""

from __future__ import annotations

import torch
from torch import nn


def reinitialise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters of a network anew, in place, each for the fan-in that it has now.

    Every module with ``reset_parameters`` uses it, children before parents, so that a parent may have the
    last word. A parameter of a module without one is drawn from a normal distribution with the mean and
    deviation of its present values; a constant one (a scale of ones, an offset of zeros) stays.

    Args:
        model: The network.
        seed: Of the draw; the global random state is left as it was.

    Returns:
        The same network.
    """
    drawn: set[int] = set()
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        for module in reversed(list(model.modules())):
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if not callable(reset):
                continue
            reset()
            drawn |= {id(p) for p in module.parameters(recurse=False)}
        for parameter in model.parameters():
            if id(parameter) in drawn or not parameter.is_floating_point() or parameter.numel() < 2:
                continue
            if not bool((parameter == parameter.reshape(-1)[0]).all()):
                parameter.normal_(float(parameter.mean()), float(parameter.std()))
    return model
