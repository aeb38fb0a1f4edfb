"""Outputs of common operators on tensors without values.

PyTorch computes many shapes of meta tensors in Python, through decompositions that take longer than a small
kernel would. For the operators that fill a network the shape is that of an input: an empty tensor says all.
Each function gives what the operator itself gives on the meta device (shape, type and strides), or None for
arguments that it leaves to the operator.
"""

from __future__ import annotations

from collections.abc import Callable
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


@_kernel(
    aten.relu.default, aten.gelu.default, aten.hardswish.default, aten.hardsigmoid.default,
    aten.silu.default, aten.tanh.default, aten.sigmoid.default, aten.neg.default, aten.exp.default,
    aten.rsqrt.default, aten.sqrt.default, aten.abs.default, aten.erf.default, aten.leaky_relu.default,
    aten.elu.default, aten.hardtanh.default, aten.cos.default, aten.sin.default,
)  # fmt: skip
def _unary(x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    return torch.empty_like(x) if x.is_floating_point() else None


@_kernel(
    aten.relu_.default, aten.hardtanh_.default, aten.hardswish_.default, aten.hardsigmoid_.default,
    aten.silu_.default, aten.leaky_relu_.default, aten.elu_.default, aten.sigmoid_.default,
    aten.tanh_.default, aten.gelu_.default, aten.clamp_.default,
)  # fmt: skip
def _in_place(x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    return x if x.is_floating_point() else None


@_kernel(
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.add.Scalar, aten.sub.Scalar,
    aten.mul.Scalar, aten.div.Scalar,
)  # fmt: skip
def _binary(a: Any, b: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    if not isinstance(a, Tensor) or not a.is_floating_point() or kwargs.get("rounding_mode"):
        return None
    if isinstance(b, (int, float)):
        return torch.empty_like(a)
    if not isinstance(b, Tensor) or b.dtype != a.dtype:
        return None
    if a.shape == b.shape and a.stride() == b.stride():
        return torch.empty_like(a)
    if a.dim() >= b.dim() and _spans(a, b) and _ordered(a):
        return torch.empty_like(a)
    return None


def _ordered(x: Tensor) -> bool:
    """Whether the result of an operator has the strides of its first operand whatever the second has."""
    if x.is_contiguous():
        return True
    return x.dim() == 4 and 1 not in x.shape and x.is_contiguous(memory_format=torch.channels_last)


def _spans(a: Tensor, b: Tensor) -> bool:
    """Whether the second broadcasts to the shape of the first."""
    return all(n in (m, 1) for m, n in zip(reversed(a.shape), reversed(b.shape), strict=False))


@_kernel(aten.native_layer_norm.default)
def _layer_norm(x: Tensor, shape: list[int], *args: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    if tuple(x.shape[x.dim() - len(shape) :]) != tuple(shape):
        return None  # the operator says what is wrong
    outer = [*x.shape[: x.dim() - len(shape)], *([1] * len(shape))]
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(outer), x.new_empty(outer)


@_kernel(aten.native_batch_norm.default)
def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *args: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    if training or x.dtype not in (torch.float32, torch.float64):
        return None
    if any(v is not None and v.shape != x.shape[1:2] for v in (weight, bias, mean, var)):
        return None
    return torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


@_kernel(aten._safe_softmax.default, aten._softmax.default)
def _softmax(x: Tensor, dim: int, *args: Any) -> Tensor | None:
    if args and args[0] not in (None, False, x.dtype):
        return None
    return torch.empty_like(x) if x.is_contiguous() and x.is_floating_point() else None


@_kernel(aten.addmm.default)
def _addmm(bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> Tensor | None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0] or not _fits(bias, a.shape[0], b.shape[1]):
        return None
    return a.new_empty(a.shape[0], b.shape[1])


def _fits(bias: Tensor, rows: int, columns: int) -> bool:
    shape = (1,) * (2 - bias.dim()) + tuple(bias.shape)
    return len(shape) == 2 and shape[0] in (1, rows) and shape[1] in (1, columns)


@_kernel(aten.mean.dim)
def _mean(x: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    if not dim or dtype is not None or not x.is_contiguous() or not x.is_floating_point():
        return None
    gone = {d % x.dim() for d in dim}
    if keepdim:
        return x.new_empty([1 if d in gone else n for d, n in enumerate(x.shape)])
    return x.new_empty([n for d, n in enumerate(x.shape) if d not in gone])


@_kernel(aten.roll.default)
def _roll(x: Tensor, shifts: list[int], dims: list[int] | None = None) -> Tensor | None:
    return torch.empty_like(x) if x.is_contiguous() and dims else None
