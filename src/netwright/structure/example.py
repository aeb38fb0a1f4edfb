"""An example input without its values, as JSON: enough to trace a network again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from netwright.errors import ArtefactError
from netwright.structure.inputs import Inputs

_PLAIN = (bool, int, float, str, type(None))


def describe_example(inputs: Inputs) -> dict[str, Any]:
    """What an example is made of: shapes and dtypes of tensors, containers, names, plain values.

    Args:
        inputs: The example.

    Raises:
        ArtefactError: if it holds anything else.
    """
    return {
        "args": [_describe(x) for x in inputs.args],
        "kwargs": {k: _describe(x) for k, x in inputs.kwargs.items()},
    }


def remake_example(spec: Any) -> Inputs:
    """An example with the same structure; tensors hold evenly spaced numbers, zeros where they are integers.

    Args:
        spec: What `describe_example` gave.

    Raises:
        ArtefactError: if it is malformed.
    """
    try:
        args = tuple([_remake(x) for x in spec["args"]])
        return Inputs(args, {str(k): _remake(x) for k, x in spec["kwargs"].items()})
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ArtefactError(f"the description of the example is malformed ({error!r})") from error


def _describe(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, _PLAIN):
        return {"value": value}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_describe(x) for x in value]}
    if type(value) is dict and all(isinstance(k, str) for k in value):
        return {"dict": {k: _describe(x) for k, x in value.items()}}
    raise ArtefactError(
        f"an example that holds a {type(value).__name__} cannot be written down",
        "prune with an example of tensors, lists, tuples, dicts and plain values",
    )


def _remake(spec: dict[str, Any]) -> Any:
    if "tensor" in spec:
        dtype = getattr(torch, spec["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{spec['dtype']!r} is no dtype")
        shape = [int(n) for n in spec["tensor"]]
        if not dtype.is_floating_point:
            return torch.zeros(shape, dtype=dtype)
        count = int(torch.Size(shape).numel())
        return torch.linspace(-1, 1, count, dtype=torch.float32).reshape(shape).to(dtype)
    if "value" in spec and isinstance(spec["value"], _PLAIN):
        return spec["value"]
    if "dict" in spec:
        return {k: _remake(x) for k, x in spec["dict"].items()}
    if "list" in spec:
        return [_remake(x) for x in spec["list"]]
    if "tuple" in spec:
        return tuple([_remake(x) for x in spec["tuple"]])
    raise ValueError(f"{spec!r} is not understood")
