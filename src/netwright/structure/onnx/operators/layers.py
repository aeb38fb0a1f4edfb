"""Convolutions, pooling, normalisations and matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.structure.onnx.operators.registry import lift, operator, tensors, unsupported
from netwright.structure.onnx.program import Step, Value


def window(
    step: Step, size: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, and pads before and after, of a sliding window.

    Args:
        step: The node.
        size: Spatial sizes of its input.
        kernel: Of its window.
    """
    n = len(kernel)
    strides = list(step.get("strides") or [1] * n)
    dilations = list(step.get("dilations") or [1] * n)
    auto = step.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = list(step.get("pads") or [0] * 2 * n)
        return strides, dilations, pads[:n], pads[n:]
    if auto == "VALID":
        return strides, dilations, [0] * n, [0] * n
    total = [
        max((-(-length // s) - 1) * s + (k - 1) * d + 1 - length, 0)
        for length, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (strides, dilations, less, more) if auto == "SAME_UPPER" else (strides, dilations, more, less)


def pad_uneven(
    x: Tensor, before: list[int], after: list[int], value: float = 0.0
) -> tuple[Tensor, list[int]]:
    """Pad what a PyTorch operator cannot: it takes the same on both sides.

    Returns:
        The tensor, and the padding that is left to the operator.
    """
    return (x, before) if before == after else (pad(x, before, after, value), [0] * len(before))


def pad(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    """Pad the last dimensions, if there is anything to pad."""
    pads = [p for both in zip(reversed(before), reversed(after), strict=True) for p in both]
    return F.pad(x, pads, value=value) if any(pads) else x


@operator("Conv")
def conv(step: Step, x: Value, w: Value, b: Value = None) -> Tensor:
    """`x (B, C, ...), w (O, C/g, ...), b (O)`."""
    x, w, b = tensors(x, w, b) if b is not None else (*tensors(x, w), None)
    strides, dilations, before, after = window(step, x.shape[2:], w.shape[2:])
    x, padding = pad_uneven(x, before, after)
    zeros = [0] * len(strides)
    return torch.convolution(x, w, b, strides, padding, dilations, False, zeros, step.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(step: Step, x: Value, w: Value, b: Value = None) -> Tensor:
    """`x (B, C, ...), w (C, O/g, ...), b (O)`."""
    x, w, b = tensors(x, w, b) if b is not None else (*tensors(x, w), None)
    kernel, n = w.shape[2:], w.dim() - 2
    strides, dilations = list(step.get("strides") or [1] * n), list(step.get("dilations") or [1] * n)
    extra = list(step.get("output_padding") or [0] * n)
    full = [
        (length - 1) * s + (k - 1) * d + 1 + e
        for length, k, s, d, e in zip(x.shape[2:], kernel, strides, dilations, extra, strict=True)
    ]
    if step.get("output_shape") is not None:
        wanted = list(step.get("output_shape"))[-n:]
        extra = [e + max(w - f, 0) for e, w, f in zip(extra, wanted, full, strict=True)]
        full = [max(f, w) for f, w in zip(full, wanted, strict=True)]
    before, after = _transposed_pads(step, x, full, strides)
    group = step.get("group", 1)
    if before == after and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        return torch.convolution(x, w, b, strides, before, dilations, True, extra, group)
    low = [min(p, q) for p, q in zip(before, after, strict=True)]
    out = torch.convolution(x, w, b, strides, low, dilations, True, extra, group)
    for d, (p, q, m) in enumerate(zip(before, after, low, strict=True)):
        if p > m or q > m:
            out = out.narrow(d + 2, p - m, out.shape[d + 2] - (p - m) - (q - m))
    return out


def _transposed_pads(
    step: Step, x: Tensor, full: list[int], strides: list[int]
) -> tuple[list[int], list[int]]:
    n = len(full)
    auto = step.get("auto_pad", "NOTSET")
    wanted = step.get("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [length * s for length, s in zip(x.shape[2:], strides, strict=True)]
    if wanted is None:
        pads = list(step.get("pads") or [0] * 2 * n) if auto in ("NOTSET", "") else [0] * 2 * n
        return pads[:n], pads[n:]
    total = [max(f - w, 0) for f, w in zip(full, list(wanted)[-n:], strict=True)]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


@operator("Gemm")
def gemm(step: Step, a: Value, b: Value, c: Value = None) -> Tensor:
    """`alpha A B + beta C`, with either matrix transposed."""
    a, b = tensors(a, b)
    a = a.t() if step.get("transA", 0) else a
    b = b.t() if step.get("transB", 0) else b
    alpha, beta = step.get("alpha", 1.0), step.get("beta", 1.0)
    if c is None or beta == 0:
        out = torch.mm(a, b)
        return out if alpha == 1 else out * alpha
    return torch.addmm(lift(c, a), a, b, beta=beta, alpha=alpha)


@operator("MatMul")
def matmul(step: Step, a: Value, b: Value) -> Tensor:
    """A product of matrices, with batches that broadcast."""
    return torch.matmul(*tensors(a, b))


@operator("Einsum")
def einsum(step: Step, *values: Value) -> Tensor:
    """Einstein's summation."""
    return torch.einsum(step.get("equation"), *tensors(*values))


def _pooling(step: Step, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int], bool]:
    kernel = list(step.get("kernel_shape"))
    strides, dilations, before, after = window(step, x.shape[2:], kernel)
    return kernel, strides, dilations, before, after, bool(step.get("ceil_mode", 0))


@operator("MaxPool")
def max_pool(step: Step, x: Tensor) -> Any:
    """The largest in a window."""
    kernel, strides, dilations, before, after, ceil = _pooling(step, x)
    if step.wants(1):
        raise unsupported(step, "the indices of a pooling are wanted")
    if any(2 * p > k for p, k in zip(before, kernel, strict=True)):  # more than PyTorch's pooling pads
        x, before = pad(x, before, after, float("-inf")), [0] * len(kernel)
    else:
        x, before = pad_uneven(x, before, after, float("-inf"))
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    return pool(x, kernel, strides, before, dilations, ceil)


@operator("AveragePool")
def average_pool(step: Step, x: Tensor) -> Tensor:
    """The mean of a window, padding counted or not."""
    kernel, strides, dilations, before, after, ceil = _pooling(step, x)
    if any(d != 1 for d in dilations):
        raise unsupported(step, "an average over a dilated window")
    counted = bool(step.get("count_include_pad", 0))
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    if before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, ceil, counted or not any(before))
    padded, none = pad(x, before, after), [0] * len(kernel)
    out = pool(padded, kernel, strides, none, ceil, True)
    if counted:
        return out
    ones = pad(torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device), before, after)
    return out / pool(ones, kernel, strides, none, ceil, True)


@operator("LpPool")
def lp_pool(step: Step, x: Tensor) -> Tensor:
    """The norm of a window."""
    kernel, strides, dilations, before, after, ceil = _pooling(step, x)
    if any(d != 1 for d in dilations):
        raise unsupported(step, "a norm over a dilated window")
    p = step.get("p", 2)
    x = pad(x.abs() ** p, before, after)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    return (pool(x, kernel, strides, 0, ceil) * prod(kernel)) ** (1 / p)


@operator("GlobalAveragePool")
def global_average(step: Step, x: Tensor) -> Tensor:
    """The mean of every channel."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max(step: Step, x: Tensor) -> Tensor:
    """The largest of every channel."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


@operator("BatchNormalization")
def batch_norm(step: Step, x: Value, w: Value, b: Value, mean: Value, var: Value) -> Any:
    """With the statistics of the file, whatever the mode."""
    x, w, b, mean, var = tensors(x, w, b, mean, var)
    if step.get("training_mode", 0):
        raise unsupported(step, "statistics of the batch")
    out = F.batch_norm(x, mean, var, w, b, False, 0.0, step.get("epsilon", 1e-5))
    return (out, *(mean, var)[: len(step.outputs) - 1]) if len(step.outputs) > 1 else out


@operator("InstanceNormalization")
def instance_norm(step: Step, x: Tensor, w: Value, b: Value) -> Tensor:
    """Every channel of every example by itself."""
    wide = [-1] + [1] * (x.dim() - 2)
    out = F.layer_norm(x, x.shape[2:], None, None, step.get("epsilon", 1e-5))
    # A group normalisation arrives as this one on groups, with ones and zeros that are no weights.
    out = out if _all(w, 1) else out * lift(w, x).reshape(wide)
    return out if _all(b, 0) else out + lift(b, x).reshape(wide)


def _all(value: Value, number: float) -> bool:
    return isinstance(value, np.ndarray) and bool((value == number).all())


@operator("LayerNormalization")
def layer_norm(step: Step, x: Value, w: Value, b: Value = None) -> Tensor:
    """From an axis to the last."""
    x, w = tensors(x, w)
    if step.wants(1) or step.wants(2):
        raise unsupported(step, "the statistics of a normalisation are wanted")
    shape = x.shape[step.get("axis", -1) % x.dim() :]
    bias = None if b is None else lift(b, x)
    if tuple(w.shape) == tuple(shape) and (bias is None or bias.shape == w.shape):
        return F.layer_norm(x, shape, w, bias, step.get("epsilon", 1e-5))
    out = F.layer_norm(x, shape, None, None, step.get("epsilon", 1e-5)) * w
    return out if bias is None else out + bias


@operator("RMSNormalization")
def rms_norm(step: Step, x: Value, w: Value) -> Tensor:
    """From an axis to the last, by the root of the mean square."""
    x, w = tensors(x, w)
    dims = tuple(range(step.get("axis", -1) % x.dim(), x.dim()))
    return x * torch.rsqrt((x * x).mean(dims, keepdim=True) + step.get("epsilon", 1e-5)) * w


@operator("GroupNormalization")
def group_norm(step: Step, x: Value, w: Value, b: Value) -> Tensor:
    """Groups of channels; before opset 21 scale and bias are those of the groups."""
    x, w, b = tensors(x, w, b)
    groups, channels = step.get("num_groups"), x.shape[1]
    if w.shape[0] == channels:
        return F.group_norm(x, groups, w, b, step.get("epsilon", 1e-5))
    wide = [1, -1] + [1] * (x.dim() - 2)
    out = F.group_norm(x, groups, None, None, step.get("epsilon", 1e-5))
    w, b = (v.repeat_interleave(channels // groups).reshape(wide) for v in (w, b))
    return out * w + b


@operator("LpNormalization")
def lp_normalization(step: Step, x: Tensor) -> Tensor:
    """Unit length along an axis."""
    length = torch.linalg.vector_norm(x, step.get("p", 2), (step.get("axis", -1),), keepdim=True)
    return x / length.clamp(min=1e-12)


@operator("LRN")
def local_response(step: Step, x: Tensor) -> Tensor:
    """Divided by what neighbouring channels hold."""
    size, dim = int(step.get("size")), x.dim()
    if size % 2 == 0 or dim < 3:
        raise unsupported(step, "a local response over an even number of channels")
    return F.local_response_norm(
        x, size, step.get("alpha", 1e-4), step.get("beta", 0.75), step.get("bias", 1.0)
    )


@operator("MeanVarianceNormalization")
def mean_variance(step: Step, x: Tensor) -> Tensor:
    """Zero mean and unit variance over some axes."""
    axes = tuple(step.get("axes") or (0, 2, 3))
    spread = x - x.mean(axes, keepdim=True)
    return spread / ((spread * spread).mean(axes, keepdim=True).sqrt() + 1e-9)


@operator("Softmax", "LogSoftmax")
def softmax(step: Step, x: Tensor) -> Tensor:
    """Along an axis; before opset 13, over it and all that follow."""
    function = torch.softmax if step.op == "Softmax" else torch.log_softmax
    if step.version >= 13:
        return function(x, step.get("axis", -1))
    axis = step.get("axis", 1) % x.dim()
    if prod(x.shape[axis + 1 :]) == 1:
        return function(x, axis)
    flat = x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))
    return function(flat, 1).reshape(x.shape)


@operator("Hardmax")
def hardmax(step: Step, x: Tensor) -> Tensor:
    """One where the largest is."""
    axis = step.get("axis", -1 if step.version >= 13 else 1)
    return F.one_hot(x.argmax(axis), x.shape[axis]).movedim(-1, axis).to(x.dtype)
