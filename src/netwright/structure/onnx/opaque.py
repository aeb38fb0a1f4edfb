"""Operators that no function here understands: they run, by onnx's reference, and freeze what they touch.

Each becomes a PyTorch operator of its own name, for which there is no rule.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from netwright.errors import ModelError
from netwright.structure.onnx import values
from netwright.structure.onnx.operators.registry import tensors
from netwright.structure.onnx.program import Step, Value

_LIBRARY = torch.library.Library("onnx_graph", "DEF")
_DEFINED: set[str] = set()
#: Nodes by the number under which their operator calls them.
_STEPS: list[tuple[Step, tuple[Value, ...]]] = []


def run_opaque(step: Step, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    """Run a node that is not understood.

    Args:
        step: The node.
        inputs: At least one tensor among arrays and None.

    Raises:
        ModelError: if the tensors have no values (the recording is repeated with some), or it cannot run.
    """
    data = [v for v in inputs if isinstance(v, Tensor)]
    if any(v.device.type == "meta" for v in data):
        raise ModelError(f"node {step.name} ({step.op}) has to be computed to know its shape")
    if step.op not in _DEFINED:
        _LIBRARY.define(f"{step.op}(Tensor[] values, int number) -> Tensor[]")
        _LIBRARY.impl(step.op, _run, "CompositeExplicitAutograd")
        _DEFINED.add(step.op)
    number = next((i for i, known in enumerate(_STEPS) if known[0] is step), len(_STEPS))
    kept = tuple(None if isinstance(v, Tensor) else v for v in inputs)
    _STEPS[number : number + 1] = [(step, kept)]
    return tuple(getattr(torch.ops.onnx_graph, step.op)(tensors(*data), number))


def _run(data: list[Tensor], number: int) -> list[Tensor]:
    step, kept = _STEPS[number]
    given = iter(data)
    arrays = tuple(
        v if v is not None or not name else _narrow(next(given).detach().cpu().numpy())
        for name, v in zip(step.inputs, kept, strict=False)
    )
    found = values.evaluate(step, arrays)
    wide = data[0].dtype == torch.float64
    out = [torch.empty(0) if x is None else torch.from_numpy(np.array(x)) for x in found]
    return [x.to(data[0].device, torch.float64 if wide and x.is_floating_point() else x.dtype) for x in out]


def _narrow(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return x.astype(np.float32) if x.dtype == np.float64 else x
