"""Element-wise operators."""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from functools import reduce as fold
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netwright.structure.onnx.operators.registry import lift, operator, scalar, tensors, unsupported
from netwright.structure.onnx.program import FLOATS, Step, Value

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Erf": torch.erf, "Exp": torch.exp,
    "Log": torch.log, "Sqrt": torch.sqrt, "Abs": torch.abs, "Neg": torch.neg, "Sign": torch.sign,
    "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "Reciprocal": torch.reciprocal,
    "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos,
    "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh,
    "Atanh": torch.atanh, "Softplus": F.softplus, "Mish": F.mish, "HardSwish": F.hardswish,
    "Not": torch.logical_not, "BitwiseNot": torch.bitwise_not, "IsNaN": torch.isnan,
}  # fmt: skip
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": python.add, "Sub": python.sub, "Mul": python.mul, "Equal": python.eq, "Greater": python.gt,
    "Less": python.lt, "GreaterOrEqual": python.ge, "LessOrEqual": python.le, "And": torch.logical_and,
    "Or": torch.logical_or, "Xor": torch.logical_xor, "BitwiseAnd": python.and_, "BitwiseOr": python.or_,
    "BitwiseXor": python.xor,
}  # fmt: skip


@operator(*UNARY)
def unary(step: Step, x: Tensor) -> Tensor:
    """A function of one tensor."""
    return UNARY[step.op](x)


def pair(a: Value, b: Value) -> tuple[Any, Any]:
    """Two operands, one of them a tensor: known single numbers stay numbers, known arrays become tensors."""
    a, b = scalar(a, b), scalar(b, a)
    like = a if isinstance(a, Tensor) else b
    a = lift(a, like) if isinstance(a, np.ndarray) else a
    return a, lift(b, like) if isinstance(b, np.ndarray) else b


@operator(*BINARY)
def binary(step: Step, a: Value, b: Value) -> Any:
    """A function of two operands."""
    if step.op in ("And", "Or", "Xor"):
        return BINARY[step.op](*tensors(a, b))
    return BINARY[step.op](*pair(a, b))


@operator("Div")
def div(step: Step, a: Value, b: Value) -> Any:
    """Division; of integers it rounds towards zero."""
    a, b = pair(a, b)
    like = a if isinstance(a, Tensor) else b
    if not like.dtype.is_floating_point:
        a, b = (x if isinstance(x, Tensor) else torch.full((), x, device=like.device) for x in (a, b))
        return torch.div(a, b, rounding_mode="trunc")
    return a / b


@operator("Pow")
def power(step: Step, a: Value, b: Value) -> Any:
    """A power; the base's element type stays."""
    base, exponent = pair(a, b)
    out = base**exponent
    return out.to(base.dtype) if isinstance(base, Tensor) and out.dtype != base.dtype else out


@operator("Mod")
def mod(step: Step, a: Value, b: Value) -> Any:
    """The remainder, with the sign of the divisor, or of the dividend where `fmod` says so."""
    a, b = tensors(a, b)
    return torch.fmod(a, b) if step.get("fmod", 0) else torch.remainder(a, b)


@operator("Sum", "Max", "Min", "Mean")
def variadic(step: Step, *values: Value) -> Any:
    """A sum, extreme or mean of any number of operands."""
    if len(values) == 1:
        return values[0]
    if step.op in ("Sum", "Mean"):
        total = fold(lambda a, b: python.add(*pair(a, b)), values)
        return total / len(values) if step.op == "Mean" else total
    return fold(torch.maximum if step.op == "Max" else torch.minimum, tensors(*values))


@operator("Clip")
def clip(step: Step, x: Tensor, low: Value = None, high: Value = None) -> Tensor:
    """Limits: attributes before opset 11, inputs since."""
    low, high = (
        lift(v, x) if isinstance(v, Tensor) else v if v is None else v.item()
        for v in (
            low if low is not None else _limit(step, "min"),
            _limit(step, "max") if high is None else high,
        )
    )
    if low is None and high is None:
        return x
    return torch.clamp(x, low, high)


def _limit(step: Step, name: str) -> Value:
    value = step.get(name)
    return None if value is None else np.array(value)


@operator("Where")
def where(step: Step, condition: Value, a: Value, b: Value) -> Tensor:
    """A choice."""
    like = next((v for v in (a, b) if isinstance(v, Tensor)), condition)
    size = max(getattr(v, "ndim", 0) for v in (condition, a, b))
    a, b = (
        v.item() if isinstance(v, np.ndarray) and v.size == 1 and v.ndim < size else lift(v, like)
        for v in (a, b)
    )
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        dtype = torch.float32 if isinstance(a, float) else None
        a = torch.full((), a, dtype=dtype, device=like.device)
        b = torch.full((), b, dtype=dtype, device=like.device)
    return torch.where(lift(condition, like, torch.bool), a, b)


