"""Normalisations of channels of which every example has only some."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def masked_layer_norm(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Layer normalisation over the active channels (ViT-ResNAS, section 3.3).

    Args:
        x: (..., C), zero where a channel is not active.
        mask: Bool, broadcasts to `x`.
        weight: (C,) or None.
        bias: (C,) or None.
        eps: Added to the variance.

    Returns:
        As `x`, zero where a channel is not active.
    """
    active = mask.to(x.dtype)
    share = active.mean(dim=-1, keepdim=True)
    mean = x.mean(dim=-1, keepdim=True) / share
    variance = ((x - mean) * active).square().mean(dim=-1, keepdim=True) / share
    out = (x - mean) * torch.rsqrt(variance + eps)
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias) * active


def batch_norm(
    x: Tensor, mask: Tensor, module: _BatchNorm, own: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Batch normalisation in which a channel's statistics are over the examples that have it.

    Args:
        x: (B, C, ...), zero where a channel is not active.
        mask: (B, C) bool.
        module: The normalisation; its running statistics move for the channels that any example has.
        own: (B, C) means and variances to normalise by, instead of its own.

    Returns:
        As `x`, zero where a channel is not active.
    """
    shape = (len(mask), mask.shape[1], *[1] * (x.dim() - 2))
    active = mask.to(x.dtype).reshape(shape)
    if own is not None:
        mean, variance = (t.to(x.dtype).reshape(shape) for t in own)
        out = (x - mean) * torch.rsqrt(variance + module.eps)
        return _affine(out, module) * active
    if not module.training and module.running_mean is not None:
        out = F.batch_norm(
            x, module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps
        )
        return out * active
    dims = [d for d in range(x.dim()) if d != 1]
    count = active.expand_as(x).sum(dim=dims)  # (C,)
    safe = count.clamp(min=1)
    view = [1, -1, *[1] * (x.dim() - 2)]
    mean = (x * active).sum(dim=dims) / safe
    centred = (x - mean.reshape(view)) * active
    variance = centred.square().sum(dim=dims) / safe
    if module.training and module.running_mean is not None and module.running_var is not None:
        _track(module, mean.detach(), (variance * safe / (safe - 1).clamp(min=1)).detach(), count > 0)
    return _affine(centred * torch.rsqrt(variance + module.eps).reshape(view), module) * active


def _affine(x: Tensor, module: _BatchNorm) -> Tensor:
    if module.weight is None:
        return x
    view = [1, -1, *[1] * (x.dim() - 2)]
    return x * module.weight.reshape(view) + module.bias.reshape(view)


def _track(module: _BatchNorm, mean: Tensor, variance: Tensor, seen: Tensor) -> None:
    assert module.running_mean is not None and module.running_var is not None
    with torch.no_grad():
        if module.num_batches_tracked is not None:
            module.num_batches_tracked += 1
        momentum = module.momentum
        share = 1.0 / float(module.num_batches_tracked or 1) if momentum is None else momentum
        for buffer, value in ((module.running_mean, mean), (module.running_var, variance)):
            buffer.copy_(torch.where(seen, buffer.lerp(value.to(buffer.dtype), share), buffer))
