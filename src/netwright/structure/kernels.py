"""Outputs of common operators on tensors without values.

PyTorch computes many shapes of meta tensors in Python, through decompositions that take longer than a small
kernel would. For the operators that fill a network the shape is that of an input: an empty tensor says all.
Each function gives what the operator itself gives on the meta device (shape, type and strides), or None for
arguments that it leaves to the operator; those whose result may be looked at, on other devices, are.

Even `torch.empty_like` is a decomposition on this device (33 microseconds for an image, `torch.empty` takes
one), so sizes and strides are given here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
Kernel = Callable[..., Any]
KERNELS: dict[Any, Kernel] = {}


def _kernel(*operators: Any) -> Callable[[Kernel], Kernel]:
    def register(function: Kernel) -> Kernel:
        for operator in operators:
            KERNELS[operator] = function
        return function

    return register


def _like(x: Tensor) -> Tensor:
    """As `torch.empty_like`, without values."""
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return torch.empty_like(x, device="meta")


def _empty(x: Tensor, *shape: int) -> Tensor:
    """A contiguous tensor of some shape, without values, of the type of another."""
    return torch.empty(shape, dtype=x.dtype, device="meta")


@_kernel(
    aten.relu.default, aten.gelu.default, aten.hardswish.default, aten.hardsigmoid.default,
    aten.silu.default, aten.tanh.default, aten.sigmoid.default, aten.neg.default, aten.exp.default,
    aten.rsqrt.default, aten.sqrt.default, aten.abs.default, aten.erf.default, aten.leaky_relu.default,
    aten.elu.default, aten.hardtanh.default, aten.cos.default, aten.sin.default,
)  # fmt: skip
def _unary(x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    return _like(x) if x.is_meta and x.is_floating_point() else None


@_kernel(
    aten.relu_.default, aten.hardtanh_.default, aten.hardswish_.default, aten.hardsigmoid_.default,
    aten.silu_.default, aten.leaky_relu_.default, aten.elu_.default, aten.sigmoid_.default,
    aten.tanh_.default, aten.gelu_.default, aten.clamp_.default,
)  # fmt: skip
def _in_place(x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    return x if x.is_meta and x.is_floating_point() else None


@_kernel(
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.add.Scalar, aten.sub.Scalar,
    aten.mul.Scalar, aten.div.Scalar,
)  # fmt: skip
def _binary(a: Any, b: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    if not isinstance(a, Tensor) or not a.is_floating_point() or kwargs.get("rounding_mode"):
        return None
    if isinstance(b, (int, float)):
        return _like(a) if a.is_meta else None
    if not isinstance(b, Tensor) or b.dtype != a.dtype or not (a.is_meta or b.is_meta):
        return None
    if a.shape == b.shape and a.stride() == b.stride():
        return _like(a)
    if a.dim() >= b.dim() and _spans(a, b) and _ordered(a):
        return _like(a)
    if b.dim() >= a.dim() and _spans(b, a) and a.is_contiguous() and b.is_contiguous():
        return _empty(b, *b.shape)
    return None


@_kernel(aten.add_.Tensor, aten.mul_.Tensor, aten.sub_.Tensor, aten.div_.Tensor)
def _binary_in_place(a: Tensor, b: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    if not a.is_meta or not a.is_floating_point() or kwargs.get("rounding_mode"):
        return None
    if isinstance(b, (int, float)):
        return a
    fits = isinstance(b, Tensor) and b.dtype == a.dtype and a.dim() >= b.dim() and _spans(a, b)
    return a if fits else None


def _ordered(x: Tensor) -> bool:
    """Whether the result of an operator has the strides of its first operand whatever the second has."""
    if x.is_contiguous():
        return True
    return x.dim() == 4 and 1 not in x.shape and x.is_contiguous(memory_format=torch.channels_last)


def _spans(a: Tensor, b: Tensor) -> bool:
    """Whether the second broadcasts to the shape of the first."""
    return all(n in (m, 1) for m, n in zip(reversed(a.shape), reversed(b.shape), strict=False))


@_kernel(aten.convolution.default)
def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor | None:
    rank = weight.dim() - 2
    sizes, kernel = x.shape[2:], weight.shape[2:]
    if transposed or x.dim() != rank + 2 or not len(stride) == len(padding) == len(dilation) == rank:
        return None
    if not (x.is_meta and x.is_contiguous() and weight.is_contiguous()) or x.dtype != weight.dtype:
        return None  # a weight in another memory format may give it to the output
    if x.shape[1] == 0 or weight.shape[1] * groups != x.shape[1]:
        return None
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != weight.shape[0]):
        return None
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True)
    ]
    if min(out, default=0) < 1:
        return None
    return _empty(x, x.shape[0], weight.shape[0], *out)


@_kernel(aten.native_layer_norm.default)
def _layer_norm(x: Tensor, shape: list[int], *args: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    outer = x.dim() - len(shape)
    if not x.is_meta or tuple(x.shape[outer:]) != tuple(shape):
        return None  # the operator says what is wrong
    rows = [*x.shape[:outer], *([1] * len(shape))]
    return _empty(x, *x.shape), _empty(x, *rows), _empty(x, *rows)


@_kernel(aten.native_batch_norm.default)
def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *args: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    if training or not x.is_meta or x.dtype not in (torch.float32, torch.float64):
        return None
    shape = x.shape
    if any(v is not None and v.shape != shape[1:2] for v in (weight, bias, mean, var)):
        return None
    return _like(x), _empty(x, shape[1]), _empty(x, shape[1])


@_kernel(aten._safe_softmax.default, aten._softmax.default)
def _softmax(x: Tensor, dim: int, *args: Any) -> Tensor | None:
    if args and args[0] not in (None, False, x.dtype):
        return None
    return _like(x) if x.is_meta and x.is_contiguous() and x.is_floating_point() else None


@_kernel(aten.addmm.default)
def _addmm(bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> Tensor | None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0] or not _fits(bias, a.shape[0], b.shape[1]):
        return None
    return _empty(a, a.shape[0], b.shape[1]) if a.is_meta else None


def _fits(bias: Tensor, rows: int, columns: int) -> bool:
    shape = (1,) * (2 - bias.dim()) + tuple(bias.shape)
    return len(shape) == 2 and shape[0] in (1, rows) and shape[1] in (1, columns)


@_kernel(aten.mm.default)
def _mm(a: Tensor, b: Tensor) -> Tensor | None:
    if not a.is_meta or a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        return None
    return _empty(a, a.shape[0], b.shape[1])


@_kernel(aten.bmm.default)
def _bmm(a: Tensor, b: Tensor) -> Tensor | None:
    if not a.is_meta or a.dim() != 3 or b.dim() != 3 or a.dtype != b.dtype:
        return None
    if a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        return None
    return _empty(a, a.shape[0], a.shape[1], b.shape[2])


@_kernel(aten.cat.default)
def _cat(tensors: list[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    shape = list(first.shape)
    if not shape:
        return None
    dim %= len(shape)
    shape[dim] = 0
    for x in tensors:
        if not x.is_meta or x.dim() != len(shape) or x.dtype != first.dtype or not x.is_contiguous():
            return None
        if any(n != m for d, (n, m) in enumerate(zip(x.shape, first.shape, strict=True)) if d != dim):
            return None
        shape[dim] += x.shape[dim]
    return _empty(first, *shape)


@_kernel(aten._unsafe_view.default)
def _unsafe_view(x: Tensor, size: list[int]) -> Tensor | None:
    if not x.is_meta or not x.is_contiguous() or -1 in size or prod(size) != x.numel():
        return None
    return _empty(x, *size)


@_kernel(aten.mean.dim)
def _mean(x: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    if not dim or dtype is not None or not x.is_contiguous() or not x.is_meta or not x.is_floating_point():
        return None
    gone = {d % x.dim() for d in dim}
    if keepdim:
        return _empty(x, *[1 if d in gone else n for d, n in enumerate(x.shape)])
    return _empty(x, *[n for d, n in enumerate(x.shape) if d not in gone])


@_kernel(aten.empty.memory_format)
def _factory(
    size: list[int], *, dtype: Any = None, layout: Any = None, device: Any = None, **kwargs: Any
) -> Tensor | None:
    plain = layout in (None, torch.strided) and kwargs.get("memory_format") is None
    if not plain or device is None or torch.device(device).type != "meta":
        return None
    return torch.empty(size, dtype=dtype, device="meta")


@_kernel(aten.roll.default)
def _roll(x: Tensor, shifts: list[int], dims: list[int] | None = None) -> Tensor | None:
    return _like(x) if x.is_meta and x.is_contiguous() and dims else None