@operator("Cast")
def cast(step: Step, x: Tensor) -> Tensor:
    """Another element type; floats keep a wider precision that the whole network was moved to."""
    return _cast(x, int(step.get("to")))


@operator("CastLike")
def cast_like(step: Step, x: Tensor, like: Tensor) -> Tensor:
    """Another tensor's element type."""
    return x.to(like.dtype)


def _cast(x: Tensor, kind: int) -> Tensor:
    from onnx import helper

    if kind in FLOATS:
        dtype = FLOATS[kind]
        if x.dtype == torch.float64 and dtype.itemsize < 8:
            return x
    else:
        dtype = torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(kind))).dtype
    return x if x.dtype == dtype else x.to(dtype)


@operator("LeakyRelu")
def leaky_relu(step: Step, x: Tensor) -> Tensor:
    """Slope `alpha` below zero."""
    return F.leaky_relu(x, step.get("alpha", 0.01))


@operator("PRelu")
def prelu(step: Step, x: Tensor, slope: Value) -> Tensor:
    """A learned slope below zero; it broadcasts from the last dimension."""
    return torch.where(x < 0, x * scalar(slope, x) if not isinstance(slope, Tensor) else x * slope, x)


@operator("Elu")
def elu(step: Step, x: Tensor) -> Tensor:
    """`alpha (e^x - 1)` below zero."""
    return F.elu(x, step.get("alpha", 1.0))


@operator("Celu")
def celu(step: Step, x: Tensor) -> Tensor:
    """`alpha (e^(x / alpha) - 1)` below zero."""
    return F.celu(x, step.get("alpha", 1.0))


@operator("Selu")
def selu(step: Step, x: Tensor) -> Tensor:
    """Scaled exponential linear unit."""
    alpha, gamma = step.get("alpha", 1.6732632423543772), step.get("gamma", 1.0507009873554805)
    return gamma * F.elu(x, alpha)


@operator("Softsign")
def softsign(step: Step, x: Tensor) -> Tensor:
    """`x / (1 + |x|)`."""
    return x / (1 + x.abs())


@operator("ThresholdedRelu")
def thresholded_relu(step: Step, x: Tensor) -> Tensor:
    """Zero up to `alpha`."""
    return F.threshold(x, step.get("alpha", 1.0), 0.0)


@operator("Shrink")
def shrink(step: Step, x: Tensor) -> Tensor:
    """Towards zero by `bias` outside of `lambd`."""
    bias, edge = step.get("bias", 0.0), step.get("lambd", 0.5)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, x * 0.0))


@operator("HardSigmoid")
def hard_sigmoid(step: Step, x: Tensor) -> Tensor:
    """`clip(alpha x + beta, 0, 1)`."""
    return torch.clamp(x * step.get("alpha", 0.2) + step.get("beta", 0.5), 0.0, 1.0)


@operator("Gelu")
def gelu(step: Step, x: Tensor) -> Tensor:
    """Gaussian error linear unit."""
    return F.gelu(x, approximate=step.get("approximate", "none"))


@operator("Swish")
def swish(step: Step, x: Tensor) -> Tensor:
    """`x sigmoid(alpha x)`."""
    alpha = step.get("alpha", 1.0)
    return x * torch.sigmoid(x if alpha == 1.0 else alpha * x)


@operator("IsInf")
def is_inf(step: Step, x: Tensor) -> Tensor:
    """Where it is infinite, of either sign or of one."""
    found = torch.isinf(x)
    if not step.get("detect_negative", 1):
        found = found & (x > 0)
    return found & (x < 0) if not step.get("detect_positive", 1) else found


@operator("BitShift")
def bit_shift(step: Step, a: Value, b: Value) -> Any:
    """Shift of unsigned integers."""
    a, b = pair(a, b)
    return a << b if step.get("direction") == "LEFT" else a >> b


@operator("Dropout")
def dropout(step: Step, x: Tensor, ratio: Value = None, training: Value = None) -> Any:
    """Nothing is dropped in inference; the mask is all true."""
    if training is not None and bool(training) and (ratio is None or float(ratio) > 0):
        raise unsupported(step, "it drops in inference")
    if step.wants(1):
        return x, torch.ones(x.shape, dtype=torch.bool, device=x.device)
    return x


@operator("Identity")
def identity(step: Step, x: Value) -> Value:
    """The same."""
    return x
