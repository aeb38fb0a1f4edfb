"""The table of operators: each runs one ONNX node by PyTorch's operators, so that the rules see those.

An operator is a function ``(step, *inputs) -> output or tuple of outputs``. Inputs are tensors, or NumPy
arrays where the value is known before the network runs; at least one is a tensor (nodes whose inputs are all
known are computed by `netwright.structure.onnx.values`). One that is left out is None. Nothing is written in
place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.errors import ModelError
from netwright.structure.onnx.program import Step, Value

Operator = Callable[..., Any]
_OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register a function for ONNX operators of the standard domain.

    Raises:
        ValueError: if an operator is registered already.
    """

    def register(function: Operator) -> Operator:
        for name in names:
            if name in _OPERATORS:
                raise ValueError(f"operator {name} is registered twice")
            _OPERATORS[name] = function
        return function

    return register


def find_operator(name: str) -> Operator | None:
    """The function of an operator, or None."""
    return _OPERATORS.get(name)


def known_operators() -> list[str]:
    """Names of all operators, in alphabetical order."""
    return sorted(_OPERATORS)


def lift(value: Value, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A known array as a tensor beside another; a tensor as it is.

    An array of one value becomes `torch.full`, which the rules know to take the size of what it meets.

    Args:
        value: A tensor or an array.
        like: Whose device it goes to; floats take its precision, too.
        dtype: Of the result, where it differs.
    """
    if isinstance(value, Tensor):
        return value
    if dtype is None:
        floats = value.dtype.kind == "f" and like.dtype.is_floating_point
        dtype = like.dtype if floats else torch.from_numpy(np.zeros(1, value.dtype)).dtype
    if value.size and bool((value == value.flat[0]).all()):
        return torch.full(value.shape, value.flat[0].item(), dtype=dtype, device=like.device)
    return torch.from_numpy(np.ascontiguousarray(value)).to(like.device, dtype)


def tensors(*values: Value) -> list[Tensor]:
    """Tensors and arrays that meet, all as tensors."""
    like = next(v for v in values if isinstance(v, Tensor))
    return [lift(v, like) for v in values]


def scalar(value: Value, other: Value) -> Value:
    """A known array of one element as a Python number where it broadcasts away, anything else as it is."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= getattr(other, "ndim", 0):
        return value.item()
    return value


def integers(step: Step, inputs: tuple[Value, ...], position: int, attribute: str) -> list[int] | None:
    """Integers that older versions give as an attribute and newer ones as an input; None if left out.

    Raises:
        ModelError: if they depend on the data.
    """
    found = step.get(attribute)
    if found is not None:
        return [int(v) for v in found] if isinstance(found, list) else [int(found)]
    if position >= len(inputs) or inputs[position] is None:
        return None
    return known_integers(step, inputs[position])


def known_integers(step: Step, value: Value) -> list[int]:
    """An array of integers as a list; a tensor's values are looked at, which shapes alone do not allow."""
    if isinstance(value, Tensor):
        if value.device.type == "meta":
            raise ModelError(f"node {step.name} ({step.op}) takes a size or index that depends on the data")
        value = value.detach().numpy()
    return [int(v) for v in np.asarray(value).reshape(-1)]


def axis_of(step: Step, rank: int, default: int = -1, name: str = "axis") -> int:
    """An axis as a number from 0."""
    return int(step.get(name, default)) % max(rank, 1)


class UnsupportedFormError(ModelError):
    """A form of an operator that is not understood here: it runs unseen, and freezes what it touches."""


def unsupported(step: Step, what: str) -> UnsupportedFormError:
    """The error for a form of an operator that is not understood."""
    return UnsupportedFormError(f"node {step.name} ({step.op}): {what}")
